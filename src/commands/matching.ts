/**
 * Keys by prefix, by regular expression and by similarity. The work is cut into slices (`slices.ts`), and what it may
 * return and what it may cost for one key is bounded: nobody stalls a node with a query.
 *
 * Expressions are RE2's (linear time, no back references), on bytes: one character of theirs is one byte of the key, as
 * in the reference, and a dot means a line feed too.
 */
import { RE2JS } from 're2js';
import { afterKey, afterPrefix } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import type { Database } from '../store/types.js';
import { type Commands, LONGEST_KEY_BYTES } from './commands.js';
import type { Slices } from './slices.js';

/** Most keys that one call may return, and their most bytes. */
const MAX_MATCHES = 100_000;
const MAX_MATCH_BYTES = 16 * 1024 * 1024;
/** Rows looked at by one step, dead ones included. */
const STEP_ROWS = 1000;
/** Most instructions an expression may have: it bounds what one key can cost. */
const MAX_PROGRAM = 1000;
/** Most instructions it might have, guessed before it is compiled: bounds what compiling can cost. */
const MAX_GUESS = 65_536;
/** Longest text to be similar to, in characters. */
const MAX_ORIGIN = 1024;

/** Where to look, and for whom. */
export interface Search {
  readonly commands: Commands;
  readonly slices: Slices;
  readonly database: Database;
  /** Most keys to return; the first ones in key order, or the most similar. `Infinity` for all. */
  readonly max: number;
  /** Whether somebody still waits for the result. */
  readonly isWanted: () => boolean;
}

/** A copy of a key, and how far it is from what was asked for. */
interface Match {
  readonly key: Buffer;
  readonly distance: number;
}

type Matches = readonly Buffer[] | Promise<readonly Buffer[]>;

function tooMany(): TokaidoError {
  return new TokaidoError('TOO_LARGE', `more than ${MAX_MATCHES} keys or ${MAX_MATCH_BYTES} bytes match`, {
    hint: 'ask for fewer with max, or for a longer prefix',
  });
}

/** In key order; those behind `after` when it is given. Errors: `TOO_LARGE`. */
export function matchPrefix(search: Search, prefix: Buffer, after?: Buffer): Matches {
  return collect(search, prefix, () => 0, false, after);
}

/** In key order. Errors: `CONFLICT` when the expression does not compile, `TOO_LARGE`. */
export function matchRegex(search: Search, pattern: Buffer): Matches {
  const regex = compile(pattern.toString('latin1'));
  return collect(search, NO_PREFIX, (key) => (regex.test(key.toString('latin1')) ? 0 : undefined), false);
}

/**
 * The most similar first: by edit distance (Levenshtein) of at most `range`, then in key order. `utf` counts
 * characters instead of bytes. Errors: `TOO_LARGE`.
 */
export function matchSimilar(search: Search, origin: Buffer, range: number, utf: boolean): Matches {
  const wanted = elements(origin, utf);
  if (wanted.length > MAX_ORIGIN)
    throw new TokaidoError('TOO_LARGE', `an origin of more than ${MAX_ORIGIN} characters`);
  const measure = (key: Buffer): number | undefined => distanceWithin(wanted, elements(key, utf), range);
  return collect(search, NO_PREFIX, measure, true);
}

const NO_PREFIX = Buffer.alloc(0);

/** Runs through the keys of a prefix; `measure` tells the distance of those that match. */
function collect(
  { commands, slices, database, max, isWanted }: Search,
  prefix: Buffer,
  measure: (key: Buffer) => number | undefined,
  nearest: boolean,
  after?: Buffer,
): Matches {
  const end = afterPrefix(prefix);
  const found = new Found(max, nearest);
  if (max <= 0 || prefix.length > LONGEST_KEY_BYTES) return [];
  // What is behind a longer key is behind as much of it as a key can have.
  const behind = after === undefined ? undefined : afterKey(after.subarray(0, LONGEST_KEY_BYTES));
  let start = behind !== undefined && behind.compare(prefix) > 0 ? behind : prefix;
  return slices.run((slice) => {
    const range = { start, ...(end === undefined ? {} : { end }), limit: STEP_ROWS };
    const last = commands.visit(database, range, (key) => {
      const distance = measure(key);
      if (distance !== undefined) found.add(key, distance);
      return !found.isFull && !slice.isOver();
    });
    if (last === undefined || found.isFull) return found.keys();
    start = afterKey(last);
    return undefined;
  }, isWanted);
}

