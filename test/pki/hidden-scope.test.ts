/** Scopes that certificates hide: what opens one, and that nothing else does. */
import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { chmodSync, cpSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { createCa, issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { readRecords } from '../../src/pki/ca/records.js';
import { renewCertificate } from '../../src/pki/ca/renewal.js';
import { hideScope, openedParts, openingPath, openScope } from '../../src/pki/hidden-scope.js';
import { type IdentityFiles, loadNodeIdentity } from '../../src/pki/identity.js';
import { certifiedScope, keptScope, scopeIn, scopeNames, scopeText } from '../../src/pki/scope-names.js';

const SALT = Buffer.alloc(32, 0xab);
const names = fc
  .uniqueArray(fc.stringMatching(/^[a-z*]{1,8}(\/[ -~]{1,8})?$/), { minLength: 1, maxLength: 12 })
  .map((texts) => scopeNames(texts));

describe('a scope that a certificate hides', () => {
  it('has one form, which is pinned', () => {
    const { name, opening } = hideScope(scopeNames(['flags', 'dns/jp/', 'flags']), SALT);
    assert.equal(opening, `${'ab'.repeat(32)}\ntokaido-scope:dns/jp%2F\ntokaido-scope:flags\n`);
    assert.equal(name, 'tokaido-scope:?sha256=d058b7f36a0984716a8dc01a4ee3effdf5aa75ec1366ad5b3458fcd5230b9eac');
    assert.deepEqual(openScope(name, opening), ['tokaido-scope:dns/jp%2F', 'tokaido-scope:flags']);
    assert.deepEqual(openedParts(name, Buffer.from(opening)), [
      { databases: ['dns'], prefixes: [Buffer.from('jp/')] },
      { databases: ['flags'], prefixes: [] },
    ]);
  });

  it('is opened by what was made with it, whatever order the names had, and says the same', () => {
    fc.assert(
      fc.property(names, (scope) => {
        const { name, opening } = hideScope(scope);
        assert.deepEqual(openScope(name, opening), [...new Set(scope.toSorted())]);
        assert.equal(hideScope(scope.toReversed(), SALT).name, hideScope(scope, SALT).name);
        assert.deepEqual(scopeIn(`URI:tokaido://x, URI:${name}, DNS:a`), { kind: 'hidden', name });
        assert.equal(scopeText(name), 'hidden');
      }),
      { numRuns: 100 },
    );
  });

  it('is opened by nothing else: no byte changed, left out or added, no other salt, no other names', () => {
    fc.assert(
      fc.property(names, names, fc.nat(), fc.integer({ min: 1, max: 127 }), (scope, others, position, change) => {
        const { name, opening } = hideScope(scope);
        const bytes = Buffer.from(opening);
        const at = position % bytes.length;
        bytes[at] = (bytes[at] as number) ^ change;
        const without = opening.slice(0, at) + opening.slice(at + 1);
        const again = hideScope(scope).opening;
        const wrong = [bytes.toString('latin1'), without, `${opening}\n`, opening.slice(0, -1), '', again];
        for (const text of [...wrong, hideScope(others).opening]) assert.equal(openScope(name, text), undefined);
      }),
      { numRuns: 200 },
    );
  });

  it('is not opened by what was committed to in another form than the one', () => {
    const salt = 'ab'.repeat(32);
    const [a, b] = ['tokaido-scope:a', 'tokaido-scope:b'];
    const committed = (opening: string): string => {
      // What a CA that is not ours may have certified.
      const digest = createHash('sha256').update(`tokaido-scope 1\n${opening}`).digest('hex');
      return `tokaido-scope:?sha256=${digest}`;
    };
    for (const lines of [
      [salt, b, a],
      [salt, a, a],
      [salt],
      [salt.toUpperCase(), a],
      [a, b],
      [salt, 'dns'],
      [salt, a, ''],
    ]) {
      const opening = lines.map((line) => `${line}\n`).join('');
      assert.equal(openScope(committed(opening), opening), undefined, opening);
    }
    const many = [salt, ...Array.from({ length: 65 }, (_, index) => `tokaido-scope:d${100 + index}`)];
    const large = many.map((line) => `${line}\n`).join('');
    assert.equal(openScope(committed(large), large), undefined);
  });

  it('stands alone: beside names, or twice, or in part, a certificate lets its holder see nothing', () => {
    const { name } = hideScope(scopeNames(['dns']));
    for (const wrong of [
      `URI:${name}, URI:tokaido-scope:dns`,
      `URI:tokaido-scope:*, URI:${name}`,
      `URI:${name}, URI:${hideScope(scopeNames(['dns'])).name}`,
      `URI:${name.slice(0, -1)}`,
      `URI:${name}0`,
      `URI:${name.toUpperCase().replace('TOKAIDO-SCOPE', 'tokaido-scope')}`,
      `DNS:${name}`,
      'URI:tokaido-scope:?sha256=',
      'URI:tokaido-scope:?sha512=00',
    ]) {
      assert.deepEqual(certifiedScope(wrong), { kind: 'parts', parts: [] }, wrong);
      assert.throws(() => keptScope(wrong), { code: 'IDENTITY' }, wrong);
    }
  });
});

describe('the opening of a scope, beside the certificate', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-hidden-'));
  const at = (...parts: string[]): string => join(folder, ...parts);
  const filesIn = (name: string): IdentityFiles => {
    return { certificate: at(name, 'node.crt'), key: at(name, 'node.key'), ca: at(name, 'ca.crt') };
  };
  const scope = scopeNames(['vault', 'dns/jp/']);
  const issue = async (name: string, more: object = {}): Promise<void> => {
    const issued = { ca: at('ca'), out: at(name), role: 'edge', name, days: 1, dns: [], ip: [], scope } as const;
    await issueCertificate({ ...issued, nowMs: Date.now(), ...more });
  };

  before(async () => {
    await createCa({ folder: at('ca'), name: 'ca', days: 10, nowMs: Date.now() });
    await issue('edge');
    await issue('other');
  });
  after(() => rmSync(folder, { recursive: true }));

  it('is made with it, for its owner only, and not a name of the scope stands in the certificate', () => {
    const pem = readFileSync(at('edge', 'node.crt'));
    const raw = new X509Certificate(pem).raw.toString('latin1');
    assert.ok(!raw.includes('vault') && !raw.includes('dns'));
    assert.equal(statSync(at('edge', 'node.scope')).mode & 0o777, 0o600);
    const { scopeOpening } = loadNodeIdentity(filesIn('edge'), Date.now());
    assert.equal(scopeOpening, readFileSync(at('edge', 'node.scope'), 'utf8'));
    assert.equal(openingPath('/etc/x.y/node.crt'), '/etc/x.y/node.scope');
    assert.equal(openingPath('/etc/x.y/node'), '/etc/x.y/node.scope');
  });

  it('opens it after renewals, too, and the CA goes on knowing what it is', async () => {
    const before = readFileSync(at('edge', 'node.scope'));
    for (let i = 0; i < 2; i++)
      await renewCertificate({ files: filesIn('edge'), days: 1, nowMs: Date.now() }, openCa(at('ca')));
    loadNodeIdentity(filesIn('edge'), Date.now());
    assert.deepEqual(readFileSync(at('edge', 'node.scope')), before);
    const records = readRecords(at('ca')).filter(({ identity }) => identity.endsWith('/edge'));
    assert.deepEqual(
      records.map((record) => record.scope),
      [scope, scope, scope],
    );
  });

  it('is asked for when it is missing, of another certificate, or for others to read', () => {
    cpSync(at('edge'), at('copy'), { recursive: true });
    rmSync(at('copy', 'node.scope'));
    const load = (): unknown => loadNodeIdentity(filesIn('copy'), Date.now());
    assert.throws(load, { code: 'IDENTITY', message: /node\.scope is missing: it opens the scope/ });
    cpSync(at('other', 'node.scope'), at('copy', 'node.scope'));
    assert.throws(load, { code: 'IDENTITY', message: /node\.scope does not open the scope/ });
    writeFileSync(at('copy', 'node.scope'), readFileSync(at('edge', 'node.scope')));
    chmodSync(at('copy', 'node.scope'), 0o644);
    assert.throws(load, { code: 'IDENTITY', message: /can be read by others/ });
    chmodSync(at('copy', 'node.scope'), 0o600);
    load();
  });

  it('is not needed where the scope is readable, or there is none', async () => {
    await issue('readable', { hasReadableScope: true });
    await issue('unscoped', { scope: [] });
    for (const name of ['readable', 'unscoped'])
      assert.equal(loadNodeIdentity(filesIn(name), Date.now()).scopeOpening, undefined);
    const { subjectAltName } = new X509Certificate(readFileSync(at('readable', 'node.crt')));
    assert.deepEqual(scopeIn(subjectAltName), { kind: 'named', names: scope });
  });
});
