/** `tokaido pg`: prepares Postgres for the feed. */
import type { Command } from 'commander';
import { TokaidoError } from '../base/errors.js';
import { action, print, printJson } from './output.js';

export function registerPg(program: Command): void {
  const pg = program
    .command('pg')
    .description('work with the Postgres source')
    .addHelpText('after', '\nExample:\n  tokaido pg setup --config ./root.yaml');
  pg.command('setup')
    .description(
      'check the server and the tables, and create the publication; the slot is made when the root first starts',
    )
    .requiredOption('--config <file>', 'configuration of the root')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido pg setup --config ./root.yaml')
    .action(
      action(async (flags: { readonly config: string; readonly json?: boolean }) => {
        const [{ loadConfig }, { connectSql }, setup, { findSlot }, { checkMappings }] = await Promise.all([
          import('../node/config/load.js'),
          import('../feeds/postgres/connection.js'),
          import('../feeds/postgres/setup.js'),
          import('../feeds/postgres/slots.js'),
          import('../feeds/postgres/mapping.js'),
        ]);
        const { postgres } = await loadConfig(flags.config);
        if (postgres === undefined) throw new TokaidoError('CONFIG', `${flags.config} has no postgres section`);
        checkMappings(postgres.tables);
        const sql = await connectSql(postgres, 'tokaido setup');
        try {
          await setup.checkServer(sql, postgres);
          const done = await setup.ensurePublication(sql, { ...postgres, create: true });
          const slot = await findSlot(sql, postgres.slot);
          if (flags.json)
            printJson({
              statements: done,
              publication: postgres.publication,
              slot: postgres.slot,
              slotExists: slot !== undefined,
            });
          else {
            for (const statement of done) print(`${statement};`);
            print(
              `publication ${postgres.publication} is ready; slot ${postgres.slot} ${slot === undefined ? 'will be made at the first start' : 'exists'}`,
            );
          }
        } finally {
          await sql.end();
        }
      }),
    );
}
