/** `npm run bench`: measures rows side by side with their peers, and prints a table or JSON. */
import { parseArgs } from 'node:util';
import { type Result, runRow } from './measure.js';
import { ROWS } from './registry.js';
import type { Row } from './row.js';

const HELP = `npm run bench -- [options]

  --only REGEX    rows whose name matches
  --seconds N     of measuring per row, both sides together (6)
  --rounds N      of each side, in turn; the figures are medians (3; 1 where a round is expensive)
  --json          print one JSON array as the last line: row, unit, ours, peer, peerName, ratio (ours / peer),
                  better, budget, range
  --list          what there is
  --help          this text

Peers are started when they are on PATH: ktserver (Kyoto Tycoon), memcached, redis-server. Without one, a row has no peer. Exit code 0 when every row could be measured, 1 when one could not, 2 for wrong options.`;

const MOST = { seconds: 3600, rounds: 99 } as const;

/** Wrong use of the command: a message, no stack. */
class UsageError extends Error {}

interface Options {
  readonly rows: readonly Row[];
  readonly seconds: number;
  readonly rounds: number | undefined;
  readonly json: boolean;
}

function readNumber(name: keyof typeof MOST, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text === '' || !Number.isInteger(value) || value < 1 || value > MOST[name])
    throw new UsageError(`--${name} must be a whole number from 1 to ${MOST[name]}, not ${JSON.stringify(text)}`);
  return value;
}

/** A text: what was asked for is that text. Errors: `UsageError`. */
function readOptions(): Options | string {
  const string = { type: 'string' } as const;
  const flag = { type: 'boolean', default: false } as const;
  const options = { only: string, seconds: string, rounds: string, json: flag, list: flag, help: flag };
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];
  try {
    values = parseArgs({ options }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help) return HELP;
  let only: RegExp;
  try {
    only = new RegExp(values.only ?? '');
  } catch {
    throw new UsageError(`--only must be a regular expression, not ${JSON.stringify(values.only)}`);
  }
  const rows = ROWS.filter(({ name }) => only.test(name));
  if (rows.length === 0) throw new UsageError(`no row matches ${JSON.stringify(values.only)}: --list names them`);
  if (values.list) return rows.map(({ name, about }) => `${name.padEnd(28)}${about}`).join('\n');
  const seconds = readNumber('seconds', values.seconds) ?? 6;
  return { rows, seconds, rounds: readNumber('rounds', values.rounds), json: values.json };
}

const live = process.stderr.isTTY === true;

function progress(text: string): void {
  if (live) process.stderr.write(`\r\x1b[K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`);
}

function table(results: readonly Result[]): string {
  const show = (value: number | null): string => (value === null ? '-' : value.toLocaleString('en-US'));
  const head = ['row', 'unit', 'ours', 'peer', 'ratio', 'peer is', 'budget'];
  const lines = results.map(({ row, unit, ours, peer, ratio, peerName, budget, better }) => {
    const wanted = budget === null ? '' : `${better === 'higher' ? '>=' : '<='} ${show(budget)}`;
    return [row, unit, show(ours), show(peer), show(ratio), peerName ?? '-', wanted];
  });
  const all = [head, ...lines];
  const widths = head.map((_, column) => Math.max(...all.map((line) => (line[column] as string).length)));
  return all.map((line) => line.map((cell, column) => cell.padEnd(widths[column] as number)).join('  ')).join('\n');
}

async function main(): Promise<number> {
  const options = readOptions();
  if (typeof options === 'string') {
    process.stdout.write(`${options}\n`);
    return 0;
  }
  const results: Result[] = [];
  let failed = 0;
  let interrupted = false;
  // The row under way ends in good order, so that no process and no folder stays behind; a second signal does not wait.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (interrupted) process.exit(1);
      interrupted = true;
    });
  }
  for (const row of options.rows) {
    if (interrupted) break;
    try {
      results.push(...(await runRow(row, { ...options, progress })));
    } catch (error) {
      failed++;
      progress('');
      process.stderr.write(`${row.name} FAILED: ${(error as Error).stack ?? String(error)}\n`);
    }
  }
  progress('');
  process.stdout.write(`${options.json ? JSON.stringify(results) : table(results)}\n`);
  return failed > 0 || interrupted ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`${error.message}\n\n${HELP}\n`);
  process.exitCode = 2;
}
