/** Revocation as an operator does it: one command at the root, and every node knows, through relays, for good. */
import assert from 'node:assert/strict';
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { NodeStatus } from '../../src/node/status/status.js';
import { createCa, issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { writeCrl } from '../../src/pki/ca/records.js';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const SOON_MS = 10_000;

describe('tokaido ca revoke', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let relay: ClusterNode;
  let staying: ClusterNode;
  let leaving: ClusterNode;
  const ca = (): string => join(cluster.folder, 'ca');
  const adminOf = (node: ClusterNode): string => `127.0.0.1:${node.adminPort}`;

  async function until(what: string, node: ClusterNode, holds: (status: NodeStatus) => boolean): Promise<NodeStatus> {
    const start = performance.now();
    for (;;) {
      const status = await cluster.status(node);
      if (holds(status)) return status;
      if (performance.now() - start > SOON_MS) throw new Error(`${what}\n${cluster.log(node).slice(-2000)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  before(async () => {
    cluster = await Cluster.create();
    const config = { databases: ['one', 'two'], replication: { reconnectMinMs: 50, reconnectMaxMs: 200 } };
    root = await cluster.add({ name: 'root', role: 'root', config });
    relay = await cluster.add({ name: 'relay', role: 'relay', upstreams: [root], config });
    staying = await cluster.add({ name: 'staying', role: 'edge', upstreams: [relay], config });
    leaving = await cluster.add({ name: 'leaving', role: 'edge', upstreams: [relay], config });
    const nodes = [root, relay, staying, leaving];
    for (const node of nodes) cluster.start(node);
    for (const node of nodes) await cluster.ready(node);
  });
  after(async () => await cluster.close());

  it('reaches a relay that it was never given to, and ends the link of the revoked edge there', async () => {
    await until('both edges follow', relay, ({ followers }) => followers.length === 2);
    const revoked = await tokaido([
      'ca',
      'revoke',
      '--ca',
      ca(),
      '--name',
      'leaving',
      '--publish',
      adminOf(root),
      '--json',
    ]);
    assert.equal(revoked.code, 0, revoked.err);
    assert.deepEqual(json(revoked).published, { published: 1, known: 0 });
    const { followers } = await until('one edge is left', relay, (status) => status.followers.length === 1);
    assert.equal(followers[0]?.name, 'staying');
    await until('it stays out, and knows why', leaving, ({ upstream }) => {
      return upstream?.state !== 'following' && /its certificate is revoked/.test(upstream?.lastError ?? '');
    });
    for (const node of [root, relay, staying])
      await until('it has the list', node, ({ revocation }) => revocation?.revoked === 1);
    const list = await tokaido(['ca', 'list', '--ca', ca()]);
    assert.match(list.out.toString(), /\/edge\/leaving {2}revoked 2/);
    assert.match(list.out.toString(), /\/edge\/staying {2}valid/);
  });

  it('is remembered by nodes that start again, and by those that are seeded anew', async () => {
    await cluster.stop(staying);
    cluster.wipe(staying);
    await cluster.stop(relay);
    cluster.start(relay);
    cluster.start(staying);
    await Promise.all([cluster.ready(relay), cluster.ready(staying)]);
    for (const node of [relay, staying])
      await until('it has the list', node, ({ revocation }) => revocation?.revoked === 1);
    await until('the other edge is back', relay, ({ followers }) => followers.length === 1);
    assert.match(cluster.log(relay), /replication peer refused: its certificate is revoked/);
  });

  it('travels in a database that clients can neither see, read nor write', async () => {
    for (const node of [root, staying]) {
      const { databases } = await cluster.status(node);
      assert.deepEqual(
        databases.map(({ name }) => name),
        ['one', 'two'],
      );
      const url = `http://127.0.0.1:${node.clientPort}`;
      const asked = await fetch(`${url}/crl?DB=.tokaido`);
      assert.notEqual(asked.status, 200);
      const tsv = { method: 'POST', headers: { 'content-type': 'text/tab-separated-values' } };
      for (const procedure of ['get', 'set', 'clear', 'match_prefix', 'cur_jump']) {
        const body = `DB\t.tokaido\nkey\tcrl/x\nvalue\tx\nprefix\tcrl/\nCUR\t1\n`;
        const { status } = await fetch(`${url}/rpc/${procedure}`, { ...tsv, body });
        assert.equal(status, 400, procedure);
      }
      assert.doesNotMatch(await (await fetch(`${url}/rpc/status`, tsv)).text(), /tokaido/);
      const exported = await tokaido(['export', '--server', `127.0.0.1:${node.clientPort}`]);
      assert.deepEqual([exported.code, exported.out.toString('latin1')], [0, '']);
      const byName = await tokaido(['export', '--server', `127.0.0.1:${node.clientPort}`, '--database', '.tokaido']);
      assert.notEqual(byName.code, 0);
    }
  });

  it('an older list does not take the place of a newer one', async () => {
    const before = readFileSync(join(ca(), 'ca.crl'), 'utf8');
    const newer = await tokaido(['ca', 'crl', '--ca', ca(), '--publish', adminOf(root), '--json']);
    assert.deepEqual(json(newer).published, { published: 1, known: 0 });
    const again = await fetch(`http://${adminOf(root)}/crl`, { method: 'POST', body: before });
    assert.deepEqual(await again.json(), { published: 0, known: 0, older: 1 });
    const same = await fetch(`http://${adminOf(root)}/crl`, {
      method: 'POST',
      body: readFileSync(join(ca(), 'ca.crl')),
    });
    assert.deepEqual(await same.json(), { published: 0, known: 1 });
  });

  it('by a copy of the folder of the CA that knows less is an error: nobody was locked out', async () => {
    const copy = join(cluster.folder, 'copy-of-the-ca');
    cpSync(ca(), copy, { recursive: true });
    rmSync(join(copy, 'ca.crl'));
    const args = ['ca', 'revoke', '--ca', copy, '--name', 'staying', '--publish', adminOf(root)];
    const { code, err } = await tokaido(args);
    assert.equal(code, 1);
    assert.match(err, /has a newer one of this CA: who was revoked here now is not locked out/);
    assert.match(err, /hint: another copy of the folder/);
    assert.equal((await cluster.status(root)).revocation?.revoked, 1);
  });

  it('a list by somebody else, garbage, and a list for a follower are refused, and change nothing', async () => {
    const post = async (node: ClusterNode, body: string): Promise<{ status: number; text: string }> => {
      const response = await fetch(`http://${adminOf(node)}/crl`, { method: 'POST', body });
      return { status: response.status, text: await response.text() };
    };
    const foreign = join(cluster.folder, 'foreign');
    await createCa({ folder: foreign, name: 'foreign', days: 10, nowMs: Date.now() });
    const { pem } = await writeCrl([openCa(foreign)], { days: 1, nowMs: Date.now() });
    // The signer's own certificate alone makes nobody believe it; nor does one of a node, which is no CA.
    for (const body of [pem, pem + readFileSync(join(foreign, 'ca.crt'), 'utf8')]) {
      const { status, text } = await post(root, body);
      assert.equal(status, 403, text);
      assert.match(text, /not signed by a CA that this node believes/);
    }
    assert.equal((await post(root, 'no list at all')).status, 403);
    const { status, text } = await post(relay, readFileSync(join(ca(), 'ca.crl'), 'utf8'));
    assert.equal(status, 409);
    assert.match(text, /write to the root root/);
    const { revocation } = await cluster.status(root);
    assert.equal(revocation?.revoked, 1);
  });

  it('the file that identity.crl names on the root does the same', async () => {
    const out = join(cluster.folder, 'second');
    await issueCertificate({
      ca: ca(),
      out,
      role: 'edge',
      name: 'second',
      days: 1,
      dns: [],
      ip: [],
      nowMs: Date.now(),
    });
    await cluster.stop(root);
    const path = join(root.folder, 'node.yaml');
    cpSync(join(ca(), 'ca.crl'), join(root.folder, 'lists.crl'));
    writeFileSync(path, `${readFileSync(path, 'utf8')}identity: { crl: lists.crl }\n`);
    cluster.start(root);
    await cluster.ready(root);
    const { code, err } = await tokaido(['ca', 'revoke', '--ca', ca(), '--certificate', join(out, 'node.crt')]);
    assert.equal(code, 0, err);
    cpSync(join(ca(), 'ca.crl'), join(root.folder, 'lists.crl'));
    await until('it came through the store', staying, ({ revocation }) => revocation?.revoked === 2);
  });
});
