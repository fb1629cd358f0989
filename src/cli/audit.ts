/** `tokaido audit`: checks an audit log. */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { TokaidoError } from '../base/errors.js';
import type { ChainHead } from '../node/audit/chain.js';
import { action, print, printJson } from './output.js';

interface Flags {
  readonly noted?: string;
  readonly json?: boolean;
}

export function registerAudit(program: Command): void {
  const audit = program
    .command('audit')
    .description('work with the audit log of a node')
    .addHelpText('after', '\nExample:\n  tokaido audit verify /var/lib/tokaido/audit.log');
  audit
    .command('verify')
    .argument('<file>', 'the audit log (audit.file); full files beside it are found')
    .description('check that no line was changed, removed, inserted or replaced')
    .option('--noted <number:hash>', 'a line that was noted elsewhere (tokaido status): it must be in the chain')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nExample:\n  tokaido audit verify /var/lib/tokaido/audit.log --noted 1234:5f70bf18...\n\nExits with 1 when something is wrong. Without --noted nobody can tell that all lines were written anew, or the last ones cut off.',
    )
    .action(
      action(async (file: string, { noted, json }: Flags) => {
        if (!existsSync(file)) throw new TokaidoError('CONFIG', `there is no audit log ${file}`);
        const { verifyFiles } = await import('../node/audit/files.js');
        const { lines, first, head, problem } = await verifyFiles(
          file,
          noted === undefined ? undefined : headFrom(noted),
        );
        if (json === true) printJson({ lines, first, last: head?.number, hash: head?.hash, problem });
        if (problem !== undefined) {
          const where = problem.line === undefined ? problem.file : `${problem.file}:${problem.line}`;
          throw new TokaidoError('CORRUPT', `${where}: ${problem.what}`, {
            hint: 'keep the files as they are, and compare with copies',
          });
        }
        if (json !== true)
          print(`${lines} lines, ${first} to ${head?.number}: the chain is whole\nlast hash ${head?.hash}`);
      }),
    );
}

function headFrom(text: string): ChainHead {
  const [, number, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? [];
  if (number !== undefined && hash !== undefined) return { number: Number(number), hash };
  throw new TokaidoError('CONFIG', `--noted must be NUMBER:HASH, as tokaido status shows it, not ${text}`);
}
