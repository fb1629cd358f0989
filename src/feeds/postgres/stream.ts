/**
 * The stream of one replication connection: messages in, store transactions out. Keeps three positions: received,
 * committed (in the store), and confirmed (flushed, and so what Postgres may forget).
 *
 * A Postgres transaction becomes visible whole, in a store transaction that carries the position of its commit, so that
 * a restart begins exactly behind the last one applied (exactly once). Small ones that arrive while the store is busy
 * share a store transaction (batch.ts): readers could not have seen a moment between them, and every node of the tree is
 * spared the work per transaction. One that exceeds the limits is cut: only its last part carries the position, the
 * parts before it are applied again after a crash, which changes nothing.
 *
 * Writes are not awaited one by one; at most `maxUnappliedBytes` are under way, then Postgres has to wait. When one
 * fails, none behind it may be applied: they would carry the position past what is missing.
 *
 * Postgres sends the changes of a large transaction before it commits. They wait on the disk (spill.ts) and are applied
 * when the commit comes, as if all of them came with it; the connection is not read meanwhile.
 */
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Store } from '../../store/types.js';
import { type BatchLimits, ChangeBatch, changeOf } from './batch.js';
import type { Beside } from './beside.js';
import type { BinaryTypes } from './binary/types.js';
import {
  BoundMapping,
  type FoundRows,
  keyColumns,
  type MappingCounters,
  type MissingRow,
  type RowChange,
} from './mapping.js';
import {
  decodeEnvelope,
  decodeMessage,
  type Lsn,
  type Message,
  ofStreamed,
  type Readers,
  type Relation,
  relationOfRow,
} from './pgoutput.js';
import type { Xid } from './sight.js';
import { Spill, SpillFull } from './spill.js';
import { type CopiedTable, hasColumns, TablesChanged } from './tables.js';
import type { TypeCatalog } from './values.js';

export interface StreamLimits extends BatchLimits {
  readonly maxUnappliedBytes: number;
  /** Transactions that Postgres streams before they commit take this much on the disk here, together; 0: none does. */
  readonly maxSpillBytes: number;
}

export interface StreamOptions {
  readonly feed: string;
  readonly store: Store;
  /** As the catalog describes them, and what of each is in the store. */
  readonly tables: readonly CopiedTable[];
  /** A copy that goes on meanwhile. */
  readonly beside: Beside | undefined;
  readonly types: TypeCatalog;
  /** Values come in binary form, of these types; `undefined`: as text. */
  readonly binary: BinaryTypes | undefined;
  readonly limits: StreamLimits;
  /** Where transactions that are streamed before they commit wait. */
  readonly spillFolder: string;
  readonly counters: MappingCounters & StreamCounters;
  readonly startLsn: Lsn;
  /** Rows that an earlier stream missed. */
  readonly found: FoundRows;
  /** Notes on the disk that Postgres may be told that all is safe up to here, when no change of ours says so. */
  readonly allow: (lsn: Lsn) => Promise<void>;
  /** Too much is under way, or no longer. */
  readonly onPressure: (tooMuch: boolean) => void;
  /** `reached` moved on without a transaction of ours. */
  readonly onReached: () => void;
  /** More has become safe, or Postgres asked. */
  readonly onConfirm: () => void;
  /** A transaction exceeds the limits: it becomes visible in parts. */
  readonly onCut: () => void;
  /** The stream cannot go on. */
  readonly onFail: (error: unknown) => void;
}

/** One mapping of a relation of the stream; bound when the first change arrives that is not in the copy already. */
interface Target extends CopiedTable {
  bound: BoundMapping | undefined;
}

interface Described {
  readonly relation: Relation;
  readonly targets: readonly Target[];
  readonly readers: Readers | undefined;
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
  /** Changes that did not carry a large value and met no record to take it from: it was asked for. */
  missingValues: number;
  /** Transactions that waited on the disk. */
  spilledTransactions: number;
  /** Slots dropped because they kept too much WAL. */
  droppedSlots: number;
}

