/** Keeps a running node's values sealed as its keys and configuration say now, in the background. */
import { messageOf } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { LocalStore } from '../../store/store.js';
import type { Encryption } from './encryption.js';
import type { StoreHolder } from './store-holder.js';

/** Between two slices: the rest of the time is everybody else's. */
const PAUSE_MS = 10;
/** Until it looks again, while there is no store, a snapshot is being loaded, or something failed. */
const AGAIN_MS = 1000;

export interface ResealerOptions {
  readonly encryption: Encryption;
  readonly stores: StoreHolder;
  readonly runtime: Runtime;
  readonly log: Logger;
}

/** For status and metrics. */
export interface ResealFacts {
  /** Whether values may still need another key than the current one. */
  readonly isPending: boolean;
  readonly looked: number;
  readonly written: number;
}

export class Resealer {
  readonly #options: ResealerOptions;
  #timer: Timer | undefined;
  #isRunning = false;
  #isClosed = false;
  /** What was reached, on the disk, and in which store. */
  #done: { readonly target: string; readonly store: LocalStore } | undefined;
  /** The last failure that was logged: the same one is said once. */
  #failure = '';

  constructor(options: ResealerOptions) {
    this.#options = options;
    options.encryption.onChange(() => this.#wake());
    options.stores.onSwap(() => this.#wake());
    this.#wake();
  }

  /** Another store, or other keys. */
  #wake(): void {
    if (!this.#isRunning) this.#schedule(0);
  }

  get facts(): ResealFacts {
    const { encryption, stores } = this.#options;
    const { current } = stores;
    const progress = current?.resealing.progress;
    const { looked, written } = progress?.target === encryption.target ? progress : { looked: 0, written: 0 };
    const isDone = this.#done?.target === encryption.target && this.#done.store === current;
    return { isPending: !isDone, looked, written };
  }

  #schedule(delayMs: number): void {
    this.#timer?.cancel();
    if (this.#isClosed) return;
    this.#timer = this.#options.runtime.after(delayMs, () => {
      this.#isRunning = true;
      this.#round()
        .catch((error: unknown) => this.#failed(error))
        .then((againMs) => {
          this.#isRunning = false;
          if (againMs !== undefined) this.#schedule(againMs);
        });
    });
  }

  /** Returns when to go on, `undefined` when there is nothing to do until it is woken. */
  async #round(): Promise<number | undefined> {
    const { encryption, stores } = this.#options;
    const store = stores.current;
    if (store === undefined) return AGAIN_MS;
    const { target } = encryption;
    if (await store.resealing.step(target)) return PAUSE_MS;
    // A power cut must not bring back a value that needs a key which is gone.
    await store.flush();
    // Another store is in the making: its first rows may have been sealed with an older key.
    if (stores.isLoading) return AGAIN_MS;
    if (stores.current !== store || encryption.target !== target) return 0;
    if (this.#done?.target !== target || this.#done.store !== store) this.#finished(store, target);
    return undefined;
  }

  #finished(store: LocalStore, target: string): void {
    const { encryption, log } = this.#options;
    this.#done = { target, store };
    this.#failure = '';
    const { looked = 0, written = 0 } = store.resealing.progress ?? {};
    const { keyId: key, olderKeyIds: notNeeded } = encryption;
    const facts = { key, looked, written };
    if (notNeeded.length > 0)
      log.info({ ...facts, notNeeded }, 'all values are encrypted with the current key: the older ones can be removed');
    else if (written > 0) log.info(facts, 'all values are encrypted as the configuration says');
  }

  #failed(error: unknown): number {
    if (this.#isClosed) return AGAIN_MS;
    const reason = messageOf(error);
    if (reason !== this.#failure)
      this.#options.log.error({ reason }, 'cannot encrypt stored values anew; it is tried again');
    this.#failure = reason;
    return AGAIN_MS;
  }

  close(): void {
    this.#isClosed = true;
    this.#timer?.cancel();
  }
}
