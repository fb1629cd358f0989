/** Two roots that take writes at the same time, with edges on each: partitions, kills, and equal in the end. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { BadNetwork, FAIR } from '../support/bad-network.js';
import { tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { becomeEqual } from '../support/equal.js';
import { freePort } from '../support/postgres.js';

const KEYS = 40;
const LIMIT_MS = 60_000;
const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

describe('two roots that exchange', () => {
  let cluster: Cluster;
  let networks: readonly BadNetwork[];
  let roots: readonly ClusterNode[];
  let all: readonly ClusterNode[];

  before(async () => {
    cluster = await Cluster.create();
    // The way to each root is a bad network; its own port is known once it was added.
    const ports = [await freePort(), await freePort()];
    networks = await Promise.all(ports.map(async (port) => await BadNetwork.before(port)));
    roots = await Promise.all(
      [0, 1].map(async (index) => {
        const other = networks[1 - index] as BadNetwork;
        const name = `root-${index + 1}`;
        return await cluster.add({
          name,
          role: 'root',
          replicationPort: ports[index] as number,
          config: {
            sid: index + 1,
            peers: [{ address: `127.0.0.1:${other.port}`, name: `root-${2 - index}` }],
            replication: { silenceMs: 1500, reconnectMaxMs: 300, proofMs: 500 },
          },
        });
      }),
    );
    const edges = await Promise.all(
      roots.map(async (root, index) => {
        const config = { replication: { silenceMs: 1500, reconnectMaxMs: 300 } };
        return await cluster.add({ name: `edge-${index + 1}`, role: 'edge', upstreams: [root], config });
      }),
    );
    all = [...roots, ...edges];
    for (const node of all) cluster.start(node);
    for (const node of all) await cluster.ready(node);
  });
  after(async () => {
    await cluster.close();
    for (const network of networks) await network.close();
  });

  async function write(
    root: ClusterNode,
    method: 'PUT' | 'DELETE',
    key: string,
    body?: string,
    xt?: number,
  ): Promise<void> {
    const url = `http://127.0.0.1:${root.clientPort}/${key}`;
    const headers = xt === undefined ? {} : { 'X-Kt-Xt': String(xt) };
    const response = await fetch(url, { method, headers, ...(body === undefined ? {} : { body }) });
    assert.ok(response.ok || response.status === 404, `${method} ${key} at ${root.name}: ${response.status}`);
    await response.arrayBuffer();
  }

  const read = async (node: ClusterNode, key: string): Promise<string | undefined> => {
    const response = await fetch(`http://127.0.0.1:${node.clientPort}/${key}`);
    const text = await response.text();
    return response.ok ? text : undefined;
  };

  /** The same few keys at both roots at once: sets, removals, expirations. */
  async function writeEverywhere(round: string): Promise<void> {
    await Promise.all(
      roots.map(async (root, index) => {
        for (let i = 0; i < KEYS; i++) {
          if (i % 7 === index) await write(root, 'DELETE', `k${i}`);
          else
            await write(
              root,
              'PUT',
              `k${i}`,
              `${round}-${index}-${i}`,
              i % 5 === 0 ? 1_000_000_000_000 + i : undefined,
            );
        }
        await write(root, 'PUT', `only-${index}-${round}`, round);
      }),
    );
  }

  it('both take writes of the same keys, and all nodes end byte for byte equal (invariant 4)', async () => {
    await writeEverywhere('one');
    await becomeEqual(cluster, all);
    const values = await Promise.all(all.map(async (node) => await read(node, 'k2')));
    assert.equal(new Set(values).size, 1);
    assert.equal(await read(all[3] as ClusterNode, 'only-0-one'), 'one');
    const { equality, peers } = await cluster.status(roots[0] as ClusterNode);
    assert.deepEqual(equality?.differences ?? [], []);
    assert.deepEqual(
      peers.map(({ name, state }) => [name, state]),
      [['root-2', 'following']],
    );
  });

  it('go on apart while the network is cut, and come together again afterwards (invariants 4 and 8)', async () => {
    for (const network of networks) network.weather = { delayMs: 0, isCut: true };
    await writeEverywhere('apart');
    assert.equal(await read(roots[1] as ClusterNode, 'only-0-apart'), undefined);
    await write(roots[0] as ClusterNode, 'DELETE', 'only-1-one');
    for (const network of networks) network.weather = FAIR;
    await becomeEqual(cluster, all);
    assert.equal(await read(all[2] as ClusterNode, 'only-1-apart'), 'apart');
  });

  it('clear a database at one root while the other writes, and agree on what is left', async () => {
    for (const network of networks) network.weather = { delayMs: 0, isCut: true };
    const [one, two] = roots as [ClusterNode, ClusterNode];
    await write(two, 'PUT', 'before-the-clear', 'gone');
    const cleared = await fetch(`http://127.0.0.1:${one.clientPort}/rpc/clear`, { method: 'POST' });
    assert.ok(cleared.ok);
    await write(two, 'PUT', 'after-the-clear', 'kept');
    for (const network of networks) network.weather = FAIR;
    await becomeEqual(cluster, all);
    const kept = await Promise.all(all.map(async (node) => await read(node, 'after-the-clear')));
    assert.deepEqual(
      kept,
      all.map(() => 'kept'),
    );
    const gone = await Promise.all(all.map(async (node) => await read(node, 'before-the-clear')));
    assert.deepEqual(
      gone,
      all.map(() => undefined),
    );
  });

  it('lose nothing that they acknowledged over kill -9 of either in the middle of it (invariant 5)', async () => {
    const acknowledged = new Set<string>();
    for (const [index, victim] of roots.entries()) {
      let isOver = false;
      const writers = roots.map(async (root, at) => {
        for (let i = 0; !isOver; i++) {
          const key = `ack-${index}-${at}-${i}`;
          try {
            await write(root, 'PUT', key, key);
            acknowledged.add(key);
          } catch {
            await sleep(50);
          }
        }
      });
      await sleep(300);
      await cluster.kill(victim);
      await sleep(300);
      cluster.start(victim);
      await cluster.ready(victim);
      await sleep(300);
      isOver = true;
      await Promise.all(writers);
    }
    await becomeEqual(cluster, all);
    assert.ok(acknowledged.size > 20);
    for (const key of acknowledged) assert.equal(await read(all[3] as ClusterNode, key), key);
  });

  it('give a root that lost its disk everything, once it has a server id that no root ever had', async () => {
    const [one, two] = roots as [ClusterNode, ClusterNode];
    await cluster.stop(two);
    cluster.wipe(two);
    // From a log it would get nothing that it made itself; a snapshot has that, too.
    const trim = ['log', 'trim', '--keep-bytes', '0', '--admin', `127.0.0.1:${one.adminPort}`];
    const { code, err } = await tokaido(trim);
    assert.equal(code, 0, err);
    cluster.start(two);
    const startMs = performance.now();
    const isRefused = () =>
      /cannot load the snapshot/.test(cluster.log(two)) && /is empty where/.test(cluster.log(two));
    while (!isRefused()) {
      assert.ok(performance.now() - startMs < LIMIT_MS, 'it refuses what it made itself before');
      await sleep(50);
    }
    await assert.rejects(write(two, 'PUT', 'as-two', 'again'), /503/);
    await cluster.stop(two);
    cluster.wipe(two);
    const path = join(two.folder, 'node.yaml');
    writeFileSync(path, readFileSync(path, 'utf8').replace('sid: 2', 'sid: 3'));
    cluster.start(two);
    await cluster.ready(two);
    await write(two, 'PUT', 'as-three', 'new');
    await becomeEqual(cluster, all);
    assert.equal(await read(two, 'only-0-one'), await read(roots[0] as ClusterNode, 'only-0-one'));
    assert.equal(await read(all[2] as ClusterNode, 'as-three'), 'new');
  });
});
