/** A new CA under a running cluster that is written to all the time: no node restarts, no write is lost. */
import assert from 'node:assert/strict';
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { NodeStatus } from '../../src/node/status.js';
import { openCa } from '../../src/pki/ca.js';
import { renewCertificate } from '../../src/pki/ca-renewal.js';
import { retireOld, rotateCa } from '../../src/pki/ca-rotation.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { eventually } from '../support/local-runtime.js';

const SOON_MS = 15_000;
/** Between two steps of an operator, so that writes and links meet each state. */
const STEP_MS = 300;

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

describe('a rotation of the CA', () => {
  let cluster: Cluster;
  let nodes: ClusterNode[];
  before(async () => {
    cluster = await Cluster.create();
    const config = { replication: { heartbeatMs: 100, reconnectMinMs: 20, reconnectMaxMs: 100 } };
    const root = await cluster.add({ name: 'root', role: 'root', config });
    const relay = await cluster.add({ name: 'relay', role: 'relay', upstreams: [root], config });
    const edges = [];
    for (const name of ['edge-1', 'edge-2']) {
      edges.push(await cluster.add({ name, role: 'edge', upstreams: [relay], config }));
    }
    nodes = [root, relay, ...edges];
    for (const node of nodes) cluster.start(node);
    for (const node of nodes) await cluster.ready(node);
  });
  after(async () => await cluster.close());

  it('under load loses no write, restarts no node, and ends with the old CA locked out', async () => {
    const [root] = nodes as [ClusterNode];
    const url = (node: ClusterNode, key: string): string => `http://127.0.0.1:${node.clientPort}/${key}`;
    let writing = true;
    const acknowledged: string[] = [];
    const writer = (async () => {
      for (let i = 0; writing; i++) {
        const { status } = await fetch(url(root, `k${i}`), { method: 'PUT', body: `v${i}` });
        if (status === 201) acknowledged.push(`k${i}`);
        await sleep(5);
      }
    })();
    const ca = join(cluster.folder, 'ca');
    const statuses = async (): Promise<NodeStatus[]> =>
      await Promise.all(nodes.map(async (node) => await cluster.status(node)));
    const fingerprints = async (): Promise<unknown[]> =>
      (await statuses()).map((status) => status.certificate?.fingerprint);
    const before = await fingerprints();
    const kept = cluster.subfolder('kept');
    for (const name of ['node.crt', 'node.key', 'ca.crt'])
      cpSync(join((nodes[3] as ClusterNode).folder, name), join(kept, name));
    await rotateCa({ folder: ca, name: 'second', days: 100, nowMs: Date.now() });
    // In an order that no plan would choose: an edge, the root, the relay, the other edge.
    for (const at of [2, 0, 1, 3]) {
      const { folder } = nodes[at] as ClusterNode;
      const files = {
        certificate: join(folder, 'node.crt'),
        key: join(folder, 'node.key'),
        ca: join(folder, 'ca.crt'),
      };
      await renewCertificate({ files, days: 20, nowMs: Date.now() }, openCa(ca));
      await sleep(STEP_MS);
    }
    const start = performance.now();
    while ((await fingerprints()).some((fingerprint, at) => fingerprint === before[at])) {
      assert.ok(performance.now() - start < SOON_MS, 'every node uses its new certificate');
      await sleep(20);
    }
    const trust = retireOld(ca, { nowMs: Date.now(), force: false });
    for (const { folder } of nodes) cpSync(trust, join(folder, 'ca.crt'));
    await sleep(3 * STEP_MS);
    writing = false;
    await writer;
    for (const node of nodes.slice(1)) {
      for (;;) {
        const { upstream, position } = await cluster.status(node);
        const { position: wanted } = await cluster.status(root);
        if (upstream?.state === 'following' && position[0]?.sequence === wanted[0]?.sequence) break;
        assert.ok(
          performance.now() - start < 2 * SOON_MS,
          `${node.name} has everything\n${cluster.log(node).slice(-2000)}`,
        );
        await sleep(20);
      }
      for (const key of acknowledged) assert.equal((await fetch(url(node, key))).status, 200, `${key} at ${node.name}`);
    }
    assert.ok(acknowledged.length > 50, `${acknowledged.length} writes`);
    assert.deepEqual(
      nodes.map(({ starts }) => starts),
      [1, 1, 1, 1],
    );
    // Who kept a certificate of the old CA finds nobody that believes it.
    const stale = nodes[3] as ClusterNode;
    await cluster.stop(stale);
    cpSync(kept, stale.folder, { recursive: true });
    cluster.start(stale);
    await cluster.ready(stale);
    const refused = (): boolean => /not from the CA of this cluster/.test(cluster.log(nodes[1] as ClusterNode));
    await eventually('it is refused', refused, SOON_MS);
  });
});
