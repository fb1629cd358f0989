/**
 * Whether this machine's clock and the origin's differ. Beats carry the origin's time and arrive soon after it, so the
 * least difference within a while says how far the clocks are apart, or that all news is that late. No protocol needs the
 * clocks to agree, but people and certificates do: lag is wrong by the difference, and certificates begin and end early or
 * late. So it is said, with both times.
 */

/** Clocks that are apart by less are not worth a word. */
const APART_MS = 5_000;
/** How long is looked at a time. */
const WINDOW_MS = 60_000;
/** The first look is shorter: a node that just started should not be wrong for a minute. */
const FIRST_BEATS = 5;

export interface ClockFacts {
  /** By how much this clock is ahead of the origin's; negative when it is behind. */
  readonly aheadMs: number;
  readonly originMs: number;
  readonly nowMs: number;
}

export class ClockWatch {
  readonly #onApart: (facts: ClockFacts) => void;
  #window: { sinceMs: number; beats: number; least: ClockFacts } | undefined;
  #hasLooked = false;
  #aheadMs: number | undefined;

  /** `onApart` is called at most once in a window. */
  constructor(onApart: (facts: ClockFacts) => void) {
    this.#onApart = onApart;
  }

  /** By how much this clock seemed ahead of the origin's in the last window; `undefined` before the first. */
  get aheadMs(): number | undefined {
    return this.#aheadMs;
  }

  /** A new beat, made at `originMs`, arrived. */
  hear(originMs: number, nowMs: number, monotonicMs: number): void {
    const facts = { aheadMs: nowMs - originMs, originMs, nowMs };
    const window = this.#window ?? { sinceMs: monotonicMs, beats: 0, least: facts };
    this.#window = window;
    window.beats++;
    if (facts.aheadMs < window.least.aheadMs) window.least = facts;
    const isOver = monotonicMs - window.sinceMs >= WINDOW_MS;
    const isFirst = !this.#hasLooked && window.beats >= FIRST_BEATS;
    if (!isOver && !isFirst) return;
    this.#window = undefined;
    this.#hasLooked = true;
    this.#aheadMs = window.least.aheadMs;
    if (Math.abs(this.#aheadMs) < APART_MS) return;
    this.#onApart(window.least);
  }
}