export class FeedStream {
  readonly #options: StreamOptions;
  readonly #relations = new Map<number, Described>();
  #pending: RowChange[] = [];
  #pendingBytes = 0;
  /** The batch that was handed to the store last, until the store begins with it. */
  #waiting: ChangeBatch | undefined;
  #inTransaction = false;
  #xid: Xid = 0;
  #commitLsn: Lsn = 0n;
  #cut = false;
  #unapplied = 0;
  /** Batches that readers cannot see yet; and those that are not on the disk. */
  #uncommitted = 0;
  #unflushed = 0;
  #pressed = false;
  #paused = false;
  #advancing = false;
  #failed = false;
  readonly #spill: Spill;
  /** The streamed transaction that the messages belong to. */
  #streamed: number | undefined;
  /** A spilled transaction is being applied, or a snapshot is taken: what arrives meanwhile waits here. */
  #replaying = false;
  #held = false;
  #behind: Buffer[] = [];
  /** The transaction was applied before. */
  #isOld = false;
  #relieved: (() => void) | undefined;
  #received: Lsn;
  #committed: Lsn;
  #confirmed: Lsn;

  constructor(options: StreamOptions) {
    this.#options = options;
    this.#received = options.startLsn;
    this.#committed = options.startLsn;
    this.#confirmed = options.startLsn;
    this.#spill = new Spill({
      folder: options.spillFolder,
      maxBytes: options.limits.maxSpillBytes,
      onWritten: () => this.#balance(),
      onFail: (error) => this.#fail(new SpillFull(messageOf(error))),
    });
  }

  get positions(): { readonly received: Lsn; readonly committed: Lsn; readonly confirmed: Lsn } {
    return { received: this.#received, committed: this.#committed, confirmed: this.#confirmed };
  }

  /** Something that came with this stream is in the store: whoever begins again begins further on. */
  get hasAdvanced(): boolean {
    return this.#committed > this.#options.startLsn;
  }

  /** Everything that Postgres committed before this position is visible here. */
  get reached(): Lsn {
    const isIdle = !this.#inTransaction && this.#streamed === undefined && this.#uncommitted === 0 && !this.#failed;
    return isIdle && this.#received > this.#committed ? this.#received : this.#committed;
  }

  /** Postgres is made to wait because too much is under way. */
  get isPressed(): boolean {
    return this.#paused;
  }

  /** What large transactions take on the disk. */
  get spillBytes(): number {
    return this.#spill.bytes;
  }

  /** One CopyData message, whose bytes stay as they are. Errors: `CORRUPT`, `FEED`. */
  onData(chunk: Buffer): void {
    if (this.#failed) return;
    if (this.#replaying || this.#held) this.#behind.push(chunk);
    else this.#take(chunk);
  }

  #take(chunk: Buffer): void {
    const envelope = decodeEnvelope(chunk);
    if (envelope.walEnd > this.#received) this.#received = envelope.walEnd;
    if (envelope.kind === 'keepalive') {
      if (this.reached > this.#committed) this.#options.onReached();
      if (!envelope.replyWanted) return;
      this.#options.onConfirm();
      this.advance();
      return;
    }
    if (this.#streamed !== undefined) {
      const part = ofStreamed(envelope.payload);
      if (part !== undefined) {
        this.#spill.append(this.#streamed, part.subXid, part.message);
        this.#balance();
        return;
      }
    }
    this.#onBytes(envelope.payload);
  }

  #onBytes(payload: Buffer): void {
    const relationId = relationOfRow(payload);
    if (relationId === undefined) this.#onMessage(decodeMessage(payload), payload.length);
    else this.#each(relationId, payload.length, (mapping, readers) => changeOf(payload, mapping, readers));
  }

  /**
   * With nothing under way, everything Postgres has sent is safe: an idle slot must not hold WAL back. No change of ours
   * remembers such a position, so the store notes it beforehand: a slot that is found beyond is not ours. Each note costs
   * every node a row of its log, so this is for a timer, and for Postgres when it asks.
   */
  advance(): void {
    const lsn = this.#received;
    if (this.#inTransaction || this.#unflushed > 0 || lsn <= this.#confirmed) return;
    if (this.#advancing || this.#failed) return;
    this.#advancing = true;
    this.#options.allow(lsn).then(
      () => {
        this.#advancing = false;
        if (this.#failed) return;
        // Changes that came meanwhile are behind it, or flushed and so beyond it.
        if (lsn > this.#confirmed) this.#confirmed = lsn;
        this.#options.onConfirm();
      },
      (error: unknown) => this.#options.onFail(error),
    );
  }

  #onMessage(message: Message, bytes: number): void {
    switch (message.kind) {
      case 'begin':
        this.#begin(message.xid, message.commitLsn);
        return;
      case 'relation':
        this.#describe(message.relation);
        return;
      case 'truncate':
        for (const id of message.relationIds) this.#each(id, bytes, (mapping) => mapping.clear());
        return;
      case 'commit':
        this.#commit(message.endLsn);
        return;
      case 'streamStart':
        this.#streamed = message.xid;
        return;
      case 'streamStop':
        this.#streamed = undefined;
        return;
      case 'streamAbort':
        if (message.subXid === message.xid) this.#spill.forget(message.xid);
        else this.#spill.rollBack(message.xid, message.subXid);
        return;
      case 'streamCommit':
        this.#replay(message).catch((error: unknown) => this.#fail(error));
        return;
      default:
        return;
    }
  }

  #begin(xid: Xid, commitLsn: Lsn): void {
    this.#xid = xid;
    this.#inTransaction = true;
    this.#cut = false;
    this.#isOld = false;
    this.#commitLsn = commitLsn;
  }

  /** Applies a transaction that waited on the disk, as if all of it came now. */
  async #replay({ xid, commitLsn, endLsn }: Extract<Message, { kind: 'streamCommit' }>): Promise<void> {
    const { counters } = this.#options;
    this.#replaying = true;
    this.#balance();
    this.#begin(xid, commitLsn);
    // Its descriptions of tables hold for what comes behind it, even when its changes are here already.
    this.#isOld = this.#isApplied(endLsn);
    for await (const messages of this.#spill.read(xid)) {
      if (this.#failed) return;
      for (const message of messages) this.#onBytes(message);
      if (this.#pressed) await new Promise<void>((resolve) => (this.#relieved = resolve));
    }
    if (this.#failed) return;
    this.#spill.forget(xid);
    counters.spilledTransactions++;
    this.#commit(endLsn);
    this.#replaying = false;
    this.#catchUp();
  }

  /** What arrives waits until the function has resolved: a snapshot that is taken meanwhile shows whatever came before. */
  async holdDuring<T>(take: () => Promise<T>): Promise<T> {
    this.#held = true;
    this.#balance();
    try {
      return await take();
    } finally {
      this.#held = false;
      this.#catchUp();
    }
  }

  #catchUp(): void {
    if (this.#replaying || this.#held) return;
    const behind = this.#behind;
    this.#behind = [];
    for (const [at, chunk] of behind.entries()) {
      if (this.#failed) return;
      if (this.#replaying) return void this.#behind.push(...behind.slice(at));
      this.#take(chunk);
    }
    this.#balance();
  }

  #describe(relation: Relation): void {
    const name = `${relation.schema}.${relation.table}`;
    const targets = this.#options.tables
      .filter(({ table }) => table.mapping.table === name)
      .map((table) => ({ ...table, bound: undefined }));
    const readers = this.#options.binary?.readers(relation.columns);
    this.#relations.set(relation.id, { relation, targets, readers });
  }

  #each(
    relationId: number,
    bytes: number,
    change: (mapping: BoundMapping, readers: Readers | undefined) => RowChange,
  ): void {
    const described = this.#relations.get(relationId);
    if (described === undefined)
      throw new TokaidoError('CORRUPT', `a change of relation ${relationId}, which was not described`);
    if (this.#isOld) return;
    const targets = described.targets.filter((target) => !this.#isCopied(target));
    if (targets.length === 0) return;
    if (this.#isFull(bytes)) this.#writePart();
    for (const target of targets) {
      target.bound ??= this.#bind(described.relation, target);
      this.#pending.push(this.#noted(target, change(target.bound, described.readers)));
    }
    this.#pendingBytes += bytes;
    this.#options.counters.changes++;
  }

  /** Errors: `TablesChanged` when changes of this form do not fit what was copied, or would not say which row they mean. */
  #bind({ columns }: Relation, { table }: Target): BoundMapping {
    const { types, counters } = this.#options;
    const keys = keyColumns(table.mapping.key);
    const isIdentified = columns.every(({ name, isKey }) => isKey || !keys.includes(name));
    if (!hasColumns(table, columns) || !isIdentified) throw new TablesChanged([table.mapping]);
    return new BoundMapping(table.mapping, columns, types, counters);
  }

  #isCopied({ table, shown }: CopiedTable): boolean {
    if (shown?.shows(this.#xid, this.#commitLsn) === true) return true;
    return this.#options.beside?.has(table, this.#xid, this.#commitLsn) === true;
  }

  #noted({ table }: Target, change: RowChange): RowChange {
    const { beside } = this.#options;
    if (beside?.kinds.has(table) !== true) return change;
    const [stale, isEarly] = [beside.over.has(table), beside.hasRows(table, this.#xid, this.#commitLsn)];
    return (transaction, missing, found) =>
      change(beside.overtaken.watch(transaction, stale), isEarly ? [] : missing, found);
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
    if (this.#isApplied(endLsn)) this.#pending = [];
    this.#write(endLsn);
  }

  /** Applied before: Postgres sends again what it was not told to be safe. */
  #isApplied(endLsn: Lsn): boolean {
    return endLsn <= (this.#options.store.feedPosition(this.#options.feed) ?? 0n);
  }

  #fail(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#relieved?.();
    this.#options.onFail(error);
  }

  #write(endLsn: Lsn | undefined): void {
    const changes = this.#pending;
    const bytes = this.#pendingBytes;
    this.#pending = [];
    this.#pendingBytes = 0;
    if (changes.length === 0) return;
    this.#press(bytes);
    if (this.#waiting?.join(changes, bytes, endLsn, this.#options.limits) === true) return;
    const batch = new ChangeBatch(this.#options.feed, changes, bytes, endLsn);
    this.#waiting = batch;
    this.#submit(batch);
  }

  #submit(batch: ChangeBatch): void {
    const { store, onConfirm } = this.#options;
    const fail = (error: unknown): void => this.#fail(error);
    this.#uncommitted++;
    this.#unflushed++;
    let written: ReturnType<typeof store.write<void>>;
    try {
      written = store.write(
        (transaction) => this.#apply(batch, transaction),
        () => batch.position,
      );
    } catch (error) {
      fail(error);
      return;
    }
    written.committed.then(() => {
      this.#press(-batch.bytes);
      this.#uncommitted--;
      const endLsn = batch.position?.position;
      if (endLsn !== undefined) this.#committed = endLsn;
      if (this.reached > this.#committed) this.#options.onReached();
    }, fail);
    written.flushed.then(() => {
      this.#unflushed--;
      const endLsn = batch.position?.position;
      if (endLsn === undefined) return;
      if (endLsn > this.#confirmed) this.#confirmed = endLsn;
      onConfirm();
    }, fail);
  }

  #apply(batch: ChangeBatch, transaction: Parameters<RowChange>[0]): void {
    if (this.#waiting === batch) this.#waiting = undefined;
    if (this.#failed) throw new TokaidoError('FEED', 'a transaction before this one was not applied');
    const { found, counters } = this.#options;
    try {
      const missing: MissingRow[] = [];
      for (const change of batch.changes) change(transaction, missing, found);
      counters.missingValues += missing.length;
      if (missing.length > 0) throw new RowsMissing(missing);
    } catch (error) {
      // At once: the transactions behind this one may be in the same commit.
      this.#fail(error);
      throw error;
    }
    found.forgetUsed();
  }

  #press(bytes: number): void {
    this.#unapplied += bytes;
    const { maxUnappliedBytes } = this.#options.limits;
    const tooMuch = this.#pressed ? this.#unapplied > maxUnappliedBytes / 2 : this.#unapplied > maxUnappliedBytes;
    if (tooMuch === this.#pressed) return;
    this.#pressed = tooMuch;
    if (!tooMuch) this.#relieved?.();
    this.#balance();
  }

  /** Lets Postgres wait while too much is under way: to the store, to the disk, or behind a large transaction. */
  #balance(): void {
    const isMuch = this.#spill.unwrittenBytes > this.#options.limits.maxUnappliedBytes;
    const pause = this.#pressed || this.#replaying || this.#held || isMuch;
    if (pause === this.#paused) return;
    this.#paused = pause;
    this.#options.onPressure(pause);
  }

  /** Nothing that is still queued may be applied any more. */
  async abandon(): Promise<void> {
    this.#failed = true;
    this.#relieved?.();
    await this.#spill.close();
  }
}
