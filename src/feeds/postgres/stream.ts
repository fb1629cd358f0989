/**
 * The stream of one replication connection: messages in, store transactions out. Keeps three positions: received,
 * committed (in the store), and confirmed (flushed, and so what Postgres may forget).
 *
 * A Postgres transaction becomes one store transaction that carries the position of its commit, so that a restart begins
 * exactly behind the last one applied (exactly once). One that exceeds the limits is cut: only its last part carries the
 * position, the parts before it are applied again after a crash, which changes nothing.
 *
 * Writes are not awaited one by one; at most `maxUnappliedBytes` are under way, then Postgres has to wait. When one
 * fails, none behind it may be applied: they would carry the position past what is missing.
 */
import { TokaidoError } from '../../base/errors.js';
import type { Store } from '../../store/types.js';
import {
  BoundMapping,
  type FoundRows,
  type MappingCounters,
  type MissingRow,
  type RowChange,
  type TableMapping,
} from './mapping.js';
import { decodeEnvelope, decodeMessage, type Lsn, type Message, type Relation } from './pgoutput.js';
import type { TypeCatalog } from './values.js';

export interface StreamLimits {
  readonly maxTransactionBytes: number;
  readonly maxTransactionChanges: number;
  readonly maxUnappliedBytes: number;
}

export interface StreamOptions {
  readonly feed: string;
  readonly store: Store;
  readonly tables: readonly TableMapping[];
  readonly types: TypeCatalog;
  readonly limits: StreamLimits;
  readonly counters: MappingCounters & StreamCounters;
  readonly startLsn: Lsn;
  /** Rows that an earlier stream missed. */
  readonly found: FoundRows;
  /** Too much is under way, or no longer. */
  readonly onPressure: (tooMuch: boolean) => void;
  /** More has become safe, or Postgres asked. */
  readonly onConfirm: () => void;
  /** A transaction exceeds the limits: it becomes visible in parts. */
  readonly onCut: () => void;
  /** The stream cannot go on. */
  readonly onFail: (error: unknown) => void;
}

/** The stream cannot go on before these rows were asked for; nothing of the transaction was applied. */
export class RowsMissing extends TokaidoError {
  readonly rows: readonly MissingRow[];

  constructor(rows: readonly MissingRow[]) {
    super('FEED', `${rows.length} large values were neither sent nor in the store`);
    this.rows = rows;
  }
}

/** Counts for status. */
export interface StreamCounters {
  transactions: number;
  changes: number;
  cutTransactions: number;
}

export class FeedStream {
  readonly #options: StreamOptions;
  readonly #mappings = new Map<number, readonly BoundMapping[]>();
  #pending: RowChange[] = [];
  #pendingBytes = 0;
  #inTransaction = false;
  #cut = false;
  #unapplied = 0;
  #unflushed = 0;
  #pressed = false;
  #failed = false;
  #received: Lsn;
  #committed: Lsn;
  #confirmed: Lsn;

  constructor(options: StreamOptions) {
    this.#options = options;
    this.#received = options.startLsn;
    this.#committed = options.startLsn;
    this.#confirmed = options.startLsn;
  }

