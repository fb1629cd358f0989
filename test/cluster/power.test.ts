/**
 * Real nodes after the machine went down under them. A test cannot cut the power, but it can leave a data directory as a
 * power cut does: an older state of the data file, an unclean end, and another boot of the machine in between.
 */
import assert from 'node:assert/strict';
import {
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { TokaidoClient } from '../../src/client/client.js';
import { encodeHead } from '../../src/engine/checkpoint.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const QUICK = { replication: { heartbeatMs: 50, reconnectMinMs: 20, reconnectMaxMs: 100, recoveryWaitMs: '20s' } };
const DEADLINE_MS = 15_000;

describe('a machine that went down', () => {
  let cluster: Cluster;
  let clients: TokaidoClient[];

  beforeEach(async () => {
    cluster = await Cluster.create();
    clients = [];
  });
  afterEach(async () => {
    for (const client of clients) client.close();
    await cluster.close();
  });

  const client = (node: ClusterNode): TokaidoClient => {
    const made = new TokaidoClient({ server: `127.0.0.1:${node.clientPort}` });
    clients.push(made);
    return made;
  };

  async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
    const start = performance.now();
    while (!(await condition().catch(() => false))) {
      if (performance.now() - start > DEADLINE_MS) {
        const logs = [...cluster.nodes.values()].map((node) => `--- ${node.name}\n${cluster.log(node).slice(-1500)}`);
        throw new Error(`not within ${DEADLINE_MS} ms: ${what}\n${logs.join('\n')}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Position of origin 1: `epoch:sequence`. */
  async function position(node: ClusterNode): Promise<string> {
    const [origin] = (await cluster.status(node)).position;
    return origin === undefined ? 'start' : `${origin.epoch}:${origin.sequence}`;
  }

  async function write(root: ClusterNode, from: number, to: number, value: string): Promise<void> {
    const writer = client(root);
    for (let n = from; n <= to; n++) await writer.set(`k${n}`, `${value} ${n}`);
  }

  /** Every record, as text. */
  async function records(node: ClusterNode): Promise<Record<string, string>> {
    const keys = Array.from({ length: 60 }, (_, i) => `k${i}`);
    const found = await client(node).getBulk(keys);
    return Object.fromEntries([...found].sort().map(([key, value]) => [key, value.toString()]));
  }

  const dataFile = (node: ClusterNode): string => {
    const data = join(node.folder, 'data');
    const [store] = readdirSync(data).filter((name) => name.startsWith('store-'));
    return join(data, store ?? 'none', 'data.mdb');
  };
  const nodeFile = (node: ClusterNode): Record<string, unknown> => {
    return JSON.parse(readFileSync(join(node.folder, 'data', 'node.json'), 'utf8')) as Record<string, unknown>;
  };

  /** As if the machine had been started again since the node ran. */
  function rebooted(node: ClusterNode): void {
    const file = { ...nodeFile(node), bootId: 'another boot' };
    writeFileSync(join(node.folder, 'data', 'node.json'), JSON.stringify(file));
  }

  /** A root with edges that have everything, and a copy of its data file from when it had only a part. */
  async function rootWithOlderCopy(edgeNames: readonly string[]): Promise<{ root: ClusterNode; edges: ClusterNode[] }> {
    const root = await cluster.add({ name: 'root', role: 'root', config: QUICK });
    const edges: ClusterNode[] = [];
    for (const name of edgeNames) {
      edges.push(await cluster.add({ name, role: 'edge', upstreams: [root], config: QUICK }));
    }
    cluster.start(root);
    await cluster.ready(root);
    for (const edge of edges) cluster.start(edge);
    for (const edge of edges) await cluster.ready(edge);
    await write(root, 1, 10, 'first');
    await cluster.stop(root);
    copyFileSync(dataFile(root), join(root.folder, 'older.mdb'));
    cluster.start(root);
    await cluster.ready(root);
    await write(root, 11, 25, 'later');
    for (const edge of edges) await until(`${edge.name} has all`, async () => (await position(edge)) === '1:25');
    return { root, edges };
  }

  async function equal(root: ClusterNode, edges: readonly ClusterNode[]): Promise<Record<string, string>> {
    const at = await position(root);
    const all = await records(root);
    for (const edge of edges) {
      await until(`${edge.name} is at ${at}`, async () => (await position(edge)) === at);
      assert.deepEqual(await records(edge), all);
    }
    return all;
  }

  it('a root takes its lost tail back from its followers before it numbers anything, even when killed meanwhile', async () => {
    const { root, edges } = await rootWithOlderCopy(['one', 'two']);
    await cluster.kill(root);
    const [one, two] = edges as [ClusterNode, ClusterNode];
    for (const edge of edges) await cluster.stop(edge);
    copyFileSync(join(root.folder, 'older.mdb'), dataFile(root));
    rebooted(root);
    cluster.start(root);
    await cluster.ready(root);
    assert.equal((await cluster.status(root)).recovering, true);
    await assert.rejects(client(root).set('k50', 'too early'), { code: 'NOT_READY' });
    // The same boot of the machine, and still a lost tail.
    await cluster.kill(root);
    cluster.start(root);
    await cluster.ready(root);
    assert.equal((await cluster.status(root)).recovering, true);
    cluster.start(one);
    await until('the root has its tail', async () => (await position(root)) === '1:25');
    await assert.rejects(client(root).set('k50', 'too early'), { code: 'NOT_READY' });
    cluster.start(two);
    await until('the root takes writes', async () => !(await cluster.status(root)).recovering);
    await write(root, 30, 32, 'new');
    assert.equal(await position(root), '2:29');
    const all = await equal(root, edges);
    assert.equal(Object.keys(all).length, 28);
    assert.equal(all.k25, 'later 25');
    // Once, when it was new.
    for (const edge of edges) assert.equal(cluster.log(edge).match(/loading a snapshot/g)?.length, 1);
    // It does not wait again after a mere restart.
    await cluster.stop(root);
    cluster.start(root);
    await cluster.ready(root);
    assert.equal((await cluster.status(root)).recovering, false);
  });

  it('a root whose disk refused a flush has lost its tail, too, though the machine stayed up', async () => {
    const { root, edges } = await rootWithOlderCopy(['one']);
    await cluster.kill(root);
    for (const edge of edges) await cluster.stop(edge);
    copyFileSync(join(root.folder, 'older.mdb'), dataFile(root));
    // What the engine leaves then.
    const head = openSync(join(dirname(dataFile(root)), 'checkpoint'), 'r+');
    writeSync(head, encodeHead(''), 0, 4096, 0);
    closeSync(head);
    cluster.start(root);
    await cluster.ready(root);
    assert.equal((await cluster.status(root)).recovering, true);
    for (const edge of edges) cluster.start(edge);
    await until('the root takes writes', async () => !(await cluster.status(root)).recovering);
    await write(root, 30, 30, 'new');
    assert.equal(await position(root), '2:27');
    assert.equal((await equal(root, edges)).k25, 'later 25');
  });

  it('a root whose data was replaced by an older copy begins a new epoch: no number means two things (invariant 2)', async () => {
    const { root, edges } = await rootWithOlderCopy(['one', 'two']);
    await cluster.stop(root);
    for (const edge of edges) await cluster.stop(edge);
    copyFileSync(join(root.folder, 'older.mdb'), dataFile(root));
    cluster.start(root);
    await cluster.ready(root);
    // Nothing told it; it counts on where the copy ended, and gives out numbers that mean something else elsewhere.
    await write(root, 40, 42, 'other');
    assert.equal(await position(root), '1:13');
    for (const edge of edges) cluster.start(edge);
    await until('the root began a new epoch', async () => (await position(root)) === '2:14');
    await write(root, 43, 44, 'other');
    const all = await equal(root, edges);
    assert.equal(await position(root), '2:16');
    assert.equal(Object.keys(all).length, 15);
    assert.equal(all.k25, undefined);
  });

  it('an edge that flushes at its stop only keeps its data when its process is killed', async () => {
    const { root, edge } = await edgeFlushedAtStop();
    await cluster.kill(edge);
    await cluster.stop(root);
    cluster.start(edge);
    await cluster.ready(edge);
    assert.equal(await position(edge), '1:10');
    assert.equal((await records(edge)).k10, 'first 10');
  });

  it('an edge that flushes at its stop only keeps its data over a reboot when it was stopped in good order', async () => {
    const { root, edge } = await edgeFlushedAtStop();
    await cluster.stop(edge);
    await cluster.stop(root);
    rebooted(edge);
    cluster.start(edge);
    await cluster.ready(edge);
    assert.equal((await records(edge)).k10, 'first 10');
  });

  it('an edge that flushes at its stop only throws its data away when the machine went down, and is seeded anew', async () => {
    const { root, edge } = await edgeFlushedAtStop();
    await cluster.kill(edge);
    // What was not flushed is anything: an older state here.
    copyFileSync(join(edge.folder, 'older.mdb'), dataFile(edge));
    rebooted(edge);
    const stale = dataFile(edge);
    await cluster.stop(root);
    cluster.start(edge);
    await until('the edge is up', async () => (await cluster.status(edge)).ready === false);
    assert.equal(existsSync(stale), false);
    await assert.rejects(client(edge).get('k1'), { code: 'NOT_READY' });
    // Killed in this state it still has nothing to show.
    await cluster.kill(edge);
    cluster.start(edge);
    await until('the edge is up again', async () => (await cluster.status(edge)).ready === false);
    await assert.rejects(client(edge).get('k1'), { code: 'NOT_READY' });
    cluster.start(root);
    await cluster.ready(edge);
    assert.deepEqual(await records(edge), await records(root));
    assert.match(cluster.log(edge), /data discarded, seeding anew/);
    assert.equal(nodeFile(edge).flushesCommits, false);
  });

  /** Root and edge with ten records; beside the edge a copy of its data file from before them. */
  async function edgeFlushedAtStop(): Promise<{ root: ClusterNode; edge: ClusterNode }> {
    const root = await cluster.add({ name: 'root', role: 'root', config: QUICK });
    const config = { ...QUICK, store: { flush: 'at-stop' } };
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config });
    cluster.start(root);
    await cluster.ready(root);
    cluster.start(edge);
    await cluster.ready(edge);
    await cluster.stop(edge);
    copyFileSync(dataFile(edge), join(edge.folder, 'older.mdb'));
    cluster.start(edge);
    await cluster.ready(edge);
    await write(root, 1, 10, 'first');
    await until('the edge has all', async () => (await position(edge)) === '1:10');
    return { root, edge };
  }
});
