/**
 * Revocation lists in the store: how they come to every node. The root takes a list from its own file or from whoever
 * brings one (a list proves itself: it is signed by a CA that this node believes), keeps the newest of each CA in the
 * reserved database, and replication carries it on. Every node verifies what it finds there once more, against the CA
 * that issued the certificate in question, so a relay cannot invent a list.
 */
import { createHash, type X509Certificate } from 'node:crypto';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import { crlsOf, isNewer, MAX_CRL_BYTES, parseCrl, type RevocationList } from '../../pki/crl.js';
import type { NodeIdentity } from '../../pki/identity.js';
import { certificatesOf, pemBlocks } from '../../pki/pem.js';
import { signerIn } from '../../pki/trust.js';
import { LIST_KEYS, RESERVED_DATABASE } from '../../store/reserved.js';
import type { LocalStore } from '../../store/store.js';
import type { NodeCertificates } from './certificates.js';

/** How often the store is looked at. */
const LOOK_MS = 250;
/** Largest body that somebody may bring: lists in PEM, and certificates of the CAs that signed them. */
export const MAX_PUBLISHED_BYTES = 2 * MAX_CRL_BYTES;

export interface PublishedListsOptions {
  readonly certificates: NodeCertificates;
  readonly store: () => LocalStore | undefined;
  /** Why this node takes no writes, if so. */
  readonly writeRefusal: () => TokaidoError | undefined;
  readonly runtime: Runtime;
  readonly log: Logger;
}

/** What became of lists that somebody brought. */
export interface Published {
  /** New here, and on their way to every node. */
  readonly published: number;
  /** Here already. */
  readonly known: number;
  /** Left out, because a newer one of the same CA is here; absent when there is none. */
  readonly older?: number;
}

export class PublishedLists {
  readonly #options: PublishedListsOptions;
  readonly #looks: Timer;
  /** Which records of the store are in use: keys and versions. */
  #seen = '';
  /** The lists of the file that were brought into the store, or could not be. */
  #tried: readonly RevocationList[] | undefined;

  constructor(options: PublishedListsOptions) {
    this.#options = options;
    this.#look();
    this.#looks = options.runtime.every(LOOK_MS, () => this.#look());
  }

  #look(): void {
    const { store, certificates, log, writeRefusal } = this.#options;
    const records = [...(store()?.reserved(LIST_KEYS) ?? [])].map(({ key, record }) => ({
      name: `${key.toString('latin1')} ${record.versionNs}`,
      // A copy: the view is gone with the next call.
      der: Buffer.from(record.value),
    }));
    const seen = records.map(({ name }) => name).join(' ');
    if (seen !== this.#seen) {
      this.#seen = seen;
      const lists = records.flatMap(({ der }) => this.#parse(der));
      certificates.publish(lists);
      log.info(certificates.revocation(), 'revocation lists came through the store, and hold from now on');
    }
    const ofFile = certificates.fileLists.current;
    if (ofFile === this.#tried || ofFile.length === 0 || writeRefusal() !== undefined) return;
    this.#tried = ofFile;
    this.#store(ofFile, []).catch((error: unknown) => {
      log.warn({ reason: messageOf(error) }, 'the revocation lists of identity.crl hold here, but cannot be handed on');
    });
  }

  #parse(der: Buffer): RevocationList[] {
    try {
      return [parseCrl(der)];
    } catch (error) {
      this.#options.log.error({ reason: messageOf(error) }, 'the store holds a revocation list that does not parse');
      return [];
    }
  }

  /**
   * Takes lists in PEM, and certificates of intermediate CAs that signed them, from anybody. Resolves when they are safe.
   * Errors: `IDENTITY` when a list is not signed by a CA that this node believes; `READ_ONLY`, `NOT_READY`.
   */
  async take(text: string): Promise<Published> {
    const refusal = this.#options.writeRefusal();
    if (refusal !== undefined) throw refusal;
    const brought = pemBlocks(text, 'what was sent').some(({ label }) => label === 'CERTIFICATE')
      ? certificatesOf(text, 'what was sent')
      : [];
    return await this.#store(crlsOf(text, 'what was sent'), brought);
  }

  async #store(lists: readonly RevocationList[], brought: readonly X509Certificate[]): Promise<Published> {
    const identity = this.#options.certificates.identity?.current;
    const store = this.#options.store();
    if (identity === undefined || store === undefined)
      throw new TokaidoError('NOT_READY', 'this node has nobody to hand revocation lists to');
    const nowMs = this.#options.runtime.nowMs();
    const signed = lists.map((list) => ({ key: keyOf(signerOf(list, identity, brought, nowMs)), list }));
    const { flushed } = store.writeReserved((transaction) => {
      let published = 0;
      let older = 0;
      for (const { key, list } of signed) {
        const before = transaction.get(RESERVED_DATABASE, key);
        const value = before === undefined ? undefined : Buffer.from(before.value);
        if (value?.equals(list.der)) continue;
        if (value === undefined || isNewer(list, parseCrl(value))) {
          transaction.set(RESERVED_DATABASE, key, list.der, 0);
          published++;
        } else older++;
      }
      return { published, older };
    });
    const { published, older } = await flushed;
    this.#look();
    return { published, known: lists.length - published - older, ...(older === 0 ? {} : { older }) };
  }

  close(): void {
    this.#looks.cancel();
  }
}

/** One record for each key that signs lists: whatever certificates that CA has had. */
function keyOf(signer: X509Certificate): Buffer {
  const spki = signer.publicKey.export({ type: 'spki', format: 'der' });
  return Buffer.from(`${LIST_KEYS}${createHash('sha256').update(spki).digest('hex')}`);
}

/** The CA that signed a list. Errors: `IDENTITY` when it is none that this node believes. */
function signerOf(
  list: RevocationList,
  { trust, chain }: NodeIdentity,
  brought: readonly X509Certificate[],
  nowMs: number,
): X509Certificate {
  const signer = signerIn(trust, [...chain, ...brought], (key) => list.isSignedBy(key), nowMs);
  if (signer !== undefined) return signer;
  throw new TokaidoError('IDENTITY', 'a revocation list is not signed by a CA that this node believes', {
    hint: "send the certificate of an intermediate CA along with its list; the root must be in this node's identity.ca",
  });
}
