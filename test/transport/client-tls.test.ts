/**
 * TLS on client listeners of a real node: HTTP, the binary protocol and memcached, one-way and with client
 * certificates, made by openssl and by our own CA, with a plain listener beside them.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectPlain } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type ConnectionOptions, connect } from 'node:tls';
import { stringify } from 'yaml';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { eventually } from '../support/local-runtime.js';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';

const folder = mkdtempSync(join(tmpdir(), 'tokaido-tls-'));
const file = (name: string): string => join(folder, name);
const pem = (name: string): string => readFileSync(file(name), 'utf8');

const LISTENERS = ['plain', 'oneWay', 'mutual', 'memcachedPlain', 'memcachedOneWay', 'memcachedMutual'] as const;
const ports = {} as Record<(typeof LISTENERS)[number], number>;
let node: ServedNode;

/** A CA as an operator makes one by hand, with a certificate for the server and two for clients. */
function makeByOpenssl(): void {
  const openssl = (...parameters: string[]): void => {
    execFileSync('openssl', parameters, { cwd: folder, stdio: 'ignore' });
  };
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    'ossl-ca.key',
    '-out',
    'ossl-ca.crt',
    '-days',
    '2',
    '-subj',
    '/CN=by hand',
  );
  for (const [name, extension] of [
    ['ossl-server', 'subjectAltName=DNS:localhost,IP:127.0.0.1'],
    ['ossl-app', 'subjectAltName=DNS:app.example'],
    ['ossl-other', 'subjectAltName=DNS:other.example'],
  ] as const) {
    writeFileSync(file(`${name}.ext`), extension);
    openssl('req', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    const signed = ['-CA', 'ossl-ca.crt', '-CAkey', 'ossl-ca.key', '-CAcreateserial', '-extfile', `${name}.ext`];
    openssl('x509', '-req', '-in', `${name}.csr`, ...signed, '-out', `${name}.crt`, '-days', '2');
    chmodSync(file(`${name}.key`), 0o600);
  }
}

