/**
 * A root that loads a snapshot of another root keeps what only it has: its own transactions, and those it has of others,
 * which the snapshot lacks. They are taken from its log, with their numbers and versions, and applied to the new store,
 * where their versions decide as always. So a root never loses what it accepted by being seeded.
 *
 * Two roots that both lost their tails, while each kept the other's, have histories that neither can join: each knows
 * transactions of the other that are over. One of them then yields, the one with the higher server id: it takes back what
 * it had lost, and numbers what it made since anew, in an epoch of its own behind it. Versions stay.
 */
import { assert, TokaidoError } from '../base/errors.js';
import { epoch, type LocalNumber, localNumber, type OriginPosition, type Position, type Sid } from '../base/types.js';
import { describePosition, originOf } from '../log/position.js';
import { decodeTransaction, type TransactionHeader, transactionSpans } from '../log/transaction.js';
import { type Forgotten, forgottenBeyond } from './forgotten.js';
import { aheadOfOrigin } from './numbering.js';
import type { SnapshotContents } from './snapshot.js';
import type { LocalStore } from './store.js';

/** What is to be done for a snapshot at some position. */
type Plan =
  | {
      readonly kind: 'carry';
      readonly first: LocalNumber;
      /** Origins whose numbering has gone on in a later epoch there: what is here of the old one is over. */
      readonly over: ReadonlySet<Sid>;
      /** How far the snapshot knows this origin, where its own numbers have to be given out anew behind that. */
      readonly behind: OriginPosition | undefined;
    }
  /** The log here does not reach back to what the snapshot lacks: all is joined, record by record (`merge.ts`). */
  | { readonly kind: 'merge' }
  | { readonly kind: 'refuse'; readonly why: string };

function plan(store: LocalStore, there: Position, forgotten: Forgotten | undefined): Plan {
  const position = store.position();
  const sids = position
    .filter(({ sid, epoch: here }) => (originOf(there, sid)?.epoch ?? here) > here)
    .map(({ sid }) => sid);
  const over = new Set(sids);
  const { sid } = store;
  // Loaded, it would look as if this root had them, and others may have more: two changes would get one number.
  if (aheadOfOrigin(store, there) !== undefined)
    return refusal(store, there, 'it has transactions of this root that this root lost or never made');
  const current = position.filter((origin) => !over.has(origin.sid));
  const found = store.log.find(there, current);
  if (found.kind === 'from') return { kind: 'carry', first: found.first, over, behind: undefined };
  if (found.kind === 'too-old') {
    const why = whyNotMerged(store, there, forgotten);
    return why === undefined ? { kind: 'merge' } : refusal(store, there, why);
  }
  const own = sid === undefined ? undefined : originOf(there, sid);
  const others = store.log.find(
    there,
    current.filter((origin) => origin.sid !== sid),
  );
  const yields = own !== undefined && sids.some((other) => other < own.sid);
  if (!yields || others.kind !== 'from' || !reachesBack(store, own))
    return refusal(store, there, 'it has transactions that this root has lost or never had');
  return { kind: 'carry', first: store.log.first, over, behind: own };
}

/** Why what lies here cannot be joined record by record with a snapshot at `there`; `undefined` when it can. */
function whyNotMerged(store: LocalStore, there: Position, forgotten: Forgotten | undefined): string | undefined {
  const position = store.position();
  const tooShort = 'the log here does not reach back to what it lacks';
  const other = position.find(({ sid, epoch: here }) => (originOf(there, sid)?.epoch ?? here) !== here);
  if (other !== undefined)
    return `${tooShort}, and origin ${other.sid} has begun another epoch since: whether its history is the same nobody can tell (${BOTH_SHORT})`;
  if (forgotten === undefined)
    return `${tooShort}, and the other root does not say which removals it has forgotten: it runs an older version`;
  if (forgottenBeyond(forgotten, position) !== undefined)
    return `${tooShort}, and the other root has forgotten removals that this one never saw (${BOTH_SHORT})`;
  if (forgottenBeyond(store.known.forgotten, there) !== undefined)
    return `${tooShort}, and this root has forgotten removals that the other one never saw (${BOTH_SHORT})`;
  return undefined;
}

/** What an operator reads who has to decide. */
const BOTH_SHORT = 'docs/operate/recover.md, "Two roots that were apart for too long"';

