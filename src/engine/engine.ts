/**
 * What Tokaido asks of a storage engine: ordered maps of bytes, one writer whose transactions are atomic across all
 * maps, readers that never wait, consistent snapshots, and to know when a commit is on the disk. Everything above
 * (records, log, positions) is built on this and nothing else.
 */

/** Selects part of a map, in key order (bytewise). `start` is included, `end` is not. */
export interface Range {
  readonly start?: Buffer;
  readonly end?: Buffer;
  /** From the last key of the range to the first. */
  readonly reverse?: boolean;
  readonly limit?: number;
}

export interface Entry {
  /** Valid until the iteration goes on. Copy to keep. */
  readonly key: Buffer;
  /** Valid until the iteration goes on. Copy to keep. */
  readonly value: Buffer;
}

/** A consistent view of all maps. */
export interface Reader {
  /** The value as a view that is valid until the next call on the engine. Copy to keep. */
  get(map: MapId, key: Buffer): Buffer | undefined;
  /** Entries in key order. */
  range(map: MapId, range: Range): Iterable<Entry>;
}

/** The one write transaction. Sees its own writes. */
export interface Writer extends Reader {
  /** Takes a copy of key and value before it returns. Errors: `TOO_LARGE` for a key that the engine cannot store. */
  put(map: MapId, key: Buffer, value: Buffer): void;
  /** Returns whether the key was there. */
  remove(map: MapId, key: Buffer): boolean;
  /** Removes every entry. */
  clear(map: MapId): void;
}

/** A consistent view that outlives the event turn. Must be closed; holds back the reuse of disk pages until then. */
export interface Snapshot extends Reader {
  close(): void;
}

declare const mapBrand: unique symbol;
/** Handle of an open map. */
export type MapId = number & { readonly [mapBrand]: 'MapId' };

/** Where a map lies. One in memory is empty whenever the engine is opened. */
export interface MapOptions {
  readonly storage: 'disk' | 'memory';
  /** Capacity of a map in memory; beyond it `overflow` names keys. */
  readonly maxRecords?: number | undefined;
  readonly maxBytes?: number | undefined;
  /** Whether values are encrypted where they lie on the disk, by an engine that can (`sealed.ts`). */
  readonly sealed?: boolean;
}

/** What a write transaction left behind. */
export interface Commit<T> {
  readonly result: T;
  /** Resolves when this commit, and all before it, would survive a power cut. */
  readonly flushed: Promise<void>;
}

/** Entries that are not stored as they would be now: plain, say, or sealed with an older key. */
export interface Stale {
  readonly keys: readonly Buffer[];
  readonly looked: number;
  /** The last entry looked at, behind which there may be more; `undefined` at the end of the map. */
  readonly last: Buffer | undefined;
}

/** How many rows to look at, how many to name, and how many bytes to look at, about. */
export interface StaleLimits {
  readonly rows: number;
  readonly wrong: number;
  readonly bytes: number;
}

/** Reads outside any transaction see the newest commit, consistently within one event turn. */
export interface Engine extends Reader {
  /**
   * Whether commits go to the disk by themselves. When not, `flushed` resolves at once and promises nothing: only a
   * close does.
   */
  readonly flushesCommits: boolean;
  /** Opens or creates a map; one that is open already is found by its name alone. Not inside `write`. */
  openMap(name: string, options?: MapOptions): MapId;
  /**
   * Keys of a map with a capacity that were used least recently and have to go for the rest to fit, at most `limit`.
   * The caller removes them: the engine cannot know what else refers to them.
   */
  overflow(map: MapId, limit: number): Buffer[];
  /**
   * Runs `fn` as one atomic transaction: when it throws, nothing of it happened. Resolves when the result is visible to
   * all readers. Callers do not overlap calls.
   * Errors: `STORAGE` when the disk refuses (nothing was committed).
   */
  write<T>(fn: (writer: Writer) => T): Promise<Commit<T>>;
  snapshot(): Snapshot;
  /** Entries behind `after` that would be stored differently if they were put now. Only engines that change what is put. */
  stale?(map: MapId, after: Buffer | undefined, limits: StaleLimits): Stale;
  /**
   * Resolves when everything committed before the call is on the disk, by an earlier process too. Errors: `STORAGE`.
   */
  flush(): Promise<void>;
  /** Bytes the engine occupies, on the disk and in memory. */
  sizeBytes(): number;
  /**
   * Bytes that hold something now: of the disk, in all its maps, the rest of the file being free for what comes; or of one
   * map, which may be one in memory. Costs a call per map.
   */
  usedBytes(map?: MapId): number;
  /** Flushes and closes. Nothing may be called after. */
  close(): Promise<void>;
}
