/** What a CA keeps of the certificates it issued: one small file each, and the list of those that are revoked. */
import { X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, TokaidoError } from '../../base/errors.js';
import { crlsOf, type RevocationList } from '../crl.js';
import { readPublic, replace, writeNew } from '../files.js';
import { certificatesOf, toPem } from '../pem.js';
import { buildCrl } from '../x509.js';
import type { OpenCa } from './ca.js';

/** One certificate. */
export interface IssuedRecord {
  /** Upper-case hex. */
  readonly serial: string;
  readonly identity: string;
  readonly notBefore?: string;
  readonly notAfter: string;
  /** Fingerprint of the CA certificate that signed it. */
  readonly issuer?: string;
  /**
   * Names of what its holder may follow at most, also where the certificate hides them; it says nothing of it when absent.
   * What commits to them, where this CA was never told the names.
   */
  readonly scope?: readonly string[];
  readonly revoked?: string;
}

const DAY_MS = 86_400_000;
/** Certificates that ended longer ago than this are forgotten: no list needs to name them. */
const KEEP_MS = 7 * DAY_MS;

const recordPath = (folder: string, serial: string): string => join(folder, 'issued', `${serial}.json`);
export const crlPath = (folder: string): string => join(folder, 'ca.crl');

export function writeRecord(folder: string, record: IssuedRecord): void {
  writeNew(recordPath(folder, record.serial), `${JSON.stringify(record, null, 2)}\n`, 'public');
}

/** Every certificate that this CA knows of, the oldest first. Errors: `CORRUPT`. */
export function readRecords(folder: string): IssuedRecord[] {
  const issued = join(folder, 'issued');
  if (!existsSync(issued)) return [];
  const records = readdirSync(issued)
    .filter((name) => name.endsWith('.json'))
    .map((name) => {
      try {
        return JSON.parse(readFileSync(join(issued, name), 'utf8')) as IssuedRecord;
      } catch (error) {
        throw new TokaidoError(
          'CORRUPT',
          `${join(issued, name)} is not a record of a certificate: ${messageOf(error)}`,
        );
      }
    });
  return records.sort((a, b) => (a.notBefore ?? a.notAfter).localeCompare(b.notBefore ?? b.notAfter));
}

/** The scope names of a certificate with this serial (hex), as far as this CA knows them. */
export function recordedScope(folder: string, serial: string): readonly string[] | undefined {
  return readRecords(folder).find((record) => record.serial.toUpperCase() === serial.toUpperCase())?.scope;
}

/** Which certificates: those of a name, one serial, or one file. */
export type Selection = { readonly name: string } | { readonly serial: string } | { readonly certificate: string };

function select(folder: string, selection: Selection, nowMs: number): IssuedRecord[] {
  const records = readRecords(folder);
  if ('name' in selection) {
    // Those that are marked already as well: who was interrupted before the list was signed asks again.
    const found = records.filter(({ identity, notAfter }) => {
      return identity.split('/').at(-1) === selection.name && Date.parse(notAfter) > nowMs;
    });
    if (found.length > 0) return found;
    throw new TokaidoError('IDENTITY', `this CA has issued no certificate to ${selection.name} that is still valid`, {
      hint: 'tokaido ca list shows what it has issued; a certificate without a record is revoked with --certificate',
    });
  }
  if ('serial' in selection) {
    const serial = selection.serial.replace(/:/g, '').toUpperCase();
    const found = records.find((record) => record.serial.toUpperCase() === serial);
    if (found !== undefined) return [found];
    throw new TokaidoError('IDENTITY', `this CA has no record of serial ${serial}`, {
      hint: 'give the certificate itself: --certificate FILE',
    });
  }
  const path = selection.certificate;
  const certificate = new X509Certificate(readPublic(path, 'certificate'));
  const known = records.find(({ serial }) => serial.toUpperCase() === certificate.serialNumber);
  if (known !== undefined) return [known];
  const notAfter = new Date(certificate.validTo).toISOString();
  return [{ serial: certificate.serialNumber, identity: certificate.subjectAltName ?? certificate.subject, notAfter }];
}

