/**
 * Hidden scopes: a certificate is shown to whoever is at the other end, before its holder knows who that is, so it carries
 * a commitment to the scope instead of the names of databases and prefixes. `tokaido-scope:?sha256=HEX` is SHA-256 over a
 * label and the opening: a random salt and the scope names (`scope-names.ts`), one a line, sorted, each once. The holder
 * keeps the opening in a file beside its certificate and tells it those that it follows, inside TLS; they compare it with
 * the certificate. The salt is why nobody can guess names and try them.
 *
 * Whoever knows scope names alone reads the commitment as one that is not understood, and gives its holder nothing.
 */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { assert, TokaidoError } from '../base/errors.js';
import { readKey } from './files.js';
import { areScopeNames, type CertifiedPart, COMMITMENT, partsOf, scopeIn } from './scope-names.js';

/** What is hashed begins with this: no other text can be taken for an opening. */
const LABEL = 'tokaido-scope 1\n';
const SALT_BYTES = 32;
const SALT = /^[0-9a-f]{64}$/;
/** Longest opening: more than the salt, and all names that a certificate may carry. */
export const MAX_OPENING_BYTES = 8192;

export interface HiddenScope {
  /** What stands in the certificate. */
  readonly name: string;
  /** What its holder keeps. */
  readonly opening: string;
}

function nameOf(opening: string): string {
  const digest = createHash('sha256').update(LABEL).update(opening).digest('hex');
  return `${COMMITMENT}${digest}`;
}

/** Commits to scope names. Never twice the same, unless `salt` is. */
export function hideScope(names: readonly string[], salt: Buffer = randomBytes(SALT_BYTES)): HiddenScope {
  assert(areScopeNames(names) && salt.length === SALT_BYTES, 'a scope that a certificate may carry is hidden');
  const opening = [salt.toString('hex'), ...new Set(names.toSorted())].map((line) => `${line}\n`).join('');
  return { name: nameOf(opening), opening };
}

/**
 * The scope names that an opening tells, if it is the one that the certificate commits to, in its one form; else
 * `undefined`.
 */
export function openScope(name: string, opening: string): readonly string[] | undefined {
  if (opening.length > MAX_OPENING_BYTES || nameOf(opening) !== name) return undefined;
  const [salt = '', ...rest] = opening.split('\n');
  const names = rest.slice(0, -1);
  const isInOrder = names.every((one, index) => index === 0 || (names[index - 1] as string) < one);
  return SALT.test(salt) && rest.at(-1) === '' && areScopeNames(names) && isInOrder ? names : undefined;
}

/** As `openScope`, of what came over a link, for replication. */
export function openedParts(name: string, opening: Buffer): readonly CertifiedPart[] | undefined {
  const names = openScope(name, opening.toString('latin1'));
  return names === undefined ? undefined : partsOf(names);
}

/** Where the holder of a certificate keeps the opening of its scope: `node.scope` beside `node.crt`. */
export function openingPath(certificate: string): string {
  return `${certificate.replace(/\.[^./\\]*$/, '')}.scope`;
}

/**
 * What opens the scope of the certificate in this file; `undefined` when it hides none. Errors: `IDENTITY` when the file
 * beside it is not there, can be read by others, or opens something else.
 */
export function readOpening(certificate: string, subjectAltName: string | undefined): string | undefined {
  const scope = scopeIn(subjectAltName);
  if (scope.kind !== 'hidden') return undefined;
  const path = openingPath(certificate);
  const hint = `take it from where ${certificate} came from: it lies beside the certificate there; or issue another one`;
  if (!existsSync(path)) {
    throw new TokaidoError('IDENTITY', `${path} is missing: it opens the scope that ${certificate} hides`, { hint });
  }
  const opening = readKey(path, 'opening of the scope');
  if (openScope(scope.name, opening) === undefined)
    throw new TokaidoError('IDENTITY', `${path} does not open the scope that ${certificate} hides`, { hint });
  return opening;
}
