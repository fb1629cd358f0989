/**
 * Any sequence of memcached's commands answers as a map does, on a database in memory and on one on the disk, with
 * flags kept and not, however the clock moves and wherever the stream is cut.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { MemcachedBench, type MemcachedClient } from '../support/memcached-bench.js';

interface Item {
  readonly value: string;
  readonly flags: number;
  /** Expiration time in ms; `Infinity` for never. */
  readonly xtMs: number;
  /** Number of the write that made it, which stands for its unique id. */
  readonly write: number;
}

const START_MS = 1_700_000_000_000;
const LIMIT = 2n ** 64n;

/** What the server must hold. */
class Model {
  nowMs = START_MS;
  readonly keepsFlags: boolean;
  #writes = 0;
  readonly #items = new Map<string, Item>();

  constructor(keepsFlags: boolean) {
    this.keepsFlags = keepsFlags;
  }

  get(key: string): Item | undefined {
    const item = this.#items.get(key);
    return item !== undefined && item.xtMs > this.nowMs ? item : undefined;
  }

  put(key: string, { value, flags, xtMs }: Omit<Item, 'write'>): void {
    this.#items.set(key, { value, flags: this.keepsFlags ? flags : 0, xtMs, write: ++this.#writes });
  }

  remove(key: string): boolean {
    const was = this.get(key) !== undefined;
    this.#items.delete(key);
    return was;
  }

  clear(): void {
    this.#items.clear();
  }

  xtOf(exptime: number): number {
    if (exptime === 0) return Infinity;
    if (exptime < 0) return 0;
    return exptime > 2_592_000 ? exptime * 1000 : this.nowMs + exptime * 1000;
  }
}

/** One command: what is sent, and what the model says to it. */
interface Step {
  readonly text: string;
  expect(model: Model): string;
}

