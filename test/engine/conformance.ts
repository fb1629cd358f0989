/**
 * What every engine must do, as one suite against the `Engine` interface: give it a way to open an engine and it
 * registers the tests. An engine that passes can carry a store.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import fc from 'fast-check';
import type { Engine, MapId, Range, Reader, Writer } from '../../src/engine/engine.js';

export interface EngineUnderTest {
  /** Opens an engine of at least 64 maps and 64 MB; `folder` is its own, whether it uses it or not. */
  open(folder: string): Engine;
  /** What was closed is there again when the folder is opened again. */
  readonly persists: boolean;
  /** Longest key it promises to store, in bytes. */
  readonly maxKeyBytes: number;
}

const RUNS = 40;

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');
const text = (buffer: Buffer | undefined): string | undefined => buffer?.toString('latin1');

/** Copies: keys and values of an entry are valid only while the iteration stands there. */
function entries(reader: Reader, map: MapId, range: Range = {}): string[] {
  return [...pairs(reader, map, range)];
}

function* pairs(reader: Reader, map: MapId, range: Range): Generator<string> {
  for (const { key, value } of reader.range(map, range)) yield `${text(key)}=${text(value)}`;
}

/** One step of a write transaction, on one of two maps. */
type Step =
  | { readonly kind: 'put'; readonly map: 0 | 1; readonly key: string; readonly value: string }
  | { readonly kind: 'remove'; readonly map: 0 | 1; readonly key: string }
  | { readonly kind: 'clear'; readonly map: 0 | 1 };

interface Transaction {
  readonly steps: readonly Step[];
  readonly throws: boolean;
}

const aMap = fc.constantFrom<0 | 1>(0, 1);
/** Few and similar keys, so that steps meet; empty, zero and high bytes among them. */
const aKey = fc.oneof(
  fc.constantFrom('', '\0', '\0\0', 'a', 'ab', 'b', '\xff', '\xff\xff', '\x01'),
  fc.string({ maxLength: 3 }),
);
const aStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('put' as const), map: aMap, key: aKey, value: fc.string() }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('remove' as const), map: aMap, key: aKey }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const), map: aMap }) },
);
const aTransaction: fc.Arbitrary<Transaction> = fc.record({
  steps: fc.array(aStep, { maxLength: 12 }),
  throws: fc.boolean(),
});
const aRange = fc.record(
  { start: aKey, end: aKey, reverse: fc.boolean(), limit: fc.nat({ max: 5 }) },
  { requiredKeys: [] },
);

type Model = readonly [Map<string, string>, Map<string, string>];

function applyToModel(model: Model, step: Step): boolean | undefined {
  const map = model[step.map];
  if (step.kind === 'put') map.set(step.key, step.value);
  else if (step.kind === 'remove') return map.delete(step.key);
  else map.clear();
  return undefined;
}

function rangeOfModel(map: ReadonlyMap<string, string>, range: ModelRange): string[] {
  const compare = (a: string, b: string): number => bytes(a).compare(bytes(b));
  const keys = [...map.keys()].sort(compare).filter((key) => {
    if (range.start !== undefined && compare(key, range.start) < 0) return false;
    return range.end === undefined || compare(key, range.end) < 0;
  });
  if (range.reverse === true) keys.reverse();
  return keys.slice(0, range.limit ?? keys.length).map((key) => `${key}=${map.get(key)}`);
}

interface ModelRange {
  readonly start?: string;
  readonly end?: string;
  readonly reverse?: boolean;
  readonly limit?: number;
}

function engineRange({ start, end, ...rest }: ModelRange): Range {
  return {
    ...rest,
    ...(start === undefined ? {} : { start: bytes(start) }),
    ...(end === undefined ? {} : { end: bytes(end) }),
  };
}

class Undone extends Error {}

