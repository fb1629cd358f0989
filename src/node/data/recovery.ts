/**
 * What a root does when the machine went down under it: sending happens before flushing, so followers may know
 * transactions that its disk does not. Before it numbers anything new it waits for the followers it knew and takes back
 * what they have (the sessions do that), but no longer than it was told to. Then it begins a new epoch: numbers it may
 * have given out are never given out again, and whoever still has them is brought over by a snapshot. That is so even
 * when all came: those behind them may know more than they do.
 */
import { TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import type { DataDirectory } from './data-directory.js';

export interface RecoveryOptions {
  readonly directory: DataDirectory;
  readonly waitMs: number;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** Begins a new epoch, durably. */
  readonly beginEpoch: () => Promise<void>;
}

/** `beginning`: the waiting has ended, and what the new epoch begins with is on its way to the disk. */
type Phase = 'waiting' | 'beginning' | 'over';

export class Recovery {
  readonly #options: RecoveryOptions;
  readonly #missing: Set<string>;
  #phase: Phase;
  #finish: (() => void) | undefined;

  constructor(options: RecoveryOptions, isRoot: boolean) {
    this.#options = options;
    this.#missing = new Set(options.directory.knownFollowers);
    this.#phase = isRoot && options.directory.tailMayBeLost ? 'waiting' : 'over';
  }

  get active(): boolean {
    return this.#phase !== 'over';
  }

  /** Whether a follower that comes back now is still in time. */
  get isWaiting(): boolean {
    return this.#phase === 'waiting';
  }

  /** Why writes must wait, while they must. */
  refusal(): TokaidoError | undefined {
    if (!this.active) return undefined;
    return new TokaidoError(
      'NOT_READY',
      `recovering after an unclean shutdown: waiting for ${this.#missing.size} followers`,
      {
        hint: 'the root goes on by itself, at the latest after replication.recoveryWaitMs',
      },
    );
  }

  /** This follower has nothing that the root lacks (any more). */
  accountedFor(instanceId: string): void {
    this.#options.directory.rememberFollower(instanceId);
    this.#missing.delete(instanceId);
    if (this.#missing.size === 0) this.#finish?.();
  }

  /** Resolves when the root may number new transactions. */
  async complete(): Promise<void> {
    if (!this.active) return;
    const { log, waitMs, runtime, directory, beginEpoch } = this.#options;
    log.warn(
      { followers: this.#missing.size, waitMs },
      'the machine went down uncleanly: asking followers for lost transactions',
    );
    if (this.#missing.size > 0) {
      await new Promise<void>((resolve) => {
        const timer = runtime.after(waitMs, resolve);
        this.#finish = () => {
          timer.cancel();
          resolve();
        };
      });
    }
    this.#phase = 'beginning';
    if (this.#missing.size > 0) {
      log.error({ missing: this.#missing.size }, 'not every follower came back in time: what only they have is lost');
      directory.forgetFollowers([...this.#missing]);
    }
    await beginEpoch();
    directory.tailSettled();
    this.#phase = 'over';
    log.info({}, 'recovery complete');
  }
}
