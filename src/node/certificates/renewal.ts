/**
 * A node's certificate renewed by the node itself: from two thirds of its life on it makes a new key, asks for a
 * certificate over its link to the upstream (or signs by itself, at the root), and puts both in place of the old ones.
 * Until that works it warns, in log, status and metrics, and goes on with what it has.
 */

import type { X509Certificate } from 'node:crypto';
import { createPrivateKey } from 'node:crypto';
import { accessSync, constants } from 'node:fs';
import { dirname } from 'node:path';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import { keyPem, newKeys } from '../../pki/ca/ca.js';
import { replaceIdentity } from '../../pki/ca/renewal.js';
import { decodeAnswer, encodeRequest, provenAuthorities, publicKeyText } from '../../pki/enrollment.js';
import type { IdentityFiles, NodeIdentity } from '../../pki/identity.js';
import type { Live } from '../../pki/live.js';
import { certificatesOf } from '../../pki/pem.js';
import { Trust } from '../../pki/trust.js';

/** Share of a certificate's life after which it is renewed. */
export const RENEW_AT = 2 / 3;
/** How often the clock is looked at: certificates of an hour are renewed in time. */
const LOOK_MS = 2_000;
/** Waits after a failure: a tenth of what is left, between these. */
const RETRY_MIN_MS = 10_000;
const RETRY_MAX_MS = 3_600_000;

export interface RenewalOptions {
  readonly files: IdentityFiles;
  readonly identity: Live<NodeIdentity>;
  /** Carries a request to whoever signs. */
  readonly ask: (request: Buffer) => Promise<Buffer>;
  /** Reads the files again. */
  readonly reload: () => void;
  readonly runtime: Runtime;
  readonly log: Logger;
}

/** For status and metrics. */
export interface RenewalFacts {
  readonly dueMs: number;
  readonly failures: number;
  readonly lastError: string | undefined;
}

export class Renewal {
  readonly #options: RenewalOptions;
  readonly #looks: Timer;
  #busy = false;
  #nextMs = 0;
  #failures = 0;
  #lastError: string | undefined;

  constructor(options: RenewalOptions) {
    this.#options = options;
    this.#looks = options.runtime.every(LOOK_MS, () => void this.look());
  }

  facts(): RenewalFacts {
    return { dueMs: this.#dueMs(), failures: this.#failures, lastError: this.#lastError };
  }

  #dueMs(): number {
    const { notBeforeMs, notAfterMs } = this.#options.identity.current;
    return notBeforeMs + (notAfterMs - notBeforeMs) * RENEW_AT;
  }

  /** Renews if it is time. */
  async look(): Promise<void> {
    const { runtime, log, identity } = this.#options;
    const nowMs = runtime.nowMs();
    if (this.#busy || nowMs < this.#dueMs() || nowMs < this.#nextMs) return;
    this.#busy = true;
    try {
      await this.#renew();
      this.#lastError = undefined;
    } catch (error) {
      this.#failures++;
      this.#lastError = messageOf(error);
      const leftMs = identity.current.notAfterMs - nowMs;
      this.#nextMs = nowMs + Math.min(RETRY_MAX_MS, Math.max(RETRY_MIN_MS, leftMs / 10)) * (0.5 + runtime.random() / 2);
      const hint = error instanceof TokaidoError ? error.hint : undefined;
      const when = leftMs > 0 ? `ends in ${Math.round(leftMs / 360_000) / 10} hours` : 'has expired';
      const message = `the certificate of this node ${when} and could not be renewed`;
      // The last third is a warning, the last tenth an emergency.
      const isUrgent = leftMs < (identity.current.notAfterMs - identity.current.notBeforeMs) / 10;
      log[isUrgent ? 'error' : 'warn']({ reason: this.#lastError, hint, leftMs }, message);
    } finally {
      this.#busy = false;
    }
  }

  async #renew(): Promise<void> {
    const { files, identity, ask, reload, runtime, log } = this.#options;
    // Rather than use up a certificate that cannot be kept.
    for (const file of [files.key, files.certificate]) accessSync(dirname(file), constants.W_OK);
    const own = identity.current;
    const keys = newKeys(own.chain[0]?.publicKey.asymmetricKeyType === 'ed25519' ? 'ed25519' : 'p256');
    const body = { kind: 'renew', certificate: own.certificatePem, publicKey: publicKeyText(keys) } as const;
    const answer = await ask(encodeRequest(body, createPrivateKey(own.keyPem), keys.privateKey));
    const { certificatePem, trustPem } = decodeAnswer(answer);
    const chain = certificatesOf(certificatePem, 'the new certificate') as [X509Certificate, ...X509Certificate[]];
    const nowMs = runtime.nowMs();
    const authorities = provenAuthorities(own.trust, chain, certificatesOf(trustPem, 'the CAs to believe'), nowMs);
    const [leaf] = chain;
    // Whoever passed the answer on cannot have changed what these say.
    const isOurs = leaf.checkPrivateKey(keys.privateKey) && leaf.subjectAltName === own.chain[0]?.subjectAltName;
    const fault = new Trust(authorities).fault(chain, nowMs);
    if (!isOurs || fault !== undefined)
      throw new TokaidoError(
        'IDENTITY',
        `what came back is not a certificate for this node: ${fault ?? 'other names'}`,
      );
    const pems = { keyPem: keyPem(keys), certificatePem, trustPem: authorities.map(String).join('') };
    replaceIdentity(files, pems);
    reload();
    log.info({ notAfter: leaf.validTo }, 'the certificate of this node is renewed');
  }

  close(): void {
    this.#looks.cancel();
  }
}
