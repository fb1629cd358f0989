/**
 * Changes of a Kyoto Tycoon server on their way into the store: gathered into transactions, each with the position that
 * it brings the feed to, and bounded by what is not committed yet.
 */
import { TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { KtUpdate } from '../../protocol/kt-replication.js';
import type { Store, StoreTransaction } from '../../store/types.js';

export interface KtApplyLimits {
  /** Longest key; changes of longer ones are left out, counted and logged. */
  readonly keyBytes: number;
  /** Changes are gathered into transactions of at most this many bytes. */
  readonly maxTransactionBytes: number;
  readonly maxTransactionChanges: number;
  /** Bytes received and not committed before the server is made to wait. */
  readonly maxUnappliedBytes: number;
}

export interface KtApplierOptions {
  readonly feed: string;
  readonly store: Store;
  /** By the server's number. */
  readonly databases: readonly string[];
  readonly limits: KtApplyLimits;
  readonly counters: { changes: number; skipped: number };
  readonly log: Logger;
  onPressure(tooMuch: boolean): void;
  onFail(error: unknown): void;
}

/** What a change takes beside its key and value, about. */
const CHANGE_BYTES = 64;

export class KtApplier {
  readonly #options: KtApplierOptions;
  #gathered: KtUpdate[] = [];
  #gatheredBytes = 0;
  #unappliedBytes = 0;
  #last: Promise<unknown> = Promise.resolve();
  #failed = false;
  readonly #unknown = new Set<number>();

  constructor(options: KtApplierOptions) {
    this.#options = options;
  }

  add(update: KtUpdate): void {
    const { change } = update;
    const { limits } = this.#options;
    const keyBytes = change === undefined || change.kind === 'clear' ? 0 : change.key.length;
    const bytes = CHANGE_BYTES + keyBytes + (change?.kind === 'set' ? change.value.length : 0);
    const isFull =
      this.#gathered.length >= limits.maxTransactionChanges || this.#gatheredBytes + bytes > limits.maxTransactionBytes;
    if (isFull) this.flush();
    this.#gathered.push(update);
    this.#gatheredBytes += bytes;
  }

  /** Hands what was gathered to the store. Whoever comes after one that failed is not applied: its position is past it. */
  flush(): void {
    const updates = this.#gathered;
    const bytes = this.#gatheredBytes;
    this.#gathered = [];
    this.#gatheredBytes = 0;
    const taken = updates.filter((update) => this.#isTakeable(update));
    const last = taken.at(-1);
    if (last === undefined || this.#failed) return;
    const { store, feed, counters } = this.#options;
    const build = (transaction: StoreTransaction): void => {
      if (this.#failed) throw new TokaidoError('FEED', 'a change before this one was not applied');
      try {
        for (const update of taken) this.#apply(transaction, update);
      } catch (error) {
        // At once: the transactions behind this one may be in the same commit.
        this.#fail(error);
        throw error;
      }
    };
    this.#press(bytes);
    try {
      const { committed } = store.write(build, () => ({ feed, position: last.timestampNs }));
      this.#last = committed.then(
        () => {
          counters.changes += taken.length;
          this.#press(-bytes);
        },
        (error: unknown) => this.#fail(error),
      );
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#options.onFail(error);
  }

  #press(bytes: number): void {
    this.#unappliedBytes += bytes;
    const { maxUnappliedBytes } = this.#options.limits;
    if (this.#unappliedBytes > maxUnappliedBytes) this.#options.onPressure(true);
    else if (this.#unappliedBytes <= maxUnappliedBytes / 2) this.#options.onPressure(false);
  }

  #isTakeable({ change, database }: KtUpdate): boolean {
    const { databases, limits, counters, log } = this.#options;
    if (change === undefined) return false;
    if (databases[database] === undefined) {
      counters.skipped++;
      if (!this.#unknown.has(database))
        log.error({ database }, 'the server changes a database that this node does not have: left out');
      this.#unknown.add(database);
      return false;
    }
    if (change.kind === 'clear' || change.key.length <= limits.keyBytes) return true;
    counters.skipped++;
    log.error({ database, keyBytes: change.key.length }, 'a key of the server exceeds limits.keyBytes: left out');
    return false;
  }

  #apply(transaction: StoreTransaction, { change, database }: KtUpdate): void {
    const name = this.#options.databases[database] as string;
    if (change?.kind === 'set') transaction.set(name, change.key, change.value, change.xtMs);
    else if (change?.kind === 'remove') transaction.remove(name, change.key);
    else if (change?.kind === 'clear') transaction.clear(name);
  }

  /** Calls `then` once everything added so far is committed. */
  whenApplied(then: () => void): void {
    this.flush();
    const last = this.#last;
    void last.then(() => {
      if (!this.#failed && this.#last === last) then();
    });
  }

  /** Nothing that is still queued may be applied any more: the next connection begins at the position. */
  abandon(): void {
    this.#failed = true;
    this.#gathered = [];
  }
}
