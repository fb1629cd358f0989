/** `tokaido restore`: a node's data as it was at a moment, from a copy and the update log of another node. */
import type { Command } from 'commander';
import { TokaidoError } from '../base/errors.js';
import { type Sid, sid } from '../base/types.js';
import type { Until } from '../node/data/point-in-time.js';
import { action, print, printJson } from './output.js';

interface RestoreFlags {
  readonly config: string;
  readonly backup: string;
  readonly log: string;
  readonly toTime?: string;
  readonly toPosition?: string;
  readonly json?: boolean;
}

export function registerRestore(program: Command): void {
  program
    .command('restore')
    .description(
      'put the data of a node together as it was at a moment: a copy of a data directory, and a log that goes on',
    )
    .requiredOption('--config <file>', 'configuration of the node that it is for; its data directory must be empty')
    .requiredOption('--backup <folder>', 'copy of a data directory of any node, made while that did not run')
    .requiredOption('--log <folder>', 'data directory of a node that does not run, with the update log that goes on')
    .option('--to-time <time>', 'the last moment of which changes are taken: 2026-11-28T11:59:00Z')
    .option(
      '--to-position <position>',
      'the last changes to take, as in status and log list: "1:5701" or "1:5701 2@2:33"',
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
Without --to-time and --to-position everything in the log is taken. Times are those of the root that made a change.
\`tokaido log list\` shows what a log has, and when it was made. Neither folder is changed. When the result is the
data of the root, its followers are ahead of it, and are seeded with it by themselves (docs/operate/recover.md).

Example:
  tokaido restore --config root.yaml --backup /backup/monday --log /var/lib/tokaido.before --to-time 2026-11-28T11:59:00Z`,
    )
    .action(action(restore));
}

async function restore(flags: RestoreFlags): Promise<void> {
  const until = untilFrom(flags);
  const [{ loadConfig }, { recoverTo }, { systemRuntime }, { jsonLogger }] = await Promise.all([
    import('../node/config/load.js'),
    import('../node/data/point-in-time.js'),
    import('../node/runtime.js'),
    import('../node/logger.js'),
  ]);
  const config = await loadConfig(flags.config);
  const { backup, log } = flags;
  const done = await recoverTo({ config, backup, log, until, runtime: systemRuntime(), logger: jsonLogger('warn') });
  const { position, transactions, leftOut, lost } = done;
  if (flags.json) printJson({ data: config.data, position, transactions, leftOut, lost });
  else {
    print(`${config.data} is at ${position}: ${transactions} transactions of the log, ${leftOut} left out`);
    if (lost.length > 0) print(`databases in memory that no copy has: ${lost.join(', ')}`);
  }
}

function untilFrom({ toTime, toPosition }: RestoreFlags): Until {
  if (toTime !== undefined && toPosition !== undefined)
    throw new TokaidoError('CONFIG', 'give --to-time or --to-position, not both');
  if (toTime !== undefined) {
    const timeMs = Date.parse(toTime);
    if (Number.isNaN(timeMs)) throw new TokaidoError('CONFIG', `${toTime} is no time such as 2026-11-28T11:59:00Z`);
    return { kind: 'time', timeMs };
  }
  return toPosition === undefined ? { kind: 'end' } : { kind: 'position', last: lastFrom(toPosition) };
}

function lastFrom(text: string): ReadonlyMap<Sid, number> {
  const last = new Map<Sid, number>();
  for (const part of text.split(/[ ,]+/).filter((word) => word !== '')) {
    const [, origin, sequence] = /^(\d+)(?:@\d+)?:(\d+)$/.exec(part) ?? [];
    if (origin === undefined) throw new TokaidoError('CONFIG', `${part} is no position such as 1:5701`);
    last.set(sid(Number(origin)), Number(sequence));
  }
  return last;
}
