/** Two roots whose logs reach back to neither are joined record by record: as if each had applied what both did. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { localNumber, versionNs } from '../../src/base/types.js';
import { TieredEngine } from '../../src/engine/tiered.js';
import { describePosition } from '../../src/log/position.js';
import type { Change, Transaction } from '../../src/log/transaction.js';
import { CarryOver, mustMerge, whyNotCarried } from '../../src/store/carry-over.js';
import { parseDatabase } from '../../src/store/database-spec.js';
import { everythingAt } from '../../src/store/forgotten.js';
import { merge } from '../../src/store/merge.js';
import { Settling } from '../../src/store/settling.js';
import type { LocalStore } from '../../src/store/store.js';
import { repository } from '../support/postgres.js';
import { contents } from '../support/replication-pair.js';
import {
  aHistory,
  checkHashes,
  clear,
  encode,
  remove,
  type StoreBench,
  set,
  transaction,
  withBench,
} from '../support/store-model.js';

const ORIGINS = [1, 2, 3];
const CUT = { bytes: 0, ageMs: 0 };

/** How much of each origin's history a store has, and of how much of that the others know. */
interface Scene {
  readonly histories: readonly Transaction[][];
  /** Of each history: how much both have; how much more the first has; and the second. */
  readonly shares: readonly { readonly both: number; readonly first: number; readonly second: number }[];
  readonly trims: readonly [boolean, boolean];
}

const aShare = fc.record({ both: fc.nat({ max: 6 }), first: fc.nat({ max: 6 }), second: fc.nat({ max: 6 }) });
const aScene: fc.Arbitrary<Scene> = fc
  .record({
    histories: fc.tuple(...ORIGINS.map(aHistory)),
    shares: fc.tuple(aShare, aShare, aShare),
    trims: fc.tuple(fc.boolean(), fc.boolean()),
  })
  // What a root made itself it has.
  .map(({ shares: [one, two, three], ...scene }) => {
    return { ...scene, shares: [{ ...one, second: 0 }, { ...two, first: 0 }, three] as const };
  })
  .map((scene) => ({ ...scene, histories: scene.histories.map((each, i) => later(each, scene.shares[i]?.both ?? 0)) }));

/** What is made once others have seen a removal has a higher version: before that, nothing is settled. */
function later(history: readonly Transaction[], both: number): Transaction[] {
  return history.map((one, i) => (i < both ? one : { ...one, versionNs: versionNs(one.versionNs + 1000n) }));
}

async function apply(store: LocalStore, histories: readonly (readonly Transaction[])[]): Promise<void> {
  for (const history of histories) for (const one of history) await store.apply(encode([one])).committed;
}

/** Cuts the log, and forgets the removals before `settled` that it had. */
async function forget(store: LocalStore, settled: number): Promise<void> {
  await store.trimLog(CUT);
  while (await store.sweep(0, localNumber(settled)));
}

/** `here` takes a snapshot of `there`, as a root does. */
async function joined(bench: StoreBench, here: LocalStore, there: LocalStore): Promise<LocalStore> {
  const to = await bench.seeded(there, here.sid);
  here.isLogHeld = true;
  if (mustMerge(here, to)) await merge(here, to);
  await new CarryOver(here, to).run();
  here.isLogHeld = false;
  return to;
}

function shown(store: LocalStore): unknown {
  const databases = ['default', 'other'].map((name) => {
    return [...store.scan(name, {})].map(({ key, record }) => {
      return `${key.toString('hex')} ${record.value.toString('hex')} ${record.xtMs} ${record.versionNs}.${record.sid}`;
    });
  });
  return [describePosition(store.position()), ...databases];
}

