/** Who may link to whom, over real sockets: everything else is refused, and the log says why (invariant 7). */
import assert from 'node:assert/strict';
import { generateKeyPairSync, type X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as tcpConnect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { type ConnectionOptions, connect as tlsConnect } from 'node:tls';
import { type Logger, silentLogger } from '../../src/base/logger.js';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { crlsOf } from '../../src/pki/crl.js';
import { loadNodeIdentity, type NodeIdentity } from '../../src/pki/identity.js';
import { type Live, LiveValue } from '../../src/pki/live.js';
import type { Role } from '../../src/pki/names.js';
import { certificatesOf } from '../../src/pki/pem.js';
import { scopeNames } from '../../src/pki/scope-names.js';
import { Trust } from '../../src/pki/trust.js';
import type { Link, LinkHandlers } from '../../src/transport/link.js';
import { connectToUpstream, type FollowerListener, listenForFollowers } from '../../src/transport/tls-link.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { OpensslCa } from '../support/openssl.js';

const DAY_MS = 86_400_000;

describe('a link between nodes', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-tls-'));
  const runtime = localRuntime();
  const warnings: string[] = [];
  const log: Logger = { ...silentLogger, warn: (_fields, message) => warnings.push(message), child: () => log };
  let listener: FollowerListener;
  let accepted: Link[] = [];
  let received = 0;
  const handlers: LinkHandlers = {
    onData: (chunk) => {
      received += chunk.length;
    },
    onDrain: () => undefined,
    onClose: () => undefined,
  };

  /** Certificate and key of a node, by CA, role and when it was made. */
  async function issue(
    ca: string,
    name: string,
    role: Exclude<Role, 'ca'>,
    nowMs = Date.now(),
    days = 30,
  ): Promise<NodeIdentity> {
    const out = join(folder, `${ca}-${name}`);
    await issueCertificate({ ca: join(folder, ca), out, role, name, days, dns: [], ip: [], nowMs });
    const files = { certificate: join(out, 'node.crt'), key: join(out, 'node.key'), ca: join(out, 'ca.crt') };
    return loadNodeIdentity(files, nowMs);
  }

  let relay: NodeIdentity;
  let edge: NodeIdentity;

  before(async () => {
    for (const name of ['ours', 'theirs']) {
      await createCa({ folder: join(folder, name), name, days: 3650, nowMs: Date.now() - 100 * DAY_MS });
    }
    relay = await issue('ours', 'relay-1', 'relay');
    edge = await issue('ours', 'edge-1', 'edge');
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  const listen = async (identity: NodeIdentity | Live<NodeIdentity>): Promise<FollowerListener> =>
    await listenForFollowers({
      host: '127.0.0.1',
      port: 0,
      identity: 'current' in identity ? identity : new LiveValue(identity),
      log,
      runtime,
      maxConnections: 16,
      onLink: (link) => {
        accepted.push(link);
        return handlers;
      },
    });

  beforeEach(async () => {
    warnings.length = 0;
    accepted = [];
    received = 0;
    listener = await listen(relay);
  });
  afterEach(async () => {
    for (const link of accepted) link.destroy('end of test');
    await listener.close();
  });

  const connect = async (identity: NodeIdentity, expectedName?: string, port = listener.port): Promise<Link> =>
    await new Promise<Link>((resolve, reject) => {
      connectToUpstream({
        host: '127.0.0.1',
        port,
        expectedName,
        identity: new LiveValue(identity),
        log,
        runtime,
        onLink: (link) => {
          resolve(link);
          return handlers;
        },
      }).catch(reject);
    });

  const refusedWith = async (what: RegExp): Promise<void> => {
    await eventually(`a log line that says ${what}`, () => warnings.some((message) => what.test(message)), 3000).catch(
      (error: Error) => {
        throw new Error(`${error.message}; the log says ${JSON.stringify(warnings)}`);
      },
    );
    assert.equal(accepted.length, 0);
  };

  it('an edge of the cluster is accepted, and bytes flow with back-pressure', async () => {
    const link = await connect(edge, 'relay-1');
    assert.equal(link.peer.name, 'relay-1');
    const chunk = Buffer.alloc(1 << 20);
    for (let i = 0; i < 20; i++) link.send([chunk]);
    assert.ok(link.queuedBytes > 0);
    await eventually('all arrived', () => received === 20 << 20);
    assert.equal(accepted[0]?.peer.name, 'edge-1');
    link.destroy('end of test');
  });

  it('a link says what the certificate of its peer lets it follow', async () => {
    const out = join(folder, 'ours-scoped');
    const scope = scopeNames(['dns/jp/', 'flags']);
    const names = { role: 'edge', name: 'edge-scoped', dns: [], ip: [], scope, hasReadableScope: true } as const;
    await issueCertificate({ ca: join(folder, 'ours'), out, days: 1, nowMs: Date.now(), ...names });
    const files = { certificate: join(out, 'node.crt'), key: join(out, 'node.key'), ca: join(out, 'ca.crt') };
    await connect(loadNodeIdentity(files, Date.now()), 'relay-1');
    await connect(edge, 'relay-1');
    await eventually('both are there', () => accepted.length === 2);
    const [scoped, unscoped] = ['edge-scoped', 'edge-1'].map((name) => accepted.find(({ peer }) => peer.name === name));
    const parts = [
      { databases: ['dns'], prefixes: [Buffer.from('jp/')] },
      { databases: ['flags'], prefixes: [] },
    ];
    assert.deepEqual(scoped?.scope, { kind: 'parts', parts });
    assert.deepEqual(unscoped?.scope, { kind: 'unsaid' });
  });

  it('a certificate from another CA is refused', async () => {
    const stranger = await issue('theirs', 'edge-2', 'edge');
    rawTls({ cert: stranger.certificatePem, key: stranger.keyPem });
    await refusedWith(/not from the CA of this cluster/);
  });

  it('an expired certificate is refused', async () => {
    const expired = await issue('ours', 'edge-old', 'edge', Date.now() - 50 * DAY_MS, 10);
    await connect(expired).catch(() => undefined);
    await refusedWith(/expired/);
  });

  it('a certificate that is not valid yet is refused', async () => {
    const early = await issue('ours', 'edge-early', 'edge', Date.now() + 10 * DAY_MS, 10);
    await connect(early).catch(() => undefined);
    await refusedWith(/not valid yet/);
  });

  it('a root or a client may not be a follower of a relay', async () => {
    await connect(await issue('ours', 'as-client', 'client')).catch(() => undefined);
    await refusedWith(/role client may not be a follower/);
    // A root follows roots only, and says so itself when it connects in good faith.
    const root = await issue('ours', 'as-root', 'root');
    await assert.rejects(connect(root), /role relay may not be an upstream/);
    rawTls({ cert: root.certificatePem, key: root.keyPem });
    await refusedWith(/role root may not be a follower/);
  });

  const rawTls = (options: ConnectionOptions): void => {
    const socket = tlsConnect({
      host: '127.0.0.1',
      port: listener.port,
      ca: relay.caPem,
      checkServerIdentity: () => undefined,
      ALPNProtocols: ['tokaido/1'],
      ...options,
    });
    socket.on('error', () => undefined);
  };

  it('no certificate is refused', async () => {
    rawTls({});
    await refusedWith(/presented no certificate/);
  });

  for (const version of ['TLSv1.2', 'TLSv1.1'] as const) {
    it(`${version} is refused`, async () => {
      const { certificatePem: cert, keyPem: key } = edge;
      rawTls({ cert, key, minVersion: version, maxVersion: version, ciphers: 'ALL:@SECLEVEL=0' });
      await refusedWith(/older than 1.3|does not speak TLS/);
    });
  }

  it('plaintext and garbage are refused', async () => {
    for (const bytes of ['GET / HTTP/1.1\r\n\r\n', '\u0016\u0003\u0001 this is no handshake', 'TKDO hello']) {
      warnings.length = 0;
      tcpConnect(listener.port, '127.0.0.1')
        .on('error', () => undefined)
        .end(bytes);
      await refusedWith(/refused/);
    }
    await connect(edge);
  });

  it('an edge does not take another edge for its upstream, nor a relay of another name', async () => {
    const wrong = await listen(edge);
    await assert.rejects(
      connect(await issue('ours', 'edge-3', 'edge'), undefined, wrong.port),
      /role edge may not be an upstream/,
    );
    await wrong.close();
    await assert.rejects(connect(edge, 'relay-9'), /the configuration expects relay-9/);
  });

  it('an upstream from another CA is refused by the follower', async () => {
    const impostor = await listen(await issue('theirs', 'relay-1', 'relay'));
    await assert.rejects(connect(edge, undefined, impostor.port), /not from the CA of this cluster/);
    await impostor.close();
  });

  /** Trust in the cluster's CA, with a list that revokes these certificates. */
  const revoking = (own: NodeIdentity, ...revoked: NodeIdentity[]): NodeIdentity => {
    const ca = { certificate: join(folder, 'ours', 'ca.crt'), key: join(folder, 'ours', 'ca.key') };
    const lists = OpensslCa.of(join(folder, 'lists'), ca);
    for (const { chain } of revoked) {
      const path = join(folder, 'lists', 'revoked.crt');
      writeFileSync(path, (chain[0] as X509Certificate).toString());
      lists.revoke(path);
    }
    return { ...own, trust: own.trust.with(crlsOf(lists.crl(), 'list')) };
  };

  it('a revoked certificate is refused, at both ends, and the log says why', async () => {
    const gone = await issue('ours', 'edge-gone', 'edge');
    const strict = await listen(revoking(relay, gone));
    await connect(gone, undefined, strict.port).catch(() => undefined);
    await refusedWith(/its certificate is revoked/);
    assert.equal(strict.refusals.get('revoked'), 1);
    await connect(edge, undefined, strict.port);
    for (const link of accepted) link.destroy('end of test');
    await strict.close();
    const relayGone = await issue('ours', 'relay-gone', 'relay');
    const revokedUpstream = await listen(relayGone);
    await assert.rejects(connect(revoking(edge, relayGone), undefined, revokedUpstream.port), /certificate is revoked/);
    await revokedUpstream.close();
  });

  it('a link that is open ends when its peer is revoked, at both ends, and others stay', async () => {
    const own = new LiveValue(relay);
    const open = await listen(own);
    const closed: string[] = [];
    const linkTo = async (identity: Live<NodeIdentity>, name: string): Promise<void> => {
      await connectToUpstream({
        host: '127.0.0.1',
        port: open.port,
        expectedName: undefined,
        identity,
        log,
        runtime,
        onLink: () => ({ ...handlers, onClose: (reason) => closed.push(`${name}: ${reason}`) }),
      });
    };
    const leaving = await issue('ours', 'edge-leaving', 'edge');
    const staying = new LiveValue(edge);
    await linkTo(new LiveValue(leaving), 'leaving');
    await linkTo(staying, 'staying');
    own.set(revoking(relay, leaving));
    await eventually('the link of the revoked edge ends', () => closed.length > 0, 1000);
    assert.deepEqual(closed, ['leaving: the peer closed the link']);
    assert.equal(open.refusals.get('revoked'), 1);
    staying.set(revoking(edge, relay));
    await eventually('the link to the revoked relay ends', () => closed.length > 1, 1000);
    assert.match(closed[1] as string, /staying: the peer is no longer allowed: its certificate is revoked/);
    await open.close();
  });

  it('a link whose CA is retired gets a moment for another one to take its place, and ends within a second', async () => {
    const own = new LiveValue(relay);
    const events: string[] = [];
    let links = 0;
    const noted = (name: string): LinkHandlers => {
      links++;
      const onOutdated = (): void => void events.push(`${name} outdated`);
      return { ...handlers, onOutdated, onClose: (reason) => events.push(`${name} ${reason}`) };
    };
    const at = { host: '127.0.0.1', port: 0, log, runtime, maxConnections: 16 };
    const open = await listenForFollowers({ ...at, identity: own, onLink: () => noted('relay') });
    try {
      const to = { ...at, port: open.port, expectedName: undefined };
      await connectToUpstream({ ...to, identity: new LiveValue(edge), onLink: () => noted('edge') });
      await eventually('both ends have it', () => links === 2);
      const startMs = performance.now();
      const theirs = join(folder, 'theirs', 'ca.crt');
      own.set({ ...relay, trust: new Trust(certificatesOf(readFileSync(theirs, 'utf8'), theirs)) });
      assert.deepEqual(events, ['relay outdated']);
      await eventually('the link ends', () => events.some((event) => event.startsWith('edge ')), 3000);
      const tookMs = performance.now() - startMs;
      assert.ok(tookMs > 500 && tookMs < 1000, `${tookMs} ms`);
      // What is opened anew is judged at once.
      await connectToUpstream({ ...to, identity: new LiveValue(edge), onLink: () => noted('late') });
      await eventually('the late one is refused', () => events.some((event) => event.startsWith('late ')), 500);
      assert.equal(open.refusals.get('untrusted-ca'), 2);
    } finally {
      await open.close();
    }
  });

  it('a link whose CA is retired once more, after it counted again, ends as well', async () => {
    const own = new LiveValue(relay);
    const closed: string[] = [];
    let links = 0;
    const moving = (): LinkHandlers => {
      links++;
      return { ...handlers, onOutdated: () => undefined, onClose: (reason) => closed.push(reason) };
    };
    const at = { host: '127.0.0.1', port: 0, log, runtime, maxConnections: 16 };
    const open = await listenForFollowers({ ...at, identity: own, onLink: moving });
    try {
      const to = { ...at, port: open.port, expectedName: undefined };
      await connectToUpstream({ ...to, identity: new LiveValue(edge), onLink: moving });
      await eventually('both ends have it', () => links === 2);
      const theirs = join(folder, 'theirs', 'ca.crt');
      const retired = { ...relay, trust: new Trust(certificatesOf(readFileSync(theirs, 'utf8'), theirs)) };
      own.set(retired);
      own.set(relay);
      await new Promise<void>((resolve) => runtime.after(900, resolve));
      assert.deepEqual(closed, [], 'its CA counts');
      own.set(retired);
      await eventually('both ends end', () => closed.length === 2, 3000);
    } finally {
      await open.close();
    }
  });

  it('a certificate that is replaced during a handshake does not stay on that link unnoticed, at either end', async () => {
    const own = { relay: new LiveValue(relay), edge: new LiveValue(edge) };
    const renewed = {
      relay: await issue('ours', 'relay-during', 'relay'),
      edge: await issue('ours', 'edge-during', 'edge'),
    };
    const outdated: string[] = [];
    let opened: Link | undefined;
    const noted = (name: string): LinkHandlers => ({ ...handlers, onOutdated: () => void outdated.push(name) });
    const at = { host: '127.0.0.1', port: 0, log, runtime, maxConnections: 16 };
    const open = await listenForFollowers({ ...at, identity: own.relay, onLink: () => noted('relay') });
    try {
      const linking = connectToUpstream({
        ...at,
        port: open.port,
        expectedName: undefined,
        identity: own.edge,
        onLink: (link) => {
          opened = link;
          // The relay has shown its certificate, and has not seen the last message of the handshake yet.
          own.relay.set(renewed.relay);
          return noted('edge');
        },
      });
      await new Promise((resolve) => setImmediate(resolve));
      own.edge.set(renewed.edge);
      await linking;
      await eventually('both know', () => outdated.length === 2);
      assert.deepEqual(outdated, ['edge', 'relay']);
    } finally {
      opened?.destroy('end of test');
      await open.close();
    }
  });

  it('a new certificate is shown to the next peer, and open links stay', async () => {
    const own = new LiveValue(relay);
    const open = await listen(own);
    const before = await connect(edge, undefined, open.port);
    const renewed = await issue('ours', 'relay-2', 'relay');
    own.set(renewed);
    const after = await connect(edge, undefined, open.port);
    assert.deepEqual([before.peer.name, after.peer.name], ['relay-1', 'relay-2']);
    before.send([Buffer.from('still there')]);
    await eventually('the old link carries bytes', () => received === 11);
    for (const link of accepted) link.destroy('end of test');
    await open.close();
  });

  /** What openssl certifies with the cluster's own CA. */
  const byHand = (name: string, ...uris: string[]): ConnectionOptions => {
    const ca = { certificate: join(folder, 'ours', 'ca.crt'), key: join(folder, 'ours', 'ca.key') };
    const names = uris.map((uri) => `URI:${uri}`).join(',');
    const usage = 'extendedKeyUsage=serverAuth,clientAuth';
    const made = OpensslCa.of(join(folder, 'by-hand'), ca).issue(name, [`subjectAltName=${names}`, usage]);
    return { cert: readFileSync(made.certificate), key: readFileSync(made.key) };
  };

  it('the right CA with the wrong cluster, with two names or with none is refused', async () => {
    const { clusterId } = edge.identity;
    rawTls(byHand('elsewhere', `tokaido://${'f'.repeat(32)}/edge/edge-1`));
    await refusedWith(/it belongs to cluster ffff/);
    for (const uris of [
      [`tokaido://${clusterId}/edge/a`, `tokaido://${clusterId}/edge/b`],
      ['https://edge-1.example'],
    ]) {
      const before = listener.refusals.get('no-identity') ?? 0;
      rawTls(byHand('names', ...uris));
      await eventually(`refused: ${uris}`, () => listener.refusals.get('no-identity') === before + 1, 3000);
    }
    assert.equal(accepted.length, 0);
  });

  it('a self-signed certificate with the name of an edge is refused', async () => {
    const self = OpensslCa.create(join(folder, 'self'), 'edge-1');
    rawTls({ cert: readFileSync(self.certificate), key: readFileSync(self.key) });
    await refusedWith(/not from the CA of this cluster/);
  });

  it('a clock that is an hour off is named as such, at both ends, with both times', async () => {
    const HOUR_MS = 3_600_000;
    // Made by a machine whose clock is ahead: here its certificates begin in an hour.
    const ahead = await issue('ours', 'edge-ahead', 'edge', Date.now() + HOUR_MS);
    await connect(ahead).catch(() => undefined);
    await refusedWith(/not valid yet: it begins at .*T.*Z, and the clock here says .*T.*Z \(compare the clocks\)/);
    warnings.length = 0;
    // Made for an hour by one whose clock is behind: here they have ended.
    const behind = await issue('ours', 'edge-behind', 'edge', Date.now() - HOUR_MS - 60_000, 1 / 24);
    await connect(behind).catch(() => undefined);
    await refusedWith(/has expired: it ended at .*T.*Z, and the clock here says .*T.*Z \(compare the clocks\)/);
    const early = await listen(await issue('ours', 'relay-ahead', 'relay', Date.now() + HOUR_MS));
    await assert.rejects(
      connect(edge, undefined, early.port),
      /refused the upstream: .* not valid yet: it begins at .*Z, and the clock here says .*Z \(compare the clocks\)/,
    );
    await early.close();
  });

  it('no session is ever resumed', async () => {
    const own = { cert: edge.certificatePem, key: edge.keyPem };
    let session: Buffer | undefined;
    const attempt = async (): Promise<boolean> =>
      await new Promise<boolean>((resolve, reject) => {
        const socket = tlsConnect({
          host: '127.0.0.1',
          port: listener.port,
          ca: relay.caPem,
          checkServerIdentity: () => undefined,
          ALPNProtocols: ['tokaido/1'],
          ...own,
          ...(session === undefined ? {} : { session }),
        });
        socket.on('error', reject);
        socket.on('session', (ticket) => {
          session = ticket;
        });
        socket.on('secureConnect', () => {
          session ??= socket.getSession();
          // Time for a ticket to arrive.
          setTimeout(() => {
            resolve(socket.isSessionReused());
            socket.destroy();
          }, 100);
        });
      });
    assert.equal(await attempt(), false);
    assert.ok(session !== undefined);
    assert.equal(await attempt(), false);
  });

  it('a key that does not belong to the certificate is found before anything listens', async () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const path = join(folder, 'ours-relay-1', 'wrong.key');
    writeFileSync(path, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
    const files = {
      certificate: join(folder, 'ours-relay-1', 'node.crt'),
      key: path,
      ca: join(folder, 'ours-relay-1', 'ca.crt'),
    };
    assert.throws(() => loadNodeIdentity(files, Date.now()), /is not the key of/);
    assert.ok(readFileSync(files.certificate, 'utf8').startsWith('-----BEGIN CERTIFICATE-----'));
  });
});
