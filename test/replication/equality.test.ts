/** Every follower compares itself with its root, by hash, at exactly the same position (invariant 11). */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { TieredEngine } from '../../src/engine/tiered.js';
import type { Change } from '../../src/log/transaction.js';
import { parseDatabases } from '../../src/store/database-spec.js';
import type { LocalStore } from '../../src/store/store.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { contents, put, TestCluster, type TestNode } from '../support/replication-pair.js';
import { checkHashes, encode, remove, set, transaction } from '../support/store-model.js';

describe('a follower proves that it equals its source (invariant 11)', () => {
  let cluster: TestCluster;
  let root: TestNode;
  let nowMs = 1_000_000;

  beforeEach(() => {
    cluster = new TestCluster(localRuntime({ nowMs: () => nowMs }));
    root = cluster.root();
    cluster.serve(root);
  });
  afterEach(async () => await cluster.close());

  const storeOf = (node: TestNode): LocalStore => node.store as LocalStore;

  /** A node that follows `upstream`, with what it has already. */
  async function follower(name: string, upstream: TestNode, ...changes: readonly Change[]): Promise<TestNode> {
    const node = cluster.node(name, cluster.openStore(undefined));
    for (const [i, change] of changes.entries()) {
      await storeOf(node).apply(encode([transaction(1, i + 1, i + 1, [change])])).committed;
    }
    cluster.serve(node);
    cluster.follow(node, upstream);
    return node;
  }

  /** The result of a comparison that begins now. */
  async function comparison(node: TestNode): Promise<NonNullable<TestNode['equality']['last']>> {
    const before = node.equality.comparisons;
    await eventually(`${node.name} compares`, () => node.equality.comparisons > before + 1);
    return node.equality.last as NonNullable<TestNode['equality']['last']>;
  }

  it('over a relay, while records are overwritten, removed, cleared and expire', async () => {
    const relay = await follower('relay', root);
    const edge = await follower('edge', relay);
    for (let round = 0; round < 10; round++) {
      await put(storeOf(root), { a: `${round}`, [`k${round}`]: 'x'.repeat(round * 100), gone: `${round}` });
      const writing = storeOf(root).write((t) => {
        t.remove('default', Buffer.from('gone'));
        t.set('default', Buffer.from(`short${round}`), Buffer.from('lived'), nowMs + 5);
        if (round === 5) t.clear('default', Buffer.from('k'));
      });
      await writing.committed;
      nowMs += 3;
      // Each collects at its own time.
      if (round % 2 === 0) await storeOf(root).sweep();
      if (round % 3 === 0) await storeOf(relay).sweep(relay.equality.collectUpToMs ?? 0);
    }
    for (const node of [relay, edge]) {
      await eventually(`${node.name} has all`, () => contents(node.store).k9 !== undefined);
      const { differences, equal, putOff } = await comparison(node);
      assert.deepEqual({ differences, equal, putOff }, { differences: [], equal: 1, putOff: [] });
      assert.equal(node.equality.failures, 0);
      checkHashes(storeOf(node));
    }
  });

  it('says so when it differs, puts right what does, and no relay leads its own followers astray', async () => {
    const history = [set('a', '1'), set('b', '2'), remove('a'), set('c', '3'), set('d', '4', nowMs + 60_000)];
    for (const [i, change] of history.entries()) {
      await storeOf(root).apply(encode([transaction(1, i + 1, i + 1, [change])])).committed;
    }
    // Damaged, still there, missing, without its expiration, and too many.
    const wrong = [set('a', '1'), set('b', 'damaged'), remove('x'), set('e', '5'), set('d', '4')];
    const relay = await follower('relay', root, ...wrong);
    const edge = await follower('edge', relay, ...history);
    await eventually('it was put right', () => relay.reports.length > 0);
    assert.equal(edge.equality.comparisons, 0, 'the relay has told its followers nothing');
    const [{ repaired, recounted } = { repaired: undefined, recounted: true }] = relay.reports;
    assert.deepEqual(
      { ...repaired, keys: repaired?.keys.map(String).sort(), recounted },
      {
        added: 1,
        replaced: 2,
        removed: 2,
        keys: ['a', 'b', 'c', 'd', 'e'],
        recounted: false,
      },
    );
    assert.deepEqual((await comparison(edge)).differences, []);
    assert.deepEqual(relay.equality.last?.differences, []);
    assert.deepEqual([relay.equality.repairedRecords, edge.equality.repairedRecords], [5, 0]);
    for (const node of [relay, edge]) assert.deepEqual(contents(node.store), contents(storeOf(root)));
    checkHashes(storeOf(relay));
  });

  it('finds a few wrong records among many, while writes go on', async () => {
    const right = Array.from({ length: 20_000 }, (_, i) => set(`k${String(i).padStart(6, '0')}`, `v${i}`));
    await storeOf(root).apply(encode([transaction(1, 1, 1, right)])).committed;
    const wrong = right.flatMap((change, i) => {
      if (i === 7) return [];
      return [i === 4000 || i === 4001 || i === 15_000 ? { ...change, value: Buffer.from('wrong') } : change];
    });
    const edge = cluster.node('edge', cluster.openStore(undefined));
    await storeOf(edge).apply(encode([transaction(1, 1, 1, [...wrong, set('k007000a', 'extra')])])).committed;
    cluster.follow(edge, root);
    for (let i = 0; edge.reports.length === 0; i++) await put(storeOf(root), { [`w${i % 50}`]: `${i}` });
    assert.deepEqual({ ...edge.reports[0]?.repaired, keys: [] }, { added: 1, replaced: 3, removed: 1, keys: [] });
    assert.deepEqual((await comparison(edge)).differences, []);
    assert.deepEqual(contents(edge.store), contents(storeOf(root)));
    checkHashes(storeOf(edge));
  });

  for (const side of ['follower', 'root'] as const) {
    it(`corrects a running hash that is wrong at the ${side}`, async () => {
      const edge = await follower('edge', root);
      await put(storeOf(root), { a: '1', b: '2' });
      await eventually('all arrived', () => contents(edge.store).b === '2');
      const store = storeOf(side === 'root' ? root : edge);
      await store.proving.correctHash('default', Int32Array.from([1, 2, 3, 4]));
      await eventually('it was noticed', () => edge.reports.length > 0);
      assert.deepEqual(edge.reports.map(({ repaired, recounted }) => [repaired.keys, recounted])[0], [
        [],
        side === 'follower',
      ]);
      await eventually('it was corrected', () => edge.equality.last?.differences.length === 0);
      for (const node of [root, edge]) checkHashes(storeOf(node));
    });
  }

  it('also of databases that only one side has', async () => {
    await storeOf(root).apply(encode([transaction(1, 1, 1, [set('a', '1')])])).committed;
    const edge = await follower('edge', root, set('a', '1', 0, 'elsewhere'));
    await eventually('it was noticed', () => edge.equality.failures > 0);
    await eventually('both are put right', () => edge.equality.last?.differences.length === 0);
    assert.deepEqual([contents(edge.store), storeOf(edge).count('elsewhere')], [{ a: '1' }, 0]);
  });

  it('also when the root’s clock was ahead and is set back', async () => {
    const edge = await follower('edge', root);
    const setExpiring = async (key: string, xtMs: number): Promise<void> => {
      await storeOf(root).write((t) => t.set('default', Buffer.from(key), Buffer.from('v'), xtMs)).committed;
    };
    await setExpiring('early', nowMs + 1);
    nowMs += 5000;
    await storeOf(root).sweep();
    nowMs -= 5000;
    // Expires before what the root had worked off, and is there still.
    await setExpiring('late', nowMs + 1000);
    await eventually('the edge has it', () => contents(edge.store).late === 'v');
    assert.deepEqual((await comparison(edge)).differences, []);
  });

  it('but not for what no equality is promised: caches', async () => {
    const databases = parseDatabases(['default', '%#capcnt=10']);
    const [, cache] = databases.map(({ name }) => name);
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root('root', { databases, engine: new TieredEngine(cluster.newEngine()) });
    cluster.serve(root);
    const edge = await follower('edge', root);
    await put(storeOf(root), { a: '1' });
    await eventually('a arrived', () => contents(edge.store).a === '1');
    const { leftOut, equal } = await comparison(edge);
    assert.deepEqual({ leftOut, equal }, { leftOut: [cache], equal: 1 });
  });

  it('puts off what it cannot compare: it worked off expirations that the root has not', async () => {
    const edge = await follower('edge', root);
    await storeOf(root).write((t) => t.set('default', Buffer.from('k'), Buffer.from('v'), nowMs + 1)).committed;
    await eventually('k arrived', () => storeOf(edge).count('default') === 1);
    nowMs += 10;
    await storeOf(edge).sweep();
    assert.deepEqual((await comparison(edge)).putOff, ['default']);
    await storeOf(root).sweep();
    await eventually('it can compare again', () => edge.equality.last?.putOff.length === 0);
    assert.deepEqual(edge.equality.last?.differences, []);
  });
});
