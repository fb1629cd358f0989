/**
 * Any sequence of remote procedures answers as a map with expiration times does, on an ordered and on an unordered
 * database, whatever bytes keys and values are and however the clock moves.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { ClientBench, type RawClient } from '../support/client-bench.js';

interface ModelRecord {
  readonly value: string;
  /** Expiration time in ms; `Infinity` for never. */
  readonly xtMs: number;
}

type Answer = readonly [status: number, rows: Readonly<Record<string, string>>];

const OK: Answer = [200, {}];
const NONE: Answer = [450, { ERROR: 'DB: 7: no record: no record' }];
const DUPLICATE: Answer = [450, { ERROR: 'DB: 6: record duplication: record duplication' }];
const CONFLICT: Answer = [450, { ERROR: 'DB: 8: logical inconsistency: status conflict' }];
const INCONSISTENT: Answer = [450, { ERROR: 'DB: 8: logical inconsistency: logical inconsistency' }];

/** What the server must hold. */
class Model {
  nowMs: number;
  readonly #records = new Map<string, ModelRecord>();

  constructor(nowMs: number) {
    this.nowMs = nowMs;
  }

  get(key: string): ModelRecord | undefined {
    const record = this.#records.get(key);
    return record !== undefined && record.xtMs > this.nowMs ? record : undefined;
  }

  put(key: string, value: string, xt: number | undefined): Answer {
    const xtMs = xt === undefined ? Infinity : xt < 0 ? -xt * 1000 : this.nowMs + xt * 1000;
    this.#records.set(key, { value, xtMs });
    return OK;
  }

  take(key: string): ModelRecord | undefined {
    const record = this.get(key);
    this.#records.delete(key);
    return record;
  }

  clear(): Answer {
    this.#records.clear();
    return OK;
  }

