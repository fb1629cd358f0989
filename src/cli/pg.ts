/** `tokaido pg`: prepares Postgres for the feed, explains what it will do, and compares a node with Postgres. */
import type { Command } from 'commander';
import { TokaidoError } from '../base/errors.js';
import type { TableReport } from '../feeds/postgres/inspect.js';
import type { MappedRecord, TableMapping } from '../feeds/postgres/mapping.js';
import { action, print, printJson } from './output.js';

interface Flags {
  readonly config: string;
  readonly json?: boolean;
}

/** Characters of a value, and keys of a list, that are shown. */
const SHOWN = 60;
const LISTED = 20;

/** Runs with the postgres section of a configuration and a connection to that Postgres. */
async function withPostgres<T>(
  file: string,
  use: (
    sql: Awaited<ReturnType<typeof import('../feeds/postgres/connection.js').connectPrimary>>['sql'],
    config: NonNullable<import('../node/config/schema.js').NodeConfig['postgres']>,
  ) => Promise<T>,
): Promise<T> {
  const [{ loadConfig }, { connectPrimary }, { checkMappings }] = await Promise.all([
    import('../node/config/load.js'),
    import('../feeds/postgres/connection.js'),
    import('../feeds/postgres/mapping.js'),
  ]);
  const { postgres } = await loadConfig(file);
  if (postgres === undefined) throw new TokaidoError('CONFIG', `${file} has no postgres section`);
  checkMappings(postgres.tables);
  const { sql } = await connectPrimary(postgres, 'tokaido pg');
  try {
    return await use(sql, postgres);
  } finally {
    await sql.end();
  }
}

/** The mappings of a table, or all. Errors: `CONFIG`. */
function mappingsOf(tables: readonly TableMapping[], table: string | undefined): readonly TableMapping[] {
  const found = tables.filter((mapping) => table === undefined || mapping.table === table);
  if (found.length > 0) return found;
  throw new TokaidoError('CONFIG', `table ${table} is not mapped`, {
    hint: `postgres.tables has ${tables.map((mapping) => mapping.table).join(', ')}`,
  });
}

/** Bytes as people can read them. */
function shown(bytes: Buffer): string {
  const text = bytes.toString('utf8');
  const isText = Buffer.from(text, 'utf8').equals(bytes) && !/\p{Cc}/u.test(text);
  const all = isText ? text : bytes.toString('hex');
  return all.length > SHOWN ? `${all.slice(0, SHOWN)}... (${bytes.length} bytes)` : all;
}

function recordText(record: MappedRecord): string {
  const expires = record.xtMs === 0 ? '' : `, expires ${new Date(record.xtMs).toISOString()}`;
  return `${shown(record.key)} = ${shown(record.value)}${expires}`;
}

const WHY_NOTHING = {
  'no key': 'no record: a column of the key is NULL',
  'no value': 'no record: there is no value',
  deleted: 'no record: the row counts as deleted',
};

function reportText(report: TableReport): string[] {
  const { mapping, rows, columns, filter, isPartitioned, isPublished, asText, samples, problems } = report;
  const size = rows === undefined ? 'rows not counted yet (ANALYZE counts them)' : `about ${rows} rows`;
  const lines = [
    `${mapping.table} -> database ${mapping.database}, keys ${mapping.key}`,
    `  ${size}${isPartitioned ? ', partitioned' : ''}; ${isPublished ? 'published' : 'not published yet'}: ${columns.join(', ') || 'no columns'}`,
  ];
  if (filter !== undefined) lines.push(`  only rows that meet ${filter}`);
  if (asText.length > 0)
    lines.push(`  all values come as text: ${asText.join(', ')} would not be read in binary form (postgres.binary)`);
  for (const { row, records } of samples) {
    const text = Object.entries(row).map(
      ([name, value]) => `${name}=${value === null ? 'NULL' : shown(Buffer.from(value))}`,
    );
    lines.push(
      `  (${text.join(', ')})`,
      ...(typeof records === 'string' ? [WHY_NOTHING[records]] : records.map(recordText)).map((text) => `    ${text}`),
    );
  }
  for (const { message, hint } of problems) lines.push(`  PROBLEM: ${message}`, ...(hint ? [`    ${hint}`] : []));
  return lines;
}

