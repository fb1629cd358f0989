/**
 * What a node stands on and what ends without anybody's doing: CAs, revocation lists, and the certificate of a node that
 * does not renew it. Each is said early, in the log, about once a day; status and metrics show the dates all the time.
 */
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { NodeCertificates } from './certificates.js';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** A CA that ends sooner is worth a word: a new one takes people some time. */
const CA_SOON_MS = 30 * DAY_MS;
/** Share of a certificate's life that is left when it should have been replaced. */
const CERTIFICATE_LEFT = 1 / 4;

export interface ExpiryWatchOptions {
  readonly certificates: NodeCertificates;
  /** Whether the node renews its certificate by itself; it says itself what goes wrong with that. */
  readonly renews: boolean;
  readonly runtime: Runtime;
  readonly log: Logger;
}

export class ExpiryWatch {
  readonly #options: ExpiryWatchOptions;
  readonly #looks: Timer;
  /** When each warning was given last. */
  readonly #saidMs = new Map<string, number>();

  constructor(options: ExpiryWatchOptions) {
    this.#options = options;
    this.#look();
    this.#looks = options.runtime.every(HOUR_MS, () => this.#look());
  }

  #look(): void {
    const { certificates, renews, runtime } = this.#options;
    const nowMs = runtime.nowMs();
    const identity = certificates.identity?.current;
    const caEndsMs = certificates.caEndsMs();
    if (caEndsMs !== undefined && caEndsMs - nowMs < CA_SOON_MS)
      this.#say('a CA that this certificate stands on ends soon: `tokaido ca rotate` or `ca intermediate`', caEndsMs);
    if (identity !== undefined && !renews) {
      const { notBeforeMs, notAfterMs } = identity;
      if (notAfterMs - nowMs < (notAfterMs - notBeforeMs) * CERTIFICATE_LEFT)
        this.#say('the certificate of this node ends soon, and this node does not renew it', notAfterMs);
    }
    const { nextUpdateMs } = certificates.revocation();
    if (nextUpdateMs !== undefined && nextUpdateMs < nowMs)
      this.#say('the next revocation list was due: `tokaido ca crl`. What is revoked stays so', nextUpdateMs);
  }

  #say(what: string, atMs: number): void {
    const { runtime, log } = this.#options;
    const nowMs = runtime.monotonicMs();
    if (nowMs - (this.#saidMs.get(what) ?? Number.NEGATIVE_INFINITY) < DAY_MS) return;
    this.#saidMs.set(what, nowMs);
    log.warn({ at: new Date(atMs).toISOString() }, what);
  }

  close(): void {
    this.#looks.cancel();
  }
}
