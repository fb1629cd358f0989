/**
 * Batches of one link, in order: once one of them could not be applied, none behind it may be. They are queued before the
 * first of them is tried, and a number that looks like the next one may be of another history by then: another link has
 * brought what lies between, from before the origin lost its tail (invariant 2).
 */
import { TokaidoError } from '../base/errors.js';

export class ApplyOrder {
  #isBroken = false;

  /** Runs the next one. Errors: its own, and `REPLICATION` when one before it failed. */
  run<T>(apply: () => T): T {
    if (this.#isBroken)
      throw new TokaidoError('REPLICATION', 'what came before it over the same link could not be applied');
    try {
      return apply();
    } catch (error) {
      this.break();
      throw error;
    }
  }

  /** One of them failed. */
  break(): void {
    this.#isBroken = true;
  }
}
