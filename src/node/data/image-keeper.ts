/**
 * Saves the databases in memory in the background: at the configured interval, earlier when the update log is about to
 * be cut behind the last image, and once more when the node stops.
 */
import { messageOf } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { LocalStore } from '../../store/store.js';
import { saveImage } from './memory-image.js';

export interface ImageKeeperOptions {
  /** Time between two images, ms; 0 for none. */
  readonly saveIntervalMs: number;
  readonly compress: boolean;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** The current store and its folder. */
  current(): { readonly store: LocalStore; readonly folder: string } | undefined;
}

/** How often it looks whether an image is due. */
const LOOK_MS = 1000;

export class ImageKeeper {
  readonly #options: ImageKeeperOptions;
  readonly #timer: Timer | undefined;
  #savedMs: number;
  /** Local number up to which the last image reaches, of which store. */
  #saved: { readonly store: LocalStore; readonly next: number } | undefined;
  #saving: Promise<void> | undefined;

  constructor(options: ImageKeeperOptions) {
    this.#options = options;
    this.#savedMs = options.runtime.monotonicMs();
    if (options.saveIntervalMs > 0) this.#timer = options.runtime.every(LOOK_MS, () => this.#look());
  }

  #look(): void {
    const { runtime, saveIntervalMs } = this.#options;
    if (this.#saving !== undefined) return;
    if (runtime.monotonicMs() - this.#savedMs >= saveIntervalMs || this.#isLogCutSoon()) void this.save();
  }

  /** The image lies in the older half of a log that is being cut. */
  #isLogCutSoon(): boolean {
    const { store } = this.#options.current() ?? {};
    if (store === undefined || store.log.first <= 1) return false;
    const reached = this.#saved?.store === store ? this.#saved.next : 1;
    return reached - store.log.first < (store.log.next - store.log.first) / 2;
  }

  /** Saves now, unless nothing changed since the last time. A failure is logged and tried again at the next look. */
  async save(): Promise<void> {
    this.#saving ??= this.#save().finally(() => {
      this.#saving = undefined;
    });
    await this.#saving;
  }

  async #save(): Promise<void> {
    const { runtime, log, compress } = this.#options;
    const current = this.#options.current();
    if (current === undefined || !current.store.databases().some(({ spec }) => spec.storage === 'memory')) return;
    const { next } = current.store.log;
    if (this.#saved?.store === current.store && this.#saved.next === next) return;
    const startMs = runtime.monotonicMs();
    try {
      const bytes = await saveImage(current.store, current.folder, compress);
      this.#saved = { store: current.store, next };
      this.#savedMs = runtime.monotonicMs();
      log.info({ bytes, tookMs: Math.round(this.#savedMs - startMs) }, 'saved the databases in memory');
    } catch (error) {
      log.error({ reason: messageOf(error) }, 'the databases in memory could not be saved; it will be tried again');
    }
  }

  /** The last image, if images are wanted. The store is still open. */
  async stop(): Promise<void> {
    this.#timer?.cancel();
    if (this.#options.saveIntervalMs > 0) await this.save();
  }
}