before(async () => {
  makeByOpenssl();
  const nowMs = Date.now();
  await createCa({ folder: file('ca'), name: 'ours', days: 10, nowMs });
  const issued = { ca: file('ca'), role: 'client', days: 2, nowMs } as const;
  await issueCertificate({ ...issued, out: file('server'), name: 'server', dns: ['localhost'], ip: ['127.0.0.1'] });
  for (const name of ['app', 'other']) await issueCertificate({ ...issued, out: file(name), name, dns: [], ip: [] });
  for (const name of LISTENERS) ports[name] = await freePort();
  const byHand = { certificate: 'ossl-server.crt', key: 'ossl-server.key' };
  const ours = { certificate: 'server/node.crt', key: 'server/node.key' };
  const settings = {
    role: 'root',
    sid: 1,
    identity: false,
    data: 'data',
    databases: [':'],
    listen: {
      clients: [
        { port: ports.oneWay, tls: byHand },
        { port: ports.mutual, tls: { ...byHand, clientCa: 'ossl-ca.crt', names: ['app.example'] } },
        { port: ports.plain },
      ],
      memcached: [
        { port: ports.memcachedOneWay, tls: ours },
        { port: ports.memcachedMutual, tls: { ...ours, clientCa: 'ca/ca.crt', names: ['app'] } },
        { port: ports.memcachedPlain },
      ],
      admin: { port: await freePort() },
    },
  };
  writeFileSync(file('node.yaml'), stringify(settings));
  node = await ServedNode.start(['--config', 'node.yaml'], folder);
});
after(async () => {
  await node.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** What is answered to `text` before silence, over TLS; empty when the connection is refused. */
async function over(listener: (typeof LISTENERS)[number], text: string, options: ConnectionOptions): Promise<string> {
  const trusted = listener.startsWith('memcached') ? pem('ca/ca.crt') : pem('ossl-ca.crt');
  const socket = connect({
    host: '127.0.0.1',
    port: ports[listener],
    servername: 'localhost',
    ca: trusted,
    ...options,
  });
  let received = '';
  let closed = false;
  socket.on('data', (chunk: Buffer) => (received += chunk.toString('latin1')));
  socket.on('error', () => undefined);
  socket.on('close', () => {
    closed = true;
  });
  socket.on('secureConnect', () => socket.write(Buffer.from(text, 'latin1')));
  await eventually(
    'an answer',
    () => closed || received.endsWith('END\r\n') || received.includes('\r\n\r\n') || received.length === 5,
  );
  socket.destroy();
  return received;
}

const byHand = (name: string): ConnectionOptions => ({ cert: pem(`${name}.crt`), key: pem(`${name}.key`) });
const ours = (name: string): ConnectionOptions => ({ cert: pem(`${name}/node.crt`), key: pem(`${name}/node.key`) });
const GET = 'GET /none HTTP/1.1\r\nHost: x\r\n\r\n';
/** A set_bulk of no records: its answer says that it did nothing. */
const BINARY = '\xb8\0\0\0\0\0\0\0\0';
const refusals = (): string[] => node.log.split('\n').filter((line) => line.includes('client refused'));

async function refusedAnew(act: () => Promise<string>): Promise<string> {
  // One refusal a second is logged: the next one must not be counted into the last.
  await new Promise((resolve) => setTimeout(resolve, 1050));
  const before = refusals().length;
  assert.equal(await act(), '');
  await eventually('the refusal is logged', () => refusals().length > before);
  return refusals().at(-1) as string;
}

describe('a client listener with one-way TLS', () => {
  it('serves HTTP and the binary protocol to whoever trusts its certificate', async () => {
    assert.match(await over('oneWay', GET, {}), /^HTTP\/1\.1 404/);
    assert.match(await over('oneWay', GET, { maxVersion: 'TLSv1.2', ALPNProtocols: ['http/1.1'] }), /^HTTP\/1\.1 404/);
    assert.equal(await over('oneWay', BINARY, {}), '\xb8\0\0\0\0');
  });

  it('serves memcached', async () => {
    assert.equal(
      await over('memcachedOneWay', 'set k 0 0 1\r\nx\r\nget k\r\n', {}),
      'STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n',
    );
    assert.equal(await over('memcachedOneWay', 'get none\r\n', { ALPNProtocols: ['memcached'] }), 'END\r\n');
  });

  it('is not trusted by who does not know its CA', async () => {
    assert.equal(await over('oneWay', GET, { ca: pem('ca/ca.crt') }), '');
    assert.equal(await over('memcachedOneWay', 'get none\r\n', { ca: pem('ossl-ca.crt') }), '');
  });

  it('does not talk to a client without TLS, and says so in the log', async () => {
    const line = await refusedAnew(async () => {
      const socket = connectPlain(ports.memcachedOneWay, '127.0.0.1');
      let received = '';
      socket.on('data', (chunk: Buffer) => (received += chunk.toString('latin1')));
      socket.on('error', () => undefined);
      socket.write('get k\r\n');
      await once(socket, 'close');
      return received.includes('VALUE') ? received : '';
    });
    assert.match(line, /"listener":"127\.0\.0\.1:\d+"/);
  });
});

describe('a client listener that asks for certificates', () => {
  it('serves the name that it allows, whatever the protocol', async () => {
    assert.match(await over('mutual', GET, byHand('ossl-app')), /^HTTP\/1\.1 404/);
    assert.equal(await over('mutual', BINARY, byHand('ossl-app')), '\xb8\0\0\0\0');
    assert.equal(await over('memcachedMutual', 'get none\r\n', ours('app')), 'END\r\n');
  });

  it('refuses another name of the same CA, and the log says which name at which listener', async () => {
    const http = await refusedAnew(async () => await over('mutual', GET, byHand('ossl-other')));
    assert.match(http, /its certificate is for ossl-other, other\.example, which this listener does not allow/);
    assert.match(http, new RegExp(`"listener":"127\\.0\\.0\\.1:${ports.mutual}"`));
    const memcached = await refusedAnew(async () => await over('memcachedMutual', 'get k\r\n', ours('other')));
    assert.match(memcached, /its certificate is for other, .*which this listener does not allow/);
    assert.match(memcached, new RegExp(`"listener":"127\\.0\\.0\\.1:${ports.memcachedMutual}"`));
  });

  it('refuses a client without a certificate, or with one of another CA', async () => {
    assert.match(
      await refusedAnew(async () => await over('memcachedMutual', 'get k\r\n', {})),
      /it presented no certificate/,
    );
    const stranger = await refusedAnew(async () => await over('mutual', GET, ours('app')));
    assert.match(stranger, /its certificate does not verify/);
  });
});

it('plain listeners beside them serve the same records', async () => {
  assert.equal(await over('memcachedOneWay', 'set shared 0 0 1\r\ny\r\nget none\r\n', {}), 'STORED\r\nEND\r\n');
  const response = await fetch(`http://127.0.0.1:${ports.plain}/shared`);
  assert.equal(await response.text(), 'y');
  const socket = connectPlain(ports.memcachedPlain, '127.0.0.1');
  socket.write('get shared\r\n');
  const [answer] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  assert.equal(answer.toString(), 'VALUE shared 0 1\r\ny\r\nEND\r\n');
});
