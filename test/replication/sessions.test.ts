/** Both sides of a link, over links in memory: following, snapshots, refusals, lost tails. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { sid } from '../../src/base/types.js';
import { originOf } from '../../src/log/position.js';
import { encodeFrame, type Frame, FrameDecoder } from '../../src/replication/frames/frames.js';
import { Scope } from '../../src/replication/scope.js';
import type { ReplicationServer } from '../../src/replication/sending/server.js';
import type { LocalStore } from '../../src/store/store.js';
import { eventually } from '../support/local-runtime.js';
import { CLUSTER, contents, put, TestCluster, type TestNode } from '../support/replication-pair.js';

describe('a follower and its upstream', () => {
  let cluster: TestCluster;
  let root: TestNode;

  beforeEach(() => {
    cluster = new TestCluster();
    root = cluster.root();
    cluster.serve(root);
  });
  afterEach(async () => await cluster.close());

  const rootStore = (): LocalStore => root.store as LocalStore;
  const sequenceOf = (node: TestNode): number => originOf(node.store?.position() ?? [], sid(1))?.sequence ?? 0;

  it('a node without data is seeded by a snapshot and then follows the log (invariant 10)', async () => {
    for (let i = 0; i < 50; i++) await put(rootStore(), { [`k${i}`]: `v${i}`.repeat(1000) });
    rootStore().write((t) => t.remove('default', Buffer.from('k7')));
    const edge = cluster.node('edge', undefined);
    // The log is whole, but a node without a store cannot apply log: it asks from the start and gets it all.
    cluster.follow(edge, root);
    await put(rootStore(), { later: 'yes' });
    await eventually('the edge equals the root', () => contents(edge.store).later === 'yes');
    assert.deepEqual(contents(edge.store), contents(rootStore()));
    await eventually('positions are equal', () => sequenceOf(edge) === sequenceOf(root));
  });

  it('a follower with data goes on from its position without a snapshot', async () => {
    const edge = cluster.node('edge', cluster.openStore(undefined));
    await put(rootStore(), { a: '1' });
    cluster.follow(edge, root);
    await eventually('a arrived', () => contents(edge.store).a === '1');
    await put(rootStore(), { a: '2', b: '3' });
    await eventually('b arrived', () => contents(edge.store).b === '3');
    assert.deepEqual(edge.loaded, []);
    assert.deepEqual(contents(edge.store), { a: '2', b: '3' });
  });

  it('a relay hands on what it got, with the origins it came from (invariant 2)', async () => {
    const relay = cluster.node('relay', cluster.openStore(undefined));
    cluster.serve(relay);
    const edge = cluster.node('edge', cluster.openStore(undefined));
    cluster.follow(relay, root);
    cluster.follow(edge, relay);
    for (let i = 0; i < 20; i++) await put(rootStore(), { [`k${i}`]: `${i}` });
    await eventually('the edge has all', () => sequenceOf(edge) === 20);
    assert.deepEqual(contents(edge.store), contents(rootStore()));
    assert.deepEqual(edge.store?.position(), rootStore().position());
  });

  it('the root knows the whole tree, by reports that come up through relays', async () => {
    const relay = cluster.node('relay', cluster.openStore(undefined));
    cluster.serve(relay);
    const edges = ['one', 'two'].map((name) => cluster.node(name, cluster.openStore(undefined)));
    const up = cluster.follow(relay, root).session;
    const sessions = edges.map((edge) => cluster.follow(edge, relay).session);
    await put(rootStore(), { a: '1' });
    await eventually('all have it', () => edges.every((edge) => sequenceOf(edge) === 1));
    for (const session of sessions) session.report();
    await eventually('the relay knows its edges', () => relay.server?.tree().length === 2);
    up.report();
    await eventually('the root knows all', () => root.server?.tree().length === 3);
    const nameOf = (id: string): string | undefined => [root, relay].find(({ self }) => self.instanceId === id)?.name;
    assert.deepEqual(
      root.server?.tree().map((node) => [node.name, nameOf(node.upstreamId), node.position[0]?.sequence]),
      [
        ['relay', 'root', 1],
        ['one', 'relay', 1],
        ['two', 'relay', 1],
      ],
    );
  });

  it('a follower changes its upstream with its position and without a snapshot', async () => {
    const relays = ['one', 'two'].map((name) => cluster.node(name, cluster.openStore(undefined)));
    for (const relay of relays) {
      cluster.serve(relay);
      cluster.follow(relay, root);
    }
    const edge = cluster.node('edge', cluster.openStore(undefined));
    const first = cluster.follow(edge, relays[0] as TestNode);
    await put(rootStore(), { a: '1' });
    await eventually('a arrived', () => contents(edge.store).a === '1');
    first.up.destroy('cut');
    await put(rootStore(), { b: '2' });
    cluster.follow(edge, relays[1] as TestNode);
    await eventually('b arrived', () => contents(edge.store).b === '2');
    assert.deepEqual(edge.loaded, []);
  });

  it('a follower too far behind the log is brought up by a snapshot while it keeps serving what it had', async () => {
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root('root', { retention: { bytes: 2000, ageMs: 3_600_000 } });
    cluster.serve(root);
    const edge = cluster.node('edge', cluster.openStore(undefined));
    const link = cluster.follow(edge, root);
    await put(rootStore(), { a: 'old' });
    await eventually('a arrived', () => contents(edge.store).a === 'old');
    link.up.destroy('cut');
    for (let i = 0; i < 30; i++) await put(rootStore(), { a: `${i}`, [`k${i}`]: 'x'.repeat(500) });
    while (await rootStore().sweep());
    assert.equal(contents(edge.store).a, 'old');
    cluster.follow(edge, root);
    await eventually('a snapshot was loaded', () => edge.loaded.length === 1);
    assert.deepEqual(contents(edge.store), contents(rootStore()));
    await put(rootStore(), { after: 'all' });
    await eventually('the log goes on behind the snapshot', () => contents(edge.store).after === 'all');
  });

  it('a snapshot goes no faster than it may, and both ends know how far it is', async () => {
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root();
    const server = cluster.serve(root, {
      snapshotBytesPerSecond: 2_000_000,
      queueBytes: 50_000,
      packsSnapshots: false,
    });
    for (let i = 0; i < 10; i++) {
      const records = Array.from({ length: 10 }, (_, n) => [`k${i}-${n}`, 'x'.repeat(10_000)] as const);
      await put(rootStore(), Object.fromEntries(records));
    }
    const edge = cluster.node('edge', undefined);
    const startMs = performance.now();
    const { session } = cluster.follow(edge, root);
    await eventually('it is under way', () => (session.progress?.of ?? 0) > 0);
    await eventually('the source says so, too', () => server.followers()[0]?.copying?.of === 100);
    await eventually('both count', () => {
      const [here = 0, there = 0] = [session.progress?.rows, server.followers()[0]?.copying?.rows];
      return here > 0 && there >= here && here < 100;
    });
    await eventually('it is loaded', () => edge.loaded.length === 1);
    // 1 MB, the last slice of which need not wait.
    assert.ok(performance.now() - startMs > 400, `${performance.now() - startMs} ms`);
    assert.equal(server.followers()[0]?.copying, undefined);
    assert.deepEqual(contents(edge.store), contents(rootStore()));
  });

  it('a snapshot travels packed where it pays, and as it is where it does not or the follower cannot', async () => {
    const noise = randomBytes(200_000);
    for (let i = 0; i < 20; i++) {
      const at = i * 10_000;
      await put(rootStore(), {
        [`text${i}`]: 'x'.repeat(10_000),
        [`noise${i}`]: noise.toString('latin1', at, at + 5000),
      });
    }
    const edge = cluster.node('edge', undefined);
    cluster.follow(edge, root);
    await eventually('the edge is seeded', () => edge.loaded.length === 1);
    assert.deepEqual(contents(edge.store), contents(rootStore()));
    const bytes = edge.received.reduce((sum, { length }) => sum + length, 0);
    const raw = Object.values(contents(rootStore())).join('').length;
    assert.ok(bytes < 0.8 * raw, `${bytes} bytes for ${raw}`);
    // One that says of nothing that it unpacks it.
    const hello = { version: 1, clusterId: CLUSTER, self: { instanceId: 'ab'.repeat(16), name: 'old' }, position: [] };
    const rest = {
      seeded: false,
      isLook: false,
      takesHorizon: false,
      resumes: false,
      unpacks: [],
      scopeId: Scope.WHOLE.id,
    } as const;
    const frames: Frame[] = [];
    const decoder = new FrameDecoder();
    const session = (root.server as ReplicationServer).accept(
      { name: 'old', role: 'edge', address: 'memory' },
      {
        send: (chunks) => {
          for (const chunk of chunks) {
            for (const frame of decoder.push(chunk)) frames.push(frame);
            decoder.allowLargeFrames();
          }
        },
        queuedBytes: 0,
        pause: () => undefined,
        resume: () => undefined,
        close: () => undefined,
        destroy: () => undefined,
      },
    );
    session.onData(encodeFrame({ type: 'hello', ...hello, ...rest }));
    await eventually('all was sent', () => frames.some(({ type }) => type === 'snapshotEnd'));
    assert.equal(frames.filter(({ type }) => type === 'snapshotPacked').length, 0);
    const begin = frames.find(({ type }) => type === 'snapshotBegin');
    assert.equal(begin !== undefined && 'horizonMs' in begin, false);
    session.onClosed();
  });

  it('a follower whose log would be much longer than the data gets a snapshot, another one the log', async () => {
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root();
    cluster.serve(root, { copyInstead: { factor: 4, leastBytes: 100_000 } });
    const edges = ['far', 'near'].map((name) => cluster.node(name, cluster.openStore(undefined)));
    const [far, near] = edges as [TestNode, TestNode];
    const links = edges.map((edge) => cluster.follow(edge, root));
    await put(rootStore(), { a: '0' });
    await eventually('both follow', () => edges.every((edge) => sequenceOf(edge) === 1));
    links[0]?.up.destroy('cut');
    const write = async (times: number): Promise<void> => {
      for (let i = 0; i < times; i++) await put(rootStore(), { a: `${i}`.padEnd(10_000, 'x') });
    };
    await write(100);
    await eventually('the near one has all', () => sequenceOf(near) === 101);
    links[1]?.up.destroy('cut');
    await write(5);
    cluster.follow(far, root);
    cluster.follow(near, root);
    await eventually('both have all', () => edges.every((edge) => sequenceOf(edge) === 106));
    await eventually('the far one was seeded', () => far.loaded.length === 1);
    assert.deepEqual(near.loaded, []);
    for (const edge of edges) assert.deepEqual(contents(edge.store), contents(rootStore()));
  });

  it('writes go on while a snapshot is read, and the copy is of one moment', async () => {
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root('root', { retention: { bytes: 1, ageMs: 1 } });
    cluster.serve(root);
    for (let i = 0; i < 200; i++) await put(rootStore(), { [`k${String(i).padStart(3, '0')}`]: 'x'.repeat(8000) });
    while (await rootStore().sweep());
    const edge = cluster.node('edge', undefined);
    cluster.follow(edge, root);
    for (let i = 0; i < 50; i++) {
      await put(rootStore(), { [`k${String(i).padStart(3, '0')}`]: `new ${i}`, [`n${i}`]: 'n' });
    }
    await eventually('the edge caught up', () => sequenceOf(edge) === sequenceOf(root));
    assert.deepEqual(contents(edge.store), contents(rootStore()));
    assert.equal(edge.loaded.length, 1);
  });

  it('a follower ahead of a root that lost its tail makes the root begin a new epoch, and is reseeded', async () => {
    const edge = cluster.node('edge', cluster.openStore(undefined));
    const link = cluster.follow(edge, root);
    await put(rootStore(), { a: '1' });
    await eventually('a arrived', () => sequenceOf(edge) === 1);
    link.up.destroy('cut');
    // A root restored from nothing: it has the sid, and none of the history.
    const reborn = cluster.node('reborn', cluster.openStore(sid(1)));
    cluster.serve(reborn);
    cluster.follow(edge, reborn);
    await eventually('the edge was reseeded', () => edge.loaded.length === 1);
    assert.equal(reborn.store?.epoch, 2);
    await put(reborn.store as LocalStore, { b: '2' });
    await eventually('b arrived', () => contents(edge.store).b === '2');
    assert.deepEqual(contents(edge.store), { b: '2' });
  });

  it('a recovering root takes its lost transactions back before it numbers anything new', async () => {
    const edge = cluster.node('edge', cluster.openStore(undefined));
    const link = cluster.follow(edge, root);
    for (let i = 0; i < 5; i++) await put(rootStore(), { [`k${i}`]: `${i}` });
    await eventually('all arrived', () => sequenceOf(edge) === 5);
    link.up.destroy('cut');
    const reborn = cluster.node('reborn', cluster.openStore(sid(1)));
    const accounted: string[] = [];
    cluster.serve(reborn, { isRecovering: () => true, onAccountedFor: (instance) => accounted.push(instance) });
    cluster.follow(edge, reborn);
    await eventually('the edge is accounted for', () => accounted.length === 1);
    assert.deepEqual(contents(reborn.store), contents(edge.store));
    assert.deepEqual(reborn.store?.position(), edge.store?.position());
    assert.equal(reborn.store?.epoch, 1);
    await put(reborn.store as LocalStore, { next: '6' });
    await eventually('numbering went on', () => sequenceOf(edge) === 6);
    assert.deepEqual(edge.loaded, []);
  });

  it('finds the loop when two nodes turn to each other at the same moment', async () => {
    const nodes = ['one', 'two'].map((name) => cluster.node(name, cluster.openStore(undefined)));
    const [one, two] = nodes as [TestNode, TestNode];
    for (const node of nodes) cluster.serve(node);
    cluster.follow(one, two);
    cluster.follow(two, one);
    await eventually('one of them lets go', () => one.ends.length + two.ends.length > 0);
    assert.match([...one.ends, ...two.ends].join(), /a loop: (one -> two -> one|two -> one -> two)/);
  });

  it('finds a loop of three that came to be at the same moment, by what beats say of the way to the root', async () => {
    const nodes = ['one', 'two', 'three'].map((name) => cluster.node(name, cluster.openStore(undefined)));
    for (const node of nodes) cluster.serve(node);
    for (const [i, node] of nodes.entries()) cluster.follow(node, nodes[(i + 1) % 3] as TestNode);
    await eventually('one of them lets go', () => nodes.some(({ ends }) => ends.length > 0));
    assert.match(nodes.flatMap(({ ends }) => ends).join(), /a loop: (one -> two|two -> three|three -> one)/);
  });

  it('refuses to follow itself, a loop, and another cluster, each with its reason', async () => {
    cluster.follow(root, root);
    await eventually('it refused itself', () => root.ends.length === 1);
    assert.match(root.ends[0] ?? '', /SELF.*would follow itself/);

    const relay = cluster.node('relay', cluster.openStore(undefined));
    cluster.serve(relay);
    relay.upstreamPath = [root.self];
    cluster.follow(root, relay);
    await eventually('it refused the loop', () => root.ends.length === 2);
    assert.match(root.ends[1] ?? '', /LOOP.*root -> relay -> root/);

    const stranger = cluster.node('stranger', cluster.openStore(undefined));
    cluster.follow(stranger, root, 'ffffffffffffffffffffffffffffffff');
    await eventually('it refused the cluster', () => stranger.ends.length === 1);
    assert.match(stranger.ends[0] ?? '', /CLUSTER/);
  });

  it('a follower that vanishes in the middle of its snapshot loses its turn to the next one', async () => {
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root();
    for (let i = 0; i < 20; i++) await put(rootStore(), { [`k${i}`]: 'x'.repeat(10_000) });
    cluster.serve(root, { queueBytes: 50_000, stalledMs: 300, packsSnapshots: false });
    const vanished = cluster.node('vanished', undefined);
    const next = cluster.node('next', undefined);
    const link = cluster.follow(vanished, root);
    link.down.stalled = true;
    await eventually('its snapshot began', () => link.down.queuedBytes >= 50_000);
    cluster.follow(next, root);
    await eventually('the next one has its data', () => next.loaded.length === 1);
    assert.deepEqual(contents(next.store), contents(rootStore()));
  });

  it('a follower that comes over a new link ends the old one, which holds the turn for its snapshot', async () => {
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root();
    for (let i = 0; i < 20; i++) await put(rootStore(), { [`k${i}`]: 'x'.repeat(10_000) });
    const server = cluster.serve(root, { queueBytes: 50_000, packsSnapshots: false });
    const edge = cluster.node('edge', undefined);
    const old = cluster.follow(edge, root);
    old.down.stalled = true;
    await eventually('its snapshot began', () => old.down.queuedBytes >= 50_000);
    cluster.follow(edge, root);
    // Without that it would wait for a minute.
    await eventually('it has its data', () => edge.loaded.length === 1);
    await eventually('one link is left', () => server.followers().every(({ state }) => state !== 'copying'));
    assert.deepEqual(contents(edge.store), contents(rootStore()));
  });

  it('a slow follower costs a bounded queue, delays nobody, and catches up from the log (invariant 9)', async () => {
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root();
    cluster.serve(root, { queueBytes: 50_000, ringBytes: 20_000 });
    const slow = cluster.node('slow', cluster.openStore(undefined));
    const quick = cluster.node('quick', cluster.openStore(undefined));
    const slowLink = cluster.follow(slow, root);
    cluster.follow(quick, root);
    await put(rootStore(), { a: '1' });
    await eventually('both follow', () => sequenceOf(slow) === 1 && sequenceOf(quick) === 1);
    slowLink.down.stalled = true;
    for (let i = 0; i < 100; i++) await put(rootStore(), { [`k${i}`]: 'x'.repeat(10_000) });
    await eventually('the quick one has all', () => sequenceOf(quick) === 101);
    assert.ok(slowLink.down.queuedBytes < 50_000 + 20_000, `${slowLink.down.queuedBytes} bytes queued`);
    slowLink.down.stalled = false;
    slowLink.down.deliver();
    await eventually('the slow one caught up', () => sequenceOf(slow) === 101);
    assert.deepEqual(contents(slow.store), contents(rootStore()));
  });

  it('heartbeats tell a follower how old its data is', async () => {
    const edge = cluster.node('edge', cluster.openStore(undefined));
    assert.equal(edge.heartbeats.lagMs(cluster.runtime.nowMs()), undefined);
    const link = cluster.follow(edge, root);
    await eventually('a beat was covered', () => (edge.heartbeats.lagMs(cluster.runtime.nowMs()) ?? 1e9) < 1000);
    link.up.destroy('cut');
    await eventually('lag grows when cut off', () => (edge.heartbeats.lagMs(cluster.runtime.nowMs()) ?? 0) > 200);
  });

  it('bytes that are no protocol end that link and nothing else', async () => {
    const edge = cluster.node('edge', cluster.openStore(undefined));
    const { up } = cluster.follow(edge, root);
    up.send([Buffer.from('GET / HTTP/1.1\r\n\r\n')]);
    await eventually('the link ended', () => edge.ends.length === 1);
    assert.match(edge.ends[0] ?? '', /PROTOCOL/);
    await put(rootStore(), { a: '1' });
    assert.equal(contents(rootStore()).a, '1');
  });
});
