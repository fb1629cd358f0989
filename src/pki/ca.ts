/**
 * The internal CA: makes itself, certificates for nodes and clients, and lists of those that are revoked. A folder is a
 * CA: `ca.crt` (behind it, for an intermediate, the CAs above), `ca.key`, `trust.crt` when nodes shall believe others
 * than `ca.crt`, `issued/` with a record of each certificate, `ca.crl`. Signing takes a public key, so that a key made
 * elsewhere is certified without ever travelling.
 */
import { generateKeyPairSync, type KeyObject, randomBytes, type X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, TokaidoError } from '../base/errors.js';
import { type IssuedRecord, writeRecord } from './ca-records.js';
import { readKey, readPublic, writeNew } from './files.js';
import { checkName, formatIdentity, type Identity, identityOf, type Role } from './names.js';
import { certificatesOf, toPem } from './pem.js';
import { keySigner, openKey, type Signer } from './signer.js';
import { buildCertificate, type CertificateFields } from './x509.js';

const DAY_MS = 86_400_000;
/** Clocks of two machines differ: a certificate is valid from this long before it was made. */
const SKEW_MS = 5 * 60_000;

/** P-256 unless both ends are known to take another. */
export type KeyKind = 'p256' | 'ed25519';

export interface CaOptions {
  readonly folder: string;
  readonly name: string;
  readonly days: number;
  readonly nowMs: number;
  readonly keyKind?: KeyKind;
}

export interface IssueOptions {
  /** Folder of the CA. */
  readonly ca: string;
  /** Folder to write certificate, key and CA certificate to. */
  readonly out: string;
  readonly role: Exclude<Role, 'ca'>;
  readonly name: string;
  readonly days: number;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly nowMs: number;
  readonly keyKind?: KeyKind;
}

/** What was made. */
export interface Issued {
  readonly identity: string;
  readonly serial: string;
  readonly notAfter: string;
  readonly files: readonly string[];
}

export interface KeyPair {
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}

export function newKeys(kind: KeyKind = 'p256'): KeyPair {
  return kind === 'p256' ? generateKeyPairSync('ec', { namedCurve: 'P-256' }) : generateKeyPairSync('ed25519');
}

export function keyPem({ privateKey }: KeyPair): string {
  return privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
}

/** 126 random bits: positive, and never twice. */
function newSerial(): string {
  const bytes = randomBytes(16);
  // The highest bit is the sign; the next keeps every serial of one length.
  bytes[0] = ((bytes[0] as number) & 0x7f) | 0x40;
  return bytes.toString('hex').toUpperCase();
}

function validity(nowMs: number, days: number): { notBeforeMs: number; notAfterMs: number } {
  if (!Number.isFinite(days) || days <= 0 || days > 36_500)
    throw new TokaidoError('CONFIG', `${days} is not a number of days`);
  return { notBeforeMs: nowMs - SKEW_MS, notAfterMs: nowMs + days * DAY_MS };
}

/** Makes a CA for a new cluster. Errors: `IDENTITY` when the folder holds one already. */
export async function createCa(options: CaOptions): Promise<Issued & { readonly clusterId: string }> {
  const clusterId = randomBytes(16).toString('hex');
  const identity = formatIdentity({ clusterId, role: 'ca', name: checkName(options.name) });
  const keys = newKeys(options.keyKind);
  const fields: CertificateFields = {
    serial: newSerial(),
    commonName: options.name,
    ...validity(options.nowMs, options.days),
    publicKey: keys.publicKey,
    names: { uri: [identity], dns: [], ip: [] },
    // One intermediate may come to stand between this CA and its nodes.
    pathLength: 1,
  };
  const certificate = await buildCertificate(fields, keySigner(keys.privateKey));
  const files = { key: join(options.folder, 'ca.key'), certificate: join(options.folder, 'ca.crt') };
  writeNew(files.key, keyPem(keys), 'key');
  writeNew(files.certificate, toPem('CERTIFICATE', certificate), 'public');
  const { serial, notAfterMs } = fields;
  const notAfter = new Date(notAfterMs).toISOString();
  return { identity, clusterId, serial, notAfter, files: [files.certificate, files.key] };
}

