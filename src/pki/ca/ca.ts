/**
 * The internal CA: makes itself, certificates for nodes and clients, and intermediates. A folder is a CA: `ca.crt` (behind
 * it what leads from it to a root that somebody may believe), `ca.key` unless somebody else signs, `trust.crt` when nodes
 * shall believe others than `ca.crt`, `issued/` with a record of each certificate, `ca.crl`, `old/` with CAs that were
 * rotated out. Signing takes a public key, so that a key made elsewhere is certified without ever travelling.
 */
import { generateKeyPairSync, type KeyObject, randomBytes, type X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, TokaidoError } from '../../base/errors.js';
import { readKey, readPublic, refuseExisting } from '../files.js';
import { hideScope } from '../hidden-scope.js';
import { checkName, formatIdentity, type Identity, identityOf, type Role } from '../names.js';
import { certificatesOf, toPem } from '../pem.js';
import { commandSigner, keySigner, openKey, type Signer } from '../signer.js';
import { buildCertificate, type CertificateFields } from '../x509.js';
import { type IssuedRecord, writeRecord } from './records.js';
import { type Change, settle, takeNewStep } from './step.js';

const DAY_MS = 86_400_000;
/** Clocks of two machines differ: a certificate is valid from this long before it was made. */
const SKEW_MS = 5 * 60_000;

/** P-256 unless both ends are known to take another. */
export type KeyKind = 'p256' | 'ed25519';

/** How a CA's key is kept. */
export interface KeyAccess {
  /** Opens the key's file; a new key is written behind it. */
  readonly passphrase?: string;
  /** A command that signs instead: the key is not here. */
  readonly signCommand?: string;
}

