/** A follower that has a part of a database compares it with what its source may send it, and is put right (invariant 11). */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { NEVER_EXPIRES } from '../../src/base/types.js';
import { Scope } from '../../src/replication/scope.js';
import type { LocalStore } from '../../src/store/store.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { contents, put, TestCluster, type TestNode } from '../support/replication-pair.js';
import { checkHashes, encode, set, transaction } from '../support/store-model.js';

const PART = Scope.of([{ databases: ['default'], prefixes: [Buffer.from('jp/'), Buffer.from('kr/')] }]);

describe('a follower that has a part proves that it equals its source', () => {
  let cluster: TestCluster;
  let root: TestNode;
  let nowMs = 1_000_000;

  beforeEach(() => {
    cluster = new TestCluster(localRuntime({ nowMs: () => nowMs }));
    root = cluster.root();
    cluster.serve(root, { scopeFor });
  });
  afterEach(async () => await cluster.close());

  function scopeFor({ name }: { readonly name: string }): Scope {
    return name.startsWith('part') ? PART : Scope.WHOLE;
  }
  const storeOf = (node: TestNode): LocalStore => node.store as LocalStore;

  async function seeded(name: string, upstream: TestNode): Promise<TestNode> {
    const node = cluster.node(name, undefined);
    cluster.follow(node, upstream);
    await eventually(`${name} is seeded`, () => node.store !== undefined);
    cluster.serve(node, { scopeFor });
    return node;
  }

  /** What the source may send, as it has it. */
  function part(node: TestNode): Record<string, string> {
    const all = Object.entries(contents(node.store));
    return Object.fromEntries(all.filter(([key]) => key.startsWith('jp/') || key.startsWith('kr/')));
  }

  /** It has been compared twice from now on, the part included. */
  async function compared(node: TestNode): Promise<void> {
    const before = node.equality.comparisons;
    await eventually(`${node.name} compares its part`, () => {
      return node.equality.comparisons > before + 1 && node.equality.last?.leftOut.length === 0;
    });
  }

  it('while records are overwritten, removed, cleared and expire, in the part and elsewhere', async () => {
    const first = Array.from({ length: 5000 }, (_, i) => set(`${['jp', 'kr', 'us'][i % 3]}/${i}`, `v${i}`));
    await storeOf(root).apply(encode([transaction(1, 1, 1, first)])).committed;
    const edge = await seeded('part', root);
    for (let round = 0; round < 10; round++) {
      await put(storeOf(root), { 'jp/a': `${round}`, [`us/${round}`]: 'x', [`kr/k${round}`]: 'y'.repeat(round * 50) });
      await storeOf(root).write((t) => {
        t.remove('default', Buffer.from(`jp/${round * 3}`));
        t.set('default', Buffer.from(`kr/short${round}`), Buffer.from('lived'), nowMs + 5);
        if (round === 5) t.clear('default', Buffer.from('kr/1'));
        if (round === 7) t.clear('default', Buffer.alloc(0));
      }).committed;
      nowMs += 3;
      if (round % 2 === 0) await storeOf(root).sweep();
      await compared(edge);
      assert.deepEqual([edge.equality.last?.differences, edge.equality.failures], [[], 0]);
    }
    await eventually('the edge has all', () => contents(edge.store)['kr/k9'] !== undefined);
    assert.deepEqual(contents(edge.store), part(root));
    checkHashes(storeOf(edge));
  });

  it('and also behind a relay, which says nothing of what it has not compared itself', async () => {
    await put(storeOf(root), { 'jp/a': '1', 'us/a': '2' });
    const relay = await seeded('relay', root);
    const edge = await seeded('part', relay);
    await put(storeOf(root), { 'jp/b': '3' });
    await eventually('the edge has all', () => contents(edge.store)['jp/b'] === '3');
    await compared(edge);
    assert.deepEqual([edge.equality.last?.equal, edge.equality.last?.differences], [1, []]);
  });

  it('and what differs is found and put right, from that part alone', async () => {
    const records = Array.from({ length: 3000 }, (_, i) => set(`${['jp', 'kr', 'us'][i % 3]}/${i}`, `v${i}`));
    await storeOf(root).apply(encode([transaction(1, 1, 1, records)])).committed;
    const edge = await seeded('part', root);
    await compared(edge);
    assert.equal(edge.reports.length, 0);
    // Planted where nothing replicates: one damaged, one that is missing, one too many.
    const store = storeOf(edge);
    const plant = async (key: string, value: string | undefined): Promise<void> => {
      const rows = value === undefined ? Buffer.alloc(0) : await rowOf(key, value);
      const start = Buffer.from(key);
      const end = Buffer.concat([start, Buffer.of(0)]);
      const repair = { database: 'default', position: store.position(), cutoffMs: 0, start, end, rows };
      await store.proving.repair(repair);
    };
    await plant('jp/0', 'damaged');
    await plant('jp/3', undefined);
    await plant('kr/extra', 'extra');
    await eventually('it was put right', () => edge.reports.length > 0);
    await eventually('it equals its source', () => edge.equality.last?.differences.length === 0);
    await compared(edge);
    assert.deepEqual(edge.equality.last?.differences, []);
    assert.equal(edge.equality.repairedRecords, 3);
    assert.deepEqual(contents(edge.store), part(root));
    assert.ok(!Buffer.concat(edge.received).includes('us/2'), 'nothing of the rest was sent');
    checkHashes(storeOf(edge));
  });

  /** A row of a store that another root made. */
  async function rowOf(key: string, value: string): Promise<Buffer> {
    const other = cluster.openStore(undefined);
    await other.apply(encode([transaction(1, 1, 1, [set(key, value)])])).committed;
    const { DatabaseAudit, ALL_KEYS } = await import('../../src/store/audit.js');
    const audit = new DatabaseAudit(other.engine, 'default');
    const { rows } = audit.rows(ALL_KEYS, 1 << 20);
    audit.close();
    return rows;
  }

  it('and what a relay says of a part reaches as far as its upstream, where nothing expires any more', async () => {
    // Whoever it seeded takes the furthest of all its databases for each, and could not compare the others without that.
    const store = storeOf(root);
    const there = { xtMs: nowMs + 500, key: undefined };
    await store.write((t) => t.set('default', Buffer.from('jp/gone'), Buffer.from('x'), nowMs + 1)).committed;
    nowMs += 10;
    await store.sweep();
    assert.deepEqual(store.proving.horizonTowards('default', there), there);
    await store.write((t) => t.set('default', Buffer.from('jp/due'), Buffer.from('x'), nowMs + 20)).committed;
    assert.equal(store.proving.horizonTowards('default', there).xtMs, nowMs);
  });

  it('and a hash that the source keeps wrongly is counted anew', async () => {
    await put(storeOf(root), { 'jp/a': '1' });
    const edge = await seeded('part', root);
    await compared(edge);
    const hash = storeOf(root).proving.parts.find({ database: 'default', keys: PART.keysOf('default') });
    assert.ok(hash !== undefined);
    hash.hash[0] = (hash.hash[0] as number) + 1;
    await eventually('it was noticed', () => edge.reports.length > 0);
    await eventually('it was corrected', () => edge.equality.last?.differences.length === 0);
    await compared(edge);
    assert.deepEqual([edge.equality.last?.differences, edge.equality.repairedRecords], [[], 0]);
    assert.equal(edge.store?.get('default', Buffer.from('jp/a'))?.xtMs, NEVER_EXPIRES);
  });
});
