/**
 * Time, randomness and timers as one small interface, so that a simulation can stand in for the machine. Nothing below
 * `node/` reads a clock or draws a random number in any other way (lint enforces it).
 */

/** A timer that can be cancelled. */
export interface Timer {
  cancel(): void;
}

export interface Runtime {
  /** Wall clock: milliseconds since 1970. May jump. */
  nowMs(): number;
  /** Wall clock: nanoseconds since 1970, as precise as the machine allows. May jump. */
  nowNs(): bigint;
  /** Milliseconds since some moment; never goes back. For durations and deadlines. */
  monotonicMs(): number;
  /** Uniform in [0, 1). For jitter, never for secrets. */
  random(): number;
  /** Cryptographically strong bytes. */
  randomBytes(count: number): Buffer;
  /** Calls `fn` once after `delayMs`. The timer alone does not keep the process alive. */
  after(delayMs: number, fn: () => void): Timer;
  /** Calls `fn` every `intervalMs`. The timer alone does not keep the process alive. */
  every(intervalMs: number, fn: () => void): Timer;
}