export interface CaOptions extends KeyAccess {
  readonly folder: string;
  readonly name: string;
  readonly days: number;
  readonly nowMs: number;
  readonly keyKind?: KeyKind;
  /** With `signCommand`: the public key that it signs for. */
  readonly publicKey?: KeyObject;
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
  /** Names of what it may follow at most (`scope-names.ts`); says nothing of it without any. */
  readonly scope?: readonly string[];
  /** Whether the names stand in the certificate themselves, for everybody to read who sees it; else they are hidden. */
  readonly hasReadableScope?: boolean;
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

/** PKCS #8, behind a passphrase when one is given. */
export function keyPem({ privateKey }: KeyPair, passphrase?: string): string {
  const form = { type: 'pkcs8', format: 'pem' } as const;
  if (passphrase === undefined) return privateKey.export(form).toString();
  return privateKey.export({ ...form, cipher: 'aes-256-cbc', passphrase }).toString();
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

/** Certificates that may come between a root and a leaf: an intermediate, and the bridge of a rotation. */
const ROOT_PATH = 2;

interface NewCa {
  readonly fields: CertificateFields;
  readonly signer: Signer;
  /** `undefined` when somebody else keeps it. */
  readonly keyPem: string | undefined;
}

/** Key and fields of a CA to be. Errors: `CONFIG`. */
export function prepareCa(options: Omit<CaOptions, 'folder'>, clusterId: string, pathLength = ROOT_PATH): NewCa {
  const { name, days, nowMs, keyKind, passphrase, signCommand, publicKey } = options;
  const identity = formatIdentity({ clusterId, role: 'ca', name: checkName(name) });
  const names = { uri: [identity], dns: [], ip: [] };
  const common = { serial: newSerial(), commonName: name, ...validity(nowMs, days), names, pathLength };
  if (signCommand === undefined) {
    const keys = newKeys(keyKind);
    const fields = { ...common, publicKey: keys.publicKey };
    return { fields, signer: keySigner(keys.privateKey), keyPem: keyPem(keys, passphrase) };
  }
  if (publicKey === undefined) {
    throw new TokaidoError('CONFIG', 'a CA whose key a command keeps needs its public key', {
      hint: 'give --public-key FILE (PEM)',
    });
  }
  return { fields: { ...common, publicKey }, signer: commandSigner(signCommand, publicKey), keyPem: undefined };
}

/** Makes a CA for a new cluster. Errors: `IDENTITY` when the folder holds one already. */
export async function createCa(options: CaOptions): Promise<Issued & { readonly clusterId: string }> {
  const name = `init ${options.name}`;
  const finished = settle<Issued & { readonly clusterId: string }>(options.folder, name);
  if (finished !== undefined) return finished;
  const clusterId = randomBytes(16).toString('hex');
  const made = prepareCa(options, clusterId);
  const certificate = toPem('CERTIFICATE', await buildCertificate(made.fields, made.signer));
  const changes = filesOfCa(made, certificate);
  return takeNewStep(options.folder, {
    name,
    changes,
    made: { ...issuedAs(options.folder, made, changes), clusterId },
  });
}

/** What a folder needs to be a CA: the key last in the list, if it is kept there. */
function filesOfCa({ keyPem: key }: NewCa, certificatePem: string): Change[] {
  const certificate: Change = { path: 'ca.crt', text: certificatePem, kind: 'public' };
  return key === undefined ? [certificate] : [certificate, { path: 'ca.key', text: key, kind: 'key' }];
}

function issuedAs(folder: string, { fields }: NewCa, changes: readonly Change[]): Issued {
  const { serial, notAfterMs, names } = fields;
  const files = changes.map(({ path }) => join(folder, path));
  return { identity: names.uri[0] as string, serial, notAfter: new Date(notAfterMs).toISOString(), files };
}

/** Makes an intermediate CA: it signs day by day, so that the root's key can stay in a safe. Errors: `IDENTITY`. */
export async function createIntermediate(options: CaOptions, root: OpenCa): Promise<Issued> {
  const { folder } = options;
  const step = `intermediate ${options.name}`;
  const finished = settle<Issued>(folder, step);
  if (finished !== undefined) return finished;
  for (const name of ['ca.crt', 'ca.key', 'trust.crt']) refuseExisting(join(folder, name));
  const made = prepareCa(options, root.clusterId, 0);
  checkWithin(root.certificate, made.fields.notAfterMs);
  const certificate = toPem('CERTIFICATE', await buildCertificate(made.fields, root.signer, root.certificate));
  const { serial, names, notBeforeMs, notAfterMs } = made.fields;
  // First the record: what exists can be revoked.
  writeRecord(root.folder, {
    serial,
    identity: names.uri[0] as string,
    notBefore: new Date(notBeforeMs).toISOString(),
    notAfter: new Date(notAfterMs).toISOString(),
    issuer: root.certificate.fingerprint256,
  });
  const trust: Change = { path: 'trust.crt', text: root.trustPem, kind: 'public' };
  const changes = [...filesOfCa(made, `${certificate}${root.chainPem}`), trust];
  return takeNewStep(folder, { name: step, changes, made: issuedAs(folder, made, changes) });
}

function checkWithin(ca: X509Certificate, notAfterMs: number): void {
  const caEndsMs = Date.parse(ca.validTo);
  if (notAfterMs <= caEndsMs) return;
  const ends = new Date(caEndsMs).toISOString();
  throw new TokaidoError('IDENTITY', `the CA itself ends on ${ends}, before the certificate would`, {
    hint: 'issue for fewer days (--days), or rotate the CA',
  });
}

/** A CA that is ready to sign. */
export interface OpenCa {
  readonly folder: string;
  readonly certificate: X509Certificate;
  /** What a node presents behind its own certificate: an intermediate, and bridges to other roots. */
  readonly chainPem: string;
  /** What nodes are to believe. */
  readonly trustPem: string;
  readonly signer: Signer;
  readonly clusterId: string;
}

/** Ends what a crash interrupted in the folder. Errors: `IDENTITY` when the folder holds no CA that can sign; `CORRUPT`. */
export function openCa(folder: string, { passphrase, signCommand }: KeyAccess = {}): OpenCa {
  settle(folder);
  const paths = { certificate: join(folder, 'ca.crt'), key: join(folder, 'ca.key'), trust: join(folder, 'trust.crt') };
  const text = readPublic(paths.certificate, 'CA certificate');
  const [certificate, ...above] = certificatesOf(text, paths.certificate);
  const authority = identityOf(certificate?.subjectAltName);
  if (certificate === undefined || authority?.role !== 'ca')
    throw new TokaidoError('IDENTITY', `${folder} does not hold a CA made by \`tokaido ca init\``);
  const isRoot = certificate.checkIssued(certificate);
  return {
    folder,
    certificate,
    chainPem: [...(isRoot ? [] : [certificate]), ...above].map(String).join(''),
    trustPem: existsSync(paths.trust) ? readPublic(paths.trust, 'CA certificates to believe') : String(certificate),
    signer:
      signCommand === undefined
        ? fileSigner(certificate, paths.key, passphrase)
        : commandSigner(signCommand, certificate.publicKey),
    clusterId: authority.clusterId,
  };
}

function fileSigner(certificate: X509Certificate, path: string, passphrase: string | undefined): Signer {
  if (!existsSync(path)) {
    throw new TokaidoError('IDENTITY', `the CA's key is not here: there is no ${path}`, {
      hint: 'if a command signs for this CA: --signer or TOKAIDO_CA_SIGNER; if the key is kept elsewhere: put it back for as long as you sign',
    });
  }
  const key = openKey(readKey(path, 'CA key'), path, passphrase);
  if (!certificate.checkPrivateKey(key))
    throw new TokaidoError('IDENTITY', `${path} is not the key of the CA certificate beside it`);
  return keySigner(key);
}

export interface SigningRequest {
  readonly publicKey: KeyObject;
  readonly identity: Identity;
  readonly days: number;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  /** As it stands in the certificate: scope names, or what commits to them. */
  readonly scope?: readonly string[];
  /** The names behind a commitment, for the record, where they are known. */
  readonly hidden?: readonly string[] | undefined;
  readonly nowMs: number;
}

/** Certifies a public key, and keeps a record of it. The one place where a CA signs for somebody else. */
export async function certify(ca: OpenCa, request: SigningRequest): Promise<{ pem: string; record: IssuedRecord }> {
  const { identity, publicKey, dns, ip, scope = [], hidden = scope } = request;
  const dates = validity(request.nowMs, request.days);
  checkWithin(ca.certificate, dates.notAfterMs);
  const fields: CertificateFields = {
    serial: newSerial(),
    commonName: identity.name,
    unit: identity.role,
    ...dates,
    publicKey,
    names: { uri: [formatIdentity(identity), ...scope], dns, ip },
    pathLength: undefined,
  };
  const certificate = await buildCertificate(fields, ca.signer, ca.certificate);
  const record: IssuedRecord = {
    serial: fields.serial,
    identity: formatIdentity(identity),
    notBefore: new Date(dates.notBeforeMs).toISOString(),
    notAfter: new Date(dates.notAfterMs).toISOString(),
    issuer: ca.certificate.fingerprint256,
    ...(scope.length === 0 ? {} : { scope: hidden }),
  };
  writeRecord(ca.folder, record);
  return { pem: `${toPem('CERTIFICATE', certificate)}${ca.chainPem}`, record };
}

/** Makes a key, certifies it, and writes all that a node needs to one folder. Errors: `IDENTITY`, `CONFIG`. */
export async function issueCertificate(options: IssueOptions, ca = openCa(options.ca)): Promise<Issued> {
  const identity: Identity = { clusterId: ca.clusterId, role: options.role, name: checkName(options.name) };
  const { out } = options;
  const step = `issue ${formatIdentity(identity)}`;
  const finished = settle<Issued>(out, step);
  if (finished !== undefined) return finished;
  for (const name of ['node.key', 'node.crt', 'node.scope', 'ca.crt']) refuseExisting(join(out, name));
  const keys = newKeys(options.keyKind);
  const { scope = [], hasReadableScope = false } = options;
  const hidden = scope.length === 0 || hasReadableScope ? undefined : hideScope(scope);
  const inCertificate = hidden === undefined ? {} : { scope: [hidden.name], hidden: scope };
  try {
    const request = { ...options, ...inCertificate, identity, publicKey: keys.publicKey };
    const { pem, record } = await certify(ca, request);
    const changes: Change[] = [
      { path: 'node.key', text: keyPem(keys), kind: 'key' },
      { path: 'node.crt', text: pem, kind: 'public' },
      { path: 'ca.crt', text: ca.trustPem, kind: 'public' },
    ];
    if (hidden !== undefined) changes.push({ path: 'node.scope', text: hidden.opening, kind: 'key' });
    const files = changes.map(({ path }) => join(out, path));
    const { serial, notAfter } = record;
    return takeNewStep(out, { name: step, changes, made: { serial, identity: record.identity, notAfter, files } });
  } catch (error) {
    if (error instanceof TokaidoError) throw error;
    throw new TokaidoError('IDENTITY', `cannot issue the certificate: ${messageOf(error)}`, { cause: error });
  }
}
