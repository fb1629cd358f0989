/**
 * Requests for certificates, as they travel from a node through relays to the one that signs: pure texts, and who signed
 * them. A new machine signs with its token's key, a node that renews with the key of the certificate it has; both prove
 * that they have the new key. So who only passes a request on can neither use it nor change it.
 */
import { createPublicKey, type KeyObject, sign, verify, type X509Certificate } from 'node:crypto';
import { TokaidoError } from '../base/errors.js';
import type { KeyPair } from './ca/ca.js';
import type { Role } from './names.js';
import type { Trust } from './trust.js';
import { isIssuedBy } from './trust.js';

/** Longest request or answer, in bytes. */
export const MAX_REQUEST_BYTES = 64 * 1024;
const MAX_HOST_NAMES = 32;

/** A new machine. */
export interface JoinBody {
  readonly kind: 'join';
  readonly token: string;
  readonly role: Exclude<Role, 'ca'>;
  readonly name: string;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  /** SPKI in base64. */
  readonly publicKey: string;
}

/** A node that has a certificate. */
export interface RenewBody {
  readonly kind: 'renew';
  /** The certificate that it has, with what leads to a root, in PEM. */
  readonly certificate: string;
  readonly publicKey: string;
}

export type RequestBody = JoinBody | RenewBody;

/** The body as a text, signed twice over: by what its sender has, and by the new key. */
interface Envelope {
  readonly body: string;
  readonly signature: string;
  readonly proof: string;
}

export interface Certified {
  readonly certificatePem: string;
  readonly trustPem: string;
  /** Opens the scope that the certificate hides, for a machine that has not got it yet. */
  readonly scopeOpening?: string | undefined;
}

/** For every kind of key that a certificate or token may have. */
function hashOf({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): string | null {
  if (asymmetricKeyType === 'ed25519') return null;
  return asymmetricKeyDetails?.namedCurve === 'secp384r1' ? 'sha384' : 'sha256';
}

function bytesOf(body: string): Buffer {
  return Buffer.from(`tokaido request 1\n${body}`, 'utf8');
}

export function encodeRequest(body: RequestBody, key: KeyObject, newKey: KeyObject): Buffer {
  const text = JSON.stringify(body);
  const by = (signer: KeyObject): string => sign(hashOf(signer), bytesOf(text), signer).toString('base64');
  const envelope: Envelope = { body: text, signature: by(key), proof: by(newKey) };
  return Buffer.from(JSON.stringify(envelope));
}

export const publicKeyText = ({ publicKey }: Pick<KeyPair, 'publicKey'>): string =>
  publicKey.export({ type: 'spki', format: 'der' }).toString('base64');

export function keyFromText(text: string): KeyObject {
  return createPublicKey({ key: Buffer.from(text, 'base64'), format: 'der', type: 'spki' });
}

export interface Request {
  readonly body: RequestBody;
  readonly publicKey: KeyObject;
  isSignedBy(key: KeyObject): boolean;
}

function malformed(): never {
  throw new TokaidoError('MALFORMED', 'this is not a request for a certificate');
}

const isText = (value: unknown): value is string => typeof value === 'string' && value.length <= MAX_REQUEST_BYTES;
const areTexts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.length <= MAX_HOST_NAMES && value.every((item) => isText(item) && item.length <= 253);

function bodyOf(text: string): RequestBody {
  const body = JSON.parse(text) as Partial<Record<string, unknown>>;
  const { kind, token, role, name, dns, ip, publicKey, certificate } = body;
  if (!isText(publicKey)) malformed();
  if (kind === 'renew' && isText(certificate)) return { kind, certificate, publicKey };
  const isJoin = kind === 'join' && isText(token) && isText(role) && isText(name) && areTexts(dns) && areTexts(ip);
  if (!isJoin || !/^(root|relay|edge|client)$/.test(role)) malformed();
  return { kind, token, role: role as JoinBody['role'], name, dns, ip, publicKey };
}

/** A request whose sender has the new key; who that is is for the caller to see. Errors: `MALFORMED`. */
export function decodeRequest(bytes: Buffer): Request {
  if (bytes.length > MAX_REQUEST_BYTES) malformed();
  let request: Request;
  let proven: boolean;
  try {
    const { body, signature, proof } = JSON.parse(bytes.toString('utf8')) as Envelope;
    if (!isText(body) || !isText(signature) || !isText(proof)) malformed();
    const parsed = bodyOf(body);
    const publicKey = keyFromText(parsed.publicKey);
    const isBy = (key: KeyObject, text: string): boolean => {
      try {
        return verify(hashOf(key), bytesOf(body), key, Buffer.from(text, 'base64'));
      } catch {
        return false;
      }
    };
    request = { body: parsed, publicKey, isSignedBy: (key) => isBy(key, signature) };
    const kind = publicKey.asymmetricKeyType;
    const isKnown =
      kind === 'ed25519' || (kind === 'ec' && publicKey.asymmetricKeyDetails?.namedCurve === 'prime256v1');
    proven = isKnown && isBy(publicKey, proof);
  } catch {
    malformed();
  }
  if (!proven) throw new TokaidoError('IDENTITY', 'the request does not prove that its sender has the key');
  return request;
}

export function encodeAnswer(answer: Certified | TokaidoError): Buffer {
  const isError = answer instanceof TokaidoError;
  const body = isError ? { error: { code: answer.code, message: answer.message, hint: answer.hint } } : answer;
  return Buffer.from(JSON.stringify(body));
}

/** Errors: what the answer says, or `MALFORMED`. */
export function decodeAnswer(bytes: Buffer): Certified {
  let body: Partial<Certified> & { error?: { message?: unknown; hint?: unknown } };
  try {
    body = JSON.parse(bytes.toString('utf8')) as typeof body;
  } catch {
    throw new TokaidoError('MALFORMED', 'this is not an answer to a request for a certificate');
  }
  const { certificatePem, trustPem, scopeOpening, error } = body;
  if (error !== undefined) {
    const { message, hint } = error;
    throw new TokaidoError('IDENTITY', `no certificate: ${String(message)}`, isText(hint) ? { hint } : {});
  }
  const opening = isText(scopeOpening) ? { scopeOpening } : {};
  if (isText(certificatePem) && isText(trustPem)) return { certificatePem, trustPem, ...opening };
  throw new TokaidoError('MALFORMED', 'this is not an answer to a request for a certificate');
}

/**
 * Of CA certificates that came over the wire those that may be believed: the ones that are believed already, and those
 * whose key a believed CA has certified (the bridge of a rotation, in `chain`). Who passed them on cannot add one.
 */
export function provenAuthorities(
  trust: Trust,
  chain: readonly X509Certificate[],
  offered: readonly X509Certificate[],
  nowMs: number,
): X509Certificate[] {
  const keyOf = ({ publicKey }: X509Certificate): string =>
    publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
  const bridges = chain.filter(
    (certificate) => certificate.ca && trust.fault([certificate, ...chain], nowMs) === undefined,
  );
  return offered.filter((root) => {
    if (trust.authorities.some(({ fingerprint256 }) => fingerprint256 === root.fingerprint256)) return true;
    if (!isIssuedBy(root, root)) return false;
    return bridges.some((bridge) => bridge.subject === root.subject && keyOf(bridge) === keyOf(root));
  });
}
