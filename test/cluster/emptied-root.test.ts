/**
 * A root starts with an empty data directory, because its disk is not mounted, say: it is the origin all the same, and
 * must not have its followers take over that there is nothing.
 */
import assert from 'node:assert/strict';
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { parse, stringify } from 'yaml';
import { tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const LIMIT_MS = 30_000;

describe('a root that starts with an empty data directory', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;

  before(async () => {
    cluster = await Cluster.create();
    const config = { replication: { reconnectMaxMs: 300 } };
    root = await cluster.add({ name: 'root', role: 'root', config });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config });
    for (const node of [root, edge]) cluster.start(node);
    for (const node of [root, edge]) await cluster.ready(node);
    assert.equal((await put('before', '1')).status, 201);
    await until('the edge has it', async () => (await read(edge, 'before')) === '1');
  });
  after(async () => await cluster.close());

  const put = async (key: string, value: string): Promise<Response> =>
    await fetch(`http://127.0.0.1:${root.clientPort}/${key}`, { method: 'PUT', body: value });

  const read = async (node: ClusterNode, key: string): Promise<string | undefined> => {
    const response = await fetch(`http://127.0.0.1:${node.clientPort}/${key}`);
    return response.ok ? await response.text() : undefined;
  };

  async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const startMs = performance.now();
    while (!(await holds().catch(() => false))) {
      assert.ok(performance.now() - startMs < LIMIT_MS, `not in time: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  const data = (): string => join(root.folder, 'data');
  const aside = (): string => join(root.folder, 'aside');

  it('refuses followers that know it from before, takes no writes, and says what to do', async () => {
    await cluster.kill(root);
    renameSync(data(), aside());
    cluster.start(root);
    await until('the root knows', async () =>
      cluster.log(root).includes('this root is empty where its followers are not'),
    );
    const { ready, notReadyBecause } = await cluster.status(root);
    assert.equal(ready, false);
    assert.match(
      notReadyBecause ?? '',
      /began with an empty data directory at .*edge has 1:\d+ of it from 20.*recover\.md/,
    );
    assert.equal((await put('meanwhile', '2')).status, 503);
    const written = await tokaido(['set', 'meanwhile', '2', '--url', `http://127.0.0.1:${root.clientPort}`]);
    assert.notEqual(written.code, 0);
    assert.match(cluster.log(root), /mount its disk.*startsAnew/);
    assert.equal(await read(edge, 'before'), '1');
  });

  it('is as before once its disk is there', async () => {
    await cluster.kill(root);
    rmSync(data(), { recursive: true });
    renameSync(aside(), data());
    cluster.start(root);
    await until('it takes writes', async () => (await put('after', '3')).ok);
    await until('the edge has it', async () => (await read(edge, 'after')) === '3');
    assert.equal(await read(edge, 'before'), '1');
  });

  it('replaces what they have where that is meant (startsAnew)', async () => {
    await cluster.kill(root);
    cluster.wipe(root);
    const path = join(root.folder, 'node.yaml');
    writeFileSync(path, stringify({ ...(parse(readFileSync(path, 'utf8')) as object), startsAnew: true }));
    cluster.start(root);
    await until('it takes writes', async () => (await put('anew', '4')).ok);
    assert.match(cluster.log(root), /startsAnew\): remove that from the configuration/);
    await until('the edge has it', async () => (await read(edge, 'anew')) === '4');
    assert.equal(await read(edge, 'before'), undefined);
  });

  it('knows its own followers from then on', async () => {
    await cluster.kill(root);
    const path = join(root.folder, 'node.yaml');
    const { startsAnew: _, ...config } = parse(readFileSync(path, 'utf8')) as { startsAnew?: boolean };
    writeFileSync(path, stringify(config));
    cluster.start(root);
    await until('it takes writes', async () => (await put('again', '5')).ok);
    await until('the edge has it', async () => (await read(edge, 'again')) === '5');
    assert.equal((await cluster.status(root)).ready, true);
  });
});
