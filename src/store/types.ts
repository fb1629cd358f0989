/** What the store offers to the layers above: databases, records, transactions. The implementation is `store.ts`. */
import type { Durability, Epoch, Position, Sequence, Sid, VersionNs } from '../base/types.js';

/** A named set of records on this node. `index` is Kyoto Tycoon's database number. */
export interface Database {
  readonly name: string;
  readonly index: number;
}

/** A record as read. `value` is a view valid until the next call on the store: copy it to keep it. */
export interface RecordView {
  readonly value: Buffer;
  /** Expiration time in ms since 1970, or `NEVER_EXPIRES`. Never in the past: expired records are not returned. */
  readonly xtMs: number;
  readonly sid: Sid;
  readonly versionNs: VersionNs;
}

/** One change. The unit of replication is the transaction, an ordered list of these. */
export type Change =
  | { readonly kind: 'set'; readonly database: string; readonly key: Buffer; readonly value: Buffer; readonly xtMs: number }
  | { readonly kind: 'remove'; readonly database: string; readonly key: Buffer }
  /** Removes every record whose key begins with `prefix` (empty: the whole database). */
  | { readonly kind: 'clear'; readonly database: string; readonly prefix: Buffer };

/** How far a feed (Postgres, a file) has been consumed: travels in the log with the data it describes. */
export interface FeedPosition {
  readonly feed: string;
  /** Feed-specific and growing: for Postgres the LSN of the commit's end. */
  readonly position: bigint;
}

/** One transaction as it is logged and replicated. */
export interface Transaction {
  readonly sid: Sid;
  readonly epoch: Epoch;
  readonly sequence: Sequence;
  readonly versionNs: VersionNs;
  readonly feed: FeedPosition | undefined;
  readonly changes: readonly Change[];
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
   * throws, its transaction leaves no trace and the others go on. A transaction without changes is not logged.
   * Errors: `NO_DATABASE`, `TOO_LARGE`, `OVERLOADED` (queue full), `STORAGE`, `NOT_READY` (stopping).
   */
  write<T>(build: (transaction: StoreTransaction) => T, feed?: FeedPosition): Written<T>;
  /** The position of a feed as of the newest commit, `undefined` when it never committed anything. */
  feedPosition(feed: string): bigint | undefined;
  position(): Position;
}

export type { Durability };
