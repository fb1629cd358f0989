/**
 * The node that signs: a root with a CA (best an intermediate) of its own. Requests come from new machines and from nodes
 * that renew, here or through relays; what they prove is decided here alone. Tokens live in the reserved database, and a
 * token is used up in the same transaction that allows its use.
 */
import { createHash, type X509Certificate } from 'node:crypto';
import type { Audit } from '../../base/audit.js';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import { certify, openCa } from '../../pki/ca/ca.js';
import { readRecords, recordedScope } from '../../pki/ca/records.js';
import { hostNamesOf } from '../../pki/ca/renewal.js';
import {
  type Certified,
  decodeRequest,
  encodeAnswer,
  type JoinBody,
  keyFromText,
  type RenewBody,
  type Request,
} from '../../pki/enrollment.js';
import { hideScope } from '../../pki/hidden-scope.js';
import type { NodeIdentity } from '../../pki/identity.js';
import { matchesHost, matchesName, type TokenStatement } from '../../pki/join-token.js';
import { checkName, type Identity, identityOf } from '../../pki/names.js';
import { certificatesOf } from '../../pki/pem.js';
import { areScopeNames, keptScope } from '../../pki/scope-names.js';
import { RESERVED_DATABASE } from '../../store/reserved.js';
import type { LocalStore } from '../../store/store.js';

const TOKENS = 'token/';
/** A name may have this many certificates in an hour: more is a loop, or an attack on the disk. */
const MAX_PER_HOUR = 20;
const HOUR_MS = 3_600_000;
/** Most tokens that the cluster keeps, used and unused. */
const MAX_TOKENS = 10_000;
/** Used, revoked and expired tokens are kept as long, for the list. */
const KEEP_MS = 7 * 24 * HOUR_MS;

/** A token in the store. */
export interface TokenRecord {
  /** JSON of a `TokenStatement`, as it was signed. */
  readonly statement: string;
  readonly revokedMs?: number;
  readonly used?: { readonly atMs: number; readonly name: string; readonly keyHash: string };
}

/** A token as lists show it. */
export interface ListedToken extends Omit<TokenStatement, 'publicKey' | 'clusterId'> {
  readonly state: 'open' | 'used' | 'expired' | 'revoked';
  readonly usedBy?: string;
}

export interface SigningOptions {
  /** Folder of the CA; `undefined` on a node that does not sign. */
  readonly ca: string | undefined;
  readonly passphrase: () => string | undefined;
  readonly days: number;
  readonly identity: () => NodeIdentity | undefined;
  readonly store: () => LocalStore | undefined;
  readonly writeRefusal: () => TokaidoError | undefined;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly audit: Audit;
}

/** Whom a certificate is for, and what it lets its holder follow. */
interface Certifiable {
  readonly identity: Identity;
  /** As it stands in the certificate. */
  readonly scope: readonly string[];
  /** The names behind a commitment, where they are known. */
  readonly hidden?: readonly string[] | undefined;
  /** For the machine that gets its first certificate. */
  readonly scopeOpening?: string;
}

const keyOf = (id: string): Buffer => Buffer.from(`${TOKENS}${id}`);

export class Signing {
  readonly #options: SigningOptions;
  /** When certificates of each name were signed, in the last hour. */
  readonly #recent = new Map<string, number[]>();

  constructor(options: SigningOptions) {
    this.#options = options;
  }

  get signs(): boolean {
    return this.#options.ca !== undefined;
  }

  /** Answers a request; what is refused is an answer too. */
  async answer(bytes: Buffer, from: string): Promise<Buffer> {
    const { log } = this.#options;
    try {
      return encodeAnswer(await this.#certify(decodeRequest(bytes), from));
    } catch (error) {
      log.warn({ from, reason: messageOf(error) }, 'a request for a certificate is refused');
      this.#options.audit.record('join.refused', { from, reason: messageOf(error) });
      const known = error instanceof TokaidoError ? error : new TokaidoError('IDENTITY', 'the node that signs failed');
      return encodeAnswer(known);
    }
  }

  async #certify(request: Request, from: string): Promise<Certified> {
    const { ca: folder, passphrase, runtime, days, log } = this.#options;
    if (folder === undefined) {
      throw new TokaidoError('IDENTITY', 'the root of this cluster signs no certificates', {
        hint: 'set signing.ca in the configuration of the root, or issue with `tokaido ca issue`',
      });
    }
    const secret = passphrase();
    const ca = openCa(folder, secret === undefined ? {} : { passphrase: secret });
    const nowMs = runtime.nowMs();
    const { body, publicKey } = request;
    const { identity, scope, hidden, scopeOpening } =
      body.kind === 'join' ? await this.#joining(request, body, nowMs) : this.#renewing(request, body, folder, nowMs);
    if (identity.clusterId !== ca.clusterId)
      throw new TokaidoError('IDENTITY', `the CA in ${folder} is not that of cluster ${identity.clusterId}`);
    this.#limit(identity.name, nowMs);
    const { dns, ip } = body.kind === 'join' ? body : hostNamesOf(leafOf(body));
    const { pem, record } = await certify(ca, { publicKey, identity, days, dns, ip, scope, hidden, nowMs });
    const { serial, notAfter } = record;
    if (body.kind === 'join') {
      const facts = { from, identity: record.identity, serial, notAfter, token: body.token, scope: hidden ?? scope };
      this.#options.audit.record('node.joined', facts);
    }
    log.info({ from, kind: body.kind, identity: record.identity, serial, notAfter }, 'a certificate is signed');
    return { certificatePem: pem, trustPem: ca.trustPem, scopeOpening };
  }

