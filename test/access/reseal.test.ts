/** A new key under a running node: everything stored is encrypted with it in the background, whatever happens meanwhile. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const SECRET = 'correct horse battery staple';
const MANY = 12_000;
const AT_ONCE = 2000;
const DEADLINE_MS = 60_000;

describe('a node that gets a new key while it runs', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  let isLoaded = true;
  let written = 0;
  const keys = (): string => join(root.folder, 'data.keys');
  const url = (node: ClusterNode, path: string): string => `http://127.0.0.1:${node.clientPort}/${path}`;
  const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));
  const until = async (what: string, is: () => Promise<boolean>): Promise<void> => {
    const start = performance.now();
    while (!(await is())) {
      if (performance.now() - start > DEADLINE_MS) throw new Error(`${what}\n${cluster.log(root).slice(-2000)}`);
      await sleep(5);
    }
  };
  const makeKey = async (): Promise<string> => {
    const made = await tokaido(['encryption', 'key', '--file', keys(), '--json']);
    assert.equal(made.code, 0, made.err);
    return (json(made).keys as string[])[0] as string;
  };
  const isDone = async (): Promise<boolean> => (await cluster.status(root)).reseal?.state === 'done';
  const files = (): string[] =>
    readdirSync(root.folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath ?? entry.path, entry.name));

  /** Writes as fast as one client can, until told to stop; across a crash as well. */
  async function load(): Promise<void> {
    while (isLoaded) {
      const put = { method: 'PUT', body: `${SECRET} load ${written}` };
      const reply = await fetch(url(root, `secrets/load-${written % 500}`), put).catch(() => undefined);
      if (reply?.ok === true) written++;
      else await sleep(20);
    }
  }

  before(async () => {
    cluster = await Cluster.create();
    const encryption = { keyFile: 'data.keys', databases: ['secrets'] };
    const config = {
      databases: ['secrets', 'open'],
      encryption,
      replication: { reconnectMinMs: 50, reconnectMaxMs: 200 },
    };
    root = await cluster.add({ name: 'root', role: 'root', config });
    edge = await cluster.add({
      name: 'edge',
      role: 'edge',
      upstreams: [root],
      config: { databases: ['secrets', 'open'] },
    });
    await makeKey();
    cluster.start(root);
    await cluster.ready(root);
    for (let at = 0; at < MANY; at += AT_ONCE) {
      const rows = [...Array(AT_ONCE).keys()].map((n) => `_k${at + n}\t${SECRET} ${at + n}`);
      const head = { 'content-type': 'text/tab-separated-values' };
      const call = { method: 'POST', headers: head, body: `DB\tsecrets\n${rows.join('\n')}\n` };
      const reply = await fetch(url(root, 'rpc/set_bulk'), call);
      assert.equal(reply.status, 200, await reply.text());
    }
    cluster.start(edge);
    await cluster.ready(edge);
  });
  after(async () => {
    isLoaded = false;
    await cluster.close();
  });

  it('has nothing to do with its first key', async () => {
    await until('done', isDone);
    const { reseal } = await cluster.status(root);
    assert.deepEqual([reseal?.written, reseal?.notNeeded], [0, []]);
  });

  it('encrypts all anew under load, goes on after kill -9, and says when the old key is not needed', async () => {
    const before = await cluster.status(root);
    const old = before.encryptionKey as string;
    const loading = load();
    const fresh = await makeKey();
    root.process?.kill('SIGHUP');
    await until('half of it', async () => {
      const { encryptionKey, reseal } = await cluster.status(root);
      return encryptionKey === fresh && reseal?.state === 'running' && reseal.written > 500;
    });
    await cluster.kill(root);
    assert.doesNotMatch(cluster.log(root), /older ones can be removed/);
    cluster.start(root);
    await cluster.ready(root);
    const again = (await cluster.status(root)).reseal;
    assert.ok(again !== undefined && (again.written >= 500 || again.state === 'done'), 'it goes on where it was');
    await until('done', isDone);
    isLoaded = false;
    await loading;
    const { reseal, encryptionKey } = await cluster.status(root);
    assert.equal(encryptionKey, fresh);
    assert.deepEqual(reseal?.notNeeded, [old]);
    assert.ok((reseal?.written ?? 0) >= MANY, JSON.stringify(reseal));
    assert.match(cluster.log(root), new RegExp(`"notNeeded":\\["${old}"\\].*older ones can be removed`));
    const told = await tokaido(['status', '--admin', `127.0.0.1:${root.adminPort}`]);
    assert.match(`${told.out}`, new RegExp(`encryption +all with the current key; not needed any more: ${old}`));
    const metrics = await (await fetch(`http://127.0.0.1:${root.adminPort}/metrics`)).text();
    assert.match(metrics, /tokaido_reseal_pending 0\n/);
  });

  it('has given records no new versions and the log no entries', async () => {
    const { position } = await cluster.status(root);
    await makeKey();
    root.process?.kill('SIGHUP');
    await until('another key', async () => {
      const { reseal } = await cluster.status(root);
      return reseal?.state === 'done' && reseal.notNeeded.length === 2;
    });
    assert.deepEqual((await cluster.status(root)).position, position);
    await until('the edge equals it', async () => {
      const { equality } = await cluster.status(edge);
      return equality !== undefined && equality.differences.length === 0;
    });
  });

  it('reads everything without the old keys, and holds no value in plain', async () => {
    const [current = ''] = readFileSync(keys(), 'utf8').split('\n');
    writeFileSync(keys(), `${current}\n`);
    await cluster.stop(root);
    cluster.start(root);
    await cluster.ready(root);
    for (let n = 0; n < MANY; n += 97) {
      const reply = await fetch(url(root, `secrets/k${n}`));
      assert.equal(await reply.text(), `${SECRET} ${n}`);
    }
    await cluster.stop(root);
    for (const path of files()) assert.ok(!readFileSync(path).includes(SECRET), path);
  });
});