/** Marks certificates as revoked; `writeCrl` then says so to everybody. Errors: `IDENTITY` when there are none. */
export function revoke(folder: string, selection: Selection, nowMs: number): IssuedRecord[] {
  return select(folder, selection, nowMs).map((record) => {
    const marked = { ...record, revoked: record.revoked ?? new Date(nowMs).toISOString() };
    replace(recordPath(folder, record.serial), `${JSON.stringify(marked, null, 2)}\n`, 'public');
    return marked;
  });
}

export interface WrittenCrl {
  readonly path: string;
  readonly pem: string;
  readonly revoked: number;
  readonly nextUpdate: string;
  /** What should be on a list of a CA whose key is not here, and is not; everything else is. */
  readonly unsaid: TokaidoError | undefined;
}

/**
 * Signs a new list of all revoked certificates and writes it to `ca.crl` of the first CA; the others are those it took the
 * place of, each with a list of its own in the same file. A list of a CA that is not among them stays there as it is.
 * Errors: `IDENTITY`.
 */
export async function writeCrl(
  cas: readonly [OpenCa, ...OpenCa[]],
  { days, nowMs }: { readonly days: number; readonly nowMs: number },
): Promise<WrittenCrl> {
  const [{ folder, chainPem, trustPem, certificate: current }] = cas;
  const path = crlPath(folder);
  const before = existsSync(path) ? crlsOf(readPublic(path, 'revocation list'), path) : [];
  const records = forgetOld(folder, nowMs).filter(({ revoked }) => revoked !== undefined);
  const nextUpdateMs = nowMs + days * DAY_MS;
  const kept = before.filter((list) => !cas.some(({ signer }) => list.isSignedBy(signer.publicKey)));
  const absent = certificatesOf(trustPem, folder).filter(({ fingerprint256 }) => {
    return !cas.some(({ certificate }) => certificate.fingerprint256 === fingerprint256);
  });
  const lists: Buffer[] = kept.map(({ der }) => der);
  for (const { certificate, signer } of cas) {
    const own = before.filter((list) => list.isSignedBy(signer.publicKey));
    const revoked = records.flatMap(({ serial, issuer = current.fingerprint256, revoked }) => {
      return issuer === certificate.fingerprint256 ? [{ serial, revokedMs: Date.parse(revoked as string) }] : [];
    });
    const number = own.reduce((most, list) => ((list.number ?? 0n) > most ? (list.number ?? 0n) : most), 0n) + 1n;
    lists.push(await buildCrl({ number, thisUpdateMs: nowMs, nextUpdateMs, revoked }, signer, certificate));
  }
  // Lists of an intermediate are believed by whoever can see that it is one.
  const pem = `${lists.map((der) => toPem('X509 CRL', der)).join('')}${chainPem}`;
  replace(path, pem, 'public');
  const unsaid = absent.map((ca) => unsaidOf(ca, records, kept, nowMs)).find((error) => error !== undefined);
  return { path, pem, revoked: records.length, nextUpdate: new Date(nextUpdateMs).toISOString(), unsaid };
}

function unsaidOf(
  { fingerprint256, publicKey, subject, validTo }: X509Certificate,
  records: readonly IssuedRecord[],
  kept: readonly RevocationList[],
  nowMs: number,
): TokaidoError | undefined {
  const said = kept.filter((list) => list.isSignedBy(publicKey));
  const unsaid = records.filter(({ serial, issuer, notAfter }) => {
    const isOn = said.some(({ serials }) => serials.has(serial.toUpperCase()));
    return issuer === fingerprint256 && Date.parse(notAfter) > nowMs && !isOn;
  });
  if (unsaid.length === 0) return undefined;
  const names = [...new Set(unsaid.map(({ identity }) => identity.split('/').at(-1)))].join(', ');
  const ca = `the CA that is being rotated out (${subject.replace(/\n/g, ', ')}, until ${validTo})`;
  return new TokaidoError(
    'IDENTITY',
    `${names} is marked as revoked, but no list says so: the certificate is of ${ca}, whose key is not here`,
    {
      hint: 'run it again with that key: give --old-signer COMMAND, or put its ca.key beside its ca.crt in old/; or retire that CA, after which its certificates open nothing: tokaido ca rotate --retire --force',
    },
  );
}

function forgetOld(folder: string, nowMs: number): IssuedRecord[] {
  return readRecords(folder).filter(({ serial, notAfter }) => {
    if (Date.parse(notAfter) > nowMs - KEEP_MS) return true;
    rmSync(recordPath(folder, serial), { force: true });
    return false;
  });
}
