/** A new certificate and key for who has one: the same names, from the CA as it is now. */
import type { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { TokaidoError } from '../../base/errors.js';
import { readKey, readPublic, replace } from '../files.js';
import type { IdentityFiles } from '../identity.js';
import { identityOf } from '../names.js';
import { certificatesOf } from '../pem.js';
import { keptScope } from '../scope-names.js';
import { certify, type KeyKind, keyPem, newKeys, type OpenCa } from './ca.js';
import { type IssuedRecord, readRecords, recordedScope } from './records.js';

/** DNS names and addresses of a certificate. */
export function hostNamesOf({ subjectAltName = '' }: X509Certificate): { dns: string[]; ip: string[] } {
  const names = subjectAltName.split(', ');
  const of = (prefix: string): string[] =>
    names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
  return { dns: of('DNS:'), ip: of('IP Address:') };
}

/** What a node gets: its certificate with what leads to a root, and whom to believe. */
export interface NewIdentity {
  readonly keyPem: string;
  readonly certificatePem: string;
  readonly trustPem: string;
}

/**
 * Puts a new identity in place of the old one. Whatever moment a crash hits, a key in the key's file fits the certificate:
 * for a moment both keys are there.
 */
export function replaceIdentity(files: IdentityFiles, { keyPem: key, certificatePem, trustPem }: NewIdentity): void {
  replace(files.key, `${readKey(files.key, 'key').trimEnd()}\n${key}`, 'key');
  replace(files.certificate, certificatePem, 'public');
  replace(files.key, key, 'key');
  if (readFileSync(files.ca, 'utf8') !== trustPem) replace(files.ca, trustPem, 'public');
}

export interface RenewOptions {
  readonly files: IdentityFiles;
  readonly days: number;
  readonly nowMs: number;
  readonly keyKind?: KeyKind;
}

/**
 * Renews the certificate in a node's files. Errors: `IDENTITY` when it is not one of this CA or its predecessors, or is
 * revoked.
 */
export async function renewCertificate(options: RenewOptions, ca: OpenCa): Promise<IssuedRecord> {
  const { files, nowMs } = options;
  const [old] = certificatesOf(readPublic(files.certificate, 'certificate'), files.certificate) as [X509Certificate];
  checkIssued(ca, old, files.certificate);
  const identity = identityOf(old.subjectAltName);
  if (identity === undefined || identity.role === 'ca')
    throw new TokaidoError('IDENTITY', `${files.certificate} is not the certificate of a node or client`);
  const keys = newKeys(options.keyKind);
  const scope = keptScope(old.subjectAltName);
  const hidden = recordedScope(ca.folder, old.serialNumber);
  const request = { ...options, identity, ...hostNamesOf(old), scope, hidden, publicKey: keys.publicKey, nowMs };
  const { pem, record } = await certify(ca, request);
  replaceIdentity(files, { keyPem: keyPem(keys), certificatePem: pem, trustPem: ca.trustPem });
  return record;
}

function checkIssued({ folder }: OpenCa, certificate: X509Certificate, path: string): void {
  const record = readRecords(folder).find(({ serial }) => serial.toUpperCase() === certificate.serialNumber);
  if (record === undefined) {
    throw new TokaidoError('IDENTITY', `the CA in ${folder} has no record of ${path}: it was not issued there`, {
      hint: 'name the folder of the CA that issued it (signing.ca of the root, if the node joined or renews by itself), or issue one with `tokaido ca issue`',
    });
  }
  if (record.revoked === undefined) return;
  throw new TokaidoError('IDENTITY', `${path} is revoked: it is not renewed`, {
    hint: 'if its holder may come back, issue a new one with `tokaido ca issue`',
  });
}
