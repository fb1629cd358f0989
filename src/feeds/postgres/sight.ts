/**
 * What a snapshot of Postgres shows, and with it the question of every copy beside a stream: is this change, which comes
 * with the stream, in the copy already?
 *
 * A replication slot answers it by a position of the WAL: its snapshot shows what was committed before, and nothing
 * behind. But making one waits for every transaction that runs, whatever it does, and one that is open for hours would
 * hold the feed for hours. An ordinary snapshot waits for nobody, and is of no position: a transaction writes its commit
 * to the WAL first and becomes visible a moment later (with synchronous standbys, as much later as these take), so for
 * that moment the stream knows more than any snapshot. It is of transactions, though: Postgres says which ones it shows
 * (`pg_current_snapshot`), and the stream says of every transaction which one it is. So each is judged by its number: what
 * the snapshot shows is in the copy and left out, everything else is applied on top of it.
 *
 * - Numbers have 32 bits in the stream and are used again. They are compared around the snapshot's own, and only for
 *   commits before `lsn`, a position that was written after the snapshot was taken: whatever it shows lies before. Behind
 *   it no transaction is in the copy, whatever its number. No transaction that Postgres may still send us is 2^31 older:
 *   the slot keeps the oldest from being forgotten, and Postgres gives out no number so far ahead of that.
 * - Only top level transactions have a say on both sides: their subtransactions are committed with them.
 * - A number that nobody's disk knows is given out again when Postgres crashes. So the WAL up to `lsn` is on Postgres'
 *   disk before anything is copied (attempt.ts): everything that the snapshot shows, or knows to be rolled back, is in it.
 * - A sight lives as long as the process. A store whose stream has not reached `lsn` when it is opened copies again.
 */
import { TokaidoError } from '../../base/errors.js';
import type { Lsn } from './pgoutput.js';

/** The number of a transaction: 32 bits, used again. */
export type Xid = number;

/** Whether the number was given out before another: of two that are less than 2^31 apart. */
function isBefore(xid: Xid, other: Xid): boolean {
  return ((xid - other) | 0) < 0;
}

export class Sight {
  /** Behind everything that it shows. */
  readonly lsn: Lsn;
  /** All transactions before `#least` are over, as it sees it; `#next` and later ones did not begin; of those between, these are open. */
  readonly #least: Xid;
  readonly #next: Xid;
  readonly #open: ReadonlySet<Xid>;

  /** `text` is that of `pg_current_snapshot`: `xmin:xmax:xip,xip`. Errors: `FEED`. */
  constructor(text: string, lsn: Lsn) {
    const [, least, next, open] = /^(\d+):(\d+):([\d,]*)$/.exec(text) ?? [];
    if (least === undefined || next === undefined || open === undefined)
      throw new TokaidoError('FEED', `${text} is not a snapshot of Postgres`);
    const short = (long: string): Xid => Number(BigInt.asUintN(32, BigInt(long)));
    this.lsn = lsn;
    this.#least = short(least);
    this.#next = short(next);
    this.#open = new Set(open === '' ? [] : open.split(',').map(short));
  }

  /** Whether it shows what this transaction did, which is known to be committed before `lsn`. */
  sees(xid: Xid): boolean {
    return isBefore(xid, this.#next) && (isBefore(xid, this.#least) || !this.#open.has(xid));
  }

  /** Whether it shows what this transaction did, whose commit is at `commitLsn`. */
  shows(xid: Xid, commitLsn: Lsn): boolean {
    return commitLsn < this.lsn && this.sees(xid);
  }
}

/** The sights of this process' copies, by their positions: a copy's is noted in the store (tables.ts). */
export type Sights = Map<Lsn, Sight>;
