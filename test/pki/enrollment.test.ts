/** Requests for certificates: who may have one, and that nobody on the way can use or change them. */
import assert from 'node:assert/strict';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoError } from '../../src/base/errors.js';
import { createCa, createIntermediate, issueCertificate, newKeys, openCa, prepareCa } from '../../src/pki/ca/ca.js';
import { rotateCa } from '../../src/pki/ca/rotation.js';
import {
  decodeAnswer,
  decodeRequest,
  encodeAnswer,
  encodeRequest,
  MAX_REQUEST_BYTES,
  provenAuthorities,
  publicKeyText,
} from '../../src/pki/enrollment.js';
import { loadNodeIdentity, type NodeIdentity } from '../../src/pki/identity.js';
import { checkPattern, createToken, matchesName, parseToken } from '../../src/pki/join-token.js';
import { certificatesOf } from '../../src/pki/pem.js';
import { Trust } from '../../src/pki/trust.js';
import { buildCertificate } from '../../src/pki/x509.js';

const nowMs = Date.now();

describe('a join token', () => {
  const made = createToken({ role: 'edge', name: 'edge-*', caFingerprint: `${'AB:'.repeat(31)}CD` });

  it('says what it is for, and nothing of it that is kept elsewhere is its key', () => {
    const token = parseToken(made.text);
    const { id, role, name, caFingerprint } = token;
    assert.deepEqual({ id, role, name }, { id: made.id, role: 'edge', name: 'edge-*' });
    assert.equal(caFingerprint, `${'AB:'.repeat(31)}CD`);
    const seed = token.key.export({ type: 'pkcs8', format: 'der' }).subarray(-32);
    for (const kept of [made.id, made.publicKey]) assert.ok(!kept.includes(seed.toString('base64url').slice(0, 8)));
  });

  it('that is cut, changed or of another kind is refused without being repeated', () => {
    for (const text of [
      made.text.slice(0, -9),
      made.text.slice(1),
      'tokaido-join-1.',
      'x',
      `${made.text}${made.text}`,
    ]) {
      assert.throws(
        () => parseToken(text),
        (error: TokaidoError) => error.code === 'CONFIG' && !error.message.includes(text.slice(20, 40) || '-'),
      );
    }
  });

  it('names are patterns of whole names', () => {
    assert.ok(matchesName('edge-*', 'edge-7') && matchesName('edge-7', 'edge-7') && matchesName('*', 'x'));
    assert.ok(
      !matchesName('edge-*', 'xedge-7') && !matchesName('edge.7', 'edgex7') && !matchesName('edge-7', 'edge-71'),
    );
    for (const wrong of ['', 'Edge', 'a b', '(a|b)*', '*'.repeat(4)])
      assert.throws(() => checkPattern(wrong), { code: 'CONFIG' });
  });
});

