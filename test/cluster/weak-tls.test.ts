/** What a scanner would look for at the TLS ports of a running node, asked with openssl: nothing weak is spoken. */
import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { stringify } from 'yaml';
import { issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { revoke, writeCrl } from '../../src/pki/ca/records.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { freePort } from '../support/postgres.js';
import { oldSuites, scanTls, WEAK_GROUPS } from '../support/scan-tls.js';

describe('the TLS ports of a node, as a scanner sees them', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let clientPort: number;
  let own: readonly string[];

  const scan = async (port: number, ...options: readonly string[]) => await scanTls(port, [...own, ...options]);

  before(async () => {
    cluster = await Cluster.create();
    clientPort = await freePort();
    const tls = { certificate: 'node.crt', key: 'node.key', clientCa: 'ca.crt', names: ['edge'] };
    root = await cluster.add({ name: 'root', role: 'root' });
    const listen = {
      clients: [{ port: root.clientPort }, { port: clientPort, tls }],
      replication: { port: root.replicationPort },
      admin: { port: root.adminPort },
    };
    const config = { name: 'root', role: 'root', sid: 1, data: 'data', replication: { scopes: 'all' }, listen };
    writeFileSync(join(root.folder, 'node.yaml'), stringify(config));
    const out = join(cluster.folder, 'edge');
    const ca = join(cluster.folder, 'ca');
    await issueCertificate({ ca, out, role: 'edge', name: 'edge', days: 1, dns: [], ip: [], nowMs: Date.now() });
    own = ['-cert', join(out, 'node.crt'), '-key', join(out, 'node.key'), '-CAfile', join(out, 'ca.crt')];
    cluster.start(root);
    await cluster.ready(root);
  });
  after(async () => await cluster.close());

  it('between nodes: TLS 1.3 alone, with ephemeral keys, verified, no compression, no ticket', async () => {
    const port = root.replicationPort;
    const { open, text } = await scan(port, '-tls1_3', '-alpn', 'tokaido/1', '-verify_return_error');
    assert.ok(open, text);
    assert.match(text, /Verification: OK/);
    assert.match(text, /(Server|Peer) Temp Key: (X25519|X25519MLKEM768|ECDH)|Negotiated TLS1\.3 group: X25519/);
    assert.match(text, /Cipher is TLS_(AES_256_GCM_SHA384|CHACHA20_POLY1305_SHA256|AES_128_GCM_SHA256)/);
    assert.doesNotMatch(text, /Compression: (?!NONE)/);
    assert.doesNotMatch(text, /Post-Handshake New Session Ticket/);
    for (const version of ['-tls1', '-tls1_1', '-tls1_2']) {
      const old = await scan(port, version, '-cipher', 'ALL:COMPLEMENTOFALL:@SECLEVEL=0');
      assert.ok(!old.open, `${version}\n${old.text}`);
    }
  });

  it('for clients: no TLS before 1.2, and of 1.2 only ciphers with forward secrecy and authenticated encryption', async () => {
    for (const version of ['-tls1', '-tls1_1']) {
      const old = await scan(clientPort, version, '-cipher', 'ALL:COMPLEMENTOFALL:@SECLEVEL=0');
      assert.ok(!old.open, `${version}\n${old.text}`);
    }
    const names = oldSuites();
    assert.ok(names.length > 20, names.join());
    const spoken: string[] = [];
    for (const name of names) {
      const { open } = await scan(clientPort, '-tls1_2', '-cipher', `${name}:@SECLEVEL=0`);
      if (open) spoken.push(name);
    }
    assert.ok(spoken.length > 0);
    for (const name of spoken) assert.match(name, /^ECDHE-ECDSA-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)$/);
  });

  it('for clients: no signatures over SHA-1, no weak groups, no renegotiation, nothing resumed where a certificate counts', async () => {
    const weak = await scan(clientPort, '-tls1_2', '-sigalgs', 'ECDSA+SHA1', '-cipher', 'ALL:@SECLEVEL=0');
    assert.ok(!weak.open, weak.text);
    for (const group of WEAK_GROUPS) {
      const { open } = await scan(clientPort, '-tls1_2', '-groups', group, '-cipher', 'ALL:@SECLEVEL=0');
      assert.ok(!open, group);
    }
    const { text } = await scan(clientPort, '-tls1_2', '-reconnect');
    assert.doesNotMatch(text, /^Reused, /m);
    assert.match(text, /Secure Renegotiation IS supported/);
    const renegotiated = await scanTls(clientPort, [...own, '-tls1_2'], 'R\n');
    assert.match(renegotiated.text, /RENEGOTIATING[\s\S]*(no renegotiation|handshake failure|error)/);
    assert.doesNotMatch(text, /Compression: (?!NONE)/);
  });

  it('a session from before the certificate was revoked opens nothing, at either port, by ticket or by id', async () => {
    const sessions: { port: number; options: string[] }[] = [];
    for (const [index, [port, ...options]] of [
      [root.replicationPort, '-tls1_3', '-alpn', 'tokaido/1'],
      [clientPort, '-tls1_3'],
      [clientPort, '-tls1_2'],
      [clientPort, '-tls1_2', '-no_ticket'],
    ].entries() as Iterable<[number, [number, ...string[]]]>) {
      const file = join(cluster.folder, `session-${index}`);
      // Long enough for a ticket to come.
      const { open } = await scanTls(port, [...own, ...options, '-sess_out', file], '\n');
      assert.ok(open);
      if (existsSync(file)) sessions.push({ port, options: [...options, '-sess_in', file] });
    }
    assert.ok(sessions.length > 0, 'openssl kept none of the sessions');
    const request = 'GET /anything HTTP/1.1\r\nHost: x\r\n\r\n';
    const allowed = await scanTls(clientPort, [...own, '-quiet'], request);
    assert.match(allowed.text, /HTTP\/1\.1 404/, 'not revoked, it is answered');
    const ca = join(cluster.folder, 'ca');
    revoke(ca, { name: 'edge' }, Date.now());
    const { pem } = await writeCrl([openCa(ca)], { days: 1, nowMs: Date.now() });
    const posted = await fetch(`http://127.0.0.1:${root.adminPort}/crl`, { method: 'POST', body: pem });
    assert.equal(posted.status, 200, await posted.text());
    for (const { port, options } of sessions) {
      const { text } = await scanTls(port, [...own, ...options, '-quiet'], request);
      assert.doesNotMatch(text, /HTTP\/1\.1 \d/, options.join(' '));
      const { text: shown } = await scanTls(port, [...own, ...options]);
      assert.doesNotMatch(shown, /^Reused, /m, options.join(' '));
    }
  });
});
