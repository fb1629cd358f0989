/** Encryption at rest on real nodes: nothing of a secret lies in any file, through writes, log, snapshots and restarts; keys change. */
import assert from 'node:assert/strict';
import { chmodSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const SECRET = 'correct horse battery staple';
const MANY = 300;

describe('nodes that encrypt a database', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  const file = (node: ClusterNode, name: string): string => join(node.folder, name);

  const put = async (path: string, body: string): Promise<void> => {
    const reply = await fetch(`http://127.0.0.1:${root.clientPort}/${path}`, { method: 'PUT', body });
    assert.equal(reply.status, 201);
  };
  const get = async (node: ClusterNode, path: string): Promise<string | number> => {
    const reply = await fetch(`http://127.0.0.1:${node.clientPort}/${path}`);
    return reply.ok ? await reply.text() : reply.status;
  };
  const arrives = async (path: string, value: string): Promise<void> => {
    const start = performance.now();
    while ((await get(edge, path)) !== value) {
      if (performance.now() - start > 15_000) throw new Error(`${path} never came\n${cluster.log(edge).slice(-2000)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  /** Files of a node, its log included, in which a text lies. */
  const filesWith = (node: ClusterNode, text: string): string[] => {
    const files = readdirSync(node.folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    const paths = files.map((entry) => join(entry.parentPath ?? entry.path, entry.name));
    return paths.filter((path) => readFileSync(path).includes(text));
  };
  const makeKey = async (node: ClusterNode): Promise<string> => {
    const made = await tokaido(['encryption', 'key', '--file', file(node, 'data.keys'), '--json']);
    assert.equal(made.code, 0, made.err);
    return (json(made).keys as string[])[0] as string;
  };
  const restart = async (node: ClusterNode): Promise<void> => {
    await cluster.stop(node);
    cluster.start(node);
    await cluster.ready(node);
  };

  before(async () => {
    cluster = await Cluster.create();
    const encryption = { keyFile: 'data.keys', databases: ['secrets'] };
    const replication = { reconnectMinMs: 50, reconnectMaxMs: 200 };
    const config = { databases: ['open', 'secrets'], encryption, replication };
    root = await cluster.add({ name: 'root', role: 'root', config });
    const at = (name: string): string => join(cluster.folder, 'edge', name);
    // As long as another file says after it has read the keys.
    const script = `cat ${at('data.keys')} && sleep $(cat ${at('delay')} || echo 0)`;
    const command = { keyCommand: ['sh', '-c', script], databases: ['*'] };
    const own = { ...config, encryption: command };
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config: own });
    await makeKey(root);
    await makeKey(edge);
    cluster.start(root);
    await cluster.ready(root);
    for (let i = 0; i < MANY; i++) await put(`secrets/${i}`, `${SECRET} ${i}`);
    await put('open/a', 'plain as day');
  });
  after(async () => await cluster.close());

  it('keep its values from data file, log, snapshot and logs, at the root and at a follower', async () => {
    cluster.start(edge);
    await cluster.ready(edge);
    await put('secrets/later', `${SECRET} later`);
    await arrives('secrets/later', `${SECRET} later`);
    assert.equal(await get(edge, 'secrets/7'), `${SECRET} 7`);
    assert.equal(await get(edge, 'open/a'), 'plain as day');
    for (const node of [root, edge]) {
      await cluster.stop(node);
      assert.deepEqual(filesWith(node, SECRET), []);
    }
    // What is not encrypted shows that the search finds something; with * everything is.
    assert.equal(filesWith(root, 'plain as day').length > 0, true);
    assert.deepEqual(filesWith(edge, 'plain as day'), []);
    assert.equal(statSync(file(root, 'data.keys')).mode & 0o777, 0o600);
  });

  it('read it again after a restart, and not with another key', async () => {
    const keys = readFileSync(file(root, 'data.keys'), 'utf8');
    cluster.start(root);
    await cluster.ready(root);
    assert.equal(await get(root, 'secrets/299'), `${SECRET} 299`);
    await cluster.stop(root);
    writeFileSync(file(root, 'data.keys'), 'f'.repeat(64));
    cluster.start(root);
    await new Promise((resolve) => setTimeout(resolve, 200));
    const start = performance.now();
    while (!/sealed with key/.test(cluster.log(root)) && performance.now() - start < 15_000) {
      if (await cluster.isReady(root)) await get(root, 'secrets/1');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.match(cluster.log(root), /stored values are sealed with key [0-9a-f]{16}, which this node does not have/);
    await cluster.stop(root);
    writeFileSync(file(root, 'data.keys'), keys);
    chmodSync(file(root, 'data.keys'), 0o644);
    cluster.start(root);
    while (root.process !== undefined) await new Promise((resolve) => setTimeout(resolve, 20));
    assert.match(cluster.log(root), /the file of encryption keys .* can be read by others/);
    chmodSync(file(root, 'data.keys'), 0o600);
  });

  it('ask the command for keys again at SIGHUP, whatever it says, and go on with what they have where it fails', async () => {
    for (const node of [root, edge]) {
      cluster.start(node);
      await cluster.ready(node);
    }
    const keys = file(edge, 'data.keys');
    const current = async (): Promise<string | undefined> => (await cluster.status(edge)).encryptionKey;
    const until = async (what: string, holds: () => boolean | Promise<boolean>): Promise<void> => {
      const start = performance.now();
      while (!(await holds())) {
        assert.ok(performance.now() - start < 15_000, `${what}\n${cluster.log(edge).slice(-2000)}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    /** What the log says next when the command is asked now. */
    const failsWith = async (said: RegExp): Promise<void> => {
      const before = cluster.log(edge).length;
      const key = await current();
      edge.process?.kill('SIGHUP');
      await until(String(said), () => said.test(cluster.log(edge).slice(before)));
      assert.equal(await current(), key);
      assert.equal(await get(edge, 'secrets/7'), `${SECRET} 7`);
    };
    const old = await current();
    const fresh = await makeKey(edge);
    assert.equal(await current(), old, 'nobody asked the command yet');
    edge.process?.kill('SIGHUP');
    await until('the new key is taken', async () => (await current()) === fresh);
    await put('secrets/by-command', `${SECRET} by command`);
    await arrives('secrets/by-command', `${SECRET} by command`);
    assert.equal(await get(edge, 'secrets/7'), `${SECRET} 7`);

    const whole = readFileSync(keys, 'utf8');
    renameSync(keys, `${keys}.away`);
    await failsWith(/keyCommand failed: .*going on with those before/);
    renameSync(`${keys}.away`, keys);
    const torn = whole.slice(0, 40);
    writeFileSync(keys, torn);
    await failsWith(/keyCommand: line 1 is no key of 64 hex digits.*going on with those before/);
    assert.ok(!cluster.log(edge).includes(torn), 'half a key is in the log');
    writeFileSync(keys, '# none\n');
    await failsWith(/keyCommand: must hold 1 to 100 keys.*going on with those before/);
    writeFileSync(keys, whole);

    // Of two that run at a time, what the later one says counts, though the earlier one ends last.
    writeFileSync(file(edge, 'delay'), '2');
    edge.process?.kill('SIGHUP');
    await new Promise((resolve) => setTimeout(resolve, 700));
    writeFileSync(file(edge, 'delay'), '0');
    const newest = await makeKey(edge);
    edge.process?.kill('SIGHUP');
    await until('the newest key is taken', async () => (await current()) === newest);
    await new Promise((resolve) => setTimeout(resolve, 2500));
    assert.equal(await current(), newest);
    for (const node of [edge, root]) await cluster.stop(node);
    assert.deepEqual(filesWith(edge, SECRET), []);
  });

  it('take a new key while they run, or all at once while they do not, and need the old one no more', async () => {
    cluster.start(root);
    await cluster.ready(root);
    const old = (await cluster.status(root)).encryptionKey;
    const fresh = await makeKey(root);
    assert.notEqual(fresh, old);
    const start = performance.now();
    while ((await cluster.status(root)).encryptionKey !== fresh) {
      assert.ok(performance.now() - start < 15_000, 'the new key is taken');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await put('secrets/fresh', `${SECRET} fresh`);
    assert.equal(await get(root, 'secrets/1'), `${SECRET} 1`);
    const running = await tokaido(['encryption', 'reseal', '--config', file(root, 'node.yaml')]);
    assert.equal(running.code, 1);
    assert.match(running.err, /in use by process/);
    await cluster.stop(root);
    const third = await makeKey(root);
    const done = json(await tokaido(['encryption', 'reseal', '--config', file(root, 'node.yaml'), '--json']));
    assert.equal(done.key, third);
    assert.ok(Number(done.written) >= MANY, JSON.stringify(done));
    const [first = ''] = readFileSync(file(root, 'data.keys'), 'utf8').split('\n');
    writeFileSync(file(root, 'data.keys'), `${first}\n`);
    await restart(root);
    assert.equal(await get(root, 'secrets/1'), `${SECRET} 1`);
    assert.equal(await get(root, 'secrets/fresh'), `${SECRET} fresh`);
    assert.deepEqual(filesWith(root, SECRET), []);
  });
});
