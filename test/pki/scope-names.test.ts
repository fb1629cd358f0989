/** Scope names: what a certificate says of what its holder may follow, and what becomes of names that say nothing. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { createCa, issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { renewCertificate } from '../../src/pki/ca/renewal.js';
import { identityOf } from '../../src/pki/names.js';
import { certifiedScope, keptScope, scopeName, scopeNames, scopeText } from '../../src/pki/scope-names.js';
import { Scope } from '../../src/replication/scope.js';

const seen = (subjectAltName: string | undefined): string => {
  const scope = certifiedScope(subjectAltName);
  return scope.kind === 'parts' ? String(Scope.of(scope.parts)) : scope.kind;
};

describe('scope names', () => {
  it('have one form for each part, and come back as what they were made from', () => {
    for (const [text, name] of [
      ['dns', 'tokaido-scope:dns'],
      ['dns/jp/', 'tokaido-scope:dns/jp%2F'],
      ['*', 'tokaido-scope:*'],
      [':/é, "', 'tokaido-scope:%3A/%C3%A9%2C%20%22'],
    ] as const) {
      assert.equal(scopeName(text), name);
      assert.equal(scopeText(name), text);
    }
    for (const wrong of ['', '/', '/x', 'dns/']) assert.throws(() => scopeName(wrong), { code: 'CONFIG' });
  });

  it('add up, and say nothing when there are none', () => {
    assert.equal(seen(undefined), 'unsaid');
    assert.equal(seen('URI:tokaido://0123456789abcdef0123456789abcdef/edge/a, DNS:a'), 'unsaid');
    assert.equal(seen('URI:tokaido-scope:dns/jp%2F, URI:tokaido-scope:flags, DNS:a'), 'dns ("jp/"), flags');
    assert.equal(seen('URI:tokaido-scope:*'), 'all');
  });

  it('let their holder see nothing when one of them is not understood', () => {
    for (const wrong of [
      'URI:tokaido-scope:',
      'URI:tokaido-scope:dns/',
      'URI:tokaido-scope:dns/a/b',
      'URI:tokaido-scope:dns%2f',
      'URI:tokaido-scope:*, URI:tokaido-scope:dns?all',
      'DNS:tokaido-scope:*',
      'URI:"tokaido-scope:dns\\u002c"',
      'URI:x-tokaido-scope:dns',
      'URI:Tokaido-Scope:dns',
      'URI:TOKAIDO-SCOPE:?sha256=00',
    ]) {
      assert.equal(seen(wrong), 'nothing', wrong);
      assert.throws(() => keptScope(wrong), { code: 'IDENTITY' }, wrong);
    }
    const many = Array.from({ length: 65 }, (_, index) => `URI:tokaido-scope:d${index}`).join(', ');
    assert.equal(seen(many), 'nothing');
  });

  it('have a limit that is said when they are made', () => {
    const parts = Array.from({ length: 65 }, (_, index) => `d${index}`);
    assert.equal(scopeNames(parts.slice(1)).length, 64);
    assert.throws(() => scopeNames(parts), /room for 64 parts/);
    assert.throws(() => scopeNames([`dns/${'x'.repeat(5000)}`]), /4096 bytes/);
  });

  it('stand in the certificate beside the one identity, and outlive its renewal', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-scope-'));
    try {
      const [ca, out] = [join(folder, 'ca'), join(folder, 'edge')];
      await createCa({ folder: ca, name: 'ca', days: 10, nowMs: Date.now() });
      const scope = scopeNames(['dns/jp/', ':/é, "']);
      const issued = { ca, out, role: 'edge', name: 'edge', days: 1, dns: ['edge.example'], ip: [], scope } as const;
      await issueCertificate({ ...issued, hasReadableScope: true, nowMs: Date.now() });
      const names = (): string | undefined => new X509Certificate(readFileSync(join(out, 'node.crt'))).subjectAltName;
      const before = names();
      assert.equal(identityOf(before)?.name, 'edge');
      assert.equal(seen(before), ': ("é, \\""), dns ("jp/")');
      const files = { certificate: join(out, 'node.crt'), key: join(out, 'node.key'), ca: join(out, 'ca.crt') };
      await renewCertificate({ files, days: 1, nowMs: Date.now() }, openCa(ca));
      assert.equal(names(), before);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