describe('roots that were apart for longer than their logs (invariant 4)', () => {
  it('come together as if each had applied all, in either direction, logs and hashes included', async () => {
    await fc.assert(
      fc.asyncProperty(aScene, async ({ histories, shares, trims }) => {
        await withBench(async (bench) => {
          const [first, second, all] = [bench.store(1), bench.store(2), bench.store(undefined)];
          const cut = (from: (each: Scene['shares'][number]) => [number, number]): Transaction[][] => {
            return histories.map((history, i) => history.slice(...from(shares[i] as Scene['shares'][number])));
          };
          const upTo = (more: (each: Scene['shares'][number]) => number): Transaction[][] => {
            return cut((each) => [each.both, each.both + more(each)]);
          };
          for (const store of [first, second])
            await apply(
              store,
              cut((each) => [0, each.both]),
            );
          const settled = first.log.next;
          await apply(
            first,
            upTo(({ first: more }) => more),
          );
          await apply(
            second,
            upTo(({ second: more }) => more),
          );
          await apply(
            all,
            upTo(() => 0).map((_, i) =>
              (histories[i] as Transaction[]).slice(
                0,
                (shares[i]?.both ?? 0) + Math.max(shares[i]?.first ?? 0, shares[i]?.second ?? 0),
              ),
            ),
          );
          for (const [i, store] of [first, second].entries()) if (trims[i] === true) await forget(store, settled);
          const [one, two] = [await joined(bench, first, second), await joined(bench, second, first)];
          for (const store of [one, two]) {
            assert.deepEqual(shown(store), shown(all));
            checkHashes(store);
          }
          assert.deepEqual(one.proving.compare(two.proving.prove()).differences, []);
          // What each made since is in its new log: the other one needs no snapshot again.
          if (!trims[0]) assert.equal(one.log.find(second.position(), one.position()).kind, 'from');
        });
      }),
      { numRuns: 25 },
    );
  });

  it('keep what one alone has, and bring nothing back that was removed, cleared or overwritten', async () => {
    await withBench(async (bench) => {
      const [one, two] = [bench.store(1), bench.store(2)];
      const common = ['a', 'b', 'c', 'd/1', 'd/2'].map((key) => set(key, 'common'));
      for (const store of [one, two]) await apply(store, [[transaction(3, 1, 5, common)]]);
      const settled = localNumber(2);
      await apply(one, [
        [transaction(1, 1, 10, [remove('a'), set('only-one', '1')]), transaction(1, 2, 30, [set('b', 'one')])],
      ]);
      await apply(two, [[transaction(2, 1, 20, [set('b', 'two'), clear('d/'), set('only-two', '2')])]]);
      for (const store of [one, two]) await forget(store, settled);
      assert.ok(mustMerge(one, await bench.seeded(two, 1)));
      const to = await bench.seeded(two, 1);
      one.isLogHeld = true;
      assert.deepEqual(await merge(one, to), { kept: 2, taken: 1, dropped: 2, leftOut: 1 });
      assert.deepEqual(contents(to), { b: 'one', c: 'common', 'only-one': '1', 'only-two': '2' });
      assert.equal(describePosition(to.position()), '1:2 2:1 3:1');
    });
  });

  it('remember removals for each other: an older write that only one has does not come back over a newer removal', async () => {
    await withBench(async (bench) => {
      const [one, two] = [bench.store(1), bench.store(2)];
      for (const store of [one, two]) await apply(store, [[transaction(3, 1, 5, [set('k', 'common')])]]);
      await apply(one, [[transaction(1, 1, 10, [set('k', 'older')])]]);
      await apply(two, [[transaction(2, 1, 20, [remove('k')])]]);
      for (const store of [one, two]) await forget(store, 2);
      for (const [here, there] of [
        [one, two],
        [two, one],
      ] as const)
        assert.deepEqual(contents(await joined(bench, here, there)), {});
    });
  });

  it('refuse each other when one has forgotten a removal that the other never saw, and say where to read on', async () => {
    await withBench(async (bench) => {
      const [one, two] = [bench.store(1), bench.store(2)];
      for (const store of [one, two]) await apply(store, [[transaction(3, 1, 5, [set('k', 'common')])]]);
      await apply(one, [[transaction(1, 1, 10, [set('k', 'older')])]]);
      await apply(two, [[transaction(2, 1, 20, [remove('k')]), transaction(2, 2, 21, [set('l', 'x')])]]);
      for (const store of [one, two]) await forget(store, 2 ** 40);
      for (const [here, there] of [
        [one, two],
        [two, one],
      ] as const) {
        const why = whyNotCarried(here, { position: there.position(), forgotten: there.known.forgotten }) ?? '';
        assert.match(why, /forgotten removals that (this|the other) one never saw/);
        const [, page = '', heading = ''] = /(docs\/operate\/\S+), "([^"]+)"/.exec(why) ?? [];
        assert.match(readFileSync(join(repository(), page), 'utf8'), new RegExp(`^## ${heading}$`, 'm'));
      }
      // What an older version forgot may be anything.
      const forgotten = everythingAt(two.position());
      assert.match(whyNotCarried(one, { position: two.position(), forgotten }) ?? '', /has forgotten removals/);
      assert.match(whyNotCarried(one, { position: two.position() }) ?? '', /older version/);
    });
  });

  it('refuse each other when an origin has begun another epoch: its history may not be the same', async () => {
    await withBench(async (bench) => {
      const [one, two] = [bench.store(1), bench.store(2)];
      await apply(one, [[transaction(1, 1, 10, [set('a', '1')]), transaction(2, 1, 11, [set('b', '1')])]]);
      await apply(two, [[transaction(2, 1, 11, [set('b', '1')]), transaction(2, 2, 12, [set('b', '2')], 2)]]);
      for (const store of [one, two]) await forget(store, 0);
      const there = { position: two.position(), forgotten: two.known.forgotten };
      assert.match(whyNotCarried(one, there) ?? '', /origin 2 has begun another epoch/);
    });
  });
});

