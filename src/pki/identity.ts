/** A node's own certificate, key and CA: loaded and checked before anything listens, so that a mistake shows at start. */
import { createPrivateKey, type KeyObject, type X509Certificate } from 'node:crypto';
import { messageOf, TokaidoError } from '../base/errors.js';
import { readKey, readPublic } from './files.js';
import { readOpening } from './hidden-scope.js';
import { type Identity, identityOf } from './names.js';
import { certificatesOf, pemBlocks } from './pem.js';
import { type ChainFault, outOfDate, Trust } from './trust.js';

/** Paths of a node's identity. */
export interface IdentityFiles {
  readonly certificate: string;
  readonly key: string;
  readonly ca: string;
}

export interface NodeIdentity {
  readonly identity: Identity;
  /** The certificate, and behind it those of CAs between it and a root. */
  readonly certificatePem: string;
  readonly keyPem: string;
  readonly caPem: string;
  /** The certificate first. */
  readonly chain: readonly X509Certificate[];
  /** Whom this node believes. */
  readonly trust: Trust;
  /** From when the certificate is valid, ms since 1970. */
  readonly notBeforeMs: number;
  /** When the certificate ends, ms since 1970. */
  readonly notAfterMs: number;
  /** SHA-256 of the certificate, as OpenSSL prints it. */
  readonly fingerprint: string;
  /** Opens the scope that the certificate hides; `undefined` when it hides none. */
  readonly scopeOpening: string | undefined;
}

function refuse(message: string, hint: string): never {
  throw new TokaidoError('IDENTITY', message, { hint });
}

const REISSUE = 'issue a certificate with `tokaido ca issue`';

/**
 * The key of a certificate among those in a file. There are two while a new pair is being put in place: whatever moment
 * a crash hits, one of them fits the certificate. Errors: `IDENTITY`.
 */
export function keyFor(certificate: X509Certificate, keyText: string, path: string): { pem: string; key: KeyObject } {
  const blocks = pemBlocks(keyText, path).filter(({ label }) => label.endsWith('PRIVATE KEY'));
  if (blocks.length === 0) throw new TokaidoError('IDENTITY', `${path} is not a private key in PEM form`);
  for (const { text: pem } of blocks) {
    let key: KeyObject;
    try {
      key = createPrivateKey(pem);
    } catch (error) {
      throw new TokaidoError('IDENTITY', `${path} is not a private key in PEM form: ${messageOf(error)}`, {
        cause: error,
      });
    }
    if (certificate.checkPrivateKey(key)) return { pem, key };
  }
  throw new TokaidoError('IDENTITY', `${path} is not the key of the certificate`, { hint: REISSUE });
}

function explain(
  fault: ChainFault,
  files: IdentityFiles,
  { chain, trust, nowMs }: { chain: readonly X509Certificate[]; trust: Trust; nowMs: number },
): never {
  const certificate = outOfDate(chain, trust, nowMs) ?? (chain[0] as X509Certificate);
  const { validFrom, validTo } = certificate;
  const which = certificate === chain[0] ? files.certificate : `a CA of ${files.certificate}`;
  switch (fault) {
    case 'expired':
      return refuse(`${which} expired on ${validTo}`, REISSUE);
    case 'not-yet-valid':
      return refuse(
        `${which} is valid from ${validFrom} on, and the clock here says ${new Date(nowMs).toISOString()}`,
        'compare the clock of this machine',
      );
    case 'revoked':
      return refuse(`${files.certificate} is revoked`, REISSUE);
    default:
      return refuse(
        `${files.certificate} was not issued by ${files.ca}`,
        'use the CA certificate of the CA that issued it; certificates of CAs in between go behind it in the same file',
      );
  }
}

/** Errors: `IDENTITY`, saying which file and what is wrong with it. */
export function loadNodeIdentity(files: IdentityFiles, nowMs: number): NodeIdentity {
  const certificatePem = readPublic(files.certificate, 'certificate');
  const keyText = readKey(files.key, 'key');
  const caPem = readPublic(files.ca, 'CA certificate');
  const chain = certificatesOf(certificatePem, files.certificate);
  const [certificate] = chain as [X509Certificate];
  const trust = new Trust(certificatesOf(caPem, files.ca));
  const { pem: keyPem } = keyFor(certificate, keyText, files.key);
  const fault = trust.fault(chain, nowMs);
  if (fault !== undefined) explain(fault, files, { chain, trust, nowMs });
  const identity = identityOf(certificate.subjectAltName);
  if (identity === undefined) refuse(`${files.certificate} does not carry exactly one tokaido:// name`, REISSUE);
  for (const { subjectAltName } of trust.authorities) {
    const authority = identityOf(subjectAltName);
    if (authority !== undefined && (authority.role !== 'ca' || authority.clusterId !== identity.clusterId)) {
      refuse(`${files.ca} is not the CA of cluster ${identity.clusterId}`, 'use the CA certificate of this cluster');
    }
  }
  return {
    identity,
    certificatePem,
    keyPem,
    caPem,
    chain,
    trust,
    notBeforeMs: Date.parse(certificate.validFrom),
    notAfterMs: Date.parse(certificate.validTo),
    fingerprint: certificate.fingerprint256,
    scopeOpening: readOpening(files.certificate, certificate.subjectAltName),
  };
}
