/** Invariant 4: whatever the order in which several origins' transactions arrive, stores end byte for byte equal. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { localNumber } from '../../src/base/types.js';
import type { Change, Transaction } from '../../src/log/transaction.js';
import { SnapshotLoader, SnapshotSource } from '../../src/store/snapshot.js';
import type { LocalStore } from '../../src/store/store.js';
import {
  aChange,
  aHistory,
  bytes,
  checkHashes,
  clear,
  dump,
  encode,
  START_MS,
  set,
  transaction,
  withBench,
} from '../support/store-model.js';

/** Which origin's next transactions arrive, how many at once, and how many known ones before them. */
interface Arrival {
  readonly origin: number;
  readonly count: number;
  readonly again: number;
}

const ORIGINS = [1, 2, 3];
const anArrival: fc.Arbitrary<Arrival> = fc.record({
  origin: fc.nat({ max: ORIGINS.length - 1 }),
  count: fc.integer({ min: 1, max: 3 }),
  again: fc.nat({ max: 2 }),
});
const anInterleaving = fc.array(anArrival, { maxLength: 20, size: 'max' });

/** Batches in the order of an interleaving; what it leaves over comes at the end. Each origin stays in its order. */
function batches(histories: readonly Transaction[][], interleaving: readonly Arrival[]): Buffer[] {
  const reached = histories.map(() => 0);
  const rest = histories.map((history, origin) => ({ origin, count: history.length, again: 0 }));
  return [...interleaving, ...rest].map(({ origin, count, again }) => {
    const from = reached[origin] as number;
    reached[origin] = from + count;
    return encode((histories[origin] as Transaction[]).slice(Math.max(0, from - again), from + count));
  });
}

async function collectAll(store: LocalStore): Promise<void> {
  while (await store.sweep());
}

/** Hands over every transaction of `from`'s log, also those that `to` has: it skips them. */
async function ship(from: LocalStore, to: LocalStore): Promise<void> {
  for (let at = from.log.first; at < from.log.next; ) {
    const batch = from.log.batchAt(at);
    assert.ok(batch !== undefined);
    await to.apply(Buffer.from(batch.payload)).committed;
    at = localNumber(batch.first + batch.count);
  }
}

/** By hash, whatever each has collected: who has collected less can compare (invariant 11). */
function checkEqual(one: LocalStore, other: LocalStore): void {
  const [there, back] = [one.proving.compare(other.proving.prove()), other.proving.compare(one.proving.prove())];
  assert.deepEqual([...there.differences, ...back.differences], []);
  assert.ok(
    there.putOff.every((name) => !back.putOff.includes(name)),
    'one of two can compare',
  );
}