/** Registers the suite. */
export function engineConformance(name: string, { open, persists, maxKeyBytes }: EngineUnderTest): void {
  describe(`the engine ${name}`, () => {
    let folder: string;
    let engine: Engine;
    let map: MapId;

    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), 'tokaido-engine-'));
      engine = open(join(folder, 'data'));
      map = engine.openMap('first');
    });
    afterEach(async () => {
      await engine.close();
      rmSync(folder, { recursive: true, force: true });
    });

    const put = async (records: Record<string, string>): Promise<void> => {
      await engine.write((writer) => {
        for (const [key, value] of Object.entries(records)) writer.put(map, bytes(key), bytes(value));
      });
    };

    it('opens a map of the same name once, and keeps maps apart', async () => {
      const second = engine.openMap('second');
      assert.equal(engine.openMap('first'), map);
      assert.notEqual(second, map);
      await engine.write((writer) => {
        writer.put(map, bytes('k'), bytes('1'));
        writer.put(second, bytes('k'), bytes('2'));
      });
      await engine.write((writer) => writer.clear(map));
      assert.deepEqual([entries(engine, map), entries(engine, second)], [[], ['k=2']]);
    });

    it('holds many maps, all in one transaction', async () => {
      const maps = Array.from({ length: 60 }, (_, i) => engine.openMap(`map-${i}`));
      await engine.write((writer) => {
        for (const [i, each] of maps.entries()) writer.put(each, bytes('k'), bytes(`${i}`));
      });
      assert.deepEqual(
        maps.map((each) => text(engine.get(each, bytes('k')))),
        maps.map((_, i) => `${i}`),
      );
    });

    it('shows a commit to readers as soon as its write resolves, whole', async () => {
      const seen: (string | undefined)[] = [];
      for (let i = 0; i < 50; i++) {
        const writing = engine.write((writer) => {
          writer.put(map, bytes('a'), bytes(`${i}`));
          writer.put(map, bytes('b'), bytes(`${i}`));
          return i;
        });
        const [a, b] = [text(engine.get(map, bytes('a'))), text(engine.get(map, bytes('b')))];
        assert.equal(a, b);
        assert.equal((await writing).result, i);
        seen.push(text(engine.get(map, bytes('b'))));
      }
      assert.deepEqual(
        seen,
        seen.map((_, i) => `${i}`),
      );
    });

    it('takes copies of what is put', async () => {
      const [key, value] = [bytes('key'), bytes('value')];
      await engine.write((writer) => {
        writer.put(map, key, value);
        key.fill(0);
        value.fill(0);
      });
      assert.deepEqual(entries(engine, map), ['key=value']);
    });

    it('stores the empty key, the empty value, keys of zeros, the longest key and a large value', async () => {
      const longest = 'x'.repeat(maxKeyBytes);
      const large = 'y'.repeat(3_000_000);
      await put({ '': 'empty key', '\0': 'zero', '\0\0': 'zeros', empty: '', [longest]: 'longest', large });
      assert.equal(text(engine.get(map, bytes(''))), 'empty key');
      assert.equal(text(engine.get(map, bytes('\0'))), 'zero');
      assert.equal(text(engine.get(map, bytes('empty'))), '');
      assert.equal(text(engine.get(map, bytes(longest))), 'longest');
      assert.equal(text(engine.get(map, bytes('large'))), large);
      assert.deepEqual(entries(engine, map, { limit: 3 }), ['=empty key', '\0=zero', '\0\0=zeros']);
    });

    it('refuses a key it cannot store with TOO_LARGE, and the whole transaction with it', async () => {
      const tooLong = engine.write((writer) => {
        writer.put(map, bytes('before'), bytes('1'));
        writer.put(map, bytes('x'.repeat(100_000)), bytes('1'));
      });
      await assert.rejects(tooLong, { code: 'TOO_LARGE' });
      assert.deepEqual(entries(engine, map), []);
      assert.equal(engine.get(map, bytes('x'.repeat(100_000))), undefined);
      await engine.write((writer) => assert.equal(writer.remove(map, bytes('x'.repeat(100_000))), false));
      const snapshot = engine.snapshot();
      assert.equal(snapshot.get(map, bytes('x'.repeat(100_000))), undefined);
      snapshot.close();
      await put({ after: '1' });
      assert.deepEqual(entries(engine, map), ['after=1']);
    });

    it('reads ranges: start included, end not, backwards, limited, in the order of bytes', async () => {
      await put({ a: '1', ab: '2', b: '3', '\xff': '4', '': '0' });
      const range = (wanted: ModelRange): string => entries(engine, map, engineRange(wanted)).join(' ');
      assert.equal(range({}), '=0 a=1 ab=2 b=3 \xff=4');
      assert.equal(range({ start: 'a', end: 'b' }), 'a=1 ab=2');
      assert.equal(range({ start: 'a', end: 'b', reverse: true }), 'ab=2 a=1');
      assert.equal(range({ start: 'aa', limit: 2 }), 'ab=2 b=3');
      assert.equal(range({ reverse: true, limit: 2 }), '\xff=4 b=3');
      assert.equal(range({ end: 'a' }), '=0');
      assert.equal(range({ end: 'aa', reverse: true }), 'a=1 =0');
      assert.equal(range({ start: 'b', end: 'a' }), '');
      assert.equal(range({ start: 'b', end: 'a', reverse: true }), '');
      assert.equal(range({ start: 'a', end: 'a' }), '');
      assert.equal(range({ limit: 0 }), '');
    });

    it('lets a reader leave a range in the middle', async () => {
      await put({ a: '1', b: '2', c: '3' });
      for (let i = 0; i < 1000; i++) for (const { key } of engine.range(map, {})) if (text(key) === 'b') break;
      await put({ d: '4' });
      assert.equal(entries(engine, map).length, 4);
    });

    it('any sequence of transactions equals a plain map, inside the transaction too; one that throws leaves nothing', async () => {
      const second = engine.openMap('second');
      const maps = [map, second] as const;
      const compare = (reader: Reader, model: Model, range: ModelRange): void => {
        for (const side of [0, 1] as const) {
          assert.deepEqual(entries(reader, maps[side]), rangeOfModel(model[side], {}));
          assert.deepEqual(entries(reader, maps[side], engineRange(range)), rangeOfModel(model[side], range));
        }
      };
      const perform = (writer: Writer, model: Model, step: Step): void => {
        const inMap = maps[step.map];
        const expected = applyToModel(model, step);
        if (step.kind === 'put') writer.put(inMap, bytes(step.key), bytes(step.value));
        else if (step.kind === 'clear') writer.clear(inMap);
        else assert.equal(writer.remove(inMap, bytes(step.key)), expected);
        if (step.kind !== 'clear') {
          assert.equal(text(writer.get(inMap, bytes(step.key))), model[step.map].get(step.key));
        }
      };
      await fc.assert(
        fc.asyncProperty(fc.array(aTransaction, { maxLength: 8 }), aRange, async (transactions, range) => {
          await engine.write((writer) => {
            for (const each of maps) writer.clear(each);
          });
          let model: Model = [new Map(), new Map()];
          for (const { steps, throws } of transactions) {
            const next: Model = [new Map(model[0]), new Map(model[1])];
            const writing = engine.write((writer) => {
              for (const step of steps) perform(writer, next, step);
              compare(writer, next, range as ModelRange);
              if (throws) throw new Undone();
            });
            if (throws) await assert.rejects(writing, Undone);
            else await writing;
            if (!throws) model = next;
            compare(engine, model, range as ModelRange);
          }
        }),
        { numRuns: RUNS },
      );
    });

    it('a snapshot stays what it was while writes go on, and its end is no one else’s', async () => {
      await put(Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`k${i}`, 'old'])));
      const snapshot = engine.snapshot();
      const before = entries(snapshot, map);
      const reading = snapshot.range(map, {})[Symbol.iterator]();
      const read: string[] = [];
      for (let round = 0; round < 10; round++) {
        for (let i = 0; i < 50; i++) {
          const { value: entry, done } = reading.next();
          if (done !== true) read.push(`${text(entry.key)}=${text(entry.value)}`);
        }
        await engine.write((writer) => {
          if (round === 5) writer.clear(map);
          for (let i = 0; i < 100; i++) writer.put(map, bytes(`k${i * round}`), bytes(`new ${round}`));
          for (let i = 0; i < 20; i++) writer.remove(map, bytes(`k${i + round}`));
        });
        assert.equal(text(snapshot.get(map, bytes('k7'))), 'old');
      }
      assert.deepEqual(read, before);
      assert.deepEqual(entries(snapshot, map), before);
      const later = engine.snapshot();
      snapshot.close();
      snapshot.close();
      assert.deepEqual(entries(later, map), entries(engine, map));
      later.close();
    });

    it('says when a commit is on the disk, and can be asked to bring everything there', async () => {
      const commits = [];
      for (let i = 0; i < 5; i++)
        commits.push(await engine.write((writer) => writer.put(map, bytes(`${i}`), bytes(''))));
      await Promise.all(commits.map(({ flushed }) => flushed));
      await engine.flush();
      await engine.flush();
      assert.ok(engine.sizeBytes() >= 0);
    });

    it('a close with snapshots open and flushes under way ends in good order, twice', async () => {
      await put({ a: '1' });
      engine.snapshot();
      const { flushed } = await engine.write((writer) => writer.put(map, bytes('b'), bytes('2')));
      await Promise.all([engine.close(), flushed]);
      await engine.close();
    });

    if (persists) {
      it('finds everything again after a close, also what was cleared and removed', async () => {
        await put({ a: '1', b: '2' });
        await engine.write((writer) => writer.remove(map, bytes('a')));
        await engine.close();
        engine = open(join(folder, 'data'));
        map = engine.openMap('first');
        assert.deepEqual(entries(engine, map), ['b=2']);
        assert.ok(engine.sizeBytes() > 0);
      });
    }
  });
}
