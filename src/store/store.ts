/**
 * The store of one node: databases of records on an engine, with the update log.
 *
 * Who owns what. One queue holds everything that wants to change data: local transactions, batches from an upstream,
 * housekeeping. One commit at a time takes from its head as much as the limits allow, while the commit before it is
 * still on its way to the disk (group commit), and turns it into one engine transaction: records, log batch and state
 * row together (invariants 1 and 3). In-memory state (`#state`, the log's numbers) moves only after the engine has
 * committed. Readers read the engine directly and never wait (invariant 6).
 *
 * Numbering. Local transactions get this node's sid, its epoch, the next sequence and a version from the hybrid clock,
 * all inside the commit, so numbers have no gaps (invariant 2). Replicated ones keep what they came with, must continue
 * their origin's sequence exactly, and are skipped when they were applied before.
 */
import { afterPrefix, EMPTY } from '../base/bytes.js';
import { assert, messageOf, TokaidoError } from '../base/errors.js';
import {
  type Epoch,
  epoch,
  type LocalNumber,
  localNumber,
  type OriginPosition,
  type Position,
  type Sid,
  sequence,
  type VersionNs,
} from '../base/types.js';
import type { Engine, Range, Writer } from '../engine/engine.js';
import { originOf } from '../log/position.js';
import { decodeTransactions, encodeTransaction, type FeedPosition, type Transaction } from '../log/transaction.js';
import { type LogBatch, type Retention, UpdateLog } from '../log/update-log.js';
import { ApplyOrder } from './apply-order.js';
import { Catalog, type DatabaseMaps } from './catalog.js';
import { CommitQueue, type QueueHead } from './commit-queue.js';
import { Draft, nextVersion, type StoreMaps } from './draft.js';
import { cachesOf, evictFrom, overCapacity } from './eviction.js';
import { EVERYTHING_SETTLED, forgettable, type Household, isSweepDue, SWEEP } from './housekeeping.js';
import { type Job, outcomeOf } from './job.js';
import { LocalTransaction } from './local-transaction.js';
import { decodeEpoch, EPOCH_KEY, encodeEpoch, isNext, withOwnEpoch, withVersionsAfter } from './numbering.js';
import { type PartChanges, PartHashes } from './part-hashes.js';
import { Proving } from './proving.js';
import { StoredRecord } from './record.js';
import { Resealing } from './resealing.js';
import { RESERVED_DATABASE } from './reserved.js';
import { type MemoryImage, restoreMemory } from './restore.js';
import { Room } from './room.js';
import { RecordHasher } from './set-hash.js';
import { decodeState, EMPTY_STATE, encodeState, type StoreState } from './state.js';
import type { StoreOptions } from './store-options.js';
import type { Database, FeedMark, LiveEntry, RecordView, Store, StoreTransaction, Written } from './types.js';

/** Row of the meta map that holds the state. */
export const STATE_KEY = Buffer.from('state');
/** Row of the same map that names the part of the whole this store holds; there is none for the whole. */
export const SCOPE_KEY = Buffer.from('scope');

/** What a local transaction does; see `Store.write`. */
type Build<T> = (transaction: StoreTransaction, versionNs: VersionNs) => T;

/** Called after each commit that logged something, in order. */
export type CommitListener = (batch: LogBatch) => void;

/** What a commit leaves. */
interface Finished {
  readonly state: StoreState;
  readonly batch: LogBatch | undefined;
  readonly first: number | undefined;
  readonly parts: PartChanges;
}

export class LocalStore implements Store {
  readonly #options: StoreOptions;
  readonly #engine: Engine;
  readonly #catalog: Catalog;
  readonly #maps: StoreMaps;
  readonly #log: UpdateLog;
  readonly #queue: CommitQueue<Job>;
  /** Proof of equality with other stores. */
  readonly proving: Proving;
  /** Encrypting anew what an older key, or none, encrypted. */
  readonly resealing: Resealing;
  readonly #listeners = new Set<CommitListener>();
  #state: StoreState;
  /** The highest epoch ever begun here, whether or not anything was numbered in it. */
  #lastEpoch: Epoch;
  #flushedPosition: Position;
  /** The part of the whole that the snapshot this store began with was, as replication encodes it; empty for all. */
  readonly scope: Buffer;
  /** Databases with a capacity. */
  #caches: readonly DatabaseMaps[] = [];
  #evicting = false;
  /** While it is set, nothing is cut from the log. */
  isLogHeld = false;
  /** Whether the data has reached its limit, as far as this commit asked. */
  readonly #room: Room;