function jsonOf(report: TableReport): object {
  return {
    ...report,
    samples: report.samples.map(({ row, records }) => ({
      row,
      records:
        typeof records === 'string' ? [] : records.map(({ key, value }) => ({ key: shown(key), value: shown(value) })),
    })),
  };
}

function config(command: Command): Command {
  return command
    .requiredOption('--config <file>', 'configuration of the root')
    .option('--json', 'print one JSON object');
}

export function registerPg(program: Command): void {
  const pg = program
    .command('pg')
    .description('work with the Postgres source')
    .addHelpText('after', '\nExample:\n  tokaido pg setup --config ./root.yaml');
  registerSetup(pg);
  registerCheck(pg);
  registerPreview(pg);
  registerVerify(pg);
  registerCopy(pg);
}

function registerSetup(pg: Command): void {
  config(
    pg
      .command('setup')
      .description(
        'check the server and the tables, and create the publication; the slot is made when the root first starts',
      ),
  )
    .addHelpText('after', '\nExample:\n  tokaido pg setup --config ./root.yaml')
    .action(
      action(async (flags: Flags) => {
        const [setup, { findSlot }] = await Promise.all([
          import('../feeds/postgres/setup.js'),
          import('../feeds/postgres/slots.js'),
        ]);
        await withPostgres(flags.config, async (sql, postgres) => {
          await setup.checkServer(sql, postgres);
          const done = await setup.ensurePublication(sql, { ...postgres, create: true });
          const { publication, slot } = postgres;
          const slotExists = (await findSlot(sql, slot)) !== undefined;
          if (flags.json) {
            printJson({ statements: done, publication, slot, slotExists });
            return;
          }
          for (const statement of done) print(`${statement};`);
          const what = slotExists ? 'exists' : 'will be made at the first start';
          print(`publication ${publication} is ready; slot ${slot} ${what}`);
        });
      }),
    );
}

function registerCheck(pg: Command): void {
  config(pg.command('check').description('say what the feed would do, with sample rows, and everything that is wrong'))
    .option('--samples <number>', 'rows of each table to show', '3')
    .addHelpText(
      'after',
      '\nExample:\n  tokaido pg check --config ./root.yaml\n\nExits with 1 when something is wrong.',
    )
    .action(
      action(async (flags: Flags & { readonly samples: string }) => {
        const { inspect } = await import('../feeds/postgres/inspect.js');
        const samples = numberOf('--samples', flags.samples);
        const { problems, tables } = await withPostgres(flags.config, async (sql, postgres) => {
          return await inspect(sql, postgres, samples);
        });
        if (flags.json) printJson({ problems, tables: tables.map(jsonOf) });
        else {
          for (const { message, hint } of problems) print(`PROBLEM: ${message}${hint ? `\n  ${hint}` : ''}`);
          for (const report of tables) print(reportText(report).join('\n'));
        }
        if (problems.length > 0 || tables.some((report) => report.problems.length > 0)) process.exitCode = 1;
      }),
    );
}

function numberOf(flag: string, text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new TokaidoError('CONFIG', `${flag} ${text} is not a number from 0 to 999999`);
}

