/**
 * Whom to believe, through the store: how a new CA comes to every node, and how an old one goes. The root takes a
 * statement from whoever brings it (it proves itself: a CA that the root believes has signed it) and keeps it in the
 * reserved database; every node verifies what it finds there once more, and then writes the file that `identity.ca` names.
 * A file that cannot be written is left to whoever manages it, with a warning.
 */
import type { X509Certificate } from 'node:crypto';
import type { Audit } from '../../base/audit.js';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import { replace } from '../../pki/files.js';
import type { NodeIdentity } from '../../pki/identity.js';
import { Trust } from '../../pki/trust.js';
import {
  believedAfter,
  counts,
  MAX_STATEMENTS,
  parseStatement,
  type SignedStatement,
  type TrustStatement,
} from '../../pki/trust-statement.js';
import { RESERVED_DATABASE, TRUST_KEYS } from '../../store/reserved.js';
import type { LocalStore } from '../../store/store.js';
import type { NodeCertificates } from './certificates.js';
import type { Published } from './published-lists.js';

/** How often the store is looked at. */
const LOOK_MS = 100;
const NUMBER_DIGITS = 10;

export interface PublishedTrustOptions {
  readonly certificates: NodeCertificates;
  /** The file of CA certificates. */
  readonly caFile: string;
  readonly store: () => LocalStore | undefined;
  /** Why this node takes no writes, if so. */
  readonly writeRefusal: () => TokaidoError | undefined;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly audit: Audit;
}

export class PublishedTrust {
  readonly #options: PublishedTrustOptions;
  readonly #looks: Timer;
  /** What was looked at last: records of the store, certificate and CAs of this node. */
  #seen = '';

  constructor(options: PublishedTrustOptions) {
    this.#options = options;
    this.#look();
    this.#looks = options.runtime.every(LOOK_MS, () => this.#look());
  }

  #stored(): TrustStatement[] {
    const texts = [...(this.#options.store()?.reserved(TRUST_KEYS) ?? [])].map(({ record }) => record.value.toString());
    return texts.slice(-MAX_STATEMENTS).flatMap((text) => {
      try {
        return [parseStatement(text)];
      } catch {
        this.#options.log.error({}, 'the store holds a statement of whom to believe that does not parse');
        return [];
      }
    });
  }

  #look(): void {
    const { certificates, store, runtime, log } = this.#options;
    const own = certificates.identity?.current;
    const records = [...(store()?.reserved(TRUST_KEYS) ?? [])];
    if (own === undefined || records.length === 0) return;
    const versions = records.map(({ record }) => record.versionNs).join(' ');
    const seen = `${versions} ${own.fingerprint} ${fingerprints(own.trust.authorities)}`;
    if (seen === this.#seen) return;
    this.#seen = seen;
    const at = { ownCluster: own.identity.clusterId, nowMs: runtime.nowMs() };
    const believed = believedAfter(this.#stored(), own.trust.authorities, at);
    if (fingerprints(believed) === fingerprints(own.trust.authorities)) return;
    const fault = new Trust(believed).fault(own.chain, at.nowMs);
    if (fault === undefined) {
      this.#write(believed, own);
      return;
    }
    // What it was renewed to may lie in its files, unread.
    certificates.reload();
    if (certificates.identity?.current.fingerprint !== own.fingerprint) this.#look();
    else
      log.error({ reason: fault }, 'the CA of this certificate is retired: renew it (tokaido ca renew), or join again');
  }

  #write(believed: readonly X509Certificate[], own: NodeIdentity): void {
    const { certificates, caFile, log } = this.#options;
    try {
      replace(caFile, believed.map(String).join(''), 'public');
    } catch (error) {
      const facts = { file: caFile, reason: messageOf(error) };
      log.warn(facts, 'whom to believe has changed, but identity.ca cannot be written: put the new trust.crt there');
      return;
    }
    certificates.reload();
    const change = { from: fingerprints(own.trust.authorities), to: fingerprints(believed) };
    log.info(change, 'whom to believe came through the store, and holds from now on');
  }

  /** Takes statements, as `tokaido ca rotate` writes them, from anybody. Errors: `IDENTITY`, `MALFORMED`, `READ_ONLY`. */
  async take(text: string): Promise<Published> {
    const { audit } = this.#options;
    try {
      const { fresh, published } = await this.#take(text);
      const authorities = fresh.at(-1)?.authorities.map(({ fingerprint256 }) => fingerprint256);
      if (fresh.length > 0) audit.record('trust.published', { statement: fresh.at(-1)?.number, authorities });
      return published;
    } catch (error) {
      audit.record('trust.refused', { reason: messageOf(error) });
      throw error;
    }
  }

  async #take(text: string): Promise<{ readonly fresh: readonly TrustStatement[]; readonly published: Published }> {
    const { writeRefusal, certificates, store, runtime } = this.#options;
    const refusal = writeRefusal();
    if (refusal !== undefined) throw refusal;
    const own = certificates.identity?.current;
    const current = store();
    if (own === undefined || current === undefined)
      throw new TokaidoError('NOT_READY', 'this node has nobody to tell whom to believe');
    const at = { ownCluster: own.identity.clusterId, nowMs: runtime.nowMs() };
    const stored = this.#stored();
    const brought = readAll(text).sort((a, b) => a.number - b.number);
    const fresh: TrustStatement[] = [];
    let known = 0;
    for (const statement of brought) {
      const same = stored.find(({ number }) => number === statement.number);
      if (same?.statement === statement.statement) {
        known++;
        continue;
      }
      if (same !== undefined)
        throw new TokaidoError('IDENTITY', `statement ${statement.number} of whom to believe says something else here`);
      // It was not needed when a later one came.
      if (statement.number < (stored.at(-1)?.number ?? 0)) continue;
      const believed = believedAfter([...stored, ...fresh], own.trust.authorities, at);
      // Those of a rotation that went by hand, before the one that is published: whoever signed them is gone by now.
      const isBefore = statement !== brought.at(-1);
      if (counts(statement, believed, at)) fresh.push(statement);
      else if (!isBefore) {
        throw new TokaidoError('IDENTITY', 'the statement is not signed by a CA that this node believes', {
          hint: 'bring the trust.json of the CA that the certificates of this cluster are from',
        });
      }
    }
    await current.writeReserved((transaction) => {
      for (const { number, statement, signature } of fresh) {
        const key = Buffer.from(`${TRUST_KEYS}${String(number).padStart(NUMBER_DIGITS, '0')}`);
        const value = Buffer.from(JSON.stringify({ statement, signature } satisfies SignedStatement));
        transaction.set(RESERVED_DATABASE, key, value, 0);
      }
    }).flushed;
    this.#look();
    return { fresh, published: { published: fresh.length, known } };
  }

  close(): void {
    this.#looks.cancel();
  }
}

function readAll(text: string): TrustStatement[] {
  let all: unknown;
  try {
    all = (JSON.parse(text) as { statements?: unknown }).statements;
  } catch {
    all = undefined;
  }
  if (!Array.isArray(all) || all.length === 0 || all.length > MAX_STATEMENTS)
    throw new TokaidoError('MALFORMED', 'these are not statements of whom to believe');
  return all.map((one) => parseStatement(JSON.stringify(one)));
}

function fingerprints(certificates: readonly X509Certificate[]): string {
  return certificates.map(({ fingerprint256 }) => fingerprint256).join(' ');
}
