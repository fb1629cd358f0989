/** Databases in memory of real nodes: kill -9, restarts with and without images, and followers of a root that lost some. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { TokaidoClient } from '../../src/client/index.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const DATABASES = ['disk', ':', '%#opts=c'];
const COUNT = 2000;

describe('databases in memory of real nodes', () => {
  let cluster: Cluster | undefined;
  afterEach(async () => await cluster?.close());

  async function on<T>(node: ClusterNode, use: (client: TokaidoClient) => Promise<T>): Promise<T> {
    const client = new TokaidoClient({ server: `127.0.0.1:${node.clientPort}` });
    try {
      return await use(client);
    } finally {
      client.close();
    }
  }

  const fill = async (node: ClusterNode, version: string): Promise<void> => {
    await on(node, async (client) => {
      for (const database of [0, 1, 2]) {
        const records = Array.from(
          { length: COUNT },
          (_, i) => [`key-${i}`, `${version}-${i}-${'x'.repeat(80)}`] as const,
        );
        await client.setBulk(records, database);
      }
    });
  };

  /** How many of the keys of each database hold this version. */
  const held = async (node: ClusterNode, version: string): Promise<number[]> => {
    return await on(node, async (client) => {
      const counts: number[] = [];
      for (const database of [0, 1, 2]) {
        const keys = Array.from({ length: COUNT }, (_, i) => ({ database, key: `key-${i}` }));
        const values = await client.getMany(keys);
        counts.push(values.filter((value, i) => value?.toString().startsWith(`${version}-${i}-`)).length);
      }
      return counts;
    });
  };

  const until = async (what: string, condition: () => Promise<boolean>): Promise<void> => {
    for (let i = 0; i < 400; i++) {
      if (await condition().catch(() => false)) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.fail(`not within 20 s: ${what}`);
  };

  const restart = async (node: ClusterNode): Promise<void> => {
    await cluster?.kill(node);
    cluster?.start(node);
    await cluster?.ready(node);
  };

  it('come back after kill -9 from the update log, on a root and on an edge', async () => {
    cluster = await Cluster.create();
    const root = await cluster.add({ name: 'root', role: 'root', config: { databases: DATABASES } });
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config: { databases: DATABASES } });
    for (const node of [root, edge]) cluster.start(node);
    for (const node of [root, edge]) await cluster.ready(node);
    await fill(root, 'one');
    await until('the edge has all', async () => (await held(edge, 'one')).every((count) => count === COUNT));
    await restart(root);
    assert.deepEqual(await held(root, 'one'), [COUNT, COUNT, COUNT]);
    await restart(edge);
    await until('the edge has all again', async () => (await held(edge, 'one')).every((count) => count === COUNT));
  });

  it('come back from an image when the log was cut, and an edge without one is seeded anew', async () => {
    cluster = await Cluster.create();
    const config = {
      databases: DATABASES,
      log: { retainBytes: 20_000 },
      memory: { saveIntervalMs: 300, compress: true },
    };
    const root = await cluster.add({ name: 'root', role: 'root', config });
    const saving = await cluster.add({ name: 'saving', role: 'edge', upstreams: [root], config });
    const plain = await cluster.add({
      name: 'plain',
      role: 'edge',
      upstreams: [root],
      config: { ...config, memory: { saveIntervalMs: 0 } },
    });
    const nodes = [root, saving, plain];
    for (const node of nodes) cluster.start(node);
    for (const node of nodes) await cluster.ready(node);
    for (const version of ['one', 'two']) await fill(root, version);
    for (const node of nodes) {
      await until(`${node.name} has all`, async () => (await held(node, 'two')).every((count) => count === COUNT));
    }
    // Long enough for images and for the log to be cut behind them.
    await new Promise((resolve) => setTimeout(resolve, 4000));
    for (const node of nodes) {
      await restart(node);
      await until(`${node.name} has all again`, async () =>
        (await held(node, 'two')).every((count) => count === COUNT),
      );
    }
  });

  it('a root that lost them says so to everyone, and its other databases go on', async () => {
    cluster = await Cluster.create();
    const config = { databases: DATABASES, log: { retainBytes: 1 } };
    const root = await cluster.add({ name: 'root', role: 'root', config });
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config: { databases: DATABASES } });
    for (const node of [root, edge]) cluster.start(node);
    for (const node of [root, edge]) await cluster.ready(node);
    await fill(root, 'one');
    await until('the edge has all', async () => (await held(edge, 'one')).every((count) => count === COUNT));
    await new Promise((resolve) => setTimeout(resolve, 4000));
    await restart(root);
    await until('both forgot', async () => {
      return [await held(root, 'one'), await held(edge, 'one')].every(([disk, ...memory]) => {
        return disk === COUNT && memory.every((count) => count === 0);
      });
    });
  });
});
