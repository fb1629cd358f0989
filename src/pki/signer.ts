/**
 * Who signs for a CA: a key in a file, one behind a passphrase, or a command of the operator's that signs what it is
 * given (a smart card, a key service), so that the key need not be on this machine at all.
 */
import { spawn } from 'node:child_process';
import { createPrivateKey, createPublicKey, type KeyObject, sign, verify } from 'node:crypto';
import { messageOf, TokaidoError } from '../base/errors.js';
import { der, oid, sequence } from './der.js';

/** Signs for one key. */
export interface Signer {
  readonly publicKey: KeyObject;
  /** AlgorithmIdentifier, in DER. */
  readonly algorithm: Buffer;
  /** Errors: `IDENTITY`. */
  sign(bytes: Buffer): Promise<Buffer>;
}

interface Algorithm {
  readonly id: Buffer;
  /** `null` where the algorithm has its own. */
  readonly hash: string | null;
}

const NULL = der(0x05);
const EC_CURVES: Readonly<Record<string, Algorithm>> = {
  prime256v1: { id: sequence(oid('1.2.840.10045.4.3.2')), hash: 'sha256' },
  secp384r1: { id: sequence(oid('1.2.840.10045.4.3.3')), hash: 'sha384' },
};
const ED25519: Algorithm = { id: sequence(oid('1.3.101.112')), hash: null };
const RSA: Algorithm = { id: sequence(oid('1.2.840.113549.1.1.11'), NULL), hash: 'sha256' };

function algorithmOf({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): Algorithm {
  const ec = asymmetricKeyType === 'ec' ? EC_CURVES[asymmetricKeyDetails?.namedCurve ?? ''] : undefined;
  if (ec !== undefined) return ec;
  if (asymmetricKeyType === 'ed25519') return ED25519;
  if (asymmetricKeyType === 'rsa') return RSA;
  throw new TokaidoError('IDENTITY', `a CA with a key of kind ${asymmetricKeyType} cannot sign here`, {
    hint: 'use P-256, P-384, Ed25519 or RSA',
  });
}

/** How long an external command may take to sign: somebody may have to touch a token. */
const SIGN_LIMIT_MS = 120_000;
const MAX_SIGNATURE_BYTES = 8192;

export function keySigner(key: KeyObject): Signer {
  const { id, hash } = algorithmOf(key);
  return { publicKey: createPublicKey(key), algorithm: id, sign: async (bytes) => sign(hash, bytes, key) };
}

/**
 * A signer that hands the bytes to a shell command on standard input and takes the signature, as openssl makes it
 * (`openssl dgst -sha256 -sign KEY`), from its standard output. What it returns is verified before it is used.
 */
export function commandSigner(command: string, publicKey: KeyObject): Signer {
  const { id, hash } = algorithmOf(publicKey);
  return {
    publicKey,
    algorithm: id,
    sign: async (bytes) => {
      const signature = await run(command, bytes);
      if (isSignatureBy(publicKey, bytes, signature)) return signature;
      const how = hash === null ? 'Ed25519, of the bytes themselves' : `${hash}, in DER`;
      throw new TokaidoError('IDENTITY', `what the signing command returned is not a signature by the CA's key`, {
        hint: `it gets the bytes to sign on standard input and must print the bare signature (${how})`,
      });
    },
  };
}

async function run(command: string, input: Buffer): Promise<Buffer> {
  return await new Promise((resolve, reject) => {
    const child = spawn('/bin/sh', ['-c', command], { stdio: ['pipe', 'pipe', 'inherit'], timeout: SIGN_LIMIT_MS });
    const chunks: Buffer[] = [];
    let size = 0;
    const fail = (what: string): void =>
      reject(new TokaidoError('IDENTITY', `the signing command ${what}: ${command}`));
    child.on('error', (error) => fail(messageOf(error)));
    child.stdin.on('error', () => undefined);
    child.stdout.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MAX_SIGNATURE_BYTES) chunks.push(chunk);
    });
    child.on('close', (code, signal) => {
      if (code !== 0) fail(`ended with ${signal ?? code}`);
      else if (size > MAX_SIGNATURE_BYTES) fail(`printed ${size} bytes, which is no signature`);
      else resolve(Buffer.concat(chunks));
    });
    child.stdin.end(input);
  });
}

/** Whether somebody signed these bytes, with the algorithm that goes with the key. */
export function isSignatureBy(publicKey: KeyObject, bytes: Buffer, signature: Buffer): boolean {
  try {
    return verify(algorithmOf(publicKey).hash, bytes, publicKey, signature);
  } catch {
    // A key of another kind, or no signature at all.
    return false;
  }
}

/** Whether the key in a PEM text needs a passphrase. */
export function isEncrypted(pem: string): boolean {
  return /-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED/.test(pem);
}

/** Errors: `IDENTITY` when the text holds no key, or the passphrase does not open it. */
export function openKey(pem: string, path: string, passphrase: string | undefined): KeyObject {
  if (isEncrypted(pem) && passphrase === undefined) {
    throw new TokaidoError('IDENTITY', `${path} is encrypted`, {
      hint: 'give its passphrase: --passphrase-file, --passphrase-command or TOKAIDO_CA_PASSPHRASE',
    });
  }
  try {
    return createPrivateKey({ key: pem, ...(passphrase === undefined ? {} : { passphrase }) });
  } catch (error) {
    const what = isEncrypted(pem) ? 'the passphrase does not open' : 'not a private key in PEM form:';
    throw new TokaidoError('IDENTITY', `${what} ${path}: ${messageOf(error)}`, { cause: error });
  }
}
