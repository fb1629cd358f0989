/**
 * Snapshots that do not come through in one go, in real processes over mutual TLS: the link is cut in the middle, the
 * follower is killed, the source is killed. What was loaded is not sent again where that can be, nobody ever reads half a
 * snapshot, and all end equal.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, beforeEach, describe, it } from 'node:test';
import { BadNetwork, FAIR } from '../support/bad-network.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const RECORDS = 1200;
const VALUE_BYTES = 8 * 1024;
const ALL_BYTES = RECORDS * VALUE_BYTES;
/** Of the snapshot, so that there is a middle of it. */
const BYTES_PER_SECOND = 5_000_000;
/** What is on its way when a link breaks, in the follower's memory and in sockets, and beats and TLS beside the rows. */
const SLACK_BYTES = 2 * 1024 * 1024;
const DEADLINE_MS = 60_000;
const BATCH = 100;

/** Values of a version, which do not pack. */
function value(version: number): Buffer {
  const bytes = randomBytes(VALUE_BYTES);
  bytes.write(`v${version} `, 'latin1');
  return bytes;
}

describe('a snapshot that is broken off', () => {
  let cluster: Cluster;
  let network: BadNetwork;
  let root: ClusterNode;
  let edge: ClusterNode;
  before(async () => {
    cluster = await Cluster.create();
    const replication = { heartbeatMs: 200, proofMs: 500, followerQueueBytes: 256 * 1024, unappliedBytes: 256 * 1024 };
    // A log that is soon too short for whoever was away.
    const config = { replication, log: { retainBytes: 1024 * 1024 } };
    root = await cluster.add({ name: 'root', role: 'root', config });
    network = await BadNetwork.before(root.replicationPort);
    const upstreams = [{ ...root, replicationPort: network.port }];
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams, config: { replication } });
    cluster.start(root);
    await cluster.ready(root);
    await writeAll(1);
  });
  after(async () => {
    await cluster.close();
    await network.close();
  });
  /** A follower without data, and a network that is slow enough to have a middle. */
  beforeEach(async () => {
    await cluster.stop(edge);
    cluster.wipe(edge);
    network.reset();
    network.weather = { delayMs: 0, bytesPerSecond: BYTES_PER_SECOND };
    network.bytes = 0;
  });

  async function writeAll(version: number): Promise<void> {
    for (let first = 0; first < RECORDS; first += BATCH) {
      const puts = Array.from({ length: BATCH }, async (_, index) => {
        const url = `http://127.0.0.1:${root.clientPort}/k${first + index}`;
        const response = await fetch(url, { method: 'PUT', body: value(version) });
        assert.ok(response.ok, await response.text());
      });
      await Promise.all(puts);
    }
  }

  async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
    const startMs = performance.now();
    while (!(await holds())) {
      assert.ok(performance.now() - startMs < DEADLINE_MS, `${what}\n${cluster.log(edge).slice(-3000)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  const halfway = async (): Promise<void> =>
    await until('half of the snapshot is there', () => network.bytes > ALL_BYTES / 2);

  /** What a reader of the edge sees: a version, `nothing` of it, or why it sees none. */
  async function look(key: string): Promise<string> {
    try {
      const response = await fetch(`http://127.0.0.1:${edge.clientPort}/${key}`, { signal: AbortSignal.timeout(5000) });
      if (response.status === 404) return 'nothing';
      if (!response.ok) return response.headers.get('x-tokaido-error') ?? String(response.status);
      const body = Buffer.from(await response.arrayBuffer());
      assert.equal(body.length, VALUE_BYTES);
      return body.subarray(0, body.indexOf(' ')).toString('latin1');
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      return 'REFUSED';
    }
  }

  /** Reads the first and the last key by turns until `stop`. */
  function watch(): { stop(): Promise<string[]> } {
    const seen: string[] = [];
    let isOver = false;
    const done = (async () => {
      while (!isOver) {
        for (const key of ['k0', 'k999']) seen.push(await look(key));
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    })();
    return {
      stop: async () => {
        isOver = true;
        await done;
        return seen.filter((each) => each !== 'REFUSED');
      },
    };
  }

  async function endsEqual(): Promise<void> {
    network.weather = FAIR;
    await until('the edge has compared itself and equals the root', async () => {
      if (!(await cluster.isReady(edge))) return false;
      const [own, theirs] = [await cluster.status(edge), await cluster.status(root)];
      const isThere = own.position[0]?.sequence === theirs.position[0]?.sequence;
      return isThere && own.equality?.equal === 1 && own.equality.differences.length === 0;
    });
    assert.equal((await cluster.status(edge)).databases[0]?.records, RECORDS);
  }

  async function metric(node: ClusterNode, line: string): Promise<boolean> {
    const response = await fetch(`http://127.0.0.1:${node.adminPort}/metrics`);
    return (await response.text()).split('\n').includes(line);
  }

  it('goes on over the next link: only the rest is sent', async () => {
    cluster.start(edge);
    await halfway();
    network.reset();
    const first = network.bytes;
    let row: number | undefined;
    await until('the edge goes on', async () => {
      row = (await cluster.status(edge)).upstream?.loading?.resumedAt;
      return row !== undefined;
    });
    const [{ followers }] = [await cluster.status(root)];
    assert.equal(followers[0]?.copying?.resumedAt, row, 'both ends know where');
    assert.ok((row as number) > RECORDS / 4);
    assert.ok(await metric(root, 'tokaido_snapshots_resumed_total{end="source"} 1'));
    assert.ok(await metric(edge, 'tokaido_snapshots_resumed_total{end="follower"} 1'));
    await until('the edge is ready', async () => await cluster.isReady(edge));
    const second = network.bytes - first;
    assert.ok(second < ALL_BYTES - first + SLACK_BYTES, `${first} bytes, and then ${second} of ${ALL_BYTES}`);
    for (const node of [root, edge]) assert.match(cluster.log(node), /going on with .* snapshot .*where it stopped/);
    await endsEqual();
    await until('nothing is kept any more', async () => await metric(root, 'tokaido_snapshots_kept 0'));
  });

  it('goes on after kill -9 of the follower, and nobody reads half of it', async () => {
    cluster.start(edge);
    const reader = watch();
    await halfway();
    await cluster.kill(edge);
    const first = network.bytes;
    cluster.start(edge);
    await until('the edge is ready', async () => await cluster.isReady(edge));
    const second = network.bytes - first;
    assert.ok(second < ALL_BYTES - first + SLACK_BYTES, `${first} bytes, and then ${second} of ${ALL_BYTES}`);
    await endsEqual();
    const seen = await reader.stop();
    const ready = seen.indexOf('v1');
    assert.ok(ready > 0, 'it was read before and after');
    assert.deepEqual([...new Set(seen.slice(0, ready))], ['NOT_READY']);
    assert.deepEqual([...new Set(seen.slice(ready))], ['v1']);
  });

  it('begins again after kill -9 of the source, and nobody reads half of it', async () => {
    cluster.start(edge);
    const reader = watch();
    await halfway();
    await cluster.kill(root);
    cluster.start(root);
    await cluster.ready(root);
    await endsEqual();
    const seen = await reader.stop();
    assert.deepEqual([...new Set(seen)], ['NOT_READY', 'v1']);
    assert.match(cluster.log(edge), /loading a snapshot.*[\s\S]*loading a snapshot/);
  });

  it('leaves the old data in place, whole, however often the follower is killed', async () => {
    network.weather = FAIR;
    cluster.start(edge);
    await cluster.ready(edge);
    await endsEqual();
    await cluster.stop(edge);
    await writeAll(2);
    network.weather = { delayMs: 0, bytesPerSecond: BYTES_PER_SECOND };
    network.bytes = 0;
    cluster.start(edge);
    const reader = watch();
    for (const part of [0.25, 0.5, 0.75]) {
      await until('a part of the snapshot is there', () => network.bytes > ALL_BYTES * part);
      await cluster.kill(edge);
      cluster.start(edge);
    }
    await until('the edge has the new data', async () => (await look('k0')) === 'v2');
    assert.ok(network.bytes < ALL_BYTES + 3 * SLACK_BYTES, `${network.bytes} of ${ALL_BYTES} over four links`);
    await endsEqual();
    const seen = await reader.stop();
    const swap = seen.indexOf('v2');
    assert.deepEqual([...new Set(seen.slice(0, swap))], ['v1']);
    assert.deepEqual([...new Set(seen.slice(swap))], ['v2']);
  });
});
