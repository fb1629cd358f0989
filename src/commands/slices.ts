/**
 * Long work on the event loop, cut into slices: matching a big database or reading many records must not make anybody
 * else wait. What is short is done at once and is not delayed.
 */
import { TokaidoError } from '../base/errors.js';
import type { Runtime } from '../base/runtime.js';

/** Longest time that a slice holds the event loop, ms: one more step may come on top. */
const SLICE_MS = 4;

/** The slice being worked on. */
export interface Slice {
  /** Whether to give way now. For steps that can stop early. */
  isOver(): boolean;
}

export class Slices {
  readonly #runtime: Pick<Runtime, 'monotonicMs' | 'after'>;

  constructor(runtime: Pick<Runtime, 'monotonicMs' | 'after'>) {
    this.#runtime = runtime;
  }

  /**
   * Calls `step` until it returns something, and gives way between slices. Rejects with `NETWORK` when nobody waits for
   * the result any more.
   */
  run<T>(step: (slice: Slice) => T | undefined, isWanted: () => boolean): T | Promise<T> {
    return this.#slice(step) ?? this.#rest(step, isWanted);
  }

  #slice<T>(step: (slice: Slice) => T | undefined): T | undefined {
    const endMs = this.#runtime.monotonicMs() + SLICE_MS;
    const slice = { isOver: () => this.#runtime.monotonicMs() >= endMs };
    for (;;) {
      const result = step(slice);
      if (result !== undefined || slice.isOver()) return result;
    }
  }

  async #rest<T>(step: (slice: Slice) => T | undefined, isWanted: () => boolean): Promise<T> {
    for (;;) {
      await new Promise<void>((resolve) => this.#runtime.after(0, resolve));
      if (!isWanted()) throw new TokaidoError('NETWORK', 'the client went away');
      const result = this.#slice(step);
      if (result !== undefined) return result;
    }
  }
}
