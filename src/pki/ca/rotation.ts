/**
 * A new CA for a running cluster. The old one certifies the new one's key (the bridge), and nodes present that behind
 * their certificates: who believes only the old CA believes new certificates through it, who got the new CA believes them
 * directly. So no node has to be told anything before another, and the old CA is retired when nobody needs it any more.
 */
import type { X509Certificate } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { TokaidoError } from '../../base/errors.js';
import { readKey, readPublic } from '../files.js';
import { parseIdentity } from '../names.js';
import { certificatesOf, toPem } from '../pem.js';
import { MAX_STATEMENTS, type SignedStatement, signStatement } from '../trust-statement.js';
import { buildCertificate } from '../x509.js';
import { type CaOptions, type Issued, type KeyAccess, type OpenCa, openCa, prepareCa } from './ca.js';
import { type IssuedRecord, readRecords } from './records.js';
import { type Change, settle, takeStep } from './step.js';

/** Folders of the CAs that this one took the place of. */
export function oldFolders(folder: string): string[] {
  const old = join(folder, 'old');
  return existsSync(old) ? readdirSync(old).map((name) => join(old, name)) : [];
}

/**
 * The CAs whose lists of revoked certificates can be signed here: the folder's own, and those it took the place of, as far
 * as their keys are there, or `oldSigner` signs for the one that is being rotated out. Of the others `writeCrl` keeps what
 * they have signed. Errors: those of `openCa`.
 */
export function allCas(folder: string, access: KeyAccess = {}, oldSigner?: string): [OpenCa, ...OpenCa[]] {
  const { passphrase } = access;
  const own = openCa(folder, access);
  const old = oldFolders(folder).flatMap((path) => {
    if (existsSync(join(path, 'ca.key'))) return [openCa(path, passphrase === undefined ? {} : { passphrase })];
    const isBelieved = certificatesOf(own.trustPem, folder).some(
      ({ fingerprint256 }) => fingerprint256 === openCertificate(path).fingerprint256,
    );
    return oldSigner === undefined || !isBelieved ? [] : [openCa(path, { signCommand: oldSigner })];
  });
  return [own, ...old];
}

/**
 * Puts a new CA of the same cluster in the place of the one in a folder, which goes to `old/`. Errors: `IDENTITY` when a
 * rotation is under way already.
 */
export async function rotateCa(options: CaOptions, oldKey: KeyAccess = {}): Promise<Issued> {
  const { folder, nowMs } = options;
  const step = `rotate ${options.name}`;
  const finished = settle<Issued>(folder, step);
  if (finished !== undefined) return finished;
  const old = openCa(folder, oldKey);
  if (!old.certificate.checkIssued(old.certificate)) {
    throw new TokaidoError('IDENTITY', `${folder} holds an intermediate CA`, {
      hint: 'make a new one with `tokaido ca intermediate`, and revoke the old one at the root if it has to go',
    });
  }
  if (isRotating(folder)) {
    throw new TokaidoError('IDENTITY', `${folder} is being rotated already`, {
      hint: `renew every node, then end it: tokaido ca rotate --retire (${tellAgain(folder)})`,
    });
  }
  const made = prepareCa(options, old.clusterId);
  const { fields } = made;
  const own = toPem('CERTIFICATE', await buildCertificate(fields, made.signer));
  const endsMs = Math.min(fields.notAfterMs, Date.parse(old.certificate.validTo));
  const bridgeFields = { ...fields, notAfterMs: endsMs, pathLength: 1 };
  const bridge = toPem('CERTIFICATE', await buildCertificate(bridgeFields, old.signer, old.certificate));
  const place = join('old', `${new Date(nowMs).toISOString().slice(0, 10)}-${fields.serial.slice(0, 8)}`);
  const trust = `${own}${old.certificate}`;
  const keyPath = join(folder, 'ca.key');
  const before: Change[] = [{ path: join(place, 'ca.crt'), text: String(old.certificate), kind: 'public' }];
  if (existsSync(keyPath)) before.push({ path: join(place, 'ca.key'), text: readKey(keyPath, 'CA key'), kind: 'key' });
  const after: Change[] = [
    { path: 'ca.crt', text: `${own}${bridge}`, kind: 'public' },
    { path: 'trust.crt', text: trust, kind: 'public' },
    // By the old CA, whom everybody believes.
    await statement(folder, trust, old),
  ];
  if (made.keyPem !== undefined) after.push({ path: 'ca.key', text: made.keyPem, kind: 'key' });
  const notAfter = new Date(fields.notAfterMs).toISOString();
  const files = after.map(({ path }) => join(folder, path));
  const issued = { identity: fields.names.uri[0] as string, serial: fields.serial, notAfter, files };
  return takeStep(folder, { name: step, changes: [...before, ...after], made: issued });
}

/** For who was interrupted between writing and publishing. */
function tellAgain(folder: string): string {
  return `to tell the nodes again: curl --data-binary @${statementsPath(folder)} http://ROOT:PORT/trust`;
}

/** What nodes were told of whom to believe, the newest last: signed, to be published at the root. */
export function statementsPath(folder: string): string {
  return join(folder, 'trust.json');
}

