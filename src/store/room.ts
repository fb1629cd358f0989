/** Whether the data has reached the size that it may have on the disk: local transactions may only remove then. */
import type { Runtime } from '../base/runtime.js';
import type { Engine } from '../engine/engine.js';

/** How long an answer to "is the file full" holds, ms: the exact one takes a call per map. */
const FULL_FOR_MS = 1000;

export interface RoomOptions {
  readonly runtime: Runtime;
  /** Unbounded when absent. */
  readonly maxSizeBytes?: number;
}

export class Room {
  readonly #engine: Engine;
  readonly #runtime: Runtime;
  readonly #maxSizeBytes: number;
  #full = { is: false, untilMs: Number.NEGATIVE_INFINITY, asked: false };

  constructor(engine: Engine, { runtime, maxSizeBytes = Number.POSITIVE_INFINITY }: RoomOptions) {
    this.#engine = engine;
    this.#runtime = runtime;
    this.#maxSizeBytes = maxSizeBytes;
  }

  /** Measured at most once per commit. Room that removed data left in the file does not count: removing helps. */
  isFull(): boolean {
    if (this.#full.asked) return this.#full.is;
    const nowMs = this.#runtime.monotonicMs();
    if (this.#engine.sizeBytes() < this.#maxSizeBytes) {
      this.#full = { is: false, untilMs: nowMs, asked: true };
    } else if (nowMs >= this.#full.untilMs) {
      this.#full = { is: this.#engine.usedBytes() >= this.#maxSizeBytes, untilMs: nowMs + FULL_FOR_MS, asked: true };
    }
    return this.#full.is;
  }

  /** Another commit begins. */
  forget(): void {
    this.#full.asked = false;
  }
}
