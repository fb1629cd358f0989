/**
 * What a node says of itself, signed with the key of its certificate, as it travels through relays to the root: pure
 * bytes, and who signed them. So who only passes it on can neither change it nor say something in another node's name.
 */
import { createPrivateKey, type X509Certificate } from 'node:crypto';
import { TokaidoError } from '../base/errors.js';
import type { NodeIdentity } from './identity.js';
import { type Identity, identityOf } from './names.js';
import { certificatesOf } from './pem.js';
import { isSignatureBy, keySigner } from './signer.js';

/** Longest statement, in bytes, certificates included. */
export const MAX_STATEMENT_BYTES = 32 * 1024;
/** Each begins so, and nothing else that nodes ask of one another does. */
const BEGIN = Buffer.from('tokaido statement 1\n');

interface Envelope {
  readonly text: string;
  /** In PEM: the node's own, and behind it what leads to a root. */
  readonly certificate: string;
  readonly signature: string;
}

function signedBytes(text: string): Buffer {
  return Buffer.concat([BEGIN, Buffer.from(text)]);
}

export function isStatement(bytes: Buffer): boolean {
  return bytes.subarray(0, BEGIN.length).equals(BEGIN);
}

export async function encodeStatement(text: string, { certificatePem, keyPem }: NodeIdentity): Promise<Buffer> {
  const signature = await keySigner(createPrivateKey(keyPem)).sign(signedBytes(text));
  const envelope: Envelope = { text, certificate: certificatePem, signature: signature.toString('base64') };
  return Buffer.concat([BEGIN, Buffer.from(JSON.stringify(envelope))]);
}

function malformed(): never {
  throw new TokaidoError('MALFORMED', 'this is not a statement of a node');
}

function envelopeIn(bytes: Buffer): Envelope & { readonly chain: readonly X509Certificate[] } {
  if (bytes.length > MAX_STATEMENT_BYTES || !isStatement(bytes)) malformed();
  try {
    const values = JSON.parse(bytes.subarray(BEGIN.length).toString()) as Partial<Record<keyof Envelope, unknown>>;
    const { text, certificate, signature } = values;
    if (typeof text !== 'string' || typeof certificate !== 'string' || typeof signature !== 'string') malformed();
    return { text, certificate, signature, chain: certificatesOf(certificate, 'what was sent') };
  } catch {
    malformed();
  }
}

/**
 * What it says, and which node signed it: one of this cluster, with a certificate that counts now.
 * Errors: `MALFORMED`, `IDENTITY`.
 */
export function openStatement(
  bytes: Buffer,
  { identity: own, trust }: Pick<NodeIdentity, 'identity' | 'trust'>,
  nowMs: number,
): { readonly text: string; readonly signer: Identity } {
  const { text, signature, chain } = envelopeIn(bytes);
  const signer = identityOf(chain[0]?.subjectAltName);
  const fault = trust.fault(chain, nowMs);
  if (chain[0] === undefined || signer === undefined || signer.clusterId !== own.clusterId || fault !== undefined) {
    const why = fault ?? 'it names no node of this cluster';
    throw new TokaidoError('IDENTITY', `a statement of a node comes with a certificate that does not count: ${why}`);
  }
  if (!isSignatureBy(chain[0].publicKey, signedBytes(text), Buffer.from(signature, 'base64')))
    throw new TokaidoError('IDENTITY', `a statement in the name of ${signer.name} is not signed by it`);
  return { text, signer };
}
