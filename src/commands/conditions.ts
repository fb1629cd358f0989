/**
 * Conditional changes of one record, each defined once on an atomic read-modify-write: append, compare and swap, take
 * out, count. Stored numbers have Kyoto Tycoon's forms (see `stored-numbers.ts`).
 */
import { TokaidoError } from '../base/errors.js';
import type { RecordView } from '../store/types.js';
import type { Commands, Decision, KeyRef, RecordWrite, SetMode } from './commands.js';
import { decodeInteger, encodeInteger, Fixed, fitsCounter } from './stored-numbers.js';

/** A copy of a record that outlives the call. */
export interface RecordCopy {
  readonly value: Buffer;
  /** Expiration time, ms since 1970, or `NEVER_EXPIRES`. */
  readonly xtMs: number;
}

/** Where counting begins when there is no record, or by name: only count on (`try`), or begin anew (`set`). */
export type Origin<N> = N | 'try' | 'set';

const inconsistent = (): TokaidoError => new TokaidoError('CONFLICT', 'logical inconsistency');

/** Appends to the value, or stores it when there is none; the expiration time is the new one. */
export async function append(commands: Commands, ref: KeyRef, { value, xtMs }: RecordCopy): Promise<void> {
  await commands.update(ref, (record) => {
    const whole = record === undefined ? value : Buffer.concat([record.value, value]);
    return { next: { value: whole, xtMs }, result: undefined };
  });
}

/**
 * Replaces exactly `expected` by `next`; `undefined` stands for no record on either side. Errors: `CONFLICT` when
 * something else is there.
 */
export async function compareAndSwap(
  commands: Commands,
  ref: KeyRef,
  expected: Buffer | undefined,
  next: RecordCopy | undefined,
): Promise<void> {
  await commands.update<void>(ref, (record) => {
    const isSame = record === undefined ? expected === undefined : expected?.equals(record.value) === true;
    if (!isSame) throw new TokaidoError('CONFLICT', 'status conflict');
    if (next !== undefined) return { next, result: undefined };
    return { next: record === undefined ? 'keep' : 'remove', result: undefined };
  });
}

/** Removes a record and returns it. Errors: `NO_RECORD`. */
export async function seize(commands: Commands, ref: KeyRef): Promise<RecordCopy> {
  return await commands.update(ref, (record) => {
    if (record === undefined) throw new TokaidoError('NO_RECORD', 'no record');
    return { next: 'remove', result: { value: Buffer.from(record.value), xtMs: record.xtMs } };
  });
}

/** Whether a change may happen, seeing the record that is there. */
export type Precondition = (record: RecordView | undefined) => boolean;

/** `Commands.set` under a condition, atomically. Errors: `CONFLICT` when it does not hold, else those of `set`. */
export async function setWhen(
  commands: Commands,
  { database, key, value, xtMs }: RecordWrite,
  mode: SetMode,
  holds: Precondition,
): Promise<void> {
  await commands.update<void>({ database, key }, (record) => {
    if (!holds(record)) throw new TokaidoError('CONFLICT', 'the record is not what the condition asks for');
    if (mode === 'add' && record !== undefined) throw new TokaidoError('DUPLICATE_RECORD', 'record duplication');
    if (mode === 'replace' && record === undefined) throw new TokaidoError('NO_RECORD', 'no record');
    return { next: { value, xtMs }, result: undefined };
  });
}

/** `Commands.remove` under a condition. Errors: `CONFLICT` when it does not hold, else `NO_RECORD`. */
export async function removeWhen(commands: Commands, ref: KeyRef, holds: Precondition): Promise<void> {
  await commands.update<void>(ref, (record) => {
    if (!holds(record)) throw new TokaidoError('CONFLICT', 'the record is not what the condition asks for');
    if (record === undefined) throw new TokaidoError('NO_RECORD', 'no record');
    return { next: 'remove', result: undefined };
  });
}

export interface Increment<N> {
  readonly by: N;
  readonly origin: Origin<N>;
  readonly xtMs: number;
}

/** Adds to a stored 64-bit integer; returns the sum. Errors: `CONFLICT` for other values, for `try`, on overflow. */
export async function increment(
  commands: Commands,
  ref: KeyRef,
  { by, origin, xtMs }: Increment<bigint>,
): Promise<bigint> {
  return await commands.update(ref, (record): Decision<bigint> => {
    const before = record === undefined ? missing(origin, 0n) : storedInteger(record, origin);
    // The reference writes nothing for an increment by nothing, and keeps the expiration time then.
    if (record !== undefined && by === 0n && origin !== 'set') return { next: 'keep', result: before };
    const sum = before + by;
    if (!fitsCounter(sum)) throw inconsistent();
    return { next: { value: encodeInteger(sum), xtMs }, result: sum };
  });
}

/** Likewise for a stored fixed-point number. Infinite numbers stay what they are. */
export async function incrementDouble(
  commands: Commands,
  ref: KeyRef,
  { by, origin, xtMs }: Increment<number>,
): Promise<number> {
  return await commands.update(ref, (record): Decision<number> => {
    if (record === undefined) {
      const first = missing(origin, 0) + by;
      return { next: { value: encodedFixed(Fixed.of(first)), xtMs }, result: first };
    }
    const before = storedFixed(record, origin);
    if (before.isInfinite || (by === 0 && origin !== 'set')) return { next: 'keep', result: before.number };
    const sum = Number.isFinite(by) ? before.plus(by) : Fixed.of(by);
    return { next: { value: encodedFixed(sum), xtMs }, result: sum?.number ?? Number.NaN };
  });
}

function encodedFixed(fixed: Fixed | undefined): Buffer {
  if (fixed === undefined) throw inconsistent();
  return fixed.encode();
}

function missing<N>(origin: Origin<N>, zero: N): N {
  if (origin === 'try') throw inconsistent();
  return origin === 'set' ? zero : origin;
}

function storedInteger(record: RecordView, origin: Origin<bigint>): bigint {
  const stored = decodeInteger(record.value);
  if (stored === undefined) throw inconsistent();
  return origin === 'set' ? 0n : stored;
}

function storedFixed(record: RecordView, origin: Origin<number>): Fixed {
  const stored = Fixed.decode(record.value);
  if (stored === undefined) throw inconsistent();
  return origin === 'set' ? Fixed.ZERO : stored;
}
