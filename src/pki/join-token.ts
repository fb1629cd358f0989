/**
 * Tokens with which a new machine joins: a key of its own, for one use. The machine signs its request with the token's
 * key; the cluster keeps the public half alone, so neither the store, nor a relay that a request passes, nor whoever taps
 * the wire ever has what would let them join. A CA signs what the token is good for.
 */
import { createHash, createPrivateKey, createPublicKey, type KeyObject, randomBytes } from 'node:crypto';
import { TokaidoError } from '../base/errors.js';
import { ROLES, type Role } from './names.js';

const PREFIX = 'tokaido-join-1.';
/** PKCS #8 of an Ed25519 key, up to its 32 bytes. */
const ED25519_HEAD = Buffer.from('302e020100300506032b657004220420', 'hex');
const SEED_BYTES = 32;

/** What a token allows, as a CA signed it. */
export interface TokenStatement {
  readonly id: string;
  readonly clusterId: string;
  readonly role: Exclude<Role, 'ca'>;
  /** A name, in which `*` stands for any letters. */
  readonly name: string;
  /** Names of what the machine may follow at most (`scope-names.ts`). */
  readonly scope?: readonly string[];
  /** Host names and addresses that the machine may have certified, `*` for any letters; none when absent. */
  readonly hosts?: readonly string[];
  /** SPKI in base64. */
  readonly publicKey: string;
  readonly createdMs: number;
  readonly expiresMs: number;
}

/** What the new machine gets: everything but the CA's signature. */
export interface JoinToken {
  readonly id: string;
  readonly role: Exclude<Role, 'ca'>;
  readonly name: string;
  /** SHA-256 of a CA certificate that nodes believe, as `X509Certificate` prints it. */
  readonly caFingerprint: string;
  readonly key: KeyObject;
}

function keyOf(seed: Buffer): KeyObject {
  return createPrivateKey({ key: Buffer.concat([ED25519_HEAD, seed]), format: 'der', type: 'pkcs8' });
}

function spkiOf(key: KeyObject): Buffer {
  return createPublicKey(key).export({ type: 'spki', format: 'der' });
}

/** Names a token in lists and logs; says nothing about its key. */
function idOf(spki: Buffer): string {
  return createHash('sha256').update(spki).digest('hex').slice(0, 16);
}

export interface NewToken {
  /** To be handed to the new machine, over a channel that is trusted. */
  readonly text: string;
  readonly id: string;
  readonly publicKey: string;
}

export function createToken({ role, name, caFingerprint }: Omit<JoinToken, 'id' | 'key'>): NewToken {
  const seed = randomBytes(SEED_BYTES);
  const spki = spkiOf(keyOf(seed));
  const pin = Buffer.from(caFingerprint.replace(/:/g, ''), 'hex').toString('base64url');
  const text = `${PREFIX}${Buffer.from(JSON.stringify([seed.toString('base64url'), pin, role, name])).toString('base64url')}`;
  return { text, id: idOf(spki), publicKey: spki.toString('base64') };
}

/** Errors: `CONFIG` for a text that is no token; what is wrong is not repeated, it may hold a secret. */
export function parseToken(text: string): JoinToken {
  try {
    if (!text.startsWith(PREFIX)) throw new Error('prefix');
    const parts: unknown = JSON.parse(Buffer.from(text.slice(PREFIX.length), 'base64url').toString('utf8'));
    const [seed64, pin64, role, name] = parts as string[];
    const seed = Buffer.from(seed64 as string, 'base64url');
    const pin = Buffer.from(pin64 as string, 'base64url');
    const known = ROLES.find((candidate) => candidate === role && candidate !== 'ca') as
      | Exclude<Role, 'ca'>
      | undefined;
    if (seed.length !== SEED_BYTES || pin.length !== 32 || known === undefined || typeof name !== 'string')
      throw new Error('parts');
    const key = keyOf(seed);
    const caFingerprint = (pin.toString('hex').toUpperCase().match(/../g) ?? []).join(':');
    return { id: idOf(spkiOf(key)), role: known, name, caFingerprint, key };
  } catch {
    throw new TokaidoError('CONFIG', 'this is not a whole token', {
      hint: 'give all of what `tokaido token create` printed: one line that begins with tokaido-join-1.',
    });
  }
}

/** `*` stands for any of these letters. */
function expressionOf(pattern: string, letters: string, flags = ''): RegExp {
  const parts = pattern.split('*').map((part) => part.replace(/[.]/g, '\\.'));
  return new RegExp(`^${parts.join(`${letters}*`)}$`, flags);
}

/** Whether a name is one that a pattern allows. */
export function matchesName(pattern: string, name: string): boolean {
  return expressionOf(pattern, '[a-z0-9.-]').test(name);
}

/** Errors: `CONFIG` for a pattern that no name could match, or that could take long to match. */
export function checkPattern(pattern: string): string {
  if (/^[a-z0-9*][a-z0-9.*-]{0,62}$/.test(pattern) && pattern.split('*').length <= 3) return pattern;
  throw new TokaidoError('CONFIG', `${JSON.stringify(pattern)} is not a name or a pattern of names`, {
    hint: 'use 1 to 63 of a-z, 0-9, dot, dash, and at most two * for any letters',
  });
}

const MAX_HOSTS = 32;
const HOST = /^[A-Za-z0-9.:*-]{1,253}$/;

/** Whether the machine may have this host name or address in its certificate: clients take it for whom that names. */
export function matchesHost(patterns: readonly string[], host: string): boolean {
  return patterns.some((pattern) => expressionOf(pattern, '[a-z0-9.:-]', 'i').test(host));
}

/** Errors: `CONFIG` for patterns that no host could match, or that could take long to match. */
export function checkHosts(patterns: readonly string[]): { readonly hosts?: readonly string[] } {
  if (patterns.length === 0) return {};
  const wrong = patterns.find((pattern) => !HOST.test(pattern) || pattern.split('*').length > 3);
  if (wrong === undefined && patterns.length <= MAX_HOSTS) return { hosts: patterns };
  throw new TokaidoError('CONFIG', `${JSON.stringify(wrong ?? patterns)}: no host names or addresses of a token`, {
    hint: `up to ${MAX_HOSTS} names or addresses, with at most two * each for any letters; '*' alone for any`,
  });
}
