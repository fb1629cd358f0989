/** Certificates, keys and revocation lists that change under running nodes: real processes, no restart (invariant 7). */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { cpSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import type { NodeStatus } from '../../src/node/status/status.js';
import { issueCertificate } from '../../src/pki/ca/ca.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { eventually } from '../support/local-runtime.js';
import { OpensslCa } from '../support/openssl.js';
import { freePort } from '../support/postgres.js';

/** What "within a second" may cost on a loaded machine; the figure itself is in docs/operate/certificates.md. */
const SOON_MS = 5_000;

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

describe('certificates that change while nodes run', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let staying: ClusterNode;
  let leaving: ClusterNode;
  let lists: OpensslCa;
  let tlsPort: number;

  const fileOf = (node: ClusterNode, name: string): string => join(node.folder, name);

  async function issue(role: 'client' | 'edge' | 'root', name: string): Promise<string> {
    const out = join(cluster.folder, `new-${name}-${Math.random()}`);
    const ca = join(cluster.folder, 'ca');
    await issueCertificate({ ca, out, role, name, days: 30, dns: [], ip: ['127.0.0.1'], nowMs: Date.now() });
    return out;
  }

  async function until(what: string, node: ClusterNode, holds: (status: NodeStatus) => boolean): Promise<NodeStatus> {
    const start = performance.now();
    for (;;) {
      const status = await cluster.status(node);
      if (holds(status)) return status;
      if (performance.now() - start > SOON_MS * 2) throw new Error(`${what}\n${cluster.log(node).slice(-2000)}`);
      await sleep(20);
    }
  }

  const follows = ({ upstream }: NodeStatus): boolean => upstream?.state === 'following';

  /** Replaces the root's list as an operator should: whole, by renaming. */
  function publish(): void {
    writeFileSync(fileOf(root, 'list.new'), lists.crl());
    renameSync(fileOf(root, 'list.new'), fileOf(root, 'list.crl'));
  }

  before(async () => {
    cluster = await Cluster.create();
    const ca = join(cluster.folder, 'ca');
    lists = OpensslCa.of(join(cluster.folder, 'lists'), { certificate: join(ca, 'ca.crt'), key: join(ca, 'ca.key') });
    tlsPort = await freePort();
    const plainPort = await freePort();
    root = await cluster.add({ name: 'root', role: 'root' });
    const server = await issue('client', 'server');
    for (const name of ['node.crt', 'node.key']) cpSync(join(server, name), fileOf(root, `server-${name}`));
    const tls = { certificate: 'server-node.crt', key: 'server-node.key', clientCa: 'ca.crt' };
    const config = {
      name: 'root',
      role: 'root',
      sid: 1,
      data: 'data',
      identity: { crl: 'list.crl' },
      replication: { scopes: 'all' },
      listen: {
        clients: [{ port: plainPort }, { port: tlsPort, tls }],
        replication: { port: root.replicationPort },
        admin: { port: root.adminPort },
      },
    };
    writeFileSync(fileOf(root, 'node.yaml'), JSON.stringify(config));
    publish();
    const shared = { config: { replication: { reconnectMinMs: 50, reconnectMaxMs: 200 } }, upstreams: [root] };
    staying = await cluster.add({ name: 'staying', role: 'edge', ...shared });
    leaving = await cluster.add({ name: 'leaving', role: 'edge', ...shared });
    for (const node of [root, staying, leaving]) cluster.start(node);
    for (const node of [root, staying, leaving]) await cluster.ready(node);
    for (const node of [staying, leaving]) await until('it follows', node, follows);
  });
  after(async () => await cluster.close());

  it('a follower that is revoked while connected loses its link soon, comes in no more, and others stay', async () => {
    const start = performance.now();
    lists.revoke(fileOf(leaving, 'node.crt'));
    publish();
    const { followers } = await until('only one follower is left', root, (status) => status.followers.length === 1);
    assert.ok(performance.now() - start < SOON_MS);
    assert.equal(followers[0]?.name, 'staying');
    await until('the revoked one is refused again', leaving, (status) => !follows(status));
    assert.match(cluster.log(root), /replication peer refused: its certificate is revoked/);
    assert.ok(follows(await cluster.status(staying)));
  });

  it('a new certificate is used at once: files half-written or not matching are ignored until they match', async () => {
    const { certificate: before } = await cluster.status(staying);
    const renewed = await issue('edge', 'staying');
    const pem = readFileSync(join(renewed, 'node.crt'), 'utf8');
    writeFileSync(fileOf(staying, 'node.crt'), pem.slice(0, 300));
    const ignored = (): number => cluster.log(staying).split('are ignored until').length - 1;
    await eventually('half a certificate is ignored', () => ignored() === 1);
    writeFileSync(fileOf(staying, 'node.crt'), pem);
    await eventually('a certificate without its key is ignored', () => ignored() === 2);
    assert.deepEqual((await cluster.status(staying)).certificate?.fingerprint, before?.fingerprint);
    cpSync(join(renewed, 'node.key'), fileOf(staying, 'node.key'));
    const wanted = new X509Certificate(pem).fingerprint256;
    await until('it is used', staying, ({ certificate }) => certificate?.fingerprint === wanted);
    assert.ok(follows(await cluster.status(staying)));
  });

  it('a certificate of another node is not taken over', async () => {
    const other = await issue('edge', 'somebody');
    const kept = ['node.crt', 'node.key'].map((name) => [name, readFileSync(fileOf(staying, name))] as const);
    for (const [name] of kept) cpSync(join(other, name), fileOf(staying, name));
    await eventually('it is refused', () => /that is another node|says name staying/.test(cluster.log(staying)));
    for (const [name, bytes] of kept) writeFileSync(fileOf(staying, name), bytes);
  });

  async function client(folder: string): Promise<TLSSocket> {
    const pem = (name: string): string => readFileSync(join(folder, name), 'utf8');
    const options = {
      host: '127.0.0.1',
      port: tlsPort,
      ca: pem('ca.crt'),
      cert: pem('node.crt'),
      key: pem('node.key'),
    };
    const socket = connect(options);
    socket.on('error', () => undefined);
    return await new Promise((resolve, reject) => {
      socket.once('secureConnect', () => resolve(socket));
      socket.once('error', reject);
    });
  }

  async function get(socket: TLSSocket): Promise<string> {
    return await new Promise((resolve) => {
      socket.once('data', (chunk: Buffer) => resolve(chunk.toString().split('\r\n')[0] as string));
      socket.once('close', () => resolve('closed'));
      socket.write('GET /none HTTP/1.1\r\nHost: x\r\n\r\n');
    });
  }

  it('a client that is revoked while connected is cut off, and others stay', async () => {
    const [app, thief] = [await issue('client', 'app'), await issue('client', 'thief')];
    const [stays, goes] = [await client(app), await client(thief)];
    assert.match(await get(goes), /404/);
    let closed = false;
    goes.on('close', () => {
      closed = true;
    });
    lists.revoke(join(thief, 'node.crt'));
    publish();
    await eventually('its connection is closed', () => closed, SOON_MS);
    assert.match(await get(stays), /404/);
    assert.equal(await get(await client(thief)), 'closed');
    stays.destroy();
  });

  it('a client whose certificate ends while it is connected is cut off within a second, and others stay', async () => {
    const out = join(cluster.folder, 'short');
    const lifeMs = 4000;
    const ca = join(cluster.folder, 'ca');
    const days = lifeMs / 86_400_000;
    await issueCertificate({ ca, out, role: 'client', name: 'short', days, dns: [], ip: [], nowMs: Date.now() });
    const endsMs = Date.parse(new X509Certificate(readFileSync(join(out, 'node.crt'))).validTo);
    const [stays, goes] = [await client(await issue('client', 'long')), await client(out)];
    assert.match(await get(goes), /404/);
    const closedMs = await new Promise<number>((resolve) => goes.on('close', () => resolve(Date.now())));
    assert.ok(closedMs >= endsMs && closedMs < endsMs + 1000, `${closedMs - endsMs} ms after its certificate`);
    assert.match(await get(stays), /404/);
    assert.match(cluster.log(root), /client refused: its certificate does not verify: it has expired/);
    stays.destroy();
  });

  it('a client listener shows its new certificate to the next client; SIGHUP reads at once', async () => {
    const app = await issue('client', 'app');
    const open = await client(app);
    const renewed = await issue('client', 'server');
    for (const name of ['node.crt', 'node.key']) cpSync(join(renewed, name), fileOf(root, `server-${name}`));
    root.process?.kill('SIGHUP');
    const wanted = new X509Certificate(readFileSync(join(renewed, 'node.crt'))).fingerprint256;
    const start = performance.now();
    for (;;) {
      const socket = await client(app);
      const shown = socket.getPeerX509Certificate()?.fingerprint256;
      socket.destroy();
      if (shown === wanted) break;
      assert.ok(performance.now() - start < SOON_MS, 'the new certificate is shown');
      await sleep(20);
    }
    assert.match(cluster.log(root), /SIGHUP: reading certificates/);
    assert.match(await get(open), /404/);
    open.destroy();
  });
});

