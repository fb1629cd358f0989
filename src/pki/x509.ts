/**
 * Certificates and revocation lists as bytes: what RFC 5280 asks for, and of that only what ours carry. Reading and
 * verifying certificates is OpenSSL's; these are written here because every kind of signer (a key in a file, behind a
 * passphrase, in somebody's token) then needs to do one thing only, to sign bytes (docs/decisions/x509-encoding.md).
 */
import { createHash, type KeyObject, type X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { TokaidoError } from '../base/errors.js';
import { bits, context, DerReader, der, integer, oid, oidText, sequence, TAG, time } from './der.js';
import type { Signer } from './signer.js';

const ID = {
  commonName: '2.5.4.3',
  organization: '2.5.4.10',
  unit: '2.5.4.11',
  subjectKeyId: '2.5.29.14',
  keyUsage: '2.5.29.15',
  alternativeNames: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  crlNumber: '2.5.29.20',
  authorityKeyId: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
} as const;

const TRUE = der(TAG.boolean, Buffer.of(0xff));
/** Bit 0. */
const DIGITAL_SIGNATURE = der(TAG.bits, Buffer.of(7, 0x80));
/** Bits 5 and 6: certificates and lists. */
const SIGNS_BOTH = der(TAG.bits, Buffer.of(1, 0x06));

/** A name in a certificate, besides the subject. */
export interface AlternativeNames {
  readonly uri: readonly string[];
  readonly dns: readonly string[];
  readonly ip: readonly string[];
}

export interface CertificateFields {
  /** Hex. */
  readonly serial: string;
  readonly commonName: string;
  readonly unit?: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly publicKey: KeyObject;
  readonly names: AlternativeNames;
  /** For a CA: how many more may come between it and a leaf. `undefined` for a leaf. */
  readonly pathLength: number | undefined;
}

function text(id: string, value: string): Buffer {
  return der(TAG.set, sequence(oid(id), der(TAG.utf8, Buffer.from(value, 'utf8'))));
}

function extension(id: string, value: Buffer, critical = false): Buffer {
  return sequence(oid(id), ...(critical ? [TRUE] : []), der(TAG.octets, value));
}

function addressBytes(address: string): Buffer {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number));
  // A zone names an interface of one machine: it has no place in a certificate.
  if (isIP(address) !== 6 || address.includes('%')) throw new TokaidoError('CONFIG', `${address} is not an IP address`);
  // The one form of it: hexadecimal, also where it was written with an IPv4 tail.
  const { hostname } = new URL(`http://[${address}]`);
  const [head = '', tail] = hostname.slice(1, -1).split('::');
  const words = (part: string | undefined): string[] => (part === undefined || part === '' ? [] : part.split(':'));
  const [before, after] = [words(head), words(tail)];
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => '0');
  return Buffer.from([...before, ...zeros, ...after].map((word) => word.padStart(4, '0')).join(''), 'hex');
}

/** SHA-1 of the key's bits, as RFC 5280 proposes: a name, not a proof. */
function keyIdOf(spki: Buffer): Buffer {
  const key = new DerReader(spki).enter();
  key.next(TAG.sequence);
  return createHash('sha1').update(key.next(TAG.bits).content.subarray(1)).digest();
}

export function spkiOf(key: KeyObject): Buffer {
  return key.export({ type: 'spki', format: 'der' });
}

/** The subject of a certificate, as it stands in it. */
export function subjectOf(certificate: X509Certificate): Buffer {
  const fields = new DerReader(certificate.raw).enter().enter();
  fields.optional(context(0));
  fields.next(TAG.integer);
  for (let i = 0; i < 3; i++) fields.next(TAG.sequence);
  return fields.next(TAG.sequence).bytes;
}

/** How many CAs may come between this CA and a leaf; `undefined` when it does not say. */
export function pathLengthOf(certificate: X509Certificate): number | undefined {
  const fields = new DerReader(certificate.raw).enter().enter();
  while (!fields.isAtEnd && fields.peek() !== context(3)) fields.next();
  if (fields.isAtEnd) return undefined;
  const list = fields.enter(context(3)).enter();
  while (!list.isAtEnd) {
    const extension = list.enter();
    const id = oidText(extension.next(TAG.oid).content);
    extension.optional(TAG.boolean);
    const value = extension.next(TAG.octets).content;
    if (id !== ID.basicConstraints) continue;
    const constraints = new DerReader(value).enter();
    constraints.optional(TAG.boolean);
    const length = constraints.optional(TAG.integer);
    return length === undefined ? undefined : Number(`0x${length.content.toString('hex')}`);
  }
  return undefined;
}

