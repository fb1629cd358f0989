/**
 * `tokaido verify A B`: whether two nodes hold the same records, found out by reading them. Ranges of keys are compared
 * by hash, and record by record where they differ. Nodes go on meanwhile: a record that the other node has not reached
 * by its position is no difference.
 */
import type { Command } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import { action, EXIT, print, printJson } from './output.js';
import { fetchStatus } from './status.js';

interface Part {
  readonly start: string;
  readonly end: string | null;
  readonly count: number;
  readonly hash: string;
}

interface Described {
  readonly key: string;
  readonly sid: number;
  readonly versionNs: string;
  readonly xtMs: number;
  readonly hash: string;
}

interface Reached {
  readonly position: readonly { readonly sid: number; readonly versionNs: string }[];
}

type Range = readonly [string, string | null];

/** A record that one node lacks, or that differs. */
export interface FoundDifference {
  readonly database: string;
  /** As text; keys may be any bytes, so they are given in hexadecimal digits, too. */
  readonly key: string;
  readonly keyHex: string;
  readonly where: 'only A' | 'only B' | 'differs';
}

const RANGES_AT_ONCE = 1024;
const TIMEOUT_MS = 10 * 60_000;
/** Differences that are listed for people. */
const LISTED = 20;

interface Question {
  readonly database: string;
  readonly by: 'parts' | 'ranges' | 'records';
  readonly cutoffMs: number;
  readonly ranges?: readonly Range[];
}

/** The position of the answer, and its lines. */
async function ask<T>(admin: string, question: Question): Promise<{ readonly reached: Reached; readonly lines: T[] }> {
  let text: string;
  try {
    const response = await fetch(`http://${admin}/digest`, {
      method: 'POST',
      body: JSON.stringify(question),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    text = await response.text();
    if (!response.ok) throw new Error(`it answers ${response.status}: ${text.slice(0, 300)}`);
  } catch (error) {
    throw new TokaidoError('NETWORK', `no digest from ${admin}: ${messageOf((error as Error).cause ?? error)}`, {
      cause: error,
    });
  }
  const [first, ...lines] = text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);
  return { reached: first as Reached, lines: lines as T[] };
}

/** Whether a node that stands there must know this record's change. */
function covers({ position }: Reached, { sid, versionNs }: Described): boolean {
  const origin = position.find((known) => known.sid === sid);
  return origin !== undefined && BigInt(origin.versionNs) >= BigInt(versionNs);
}

/** Differences of one database, as they are found. */
async function* compareDatabase(a: string, b: string, database: string): AsyncGenerator<FoundDifference> {
  const cutoffMs = Date.now() + 1000;
  const { lines: parts } = await ask<Part>(a, { database, by: 'parts', cutoffMs });
  for (let from = 0; from < parts.length; from += RANGES_AT_ONCE) {
    const some = parts.slice(from, from + RANGES_AT_ONCE);
    const ranges = some.map(({ start, end }): Range => [start, end]);
    const { lines: there } = await ask<Part>(b, { database, by: 'ranges', cutoffMs, ranges });
    const differing = some.filter(({ hash, count }, i) => there[i]?.hash !== hash || there[i]?.count !== count);
    for (const { start, end } of differing) yield* compareRange(a, b, { database, cutoffMs, range: [start, end] });
  }
}

async function* compareRange(
  a: string,
  b: string,
  { database, cutoffMs, range }: { readonly database: string; readonly cutoffMs: number; readonly range: Range },
): AsyncGenerator<FoundDifference> {
  const question: Question = { database, by: 'records', cutoffMs, ranges: [range] };
  const [atA, atB] = [await ask<Described>(a, question), await ask<Described>(b, question)];
  const [ofA, ofB] = [atA, atB].map(({ lines }) => new Map(lines.map((record) => [record.key, record])));
  for (const keyHex of [...new Set([...(ofA?.keys() ?? []), ...(ofB?.keys() ?? [])])].sort()) {
    const [one, other] = [ofA?.get(keyHex), ofB?.get(keyHex)];
    if (one?.hash === other?.hash) continue;
    const isNews =
      (one !== undefined && !covers(atB.reached, one)) || (other !== undefined && !covers(atA.reached, other));
    if (isNews) continue;
    const where = other === undefined ? 'only A' : one === undefined ? 'only B' : 'differs';
    yield { database, key: Buffer.from(keyHex, 'hex').toString('utf8'), keyHex, where };
  }
}

/** Compares all databases of two nodes, by their admin listeners, or those named. Errors: `NETWORK`. */
export async function verify(a: string, b: string, only: readonly string[]): Promise<FoundDifference[]> {
  const [atA, atB] = [await fetchStatus(a), await fetchStatus(b)];
  const names = new Set([...atA.databases, ...atB.databases].map(({ name }) => name));
  const found: FoundDifference[] = [];
  for (const name of only.length > 0 ? only : names) {
    for await (const difference of compareDatabase(a, b, name)) found.push(difference);
  }
  return found;
}

export function registerVerify(program: Command): void {
  program
    .command('verify')
    .description('compares the records of two nodes, by reading them; exits with 1 when they differ')
    .argument('<a>', 'admin listener of one node, host:port')
    .argument('<b>', 'admin listener of the other')
    .option('--database <name...>', 'only these databases')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido verify 127.0.0.1:1980 127.0.0.1:2980')
    .action(
      action(async (a: string, b: string, flags: { readonly database?: string[]; readonly json?: boolean }) => {
        const differences = await verify(a, b, flags.database ?? []);
        if (flags.json) printJson({ equal: differences.length === 0, differences });
        else if (differences.length === 0) print('equal');
        else {
          const listed = differences
            .slice(0, LISTED)
            .map(({ database, key, where }) => `${where}: ${database} ${JSON.stringify(key)}`);
          const more = differences.length - listed.length;
          print(
            [`${differences.length} records differ`, ...listed, ...(more > 0 ? [`and ${more} more`] : [])].join('\n'),
          );
        }
        if (differences.length > 0) process.exitCode = EXIT.failed;
      }),
    );
}