  #limit(name: string, nowMs: number): void {
    const times = (this.#recent.get(name) ?? []).filter((atMs) => atMs > nowMs - HOUR_MS);
    if (times.length >= MAX_PER_HOUR) {
      throw new TokaidoError('OVERLOADED', `${name} was given ${times.length} certificates within an hour`);
    }
    if (this.#recent.size > MAX_TOKENS) this.#recent.clear();
    this.#recent.set(name, [...times, nowMs]);
  }

  #renewing(request: Request, body: RenewBody, folder: string, nowMs: number): Certifiable {
    const own = this.#options.identity();
    const chain = certificatesOf(body.certificate, 'the certificate that was sent');
    const [leaf] = chain as [X509Certificate];
    const fault = own === undefined ? 'untrusted-ca' : own.trust.fault(chain, nowMs);
    if (fault !== undefined) throw new TokaidoError('IDENTITY', `the certificate to renew does not count: ${fault}`);
    if (!request.isSignedBy(leaf.publicKey))
      throw new TokaidoError('IDENTITY', 'the request is not signed by the key of the certificate to renew');
    const identity = identityOf(leaf.subjectAltName);
    if (identity === undefined || identity.role === 'ca' || identity.clusterId !== own?.identity.clusterId)
      throw new TokaidoError('IDENTITY', 'the certificate to renew is not that of a node of this cluster');
    return { identity, scope: keptScope(leaf.subjectAltName), hidden: recordedScope(folder, leaf.serialNumber) };
  }