describe('a request for a certificate', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-enroll-'));
  const at = (...names: string[]): string => join(folder, ...names);
  let edge: NodeIdentity;
  before(async () => {
    await createCa({ folder: at('pki'), name: 'ours', days: 30, nowMs });
    await issueCertificate({
      ca: at('pki'),
      out: at('edge'),
      role: 'edge',
      name: 'edge',
      days: 2,
      dns: [],
      ip: [],
      nowMs,
    });
    edge = loadNodeIdentity(
      { certificate: at('edge', 'node.crt'), key: at('edge', 'node.key'), ca: at('edge', 'ca.crt') },
      nowMs,
    );
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  const renew = (): { request: Buffer; keys: ReturnType<typeof newKeys> } => {
    const keys = newKeys();
    const body = { kind: 'renew', certificate: edge.certificatePem, publicKey: publicKeyText(keys) } as const;
    return { keys, request: encodeRequest(body, createPrivateKey(edge.keyPem), keys.privateKey) };
  };

  it('is signed by what its sender has, and proves the new key', () => {
    const { request } = renew();
    const { body, isSignedBy } = decodeRequest(request);
    assert.equal(body.kind, 'renew');
    const key = edge.chain[0]?.publicKey;
    assert.ok(key !== undefined && isSignedBy(key));
    assert.ok(!isSignedBy(newKeys().publicKey) && !isSignedBy(newKeys('ed25519').publicKey));
  });

  it('cannot be turned into one for another key', () => {
    const { request } = renew();
    const envelope = JSON.parse(request.toString()) as { body: string };
    const other = publicKeyText(newKeys());
    const body = JSON.stringify({ ...(JSON.parse(envelope.body) as object), publicKey: other });
    const forged = Buffer.from(JSON.stringify({ ...envelope, body }));
    assert.throws(() => decodeRequest(forged), { code: 'IDENTITY', message: /does not prove/ });
  });

  it('of any bytes is refused by name, never with a crash', () => {
    const { request } = renew();
    const change = fc.record({ at: fc.nat(request.length - 1), byte: fc.integer({ min: 1, max: 255 }) });
    const attempt = (bytes: Buffer): void => {
      try {
        const { body, isSignedBy } = decodeRequest(bytes);
        // What still parses is what was sent, or not signed any more.
        const key = edge.chain[0]?.publicKey;
        assert.ok(key !== undefined && body.kind === 'renew');
        if (!bytes.equals(request)) isSignedBy(key);
      } catch (error) {
        assert.ok(error instanceof TokaidoError && ['MALFORMED', 'IDENTITY'].includes(error.code), String(error));
      }
    };
    fc.assert(
      fc.property(change, ({ at: position, byte }) => {
        const bytes = Buffer.from(request);
        bytes[position] = (bytes[position] as number) ^ byte;
        attempt(bytes);
      }),
      { numRuns: 100 },
    );
    for (const text of ['', '{}', 'null', '[]', '{"body":"{}","signature":"","proof":""}', '"x"'])
      assert.throws(() => decodeRequest(Buffer.from(text)), { code: 'MALFORMED' });
    assert.throws(() => decodeRequest(Buffer.alloc(MAX_REQUEST_BYTES + 1)), { code: 'MALFORMED' });
  });

  it('is answered by a certificate, or by a reason', () => {
    const certified = { certificatePem: 'a', trustPem: 'b' };
    assert.deepEqual(decodeAnswer(encodeAnswer(certified)), certified);
    const refused = encodeAnswer(new TokaidoError('IDENTITY', 'no', { hint: 'do that' }));
    assert.throws(() => decodeAnswer(refused), { code: 'IDENTITY', message: 'no certificate: no', hint: 'do that' });
    assert.throws(() => decodeAnswer(Buffer.from('{}')), { code: 'MALFORMED' });
  });

  it('brings no CA that nobody believed before, but the one that a rotation leads to', async () => {
    await createCa({ folder: at('evil'), name: 'ours', days: 30, nowMs });
    const evil = certificatesOf(readFileSync(at('evil', 'ca.crt'), 'utf8'), 'evil');
    const [own] = edge.trust.authorities;
    assert.deepEqual(provenAuthorities(edge.trust, edge.chain, [...evil, ...edge.trust.authorities], nowMs), [own]);
    assert.deepEqual(provenAuthorities(edge.trust, [...edge.chain, ...evil], evil, nowMs), []);
    await rotateCa({ folder: at('pki'), name: 'second', days: 30, nowMs });
    await issueCertificate({
      ca: at('pki'),
      out: at('new'),
      role: 'edge',
      name: 'edge',
      days: 2,
      dns: [],
      ip: [],
      nowMs,
    });
    const chain = certificatesOf(readFileSync(at('new', 'node.crt'), 'utf8'), 'new');
    const offered = certificatesOf(readFileSync(at('new', 'ca.crt'), 'utf8'), 'new');
    assert.equal(offered.length, 2);
    assert.deepEqual(provenAuthorities(edge.trust, chain, [...offered, ...evil], nowMs), offered);
  });

  it('an intermediate cannot make itself, or a CA of its own, one that is believed', async () => {
    await createCa({ folder: at('above'), name: 'above', days: 30, nowMs });
    const root = openCa(at('above'));
    const trust = new Trust([root.certificate]);
    await createIntermediate({ folder: at('online'), name: 'online', days: 9, nowMs }, root);
    const online = openCa(at('online'));
    const { fields, signer } = prepareCa({ name: 'mine', days: 5, nowMs }, root.clusterId);
    const own = new X509Certificate(await buildCertificate(fields, signer));
    const bridge = new X509Certificate(await buildCertificate(fields, online.signer, online.certificate));
    const chain = [bridge, online.certificate];
    assert.equal(trust.fault([online.certificate], nowMs), undefined);
    assert.equal(trust.fault(chain, nowMs), 'untrusted-ca');
    assert.deepEqual(provenAuthorities(trust, chain, [own], nowMs), []);
  });
});
