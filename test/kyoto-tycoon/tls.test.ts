/**
 * The listener for Kyoto Tycoon servers over real TLS 1.2 sockets, with a CA, certificates and keys (DER) as openssl
 * makes them: what it speaks, whom it lets in, and what a peer gets by the subject of its certificate.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect as connectPlain } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { stringify } from 'yaml';
import { parseConfig } from '../../src/node/config/load.js';
import { encodeFollowRequest, KT_ACCEPT, type KtEvent, KtStreamDecoder } from '../../src/protocol/kt-replication.js';
import { eventually } from '../support/local-runtime.js';
import { freePort } from '../support/postgres.js';
import { oldSuites, scanTls, WEAK_GROUPS } from '../support/scan-tls.js';
import { ServedNode } from '../support/serve.js';

const CIPHER = 'ECDHE-ECDSA-AES256-GCM-SHA384';
const folder = mkdtempSync(join(tmpdir(), 'tokaido-kt-tls-'));
const file = (name: string): string => join(folder, name);
const pem = (name: string): string => readFileSync(file(name), 'utf8');
const openssl = (...parameters: string[]): void =>
  void execFileSync('openssl', parameters, { cwd: folder, stdio: 'ignore' });
const P256 = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

let node: ServedNode;
let settings: { listen: { kyotoTycoon: object } };
const ports = { clients: 0, kyotoTycoon: 0 };

function makeCa(name: string): void {
  openssl(
    'req',
    '-x509',
    ...P256,
    '-keyout',
    `${name}.key`,
    '-out',
    `${name}.crt`,
    '-days',
    '2',
    '-subj',
    `/CN=${name}`,
  );
}

/** `names`: alternative names, as openssl takes them. */
function issue(name: string, ca: string, subject: string, names?: string): void {
  const alternatives = names === undefined ? [] : ['-addext', `subjectAltName=${names}`];
  openssl('req', ...P256, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', subject, ...alternatives);
  openssl(
    'x509',
    '-req',
    '-copy_extensions',
    'copy',
    '-in',
    `${name}.csr`,
    '-CA',
    `${ca}.crt`,
    '-CAkey',
    `${ca}.key`,
    '-CAcreateserial',
    '-out',
    `${name}.crt`,
    '-days',
    '2',
  );
}

async function put(path: string, body: string): Promise<void> {
  const call = request({ host: '127.0.0.1', port: ports.clients, path, method: 'PUT', agent: false });
  call.end(body);
  const [reply] = (await once(call, 'response')) as [NodeJS.ReadableStream & { statusCode?: number }];
  reply.resume();
  await once(reply, 'end');
  assert.equal(reply.statusCode, 201);
}

before(async () => {
  makeCa('ca');
  makeCa('stranger-ca');
  issue('server', 'ca', '/CN=localhost');
  issue('tokyo', 'ca', '/O=old/CN=kt-tokyo');
  issue('admin', 'ca', '/O=old/CN=kt-all');
  issue('other', 'ca', '/O=old/CN=kt-other');
  issue('two', 'ca', '/CN=kt-all/CN=kt-tokyo');
  const edge = `URI:tokaido://${'0123456789abcdef'.repeat(2)}/edge/kt-all`;
  issue('edge', 'ca', '/CN=kt-all', `${edge},URI:tokaido-scope:dns/jp%2F`);
  issue('stranger', 'stranger-ca', '/CN=kt-all');
  openssl('ec', '-in', 'server.key', '-outform', 'DER', '-out', 'server.der');
  chmodSync(file('server.der'), 0o600);
  for (const name of Object.keys(ports) as (keyof typeof ports)[]) ports[name] = await freePort();
  settings = {
    role: 'root',
    sid: 1,
    identity: false,
    data: 'data',
    databases: ['dns', 'keys'],
    listen: {
      clients: { port: ports.clients },
      kyotoTycoon: {
        port: ports.kyotoTycoon,
        tls: { certificate: 'server.crt', key: 'server.der', clientCa: 'ca.crt' },
        scopes: [
          { names: ['kt-tokyo'], databases: ['dns'], prefixes: ['jp/'] },
          { names: ['kt-all'], databases: ['*'] },
        ],
      },
      admin: { port: await freePort() },
    },
  } as typeof settings;
  writeFileSync(file('node.yaml'), stringify(settings));
  node = await ServedNode.start(['--config', 'node.yaml'], folder);
  await put('/dns/jp%2Fa', '1');
  await put('/dns/fr%2Fa', 'SECRET');
  await put('/keys/k', 'SECRET');
});
after(async () => {
  await node.stop();
  rmSync(folder, { recursive: true, force: true });
});

interface Followed {
  readonly socket: TLSSocket;
  readonly events: KtEvent[];
  readonly bytes: () => string;
}

/** Follows as such a server does, from the beginning. */
function follow(as: string | undefined, options: ConnectionOptions = {}): Followed {
  const proof = as === undefined ? {} : { cert: pem(`${as}.crt`), key: pem(`${as}.key`) };
  const old = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2', ciphers: CIPHER, ecdhCurve: 'P-256' } as const;
  const to = { host: '127.0.0.1', port: ports.kyotoTycoon, servername: 'localhost', ca: pem('ca.crt') };
  const socket = connect({ ...to, ...old, ...proof, ...options });
  const events: KtEvent[] = [];
  let bytes = '';
  const decoder = new KtStreamDecoder(2 ** 24);
  socket.on('error', () => undefined);
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.toString('latin1');
    for (const event of decoder.push(chunk)) {
      events.push(event);
      if (event.kind === 'tick' && event.wantsAnswer) socket.write(KT_ACCEPT);
    }
  });
  socket.on('secureConnect', () => socket.write(encodeFollowRequest({ timestampNs: 0n, sid: 9, onlySid: false })));
  return { socket, events, bytes: () => bytes };
}

