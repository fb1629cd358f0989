/** Client listeners over TLS: one-way, with client certificates, and with the names that are allowed. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { type ConnectionOptions, connect } from 'node:tls';
import type { Logger } from '../../src/base/logger.js';
import { silentLogger } from '../../src/base/logger.js';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { crlsOf } from '../../src/pki/crl.js';
import { LiveValue } from '../../src/pki/live.js';
import { certificatesOf } from '../../src/pki/pem.js';
import { Trust } from '../../src/pki/trust.js';
import { ClientKeeper } from '../../src/transport/clients/keeper.js';
import { type ClientTls, listenForStreams, type StreamServer } from '../../src/transport/stream-server.js';
import { PATIENT } from '../support/client-bench.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { OpensslCa } from '../support/openssl.js';

const folder = mkdtempSync(join(tmpdir(), 'tokaido-client-tls-'));
const file = (name: string): string => join(folder, name);
const pem = (name: string): string => readFileSync(file(name), 'utf8');

/** Two CAs, each with a certificate or two. */
async function makeCertificates(): Promise<void> {
  const nowMs = Date.now();
  for (const name of ['ours', 'theirs']) await createCa({ folder: file(name), name, days: 10, nowMs });
  for (const [name, ca] of [
    ['server', 'ours'],
    ['writer', 'ours'],
    ['reader', 'ours'],
    ['stranger', 'theirs'],
  ] as const) {
    const dns = [`${name}.example`];
    await issueCertificate({ ca: file(ca), out: file(name), role: 'client', name, days: 2, dns, ip: [], nowMs });
  }
}

