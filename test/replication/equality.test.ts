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

  it('says so when it differs, and no relay leads its own followers astray', async () => {
    const history = [set('a', '1'), set('b', '2'), remove('a')];
    for (const [i, change] of history.entries()) {
      await storeOf(root).apply(encode([transaction(1, i + 1, i + 1, [change])])).committed;
    }
    const relay = await follower('relay', root, set('a', '1'), set('b', 'damaged'), remove('a'));
    const edge = await follower('edge', relay, ...history);
    const { differences } = await comparison(relay);
    assert.deepEqual(differences, [{ database: 'default', records: 1, recordsThere: 1 }]);
    assert.equal(edge.equality.comparisons, 0);
    // A write that replaces what was wrong makes them equal again.
    await put(storeOf(root), { b: 'new' });
    await eventually('the relay is equal', () => relay.equality.last?.differences.length === 0);
    assert.deepEqual((await comparison(edge)).differences, []);
  });

  it('also of databases that only one side has', async () => {
    await storeOf(root).apply(encode([transaction(1, 1, 1, [set('a', '1')])])).committed;
    const edge = await follower('edge', root, set('a', '1', 0, 'elsewhere'));
    const { differences } = await comparison(edge);
    assert.deepEqual(
      differences.map(({ database, records, recordsThere }) => `${database} ${records} ${recordsThere}`).sort(),
      ['default 0 1', 'elsewhere 1 0'],
    );
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
