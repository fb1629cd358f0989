/** `tokaido restore`: a data directory as it was at a time or a position, and a cluster that goes on from there. */
import assert from 'node:assert/strict';
import { cpSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

describe('tokaido restore', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  let beforeTheMistake: string;
  before(async () => {
    cluster = await Cluster.create();
    root = await cluster.add({ name: 'root', role: 'root' });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
    for (const node of [root, edge]) cluster.start(node);
    for (const node of [root, edge]) await cluster.ready(node);
    await put('a', 'in the copy');
    await until('the edge has it', async () => (await read(edge, 'a')) === 'in the copy');
    // The copy is one of an edge that was stopped for it.
    await cluster.stop(edge);
    cpSync(join(edge.folder, 'data'), join(cluster.folder, 'copy'), { recursive: true });
    cluster.start(edge);
    await put('a', 'after the copy');
    await put('b', 'after the copy');
    await sleep(20);
    beforeTheMistake = new Date().toISOString();
    await sleep(20);
    await fetch(`http://127.0.0.1:${root.clientPort}/rpc/clear`, { method: 'POST' });
    await put('c', 'after the mistake');
    await until('the edge has the mistake', async () => (await read(edge, 'c')) !== undefined);
    await cluster.stop(root);
    renameSync(join(root.folder, 'data'), join(cluster.folder, 'before'));
  });
  after(async () => await cluster.close());

  async function put(key: string, value: string): Promise<void> {
    const response = await fetch(`http://127.0.0.1:${root.clientPort}/${key}`, { method: 'PUT', body: value });
    assert.ok(response.ok);
  }

  async function read(node: ClusterNode, key: string): Promise<string | undefined> {
    const response = await fetch(`http://127.0.0.1:${node.clientPort}/${key}`).catch(() => undefined);
    const text = await response?.text();
    return response?.ok === true ? text : undefined;
  }

  async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
    for (const startMs = performance.now(); !(await holds()); await sleep(30))
      assert.ok(performance.now() - startMs < 30_000, `not in time: ${what}`);
  }

  const restore = async (...more: readonly string[]): Promise<ReturnType<typeof tokaido>> => {
    const [config, backup, log] = [
      join(root.folder, 'node.yaml'),
      join(cluster.folder, 'copy'),
      join(cluster.folder, 'before'),
    ];
    return await tokaido(['restore', '--config', config, '--backup', backup, '--log', log, ...more]);
  };

  it('says what is wrong with what it was given, and writes nothing', async () => {
    assert.match((await restore('--to-time', 'noon')).err, /no time such as/);
    assert.match((await restore('--to-position', '5701')).err, /no position such as/);
    assert.match((await restore('--log', edge.folder)).err, /no data directory/);
    assert.match((await restore('--log', join(edge.folder, 'data'))).err, /in use by process/);
    // An older log of the same node ends where the copy is: there is nothing to take, and the copy is the result.
    const other = await Cluster.create();
    try {
      const stranger = await other.add({ name: 'root', role: 'root' });
      other.start(stranger);
      await other.ready(stranger);
      await other.stop(stranger);
      assert.match((await restore('--log', join(stranger.folder, 'data'))).err, /different clusters/);
    } finally {
      await other.close();
    }
  });

  it('refuses a copy that was made after the moment, and leaves the data directory empty', async () => {
    for (const moment of [
      ['--to-time', '2026-01-01T00:00:00Z'],
      ['--to-position', '1:0'],
    ]) {
      const refused = await restore(...moment);
      assert.equal(refused.code, 2, refused.out.toString());
      assert.match(refused.err, /the copy was made after that moment: it is at 1:1, with a change of 20/);
      assert.match(refused.err, /take an older copy/);
      assert.deepEqual(readdirSync(join(root.folder, 'data')), []);
    }
  });

  it('takes what the log has up to a time, and the cluster goes on from there', async () => {
    const done = await restore('--to-time', beforeTheMistake, '--json');
    assert.equal(done.code, 0, done.err);
    assert.deepEqual({ ...json(done), data: '' }, { data: '', position: '1:3', transactions: 2, leftOut: 2, lost: [] });
    const again = await restore('--to-time', beforeTheMistake);
    assert.match(again.err, /is not empty/);
    cluster.start(root);
    await cluster.ready(root);
    assert.deepEqual(
      [await read(root, 'a'), await read(root, 'b'), await read(root, 'c')],
      ['after the copy', 'after the copy', undefined],
    );
    // The edge, which has seen the mistake, is brought back as well.
    await until('the edge is as it was before', async () => (await read(edge, 'a')) === 'after the copy');
    assert.equal(await read(edge, 'c'), undefined);
    await put('d', 'goes on');
    await until('the edge follows', async () => (await read(edge, 'd')) === 'goes on');
  });

  it('takes what the log has up to a position', async () => {
    await cluster.stop(root);
    renameSync(join(root.folder, 'data'), join(cluster.folder, 'aside'));
    const done = await restore('--to-position', '1:2', '--json');
    assert.equal(done.code, 0, done.err);
    assert.deepEqual(json(done).position, '1:2');
    assert.deepEqual(json(done).leftOut, 3);
  });
});
