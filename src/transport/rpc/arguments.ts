/** Reading the arguments of a remote procedure, as leniently as the reference does. */
import { TokaidoError } from '../../base/errors.js';
import { NEVER_EXPIRES } from '../../base/types.js';
import type { Commands } from '../../commands/commands.js';
import { xtFromSeconds } from '../../protocol/expiry.js';
import { readCount } from '../../protocol/kt-rpc/numbers.js';
import type { Arguments } from '../../protocol/tsv.js';
import type { Database } from '../../store/types.js';

/** Errors: `MALFORMED` in the reference's words. */
export function required(input: Arguments, name: string): Buffer {
  const value = input.get(name);
  if (value === undefined) throw new TokaidoError('MALFORMED', 'invalid parameters');
  return value;
}

export function textOf(input: Arguments, name: string): string | undefined {
  return input.get(name)?.toString('latin1');
}

/** A whole number, `fallback` when it is not given. */
export function countOf(input: Arguments, name: string, fallback: number): number {
  const text = textOf(input, name);
  return text === undefined ? fallback : readCount(text);
}

/** `max` of the matching procedures: negative or absent is all. */
export function maxOf(input: Arguments): number {
  const max = countOf(input, 'max', -1);
  return max < 0 ? Number.POSITIVE_INFINITY : max;
}

/** `DB`, by name or number; the first database when it is absent or empty. Errors: `NO_DATABASE`. */
export function databaseOf(input: Arguments, commands: Commands): Database {
  const name = input.get('DB');
  return commands.database(name === undefined || name.length === 0 ? 0 : name.toString('utf8'));
}

/** `xt`, in seconds; never when it is absent, now when it is no number. */
export function expiryOf(input: Arguments, nowMs: number): number {
  const text = textOf(input, 'xt');
  return text === undefined ? NEVER_EXPIRES : xtFromSeconds(readCount(text), nowMs);
}

/** Keys or records of a bulk call: the arguments whose names begin with `_`, which is not part of the key. */
export function bulkOf(input: Arguments): readonly (readonly [Buffer, Buffer])[] {
  const entries: [Buffer, Buffer][] = [];
  for (const [name, value] of input) {
    if (name.startsWith('_')) entries.push([Buffer.from(name.slice(1), 'latin1'), value]);
  }
  return entries;
}