function extensions({ publicKey, names, pathLength }: CertificateFields, issuerKey: KeyObject): Buffer {
  const general = [
    ...names.uri.map((uri) => der(0x86, Buffer.from(uri, 'latin1'))),
    ...names.dns.map((name) => der(0x82, Buffer.from(name, 'latin1'))),
    ...names.ip.map((address) => der(0x87, addressBytes(address))),
  ];
  const constraints = pathLength === undefined ? sequence() : sequence(TRUE, integer(Buffer.of(pathLength)));
  const usage = sequence(oid(ID.serverAuth), oid(ID.clientAuth));
  return sequence(
    extension(ID.basicConstraints, constraints, true),
    extension(ID.keyUsage, pathLength === undefined ? DIGITAL_SIGNATURE : SIGNS_BOTH, true),
    ...(pathLength === undefined ? [extension(ID.extendedKeyUsage, usage)] : []),
    extension(ID.alternativeNames, sequence(...general)),
    extension(ID.subjectKeyId, der(TAG.octets, keyIdOf(spkiOf(publicKey)))),
    extension(ID.authorityKeyId, sequence(der(0x80, keyIdOf(spkiOf(issuerKey))))),
  );
}

async function signed(tbs: Buffer, signer: Signer): Promise<Buffer> {
  return sequence(tbs, signer.algorithm, bits(await signer.sign(tbs)));
}

/** A certificate, signed. Without `issuer` it is its own: a root. */
export async function buildCertificate(
  fields: CertificateFields,
  signer: Signer,
  issuer?: X509Certificate,
): Promise<Buffer> {
  const { serial, commonName, unit, notBeforeMs, notAfterMs, publicKey } = fields;
  const units = unit === undefined ? [] : [text(ID.unit, unit)];
  const subject = sequence(text(ID.organization, 'Tokaido'), ...units, text(ID.commonName, commonName));
  const tbs = sequence(
    der(context(0), integer(Buffer.of(2))),
    integer(Buffer.from(serial, 'hex')),
    signer.algorithm,
    issuer === undefined ? subject : subjectOf(issuer),
    sequence(time(notBeforeMs), time(notAfterMs)),
    subject,
    spkiOf(publicKey),
    der(context(3), extensions(fields, signer.publicKey)),
  );
  return await signed(tbs, signer);
}

export interface CrlFields {
  /** Larger than that of every list before. */
  readonly number: bigint;
  readonly thisUpdateMs: number;
  readonly nextUpdateMs: number;
  readonly revoked: readonly { readonly serial: string; readonly revokedMs: number }[];
}

/** A revocation list, signed in the name of `issuer`. */
export async function buildCrl(fields: CrlFields, signer: Signer, issuer: X509Certificate): Promise<Buffer> {
  const { number, thisUpdateMs, nextUpdateMs, revoked } = fields;
  const entries = revoked.map(({ serial, revokedMs }) =>
    sequence(integer(Buffer.from(serial.padStart(serial.length + (serial.length % 2), '0'), 'hex')), time(revokedMs)),
  );
  const digits = number.toString(16);
  const numberBytes = Buffer.from(digits.padStart(digits.length + (digits.length % 2), '0'), 'hex');
  const tbs = sequence(
    integer(Buffer.of(1)),
    signer.algorithm,
    subjectOf(issuer),
    time(thisUpdateMs),
    time(nextUpdateMs),
    // An empty list of entries must not be there at all.
    ...(entries.length === 0 ? [] : [sequence(...entries)]),
    der(
      context(0),
      sequence(
        extension(ID.authorityKeyId, sequence(der(0x80, keyIdOf(spkiOf(signer.publicKey))))),
        extension(ID.crlNumber, integer(numberBytes)),
      ),
    ),
  );
  return await signed(tbs, signer);
}