  /** Uses the token up. A machine that lost the answer may ask again, with the same key. */
  async #joining(request: Request, body: JoinBody, nowMs: number): Promise<Certifiable> {
    const { store, writeRefusal } = this.#options;
    const refusal = writeRefusal();
    if (refusal !== undefined) throw refusal;
    const current = store();
    if (current === undefined) throw new TokaidoError('NOT_READY', 'this root has no data yet');
    const keyHash = createHash('sha256').update(body.publicKey).digest('hex');
    checkName(body.name);
    const written = current.writeReserved((transaction) => {
      const row = transaction.get(RESERVED_DATABASE, keyOf(body.token.slice(0, 64)));
      const record = row === undefined ? undefined : (JSON.parse(row.value.toString('utf8')) as TokenRecord);
      const statement = checkToken(record, request, body, nowMs, keyHash);
      if (statement.name.includes('*') && record?.used === undefined) this.#checkFree(body.name, nowMs);
      const used = { atMs: nowMs, name: body.name, keyHash };
      const next = Buffer.from(JSON.stringify({ ...record, used } satisfies Partial<TokenRecord>));
      transaction.set(RESERVED_DATABASE, keyOf(statement.id), next, statement.expiresMs + KEEP_MS);
      const { clusterId, role, scope = [] } = statement;
      const identity = { clusterId, role, name: body.name };
      if (scope.length === 0) return { identity, scope };
      const { name, opening } = hideScope(scope);
      return { identity, scope: [name], hidden: scope, scopeOpening: opening };
    });
    // On the disk before anything is signed: a token that was used must not come back with a power cut.
    return await written.flushed;
  }

  /**
   * Scopes and policies go by names: a token that leaves the name open is not for one that somebody has. Errors:
   * `IDENTITY`.
   */
  #checkFree(name: string, nowMs: number): void {
    const isTaken = readRecords(this.#options.ca as string).some(({ identity, notAfter, revoked }) => {
      return identity.split('/').at(-1) === name && revoked === undefined && Date.parse(notAfter) > nowMs;
    });
    if (!isTaken) return;
    throw new TokaidoError('IDENTITY', `the name ${name} is taken: there is a valid certificate for it`, {
      hint: 'choose another name, revoke that certificate, or make a token for exactly this name',
    });
  }

  /** Takes a token that a CA of this cluster has signed. Errors: `IDENTITY`, `READ_ONLY`. */
  async takeToken(
    text: string,
    isSignedByCa: (statement: Buffer, signature: Buffer, chain: string) => boolean,
  ): Promise<object> {
    const refusal = this.#options.writeRefusal();
    if (refusal !== undefined) throw refusal;
    const store = this.#options.store();
    if (store === undefined) throw new TokaidoError('NOT_READY', 'this root has no data yet');
    let sent: { statement: string; signature: string; chain: string };
    let statement: TokenStatement & { revoke?: string };
    try {
      sent = JSON.parse(text) as typeof sent;
      statement = JSON.parse(sent.statement) as typeof statement;
      keyFromText(statement.publicKey);
    } catch {
      throw new TokaidoError('MALFORMED', 'this is not a token');
    }
    const isOurs = statement.clusterId === this.#options.identity()?.identity.clusterId;
    const signature = Buffer.from(String(sent.signature), 'base64');
    if (!isOurs || !isSignedByCa(Buffer.from(sent.statement), signature, String(sent.chain))) {
      throw new TokaidoError('IDENTITY', 'the token is not signed by a CA that this node believes');
    }
    const { id, expiresMs, scope } = statement;
    if (scope !== undefined && !areScopeNames(scope)) throw new TokaidoError('MALFORMED', 'this is not a scope');
    const isRevocation = statement.revoke === id;
    const nowMs = this.#options.runtime.nowMs();
    if ([...store.reserved(TOKENS)].length >= MAX_TOKENS)
      throw new TokaidoError('OVERLOADED', `there are ${MAX_TOKENS} tokens already`);
    await store.writeReserved((transaction) => {
      const row = transaction.get(RESERVED_DATABASE, keyOf(id));
      const before = row === undefined ? undefined : (JSON.parse(row.value.toString('utf8')) as TokenRecord);
      // The same token again must not make it new.
      const record = before ?? { statement: sent.statement };
      const next = isRevocation ? { ...record, revokedMs: record.revokedMs ?? nowMs } : record;
      transaction.set(RESERVED_DATABASE, keyOf(id), Buffer.from(JSON.stringify(next)), expiresMs + KEEP_MS);
    }).flushed;
    return { id, state: isRevocation ? 'revoked' : 'open' };
  }

  listTokens(): ListedToken[] {
    const nowMs = this.#options.runtime.nowMs();
    return [...(this.#options.store()?.reserved(TOKENS) ?? [])].map(({ record }) => {
      const { statement, revokedMs, used } = JSON.parse(record.value.toString('utf8')) as TokenRecord;
      const { publicKey: _, clusterId: __, ...shown } = JSON.parse(statement) as TokenStatement;
      const isOver = shown.expiresMs <= nowMs;
      const state = used !== undefined ? 'used' : revokedMs !== undefined ? 'revoked' : isOver ? 'expired' : 'open';
      return { ...shown, state, ...(used === undefined ? {} : { usedBy: used.name }) };
    });
  }
}

function leafOf({ certificate }: RenewBody): X509Certificate {
  return certificatesOf(certificate, 'the certificate that was sent')[0] as X509Certificate;
}

/** Errors: `IDENTITY`, always for a token that does not fit; whether there is one is nobody's business. */
function checkToken(
  record: TokenRecord | undefined,
  request: Request,
  body: JoinBody,
  nowMs: number,
  keyHash: string,
): TokenStatement {
  const statement = record === undefined ? undefined : (JSON.parse(record.statement) as TokenStatement);
  if (record === undefined || statement === undefined || !request.isSignedBy(keyFromText(statement.publicKey)))
    throw new TokaidoError('IDENTITY', 'there is no such token');
  if (record.revokedMs !== undefined) throw new TokaidoError('IDENTITY', `token ${statement.id} is revoked`);
  if (statement.expiresMs <= nowMs) throw new TokaidoError('IDENTITY', `token ${statement.id} has expired`);
  if (record.used !== undefined && record.used.keyHash !== keyHash)
    throw new TokaidoError('IDENTITY', `token ${statement.id} was used already, by ${record.used.name}`);
  if (record.used !== undefined && record.used.name !== body.name)
    throw new TokaidoError('IDENTITY', `token ${statement.id} was used for the name ${record.used.name}`);
  if (statement.role !== body.role)
    throw new TokaidoError('IDENTITY', `token ${statement.id} is for the role ${statement.role}, not ${body.role}`);
  if (!matchesName(statement.name, body.name))
    throw new TokaidoError('IDENTITY', `token ${statement.id} is for names ${statement.name}, not ${body.name}`);
  const host = [...body.dns, ...body.ip].find((asked) => !matchesHost(statement.hosts ?? [], asked));
  if (host !== undefined) {
    throw new TokaidoError('IDENTITY', `token ${statement.id} is not for the host name or address ${host}`, {
      hint: 'clients would take the machine for that host: make a token that allows it, with --hosts',
    });
  }
  return statement;
}