describe('stores that saw the same transactions in different orders (invariant 4)', () => {
  it('end byte for byte equal: records, tombstones, clears, counts and positions', async () => {
    const histories = fc.tuple(...ORIGINS.map(aHistory));
    const scene = fc.tuple(histories, anInterleaving, anInterleaving, fc.nat({ max: 20 }));
    await fc.assert(
      fc.asyncProperty(scene, async ([written, one, other, sweepAt]) => {
        await withBench(async (bench) => {
          const [first, second] = [bench.store(undefined), bench.store(undefined)];
          for (const batch of batches(written, one)) await first.apply(batch).committed;
          for (const [i, batch] of batches(written, other).entries()) {
            await second.apply(batch).committed;
            if (i === sweepAt) await second.sweep();
          }
          checkEqual(first, second);
          bench.clock.ms = START_MS + 20;
          await Promise.all([collectAll(first), collectAll(second)]);
          assert.deepEqual(dump(second.engine), dump(first.engine));
        });
      }),
      { numRuns: 200 },
    );
  });

  it('also when one of them was seeded by a snapshot in the middle', async () => {
    const histories = fc.tuple(...ORIGINS.map(aHistory));
    const scene = fc.tuple(histories, anInterleaving, anInterleaving, fc.nat({ max: 20 }));
    await fc.assert(
      fc.asyncProperty(scene, async ([written, one, other, seedAt]) => {
        fc.pre(written.some((history) => history.length > 0));
        await withBench(async (bench) => {
          const source = bench.store(undefined);
          let seeded: LocalStore | undefined;
          for (const [i, batch] of batches(written, one).entries()) {
            if (i === seedAt) seeded = await bench.seeded(source);
            await source.apply(batch).committed;
          }
          seeded ??= await bench.seeded(source);
          await seeded.sweep();
          // It has some of each origin, and gets everything again in another order.
          for (const batch of batches(written, other)) await seeded.apply(batch).committed;
          bench.clock.ms = START_MS + 20;
          await Promise.all([collectAll(source), collectAll(seeded)]);
          assert.deepEqual(dump(seeded.engine), dump(source.engine));
        });
      }),
      { numRuns: 150 },
    );
  });

  it('two roots that wrote at the same time are equal once each has the other’s log', async () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constantFrom('first', 'second'), changes: fc.array(aChange, { maxLength: 3 }) }),
      fc.record({ kind: fc.constantFrom('there', 'back', 'pass') }),
    );
    const change = (store: LocalStore, changes: readonly Change[]): Promise<void> => {
      return store.write((view) => {
        for (const each of changes) {
          if (each.kind === 'set') view.set(each.database, each.key, each.value, each.xtMs);
          else if (each.kind === 'remove') view.remove(each.database, each.key);
          else view.clear(each.database, each.prefix);
        }
      }).committed;
    };
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25, size: 'max' }), async (steps) => {
        await withBench(async (bench) => {
          const [first, second] = [bench.store(1), bench.store(2)];
          for (const each of steps) {
            if (each.kind === 'first' && 'changes' in each) await change(first, each.changes);
            else if (each.kind === 'second' && 'changes' in each) await change(second, each.changes);
            else if (each.kind === 'there') await ship(first, second);
            else if (each.kind === 'back') await ship(second, first);
            else bench.clock.ns += 2n;
          }
          await ship(first, second);
          await ship(second, first);
          bench.clock.ms = START_MS + 20;
          await Promise.all([collectAll(first), collectAll(second)]);
          assert.deepEqual(dump(second.engine), dump(first.engine));
        });
      }),
      { numRuns: 100 },
    );
  });

  it('an older clear that arrives late does not weaken a newer one', async () => {
    await withBench(async (bench) => {
      const store = bench.store(undefined);
      const late = transaction(3, 1, 20, [set('a', 'from before the newer clear')]);
      await store.apply(encode([transaction(1, 1, 30, [clear()])])).committed;
      await store.apply(encode([transaction(2, 1, 10, [clear()])])).committed;
      await store.apply(encode([late])).committed;
      assert.equal(store.get('default', bytes('a')), undefined);
    });
  });

  it('a clear does not remove what another origin wrote with the same version and a higher sid', async () => {
    await withBench(async (bench) => {
      const store = bench.store(undefined);
      await store.apply(encode([transaction(9, 1, 10, [set('a', 'wins')])])).committed;
      await store.apply(encode([transaction(3, 1, 10, [clear()])])).committed;
      assert.equal(store.get('default', bytes('a'))?.value.toString(), 'wins');
    });
  });

  it('a store seeded after a clear and a remove still refuses older writes, also behind a sweep', async () => {
    await withBench(async (bench) => {
      const source = bench.store(1);
      bench.clock.ns = 100n;
      await source.write((view) => view.clear('default', bytes('cleared/'))).committed;
      await source.write((view) => view.set('other', bytes('removed'), bytes('1'), 0)).committed;
      await source.write((view) => view.remove('other', bytes('removed'))).committed;
      const seeded = await bench.seeded(source);
      await collectAll(seeded);
      const older = transaction(7, 1, 50, [set('cleared/a', 'x'), set('removed', 'x', 0, 'other'), set('kept', 'x')]);
      for (const store of [source, seeded]) await store.apply(encode([older])).committed;
      assert.equal(seeded.get('default', bytes('cleared/a')), undefined);
      assert.equal(seeded.get('other', bytes('removed')), undefined);
      assert.equal(seeded.get('default', bytes('kept'))?.value.toString(), 'x');
      assert.deepEqual(dump(seeded.engine), dump(source.engine));
    });
  });

  it('a snapshot says how far expirations count no more: no false alarm beside a clock that is behind (invariant 11)', async () => {
    await withBench(async (bench) => {
      const early = bench.store(1);
      const late = bench.store(undefined);
      const changes = [set('short', '1', START_MS + 10), set('short', '2', START_MS + 10, 'other'), set('kept', '3')];
      for (const store of [early, late]) await store.apply(encode([transaction(1, 1, 5, changes)])).committed;
      bench.clock.ms += 20;
      await collectAll(early);
      bench.clock.ms -= 20;
      const seeded = await bench.seeded(early);
      // What the snapshot has collected still counts where the clock is behind.
      assert.deepEqual(seeded.proving.compare(late.proving.prove()), {
        equal: 0,
        differences: [],
        leftOut: [],
        putOff: ['default', 'other'],
      });
      checkHashes(seeded);
      bench.clock.ms += 20;
      await collectAll(late);
      for (const store of [early, late]) {
        assert.deepEqual(seeded.proving.compare(store.proving.prove()).differences, []);
        assert.equal(seeded.proving.compare(store.proving.prove()).equal, 2);
      }
    });
  });

  it('a snapshot with a clear of a database it does not have is refused', async () => {
    await withBench(async (bench) => {
      const source = bench.store(1);
      await source.write((view) => view.clear('default')).committed;
      const from = new SnapshotSource(source.engine);
      const contents = { ...from.contents, databases: [] };
      from.close();
      const engine = bench.engine();
      assert.throws(() => new SnapshotLoader(engine, contents, []), { code: 'CORRUPT' });
      await engine.close();
    });
  });
});