  constructor(options: StoreOptions) {
    this.#options = options;
    this.#engine = options.engine;
    const { engine } = options;
    this.#room = new Room(engine, options);
    const catalog = new Catalog({ engine, specs: options.databases, maxDatabases: options.maxDatabases });
    this.#catalog = catalog;
    const hasher = new RecordHasher();
    const parts = new PartHashes({
      engine,
      hasher,
      find: (database) => this.#partOf(database),
      soon: (fn) => options.runtime.after(0, fn),
    });
    this.#maps = {
      hasher,
      parts,
      meta: engine.openMap('meta'),
      log: engine.openMap('log'),
      get indexes() {
        return catalog.indexes;
      },
      databases: catalog.byId,
    };
    const row = engine.get(this.#maps.meta, STATE_KEY);
    const stored = row === undefined ? EMPTY_STATE : decodeState(Buffer.from(row));
    this.#state = withVersionsAfter(withOwnEpoch(stored, options.sid), options.versionsAfterNs);
    this.#lastEpoch = decodeEpoch(engine.get(this.#maps.meta, EPOCH_KEY));
    this.#flushedPosition = this.#state.position;
    this.scope = Buffer.from(engine.get(this.#maps.meta, SCOPE_KEY) ?? EMPTY);
    this.#log = new UpdateLog(engine, this.#maps.log, this.#state.next);
    this.#queue = new CommitQueue(options.queue, options.runtime, (next) => this.#commit(next));
    this.proving = new Proving({
      view: () => ({ reader: engine, maps: this.#maps, state: this.#state }),
      parts,
      nowMs: () => options.runtime.nowMs(),
      change: async (run) => await this.#housekeep(run),
    });
    this.resealing = new Resealing(engine, this.#maps, async (run) => await this.#housekeep(run));
    const configured = options.databases.map(({ name }) => name);
    this.#openDatabases([...this.#state.databases.map(({ name }) => name), ...configured]);
  }

  /**
   * Brings back what lies in memory, once, before anybody reads. Returns the databases whose contents are lost because
   * neither the image nor the log reaches back to them. Errors: `CORRUPT`, `STORAGE`.
   */
  async restore(image: MemoryImage | undefined): Promise<readonly string[]> {
    const { lost, databases } = await restoreMemory(
      {
        engine: this.#engine,
        maps: this.#maps,
        log: this.#log,
        state: this.#state,
        nowMs: this.#options.runtime.nowMs(),
      },
      image,
    );
    this.#state = { ...this.#state, databases };
    return lost;
  }

  // ---- Reading -------------------------------------------------------------------------------------------------

  databases(): readonly Database[] {
    return this.#catalog.databases;
  }

  database(name: string): Database | undefined {
    return this.#catalog.database(name);
  }

  get(database: string, key: Buffer): RecordView | undefined {
    const raw = this.#engine.get(this.#catalog.maps(database).records, key);
    if (raw === undefined) return undefined;
    const record = new StoredRecord(raw);
    return record.isLive(() => this.#options.runtime.nowMs()) ? record : undefined;
  }

  count(database: string): number {
    const { id } = this.#catalog.maps(database);
    return this.#state.databases.find((state) => state.id === id)?.records ?? 0;
  }

  *scan(database: string, range: Range): Iterable<LiveEntry> {
    const { records } = this.#catalog.maps(database);
    const nowMs = this.#options.runtime.nowMs();
    for (const { key, value } of this.#engine.range(records, range)) {
      const record = new StoredRecord(value);
      if (record.isLive(() => nowMs)) yield { key, record };
    }
  }

  visit(database: string, range: Range, visit: (key: Buffer, record: RecordView) => boolean): Buffer | undefined {
    const { records } = this.#catalog.maps(database);
    const nowMs = this.#options.runtime.nowMs();
    let left = range.limit ?? Number.POSITIVE_INFINITY;
    for (const { key, value } of this.#engine.range(records, range)) {
      const record = new StoredRecord(value);
      const goesOn = !record.isLive(() => nowMs) || visit(key, record);
      if (!goesOn || --left === 0) return Buffer.from(key);
    }
    return undefined;
  }

  /** Copies of up to `limit` keys of live records that begin with `prefix` and come after `after`, in order. */
  keys(database: string, prefix: Buffer, after: Buffer | undefined, limit: number): Buffer[] {
    if (limit <= 0) return [];
    const end = afterPrefix(prefix);
    const behind = after === undefined ? prefix : Buffer.concat([after, Buffer.of(0)]);
    const start = behind.compare(prefix) < 0 ? prefix : behind;
    const keys: Buffer[] = [];
    for (const { key } of this.scan(database, { start, ...(end === undefined ? {} : { end }) })) {
      keys.push(Buffer.from(key));
      if (keys.length >= limit) break;
    }
    return keys;
  }

  feedPosition(feed: string): bigint | undefined {
    return this.#state.feeds.find((position) => position.feed === feed)?.position;
  }

  feeds(): readonly FeedPosition[] {
    return this.#state.feeds;
  }

  /** What has been applied and is visible. */
  position(): Position {
    return this.#state.position;
  }

  /** What would survive a power cut. */
  flushedPosition(): Position {
    return this.#flushedPosition;
  }

  /** This node's own numbering: its last transaction, or where it would begin. */
  ownPosition(): OriginPosition | undefined {
    const { sid } = this.#options;
    return sid === undefined ? undefined : originOf(this.#state.position, sid);
  }

  /** Besides how far it is. */
  get known(): Pick<StoreState, 'databases' | 'clears' | 'forgotten'> {
    return this.#state;
  }

  mapsOf(database: string): DatabaseMaps {
    return this.#catalog.maps(database);
  }

  /** This node's server id, if it takes writes. */
  get sid(): Sid | undefined {
    return this.#options.sid;
  }

  /** The incarnation that this node's own transactions are numbered in. */
  get epoch(): Epoch {
    return this.#state.epoch;
  }

  get log(): UpdateLog {
    return this.#log;
  }

  get engine(): Engine {
    return this.#engine;
  }

  async flush(): Promise<void> {
    await this.#engine.flush();
  }

  sizeBytes(): number {
    return this.#engine.sizeBytes();
  }

  /** For status and metrics. */
  statistics(): { logBytes: number; sizeBytes: number; queued: number; commits: number } {
    const { queued, commits } = this.#queue;
    return { logBytes: this.#state.logBytes, sizeBytes: this.#engine.sizeBytes(), queued, commits };
  }

  /** Calls `listener` after every commit that logged something, until the returned function is called. */
  onCommit(listener: CommitListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  // ---- Writing -------------------------------------------------------------------------------------------------

  write<T>(build: Build<T>, feed?: FeedMark): Written<T> {
    return this.#write([], build, feed);
  }

  /** As `write`, for what the cluster keeps for itself: its database is made when it is missing. */
  writeReserved<T>(build: Build<T>): Written<T> {
    return this.#write([RESERVED_DATABASE], build, undefined);
  }

  #write<T>(databases: readonly string[], build: Build<T>, feed: FeedMark | undefined): Written<T> {
    const { sid } = this.#options;
    if (sid === undefined)
      throw new TokaidoError('READ_ONLY', 'this node has no server id of its own and takes no writes');
    // What the cluster needs to stay safe finds room even where clients may only remove.
    const isOwn = databases.length > 0;
    const run = (draft: Draft): T => this.#runLocal(draft, sid, build, feed?.(), !isOwn && this.#room.isFull());
    return this.#queue.add<T>({ databases, run });
  }

  /** Live records of the reserved database whose keys begin with `prefix`; none where it was never written. */
  *reserved(prefix: string): Iterable<LiveEntry> {
    if (!this.#catalog.has(RESERVED_DATABASE)) return;
    const start = Buffer.from(prefix);
    const end = afterPrefix(start);
    yield* this.scan(RESERVED_DATABASE, { start, ...(end === undefined ? {} : { end }) });
  }

  #runLocal<T>(draft: Draft, sid: Sid, build: Build<T>, feed: FeedPosition | undefined, mayOnlyRemove: boolean): T {
    const { runtime, transaction } = this.#options;
    const versionNs = nextVersion(runtime.nowNs(), draft.lastVersionNs);
    const limits = { ...transaction, mayOnlyRemove };
    const local = new LocalTransaction(draft, { sid, versionNs, nowMs: runtime.nowMs() }, limits);
    const result = build(local, versionNs);
    if (local.changes.length > 0) this.#logLocal(draft, { sid, versionNs, feed, changes: local.changes });
    return result;
  }

  mark(feed: FeedPosition): Written<void> {
    const { sid, runtime } = this.#options;
    if (sid === undefined)
      throw new TokaidoError('READ_ONLY', 'this node has no server id of its own and takes no writes');
    const run = (draft: Draft): void => {
      this.#logLocal(draft, { sid, versionNs: nextVersion(runtime.nowNs(), draft.lastVersionNs), feed, changes: [] });
    };
    return this.#queue.add<void>({ databases: [], run });
  }

  /** Gives a local transaction its number, logs and applies it. */
  #logLocal(draft: Draft, local: Omit<Transaction, 'epoch' | 'sequence'>): void {
    const last = draft.lastOf(local.sid);
    const transaction = { ...local, epoch: draft.epoch, sequence: sequence((last?.sequence ?? 0) + 1) };
    encodeTransaction(draft.log, transaction);
    draft.apply(transaction, transaction.changes);
  }

  /**
   * Applies encoded transactions from an upstream, all in one commit; resolves when they are visible. `order` is that of
   * the link they came over. Errors: `REPLICATION` when a number is missing, or something before them was not applied
   * (nothing of the batch is), `CORRUPT`, `STORAGE`.
   */
  apply(payload: Buffer, order = new ApplyOrder()): Written<number> {
    const transactions = decodeTransactions(payload);
    const databases = new Set<string>();
    for (const { changes } of transactions) for (const { database } of changes) databases.add(database);
    const applyTo = (draft: Draft): number => {
      // Checked whole before anything is applied: a job that throws must not have touched the draft.
      const reached = new Map<Sid, OriginPosition>();
      const fresh = transactions.filter(({ header }) => {
        if (!isNext(reached.get(header.sid) ?? draft.lastOf(header.sid), header)) return false;
        reached.set(header.sid, header);
        return true;
      });
      for (const { header, bytes, changes } of fresh) {
        draft.log.bytes(bytes);
        draft.apply(header, changes);
        if (header.sid === this.#options.sid && header.epoch > draft.epoch) draft.setEpoch(header.epoch);
      }
      return fresh.length;
    };
    const run = (draft: Draft): number => order.run(() => applyTo(draft));
    const written = this.#queue.add<number>({ databases: [...databases], run });
    // The whole commit may fail as well.
    written.committed.catch(() => order.break());
    return written;
  }

  /**
   * Begins a new incarnation of this node's numbering, because its own tail may be lost. An empty transaction in the new
   * epoch says so to every node at once: whoever has numbers of the old epoch beyond it then knows that it diverged.
   * `beyond` is the highest epoch of this origin that anyone was seen to know: an older copy of the data may know less.
   *
   * The epoch is on the disk before anything is numbered in it, for what is numbered is sent before it is flushed: a
   * power cut in between must not lead to the same epoch again, with other transactions in it.
   */
  async beginEpoch(beyond: Epoch = this.epoch): Promise<void> {
    const { sid, runtime } = this.#options;
    assert(sid !== undefined, 'only an origin has epochs');
    for (;;) {
      const next = epoch(Math.max(this.epoch, beyond, this.#lastEpoch) + 1);
      this.#lastEpoch = next;
      const reserve = (draft: Draft): void => draft.putMeta(EPOCH_KEY, encodeEpoch(next));
      await this.#queue.add<void>({ databases: [], run: reserve }).flushed;
      const begin = (draft: Draft): boolean => {
        // Meanwhile a later one was begun, or came back from a follower.
        if (draft.epoch >= next) return false;
        draft.setEpoch(next);
        const versionNs = nextVersion(runtime.nowNs(), draft.lastVersionNs);
        this.#logLocal(draft, { sid, versionNs, feed: undefined, changes: [] });
        return true;
      };
      if (await this.#queue.add<boolean>({ databases: [], run: begin }).flushed) return;
    }
  }

  /**
   * One round of housekeeping: records that expired at `upToMs` or before, the log's retention, tombstones, but none of a
   * transaction from `settled` on. Returns whether more is due.
   */
  async sweep(
    upToMs: number = this.#options.runtime.nowMs(),
    settled: LocalNumber = EVERYTHING_SETTLED,
  ): Promise<boolean> {
    const run = (draft: Draft): boolean => {
      const expired = draft.collectExpired(SWEEP.rows, upToMs);
      const before = this.#log.first;
      const trimmed = this.isLogHeld ? before : draft.trimLog(this.#log, this.#options.retention, SWEEP.batches);
      const forgotten = draft.forgetBuried(forgettable(this.#household, trimmed, settled), SWEEP.rows);
      return expired === SWEEP.rows || forgotten === SWEEP.rows || trimmed - before >= SWEEP.batches;
    };
    return await this.#housekeep(run);
  }

  /** Cuts the log to less than what is configured, now; whoever lacks what goes will need a snapshot. */
  async trimLog(retention: Retention): Promise<void> {
    while (!this.isLogHeld) {
      const before = this.#log.first;
      const trimmed = await this.#housekeep((draft) => draft.trimLog(this.#log, retention, SWEEP.batches));
      if (trimmed - before < SWEEP.batches) return;
    }
  }

  /** Something is due for `sweep`, found without a write. */
  needsSweep(upToMs: number = this.#options.runtime.nowMs(), settled: LocalNumber = EVERYTHING_SETTLED): boolean {
    return isSweepDue(this.#household, upToMs, this.#options.runtime.nowMs(), settled);
  }

  get #household(): Household {
    const { engine, retention, removalBytes } = this.#options;
    return { engine, retention, removalBytes, indexes: this.#catalog.indexes, log: this.#log, state: this.#state };
  }

  // ---- Comparing -----------------------------------------------------------------------------------------------

  /** Calls `look` between two commits, right behind everything that is queued now: no more and no less is visible. */
  async between<T>(look: () => T): Promise<T> {
    return await new Promise<T>((resolve, reject) => {
      const between = (): void => {
        try {
          resolve(look());
        } catch (error) {
          reject(error);
        }
      };
      this.#queue.add<void>({ databases: [], run: () => undefined, between }).committed.catch(reject);
    });
  }

  #partOf(database: string): { maps: DatabaseMaps; horizon: Buffer } | undefined {
    const known = this.#state.databases.find(({ name }) => name === database);
    const maps = known === undefined ? undefined : this.#catalog.byId.get(known.id);
    return maps === undefined ? undefined : { maps, horizon: this.#state.horizons[maps.spec.storage] };
  }

  // ---- Committing ----------------------------------------------------------------------------------------------

  /** Runs jobs from the queue's head inside one engine transaction. The queue calls this, one at a time. */
  async #commit(next: QueueHead<Job>): Promise<{ flushed: Promise<void> }> {
    this.#openDatabases(next.peek()?.databases ?? []);
    this.#room.forget();
    const nowMs = this.#options.runtime.nowMs();
    let between: (() => void) | undefined;
    const { result, flushed } = await this.#engine.write((writer) => {
      const draft = new Draft(writer, this.#maps, this.#state, nowMs);
      for (;;) {
        const job = next.peek();
        if (job === undefined || !job.databases.every((name) => this.#catalog.has(name))) break;
        if (next.isEnough(draft.changes, draft.log.length)) break;
        next.take((taken) => outcomeOf(taken, draft));
        between = job.between;
        if (between !== undefined) break;
      }
      return this.#finish(writer, draft, nowMs);
    });
    this.#committed(result);
    between?.();
    this.#evict();
    const { position } = this.#state;
    const onDisk = flushed.then(() => {
      if (this.#engine.flushesCommits) this.#flushedPosition = position;
    });
    return { flushed: onDisk };
  }

  #finish(writer: Writer, draft: Draft, nowMs: number): Finished {
    let batch: LogBatch | undefined;
    if (draft.transactions > 0) {
      const payload = draft.log.take();
      const { next: first, position: before } = this.#state;
      batch = { first, count: draft.transactions, timeMs: nowMs, before, payload };
      this.#log.append(writer, batch);
      draft.logBytes += payload.length;
    }
    const state = draft.state();
    if (draft.writes > 0) writer.put(this.#maps.meta, STATE_KEY, encodeState(state));
    return { state, batch, first: draft.logFirst, parts: draft.parts };
  }

  #committed({ state, batch, first, parts }: Finished): void {
    this.#state = state;
    parts.apply();
    this.#log.committed(state.next);
    if (first !== undefined) this.#log.trimmed(localNumber(first));
    if (batch === undefined) return;
    for (const listener of this.#listeners) this.#tell(listener, batch);
  }

  /** The commit has happened, whatever a listener thinks of it: its jobs are not told that they failed. */
  #tell(listener: CommitListener, batch: LogBatch): void {
    try {
      listener(batch);
    } catch (error) {
      this.#options.onBroken(error);
    }
  }

  /** Caches that are over their capacity give up what was used least recently, in the next commit. */
  #evict(): void {
    const full = overCapacity(this.#engine, this.#caches);
    if (full.length === 0 || this.#evicting) return;
    this.#evicting = true;
    const run = (draft: Draft): void => {
      this.#evicting = false;
      evictFrom(this.#engine, draft, full);
    };
    this.#housekeep(run).catch((error: unknown) => {
      this.#evicting = false;
      // The queue is full or closing, or the disk refused: the next commit tries again.
      this.#options.log.debug({ reason: messageOf(error) }, 'a cache stays over its capacity for now');
    });
  }

  async #housekeep<T>(run: (draft: Draft) => T): Promise<T> {
    return await this.#queue.add<T>({ databases: [], run }).committed;
  }

  /** Outside of a commit only: the engine cannot open maps inside. */
  #openDatabases(names: readonly string[]): void {
    const missing = names.filter((name) => !this.#catalog.has(name));
    this.#catalog.open(missing, this.#state.databases, (added) => {
      this.#state = { ...this.#state, databases: [...this.#state.databases, added] };
    });
    this.#caches = cachesOf(this.#catalog.byId.values());
  }

  /** Lets everything queued commit; further writes are refused with `NOT_READY` until `resume`. */
  async pause(): Promise<void> {
    await this.#queue.pause();
  }

  resume(): void {
    this.#queue.resume();
  }

  /** A change of a store that nobody reads yet, in a commit; these databases are opened for it. */
  async prepare<T>(databases: readonly string[], run: (draft: Draft) => T): Promise<T> {
    return await this.#queue.add<T>({ databases, run }).committed;
  }

  /** Logs what this origin had numbered otherwise, in `epoch`; its version stays, unless the one before it is higher. */
  numberAnew({ feed, changes, sid, versionNs }: Transaction, epoch: Epoch): Written<void> {
    const run = (draft: Draft): void => {
      if (draft.epoch < epoch) draft.setEpoch(epoch);
      const last = draft.lastOf(sid)?.versionNs ?? versionNs;
      const next = last < versionNs ? versionNs : ((last + 1n) as VersionNs);
      this.#logLocal(draft, { sid, versionNs: next, feed, changes });
    };
    return this.#queue.add<void>({ databases: changes.map(({ database }) => database), run });
  }

  /** Another store of this origin had begun this epoch: it is not begun again here. */
  async keepEpoch(begun: Epoch): Promise<void> {
    if (begun <= this.#lastEpoch) return;
    this.#lastEpoch = begun;
    await this.#housekeep((draft) => draft.putMeta(EPOCH_KEY, encodeEpoch(begun)));
  }

  /** The highest epoch ever begun here, whether or not anything was numbered in it. */
  get lastEpoch(): Epoch {
    return this.#lastEpoch;
  }

  /** Lets everything queued commit, flushes, and closes the engine. Further writes are refused with `NOT_READY`. */
  async close(): Promise<void> {
    await this.#queue.close();
    this.#listeners.clear();
    this.#maps.parts.close();
    await this.#engine.close();
  }
}