describe('nodes with certificates made by openssl', () => {
  it('link, replicate, and lock out what an openssl list names', async () => {
    const cluster = await Cluster.create();
    try {
      const ca = OpensslCa.create(join(cluster.folder, 'openssl'), 'by hand', 'rsa');
      const root = await cluster.add({ name: 'root', role: 'root' });
      const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
      for (const [node, kind] of [
        [root, 'rsa'],
        [edge, 'p256'],
      ] as const) {
        const name = `URI:tokaido://${'0123456789abcdef'.repeat(2)}/${node.role}/${node.name}`;
        const usage = 'extendedKeyUsage=serverAuth,clientAuth';
        const made = ca.issue(node.name, [`subjectAltName=${name}`, usage], kind);
        cpSync(made.certificate, join(node.folder, 'node.crt'));
        cpSync(made.key, join(node.folder, 'node.key'));
        cpSync(ca.certificate, join(node.folder, 'ca.crt'));
        cluster.start(node);
      }
      for (const node of [root, edge]) await cluster.ready(node);
      await fetch(`http://127.0.0.1:${root.clientPort}/k`, { method: 'PUT', body: 'v' });
      const start = performance.now();
      while (!(await fetch(`http://127.0.0.1:${edge.clientPort}/k`)).ok) {
        assert.ok(performance.now() - start < SOON_MS * 2, cluster.log(edge).slice(-2000));
        await sleep(20);
      }
      ca.revoke(join(edge.folder, 'node.crt'));
      await fetch(`http://127.0.0.1:${root.adminPort}/crl`, { method: 'POST', body: ca.crl() });
      while ((await cluster.status(root)).followers.length > 0) {
        assert.ok(performance.now() - start < SOON_MS * 3, cluster.log(root).slice(-2000));
        await sleep(20);
      }
    } finally {
      await cluster.close();
    }
  });
});
