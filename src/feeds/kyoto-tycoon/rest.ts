/**
 * How a follower is slowed down on purpose (ktserver's -riv, `iv` of tune_replication): for each change that it took it
 * owes a rest, and rests when that is worth a timer.
 */
import type { Runtime } from '../../base/runtime.js';

/** Less than this is owed on, ms. */
const WORTH_MS = 100;
/** Longest single rest, ms: timers have a largest value. */
const SLICE_MS = 60_000;

export interface RestOptions {
  readonly runtime: Runtime;
  /** Owed for each change, ms. */
  readonly intervalMs: number;
  /** Whether nothing is to be taken for now. */
  onRest(isResting: boolean): void;
}

export class Rest {
  readonly #options: RestOptions;
  #owedMs = 0;
  #timer: { cancel(): void } | undefined;

  constructor(options: RestOptions) {
    this.#options = options;
  }

  took(changes: number): void {
    this.#owedMs += changes * this.#options.intervalMs;
    if (this.#timer !== undefined || this.#owedMs < WORTH_MS) return;
    this.#options.onRest(true);
    this.#slice();
  }

  #slice(): void {
    const sliceMs = Math.min(this.#owedMs, SLICE_MS);
    this.#timer = this.#options.runtime.after(sliceMs, () => {
      this.#owedMs -= sliceMs;
      if (this.#owedMs > 0) return this.#slice();
      this.#timer = undefined;
      this.#options.onRest(false);
    });
  }

  end(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }
}
