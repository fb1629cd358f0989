/** A follower on a very slow link: it costs the others nothing, and its source bounded memory. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { BadNetwork } from '../support/bad-network.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const QUEUE_BYTES = 128 * 1024;
const BATCH_BYTES = 64 * 1024;
/** More than the kernel's buffers on the way take. */
const VALUE = 'x'.repeat(64 * 1024);
const RECORDS = 400;

describe('a follower that reads 10 kB a second', () => {
  let cluster: Cluster;
  let network: BadNetwork;
  let root: ClusterNode;
  let fast: ClusterNode;
  let slow: ClusterNode;
  before(async () => {
    cluster = await Cluster.create();
    const config = {
      durability: 'committed',
      replication: { followerQueueBytes: QUEUE_BYTES, ringBytes: QUEUE_BYTES },
      store: { commitBytes: BATCH_BYTES },
    };
    root = await cluster.add({ name: 'root', role: 'root', config });
    network = await BadNetwork.before(root.replicationPort);
    fast = await cluster.add({ name: 'fast', role: 'edge', upstreams: [root] });
    slow = await cluster.add({ name: 'slow', role: 'edge', upstreams: [{ ...root, replicationPort: network.port }] });
    for (const node of [root, fast, slow]) cluster.start(node);
    for (const node of [root, fast, slow]) await cluster.ready(node);
  });
  after(async () => {
    await cluster.close();
    await network.close();
  });

  const sequenceOf = async (node: ClusterNode): Promise<number> =>
    (await cluster.status(node)).position[0]?.sequence ?? 0;

  it('leaves the writer and the other follower alone, and holds no more at its source than the queue may', async () => {
    network.weather = { delayMs: 0, bytesPerSecond: 10_000 };
    let mostQueued = 0;
    for (let i = 0; i < RECORDS; i++) {
      const response = await fetch(`http://127.0.0.1:${root.clientPort}/k${i}`, { method: 'PUT', body: VALUE });
      assert.ok(response.ok);
      if (i % 20 !== 0) continue;
      const { followers } = await cluster.status(root);
      mostQueued = Math.max(mostQueued, ...followers.map(({ queuedBytes }) => queuedBytes));
    }
    const written = await sequenceOf(root);
    const startMs = performance.now();
    while ((await sequenceOf(fast)) < written) {
      assert.ok(performance.now() - startMs < 10_000, 'the other follower keeps up');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    // All of it together is 26 MB: at 10 kB a second that takes most of an hour.
    const behind = written - (await sequenceOf(slow));
    assert.ok(behind > RECORDS / 4, `the slow follower lacks ${behind} of ${written}`);
    assert.ok(
      mostQueued > 0 && mostQueued <= QUEUE_BYTES + 4 * BATCH_BYTES,
      `${mostQueued} bytes waited for a follower`,
    );
    // It gets everything all the same, from the log, once it can.
    network.weather = { delayMs: 0 };
    const freedMs = performance.now();
    while ((await sequenceOf(slow)) < written) {
      assert.ok(performance.now() - freedMs < 30_000, 'the slow follower catches up');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  });
});