  keys(): string[] {
    return [...this.#records.keys()].filter((key) => this.get(key) !== undefined).sort();
  }
}

function shown(name: string, { value, xtMs }: ModelRecord): Record<string, string> {
  return { [name]: value, ...(xtMs === Infinity ? {} : { xt: String(Math.floor(xtMs / 1000)) }) };
}

/** One call: what is sent, and what the model says to it. */
interface Step {
  readonly procedure: string;
  readonly input: Readonly<Record<string, string>>;
  expect(model: Model): Answer;
}

const text = fc.oneof(
  fc.constantFrom('', 'x'),
  fc.uint8Array({ maxLength: 12 }).map((array) => Buffer.from(array).toString('latin1')),
);
const key = fc.oneof({ weight: 4, arbitrary: fc.constantFrom('', 'a', 'ab', 'b', '\xff\0', 'n') }, text);
/** Where every sequence begins; some expiration times lie a little after it. */
const START_MS = 1_700_000_000_000;

const xt = fc.option(fc.constantFrom(0, 1, 2, 10, -1, -1_700_000_003), { nil: undefined });

function withXt(input: Record<string, string>, seconds: number | undefined): Record<string, string> {
  return seconds === undefined ? input : { ...input, xt: String(seconds) };
}

function integerOf(value: string): bigint | undefined {
  return value.length === 8 ? Buffer.from(value, 'latin1').readBigInt64BE() : undefined;
}

function integerText(value: bigint): string {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(value);
  return bytes.toString('latin1');
}

const writes = fc.tuple(key, text, xt, fc.constantFrom('set', 'add', 'replace', 'append')).map(
  ([k, value, seconds, procedure]): Step => ({
    procedure,
    input: withXt({ key: k, value }, seconds),
    expect: (model) => {
      const before = model.get(k);
      if (procedure === 'add' && before !== undefined) return DUPLICATE;
      if (procedure === 'replace' && before === undefined) return NONE;
      return model.put(k, procedure === 'append' ? `${before?.value ?? ''}${value}` : value, seconds);
    },
  }),
);

const reads = fc.tuple(key, fc.constantFrom('get', 'check', 'seize', 'remove')).map(
  ([k, procedure]): Step => ({
    procedure,
    input: { key: k },
    expect: (model) => {
      const found = procedure === 'seize' || procedure === 'remove' ? model.take(k) : model.get(k);
      if (found === undefined) return NONE;
      if (procedure === 'remove') return OK;
      if (procedure === 'check') return [200, shown('vsiz', { ...found, value: String(found.value.length) })];
      return [200, shown('value', found)];
    },
  }),
);

const increments = fc
  .tuple(key, fc.bigInt({ min: -5n, max: 5n }), xt, fc.constantFrom(undefined, 'try', 'set', '7'))
  .map(
    ([k, by, seconds, origin]): Step => ({
      procedure: 'increment',
      input: withXt({ key: k, num: String(by), ...(origin === undefined ? {} : { orig: origin }) }, seconds),
      expect: (model) => {
        const before = model.get(k);
        const stored = before === undefined ? undefined : integerOf(before.value);
        if (before === undefined ? origin === 'try' : stored === undefined) return INCONSISTENT;
        const base = origin === 'set' ? 0n : (stored ?? (origin === '7' ? 7n : 0n));
        if (before !== undefined && by === 0n && origin !== 'set') return [200, { num: String(base) }];
        model.put(k, integerText(base + by), seconds);
        return [200, { num: String(base + by) }];
      },
    }),
  );

/** Few values, so that the expected one is often there. */
const swaps = fc.tuple(key, fc.constantFrom(undefined, '', 'x'), fc.constantFrom(undefined, '', 'x')).map(
  ([k, oval, nval]): Step => ({
    procedure: 'cas',
    input: { key: k, ...(oval === undefined ? {} : { oval }), ...(nval === undefined ? {} : { nval }) },
    expect: (model) => {
      if (model.get(k)?.value !== oval) return CONFLICT;
      if (nval === undefined) model.take(k);
      else model.put(k, nval, undefined);
      return OK;
    },
  }),
);

const bulk = fc
  .tuple(fc.uniqueArray(key, { maxLength: 5 }), text, fc.constantFrom('set_bulk', 'remove_bulk', 'get_bulk'))
  .map(
    ([keys, value, procedure]): Step => ({
      procedure,
      input: Object.fromEntries(keys.map((k) => [`_${k}`, value])),
      expect: (model) => {
        const found = keys.filter((k) => model.get(k) !== undefined);
        const rows = Object.fromEntries(found.map((k) => [`_${k}`, model.get(k)?.value ?? '']));
        if (procedure === 'get_bulk') return [200, { ...rows, num: String(found.length) }];
        for (const k of keys) {
          if (procedure === 'set_bulk') model.put(k, value, undefined);
          else model.take(k);
        }
        return [200, { num: String(procedure === 'set_bulk' ? keys.length : found.length) }];
      },
    }),
  );

const searches = fc.tuple(fc.constantFrom('', 'a', '\xff', 'ab'), fc.option(fc.nat(3), { nil: undefined })).map(
  ([prefix, max]): Step => ({
    procedure: 'match_prefix',
    input: { prefix, ...(max === undefined ? {} : { max: String(max) }) },
    expect: (model) => {
      const found = model
        .keys()
        .filter((k) => k.startsWith(prefix))
        .slice(0, max ?? Infinity);
      return [200, { ...Object.fromEntries(found.map((k, i) => [`_${k}`, String(i)])), num: String(found.length) }];
    },
  }),
);

const walks = fc.option(key, { nil: undefined }).map(
  (from): Step => ({
    procedure: 'walk',
    input: from === undefined ? {} : { key: from },
    expect: (model) => [
      200,
      Object.fromEntries(
        model
          .keys()
          .filter((k) => k >= (from ?? ''))
          .map((k) => [k, model.get(k)?.value ?? '']),
      ),
    ],
  }),
);

const clears = fc.constant<Step>({ procedure: 'clear', input: {}, expect: (model) => model.clear() });
/** Milliseconds that pass. */
const waits = fc.constantFrom(1, 500, 1000, 3000, 10_000);
const steps = fc.array(
  fc.oneof(
    { weight: 5, arbitrary: writes },
    { weight: 5, arbitrary: reads },
    { weight: 4, arbitrary: increments },
    { weight: 3, arbitrary: swaps },
    { weight: 3, arbitrary: bulk },
    { weight: 2, arbitrary: searches },
    { weight: 2, arbitrary: walks },
    { weight: 1, arbitrary: clears },
    { weight: 2, arbitrary: waits },
  ),
  // Long ones: what one call leaves behind shows in another much later.
  { minLength: 5, maxLength: 60, size: 'max' },
);

describe('any sequence of calls answers as a map with expiration times', () => {
  const server = new ClientBench(['casket.kct', 'casket.kch']);
  let client: RawClient;
  before(async () => {
    await server.listen();
    client = await server.connect();
  });
  after(async () => await server.close());

  /** A whole walk with a cursor of its own. */
  async function walk(DB: string, from: Readonly<Record<string, string>>): Promise<Answer> {
    const rows: Record<string, string> = {};
    // Where the order means nothing a jump must hit: the walk begins at the start then.
    const jump = DB === '0' ? from : {};
    let { status } = await client.rpc('cur_jump', { ...jump, DB, CUR: '1' });
    for (let walked = 0; status === 200; walked++) {
      assert.ok(walked < 1000, 'a walk comes to an end');
      const reply = await client.rpc('cur_get', { CUR: '1', step: '' });
      status = reply.status;
      const name = reply.rows.get('key');
      if (name !== undefined && name >= (from.key ?? '')) rows[name] = reply.rows.get('value') ?? '';
    }
    await client.rpc('cur_delete', { CUR: '1' });
    return [200, rows];
  }

  async function answer(DB: string, { procedure, input }: Step): Promise<Answer> {
    if (procedure === 'walk') return await walk(DB, input);
    const { status, rows } = await client.rpc(procedure, { ...input, DB });
    return [status, Object.fromEntries(rows)];
  }

  for (const [index, kind] of ['ordered', 'unordered'].entries()) {
    it(`on an ${kind} database`, async () => {
      const DB = String(index);
      await fc.assert(
        fc.asyncProperty(steps, async (sequence) => {
          await client.rpc('clear', { DB });
          server.bench.clock.ms = START_MS;
          const model = new Model(server.bench.clock.ms);
          for (const step of sequence) {
            if (typeof step === 'number') {
              server.bench.clock.ms += step;
              model.nowMs = server.bench.clock.ms;
              continue;
            }
            const expected = step.expect(model);
            assert.deepEqual(await answer(DB, step), expected, `${step.procedure} ${JSON.stringify(step.input)}`);
          }
        }),
        { numRuns: 60 },
      );
    });
  }
});
