/** A machine between a client and a node that changes, repeats and records bytes: connections end, and nothing is applied. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectPlain } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { stringify } from 'yaml';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { Middle } from '../support/middle.js';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';

const folder = mkdtempSync(join(tmpdir(), 'tokaido-middle-'));
const file = (name: string): string => join(folder, name);
const pem = (name: string): string => readFileSync(file(name), 'utf8');
const LIMIT_MS = 3000;

type Listener = 'http' | 'memcached';
type Version = 'TLSv1.2' | 'TLSv1.3';
const ports = { plain: 0, http: 0, memcached: 0 };
const middles = {} as Record<Listener, Middle>;
let node: ServedNode;

before(async () => {
  const nowMs = Date.now();
  await createCa({ folder: file('ca'), name: 'ours', days: 10, nowMs });
  const issued = { ca: file('ca'), role: 'client', days: 2, nowMs, dns: ['localhost'], ip: [] } as const;
  for (const name of ['server', 'app']) await issueCertificate({ ...issued, out: file(name), name });
  for (const name of Object.keys(ports) as (keyof typeof ports)[]) ports[name] = await freePort();
  const tls = { certificate: 'server/node.crt', key: 'server/node.key', clientCa: 'ca/ca.crt', names: ['app'] };
  const listen = {
    clients: [{ port: ports.plain }, { port: ports.http, tls }],
    memcached: [{ port: ports.memcached, tls }],
    admin: false,
  };
  const settings = { role: 'root', sid: 1, identity: false, data: 'data', databases: [':'], listen };
  writeFileSync(file('node.yaml'), stringify(settings));
  node = await ServedNode.start(['--config', 'node.yaml'], folder);
  for (const name of ['http', 'memcached'] as const) {
    middles[name] = new Middle(ports[name]);
    await middles[name].listen();
  }
});
after(async () => {
  for (const middle of Object.values(middles)) await middle.close();
  await node.stop();
  rmSync(folder, { recursive: true, force: true });
});

const writeOf = (listener: Listener, key: string): string =>
  listener === 'http'
    ? `PUT /${key} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nvalue`
    : `set ${key} 0 0 5\r\nvalue\r\n`;

/** A client that goes through the machine in the middle. */
function open(listener: Listener, version: Version): { socket: TLSSocket; received: () => string } {
  const own = { cert: pem('app/node.crt'), key: pem('app/node.key'), ca: pem('ca/ca.crt') };
  const to = { host: '127.0.0.1', port: middles[listener].port, servername: 'localhost' };
  const socket = connect({ ...to, ...own, minVersion: version, maxVersion: version });
  let received = '';
  socket.on('data', (chunk: Buffer) => (received += chunk.toString('latin1')));
  // Node.js leaves it open otherwise; our client library ends it as well.
  socket.on('error', () => socket.destroy());
  return { socket, received: () => received };
}

async function ends(socket: TLSSocket, what: string): Promise<void> {
  const closed = new Promise<boolean>((resolve) => {
    if (socket.closed) resolve(true);
    socket.once('close', () => resolve(true));
    setTimeout(() => resolve(false), LIMIT_MS).unref();
  });
  const isClosed = await closed;
  socket.destroy();
  assert.ok(isClosed, `${what}: the connection stays open`);
}

async function stored(key: string): Promise<string | undefined> {
  const reply = await fetch(`http://127.0.0.1:${ports.plain}/${key}`);
  return reply.ok ? await reply.text() : undefined;
}

describe('bytes between a client and a node', () => {
  for (const listener of ['http', 'memcached'] as const) {
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      it(`${listener} over ${version}: with one byte of a request changed, the connection drops and nothing is applied`, async () => {
        const whole = open(listener, version);
        whole.socket.on('secureConnect', () => whole.socket.write(writeOf(listener, 'whole')));
        await once(whole.socket, 'data');
        assert.equal(await stored('whole'), 'value', 'unchanged, the write is applied');
        whole.socket.destroy();
        // The head of the record, its beginning, its middle, and the authentication tag at its end.
        for (const at of [0, 1, 3, 4, 5, 9, 20, 30, 40]) {
          const key = `changed-${version}-${at}`;
          const { socket, received } = open(listener, version);
          await once(socket, 'secureConnect');
          // TLS 1.3 is done for the client a moment before the server: its last words are on their way.
          await new Promise((resolve) => setTimeout(resolve, 30));
          middles[listener].alter(at, 1 << (at % 8), false);
          socket.write(writeOf(listener, key));
          // A record that was made longer is waited for: then the client goes away.
          if (at === 3 || at === 4) setTimeout(() => socket.end(), 200);
          await ends(socket, key);
          assert.equal(received(), '');
          assert.equal(await stored(key), undefined, key);
        }
      });

      it(`${listener} over ${version}: with one byte of the handshake changed, there is no connection`, async () => {
        // Random, cipher suites, key share, certificate, proof: of the client.
        for (const at of [12, 30, 60, 120, 180, 400, 700, 900]) {
          const key = `shaken-${version}-${at}`;
          middles[listener].alter(at, 1, false);
          const { socket, received } = open(listener, version);
          socket.on('secureConnect', () => socket.write(writeOf(listener, key)));
          const timer = setTimeout(() => socket.end(), 500);
          await ends(socket, key);
          clearTimeout(timer);
          assert.equal(received(), '', key);
          assert.equal(await stored(key), undefined, key);
        }
      });

      it(`${listener} over ${version}: a client does not take an answer that was changed`, async () => {
        const { socket, received } = open(listener, version);
        await once(socket, 'secureConnect');
        socket.write(writeOf(listener, 'first'));
        await once(socket, 'data');
        const before = received();
        middles[listener].alter(15, 4, true);
        socket.write(writeOf(listener, 'second'));
        await ends(socket, 'changed answer');
        assert.equal(received(), before);
      });

      it(`${listener} over ${version}: what was recorded counts once, in its connection and in another`, async () => {
        const key = `counter-${listener}-${version}`;
        const count =
          listener === 'http'
            ? `POST /rpc/increment?key=${key}&num=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n`
            : `append ${key} 0 0 1\r\n1\r\n`;
        if (listener === 'memcached') {
          const made = await fetch(`http://127.0.0.1:${ports.plain}/${key}`, { method: 'PUT', body: '=' });
          assert.equal(made.status, 201);
        }
        const { socket } = open(listener, version);
        await once(socket, 'secureConnect');
        await new Promise((resolve) => setTimeout(resolve, 30));
        const said = middles[listener].recorded.at(-1) as Buffer[];
        middles[listener].repeat();
        socket.write(count);
        await ends(socket, 'repeated');
        const once1 = await stored(key);
        assert.notEqual(once1, undefined);
        const replay = connectPlain(ports[listener], '127.0.0.1');
        replay.on('error', () => undefined);
        replay.write(Buffer.concat(said));
        replay.resume();
        setTimeout(() => replay.end(), 300);
        await once(replay, 'close');
        assert.equal(await stored(key), once1);
        if (listener === 'memcached') assert.equal(once1, '=1');
        else assert.equal(once1, '\0\0\0\0\0\0\0\x01');
      });
    }
  }
});
