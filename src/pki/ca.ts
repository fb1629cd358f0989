/**
 * The internal CA: makes itself, and certificates for nodes. Signing takes a public key, so that a key made elsewhere can
 * be certified without ever travelling. The X.509 library is loaded only here, by commands that issue: a serving node
 * does not pay for it.
 */
import { randomBytes, webcrypto } from 'node:crypto';
import { join } from 'node:path';
import { messageOf, TokaidoError } from '../base/errors.js';
import { readKey, readPublic, writeNew } from './files.js';
import { checkName, formatIdentity, type Identity, identityOf, type Role } from './names.js';

const DAY_MS = 86_400_000;
/** Clocks of two machines differ: a certificate is valid from this long before it was made. */
const SKEW_MS = 5 * 60_000;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

export interface CaOptions {
  readonly folder: string;
  readonly name: string;
  readonly days: number;
  readonly nowMs: number;
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
}

/** What was made. */
export interface Issued {
  readonly identity: string;
  readonly serial: string;
  readonly notAfter: string;
  readonly files: readonly string[];
}

async function library(): Promise<typeof import('@peculiar/x509')> {
  await import('reflect-metadata');
  const x509 = await import('@peculiar/x509');
  x509.cryptoProvider.set(webcrypto as never);
  return x509;
}

/** 127 random bits: positive, and never twice. */
function newSerial(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0] as number) & 0x7f;
  return bytes.toString('hex');
}

async function newKeys(): Promise<{ keys: webcrypto.CryptoKeyPair; pem: string }> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
  return { keys, pem: pem('PRIVATE KEY', der) };
}

function pem(label: string, der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

function validity(nowMs: number, days: number): { notBefore: Date; notAfter: Date } {
  if (!Number.isFinite(days) || days <= 0 || days > 36_500)
    throw new TokaidoError('CONFIG', `${days} is not a number of days`);
  return { notBefore: new Date(nowMs - SKEW_MS), notAfter: new Date(nowMs + days * DAY_MS) };
}

/** Makes a CA for a new cluster. Errors: `IDENTITY` when the folder holds one already. */
export async function createCa(options: CaOptions): Promise<Issued & { readonly clusterId: string }> {
  const x509 = await library();
  const clusterId = randomBytes(16).toString('hex');
  const identity = formatIdentity({ clusterId, role: 'ca', name: checkName(options.name) });
  const { keys, pem: keyPem } = await newKeys();
  const serialNumber = newSerial();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber,
    name: `CN=${options.name}, O=Tokaido`,
    ...validity(options.nowMs, options.days),
    signingAlgorithm: ALGORITHM,
    keys: keys as never,
    extensions: [
      // One intermediate may come to stand between this CA and its nodes.
      new x509.BasicConstraintsExtension(true, 1, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      new x509.SubjectAlternativeNameExtension([{ type: 'url', value: identity }]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey as never),
    ],
  });
  const files = { key: join(options.folder, 'ca.key'), certificate: join(options.folder, 'ca.crt') };
  writeNew(files.key, keyPem, 'key');
  writeNew(files.certificate, `${certificate.toString('pem')}\n`, 'public');
  return {
    identity,
    clusterId,
    serial: serialNumber,
    notAfter: certificate.notAfter.toISOString(),
    files: [files.certificate, files.key],
  };
}

interface SigningRequest {
  readonly publicKey: webcrypto.CryptoKey;
  readonly identity: Identity;
  readonly days: number;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly nowMs: number;
}

/** Certifies a public key. The one place where the CA's key is used. */
async function sign(folder: string, request: SigningRequest): Promise<{ pem: string; serial: string; notAfter: Date }> {
  const x509 = await library();
  const ca = new x509.X509Certificate(readPublic(join(folder, 'ca.crt'), 'CA certificate'));
  const keyText = readKey(join(folder, 'ca.key'), 'CA key');
  const der = Buffer.from(keyText.replace(/-----[^-]+-----|\s/g, ''), 'base64');
  const signingKey = await webcrypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
  const { notBefore, notAfter } = validity(request.nowMs, request.days);
  if (notAfter > ca.notAfter) {
    throw new TokaidoError(
      'IDENTITY',
      `the CA itself ends on ${ca.notAfter.toISOString()}, before the certificate would`,
      {
        hint: 'issue for fewer days (--days)',
      },
    );
  }
  const serial = newSerial();
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial,
    subject: `CN=${request.identity.name}, OU=${request.identity.role}, O=Tokaido`,
    issuer: ca.subject,
    notBefore,
    notAfter,
    signingAlgorithm: ALGORITHM,
    publicKey: request.publicKey as never,
    signingKey: signingKey as never,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([
        { type: 'url', value: formatIdentity(request.identity) },
        ...request.dns.map((value) => ({ type: 'dns' as const, value })),
        ...request.ip.map((value) => ({ type: 'ip' as const, value })),
      ]),
      await x509.SubjectKeyIdentifierExtension.create(request.publicKey as never),
      await x509.AuthorityKeyIdentifierExtension.create(ca.publicKey),
    ],
  });
  return { pem: `${certificate.toString('pem')}\n`, serial, notAfter };
}

/** The cluster of the CA in a folder. Errors: `IDENTITY` when there is none. */
async function clusterOf(folder: string): Promise<string> {
  const { X509Certificate } = await import('node:crypto');
  const authority = identityOf(
    new X509Certificate(readPublic(join(folder, 'ca.crt'), 'CA certificate')).subjectAltName,
  );
  if (authority?.role !== 'ca')
    throw new TokaidoError('IDENTITY', `${folder} does not hold a CA made by \`tokaido ca init\``);
  return authority.clusterId;
}

/** Makes a key, certifies it, and writes all that a node needs to one folder. Errors: `IDENTITY`, `CONFIG`. */
export async function issueCertificate(options: IssueOptions): Promise<Issued> {
  const identity: Identity = {
    clusterId: await clusterOf(options.ca),
    role: options.role,
    name: checkName(options.name),
  };
  const { keys, pem: keyPem } = await newKeys();
  try {
    const {
      pem: certificatePem,
      serial,
      notAfter,
    } = await sign(options.ca, { ...options, identity, publicKey: keys.publicKey });
    const files = ['node.key', 'node.crt', 'ca.crt'].map((name) => join(options.out, name)) as [string, string, string];
    writeNew(files[0], keyPem, 'key');
    writeNew(files[1], certificatePem, 'public');
    writeNew(files[2], readPublic(join(options.ca, 'ca.crt'), 'CA certificate'), 'public');
    const record = { serial, identity: formatIdentity(identity), notAfter: notAfter.toISOString() };
    writeNew(join(options.ca, 'issued', `${serial}.json`), `${JSON.stringify(record, null, 2)}\n`, 'public');
    return { ...record, files };
  } catch (error) {
    if (error instanceof TokaidoError) throw error;
    throw new TokaidoError('IDENTITY', `cannot issue the certificate: ${messageOf(error)}`, { cause: error });
  }
}