const keysOf = ({ events }: Followed): string[] => {
  return events.flatMap((event) =>
    event.kind === 'update' && event.change?.kind === 'set' ? [`${event.change.key}`] : [],
  );
};

async function refused(followed: Followed): Promise<void> {
  await eventually('it is refused', () => followed.socket.closed);
  assert.equal(followed.bytes(), '');
}

describe('the listener for Kyoto Tycoon servers, as a scanner sees it', () => {
  const own = ['-cert', file('admin.crt'), '-key', file('admin.key'), '-CAfile', file('ca.crt')];
  const scan = async (...options: string[]) => await scanTls(ports.kyotoTycoon, [...own, ...options]);
  const ANY = 'ALL:COMPLEMENTOFALL:@SECLEVEL=0';

  it('speaks TLS 1.2 alone, with the one suite: forward secrecy and authenticated encryption', async () => {
    for (const version of ['-tls1', '-tls1_1']) {
      const old = await scan(version, '-cipher', ANY);
      assert.ok(!old.open, `${version}\n${old.text}`);
    }
    const spoken: string[] = [];
    for (const name of oldSuites())
      if ((await scan('-tls1_2', '-cipher', `${name}:@SECLEVEL=0`)).open) spoken.push(name);
    assert.deepEqual(spoken, [CIPHER]);
  });

  it('takes no signature over SHA-1, no weak group, no compression, no renegotiation, and resumes nothing', async () => {
    const weak = await scan('-tls1_2', '-sigalgs', 'ECDSA+SHA1', '-cipher', ANY);
    assert.ok(!weak.open, weak.text);
    for (const group of WEAK_GROUPS) assert.ok(!(await scan('-tls1_2', '-groups', group, '-cipher', ANY)).open, group);
    const { open, text } = await scan('-tls1_2', '-comp', '-reconnect', '-verify_return_error');
    assert.ok(open, text);
    assert.match(text, /(Server|Peer) Temp Key: ECDH, (prime256v1|P-256)/);
    assert.match(text, /Secure Renegotiation IS supported/);
    assert.doesNotMatch(text, /Compression: (?!NONE)/);
    assert.doesNotMatch(text, /^Reused, /m);
    const renegotiated = await scanTls(ports.kyotoTycoon, [...own, '-tls1_2'], 'R\n');
    assert.match(renegotiated.text, /RENEGOTIATING[\s\S]*(no renegotiation|handshake failure|error)/);
  });
});

