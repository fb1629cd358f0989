/** Two roots that are apart for longer than their logs last: they merge what both did, by themselves, also over a kill -9. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { BadNetwork, FAIR } from '../support/bad-network.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { becomeEqual } from '../support/equal.js';
import { freePort } from '../support/postgres.js';

/** Each root makes more of them than its log keeps. */
const WRITES = 60;
const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

describe('two roots that were apart for longer than their logs', () => {
  let cluster: Cluster;
  let networks: readonly BadNetwork[];
  let roots: readonly ClusterNode[];
  let edge: ClusterNode;

  before(async () => {
    cluster = await Cluster.create();
    const ports = [await freePort(), await freePort()];
    networks = await Promise.all(ports.map(async (port) => await BadNetwork.before(port)));
    roots = await Promise.all(
      [0, 1].map(async (index) => {
        const other = networks[1 - index] as BadNetwork;
        return await cluster.add({
          name: `root-${index + 1}`,
          role: 'root',
          replicationPort: ports[index] as number,
          config: {
            sid: index + 1,
            databases: ['default', 'other'],
            peers: [{ address: `127.0.0.1:${other.port}`, name: `root-${2 - index}` }],
            replication: { silenceMs: 1000, reconnectMaxMs: 300, proofMs: 500 },
            store: { expiryIntervalMs: 100 },
            log: { retainBytes: 5000 },
          },
        });
      }),
    );
    const config = { databases: ['default', 'other'], replication: { silenceMs: 1500, reconnectMaxMs: 300 } };
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [roots[0] as ClusterNode], config });
    for (const node of [...roots, edge]) cluster.start(node);
    for (const node of [...roots, edge]) await cluster.ready(node);
  });
  after(async () => {
    await cluster.close();
    for (const network of networks) await network.close();
  });

  async function request(node: ClusterNode, method: string, path: string, body?: string): Promise<Response> {
    const url = `http://127.0.0.1:${node.clientPort}/${path}`;
    return await fetch(url, { method, ...(body === undefined ? {} : { body }) });
  }

  async function write(
    node: ClusterNode,
    method: 'PUT' | 'DELETE' | 'POST',
    path: string,
    body?: string,
  ): Promise<void> {
    const response = await request(node, method, path, body);
    assert.ok(response.ok || response.status === 404, `${method} ${path} at ${node.name}: ${response.status}`);
    await response.arrayBuffer();
  }

  async function read(node: ClusterNode, path: string): Promise<string | undefined> {
    const response = await request(node, 'GET', path);
    const text = await response.text();
    return response.ok ? text : undefined;
  }

  it('merge: what one alone wrote stays, what either removed or cleared does not come back (invariant 4)', async () => {
    const [one, two] = roots as [ClusterNode, ClusterNode];
    for (const key of ['both', 'gone-at-one', 'gone-at-two', 'twice']) await write(one, 'PUT', key, 'common');
    await write(two, 'POST', 'rpc/set?DB=other&key=cleared&value=common');
    await becomeEqual(cluster, [...roots, edge]);
    for (const network of networks) network.weather = { delayMs: 0, isCut: true };
    await write(one, 'DELETE', 'gone-at-one');
    // Older than its removal by the other one.
    await write(one, 'PUT', 'gone-at-two', 'older');
    await write(one, 'PUT', 'twice', 'older');
    await write(two, 'DELETE', 'gone-at-two');
    await write(two, 'PUT', 'twice', 'newer');
    await write(one, 'POST', 'rpc/set?DB=other&key=before&value=gone');
    await write(two, 'POST', 'rpc/clear?DB=other');
    await write(two, 'POST', 'rpc/set?DB=other&key=after&value=kept');
    for (const [index, root] of roots.entries()) {
      for (let i = 0; i < WRITES; i++) await write(root, 'PUT', `alone-${index}-${i}`, 'x'.repeat(300));
    }
    // The links end, housekeeping cuts the logs, and forgets what it may.
    await sleep(2500);
    for (const network of networks) network.weather = FAIR;
    // Somewhere in the middle of it.
    const startMs = performance.now();
    while (!cluster.log(two).includes('loading a snapshot') && performance.now() - startMs < 5000) await sleep(5);
    await cluster.kill(two);
    cluster.start(two);
    await cluster.ready(two);
    await becomeEqual(cluster, [...roots, edge]);
    const log = `${cluster.log(one)}${cluster.log(two)}`;
    assert.match(log, /the data of another root was merged with what this root has/);
    for (const node of [one, two, edge]) {
      assert.equal(await read(node, 'both'), 'common');
      assert.equal(await read(node, 'gone-at-one'), undefined);
      assert.equal(await read(node, 'gone-at-two'), undefined);
      assert.equal(await read(node, 'twice'), 'newer');
      for (const index of [0, 1]) {
        for (let i = 0; i < WRITES; i++) assert.equal((await read(node, `alone-${index}-${i}`))?.length, 300);
      }
      assert.equal((await request(node, 'POST', 'rpc/get?DB=other&key=after')).status, 200);
      for (const key of ['cleared', 'before'])
        assert.notEqual((await request(node, 'POST', `rpc/get?DB=other&key=${key}`)).status, 200, key);
    }
    // And they go on as before.
    await write(two, 'PUT', 'since', 'then');
    await becomeEqual(cluster, [...roots, edge]);
    assert.equal(await read(edge, 'since'), 'then');
  });
});
