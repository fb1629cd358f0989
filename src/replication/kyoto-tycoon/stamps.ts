/**
 * Time stamps for followers that know one number instead of a position: Kyoto Tycoon servers. The stamp of a transaction
 * is the highest version of any origin up to it, in this node's order, so stamps never go back.
 *
 * With one origin every transaction raises the stamp. Where origins were mixed, one of an origin that is behind has the
 * stamp of those before it: a follower at that stamp may lack it, so it is sent again. Applying twice changes nothing.
 *
 * A follower takes a transaction apart and remembers the stamp of the last message it read. All messages but the last
 * therefore carry the stamp below: a link that breaks in the middle has the whole transaction sent again.
 */
import type { VersionNs } from '../../base/types.js';

export class KtStamps {
  /** What the follower has already, ns. */
  readonly #hasNs: bigint;
  #stampNs: bigint;

  /** `beforeNs`: the highest version before the first transaction that is shown. */
  constructor(hasNs: bigint, beforeNs: bigint) {
    this.#hasNs = hasNs;
    this.#stampNs = beforeNs;
  }

  /** The stamp of the last transaction shown. */
  get stampNs(): bigint {
    return this.#stampNs;
  }

  /** Shows the next transaction of the log; returns its stamp, or `undefined` when the follower has it. */
  next(versionNs: VersionNs): bigint | undefined {
    const raises = versionNs > this.#stampNs;
    if (raises) this.#stampNs = versionNs;
    const isKnown = this.#stampNs < this.#hasNs || (raises && this.#stampNs === this.#hasNs);
    return isKnown ? undefined : this.#stampNs;
  }
}