async function statement(folder: string, authorities: string, { signer, clusterId }: OpenCa): Promise<Change> {
  const path = statementsPath(folder);
  const before = existsSync(path)
    ? (JSON.parse(readPublic(path, 'statements')) as { readonly statements: readonly SignedStatement[] }).statements
    : [];
  const last = before.at(-1);
  const number = last === undefined ? 1 : (JSON.parse(last.statement) as { readonly number: number }).number + 1;
  const statements = [...before, await signStatement({ number, clusterId, authorities }, signer)];
  const text = `${JSON.stringify({ statements: statements.slice(-MAX_STATEMENTS) }, null, 2)}\n`;
  return { path: basename(path), text, kind: 'public' };
}

export interface RetireOptions extends KeyAccess {
  readonly nowMs: number;
  readonly force: boolean;
  /** Folders of intermediates, old and new: the CA itself does not know what they have issued. */
  readonly intermediates?: readonly string[] | undefined;
}

/**
 * Ends a rotation: from now on nodes are told to believe the new CA alone. Errors: `IDENTITY` when certificates of an
 * old CA, or of an intermediate of it, are still valid, or nobody can tell, unless `force`; their holders are cut off.
 */
export async function retireOld(folder: string, options: RetireOptions): Promise<string> {
  const { nowMs, force, intermediates = [], ...access } = options;
  const finished = settle<string>(folder, 'retire');
  if (finished !== undefined) return finished;
  if (!isRotating(folder)) {
    const hint =
      oldFolders(folder).length === 0 ? 'begin with: tokaido ca rotate' : `it was ended already; ${tellAgain(folder)}`;
    throw new TokaidoError('IDENTITY', `${folder} is not being rotated`, { hint });
  }
  if (!force) checkUnused(folder, intermediates, nowMs);
  const trust = String(openCertificate(folder));
  const changes: Change[] = [
    { path: 'ca.crt', text: trust, kind: 'public' },
    { path: 'trust.crt', text: trust, kind: 'public' },
    await statement(folder, trust, openCa(folder, access)),
  ];
  return takeStep(folder, { name: 'retire', changes, made: join(folder, 'trust.crt') });
}

/** Errors: `IDENTITY` when somebody still needs an old CA, or an intermediate of one may have issued to somebody. */
function checkUnused(folder: string, intermediates: readonly string[], nowMs: number): void {
  const own = readRecords(folder);
  const told = intermediates.map((path) => ({ certificate: openCertificate(path), records: readRecords(path) }));
  const olds = new Set(oldFolders(folder).map((path) => openCertificate(path).fingerprint256));
  const isOld = ({ issuer }: IssuedRecord): boolean => issuer !== undefined && olds.has(issuer);
  const isValid = ({ notAfter, revoked }: IssuedRecord): boolean => {
    return revoked === undefined && Date.parse(notAfter) > nowMs;
  };
  const isTold = ({ serial }: IssuedRecord): boolean => {
    return told.some(({ certificate }) => certificate.serialNumber === serial.toUpperCase());
  };
  const isCa = ({ identity }: IssuedRecord): boolean => parseIdentity(identity)?.role === 'ca';
  // A new intermediate of the same name says nothing of what the old one has issued.
  const untold = own.filter((record) => isCa(record) && isOld(record) && isValid(record) && !isTold(record));
  if (untold.length > 0) {
    throw new TokaidoError(
      'IDENTITY',
      `intermediates of the old CA may have issued what is in use: ${namesOf(untold)}`,
      {
        hint: 'give their folders, and those of the new ones, with --intermediate: what they issued is looked at; or revoke them, or retire the old CA all the same with --force',
      },
    );
  }
  const oldBelow = told.filter(({ certificate: { serialNumber } }) => {
    return own.some((record) => record.serial.toUpperCase() === serialNumber && isOld(record));
  });
  for (const { certificate } of oldBelow) olds.add(certificate.fingerprint256);
  const nodes = [...own, ...told.flatMap(({ records }) => records)].filter((record) => !isCa(record));
  // Renewed by a new CA since: what is left of an old certificate is not in use.
  const isNew = ({ issuer }: IssuedRecord): boolean => issuer !== undefined && !olds.has(issuer);
  const renewed = new Set(nodes.filter(isNew).map(({ identity }) => identity));
  const waiting = nodes.filter((record) => isOld(record) && isValid(record) && !renewed.has(record.identity));
  if (waiting.length === 0) return;
  throw new TokaidoError('IDENTITY', `certificates of the old CA are still in use: ${namesOf(waiting)}`, {
    hint: 'renew them first (tokaido ca renew; what an old intermediate issued: tokaido ca issue with a new one), revoke them, or retire the old CA all the same with --force',
  });
}

function namesOf(records: readonly IssuedRecord[]): string {
  return [...new Set(records.map(({ identity }) => identity.split('/').at(-1)))].join(', ');
}

/** Whether nodes are told to believe more than the CA in this folder. */
function isRotating(folder: string): boolean {
  const trust = join(folder, 'trust.crt');
  return existsSync(trust) && certificatesOf(readPublic(trust, 'CA certificates'), trust).length > 1;
}

function openCertificate(folder: string): X509Certificate {
  return certificatesOf(
    readPublic(join(folder, 'ca.crt'), 'CA certificate'),
    join(folder, 'ca.crt'),
  )[0] as X509Certificate;
}
