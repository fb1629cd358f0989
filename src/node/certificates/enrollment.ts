/**
 * How certificates come to machines without an operator: the door for those that join, the way of requests up to the node
 * that signs, and this node's own renewal.
 */
import type { Audit } from '../../base/audit.js';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import { encodeAnswer } from '../../pki/enrollment.js';
import { readKey } from '../../pki/files.js';
import { certificatesOf } from '../../pki/pem.js';
import { isSignatureBy } from '../../pki/signer.js';
import { signerIn } from '../../pki/trust.js';
import type { LocalStore } from '../../store/store.js';
import { JoinDoor } from '../../transport/join-link.js';
import type { NodeConfig } from '../config/schema.js';
import type { NodeCertificates } from './certificates.js';
import { Renewal, type RenewalFacts } from './renewal.js';
import { type ListedToken, Signing } from './signing.js';

/** How long an answer may take, whoever it has to come from. */
const ANSWER_MS = 15_000;

export interface EnrollmentOptions {
  readonly config: Pick<NodeConfig, 'identity' | 'role' | 'signing'>;
  readonly certificates: NodeCertificates;
  readonly store: () => LocalStore | undefined;
  readonly writeRefusal: () => TokaidoError | undefined;
  readonly askUpstream: (request: Buffer) => Promise<Buffer>;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly audit: Audit;
}

const NOT_SIGNING = { ca: undefined, days: 0, passphrase: () => undefined };

export class Enrollment {
  readonly door: JoinDoor;
  readonly #options: EnrollmentOptions;
  readonly #signing: Signing;
  readonly #renewal: Renewal | undefined;

  constructor(options: EnrollmentOptions) {
    this.#options = options;
    const { config, certificates, store, writeRefusal, runtime, log, audit } = options;
    const { signing, identity } = config;
    this.#signing = new Signing({
      ...(signing === false ? NOT_SIGNING : { ...signing, passphrase: () => passphraseOf(signing.passphraseFile) }),
      identity: () => certificates.identity?.current,
      store,
      writeRefusal,
      runtime,
      log,
      audit,
    });
    this.door = new JoinDoor({
      runtime,
      trustPem: () => certificates.identity?.current.caPem ?? '',
      answer: async (request, from) => await this.answer(request, from),
    });
    if (identity === false || !identity.renew || certificates.identity === undefined) return;
    this.#renewal = new Renewal({
      files: identity,
      identity: certificates.identity,
      ask: async (request) => await this.answer(request, 'this node'),
      reload: () => certificates.reload(),
      runtime,
      log,
    });
  }

  /**
   * The answer to a request for a certificate: of this node if it is the root, else of its upstream. Why there is none is
   * an answer too: whoever asked must not wait for ever.
   */
  async answer(request: Buffer, from: string): Promise<Buffer> {
    if (this.#options.config.role === 'root') return await this.#signing.answer(request, from);
    try {
      return await within(this.#options.askUpstream(request), this.#options.runtime);
    } catch (error) {
      return encodeAnswer(error instanceof TokaidoError ? error : new TokaidoError('REPLICATION', messageOf(error)));
    }
  }

  /** Takes a token that a CA of the cluster has signed. Errors: `IDENTITY`, `READ_ONLY`, `MALFORMED`. */
  async takeToken(text: string): Promise<object> {
    return await this.#signing.takeToken(text, (statement, signature, chainPem) => {
      const own = this.#options.certificates.identity?.current;
      if (own === undefined) return false;
      const brought = chainPem === '' ? [] : certificatesOf(chainPem, 'what was sent');
      const isBy = (key: Parameters<typeof isSignatureBy>[0]): boolean => isSignatureBy(key, statement, signature);
      return signerIn(own.trust, [...own.chain, ...brought], isBy, this.#options.runtime.nowMs()) !== undefined;
    });
  }

  tokens(): readonly ListedToken[] {
    return this.#signing.listTokens();
  }

  /** `undefined` on a node that does not renew by itself. */
  renewal(): RenewalFacts | undefined {
    return this.#renewal?.facts();
  }

  close(): void {
    this.#renewal?.close();
  }
}

/** Errors: `TIMEOUT`. */
async function within<T>(answer: Promise<T>, runtime: Runtime): Promise<T> {
  return await new Promise<T>((resolve, reject) => {
    const late = new TokaidoError('TIMEOUT', `no answer from the upstream within ${ANSWER_MS} ms`);
    const timer = runtime.after(ANSWER_MS, () => reject(late));
    answer.then(resolve, reject).finally(() => timer.cancel());
  });
}

function passphraseOf(path: string | undefined): string | undefined {
  return path === undefined ? undefined : readKey(path, "passphrase of the CA's key").replace(/\r?\n$/, '');
}