const key = fc.constantFrom('a', 'b', 'n', 'k'.repeat(250));
const value = fc.oneof(
  fc.constantFrom('', '7', '18446744073709551615', 'END\r\n'),
  fc.uint8Array({ maxLength: 12 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
);
const flags = fc.constantFrom(0, 1, 4_294_967_295);
const exptime = fc.constantFrom(0, 0, 1, 3, -1, 2_592_000, START_MS / 1000 + 2);
const quiet = fc.boolean();

const found = (k: string, { value: v, flags: f }: Item): string => `VALUE ${k} ${f} ${v.length}\r\n${v}\r\n`;

const stores = fc
  .record({
    mode: fc.constantFrom('set', 'set', 'add', 'replace', 'append', 'prepend'),
    key,
    value,
    flags,
    exptime,
    quiet,
  })
  .map(
    (store): Step => ({
      text: `${store.mode} ${store.key} ${store.flags} ${store.exptime} ${store.value.length}${store.quiet ? ' noreply' : ''}\r\n${store.value}\r\n`,
      expect: (model) => {
        const said = (text: string): string => (store.quiet ? '' : text);
        const was = model.get(store.key);
        if (store.mode === 'add' ? was !== undefined : store.mode !== 'set' && was === undefined)
          return said('NOT_STORED\r\n');
        const joins = store.mode === 'append' || store.mode === 'prepend';
        const joined = store.mode === 'append' ? `${was?.value}${store.value}` : `${store.value}${was?.value}`;
        if (joins) model.put(store.key, { ...(was as Item), value: joined });
        else model.put(store.key, { ...store, xtMs: model.xtOf(store.exptime) });
        return said('STORED\r\n');
      },
    }),
  );

const gets = fc.uniqueArray(key, { minLength: 1 }).map(
  (keys): Step => ({
    text: `get ${keys.join(' ')}\r\n`,
    expect: (model) =>
      `${keys.map((k) => (model.get(k) === undefined ? '' : found(k, model.get(k) as Item))).join('')}END\r\n`,
  }),
);

const removes = fc.tuple(key, quiet).map(
  ([k, isQuiet]): Step => ({
    text: `delete ${k}${isQuiet ? ' noreply' : ''}\r\n`,
    expect: (model) => {
      const answer = model.remove(k) ? 'DELETED\r\n' : 'NOT_FOUND\r\n';
      return isQuiet ? '' : answer;
    },
  }),
);

const counts = fc.tuple(key, fc.constantFrom('incr', 'decr'), fc.constantFrom(0n, 1n, 9n, LIMIT - 1n)).map(
  ([k, command, by]): Step => ({
    text: `${command} ${k} ${by}\r\n`,
    expect: (model) => {
      const was = model.get(k);
      if (was === undefined) return 'NOT_FOUND\r\n';
      const number = /^ *\d{1,20} *$/.test(was.value) ? BigInt(was.value.trim()) : LIMIT;
      if (number >= LIMIT) return 'CLIENT_ERROR cannot increment or decrement non-numeric value\r\n';
      const sum = command === 'incr' ? (number + by) % LIMIT : number > by ? number - by : 0n;
      model.put(k, { ...was, value: String(sum) });
      return `${sum}\r\n`;
    },
  }),
);

const touches = fc.tuple(key, exptime, fc.constantFrom('touch', 'gat', 'mg')).map(
  ([k, seconds, command]): Step => ({
    text: { touch: `touch ${k} ${seconds}\r\n`, gat: `gat ${seconds} ${k}\r\n`, mg: `mg ${k} T${seconds} s v\r\n` }[
      command
    ] as string,
    expect: (model) => {
      const was = model.get(k);
      if (was !== undefined) model.put(k, { ...was, xtMs: model.xtOf(seconds) });
      if (command === 'touch') return was === undefined ? 'NOT_FOUND\r\n' : 'TOUCHED\r\n';
      if (command === 'gat') return was === undefined ? 'END\r\n' : `${found(k, was)}END\r\n`;
      return was === undefined ? 'EN\r\n' : `VA ${was.value.length} s${was.value.length}\r\n${was.value}\r\n`;
    },
  }),
);

const meta = fc.tuple(key, value, fc.constantFrom('ms', 'md', 'mdx', 'ma')).map(
  ([k, v, command]): Step => ({
    text: {
      ms: `ms ${k} ${v.length} F6 T3 s\r\n${v}\r\n`,
      md: `md ${k} q\r\n`,
      mdx: `md ${k} x\r\n`,
      ma: `ma ${k} N0 J5 v\r\n`,
    }[command] as string,
    expect: (model) => {
      const was = model.get(k);
      if (command === 'ms') {
        model.put(k, { value: v, flags: 6, xtMs: model.xtOf(3) });
        return `HD s${v.length}\r\n`;
      }
      if (command === 'md') {
        return model.remove(k) ? '' : 'NF\r\n';
      }
      if (command === 'mdx') {
        if (was === undefined) return 'NF\r\n';
        model.put(k, { ...was, value: '', flags: 0 });
        return 'HD\r\n';
      }
      const counted = was === undefined ? '5' : countsOnce(was.value);
      if (counted === undefined) return 'CLIENT_ERROR cannot increment or decrement non-numeric value\r\n';
      model.put(k, { flags: 0, xtMs: Infinity, ...was, value: counted });
      return `VA ${counted.length}\r\n${counted}\r\n`;
    },
  }),
);

function countsOnce(text: string): string | undefined {
  if (!/^ *\d{1,20} *$/.test(text) || BigInt(text.trim()) >= LIMIT) return undefined;
  return String((BigInt(text.trim()) + 1n) % LIMIT);
}

const clears = fc.constant<Step>({
  text: 'flush_all\r\n',
  expect: (model) => {
    model.clear();
    return 'OK\r\n';
  },
});

/** What follows in one stream, and how far the clock moves before it. */
const round = fc.record({
  waitMs: fc.constantFrom(0, 0, 500, 1000, 2500),
  steps: fc.array(
    fc.oneof(
      { weight: 6, arbitrary: stores },
      { weight: 3, arbitrary: gets },
      { weight: 2, arbitrary: removes },
      { weight: 3, arbitrary: counts },
      { weight: 3, arbitrary: touches },
      { weight: 3, arbitrary: meta },
      { weight: 1, arbitrary: clears },
    ),
    { minLength: 1, maxLength: 15 },
  ),
  cut: fc.double({ min: 0, max: 1, noNaN: true }),
});

describe('any sequence of memcached commands answers as a map does', () => {
  let bench: MemcachedBench;
  before(async () => {
    bench = new MemcachedBench([':', 'casket.kct']);
  });
  after(async () => await bench.close());

  for (const [database, where] of [
    ['0', 'in memory'],
    ['casket.kct', 'on the disk'],
  ] as const) {
    for (const keepsFlags of [true, false]) {
      it(`${where}, flags ${keepsFlags ? 'kept' : 'dropped'}`, async () => {
        const client: MemcachedClient = await bench.connect(await bench.listen({ database, flags: keepsFlags }));
        await fc.assert(
          fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 6 }), async (rounds) => {
            await client.ask('flush_all\r\n');
            const model = new Model(keepsFlags);
            bench.server.bench.clock.ms = START_MS;
            for (const { waitMs, steps, cut } of rounds) {
              bench.server.bench.clock.ms += waitMs;
              model.nowMs += waitMs;
              const text = steps.map((step) => step.text).join('');
              const expected = steps.map((step) => step.expect(model)).join('');
              const at = Math.floor(cut * text.length);
              client.send(text.slice(0, at));
              await new Promise((resolve) => setImmediate(resolve));
              assert.equal(await client.ask(text.slice(at)), expected, JSON.stringify(text));
            }
          }),
          { numRuns: 30 },
        );
      });
    }
  }
});
