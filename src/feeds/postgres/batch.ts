/** What the stream hands to the store at once: whole Postgres transactions, or one part of a large one. */
import { assert } from '../../base/errors.js';
import type { FeedMark } from '../../store/types.js';
import type { BoundMapping, RowChange } from './mapping.js';
import { decodeMessage, type Lsn, type Readers } from './pgoutput.js';

/**
 * Bounds of a batch that gathers several transactions. Each pays for one row of the log and one frame to every node;
 * beyond some hundred changes there is nothing left to gain, and a commit must not hold the event loop for long.
 */
const GATHERED_CHANGES = 500;
const GATHERED_BYTES = 256 * 1024;

/** What one transaction of the store may hold. */
export interface BatchLimits {
  readonly maxTransactionBytes: number;
  readonly maxTransactionChanges: number;
}

export class ChangeBatch {
  readonly #feed: string;
  readonly #changes: RowChange[];
  #bytes: number;
  #endLsn: Lsn | undefined;

  /** `endLsn` is the end of the commit that `changes` ends with; `undefined` when the transaction goes on behind it. */
  constructor(feed: string, changes: RowChange[], bytes: number, endLsn: Lsn | undefined) {
    this.#feed = feed;
    this.#changes = changes;
    this.#bytes = bytes;
    this.#endLsn = endLsn;
  }

  get changes(): readonly RowChange[] {
    return this.#changes;
  }

  /** As Postgres sent them. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Where a restart goes on once this is applied; `undefined` inside a transaction that was cut. */
  get position(): ReturnType<FeedMark> {
    return this.#endLsn === undefined ? undefined : { feed: this.#feed, position: this.#endLsn };
  }

  /** Takes in one more whole transaction, unless that would be too much, or either of the two is cut. */
  join(changes: readonly RowChange[], bytes: number, endLsn: Lsn | undefined, limits: BatchLimits): boolean {
    if (this.#endLsn === undefined || endLsn === undefined) return false;
    const count = this.#changes.length + changes.length;
    if (count > Math.min(GATHERED_CHANGES, limits.maxTransactionChanges)) return false;
    if (this.#bytes + bytes > Math.min(GATHERED_BYTES, limits.maxTransactionBytes)) return false;
    for (const change of changes) this.#changes.push(change);
    this.#bytes += bytes;
    this.#endLsn = endLsn;
    return true;
  }
}

/** A message about a row. Taken apart when it is applied: what waits until then is bytes, which cost little to keep. */
export function changeOf(payload: Buffer, mapping: BoundMapping, readers: Readers | undefined): RowChange {
  return (transaction, missing, found) => {
    const message = decodeMessage(payload, readers, mapping.forms);
    assert(message.kind === 'insert' || message.kind === 'update' || message.kind === 'delete', 'it is about a row');
    const change =
      message.kind === 'delete'
        ? mapping.remove(message.before)
        : mapping.put(message.after, message.kind === 'update' ? message.before : undefined);
    change(transaction, missing, found);
  };
}