describe('a client listener over TLS', () => {
  let server: StreamServer | undefined;
  let refusals: string[] = [];
  let own: LiveValue<ClientTls> | undefined;
  const keeper = new ClientKeeper({ limits: PATIENT, runtime: localRuntime(), log: silentLogger });
  before(makeCertificates);
  after(() => {
    keeper.close();
    rmSync(folder, { recursive: true, force: true });
  });
  afterEach(async () => await server?.close());

  const log: Logger = {
    ...silentLogger,
    warn: (details) => void refusals.push(String((details as { reason: unknown }).reason)),
  };

  async function listen(tls: Partial<ClientTls>): Promise<number> {
    refusals = [];
    own = new LiveValue<ClientTls>({
      certificatePem: pem('server/node.crt'),
      keyPem: pem('server/node.key'),
      clientCaPem: undefined,
      clientTrust: tls.clientCaPem === undefined ? undefined : new Trust(certificatesOf(tls.clientCaPem, 'ca.crt')),
      names: [],
      ...tls,
    });
    server = await listenForStreams({
      host: '127.0.0.1',
      port: 0,
      tls: own,
      applicationProtocols: ['http/1.1'],
      runtime: localRuntime(),
      log,
      maxConnections: 10,
      keeper,
      onConnection: (socket) => {
        socket.on('data', (chunk) => socket.write(chunk));
        return { isWaitingForRest: false, isWorking: false, heldBytes: 0, holdsMuch: () => undefined };
      },
    });
    return server.port;
  }

  /** What comes back for `ping`, or why nothing does. */
  async function ping(port: number, options: ConnectionOptions = {}): Promise<string> {
    return await new Promise((resolve) => {
      const socket = connect({
        host: '127.0.0.1',
        port,
        ca: pem('ours/ca.crt'),
        servername: 'server.example',
        ...options,
      });
      socket.setTimeout(5000, () => socket.destroy());
      socket.once('secureConnect', () => socket.write('ping'));
      socket.once('data', (chunk) => {
        resolve(chunk.toString());
        socket.destroy();
      });
      socket.once('error', () => resolve('refused'));
      socket.once('close', () => resolve('refused'));
    });
  }

  const as = (name: string): ConnectionOptions => ({ cert: pem(`${name}/node.crt`), key: pem(`${name}/node.key`) });

  it('proves itself and asks nothing of clients when no CA for them is given', async () => {
    const port = await listen({});
    assert.equal(await ping(port), 'ping');
    assert.equal(await ping(port, { maxVersion: 'TLSv1.2' }), 'ping');
    assert.equal(await ping(port, { ca: pem('theirs/ca.crt') }), 'refused');
  });

  it('refuses TLS older than 1.2', async () => {
    const port = await listen({});
    const old = { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
    assert.equal(await ping(port, old), 'refused');
  });

  it('lets in clients with a certificate of the given CA only, and says why not', async () => {
    const port = await listen({ clientCaPem: pem('ours/ca.crt') });
    assert.equal(await ping(port, as('reader')), 'ping');
    assert.equal(await ping(port), 'refused');
    assert.deepEqual(refusals, ['it presented no certificate']);
  });

  it('refuses a certificate of another CA', async () => {
    const port = await listen({ clientCaPem: pem('ours/ca.crt') });
    assert.equal(await ping(port, as('stranger')), 'refused');
    assert.match(refusals.join(), /its certificate does not verify/);
  });

  it('lets in the allowed names only, by common name or alternative name', async () => {
    const port = await listen({ clientCaPem: pem('ours/ca.crt'), names: ['writer.example'] });
    assert.equal(await ping(port, as('writer')), 'ping');
    assert.equal(await ping(port, as('reader')), 'refused');
    assert.match(refusals.join(), /for reader, .*reader\.example, which this listener does not allow/);
    await server?.close();
    const second = await listen({ clientCaPem: pem('ours/ca.crt'), names: ['reader'] });
    assert.equal(await ping(second, as('reader')), 'ping');
  });

  it('speaks no cipher without forward secrecy and authenticated encryption', async () => {
    const port = await listen({});
    for (const ciphers of [
      'AES128-SHA',
      'AES256-GCM-SHA384',
      'ECDHE-ECDSA-AES128-SHA',
      'ECDHE-ECDSA-AES128-SHA256',
      'NULL',
      'ADH',
    ])
      assert.equal(await ping(port, { maxVersion: 'TLSv1.2', ciphers: `${ciphers}:@SECLEVEL=0` }), 'refused', ciphers);
    for (const ciphers of ['ECDHE-ECDSA-AES256-GCM-SHA384', 'ECDHE-ECDSA-CHACHA20-POLY1305'])
      assert.equal(await ping(port, { maxVersion: 'TLSv1.2', ciphers }), 'ping', ciphers);
  });

  it('renegotiates with nobody', async () => {
    const port = await listen({ clientCaPem: pem('ours/ca.crt') });
    const socket = connect({
      host: '127.0.0.1',
      port,
      ca: pem('ours/ca.crt'),
      maxVersion: 'TLSv1.2',
      checkServerIdentity: () => undefined,
      ...as('reader'),
    });
    const outcome = await new Promise<string>((resolve) => {
      socket.on('error', (error) => resolve(`ended: ${error.message}`));
      socket.on('close', () => resolve('ended'));
      socket.on('secureConnect', () => {
        socket.renegotiate({}, (error) => resolve(error === null ? 'renegotiated' : `refused: ${error.message}`));
      });
    });
    socket.destroy();
    assert.match(outcome, /^(ended|refused)/);
  });

  it('a session from before a revocation opens nothing', async () => {
    const reader = new X509Certificate(pem('reader/node.crt'));
    const authorities = certificatesOf(pem('ours/ca.crt'), 'ca.crt');
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const port = await listen({ clientCaPem: pem('ours/ca.crt') });
      let session: Buffer | undefined;
      const socket = connect({
        host: '127.0.0.1',
        port,
        ca: pem('ours/ca.crt'),
        maxVersion,
        checkServerIdentity: () => undefined,
        ...as('reader'),
      });
      socket.on('session', (ticket) => {
        session = ticket;
      });
      await new Promise((resolve) => socket.once('secureConnect', resolve));
      session ??= socket.getSession();
      let closed = false;
      socket.on('error', () => undefined);
      socket.on('close', () => {
        closed = true;
      });
      socket.write('x');
      await new Promise((resolve) => socket.once('data', resolve));
      const ca = { certificate: file('ours/ca.crt'), key: file('ours/ca.key') };
      const lists = OpensslCa.of(file(`lists-${maxVersion}`), ca);
      writeFileSync(file('reader.crt'), reader.toString());
      lists.revoke(file('reader.crt'));
      own?.set({ ...own.current, clientTrust: new Trust(authorities, crlsOf(lists.crl(), 'list')) });
      await eventually('the open connection ends', () => closed, 1000);
      assert.equal(
        await ping(port, { ...as('reader'), maxVersion, ...(session === undefined ? {} : { session }) }),
        'refused',
      );
      await server?.close();
      server = undefined;
    }
  });
});
