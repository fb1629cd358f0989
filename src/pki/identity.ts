/** A node's own certificate, key and CA: loaded and checked before anything listens, so that a mistake shows at start. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { messageOf, TokaidoError } from '../base/errors.js';
import { readKey, readPublic } from './files.js';
import { type Identity, identityOf } from './names.js';

/** Paths of a node's identity. */
export interface IdentityFiles {
  readonly certificate: string;
  readonly key: string;
  readonly ca: string;
}

export interface NodeIdentity {
  readonly identity: Identity;
  readonly certificatePem: string;
  readonly keyPem: string;
  readonly caPem: string;
  /** When the certificate ends, ms since 1970. */
  readonly notAfterMs: number;
  /** SHA-256 of the certificate, as OpenSSL prints it. */
  readonly fingerprint: string;
}

function parse(pem: string, path: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw new TokaidoError('IDENTITY', `${path} is not a certificate in PEM form: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function refuse(message: string, hint: string): never {
  throw new TokaidoError('IDENTITY', message, { hint });
}

/** Errors: `IDENTITY`, saying which file and what is wrong with it. */
export function loadNodeIdentity(files: IdentityFiles, nowMs: number): NodeIdentity {
  const certificatePem = readPublic(files.certificate, 'certificate');
  const keyPem = readKey(files.key, 'key');
  const caPem = readPublic(files.ca, 'CA certificate');
  const certificate = parse(certificatePem, files.certificate);
  const ca = parse(caPem, files.ca);
  const reissue = 'issue a certificate with `tokaido ca issue`';
  let key: ReturnType<typeof createPrivateKey>;
  try {
    key = createPrivateKey(keyPem);
  } catch (error) {
    throw new TokaidoError('IDENTITY', `${files.key} is not a private key in PEM form: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (!certificate.checkPrivateKey(key)) refuse(`${files.key} is not the key of ${files.certificate}`, reissue);
  if (!certificate.checkIssued(ca) || !certificate.verify(ca.publicKey)) {
    refuse(`${files.certificate} was not issued by ${files.ca}`, 'use the CA certificate of the CA that issued it');
  }
  const notAfterMs = Date.parse(certificate.validTo);
  if (notAfterMs <= nowMs) refuse(`${files.certificate} expired on ${certificate.validTo}`, reissue);
  if (Date.parse(certificate.validFrom) > nowMs)
    refuse(`${files.certificate} is valid from ${certificate.validFrom} on`, 'compare the clock of this machine');
  const identity = identityOf(certificate.subjectAltName);
  if (identity === undefined) refuse(`${files.certificate} does not carry exactly one tokaido:// name`, reissue);
  const authority = identityOf(ca.subjectAltName);
  if (authority !== undefined && (authority.role !== 'ca' || authority.clusterId !== identity.clusterId)) {
    refuse(`${files.ca} is not the CA of cluster ${identity.clusterId}`, 'use the CA certificate of this cluster');
  }
  return { identity, certificatePem, keyPem, caPem, notAfterMs, fingerprint: certificate.fingerprint256 };
}
