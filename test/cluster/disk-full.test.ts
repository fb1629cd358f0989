/** A disk that takes no more, on real processes: here a limit on the size of files, which any user can set and lift. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { TokaidoClient } from '../../src/client/client.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const VALUE = Buffer.alloc(100_000, 'v');
const DEADLINE_MS = 20_000;
const ROOM_BYTES = 2 ** 20;

function limit(node: ClusterNode, bytes: number | 'unlimited'): void {
  execFileSync('prlimit', ['--pid', String(node.process?.pid), `--fsize=${bytes}:unlimited`]);
}

async function eventually(what: string, condition: () => Promise<boolean>): Promise<void> {
  const start = performance.now();
  while (!(await condition())) {
    assert.ok(performance.now() - start < DEADLINE_MS, `in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function fill(node: ClusterNode): void {
  const { size } = statSync(join(node.folder, 'data', 'store-000001', 'data.mdb'));
  limit(node, size + ROOM_BYTES);
}

describe('a full disk', { skip: process.platform === 'linux' ? false : 'prlimit is of Linux' }, () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  const clients: TokaidoClient[] = [];
  const connect = (node: ClusterNode): TokaidoClient => {
    const client = new TokaidoClient({ server: `127.0.0.1:${node.clientPort}` });
    clients.push(client);
    return client;
  };
  const holds = async (client: TokaidoClient, key: string): Promise<boolean> =>
    (await client.get(key))?.value.equals(VALUE) === true;

  before(async () => {
    cluster = await Cluster.create();
    root = await cluster.add({ name: 'root', role: 'root' });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
    for (const node of [root, edge]) cluster.start(node);
    for (const node of [root, edge]) await cluster.ready(node);
  });
  after(async () => {
    for (const client of clients) client.close();
    await cluster.close();
  });

  it('of a root refuses writes by name, loses nothing acknowledged, and reads go on; with space writes do', async () => {
    const client = connect(root);
    const reader = connect(root);
    const { pid } = root.process ?? {};
    fill(root);
    const acknowledged: string[] = [];
    let refusals = 0;
    for (let i = 0; refusals < 5 && i < 100; i++) {
      try {
        await client.set(`full ${i}`, VALUE);
        acknowledged.push(`full ${i}`);
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'STORAGE', String(error));
        assert.match(String(error), /nothing was written/);
        refusals++;
      }
      assert.ok(await holds(reader, 'full 0'));
    }
    assert.equal(refusals, 5);
    limit(root, 'unlimited');
    await client.set('after', VALUE);
    for (const key of [...acknowledged, 'after']) assert.ok(await holds(reader, key), key);
    const eager = connect(edge);
    for (const key of [...acknowledged, 'after']) await eventually(key, async () => await holds(eager, key));
    assert.equal(root.process?.pid, pid, 'the process lived through it');
  });

  it('of an edge leaves it serving what it has; with space it catches up by itself', async () => {
    const client = connect(root);
    const reader = connect(edge);
    const { pid } = edge.process ?? {};
    fill(edge);
    for (let i = 0; i < 40; i++) await client.set(`more ${i}`, VALUE);
    await eventually('the status says why', async () => {
      return /the disk of .* refused/.test((await cluster.status(edge)).upstream?.lastError ?? '');
    });
    assert.ok(await holds(reader, 'after'));
    assert.equal(await reader.get('more 39'), undefined);
    limit(edge, 'unlimited');
    for (let i = 0; i < 40; i++) await eventually(`more ${i}`, async () => await holds(reader, `more ${i}`));
    assert.equal(edge.process?.pid, pid, 'the process lived through it');
  });
});
