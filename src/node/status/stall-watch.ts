/**
 * Moments in which this process answered nobody. Everything of a node happens on one event loop, in slices of a few ms;
 * a timer that comes late tells that one was longer, or that the machine had no processor for us. Both keep readers
 * waiting, and nothing else shows it.
 */
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';

/** How often it looks. A stall is told within this. */
const LOOK_MS = 250;
/** Stalls are counted from these lengths on, ms. */
const LENGTHS_MS = [100, 1000] as const;
/** One this long is told in the log. */
const TOLD_MS = 1000;
/** But at most so often. */
const TOLD_EVERY_MS = 60_000;

export interface StallWatchOptions {
  readonly runtime: Pick<Runtime, 'monotonicMs' | 'every'>;
  readonly log: Logger;
  /** Processor time that this process has used, ms. */
  readonly usedMs?: () => number;
}

function processorMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

export class StallWatch {
  readonly #runtime: StallWatchOptions['runtime'];
  readonly #log: Logger;
  readonly #usedMs: () => number;
  readonly #timer: Timer;
  readonly #counts = new Map<number, number>(LENGTHS_MS.map((lengthMs) => [lengthMs, 0]));
  #lookedMs: number;
  #used: number;
  #toldMs = Number.NEGATIVE_INFINITY;
  #lateMs = 0;

  constructor({ runtime, log, usedMs = processorMs }: StallWatchOptions) {
    this.#runtime = runtime;
    this.#log = log;
    this.#usedMs = usedMs;
    this.#lookedMs = runtime.monotonicMs();
    this.#used = usedMs();
    this.#timer = runtime.every(LOOK_MS, () => this.#look());
  }

  /** How many stalls were at least so long (ms). */
  get counts(): ReadonlyMap<number, number> {
    return this.#counts;
  }

  /** For how long, in all, since the start, ms. */
  get stalledMs(): number {
    return this.#lateMs;
  }

  close(): void {
    this.#timer.cancel();
  }

  #look(): void {
    const nowMs = this.#runtime.monotonicMs();
    const used = this.#usedMs();
    const lateMs = nowMs - this.#lookedMs - LOOK_MS;
    const busyMs = used - this.#used;
    this.#lookedMs = nowMs;
    this.#used = used;
    if (lateMs < LENGTHS_MS[0]) return;
    this.#lateMs += lateMs;
    for (const lengthMs of LENGTHS_MS) {
      if (lateMs >= lengthMs) this.#counts.set(lengthMs, (this.#counts.get(lengthMs) as number) + 1);
    }
    if (lateMs >= TOLD_MS && nowMs - this.#toldMs >= TOLD_EVERY_MS) this.#tell(lateMs, busyMs, nowMs);
  }

  /** `busyMs`: how long of that this process was computing. */
  #tell(lateMs: number, busyMs: number, nowMs: number): void {
    this.#toldMs = nowMs;
    const facts = { stalledMs: Math.round(lateMs), busyMs: Math.round(busyMs) };
    const why =
      busyMs < lateMs / 2
        ? 'the machine gave this process no processor, or stood still itself: look at its load and its memory'
        : 'something took long here: report it with the lines of the log before this one';
    this.#log.warn(facts, `nobody was answered for ${(lateMs / 1000).toFixed(1)} s; ${why}`);
  }
}
