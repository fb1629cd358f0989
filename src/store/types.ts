/** What the store offers to the layers above: databases, records, transactions. The implementation is `store.ts`. */
import type { Durability, Position, Sid, VersionNs } from '../base/types.js';
import type { Range } from '../engine/engine.js';
import type { Change, FeedPosition, Transaction } from '../log/transaction.js';
import type { DatabaseSpec } from './database-spec.js';

/** A named set of records on this node. `index` is Kyoto Tycoon's database number. */
export interface Database {
  readonly name: string;
  readonly index: number;
  readonly spec: DatabaseSpec;
}

/** A record as read. `value` is a view valid until the next call on the store: copy it to keep it. */
export interface RecordView {
  readonly value: Buffer;
  /** Expiration time in ms since 1970, or `NEVER_EXPIRES`. Never in the past: expired records are not returned. */
  readonly xtMs: number;
  readonly sid: Sid;
  readonly versionNs: VersionNs;
}

/** A live record with its key, while a scan stands on it. */
export interface LiveEntry {
  readonly key: Buffer;
  readonly record: RecordView;
}

/** A local transaction being built. Reads see the writes made before them in the same transaction. */
export interface StoreTransaction {
  get(database: string, key: Buffer): RecordView | undefined;
  /** Keeps `key` and `value` until the transaction ends: do not reuse their bytes. */
  set(database: string, key: Buffer, value: Buffer, xtMs: number): void;
  /** Returns whether a live record was there. */
  remove(database: string, key: Buffer): boolean;
  clear(database: string, prefix?: Buffer): void;
}

/** The two moments a writer may wait for. `committed` rejects when the transaction failed; `flushed` then does too. */
export interface Written<T> {
  readonly committed: Promise<T>;
  readonly flushed: Promise<T>;
}

/** How far a feed is with a transaction that is about to be made; `undefined` when it does not move. */
export type FeedMark = () => FeedPosition | undefined;

/** What protocols, commands and feeds see of a store. */
export interface Store {
  /** In the order of their index. */
  databases(): readonly Database[];
  database(name: string): Database | undefined;
  /** The live record, or `undefined` when there is none or it has expired. */
  get(database: string, key: Buffer): RecordView | undefined;
  /** Live records (expired ones that were not collected yet included). */
  count(database: string): number;
  /**
   * Queues one transaction; `build` runs inside the next group commit, together with others, in order. When `build`
   * throws, its transaction leaves no trace and the others go on. A transaction without changes is not logged. It is told
   * the version that every record it sets gets. `feed` is asked as `build` begins: until then a feed may add to what it
   * queued.
   * Errors: `NO_DATABASE`, `TOO_LARGE`, `OVERLOADED` (queue full), `STORAGE`, `NOT_READY` (stopping).
   */
  write<T>(build: (transaction: StoreTransaction, versionNs: VersionNs) => T, feed?: FeedMark): Written<T>;
  /**
   * Live records of a range in key order (backwards with `reverse`); `limit` counts what is looked at, expired records
   * included. Keys and views are valid until the iteration goes on. Do not keep the iterator beyond the event turn.
   */
  scan(database: string, range: Range): Iterable<LiveEntry>;
  /**
   * Hands live records of a range to `visit`, in order, until it returns false or `range.limit` rows were looked at
   * (dead ones included). Returns a copy of the last key looked at when there may be more after it: that is where a
   * caller who works in slices goes on. Views are valid during the call of `visit`.
   */
  visit(database: string, range: Range, visit: (key: Buffer, record: RecordView) => boolean): Buffer | undefined;
  /** Copies of up to `limit` keys of live records that begin with `prefix` and come after `after`, in order. */
  keys(database: string, prefix: Buffer, after: Buffer | undefined, limit: number): Buffer[];
  /** Commits a feed's position alone, as a transaction without changes: the end of an initial copy. */
  mark(feed: FeedPosition): Written<void>;
  /** The position of a feed as of the newest commit, `undefined` when it never committed anything. */
  feedPosition(feed: string): bigint | undefined;
  /** The positions of all feeds as of the newest commit. */
  feeds(): readonly FeedPosition[];
  position(): Position;
  /** One round of housekeeping (expired records, retention, tombstones). Returns whether more is due. */
  sweep(): Promise<boolean>;
  /** Resolves when everything committed before the call is on the disk. */
  flush(): Promise<void>;
  /** Bytes that all databases together occupy on the disk. */
  sizeBytes(): number;
}

export type { Change, Durability, FeedPosition, Range, Transaction };