describe('what a root may forget beside others', () => {
  const at = (own: number, other: number) =>
    [transaction(1, own, own, []), transaction(2, other, other, [])].filter(({ sequence }) => sequence > 0);

  it('is what all have on their disks, once it has what they had made by then', () => {
    const settling = new Settling(2);
    settling.note(at(5, 0), localNumber(6));
    settling.hear('b', at(5, 3));
    assert.equal(settling.before(at(5, 0)), 0);
    settling.note(at(6, 3), localNumber(10));
    assert.equal(settling.before(at(6, 3)), 0, 'the third has said nothing');
    settling.hear('c', at(6, 3));
    assert.equal(settling.before(at(6, 3)), 6);
    settling.hear('b', at(6, 3));
    assert.equal(settling.before(at(6, 3)), 10);
  });

  it('is every removal that its log has lost, once they take more than they may: in memory as on the disk', async () => {
    await withBench(async (bench) => {
      for (const [name, engine] of [
        ['default', bench.engine()],
        ['%', new TieredEngine(bench.engine())],
      ] as const) {
        const store = bench.store(1, { engine, databases: [parseDatabase(name)], removalBytes: 8000 });
        const keys = Array.from({ length: 1000 }, (_, i) => `key-${i}`);
        const change = async (of: (key: string) => Change): Promise<unknown> =>
          await store.apply(encode([transaction(2, sequence++, sequence, keys.map(of))])).committed;
        let sequence = 1;
        await change((key) => set(key, 'v', undefined, name));
        await change((key) => remove(key, name));
        await forget(store, 0);
        const { records } = store.mapsOf(name);
        const left = [...store.engine.range(records, {})].length;
        assert.ok(left < keys.length, `${name}: ${left} tombstones are left`);
        assert.deepEqual(store.known.forgotten, [{ sid: 2, versionNs: 3n }]);
      }
    });
  });

  it('remembers a few places only, and then less finely', () => {
    const settling = new Settling(1);
    for (let i = 1; i <= 1000; i++) settling.note(at(i, 0), localNumber(i + 1));
    settling.hear('b', at(999, 0));
    assert.equal(settling.before(at(1000, 0)), 1000);
    settling.hear('b', at(300, 0));
    assert.equal(settling.before(at(1000, 0)), 1000, 'it never goes back');
  });
});
