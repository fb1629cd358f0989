/** Every certificate and list that we write is what RFC 5280 says: openssl, in its strict mode, is the judge. */
import assert from 'node:assert/strict';
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { parseCrl } from '../../src/pki/crl.js';
import { toPem } from '../../src/pki/pem.js';
import { keySigner, type Signer } from '../../src/pki/signer.js';
import { buildCertificate, buildCrl, type CertificateFields, pathLengthOf } from '../../src/pki/x509.js';
import { openssl } from '../support/openssl.js';

const DAY_MS = 86_400_000;
const nowMs = Math.floor(Date.now() / 1000) * 1000;
const KEYS = {
  p256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  p384: () => generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  ed25519: () => generateKeyPairSync('ed25519'),
  rsa: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
} as const;
type Kind = keyof typeof KEYS;
const KINDS = Object.keys(KEYS) as Kind[];

const serials = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => {
  bytes[0] = ((bytes[0] as number) & 0x7f) | 0x40;
  return Buffer.from(bytes).toString('hex').toUpperCase();
});
const label = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$/);
const name = fc.stringMatching(/^[a-z0-9][a-z0-9.-]{0,62}$/);
const dns = fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join('.'));
/** From a day ago to decades ahead: UTCTime and GeneralizedTime. */
const ends = fc.integer({ min: 1, max: 36_000 }).map((days) => nowMs + days * DAY_MS);

