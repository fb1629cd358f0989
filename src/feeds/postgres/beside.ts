/**
 * A copy of some tables that goes on beside the stream: which changes of theirs the stream leaves to the copy.
 *
 * The stream does not wait for the copy's snapshot, which may be long in coming (writers.ts). Until it is there,
 *
 * - changes of a table that is copied from its beginning are left out: the snapshot will show them;
 * - those of a table whose copy goes on where it was are applied, because the pages that it has are not read again, but a
 *   large value that they lack is not asked for: the snapshot will show the row.
 *
 * Both promise something of the snapshot, so the transactions are remembered, and one that does not show all of them is
 * not taken (`judge`): the next will, they are committed. From then on the snapshot decides (sight.ts).
 */
import { TokaidoError } from '../../base/errors.js';
import { Overtaken } from './overtaken.js';
import type { Lsn } from './pgoutput.js';
import type { Sight, Xid } from './sight.js';
import type { PublishedTable } from './tables.js';

/** Transactions that a snapshot is yet to show; each look at Postgres takes those away that any later one will. */
export const MAX_PROMISED = 1_000_000;

/** A table under copy: from its beginning, or on from where it was. */
export type CopyKind = 'anew' | 'on';

export class Beside {
  readonly kinds: ReadonlyMap<PublishedTable, CopyKind>;
  /** Those that had records before: who knows of which shape. */
  readonly over: ReadonlySet<PublishedTable>;
  readonly overtaken = new Overtaken();
  readonly #limit: number;
  readonly #promised = new Set<Xid>();
  #sight: Sight | undefined;

  constructor(kinds: ReadonlyMap<PublishedTable, CopyKind>, over: ReadonlySet<PublishedTable>, limit = MAX_PROMISED) {
    this.kinds = kinds;
    this.over = over;
    this.#limit = limit;
  }

  get tables(): readonly PublishedTable[] {
    return [...this.kinds.keys()];
  }

  /** Those of this kind. */
  of(kind: CopyKind): readonly PublishedTable[] {
    return this.tables.filter((table) => this.kinds.get(table) === kind);
  }

  /** The snapshot is there. */
  get isJudged(): boolean {
    return this.#sight !== undefined;
  }

  /** A position behind what the snapshot shows, once it is there. */
  get lsn(): Lsn | undefined {
    return this.#sight?.lsn;
  }

  /** What a transaction changes of this table is in the copy, or will be: the stream leaves it out. Errors: `FEED` beyond the limit. */
  has(table: PublishedTable, xid: Xid, commitLsn: Lsn): boolean {
    return this.kinds.get(table) === 'anew' && this.#isShown(xid, commitLsn);
  }

  /** The copy has, or will have, the row that this transaction changes as a whole. Errors: `FEED` beyond the limit. */
  hasRows(table: PublishedTable, xid: Xid, commitLsn: Lsn): boolean {
    return this.kinds.get(table) === 'on' && this.#isShown(xid, commitLsn);
  }

  #isShown(xid: Xid, commitLsn: Lsn): boolean {
    if (this.#sight !== undefined) return this.#sight.shows(xid, commitLsn);
    this.#promised.add(xid);
    if (this.#promised.size > this.#limit)
      throw new TokaidoError('FEED', `more than ${this.#limit} transactions came that Postgres does not show yet`);
    return true;
  }

  /** What this snapshot shows, every later one does. */
  forget(sight: Sight): void {
    for (const xid of this.#promised) if (sight.sees(xid)) this.#promised.delete(xid);
  }

  /** From now on this is the copy's snapshot. Returns false, and nothing is decided, when it does not show what was left to it. */
  judge(sight: Sight): boolean {
    this.forget(sight);
    if (this.#promised.size > 0) return false;
    this.#sight = sight;
    return true;
  }
}