/** A CA that is ready to sign. */
export interface OpenCa {
  readonly folder: string;
  readonly certificate: X509Certificate;
  /** The certificate, and those above it up to the root, without the root. */
  readonly chainPem: string;
  /** What nodes are to believe. */
  readonly trustPem: string;
  readonly signer: Signer;
  readonly clusterId: string;
}

/** Errors: `IDENTITY` when the folder holds no CA that can sign. */
export function openCa(folder: string, { passphrase }: { readonly passphrase?: string } = {}): OpenCa {
  const paths = { certificate: join(folder, 'ca.crt'), key: join(folder, 'ca.key'), trust: join(folder, 'trust.crt') };
  const text = readPublic(paths.certificate, 'CA certificate');
  const [certificate, ...above] = certificatesOf(text, paths.certificate);
  const authority = identityOf(certificate?.subjectAltName);
  if (certificate === undefined || authority?.role !== 'ca')
    throw new TokaidoError('IDENTITY', `${folder} does not hold a CA made by \`tokaido ca init\``);
  const key = openKey(readKey(paths.key, 'CA key'), paths.key, passphrase);
  if (!certificate.checkPrivateKey(key))
    throw new TokaidoError('IDENTITY', `${paths.key} is not the key of ${paths.certificate}`);
  const isRoot = certificate.checkIssued(certificate);
  return {
    folder,
    certificate,
    chainPem: isRoot ? '' : [certificate, ...above].map(String).join(''),
    trustPem: existsSync(paths.trust) ? readPublic(paths.trust, 'CA certificates to believe') : text,
    signer: keySigner(key),
    clusterId: authority.clusterId,
  };
}

export interface SigningRequest {
  readonly publicKey: KeyObject;
  readonly identity: Identity;
  readonly days: number;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly nowMs: number;
}

/** Certifies a public key, and keeps a record of it. The one place where a CA signs for somebody else. */
export async function certify(ca: OpenCa, request: SigningRequest): Promise<{ pem: string; record: IssuedRecord }> {
  const { identity, publicKey, dns, ip } = request;
  const dates = validity(request.nowMs, request.days);
  const caEndsMs = Date.parse(ca.certificate.validTo);
  if (dates.notAfterMs > caEndsMs) {
    throw new TokaidoError(
      'IDENTITY',
      `the CA itself ends on ${new Date(caEndsMs).toISOString()}, before the certificate would`,
      { hint: 'issue for fewer days (--days)' },
    );
  }
  const fields: CertificateFields = {
    serial: newSerial(),
    commonName: identity.name,
    unit: identity.role,
    ...dates,
    publicKey,
    names: { uri: [formatIdentity(identity)], dns, ip },
    pathLength: undefined,
  };
  const certificate = await buildCertificate(fields, ca.signer, ca.certificate);
  const record: IssuedRecord = {
    serial: fields.serial,
    identity: formatIdentity(identity),
    notBefore: new Date(dates.notBeforeMs).toISOString(),
    notAfter: new Date(dates.notAfterMs).toISOString(),
    issuer: ca.certificate.fingerprint256,
  };
  writeRecord(ca.folder, record);
  return { pem: `${toPem('CERTIFICATE', certificate)}${ca.chainPem}`, record };
}

/** Makes a key, certifies it, and writes all that a node needs to one folder. Errors: `IDENTITY`, `CONFIG`. */
export async function issueCertificate(options: IssueOptions, ca = openCa(options.ca)): Promise<Issued> {
  const identity: Identity = { clusterId: ca.clusterId, role: options.role, name: checkName(options.name) };
  const keys = newKeys(options.keyKind);
  try {
    const { pem, record } = await certify(ca, { ...options, identity, publicKey: keys.publicKey });
    const files = ['node.key', 'node.crt', 'ca.crt'].map((name) => join(options.out, name)) as [string, string, string];
    writeNew(files[0], keyPem(keys), 'key');
    writeNew(files[1], pem, 'public');
    writeNew(files[2], ca.trustPem, 'public');
    const { serial, notAfter } = record;
    return { serial, identity: record.identity, notAfter, files };
  } catch (error) {
    if (error instanceof TokaidoError) throw error;
    throw new TokaidoError('IDENTITY', `cannot issue the certificate: ${messageOf(error)}`, { cause: error });
  }
}
