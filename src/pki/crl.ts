/**
 * Revocation lists (X.509 CRLs): parsed, and verified against the key of the CA that signed them. The runtime's own check
 * is not used: it reads only the first list of a file, lets nobody in when one CA has no list or one list is out of date,
 * and never looks at a link again. Here every list of every file counts, whatever a list names counts as revoked, and a
 * list that is out of date goes on counting (status and log say that it should be renewed).
 */
import { type KeyObject, verify } from 'node:crypto';
import { messageOf, TokaidoError } from '../base/errors.js';
import { context, DerReader, oidText, serialText, TAG, timeMs } from './der.js';
import { pemBlocks } from './pem.js';

/** Largest list that is read, bytes: about 100,000 certificates. */
export const MAX_CRL_BYTES = 4 * 2 ** 20;

const CRL_NUMBER = '2.5.29.20';
/** Hash of each signature algorithm; `null` where the algorithm has its own. */
const SIGNATURES: Readonly<Record<string, string | null>> = {
  '1.2.840.10045.4.3.2': 'sha256',
  '1.2.840.10045.4.3.3': 'sha384',
  '1.2.840.10045.4.3.4': 'sha512',
  '1.2.840.113549.1.1.11': 'sha256',
  '1.2.840.113549.1.1.12': 'sha384',
  '1.2.840.113549.1.1.13': 'sha512',
  '1.3.101.112': null,
};

export interface RevocationList {
  readonly der: Buffer;
  /** Grows with each list of one CA; absent in some. */
  readonly number: bigint | undefined;
  readonly thisUpdateMs: number;
  /** When the next one was promised. */
  readonly nextUpdateMs: number | undefined;
  /** Serials as `X509Certificate.serialNumber` prints them. */
  readonly serials: ReadonlySet<string>;
  isSignedBy(key: KeyObject): boolean;
}

function isTime(tag: number | undefined): boolean {
  return tag === TAG.utcTime || tag === TAG.generalizedTime;
}

function numberIn(extensions: DerReader): bigint | undefined {
  const list = extensions.enter();
  while (!list.isAtEnd) {
    const extension = list.enter();
    const id = oidText(extension.next(TAG.oid).content);
    extension.optional(TAG.boolean);
    const value = extension.next(TAG.octets).content;
    if (id === CRL_NUMBER) return BigInt(`0x${new DerReader(value).next(TAG.integer).content.toString('hex') || '0'}`);
  }
  return undefined;
}

/** Errors: `CORRUPT`, `TOO_LARGE`. */
export function parseCrl(der: Buffer): RevocationList {
  if (der.length > MAX_CRL_BYTES)
    throw new TokaidoError('TOO_LARGE', `a revocation list of ${der.length} bytes exceeds ${MAX_CRL_BYTES}`);
  const outer = new DerReader(der);
  const whole = outer.enter();
  outer.end();
  const tbs = whole.next(TAG.sequence);
  const signed = whole.next(TAG.sequence);
  const algorithm = oidText(new DerReader(signed.content).next(TAG.oid).content);
  const { content: signatureBits } = whole.next(TAG.bits);
  const signature = signatureBits.subarray(1);
  whole.end();
  const fields = new DerReader(tbs.content);
  fields.optional(TAG.integer);
  // What is signed says how; the first byte of the signature counts unused bits, of which there are none.
  const isSound = fields.next(TAG.sequence).bytes.equals(signed.bytes) && signatureBits[0] === 0;
  if (!isSound) throw new TokaidoError('CORRUPT', 'a revocation list does not say one thing about its signature');
  fields.next(TAG.sequence);
  const thisUpdateMs = timeMs(fields.next());
  const nextUpdateMs = isTime(fields.peek()) ? timeMs(fields.next()) : undefined;
  const serials = new Set<string>();
  const revoked = fields.optional(TAG.sequence);
  if (revoked !== undefined) {
    const entries = new DerReader(revoked.content);
    while (!entries.isAtEnd) serials.add(serialText(entries.enter().next(TAG.integer).content));
  }
  const extensions = fields.optional(context(0));
  fields.end();
  return {
    der,
    number: extensions === undefined ? undefined : numberIn(new DerReader(extensions.content)),
    thisUpdateMs,
    nextUpdateMs,
    serials,
    isSignedBy: (key) => {
      const hash = SIGNATURES[algorithm];
      if (hash === undefined) return false;
      try {
        return verify(hash, tbs.bytes, key, signature);
      } catch {
        // A key of another kind.
        return false;
      }
    },
  };
}

/** Every list of a PEM file. Errors: `IDENTITY` when there is none: a file without any is one that is being written. */
export function crlsOf(text: string, path: string): RevocationList[] {
  const lists = pemBlocks(text, path).filter(({ label }) => label === 'X509 CRL');
  if (lists.length === 0) throw new TokaidoError('IDENTITY', `${path} holds no revocation list in PEM form`);
  return lists.map(({ der }) => {
    try {
      return parseCrl(der);
    } catch (error) {
      throw new TokaidoError('IDENTITY', `${path} holds a revocation list that does not parse: ${messageOf(error)}`, {
        cause: error,
      });
    }
  });
}

/** Which of two lists of one CA is the newer one: by number, else by time. */
export function isNewer(list: RevocationList, than: RevocationList): boolean {
  if (list.number !== undefined && than.number !== undefined && list.number !== than.number)
    return list.number > than.number;
  return list.thisUpdateMs > than.thisUpdateMs;
}
