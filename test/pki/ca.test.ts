/** The CA as an operator keeps it: keys behind passphrases and commands, an intermediate, a rotation; openssl agrees. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { createCa, createIntermediate, issueCertificate, keyPem, newKeys, openCa } from '../../src/pki/ca/ca.js';
import { readRecords, revoke, writeCrl } from '../../src/pki/ca/records.js';
import { renewCertificate, replaceIdentity } from '../../src/pki/ca/renewal.js';
import { allCas, oldFolders, retireOld, rotateCa } from '../../src/pki/ca/rotation.js';
import { crlsOf } from '../../src/pki/crl.js';
import { type IdentityFiles, loadNodeIdentity } from '../../src/pki/identity.js';
import { certificatesOf } from '../../src/pki/pem.js';
import { Trust } from '../../src/pki/trust.js';
import { json, tokaido } from '../support/cli.js';
import { openssl } from '../support/openssl.js';

let folder: string;
const at = (...names: string[]): string => join(folder, ...names);
const text = (...names: string[]): string => readFileSync(at(...names), 'utf8');
const filesOf = (node: string): IdentityFiles => {
  return { certificate: at(node, 'node.crt'), key: at(node, 'node.key'), ca: at(node, 'ca.crt') };
};
const nowMs = Date.now();
const edge = (ca: string, out: string) => {
  return {
    ca: at(ca),
    out: at(out),
    role: 'edge',
    name: out,
    days: 5,
    dns: ['e.example'],
    ip: ['10.0.0.9', 'fd00::1:9'],
    nowMs,
  } as const;
};
const ok = async (...parameters: string[]): Promise<Record<string, unknown>> => {
  const ended = await tokaido([...parameters, '--json'], { cwd: folder });
  assert.equal(ended.code, 0, ended.err);
  return json(ended);
};

/** A key that only a command uses; the command. */
const signerOf = (name: string): string => {
  const keys = newKeys();
  writeFileSync(at(`${name}.key`), keyPem(keys), { mode: 0o600 });
  writeFileSync(at(`${name}.pub`), keys.publicKey.export({ type: 'spki', format: 'pem' }));
  return `openssl dgst -sha256 -sign ${name}.key`;
};
/** What who believes all of the CA, lists included, says of a node's certificate. */
const faultOf = (node: string): string | undefined => {
  const trust = new Trust(certificatesOf(text('pki', 'trust.crt'), 'trust'), crlsOf(text('pki', 'ca.crl'), 'list'));
  return trust.fault(certificatesOf(text(node, 'node.crt'), node), Date.now());
};

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tokaido-ca-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('a CA', () => {
  for (const keyKind of ['p256', 'ed25519'] as const) {
    it(`with ${keyKind} makes certificates and lists that openssl takes`, async () => {
      await createCa({ folder: at('pki'), name: 'ours', days: 30, nowMs, keyKind });
      await issueCertificate({ ...edge('pki', 'edge'), keyKind });
      const names = new X509Certificate(text('edge', 'node.crt')).subjectAltName ?? '';
      assert.match(
        names,
        /^URI:tokaido:\/\/[0-9a-f]{32}\/edge\/edge, DNS:e\.example, IP Address:10\.0\.0\.9, IP Address:FD00:0:0:0:0:0:1:9$/i,
      );
      await writeCrl(allCas(at('pki')), { days: 3, nowMs });
      const verify = ['verify', '-x509_strict', '-crl_check', '-CAfile', 'pki/ca.crt', '-CRLfile', 'pki/ca.crl'];
      assert.match(openssl([...verify, '-purpose', 'sslserver', 'edge/node.crt'], folder), /OK/);
      assert.match(openssl([...verify, '-purpose', 'sslclient', 'edge/node.crt'], folder), /OK/);
      revoke(at('pki'), { name: 'edge' }, nowMs);
      await writeCrl(allCas(at('pki')), { days: 3, nowMs });
      assert.throws(() => openssl([...verify, 'edge/node.crt'], folder), /certificate revoked/);
      const [first] = crlsOf(text('pki', 'ca.crl'), 'list');
      assert.equal(first?.number, 2n);
      loadNodeIdentity(filesOf('edge'), nowMs);
    });
  }

  it('with its key behind a passphrase signs for who knows it: from a file, a command, the environment', async () => {
    writeFileSync(at('secret'), 'correct horse\n', { mode: 0o600 });
    await ok('ca', 'init', '--dir', 'pki', '--passphrase-file', 'secret');
    assert.match(text('pki', 'ca.key'), /BEGIN ENCRYPTED PRIVATE KEY/);
    const issue = ['ca', 'issue', '--ca', 'pki', '--role', 'edge', '--name'];
    await ok(...issue, 'one', '--passphrase-file', 'secret');
    await ok(...issue, 'two', '--passphrase-command', 'cat secret');
    const without = await tokaido([...issue, 'three'], { cwd: folder });
    assert.equal(without.code, 1);
    assert.match(without.err, /ca\.key is encrypted\nhint: give its passphrase/);
    writeFileSync(at('wrong'), 'incorrect');
    const wrong = await tokaido([...issue, 'three', '--passphrase-file', 'wrong'], { cwd: folder });
    assert.match(wrong.err, /the passphrase does not open/);
    assert.ok(!existsSync(at('three')));
  });

  for (const keyKind of ['p256', 'ed25519'] as const) {
    it(`whose ${keyKind} key is elsewhere signs through a command, and what it returns is verified`, async () => {
      const keys = newKeys(keyKind);
      writeFileSync(at('token.key'), keyPem(keys), { mode: 0o600 });
      writeFileSync(at('token.pub'), keys.publicKey.export({ type: 'spki', format: 'pem' }));
      const sign =
        keyKind === 'p256'
          ? 'openssl dgst -sha256 -sign token.key'
          : 'cat > tbs; openssl pkeyutl -sign -rawin -inkey token.key -in tbs';
      await ok('ca', 'init', '--dir', 'pki', '--signer', sign, '--public-key', 'token.pub');
      assert.ok(!existsSync(at('pki', 'ca.key')));
      await ok('ca', 'issue', '--ca', 'pki', '--role', 'edge', '--name', 'edge', '--signer', sign);
      loadNodeIdentity(filesOf('edge'), Date.now());
      if (keyKind === 'ed25519') return;
      await ok('ca', 'revoke', '--ca', 'pki', '--name', 'edge', '--signer', sign);
      writeFileSync(at('other.key'), keyPem(newKeys(keyKind)), { mode: 0o600 });
      const issue = ['ca', 'issue', '--ca', 'pki', '--role', 'edge', '--name', 'other', '--signer'];
      const other = await tokaido([...issue, sign.replaceAll('token.key', 'other.key')], { cwd: folder });
      assert.match(other.err, /is not a signature by the CA's key/);
      const broken = await tokaido([...issue, 'exit 3'], { cwd: folder });
      assert.match(broken.err, /the signing command ended with 3/);
      assert.ok(!existsSync(at('other')));
    });
  }

  it('may have an intermediate: the root stays away, and its lists name the intermediate', async () => {
    await createCa({ folder: at('pki'), name: 'ours', days: 30, nowMs });
    await createIntermediate({ folder: at('online'), name: 'online', days: 10, nowMs }, openCa(at('pki')));
    rmSync(at('pki', 'ca.key'));
    await issueCertificate(edge('online', 'edge'));
    const own = loadNodeIdentity(filesOf('edge'), nowMs);
    assert.equal(own.chain.length, 2);
    assert.equal(text('edge', 'ca.crt'), text('pki', 'ca.crt'));
    openssl(
      ['verify', '-x509_strict', '-CAfile', 'pki/ca.crt', '-untrusted', 'online/ca.crt', 'edge/node.crt'],
      folder,
    );
    revoke(at('online'), { name: 'edge' }, nowMs);
    const { pem } = await writeCrl(allCas(at('online')), { days: 3, nowMs });
    assert.equal(own.trust.with(crlsOf(pem, 'list')).fault(own.chain, nowMs), 'revoked');
    assert.equal(certificatesOf(pem, 'list').length, 1);
  });

  it('an intermediate may not make another CA, and a node none at all', async () => {
    await createCa({ folder: at('pki'), name: 'ours', days: 30, nowMs });
    await createIntermediate({ folder: at('online'), name: 'online', days: 10, nowMs }, openCa(at('pki')));
    await createIntermediate({ folder: at('third'), name: 'third', days: 8, nowMs }, openCa(at('online')));
    await issueCertificate(edge('third', 'edge'));
    const verify = ['verify', '-x509_strict', '-CAfile', 'pki/ca.crt', '-untrusted', 'third/ca.crt', 'edge/node.crt'];
    assert.throws(() => openssl(verify, folder), /path length constraint exceeded/);
    // A node's certificate as if it were a CA's.
    await issueCertificate(edge('pki', 'rogue'));
    const rogue = { ...openCa(at('pki')), certificate: new X509Certificate(text('rogue', 'node.crt')) };
    await issueCertificate({ ...edge('pki', 'forged'), days: 2 }, { ...rogue, chainPem: text('rogue', 'node.crt') });
    const trust = new Trust(certificatesOf(text('pki', 'ca.crt'), 'ca'));
    const forged = ['forged', 'rogue'].map((name) => new X509Certificate(text(name, 'node.crt')));
    assert.equal(trust.fault(forged, nowMs), 'untrusted-ca');
  });
});

describe('a renewal', () => {
  beforeEach(async () => {
    await createCa({ folder: at('pki'), name: 'ours', days: 30, nowMs });
    await issueCertificate(edge('pki', 'edge'));
  });

  it('makes a new key and certificate with the same names', async () => {
    const before = loadNodeIdentity(filesOf('edge'), nowMs);
    await renewCertificate({ files: filesOf('edge'), days: 9, nowMs }, openCa(at('pki')));
    const after = loadNodeIdentity(filesOf('edge'), nowMs);
    assert.deepEqual(after.identity, before.identity);
    assert.equal(after.chain[0]?.subjectAltName, before.chain[0]?.subjectAltName);
    assert.ok(after.notAfterMs > before.notAfterMs && after.keyPem !== before.keyPem);
    assert.equal(readRecords(at('pki')).length, 2);
  });

  it('can be interrupted at any moment: the files are those of a node', async () => {
    const old = Object.values(filesOf('edge')).map((path) => readFileSync(path));
    await renewCertificate({ files: filesOf('edge'), days: 9, nowMs }, openCa(at('pki')));
    const [certificatePem, key] = [text('edge', 'node.crt'), text('edge', 'node.key')];
    // The two moments in between: both keys with the old certificate, both with the new one.
    const both = `${old[1]}${key}`;
    for (const certificate of [old[0] as Buffer, certificatePem]) {
      writeFileSync(filesOf('edge').key, both, { mode: 0o600 });
      writeFileSync(filesOf('edge').certificate, certificate);
      loadNodeIdentity(filesOf('edge'), nowMs);
    }
    replaceIdentity(filesOf('edge'), { keyPem: key, certificatePem, trustPem: text('pki', 'ca.crt') });
    assert.equal(text('edge', 'node.key'), key);
  });

  it('is refused to a revoked certificate, and to one of another CA', async () => {
    await createCa({ folder: at('other'), name: 'other', days: 30, nowMs });
    const options = { files: filesOf('edge'), days: 9, nowMs };
    await assert.rejects(
      renewCertificate(options, openCa(at('other'))),
      /has no record of .*: it was not issued there/,
    );
    revoke(at('pki'), { name: 'edge' }, nowMs);
    await assert.rejects(renewCertificate(options, openCa(at('pki'))), /is revoked: it is not renewed/);
  });
});

describe('a rotation', () => {
  it('lets old and new certificates believe one another until the old CA is retired', async () => {
    await ok('ca', 'init', '--dir', 'pki');
    await issueCertificate(edge('pki', 'late'));
    await issueCertificate(edge('pki', 'early'));
    cpSync(at('early'), at('before'), { recursive: true });
    await ok('ca', 'rotate', '--ca', 'pki');
    await ok('ca', 'renew', '--ca', 'pki', '--node', 'early', '--days', '9');
    const [late, early] = [loadNodeIdentity(filesOf('late'), nowMs), loadNodeIdentity(filesOf('early'), nowMs)];
    assert.equal(late.trust.fault(early.chain, nowMs), undefined);
    assert.equal(early.trust.fault(late.chain, nowMs), undefined);
    openssl(['verify', '-CAfile', 'late/ca.crt', '-untrusted', 'early/node.crt', 'early/node.crt'], folder);
    const twice = await tokaido(['ca', 'rotate', '--ca', 'pki'], { cwd: folder });
    assert.match(twice.err, /is being rotated already/);
    const tooEarly = await tokaido(['ca', 'rotate', '--ca', 'pki', '--retire'], { cwd: folder });
    assert.match(tooEarly.err, /certificates of the old CA are still in use: late/);
    await ok('ca', 'renew', '--ca', 'pki', '--node', 'late', '--days', '9');
    await ok('ca', 'rotate', '--ca', 'pki', '--retire');
    const alone = new Trust(certificatesOf(text('pki', 'trust.crt'), 'trust'));
    assert.equal(alone.fault(loadNodeIdentity(filesOf('late'), nowMs).chain, nowMs), undefined);
    assert.equal(alone.fault(loadNodeIdentity(filesOf('before'), nowMs).chain, nowMs), 'untrusted-ca');
    await issueCertificate(edge('pki', 'new'));
    assert.equal(loadNodeIdentity(filesOf('new'), nowMs).chain.length, 1);
  });

  it('keeps revoked what the old CA issued: one file with a list of each', async () => {
    await createCa({ folder: at('pki'), name: 'ours', days: 30, nowMs });
    await issueCertificate(edge('pki', 'gone'));
    const gone = loadNodeIdentity(filesOf('gone'), nowMs);
    await rotateCa({ folder: at('pki'), name: 'ours', days: 30, nowMs });
    await issueCertificate(edge('pki', 'too'));
    const too = loadNodeIdentity(filesOf('too'), nowMs);
    for (const name of ['gone', 'too']) revoke(at('pki'), { name }, nowMs);
    const { pem } = await writeCrl(allCas(at('pki')), { days: 3, nowMs });
    assert.equal(crlsOf(pem, 'list').length, 2);
    for (const { chain } of [gone, too])
      assert.equal(too.trust.with(crlsOf(pem, 'list')).fault(chain, nowMs), 'revoked');
    await assert.rejects(retireOld(at('gone'), { nowMs, force: false }), /is not being rotated/);
    await retireOld(at('pki'), { nowMs, force: false });
  });

  it('is not retired while an intermediate of it has issued what is in use: a new one of its name is no proof', async () => {
    await ok('ca', 'init', '--dir', 'pki', '--days', '30');
    await ok('ca', 'intermediate', '--ca', 'pki', '--dir', 'online', '--days', '20');
    await issueCertificate(edge('online', 'e'));
    const rotated = await tokaido(['ca', 'rotate', '--ca', at('pki'), '--days', '30']);
    assert.match(rotated.out.toString(), /\nmake a new intermediate .* --retire --intermediate OLD NEW\n$/);
    await ok('ca', 'intermediate', '--ca', 'pki', '--dir', 'online-2', '--days', '20');
    const retired = async (...intermediates: string[]): Promise<string> => {
      const told = intermediates.length === 0 ? [] : ['--intermediate', ...intermediates.map((name) => at(name))];
      const { code, err } = await tokaido(['ca', 'rotate', '--ca', at('pki'), '--retire', ...told]);
      return code === 0 ? 'retired' : err;
    };
    assert.match(await retired(), /may have issued what is in use: intermediate\n.*--intermediate/);
    assert.match(await retired('online', 'online-2'), /of the old CA are still in use: e\n/);
    await issueCertificate({ ...edge('online-2', 'e'), out: at('e-2') });
    assert.match(await retired('online-2'), /may have issued what is in use: intermediate\n/);
    assert.equal(await retired('online', 'online-2'), 'retired');
  });

  it('keeps the list of an old CA beside that of a new one whose key a command keeps', async () => {
    await ok('ca', 'init', '--dir', 'pki');
    for (const name of ['before', 'during']) await issueCertificate(edge('pki', name));
    await ok('ca', 'revoke', '--ca', 'pki', '--name', 'before');
    const sign = signerOf('token');
    await ok('ca', 'rotate', '--ca', 'pki', '--new-signer', sign, '--public-key', 'token.pub');
    await ok('ca', 'revoke', '--ca', 'pki', '--name', 'during', '--signer', sign);
    assert.deepEqual([faultOf('before'), faultOf('during')], ['revoked', 'revoked']);
  });

  it('whose old key is not here says which certificate cannot be revoked, and what to do; the rest is on the list', async () => {
    const [old, fresh] = [signerOf('old'), signerOf('new')];
    await ok('ca', 'init', '--dir', 'pki', '--signer', old, '--public-key', 'old.pub');
    for (const name of ['before', 'during'])
      await ok('ca', 'issue', '--ca', 'pki', '--role', 'edge', '--name', name, '--signer', old);
    await ok('ca', 'revoke', '--ca', 'pki', '--name', 'before', '--signer', old);
    const keys = ['--signer', old, '--new-signer', fresh, '--public-key', 'new.pub'];
    await ok('ca', 'rotate', '--ca', 'pki', ...keys);
    await ok('ca', 'issue', '--ca', 'pki', '--role', 'edge', '--name', 'new', '--signer', fresh);
    const without = await tokaido(['ca', 'revoke', '--ca', 'pki', '--name', 'new', '--days', '3'], { cwd: folder });
    assert.match(without.err, /the CA's key is not here: there is no pki\/ca\.key\nhint: if a command signs.*--signer/);
    assert.ok(readRecords(at('pki')).every(({ identity, revoked }) => !identity.endsWith('/new') || !revoked));
    const revocation = ['ca', 'revoke', '--ca', 'pki', '--signer', fresh, '--name'];
    const halfway = await tokaido([...revocation, 'during'], { cwd: folder });
    assert.equal(halfway.code, 1);
    assert.match(
      halfway.err,
      /during is marked as revoked, but no list says so: .*rotated out.*key is not here\nhint:/,
    );
    // What can be signed is: of the new CA, and what the old one signed once.
    assert.equal((await tokaido([...revocation, 'new'], { cwd: folder })).code, 1);
    assert.deepEqual([faultOf('before'), faultOf('during'), faultOf('new')], ['revoked', undefined, 'revoked']);
    await ok(...revocation, 'during', '--old-signer', old);
    assert.deepEqual([faultOf('before'), faultOf('during'), faultOf('new')], ['revoked', 'revoked', 'revoked']);
  });

  it('goes on signing lists when the key of the old CA was destroyed in the end', async () => {
    await ok('ca', 'init', '--dir', 'pki');
    for (const name of ['gone', 'stays']) await issueCertificate(edge('pki', name));
    await ok('ca', 'revoke', '--ca', 'pki', '--name', 'gone');
    await ok('ca', 'rotate', '--ca', 'pki');
    await ok('ca', 'renew', '--ca', 'pki', '--node', 'stays', '--days', '9');
    await ok('ca', 'rotate', '--ca', 'pki', '--retire');
    for (const path of oldFolders(at('pki'))) rmSync(join(path, 'ca.key'));
    await ok('ca', 'crl', '--ca', 'pki');
    await ok('ca', 'revoke', '--ca', 'pki', '--name', 'stays');
    assert.equal(faultOf('stays'), 'revoked');
    assert.equal(crlsOf(text('pki', 'ca.crl'), 'list').length, 2, 'what the old one signed is still there');
  });
});