function refusal(store: LocalStore, there: Position, why: string): Plan {
  const [here, other] = [describePosition(store.position()), describePosition(there)];
  const what = `a snapshot at ${other} cannot be joined to the data at ${here}`;
  return { kind: 'refuse', why: `${what}: ${why}; the other root has to take ours first` };
}

/** Whether the log has everything that this origin numbered in later epochs than `own`. */
function reachesBack({ log }: LocalStore, own: OriginPosition): boolean {
  const before = log.first < log.next ? log.batchAt(log.first)?.before : undefined;
  return before !== undefined && (originOf(before, own.sid)?.epoch ?? 0) <= own.epoch;
}

/** Why a snapshot would cost this store something; `undefined` when it would not. */
export function whyNotCarried(
  store: LocalStore,
  { position, forgotten }: Pick<SnapshotContents, 'position' | 'forgotten'>,
): string | undefined {
  const found = plan(store, position, forgotten);
  return found.kind === 'refuse' ? found.why : undefined;
}

/** Whether what `from` has can only be joined record by record to the snapshot that `to` was loaded from. */
export function mustMerge(from: LocalStore, to: LocalStore): boolean {
  return plan(from, to.position(), to.known.forgotten).kind === 'merge';
}

/** Brings to `to` everything that it lacks and `from` has. */
export class CarryOver {
  readonly #from: LocalStore;
  readonly #to: LocalStore;
  readonly #plan: Extract<Plan, { kind: 'carry' }>;
  /** What was loaded. */
  readonly #there: Position;
  #at: LocalNumber;

  /** `to` is as it was loaded. Errors: `REPLICATION` when something would be lost. */
  constructor(from: LocalStore, to: LocalStore) {
    const there = to.position();
    const found = plan(from, there, to.known.forgotten);
    if (found.kind === 'refuse') throw new TokaidoError('REPLICATION', found.why);
    assert(found.kind === 'carry', 'what has to be merged was merged before');
    this.#from = from;
    this.#to = to;
    this.#there = there;
    this.#plan = found;
    this.#at = found.first;
  }

  /**
   * Up to the end of the log as it is now; again, to go on from there. Returns the number of transactions. Errors:
   * `REPLICATION` when something would be lost that came meanwhile.
   */
  async run(): Promise<number> {
    const { log, lastEpoch } = this.#from;
    await this.#to.keepEpoch(lastEpoch);
    let carried = 0;
    for (;;) {
      if (this.#at < log.first) throw new TokaidoError('REPLICATION', 'the log was cut while it was carried over');
      const batch = log.batchAt(this.#at);
      if (batch === undefined) return carried;
      const kept: Buffer[] = [];
      for (const { header, start, end } of transactionSpans(batch.payload)) {
        const bytes = batch.payload.subarray(start, end);
        if (this.#isNumberedAnew(header)) carried += await this.#numberAnew(bytes);
        else if (!this.#isOver(header)) kept.push(bytes);
      }
      if (kept.length > 0) carried += await this.#to.apply(Buffer.concat(kept)).committed;
      this.#at = localNumber(batch.first + batch.count);
    }
  }

  #isOver({ sid, epoch }: TransactionHeader): boolean {
    if (sid === this.#plan.behind?.sid) return true;
    if (!this.#plan.over.has(sid)) return false;
    const loaded = originOf(this.#there, sid)?.epoch ?? 0;
    // The origin itself went over to the history that is here, while one was loaded that is over since.
    if (epoch > loaded)
      throw new TokaidoError('REPLICATION', `origin ${sid} gave up what was loaded of it: it is to be loaded again`);
    // What came meanwhile may go on from what was loaded.
    return epoch < loaded;
  }

  #isNumberedAnew({ sid, epoch: in_, sequence }: TransactionHeader): boolean {
    const { behind } = this.#plan;
    if (behind === undefined || sid !== behind.sid) return false;
    return in_ > behind.epoch || (in_ === behind.epoch && sequence > behind.sequence);
  }

  async #numberAnew(bytes: Buffer): Promise<number> {
    const next = epoch(Math.max(this.#from.lastEpoch, this.#from.epoch) + 1);
    await this.#to.keepEpoch(next);
    await this.#to.numberAnew(decodeTransaction(bytes), next).committed;
    return 1;
  }
}
