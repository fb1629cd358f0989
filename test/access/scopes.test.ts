/** Scopes on real nodes: root, relay and edges as processes over TLS, and what lies on the disk of an edge. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { parse, stringify } from 'yaml';
import type { NodeStatus } from '../../src/node/status/status.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const SOON_MS = 15_000;
const SECRET = 'no edge may have this';

describe('nodes with a policy of scopes', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let relay: ClusterNode;
  let tokyo: ClusterNode;
  let stranger: ClusterNode;

  const until = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
    const start = performance.now();
    while (!(await holds())) {
      const logs = [root, relay, tokyo].map((node) => cluster.log(node).slice(-1500)).join('\n---\n');
      if (performance.now() - start > SOON_MS) throw new Error(`${what}\n${logs}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  const get = async (node: ClusterNode, path: string): Promise<string | number> => {
    const reply = await fetch(`http://127.0.0.1:${node.clientPort}/${path}`);
    return reply.ok ? await reply.text() : reply.status;
  };
  const put = async (path: string, body: string): Promise<void> => {
    const reply = await fetch(`http://127.0.0.1:${root.clientPort}/${path}`, { method: 'PUT', body });
    assert.equal(reply.status, 201);
  };
  const followers = async (node: ClusterNode): Promise<Record<string, string>> => {
    const status: NodeStatus = await cluster.status(node);
    return Object.fromEntries(status.followers.map(({ name, scope }) => [name, scope]));
  };
  const adopt = async (node: ClusterNode, scopes: unknown): Promise<void> => {
    const path = join(node.folder, 'node.yaml');
    const settings = parse(readFileSync(path, 'utf8')) as { replication: object };
    writeFileSync(path, stringify({ ...settings, replication: { ...settings.replication, scopes } }));
    const before = cluster.log(node).length;
    node.process?.kill('SIGHUP');
    await until('it is read', async () =>
      cluster.log(node).slice(before).includes('the policies of the configuration hold'),
    );
  };
  /** Whether a text is anywhere in the data directory of a node. */
  const isOnDisk = (node: ClusterNode, text: string): boolean => {
    const folder = join(node.folder, 'data');
    const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    return files.some((entry) => readFileSync(join(entry.parentPath ?? entry.path, entry.name)).includes(text));
  };

  before(async () => {
    cluster = await Cluster.create();
    const quick = { reconnectMinMs: 50, reconnectMaxMs: 200 };
    const scopesOfRoot = [{ names: ['relay'], databases: ['dns', 'flags'] }];
    root = await cluster.add({
      name: 'root',
      role: 'root',
      config: { databases: ['dns', 'flags', 'keys'], replication: { ...quick, scopes: scopesOfRoot } },
    });
    // The relay's own policy may name what it does not have.
    const scopesOfRelay = [{ names: ['tokyo*'], databases: ['dns', 'keys'], prefixes: ['jp/'] }];
    relay = await cluster.add({
      name: 'relay',
      role: 'relay',
      upstreams: [root],
      config: { databases: ['dns'], replication: { ...quick, scopes: scopesOfRelay }, audit: {} },
    });
    const edge = { role: 'edge', upstreams: [relay], config: { databases: ['dns'], replication: quick } } as const;
    tokyo = await cluster.add({ ...edge, name: 'tokyo-1' });
    stranger = await cluster.add({ ...edge, name: 'paris-1' });
    cluster.start(root);
    await cluster.ready(root);
    await put('dns/jp%2Fa', '1');
    await put('dns/fr%2Fa', `${SECRET} before`);
    await put('keys/jp%2Fmaster', `${SECRET} key`);
    for (const node of [relay, tokyo, stranger]) cluster.start(node);
    await cluster.ready(relay);
    await cluster.ready(tokyo);
  });
  after(async () => await cluster.close());

  it('give each follower its part, through snapshot and log, and nothing of the rest lies on its disk', async () => {
    await put('dns/fr%2Fb', `${SECRET} after`);
    await put('keys/jp%2Fb', `${SECRET} key`);
    await put('dns/jp%2Fb', '2');
    await until('the log arrives', async () => (await get(tokyo, 'dns/jp%2Fb')) === '2');
    assert.equal(await get(tokyo, 'dns/jp%2Fa'), '1');
    assert.equal(await get(tokyo, 'dns/fr%2Fa'), 404);
    assert.equal(await get(tokyo, 'keys/jp%2Fmaster'), 400, 'there is no such database there');
    assert.equal(await get(relay, 'dns/fr%2Fb'), `${SECRET} after`);
    assert.equal(await get(relay, 'keys/jp%2Fb'), 400);
    assert.deepEqual(await followers(root), { relay: 'dns, flags' });
    // The stranger knocks again and again, and is shown until it is told.
    const { 'paris-1': refused = 'nothing', ...accepted } = await followers(relay);
    assert.deepEqual([accepted, refused], [{ 'tokyo-1': 'dns ("jp/")' }, 'nothing']);
    assert.ok(isOnDisk(root, SECRET), 'the search finds what is there');
    assert.ok(!isOnDisk(tokyo, SECRET) && !isOnDisk(tokyo, 'fr/'));
    assert.ok(!isOnDisk(relay, `${SECRET} key`));
  });

  it('refuse whom no rule is for, who never gets ready', async () => {
    await until('it is refused', async () => /refused by the upstream \(SCOPE\)/.test(cluster.log(stranger)));
    assert.equal(await cluster.isReady(stranger), false);
    assert.match(cluster.log(relay), /follower refused by the policy/);
  });

  it('take a changed policy on SIGHUP: open links end, and followers get what they may see now', async () => {
    await adopt(relay, [{ roles: ['edge'], databases: ['dns'], prefixes: ['fr/'] }]);
    await until('the edge has the new part', async () => (await get(tokyo, 'dns/fr%2Fb')) === `${SECRET} after`);
    assert.equal(await get(tokyo, 'dns/jp%2Fa'), 404);
    await until('the stranger is let in', async () => await cluster.isReady(stranger));
    await adopt(relay, []);
    await until('nobody follows', async () => Object.keys(await followers(relay)).length === 0);
    // The root takes from the relay what the relay hands on: all below it lose it, too.
    await adopt(relay, [{ roles: ['edge'], databases: ['*'] }]);
    await until('both follow', async () => Object.keys(await followers(relay)).length === 2);
    await adopt(root, [{ roles: ['relay'], databases: ['flags'] }]);
    await until('the edge lost it', async () => (await get(tokyo, 'dns/fr%2Fb')) === 404);
    await until('both follow the rest', async () => Object.values(await followers(relay)).join() === 'flags,flags');
  });

  it('write into the audit log who followed what, by which certificate, and who was refused', async () => {
    const lines = readFileSync(join(relay.folder, 'audit.log'), 'utf8').split('\n').slice(0, -1);
    const events = lines.map((line) => JSON.parse(line) as Record<string, string>);
    const connected = events.filter(({ event }) => event === 'follower.connected');
    const fingerprint = new X509Certificate(readFileSync(join(tokyo.folder, 'node.crt'))).fingerprint256;
    const seen = connected.filter((one) => one.name === 'tokyo-1' && one.fingerprint === fingerprint);
    assert.ok(seen.some(({ scope }) => scope === 'dns ("jp/")') && seen.some(({ scope }) => scope === 'dns, flags'));
    assert.ok(connected.some(({ name, scope }) => name === 'paris-1' && scope === 'nothing'));
    assert.ok(
      events.some(({ event, name, role }) => event === 'upstream.connected' && name === 'root' && role === 'root'),
    );
    assert.ok(events.some(({ event, name }) => event === 'follower.closed' && name === 'tokyo-1'));
    assert.ok(events.filter(({ event, scopes }) => event === 'policy.changed' && scopes !== undefined).length >= 3);
  });
});
