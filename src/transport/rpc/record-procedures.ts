/** Remote procedures on single records and on many. */
import { TokaidoError } from '../../base/errors.js';
import { ATOMIC_RECORDS, type KeyRef, type SetMode } from '../../commands/commands.js';
import {
  append,
  compareAndSwap,
  increment,
  incrementDouble,
  type Origin,
  type RecordCopy,
  seize,
} from '../../commands/conditions.js';
import { GREATEST_INTEGER, LEAST_INTEGER } from '../../commands/stored-numbers.js';
import { readDecimal, readInteger, writeDecimal } from '../../protocol/kt-rpc/numbers.js';
import type { Row } from '../../protocol/tsv.js';
import { bulkOf, databaseOf, expiryOf, required, textOf } from './arguments.js';
import { type Call, NOTHING, type Procedure, type Rows, recordRows, row } from './procedure.js';

/** Most bytes that a bulk read may answer with. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** Keys read by one step of a bulk read. */
const STEP_KEYS = 64;

/** Database first, then the arguments: that is the order in which the reference complains. */
function refOf({ input, host }: Call): KeyRef {
  return { database: databaseOf(input, host.commands), key: required(input, 'key') };
}

function set(mode: SetMode): Procedure {
  return {
    order: 'write',
    run: async (call) => {
      const value = (): Buffer => required(call.input, 'value');
      await call.host.commands.set({ ...refOf(call), value: value(), xtMs: expiryOf(call.input, call.nowMs) }, mode);
      return NOTHING;
    },
  };
}

function get({ input, host: { commands } }: Call, name: 'value' | 'vsiz'): Rows {
  const record = commands.get({ database: databaseOf(input, commands), key: required(input, 'key') });
  if (record === undefined) throw new TokaidoError('NO_RECORD', 'no record');
  const { value, xtMs } = record;
  // Rendered before the next call on the store: a view will do.
  return recordRows(name, name === 'value' ? value : Buffer.from(String(value.length)), xtMs);
}

/** The numbers that mean `try` and `set` as well: what a client writes that has only a number to say it with. */
interface Extremes<N> {
  readonly try: N;
  readonly set: N;
}
const INTEGERS: Extremes<bigint> = { try: LEAST_INTEGER, set: GREATEST_INTEGER };
const DECIMALS: Extremes<number> = { try: Number.NEGATIVE_INFINITY, set: Number.POSITIVE_INFINITY };

function originOf<N>(text: string, read: (text: string) => N, extremes: Extremes<N>): Origin<N> {
  if (text === 'try' || text === 'set') return text;
  const number = read(text);
  if (number === extremes.try) return 'try';
  return number === extremes.set ? 'set' : number;
}

async function count(call: Call): Promise<Rows> {
  const { input, host, nowMs } = call;
  const ref = refOf(call);
  const by = readInteger(required(input, 'num').toString('latin1'));
  const origin = originOf(textOf(input, 'orig') ?? '0', readInteger, INTEGERS);
  return [row('num', await increment(host.commands, ref, { by, origin, xtMs: expiryOf(input, nowMs) }))];
}

async function countDouble(call: Call): Promise<Rows> {
  const { input, host, nowMs } = call;
  const ref = refOf(call);
  const by = readDecimal(required(input, 'num').toString('latin1'));
  const origin = originOf(textOf(input, 'orig') ?? '0', readDecimal, DECIMALS);
  const sum = await incrementDouble(host.commands, ref, { by, origin, xtMs: expiryOf(input, nowMs) });
  return [row('num', writeDecimal(sum))];
}

async function swap(call: Call): Promise<Rows> {
  const { input, host, nowMs } = call;
  const value = input.get('nval');
  const next: RecordCopy | undefined = value === undefined ? undefined : { value, xtMs: expiryOf(input, nowMs) };
  await compareAndSwap(host.commands, refOf(call), input.get('oval'), next);
  return NOTHING;
}

async function setBulk({ input, host: { commands }, nowMs }: Call): Promise<Rows> {
  const database = databaseOf(input, commands);
  const xtMs = expiryOf(input, nowMs);
  const records = bulkOf(input).map(([key, value]) => ({ database, key, value, xtMs }));
  return [row('num', await commands.setBulk(records, { atomic: input.has('atomic') }))];
}

async function removeBulk({ input, host: { commands } }: Call): Promise<Rows> {
  const database = databaseOf(input, commands);
  const keys = bulkOf(input).map(([key]) => ({ database, key }));
  return [row('num', await commands.removeBulk(keys, { atomic: input.has('atomic') }))];
}

function getBulk({ input, host: { commands, slices }, session }: Call): Rows | Promise<Rows> {
  const database = databaseOf(input, commands);
  const keys = bulkOf(input);
  const atomic = input.has('atomic');
  if (atomic && keys.length > ATOMIC_RECORDS) {
    throw new TokaidoError('TOO_LARGE', `more than ${ATOMIC_RECORDS} keys in one atomic call`, {
      hint: 'ask for fewer keys, or leave atomic out',
    });
  }
  const rows: Row[] = [];
  let at = 0;
  let bytes = 0;
  const step = (): Rows | undefined => {
    const end = Math.min(keys.length, atomic ? keys.length : at + STEP_KEYS);
    for (; at < end; at++) {
      const [key] = keys[at] as readonly [Buffer, Buffer];
      const record = commands.get({ database, key });
      if (record === undefined) continue;
      bytes += key.length + record.value.length;
      if (bytes > MAX_ANSWER_BYTES) {
        throw new TokaidoError('TOO_LARGE', `the records take more than ${MAX_ANSWER_BYTES} bytes`, {
          hint: 'ask for fewer keys in one call',
        });
      }
      rows.push([`_${key.toString('latin1')}`, Buffer.from(record.value)]);
    }
    return at < keys.length ? undefined : [...rows, row('num', rows.length)];
  };
  return slices.run(step, session.isOpen);
}

export const RECORD_PROCEDURES: Readonly<Record<string, Procedure>> = {
  set: set('set'),
  add: set('add'),
  replace: set('replace'),
  append: {
    order: 'write',
    run: async (call) => {
      const ref = refOf(call);
      const value = required(call.input, 'value');
      await append(call.host.commands, ref, { value, xtMs: expiryOf(call.input, call.nowMs) });
      return NOTHING;
    },
  },
  increment: { order: 'write', run: count },
  increment_double: { order: 'write', run: countDouble },
  cas: { order: 'write', run: swap },
  remove: {
    order: 'write',
    run: async (call) => {
      await call.host.commands.remove(refOf(call));
      return NOTHING;
    },
  },
  seize: {
    // A pipeline of writes that answer with values could owe any number of bytes.
    order: 'alone',
    run: async (call) => {
      const { value, xtMs } = await seize(call.host.commands, refOf(call));
      return recordRows('value', value, xtMs);
    },
  },
  get: { order: 'read', run: (call) => get(call, 'value') },
  check: { order: 'read', run: (call) => get(call, 'vsiz') },
  set_bulk: { order: 'write', run: setBulk },
  remove_bulk: { order: 'write', run: removeBulk },
  get_bulk: { order: 'alone', run: getBulk },
};