function registerPreview(pg: Command): void {
  config(
    pg.command('preview').description('print the first keys that rows would have').argument('[table]', 'only this'),
  )
    .option('--limit <number>', 'rows of each table', '20')
    .addHelpText('after', '\nExample:\n  tokaido pg preview public.dns_records --config ./root.yaml --limit 5')
    .action(
      action(async (table: string | undefined, flags: Flags & { readonly limit: string }) => {
        const [{ findTable, sampleRows }, { loadTypes }] = await Promise.all([
          import('../feeds/postgres/inspect.js'),
          import('../feeds/postgres/setup.js'),
        ]);
        const limit = numberOf('--limit', flags.limit);
        await withPostgres(flags.config, async (sql, { publication, tables }) => {
          const types = await loadTypes(sql);
          for (const mapping of mappingsOf(tables, table)) {
            const found = await findTable(sql, publication, mapping);
            const keys = (await sampleRows(sql, found.table, types, limit)).flatMap(({ records }) => {
              return typeof records === 'string' ? [] : records.map(({ key }) => shown(key));
            });
            if (flags.json) printJson({ table: mapping.table, database: mapping.database, keys });
            else for (const key of keys) print(`${mapping.database} ${key}`);
          }
        });
      }),
    );
}

interface VerifyFlags extends Flags {
  readonly server: string;
  readonly removeOrphans?: boolean;
}

function registerVerify(pg: Command): void {
  config(
    pg
      .command('verify')
      .description('compare every row with its record on a node, and every record with the rows')
      .argument('[table]', 'only this'),
  )
    .option('--server <host:port>', 'client listener of the node to compare', '127.0.0.1:1978')
    .option('--remove-orphans', 'remove records whose row is gone (at the root)')
    .addHelpText(
      'after',
      '\nExample:\n  tokaido pg verify --config ./root.yaml --server edge-7:1978\n\nCompares values and expiration times. Exits with 1 when something differs.',
    )
    .action(
      action(async (table: string | undefined, flags: VerifyFlags) => {
        const [{ verifyTable }, { TokaidoClient }, { databaseNumber }] = await Promise.all([
          import('../feeds/postgres/verify.js'),
          import('../client/client.js'),
          import('../client/bulk.js'),
        ]);
        const client = new TokaidoClient({ server: flags.server });
        try {
          await withPostgres(flags.config, async (sql, { publication, tables }) => {
            for (const mapping of mappingsOf(tables, table)) {
              const report = await verifyTable({ sql, client, publication, mapping, nowMs: () => Date.now() });
              const { missing, different, orphans, rows, lsn } = report;
              const list = { missing, different, orphans };
              if (missing.length + different.length > 0) process.exitCode = 1;
              if (orphans.length > 0 && flags.removeOrphans === true)
                await client.removeBulk(orphans, await databaseNumber(client, mapping.database));
              else if (orphans.length > 0) process.exitCode = 1;
              if (flags.json) {
                const texts = Object.entries(list).map(([kind, keys]) => [kind, keys.map(shown)]);
                printJson({
                  table: mapping.table,
                  database: mapping.database,
                  rows,
                  lsn,
                  ...Object.fromEntries(texts),
                });
                continue;
              }
              const counts = Object.entries(list).map(([kind, keys]) => `${keys.length} ${kind}`);
              print(
                `${mapping.table} -> ${mapping.database} at ${lsn}: ${rows} rows with a record, ${counts.join(', ')}`,
              );
              for (const [kind, keys] of Object.entries(list)) {
                for (const key of keys.slice(0, LISTED)) print(`  ${kind}: ${shown(key)}`);
                if (keys.length > LISTED) print(`  and ${keys.length - LISTED} more ${kind}`);
              }
            }
          });
        } finally {
          client.close();
        }
      }),
    );
}

function registerCopy(pg: Command): void {
  pg.command('copy')
    .description('have the root copy a table again, beside the stream; records without a row are removed')
    .argument('[table]', 'only this; all when absent')
    .option('--admin <host:port>', 'admin listener of the root', '127.0.0.1:1980')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido pg copy public.dns_records --admin 127.0.0.1:1980')
    .action(
      action(async (table: string | undefined, flags: { readonly admin: string; readonly json?: boolean }) => {
        const { post } = await import('./admin.js');
        const query = table === undefined ? '' : `?table=${encodeURIComponent(table)}`;
        const answer = await post(flags.admin, `/feed/copy${query}`);
        if (flags.json) printJson(answer);
        else print(`copying ${table ?? 'all tables'} again: tokaido status shows how far it is`);
      }),
    );
}
