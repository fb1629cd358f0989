/**
 * Bugs planted in what decides who may see and do what. The simulation has no certificates, so each names the test that
 * must fail with it.
 */
import { type Mutant, mutant } from './mutants.js';

export interface AccessMutant extends Mutant {
  /** File of tests, below `dist/test`. */
  readonly file: string;
  /** The test that fails, by the beginning of its name. */
  readonly test: string;
}

const caughtBy = (file: string, test: string, planted: Mutant): AccessMutant => ({ ...planted, file, test });

const LINK = 'transport/tls-link.test.js';

export const ACCESS_MUTANTS: readonly AccessMutant[] = [
  caughtBy(
    'access/scope.test.js',
    'never gives a follower more than its certificate names',
    mutant('certificate-scope-ignored', 'the scope in the certificate is ignored where the configuration has rules', [
      'replication/scope-policy.js',
      'return scope === undefined ? given : given?.intersect(scope);',
      'return given;',
    ]),
  ),
  caughtBy(
    LINK,
    'a link says what the certificate of its peer lets it follow',
    mutant('certificate-scope-not-read', 'the scope in the certificate is never read', [
      'transport/tls-link.js',
      'this.scope = certifiedScope(subjectaltname);',
      'this.scope = undefined;',
    ]),
  ),
  caughtBy(
    'pki/scope-names.test.js',
    'let their holder see nothing when one of them is not understood',
    mutant('malformed-scope-passed-over', 'a scope in a certificate that is not understood counts as none', [
      'pki/scope-names.js',
      "{ kind: 'named', names } : { kind: 'malformed' };",
      "{ kind: 'named', names } : { kind: 'unsaid' };",
    ]),
  ),
  caughtBy(
    'pki/hidden-scope.test.js',
    'is opened by nothing else',
    mutant('opening-not-compared', 'what a follower shows of its scope is not compared with its certificate', [
      'pki/hidden-scope.js',
      'opening.length > MAX_OPENING_BYTES || nameOf(opening) !== name',
      'opening.length > MAX_OPENING_BYTES',
    ]),
  ),
  caughtBy(
    'pki/hidden-scope.test.js',
    'stands alone',
    mutant('hidden-scope-beside-names', 'a commitment beside names in one certificate hides them', [
      'pki/scope-names.js',
      'names.length === 1 && COMMITMENT_FORM.test(name)',
      'COMMITMENT_FORM.test(name)',
    ]),
  ),
  caughtBy(
    'access/hidden-scope.test.js',
    'is sent nothing before its HELLO',
    mutant('hidden-scope-counts-as-none', 'a certificate that hides its scope counts as one that says nothing of it', [
      'node/certificates/follower-scope.js',
      'return { ...known, scope: Scope.NOTHING, openScope };',
      'return known;',
    ]),
  ),
  caughtBy(
    'access/hidden-scope.test.js',
    'is refused, and told no more, when it shows nothing',
    mutant('unopened-scope-goes-on', 'a follower that does not open its scope is taken for one without', [
      'replication/sending/greeting.js',
      'if (scope !== undefined)',
      'if (true)',
    ]),
  ),
  caughtBy(
    'access/scoped-followers.test.js',
    'gets no more through a relay than the relay has',
    mutant('relay-gives-what-its-policy-says', 'a relay does not take its own scope off what its policy gives', [
      'replication/sending/server.js',
      '.intersect(held)',
      '',
    ]),
  ),
  caughtBy(
    'access/scoped-followers.test.js',
    'can prove that it equals its upstream where it has whole databases',
    mutant('hashes-of-everything', 'a proof names databases outside of the scope', [
      'replication/scope.js',
      'const seen = databases.filter(({ name }) => !isNone(this.keysOf(name)));',
      'const seen = databases;',
    ]),
  ),
  caughtBy(
    LINK,
    'a link that is open ends when its peer is revoked',
    mutant('revocation-ignored-on-open-links', 'a revocation list counts for new links only', [
      'transport/tls-link.js',
      "if (!('refused' in verdict) || socket.destroyed)\n                return;",
      "if (!('refused' in verdict) || socket.destroyed || verdict.refused.reason === 'revoked')\n                return;",
    ]),
  ),
  caughtBy(
    LINK,
    'a revoked certificate is refused',
    mutant('revocation-ignored', 'revocation lists are kept, and never looked at', [
      'pki/trust.js',
      'return this.#listsOf(issuer).some(({ serials }) => serials.has(serialNumber));',
      'return false;',
    ]),
  ),
  caughtBy(
    'pki/crl.test.js',
    'all count, when several are in one file',
    mutant('first-list-only', 'of several lists in one file the first counts', [
      'pki/crl.js',
      'return lists.map(({ der }) => {',
      'return lists.slice(0, 1).map(({ der }) => {',
    ]),
  ),
  caughtBy(
    'pki/crl.test.js',
    'of a CA that did not issue the certificate revoke nothing',
    mutant('list-of-anybody', 'a list counts whoever signed it', [
      'pki/trust.js',
      'this.lists.filter((list) => list.isSignedBy(issuer.publicKey))',
      'this.lists',
    ]),
  ),
  caughtBy(
    LINK,
    'an edge does not take another edge for its upstream',
    mutant('any-role-serves', 'whoever has a certificate of the cluster may be an upstream', [
      'pki/policy.js',
      "return peer.role === 'root' || (peer.role === 'relay' && self.role !== 'root');",
      'return true;',
    ]),
  ),
  caughtBy(
    LINK,
    'the right CA with the wrong cluster',
    mutant('any-cluster', 'a certificate of another cluster counts when the CA is right', [
      'pki/policy.js',
      'if (identity.clusterId !== self.clusterId) {',
      'if (identity.clusterId.length === 0) {',
    ]),
  ),
  caughtBy(
    LINK,
    'an edge does not take another edge for its upstream, nor a relay of another name',
    mutant('any-name', 'the name that the configuration expects of an upstream is not compared', [
      'pki/policy.js',
      'if (expectedName !== undefined && identity.name !== expectedName) {',
      'if (false) {',
    ]),
  ),
  caughtBy(
    'replication/announcements.test.js',
    'is in the name of who signed it',
    mutant('announced-for-another', 'a node may announce an address in the name of another', [
      'node/announcements.js',
      'if (name !== signer.name)',
      'if (false)',
    ]),
  ),
  caughtBy(
    'replication/upstreams.test.js',
    'goes on under a discovered one',
    mutant('part-lost-by-discovery', 'a discovered upstream may bring another part of the data', [
      'replication/following/upstream-session.js',
      'if (this.#host.keepsScope === true && !isScopeKept)',
      'if (false)',
    ]),
  ),
  caughtBy(
    LINK,
    'no certificate is refused',
    mutant('unverified-peer', 'what OpenSSL says of the chain, and that there is a certificate, is not asked', [
      'pki/policy.js',
      'if (!facts.presented)',
      'if (false)',
    ]),
  ),
];