/** The matches so far: the first ones, or the nearest. */
class Found {
  readonly #max: number;
  readonly #nearest: boolean;
  #matches: Match[] = [];
  #bytes = 0;

  constructor(max: number, nearest: boolean) {
    this.#max = max;
    this.#nearest = nearest;
  }

  /** Whether nothing that comes later can change the result. */
  get isFull(): boolean {
    return !this.#nearest && this.#matches.length >= this.#max;
  }

  add(key: Buffer, distance: number): void {
    this.#matches.push({ key: Buffer.from(key), distance });
    this.#bytes += key.length;
    if (this.#nearest && this.#matches.length > Math.max(2 * this.#max, 1024)) this.#shrink();
    if (this.#matches.length > MAX_MATCHES || this.#bytes > MAX_MATCH_BYTES) throw tooMany();
  }

  /** Keeps the nearest `max`; sorting is stable, so equals stay in key order. */
  #shrink(): void {
    this.#matches = this.#matches.sort((a, b) => a.distance - b.distance).slice(0, this.#max);
    this.#bytes = this.#matches.reduce((bytes, { key }) => bytes + key.length, 0);
  }

  keys(): readonly Buffer[] {
    if (this.#nearest) this.#shrink();
    return this.#matches.map(({ key }) => key);
  }
}

/** Errors: `CONFLICT` in the reference's words, `TOO_LARGE` for what would cost too much. */
function compile(pattern: string): RE2JS {
  // Repetitions multiply instructions, by 1000 at most: that is RE2's own limit.
  const repeats = pattern.matchAll(/\{(\d{1,5})(?:,(\d{0,5}))?\}/g);
  const product = [...repeats].reduce((all, [, least, most]) => all * Math.max(1, Number(least), Number(most ?? 0)), 1);
  if (pattern.length * Math.min(product, 1000) > MAX_GUESS) throw tooComplex();
  let regex: RE2JS;
  try {
    regex = RE2JS.compile(withWordBoundaries(pattern), RE2JS.DOTALL);
  } catch {
    throw new TokaidoError('CONFLICT', 'compilation failed');
  }
  if (regex.programSize() > MAX_PROGRAM) throw tooComplex();
  return regex;
}

/** The reference's `\<` and `\>` are boundaries of words; RE2 has one sign for both. */
function withWordBoundaries(pattern: string): string {
  return pattern.replace(/\\(.)/gs, (pair, char: string) => (char === '<' || char === '>' ? '\\b' : pair));
}

function tooComplex(): TokaidoError {
  return new TokaidoError('TOO_LARGE', 'the expression is too complex', {
    hint: 'make it shorter, or repeat fewer times',
  });
}

function elements(text: Buffer, utf: boolean): ArrayLike<number> {
  return utf ? Array.from(text.toString('utf8'), (char) => char.codePointAt(0) as number) : text;
}

/** The edit distance when it is at most `range`. Looks at a band around the diagonal only: more could not come back. */
function distanceWithin(a: ArrayLike<number>, b: ArrayLike<number>, range: number): number | undefined {
  if (Math.abs(a.length - b.length) > range) return undefined;
  const far = range + 1;
  let row = Array.from({ length: b.length + 1 }, (_, j) => Math.min(j, far));
  for (let i = 1; i <= a.length; i++) {
    const next = new Array<number>(b.length + 1).fill(far);
    const from = Math.max(1, i - range);
    const to = Math.min(b.length, i + range);
    if (i <= range) next[0] = i;
    for (let j = from; j <= to; j++) {
      const change = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next[j] = Math.min(change, (row[j] as number) + 1, (next[j - 1] as number) + 1, far);
    }
    row = next;
  }
  const distance = row[b.length] as number;
  return distance <= range ? distance : undefined;
}