  get positions(): { readonly received: Lsn; readonly committed: Lsn; readonly confirmed: Lsn } {
    return { received: this.#received, committed: this.#committed, confirmed: this.#confirmed };
  }

  /** Postgres is made to wait because too much is under way. */
  get isPressed(): boolean {
    return this.#pressed;
  }

  /** One CopyData message. Errors: `CORRUPT`, `FEED`. */
  onData(chunk: Buffer): void {
    if (this.#failed) return;
    const envelope = decodeEnvelope(chunk);
    if (envelope.walEnd > this.#received) this.#received = envelope.walEnd;
    if (envelope.kind === 'keepalive') {
      this.#advanceWhenIdle();
      if (envelope.replyWanted) this.#options.onConfirm();
      return;
    }
    this.#onMessage(decodeMessage(envelope.payload), envelope.payload.length);
  }

  /** With nothing under way, everything Postgres has sent is safe: an idle slot must not hold WAL back. */
  #advanceWhenIdle(): void {
    if (this.#inTransaction || this.#unflushed > 0 || this.#received <= this.#confirmed) return;
    this.#confirmed = this.#received;
    this.#options.onConfirm();
  }

  #onMessage(message: Message, bytes: number): void {
    switch (message.kind) {
      case 'begin':
        this.#inTransaction = true;
        this.#cut = false;
        return;
      case 'relation':
        this.#bind(message.relation);
        return;
      case 'insert':
        this.#each(message.relationId, bytes, (mapping) => mapping.put(message.after));
        return;
      case 'update':
        this.#each(message.relationId, bytes, (mapping) => mapping.put(message.after, message.before));
        return;
      case 'delete':
        this.#each(message.relationId, bytes, (mapping) => mapping.remove(message.before));
        return;
      case 'truncate':
        for (const id of message.relationIds) this.#each(id, bytes, (mapping) => mapping.clear());
        return;
      case 'commit':
        this.#commit(message.endLsn);
        return;
      default:
        return;
    }
  }

  #bind(relation: Relation): void {
    const name = `${relation.schema}.${relation.table}`;
    const bound = this.#options.tables
      .filter(({ table }) => table === name)
      .map((mapping) => new BoundMapping(mapping, relation.columns, this.#options.types, this.#options.counters));
    this.#mappings.set(relation.id, bound);
  }

  #each(relationId: number, bytes: number, change: (mapping: BoundMapping) => RowChange): void {
    const mappings = this.#mappings.get(relationId);
    if (mappings === undefined)
      throw new TokaidoError('CORRUPT', `a change of relation ${relationId}, which was not described`);
    if (this.#isFull(bytes)) this.#writePart();
    for (const mapping of mappings) this.#pending.push(change(mapping));
    this.#pendingBytes += bytes;
    this.#options.counters.changes++;
  }

  /** Whether one more change would be too much for one transaction of the store. */
  #isFull(bytes: number): boolean {
    const { maxTransactionBytes, maxTransactionChanges } = this.#options.limits;
    if (this.#pending.length === 0) return false;
    return this.#pendingBytes + bytes > maxTransactionBytes || this.#pending.length >= maxTransactionChanges;
  }

  #writePart(): void {
    if (!this.#cut) {
      this.#cut = true;
      this.#options.counters.cutTransactions++;
      this.#options.onCut();
    }
    this.#write(undefined);
  }

  #commit(endLsn: Lsn): void {
    this.#inTransaction = false;
    this.#options.counters.transactions++;
    // Applied before: Postgres sends again what it was not told to be safe.
    if (endLsn <= (this.#options.store.feedPosition(this.#options.feed) ?? 0n)) this.#pending = [];
    this.#write(endLsn);
    this.#advanceWhenIdle();
  }

  #write(endLsn: Lsn | undefined): void {
    const changes = this.#pending;
    const bytes = this.#pendingBytes;
    this.#pending = [];
    this.#pendingBytes = 0;
    if (changes.length === 0) return;
    const { store, feed, found, onFail, onConfirm } = this.#options;
    const fail = (error: unknown): void => {
      if (this.#failed) return;
      this.#failed = true;
      onFail(error);
    };
    const build = (transaction: Parameters<RowChange>[0]): void => {
      if (this.#failed) throw new TokaidoError('FEED', 'a transaction before this one was not applied');
      try {
        const missing: MissingRow[] = [];
        for (const change of changes) change(transaction, missing, found);
        if (missing.length > 0) throw new RowsMissing(missing);
      } catch (error) {
        // At once: the transactions behind this one may be in the same commit.
        fail(error);
        throw error;
      }
      found.forgetUsed();
    };
    this.#press(bytes);
    this.#unflushed++;
    let written: ReturnType<typeof store.write<void>>;
    try {
      written = store.write(build, endLsn === undefined ? undefined : { feed, position: endLsn });
    } catch (error) {
      fail(error);
      return;
    }
    written.committed.then(() => {
      this.#press(-bytes);
      if (endLsn !== undefined) this.#committed = endLsn;
    }, fail);
    written.flushed.then(() => {
      this.#unflushed--;
      if (endLsn === undefined) return;
      if (endLsn > this.#confirmed) this.#confirmed = endLsn;
      onConfirm();
    }, fail);
  }

  #press(bytes: number): void {
    this.#unapplied += bytes;
    const { maxUnappliedBytes } = this.#options.limits;
    const tooMuch = this.#pressed ? this.#unapplied > maxUnappliedBytes / 2 : this.#unapplied > maxUnappliedBytes;
    if (tooMuch === this.#pressed) return;
    this.#pressed = tooMuch;
    this.#options.onPressure(tooMuch);
  }

  /** Nothing that is still queued may be applied any more. */
  abandon(): void {
    this.#failed = true;
  }
}
