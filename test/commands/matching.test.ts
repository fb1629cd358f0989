/** Matching on a real store: what matches, what it may cost, and that it lets others through. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import fc from 'fast-check';
import type { Runtime, Timer } from '../../src/base/runtime.js';
import { Commands } from '../../src/commands/commands.js';
import { matchPrefix, matchRegex, matchSimilar, type Search } from '../../src/commands/matching.js';
import { Slices } from '../../src/commands/slices.js';
import { bytes, StoreBench } from '../support/store-model.js';

/** A clock that moves by one millisecond with every look: four looks make a slice. */
class HastyClock implements Pick<Runtime, 'monotonicMs' | 'after'> {
  #ms = 0;
  /** How often somebody gave way. */
  pauses = 0;
  onPause: () => void = () => undefined;

  monotonicMs(): number {
    return this.#ms++;
  }

  after(_delayMs: number, fn: () => void): Timer {
    this.pauses++;
    this.onPause();
    const handle = setImmediate(fn);
    return { cancel: () => clearImmediate(handle) };
  }
}

/** Levenshtein's distance by its definition. */
function distance(a: ArrayLike<unknown>, b: ArrayLike<unknown>): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const above = rows[i - 1] as number[];
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (above[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(change, (above[j] as number) + 1, (row[j - 1] as number) + 1));
    }
    rows.push(row);
  }
  return rows[a.length]?.[b.length] as number;
}

