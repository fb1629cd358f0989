/**
 * Who poses as an upstream, against a real edge in a process of its own: a server that speaks our protocol with a
 * certificate that is not a root's or relay's of this cluster learns nothing, not even who asked. And certificates under
 * the wrong role, and clocks that differ by an hour.
 */
import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer as createPlainServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createServer, type TlsOptions } from 'node:tls';
import { parse, stringify } from 'yaml';
import { createCa, issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { revoke, writeCrl } from '../../src/pki/ca/records.js';
import type { Role } from '../../src/pki/names.js';
import { tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { OpensslCa } from '../support/openssl.js';
import { freePort } from '../support/postgres.js';
import { honestFrames } from '../torture/frames.js';

const SOON_MS = 10_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

describe('somebody who poses as an upstream', () => {
  let cluster: Cluster;
  let edge: ClusterNode;
  let clusterId: string;
  let upstreamPort: number;
  let made = 0;

  const at = (...names: string[]): string => join(cluster.folder, ...names);

  async function issue(
    role: Exclude<Role, 'ca'>,
    name: string,
    more: { ca?: string; nowMs?: number; days?: number } = {},
  ) {
    const out = at(`impostor-${++made}`);
    const { ca = 'ca', nowMs = Date.now(), days = 1 } = more;
    await issueCertificate({ ca: at(ca), out, role, name, days, dns: [], ip: [], nowMs });
    return { cert: readFileSync(join(out, 'node.crt')), key: readFileSync(join(out, 'node.key')), out };
  }

  /** Waits until the edge says why it does not follow, while `server` answers; returns what the server was told. */
  async function refusal(server: Server, said: RegExp): Promise<number> {
    let told = 0;
    let tries = 0;
    const sockets = new Set<Socket>();
    const welcome = Buffer.concat(honestFrames(clusterId));
    server.on('connection', (socket: Socket) => {
      tries++;
      sockets.add(socket);
      socket.on('error', () => undefined);
    });
    const speak = (socket: Socket): void => {
      socket.on('error', () => undefined);
      socket.on('data', (chunk: Buffer) => (told += chunk.length));
      // As an upstream that cannot wait: a welcome, transactions, a snapshot.
      socket.write(welcome);
    };
    server.on('secureConnection', speak);
    await new Promise<void>((resolve) => server.listen(upstreamPort, '127.0.0.1', resolve));
    const start = performance.now();
    let last: string | undefined;
    // What it says once it has been here and is back is of this server, not of the one before.
    while (tries < 2 || !said.test(last ?? '')) {
      if (performance.now() - start > SOON_MS) assert.fail(`${said}: the edge says ${last}`);
      await sleep(20);
      last = (await cluster.status(edge)).upstream?.lastError;
    }
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
    return told;
  }

  const poses = async (options: TlsOptions, said: RegExp): Promise<void> => {
    const own = { requestCert: true, rejectUnauthorized: false, ALPNProtocols: ['tokaido/1'] };
    assert.equal(await refusal(createServer({ ...own, ...options }), said), 0, `told something (${said})`);
    const { ready, position, databases } = await cluster.status(edge);
    assert.deepEqual([ready, position, databases], [false, [], []]);
  };

  before(async () => {
    cluster = await Cluster.create({ caAgeMs: DAY_MS });
    ({ clusterId } = openCa(at('ca')));
    upstreamPort = await freePort();
    const upstream = { name: 'relay', replicationPort: upstreamPort } as ClusterNode;
    const config = { identity: { crl: 'list.crl' }, replication: { reconnectMinMs: 20, reconnectMaxMs: 50 } };
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [upstream], config });
    await issue('relay', 'revoked');
    revoke(at('ca'), { name: 'revoked' }, Date.now());
    const { pem } = await writeCrl([openCa(at('ca'))], { days: 1, nowMs: Date.now() });
    writeFileSync(join(edge.folder, 'list.crl'), pem);
    cluster.start(edge);
    const start = performance.now();
    while ((await cluster.status(edge).catch(() => undefined)) === undefined) {
      if (performance.now() - start > SOON_MS) throw new Error(cluster.log(edge));
      await sleep(30);
    }
  });
  after(async () => await cluster.close());

  it('with the certificate of an edge, or of a client', async () => {
    for (const role of ['edge', 'client'] as const)
      await poses(await issue(role, 'relay'), new RegExp(`a certificate of role ${role} may not be an upstream`));
  });

  it('with the certificate of a relay of another name', async () => {
    await poses(await issue('relay', 'other'), /it is other, the configuration expects relay/);
  });

  it('with a certificate that was revoked, has ended, or has not begun', async () => {
    const out = at('impostor-1');
    const revoked = { cert: readFileSync(join(out, 'node.crt')), key: readFileSync(join(out, 'node.key')) };
    await poses(revoked, /its certificate is revoked/);
    await poses(await issue('relay', 'relay', { nowMs: Date.now() - 3 * DAY_MS }), /its certificate has expired/);
    await poses(await issue('relay', 'relay', { nowMs: Date.now() + DAY_MS }), /its certificate is not valid yet/);
  });

  it('with a certificate of another CA, of its own, or of another cluster', async () => {
    await createCa({ folder: at('theirs'), name: 'theirs', days: 2, nowMs: Date.now() });
    await poses(await issue('relay', 'relay', { ca: 'theirs' }), /its certificate is not from the CA of this cluster/);
    const own = OpensslCa.create(at('self'), 'relay');
    const self = { cert: readFileSync(own.certificate), key: readFileSync(own.key) };
    await poses(self, /its certificate is not from the CA of this cluster/);
    const ours = OpensslCa.of(at('ours'), { certificate: at('ca', 'ca.crt'), key: at('ca', 'ca.key') });
    const wrong = ours.issue('relay', [`subjectAltName=URI:tokaido://${'ab'.repeat(16)}/relay/relay`]);
    const elsewhere = { cert: readFileSync(wrong.certificate), key: readFileSync(wrong.key) };
    await poses(elsewhere, /it belongs to cluster abab/);
  });

  it('with old TLS, or without any', async () => {
    await poses({ ...(await issue('relay', 'relay')), maxVersion: 'TLSv1.2' }, /older than 1\.3|protocol version/);
    const plain = createPlainServer((socket) => {
      socket.on('error', () => undefined);
      socket.write(honestFrames(clusterId)[1] as Buffer);
    });
    await refusal(plain, /does not speak TLS/);
  });

  it('a node does not start with a certificate of another role than its configuration says', async () => {
    const forged = cluster.subfolder('forged');
    for (const name of ['node.crt', 'node.key', 'ca.crt']) cpSync(join(edge.folder, name), join(forged, name));
    const config = parse(readFileSync(join(edge.folder, 'node.yaml'), 'utf8')) as { listen: object };
    const ports = { replication: { port: await freePort() }, clients: { port: await freePort() }, admin: false };
    for (const [role, more] of [
      ['relay', {}],
      ['root', { sid: 1, upstreams: [] }],
    ] as const) {
      const settings = { ...config, ...more, identity: {}, role, listen: ports };
      writeFileSync(join(forged, 'node.yaml'), stringify(settings));
      const { code, err } = await tokaido(['serve', '--config', join(forged, 'node.yaml')]);
      assert.notEqual(code, 0);
      assert.match(err, new RegExp(`the configuration says role ${role}, the certificate says edge`));
    }
  });

  describe('and a clock that is an hour off', () => {
    /** The node's own clock; what OpenSSL thinks of the time stays. */
    const shifted = (ms: number): Record<string, string> => {
      const code = `const now = Date.now.bind(Date); Date.now = () => now() + ${ms};`;
      return { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(code)}` };
    };

    for (const [name, ms, apart] of [
      ['ahead', HOUR_MS, /the clock here is 3600 s ahead, or all news is that late \(compare the clocks\)/],
      ['behind', -HOUR_MS, /the clock here is 3600 s behind that of the origin \(compare the clocks\)/],
    ] as const) {
      it(`${name}: the node follows while certificates allow it, and says by how much the clocks differ`, async () => {
        const config = { replication: { heartbeatMs: 100, reconnectMinMs: 20, reconnectMaxMs: 50 } };
        const root = await cluster.add({ name: `root-${name}`, role: 'root', config });
        const follower = await cluster.add({ name, role: 'edge', upstreams: [root], config });
        for (const { folder, role } of [root, follower]) {
          // Old enough for both clocks.
          const { out } = await issue(role, folder.split('/').at(-1) as string, { nowMs: Date.now() - 2 * HOUR_MS });
          for (const file of ['node.crt', 'node.key']) cpSync(join(out, file), join(folder, file));
        }
        cluster.start(root);
        cluster.start(follower, { env: shifted(ms) });
        await cluster.ready(follower);
        const start = performance.now();
        while (!apart.test(cluster.log(follower))) {
          if (performance.now() - start > SOON_MS) assert.fail(cluster.log(follower));
          await sleep(30);
        }
        // A certificate that is good by one of the two clocks alone.
        const dates = ms > 0 ? { days: 0.5 / 24 } : {};
        const { out } = await issue('root', root.name, dates);
        for (const file of ['node.key', 'node.crt']) cpSync(join(out, file), join(root.folder, file));
        const said =
          ms > 0
            ? /has expired: it ended at .*Z, and the clock here says .*Z \(compare the clocks\)/
            : /is not valid yet: it begins at .*Z, and the clock here says .*Z \(compare the clocks\)/;
        const begin = performance.now();
        while (!said.test(cluster.log(follower))) {
          if (performance.now() - begin > SOON_MS) assert.fail(cluster.log(follower).slice(-3000));
          await sleep(30);
        }
      });
    }
  });

  it('a certificate that ends while the link is open takes the link with it', async () => {
    const root = await cluster.add({ name: 'root', role: 'root' });
    const config = { identity: { renew: false }, replication: { reconnectMinMs: 20, reconnectMaxMs: 50 } };
    const short = await cluster.add({ name: 'short', role: 'edge', upstreams: [root], config });
    const days = 15_000 / DAY_MS;
    const { out } = await issue('edge', 'short', { days });
    for (const name of ['node.crt', 'node.key']) cpSync(join(out, name), join(short.folder, name));
    for (const node of [root, short]) cluster.start(node);
    await cluster.ready(short);
    const endsMs = Date.parse((await cluster.status(short)).certificate?.notAfter ?? '');
    while ((await cluster.status(root)).followers.length > 0) await sleep(20);
    const lateMs = Date.now() - endsMs;
    assert.ok(lateMs >= 0 && lateMs < 1000, `${lateMs} ms after its certificate`);
    assert.match(cluster.log(root), /its certificate has expired: it ended at .*the clock here says/);
    assert.ok((await cluster.status(short)).ready);
  });
});
