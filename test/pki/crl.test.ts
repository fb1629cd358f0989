/** Revocation lists made by openssl: what they revoke, whoever signed them, and however many are in one file. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoError } from '../../src/base/errors.js';
import { crlsOf, isNewer, parseCrl } from '../../src/pki/crl.js';
import { Trust } from '../../src/pki/trust.js';
import { OpensslCa } from '../support/openssl.js';

const DAY_MS = 86_400_000;
const certificate = (path: string): X509Certificate => new X509Certificate(readFileSync(path));

describe('revocation lists', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-crl-'));
  const cas = {} as Record<'p256' | 'rsa' | 'ed25519', OpensslCa>;
  const nowMs = Date.now() + 60_000;
  before(() => {
    for (const kind of ['p256', 'rsa', 'ed25519'] as const)
      cas[kind] = OpensslCa.create(join(folder, kind), kind, kind);
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('of P-256, RSA and Ed25519 CAs revoke what they name, and nothing else', () => {
    for (const ca of Object.values(cas)) {
      const [good, bad] = ['good', 'bad'].map((name) => ca.issue(name, ['basicConstraints=CA:FALSE']).certificate) as [
        string,
        string,
      ];
      ca.revoke(bad);
      const trust = new Trust([certificate(ca.certificate)], crlsOf(ca.crl(), 'list'));
      assert.equal(trust.fault([certificate(good)], nowMs), undefined);
      assert.equal(trust.fault([certificate(bad)], nowMs), 'revoked');
    }
  });

  it('all count, when several are in one file: of the same CA and of others', () => {
    const { p256, rsa } = cas;
    const first = p256.issue('first', ['basicConstraints=CA:FALSE']).certificate;
    const before = p256.crl();
    p256.revoke(first);
    const other = rsa.issue('other', ['basicConstraints=CA:FALSE']).certificate;
    rsa.revoke(other);
    const authorities = [p256, rsa].map((ca) => certificate(ca.certificate));
    // The one that names it is neither the first nor the last.
    const bundle = crlsOf([rsa.crl(), before, p256.crl(), before].join(''), 'bundle');
    assert.equal(bundle.length, 4);
    const trust = new Trust(authorities, bundle);
    assert.equal(trust.fault([certificate(first)], nowMs), 'revoked');
    assert.equal(trust.fault([certificate(other)], nowMs), 'revoked');
  });

  it('of a CA that did not issue the certificate revoke nothing, though the serial is the same', () => {
    const { p256, rsa } = cas;
    const victim = p256.issue('victim', ['basicConstraints=CA:FALSE']).certificate;
    // The attacker's CA pretends to be ours: the same certificate in its database, its own key.
    const forged = OpensslCa.of(join(folder, 'forger'), { certificate: rsa.certificate, key: rsa.key });
    forged.revoke(victim);
    const trust = new Trust(
      [certificate(p256.certificate), certificate(rsa.certificate)],
      crlsOf(forged.crl(), 'list'),
    );
    assert.equal(trust.fault([certificate(victim)], nowMs), undefined);
  });

  it('go on counting when the next one is late', () => {
    const { p256 } = cas;
    const old = p256.issue('old', ['basicConstraints=CA:FALSE']).certificate;
    p256.revoke(old);
    const lists = crlsOf(p256.crl(1), 'list');
    const lateMs = Date.now() + DAY_MS;
    assert.ok((lists[0]?.nextUpdateMs ?? lateMs) < lateMs);
    assert.equal(new Trust([certificate(p256.certificate)], lists).fault([certificate(old)], lateMs), 'revoked');
  });

  it('are ordered by their number', () => {
    const [earlier, later] = [cas.p256.crl(), cas.p256.crl()].map((text) => crlsOf(text, 'list')[0]);
    assert.ok(earlier !== undefined && later !== undefined);
    assert.ok(isNewer(later, earlier) && !isNewer(earlier, later) && !isNewer(later, later));
  });

  it('that are cut short, changed or empty are refused as a whole', () => {
    const text = cas.p256.crl();
    assert.throws(() => crlsOf(text.slice(0, -20), 'list'), /is not whole/);
    assert.throws(() => crlsOf('', 'list'), /holds no revocation list/);
    const der = crlsOf(text, 'list')[0]?.der as Buffer;
    const key = certificate(cas.p256.certificate).publicKey;
    fc.assert(
      fc.property(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const changed = Buffer.from(der);
        changed[at] = (changed[at] as number) ^ change;
        try {
          assert.equal(parseCrl(changed).isSignedBy(key), false, `byte ${at}`);
        } catch (error) {
          assert.ok(error instanceof TokaidoError && error.code === 'CORRUPT', String(error));
        }
      }),
      { numRuns: 500 },
    );
  });
});