describe('certificates and lists, as openssl reads them', () => {
  let folder: string;
  const authorities = {} as Record<Kind, { readonly signer: Signer; readonly certificate: X509Certificate }>;
  /** The clock at which everything here is in date. */
  const atTime = ['-attime', String(nowMs / 1000)];
  const write = (file: string, text: string): string => {
    writeFileSync(join(folder, file), text);
    return file;
  };

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-x509-'));
    for (const kind of KINDS) {
      const { publicKey, privateKey } = KEYS[kind]();
      const fields: CertificateFields = {
        serial: '4123',
        commonName: `${kind} authority`,
        notBeforeMs: nowMs - DAY_MS,
        notAfterMs: nowMs + 40_000 * DAY_MS,
        publicKey,
        names: { uri: [`tokaido://${'0'.repeat(32)}/ca/${kind}`], dns: [], ip: [] },
        pathLength: 2,
      };
      const signer = keySigner(privateKey);
      const der = await buildCertificate(fields, signer);
      authorities[kind] = { signer, certificate: new X509Certificate(der) };
      write(`${kind}.crt`, toPem('CERTIFICATE', der));
    }
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('a root of each kind of key is its own, signs lists and certificates, and says how many CAs may follow', () => {
    for (const kind of KINDS) {
      const verified = openssl(
        ['verify', '-x509_strict', '-check_ss_sig', ...atTime, '-CAfile', `${kind}.crt`, `${kind}.crt`],
        folder,
      );
      assert.match(verified, /OK/);
      const text = openssl(['x509', '-in', `${kind}.crt`, '-noout', '-text'], folder);
      assert.match(text, /Basic Constraints: critical\s+CA:TRUE, pathlen:2/);
      assert.match(text, /Key Usage: critical\s+Certificate Sign, CRL Sign/);
      assert.equal(pathLengthOf(authorities[kind].certificate), 2);
    }
  });

  it('any leaf verifies strictly for both ends of TLS, and says what it was given', async () => {
    const property = fc.asyncProperty(
      fc.constantFrom(...KINDS),
      fc.constantFrom(...KINDS),
      serials,
      name,
      fc.array(dns, { maxLength: 3 }),
      fc.array(fc.oneof(fc.ipV4(), fc.ipV6()), { maxLength: 3 }),
      ends,
      async (ca, leaf, serial, commonName, dnsNames, ip, notAfterMs) => {
        const uri = `tokaido://${'0'.repeat(32)}/edge/${commonName}`;
        const { signer, certificate } = authorities[ca];
        const fields: CertificateFields = {
          serial,
          commonName,
          unit: 'edge',
          notBeforeMs: nowMs - 300_000,
          notAfterMs,
          publicKey: authorities[leaf].certificate.publicKey,
          names: { uri: [uri], dns: dnsNames, ip },
          pathLength: undefined,
        };
        const der = await buildCertificate(fields, signer, certificate);
        write('leaf.crt', toPem('CERTIFICATE', der));
        for (const purpose of ['sslserver', 'sslclient']) {
          const strict = ['verify', '-x509_strict', ...atTime, '-purpose', purpose, '-CAfile', `${ca}.crt`, 'leaf.crt'];
          assert.match(openssl(strict, folder), /OK/);
        }
        const read = new X509Certificate(der);
        assert.equal(read.serialNumber, serial);
        assert.equal(read.subject, `O=Tokaido\nOU=edge\nCN=${commonName}`);
        assert.equal(Date.parse(read.validTo), notAfterMs);
        assert.ok(!read.ca && read.verify(certificate.publicKey));
        for (const address of ip) assert.equal(read.checkIP(address), address);
        const shown = (read.subjectAltName ?? '').split(', ');
        assert.deepEqual(shown.slice(0, 1 + dnsNames.length), [`URI:${uri}`, ...dnsNames.map((one) => `DNS:${one}`)]);
        assert.equal(shown.length, 1 + dnsNames.length + ip.length);
      },
    );
    await fc.assert(property, { numRuns: 25 });
  });

  it('an address with an IPv4 tail is the same one, and a zone is no address', async () => {
    const { signer, certificate } = authorities.p256;
    const build = async (ip: string) => {
      const fields = {
        serial: '4124',
        commonName: 'x',
        notBeforeMs: nowMs,
        notAfterMs: nowMs + DAY_MS,
        publicKey: certificate.publicKey,
        names: { uri: [], dns: [], ip: [ip] },
        pathLength: undefined,
      };
      return new X509Certificate(await buildCertificate(fields, signer, certificate));
    };
    assert.equal(isIP('::ffff:192.0.2.1'), 6);
    assert.equal((await build('::ffff:192.0.2.1')).subjectAltName, 'IP Address:0:0:0:0:0:FFFF:C000:201');
    await assert.rejects(build('fe80::1%eth0'), { code: 'CONFIG' });
    await assert.rejects(build('300.1.1.1'), { code: 'CONFIG' });
  });

  it('any list verifies, is read by openssl and by us, and names what it was given: none, and ten thousand', async () => {
    const check = async (kind: Kind, number: bigint, revoked: readonly string[]): Promise<void> => {
      const { signer, certificate } = authorities[kind];
      const der = await buildCrl(
        {
          number,
          thisUpdateMs: nowMs - 1000,
          nextUpdateMs: nowMs + DAY_MS,
          revoked: revoked.map((serial) => ({ serial, revokedMs: nowMs - 5000 })),
        },
        signer,
        certificate,
      );
      write('list.crl', toPem('X509 CRL', der));
      const text = openssl(['crl', '-in', 'list.crl', '-noout', '-text', '-CAfile', `${kind}.crt`], folder);
      assert.equal(text.match(/Serial Number: /g)?.length ?? 0, revoked.length);
      assert.match(text, new RegExp(`X509v3 CRL Number: *\\n *(0x)?${number < 2n ** 60n ? number : ''}`, 'i'));
      const read = parseCrl(der);
      assert.deepEqual([...read.serials].sort(), [...new Set(revoked)].sort());
      assert.deepEqual([read.number, read.nextUpdateMs], [number, nowMs + DAY_MS]);
      assert.ok(read.isSignedBy(certificate.publicKey));
    };
    const property = fc.asyncProperty(
      fc.constantFrom(...KINDS),
      fc.bigInt({ min: 0n, max: 2n ** 60n }),
      fc.uniqueArray(serials, { maxLength: 20 }),
      check,
    );
    await fc.assert(property, { numRuns: 20 });
    await check(
      'p256',
      7n,
      Array.from({ length: 10_000 }, (_, i) => `40${i.toString(16).padStart(30, '0')}`.toUpperCase()),
    );
  });
});