describe('the listener for Kyoto Tycoon servers over TLS', () => {
  it('speaks TLS 1.2 with the one cipher they know, on P-256, from a key in DER', async () => {
    const all = follow('admin');
    await eventually('everything arrives', () => keysOf(all).length === 3);
    assert.deepEqual(keysOf(all), ['jp/a', 'fr/a', 'k']);
    assert.equal(all.socket.getProtocol(), 'TLSv1.2');
    assert.equal(all.socket.getCipher().name, CIPHER);
    assert.deepEqual({ ...all.socket.getEphemeralKeyInfo() }, { type: 'ECDH', name: 'prime256v1', size: 256 });
    assert.equal(all.socket.isSessionReused(), false);
    all.socket.destroy();
  });

  it('gives a peer what the subject of its certificate may see, in copy and log, and not a byte more', async () => {
    const tokyo = follow('tokyo');
    await eventually('its part arrives', () => keysOf(tokyo).length === 1);
    await put('/dns/fr%2Fb', 'SECRET');
    await put('/keys/l', 'SECRET');
    await put('/dns/jp%2Fb', '2');
    await eventually('the log arrives', () => keysOf(tokyo).length === 2);
    assert.deepEqual(keysOf(tokyo), ['jp/a', 'jp/b']);
    assert.ok(!/SECRET|fr\//.test(tokyo.bytes()));
    tokyo.socket.destroy();
  });

  it('refuses who has no rule, two common names, no certificate, or one of another CA', async () => {
    await refused(follow('other'));
    await eventually('the log says so', () =>
      /listen\.kyotoTycoon\.scopes lets kt-other follow nothing/.test(node.log),
    );
    await refused(follow('two'));
    await refused(follow(undefined));
    await refused(follow('stranger'));
  });

  it('refuses the certificate of a node, whose own scope would be passed over here', async () => {
    await refused(follow('edge'));
  });

  it('refuses other ciphers, older TLS, other curves, and no TLS', async () => {
    await refused(follow('admin', { ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' }));
    await refused(follow('admin', { ciphers: 'ECDHE-ECDSA-CHACHA20-POLY1305' }));
    const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT:@SECLEVEL=0' } as const;
    await refused(follow('admin', old));
    await refused(follow('admin', { ecdhCurve: 'P-384' }));
    const plain = connectPlain(ports.kyotoTycoon, '127.0.0.1');
    let received = 0;
    plain.on('error', () => undefined);
    plain.on('data', (chunk: Buffer) => (received += chunk[0] === KT_ACCEPT[0] ? chunk.length : 0));
    plain.write(encodeFollowRequest({ timestampNs: 0n, sid: 9, onlySid: false }));
    await once(plain, 'close');
    assert.equal(received, 0);
  });

  it('takes changed scopes on SIGHUP: links that carry something else than they should now are ended', async () => {
    const tokyo = follow('tokyo');
    const all = follow('admin');
    await eventually('both follow', () => keysOf(tokyo).length > 0 && keysOf(all).length > 0);
    const changed = { ...settings.listen.kyotoTycoon, scopes: [{ names: ['kt-*'], databases: ['*'] }] };
    writeFileSync(file('node.yaml'), stringify({ ...settings, listen: { ...settings.listen, kyotoTycoon: changed } }));
    node.signal('SIGHUP');
    await eventually('the link of the scoped peer ends', () => tokyo.socket.closed);
    assert.equal(all.socket.closed, false);
    const again = follow('tokyo');
    await eventually('it sees everything now', () => keysOf(again).includes('k'));
    all.socket.destroy();
    again.socket.destroy();
  });

  it('is refused by the configuration where names could not be known, or a policy would be passed by', () => {
    const wrong = (listen: string, more = ''): string => {
      try {
        parseConfig(`role: root\nsid: 1\ndata: d\nlisten:\n  kyotoTycoon: ${listen}\n${more}`, '/etc/node.yaml');
      } catch (error) {
        return (error as Error).message;
      }
      return 'accepted';
    };
    const scopes = 'scopes: [{ names: [a], databases: ["*"] }]';
    const tls = 'tls: { certificate: c, key: k, clientCa: a }';
    assert.match(wrong(`{ port: 1, allow: [127.0.0.1], ${scopes} }`), /scopes needs tls\.clientCa/);
    const policy = 'replication: { scopes: [{ roles: [edge], databases: ["*"] }] }\n';
    assert.match(
      wrong(`{ port: 1, ${tls} }`, policy),
      /with replication\.scopes, listen\.kyotoTycoon needs scopes of its own/,
    );
    assert.equal(wrong(`{ port: 1, ${tls}, ${scopes} }`, policy), 'accepted');
  });
});
