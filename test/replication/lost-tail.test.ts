/**
 * A root that lost its tail, and followers that know more than it does, over links in memory: whatever they know, one
 * number of one epoch never means two changes (invariant 2), and all end equal.
 */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { sid, versionNs } from '../../src/base/types.js';
import { describePosition, originOf } from '../../src/log/position.js';
import type { LocalStore } from '../../src/store/store.js';
import { eventually } from '../support/local-runtime.js';
import { contents, put, TestCluster, type TestNode } from '../support/replication-pair.js';
import { encode, set, transaction } from '../support/store-model.js';

/** Transactions of origin 1 as a follower has them: `count` of each epoch in turn, named after epoch and number. */
function history(...counts: readonly number[]): ReturnType<typeof transaction>[] {
  const all: ReturnType<typeof transaction>[] = [];
  for (const [before, count] of counts.entries()) {
    for (let i = 0; i < count; i++) {
      const number = all.length + 1;
      all.push(
        transaction(1, number, number * 10 + before, [set(`k${number}`, `${before + 1}:${number}`)], before + 1),
      );
    }
  }
  return all;
}

describe('a root that lost its tail', () => {
  let cluster: TestCluster;
  let root: TestNode;

  beforeEach(() => {
    cluster = new TestCluster();
    root = cluster.root();
  });
  afterEach(async () => await cluster.close());

  const rootStore = (): LocalStore => root.store as LocalStore;
  const at = (node: TestNode): string => describePosition(node.store?.position() ?? []);

  async function follower(name: string, known: ReturnType<typeof history>): Promise<TestNode> {
    const store = cluster.openStore(undefined);
    await store.apply(encode(known)).committed;
    return cluster.node(name, store);
  }

  async function equal(followers: readonly TestNode[]): Promise<void> {
    await put(rootStore(), { last: 'write' });
    for (const node of followers) {
      await eventually(`${node.name} has the last write`, () => at(node) === at(root));
      assert.deepEqual(contents(node.store), contents(rootStore()));
    }
  }

  it('begins one epoch for all followers that show it at the same time', async () => {
    await rootStore().apply(encode(history(2))).committed;
    cluster.serve(root);
    const followers = await Promise.all([1, 2, 3, 4, 5].map((n) => follower(`edge${n}`, history(2 + n))));
    for (const node of followers) cluster.follow(node, root);
    for (const node of followers) await eventually(`${node.name} was reseeded`, () => node.loaded.length === 1);
    assert.equal(at(root), '1@2:3');
    await equal(followers);
    assert.equal(rootStore().epoch, 2);
  });

  it('begins an epoch beyond every epoch that a follower knows, so that none is used twice', async () => {
    await rootStore().apply(encode(history(2))).committed;
    cluster.serve(root);
    const edge = await follower('edge', history(3, 4));
    cluster.follow(edge, root);
    await eventually('the edge was reseeded', () => edge.loaded.length === 1);
    assert.equal(at(root), '1@3:3');
    await equal([edge]);
  });

  it('takes a higher epoch as a lost tail also when its own numbers go further', async () => {
    await rootStore().apply(encode(history(9))).committed;
    cluster.serve(root);
    const edge = await follower('edge', history(3, 2));
    cluster.follow(edge, root);
    await eventually('the edge was reseeded', () => edge.loaded.length === 1);
    assert.equal(at(root), '1@3:10');
    await equal([edge]);
  });

  it('looks again after an epoch that another follower made it begin: that one may know of a later epoch', async () => {
    await rootStore().apply(encode(history(2))).committed;
    cluster.serve(root);
    const [first, second] = [await follower('first', history(5)), await follower('second', history(3, 0, 4))];
    cluster.follow(first, root);
    cluster.follow(second, root);
    for (const node of [first, second]) await eventually(`${node.name} was reseeded`, () => node.loaded.length > 0);
    assert.equal(rootStore().epoch, 4);
    // The first was welcomed in epoch 2 and is brought on by the log; nobody is reseeded twice.
    await equal([first, second]);
    assert.deepEqual([first.loaded.length, second.loaded.length], [1, 1]);
  });

  it('while recovering takes back from several followers, each its part, and goes on in its epoch', async () => {
    await rootStore().apply(encode(history(2))).committed;
    const accounted = new Set<string>();
    cluster.serve(root, { isRecovering: () => accounted.size < 3, onAccountedFor: (id) => accounted.add(id) });
    const followers = await Promise.all([3, 7, 5].map((n) => follower(`edge${n}`, history(n))));
    for (const node of followers) cluster.follow(node, root);
    await eventually('all are accounted for', () => accounted.size === 3);
    assert.equal(at(root), '1:7');
    await equal(followers);
    assert.deepEqual([at(root), ...followers.map(({ loaded }) => loaded.length)], ['1:8', 0, 0, 0]);
  });

  it('while recovering takes nothing back from a history that is not its own', async () => {
    // Number 3 is another transaction here than at the follower: an older copy of the data, say.
    await rootStore().apply(encode([...history(2), transaction(1, 3, 99, [set('k3', 'other')])])).committed;
    const accounted = new Set<string>();
    cluster.serve(root, { isRecovering: () => accounted.size < 1, onAccountedFor: (id) => accounted.add(id) });
    const edge = await follower('edge', history(6));
    cluster.follow(edge, root);
    await eventually('the edge was reseeded', () => edge.loaded.length === 1);
    assert.equal(at(root), '1@2:4');
    await equal([edge]);
    assert.equal(contents(edge.store).k3, 'other');
  });

  it('while recovering begins an epoch when the follower’s log does not reach back far enough', async () => {
    const accounted = new Set<string>();
    cluster.serve(root, { isRecovering: () => accounted.size < 1, onAccountedFor: (id) => accounted.add(id) });
    const store = cluster.openStore(undefined, { retention: { bytes: 0, ageMs: 3_600_000 } });
    for (const one of history(6)) await store.apply(encode([one])).committed;
    while (await store.sweep());
    const edge = cluster.node('edge', store);
    cluster.follow(edge, root);
    await eventually('the edge was reseeded', () => edge.loaded.length === 1);
    assert.equal(originOf(rootStore().position(), sid(1))?.epoch, 2);
    await equal([edge]);
  });

  it('while recovering waits for others when a follower’s log does not reach back far enough (invariant 5)', async () => {
    // Seed 124019 of the simulation: the first to come began an epoch, and what the second had was lost.
    const accounted = new Set<string>();
    cluster.serve(root, { isRecovering: () => accounted.size < 2, onAccountedFor: (id) => accounted.add(id) });
    const seeded = cluster.openStore(undefined, { retention: { bytes: 0, ageMs: 3_600_000 } });
    for (const one of history(6)) await seeded.apply(encode([one])).committed;
    while (await seeded.sweep());
    const first = cluster.node('first', seeded);
    cluster.follow(first, root);
    await eventually('the first has given what it can', () => first.ends.length === 1);
    assert.match(first.ends[0] ?? '', /NOT_READY.*could not give all of it/);
    const second = await follower('second', history(6));
    cluster.follow(second, root);
    await eventually('both are accounted for', () => accounted.size === 2);
    assert.equal(at(root), '1:6');
    cluster.follow(first, root);
    await equal([first, second]);
    assert.deepEqual([at(root), first.loaded.length, second.loaded.length], ['1:7', 0, 0]);
  });

  it('and began with nothing refuses who knows it from before, and nobody who does not', async () => {
    await rootStore().apply(encode([transaction(1, 1, 50, [set('k', 'v')])])).committed;
    const reasons: string[] = [];
    cluster.serve(root, { begunEmptyNs: versionNs(40n), onEmptied: (reason) => reasons.push(reason) });
    const [old, fresh] = [await follower('old', history(3)), cluster.node('fresh', undefined)];
    cluster.follow(old, root);
    cluster.follow(fresh, root);
    await eventually('the old one is refused', () => old.ends.length === 1);
    assert.match(old.ends[0] ?? '', /EMPTIED.*old has 1:3 of it/);
    assert.equal(reasons.length, 1);
    assert.equal(at(old), '1:3');
    await eventually('the fresh one was seeded', () => fresh.loaded.length === 1);
    assert.deepEqual(contents(fresh.store), { k: 'v' });
  });

  it('that cannot begin an epoch refuses the follower and goes on', async () => {
    await rootStore().apply(encode(history(2))).committed;
    cluster.serve(root);
    const edge = await follower('edge', history(4));
    await rootStore().close();
    cluster.follow(edge, root);
    await eventually('the link ended', () => edge.ends.length === 1);
    assert.match(edge.ends[0] ?? '', /EPOCH.*closing/);
    assert.equal(at(edge), '1:4');
  });

  it('leaves relays that are still in the old epoch: none of them seeds a follower backwards (invariant 8)', async () => {
    const relay = await follower('relay', history(6));
    cluster.serve(relay);
    const edge = await follower('edge', history(3, 2));
    cluster.follow(edge, relay);
    await eventually('the relay refuses', () => edge.ends.length === 1);
    assert.match(edge.ends[0] ?? '', /BEHIND.*1@2:5/);
    assert.deepEqual([at(edge), edge.loaded.length], ['1@2:5', 0]);
    // Once the relay is over it, it is an upstream like any other.
    await rootStore().apply(encode(history(3, 3))).committed;
    cluster.serve(root);
    cluster.follow(relay, root);
    await eventually('the relay was reseeded', () => relay.loaded.length === 1);
    relay.server?.close();
    cluster.serve(relay);
    cluster.follow(edge, relay);
    await eventually('the edge follows', () => at(edge) === at(root));
    assert.deepEqual(contents(edge.store), contents(rootStore()));
  });
});

describe('a follower that went on while an upstream judged by what it was told', () => {
  let cluster: TestCluster;
  beforeEach(() => {
    cluster = new TestCluster();
  });
  afterEach(async () => await cluster.close());

  it('is not taken back by an older snapshot (invariant 8)', async () => {
    // Seed 126441 of the simulation: a commit of the link before was under way when the next one was greeted.
    const short = cluster.openStore(undefined, { retention: { bytes: 0, ageMs: 3_600_000 } });
    for (const one of history(5)) await short.apply(encode([one])).committed;
    while (await short.sweep());
    const relay = cluster.node('relay', short);
    cluster.serve(relay);
    const store = cluster.openStore(undefined);
    for (const one of history(2)) await store.apply(encode([one])).committed;
    const edge = cluster.node('edge', store);
    cluster.follow(edge, relay);
    const late = history(7).slice(2);
    await Promise.all(late.map((one) => store.apply(encode([one])).committed));
    await eventually('the link ended', () => edge.ends.length === 1);
    assert.match(edge.ends[0] ?? '', /went on to 1:7 while an older snapshot came/);
    assert.equal(describePosition(edge.store?.position() ?? []), '1:7');
  });
});