describe('matching', () => {
  let bench: StoreBench;
  let commands: Commands;
  let clock: HastyClock;
  let search: Search;

  beforeEach(() => {
    bench = new StoreBench();
    const store = bench.store(1);
    commands = new Commands({
      store: () => store,
      writeGate: () => undefined,
      limits: { keyBytes: 1024, valueBytes: 100 },
      durability: 'committed',
    });
    clock = new HastyClock();
    const database = commands.database('default');
    search = { commands, slices: new Slices(clock), database, max: Infinity, isWanted: () => true };
  });
  afterEach(async () => await bench.close());

  const fill = async (keys: readonly string[]): Promise<void> => {
    const { database } = search;
    await commands.setBulk(keys.map((key) => ({ database, key: bytes(key), value: bytes(''), xtMs: 0 })));
  };
  const names = async (keys: readonly Buffer[] | Promise<readonly Buffer[]>): Promise<string[]> => {
    return (await keys).map((key) => key.toString('latin1'));
  };

  it('a prefix matches its keys in order, up to max, whatever bytes they are', async () => {
    await fill(['', 'a', 'a\0', 'a\xff', 'a\xff\xff', 'b', '\xff', '\xff\xff']);
    assert.deepEqual(await names(matchPrefix(search, bytes('a'))), ['a', 'a\0', 'a\xff', 'a\xff\xff']);
    assert.deepEqual(await names(matchPrefix(search, bytes('a\xff'))), ['a\xff', 'a\xff\xff']);
    assert.deepEqual(await names(matchPrefix(search, bytes('\xff'))), ['\xff', '\xff\xff']);
    assert.deepEqual(await names(matchPrefix({ ...search, max: 2 }, bytes(''))), ['', 'a']);
    assert.deepEqual(await names(matchPrefix({ ...search, max: 0 }, bytes(''))), []);
    assert.deepEqual(await names(matchPrefix(search, Buffer.alloc(20_000, 'a'))), []);
  });

  it('neither removed nor expired records match', async () => {
    await fill(['a', 'b', 'c']);
    await commands.remove({ database: search.database, key: bytes('a') });
    await commands.set({ database: search.database, key: bytes('b'), value: bytes(''), xtMs: bench.clock.ms + 1 });
    bench.clock.ms += 1;
    assert.deepEqual(await names(matchPrefix(search, bytes(''))), ['c']);
  });

  it('an expression matches anywhere in a key, byte by byte', async () => {
    await fill(['ban', 'band\n', 'can', 'c\xe5n', 'x.y', 'one two']);
    assert.deepEqual(await names(matchRegex(search, bytes('^ban.?'))), ['ban', 'band\n']);
    assert.deepEqual(await names(matchRegex(search, bytes('d.$'))), ['band\n']);
    assert.deepEqual(await names(matchRegex(search, bytes('^c[\x80-\xff]n$'))), ['c\xe5n']);
    assert.deepEqual(await names(matchRegex(search, bytes('x\\.y'))), ['x.y']);
    assert.deepEqual(await names(matchRegex(search, bytes('\\<two\\>'))), ['one two']);
    assert.deepEqual(await names(matchRegex(search, bytes('[[:space:]]'))), ['band\n', 'one two']);
  });

  it('what does not compile is refused in the reference words, what costs too much by its name', () => {
    for (const pattern of ['(', 'a**', '[z-a]', '(a)\\1']) {
      assert.throws(
        () => matchRegex(search, bytes(pattern)),
        { code: 'CONFLICT', message: 'compilation failed' },
        pattern,
      );
    }
    const costly = ['(abcdefghij){200}', `(${'ab'.repeat(300)}){1000}`, 'x{1000}'.repeat(20), `(?:a?){500}a{900}`];
    for (const pattern of costly)
      assert.throws(() => matchRegex(search, bytes(pattern)), { code: 'TOO_LARGE' }, pattern);
  });

  it('an expression that would take JavaScript for ever takes none of the time of others', async () => {
    await fill(['a'.repeat(1000)]);
    assert.deepEqual(await names(matchRegex(search, bytes('^(a+)+b$'))), []);
    assert.deepEqual(await names(matchRegex(search, bytes('(x+x+)+y|(a|a)*$'))), ['a'.repeat(1000)]);
  });

  it('similar keys are those within the edit distance, the nearest first, equals in key order', async () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 7 });
    const words = fc.uniqueArray(word, { maxLength: 30 });
    await fc.assert(
      fc.asyncProperty(words, word, fc.nat(8), fc.integer({ min: 1, max: 40 }), async (keys, origin, range, max) => {
        await commands.clear(search.database);
        await fill(keys);
        const wanted = keys
          .sort()
          .map((key) => ({ key, distance: distance(origin, key) }))
          .filter((match) => match.distance <= range)
          .sort((a, b) => a.distance - b.distance)
          .map(({ key }) => key)
          .slice(0, max);
        assert.deepEqual(await names(matchSimilar({ ...search, max }, bytes(origin), range, false)), wanted);
      }),
      { numRuns: 60 },
    );
  });

  it('similarity counts bytes, or characters when told so', async () => {
    const key = Buffer.from('東海道', 'utf8');
    await commands.set({ database: search.database, key, value: bytes(''), xtMs: 0 });
    const origin = Buffer.from('東海', 'utf8');
    assert.deepEqual(await matchSimilar(search, origin, 1, true), [key]);
    assert.deepEqual(await matchSimilar(search, origin, 2, false), []);
    assert.deepEqual(await matchSimilar(search, origin, 3, false), [key]);
    assert.throws(() => matchSimilar(search, Buffer.alloc(1025), 1, false), { code: 'TOO_LARGE' });
  });

  it('a long search gives way again and again, and misses nothing for it', async () => {
    const keys = Array.from({ length: 200 }, (_, i) => `k${String(i).padStart(4, '0')}`);
    await fill(keys);
    let reads = 0;
    clock.onPause = () => {
      // Somebody else is served in between.
      if (commands.get({ database: search.database, key: bytes('k0000') }) !== undefined) reads++;
    };
    assert.deepEqual(await names(matchPrefix(search, bytes('k'))), keys);
    assert.ok(clock.pauses > 10, `gave way ${clock.pauses} times`);
    assert.equal(reads, clock.pauses);
  });

  it('a search through nothing but removed records gives way too', async () => {
    const { database } = search;
    const keys = Array.from({ length: 20_000 }, (_, i) => bytes(`k${i}`));
    await commands.setBulk(keys.map((key) => ({ database, key, value: bytes(''), xtMs: 0 })));
    await commands.removeBulk(keys.map((key) => ({ database, key })));
    assert.deepEqual(await names(matchPrefix(search, bytes('k'))), []);
    assert.ok(clock.pauses > 2, `gave way ${clock.pauses} times`);
  });

  it('a search that nobody waits for ends', async () => {
    await fill(Array.from({ length: 200 }, (_, i) => `k${i}`));
    let isWanted = true;
    clock.onPause = () => {
      isWanted = false;
    };
    const abandoned = matchPrefix({ ...search, isWanted: () => isWanted }, bytes('k'));
    await assert.rejects(Promise.resolve(abandoned), { code: 'NETWORK' });
    assert.equal(clock.pauses, 1);
  });

  it('more than a hundred thousand matches are refused by name, fewer are asked for with max', async () => {
    const { database } = search;
    const keys = Array.from({ length: 100_001 }, (_, i) => bytes(`k${i}`));
    for (let at = 0; at < keys.length; at += 20_000) {
      const records = keys.slice(at, at + 20_000).map((key) => ({ database, key, value: bytes(''), xtMs: 0 }));
      await commands.setBulk(records);
    }
    const patient = { ...search, slices: new Slices(bench.clock.runtime) };
    await assert.rejects(async () => await matchPrefix(patient, bytes('k')), { code: 'TOO_LARGE' });
    assert.equal((await matchPrefix({ ...patient, max: 100_000 }, bytes('k'))).length, 100_000);
  });
});
