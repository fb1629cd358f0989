/**
 * A database read record by record at one moment, to find out where it differs from another node's: hashes of ranges of
 * keys, and the rows of a range. What is found to be wrong is put right by `Draft.repair`.
 *
 * No hashes of ranges are stored: every write would have to keep a path of them. So whoever audits reads the database
 * once in any case, and a descent of few, wide levels is as good as a deep one.
 */
import { afterKey, ByteWriter, EMPTY } from '../base/bytes.js';
import { type Keys, rangesOf } from '../base/keys.js';
import { type LocalNumber, NEVER_EXPIRES, type Position } from '../base/types.js';
import type { Engine, MapId, Snapshot } from '../engine/engine.js';
import { horizonOf, isBeyond } from './proof.js';
import { StoredRecord } from './record.js';
import type { KeyRange, RangeRows } from './repair.js';
import { addHash, NOTHING, RecordHasher, type SetHash } from './set-hash.js';
import { type DatabaseState, decodeState, EMPTY_STATE, type StoreState } from './state.js';
import { STATE_KEY } from './store.js';

export const ALL_KEYS: KeyRange = { start: EMPTY, end: undefined };

/** What a range holds. */
export interface RangeHash extends KeyRange {
  readonly count: number;
  readonly hash: SetHash;
}

/** Close it: it pins disk pages. */
export class DatabaseAudit {
  readonly position: Position;
  /** Local number of the first transaction that is not in it. */
  readonly next: LocalNumber;
  readonly #snapshot: Snapshot;
  readonly #state: StoreState;
  readonly #database: DatabaseState | undefined;
  readonly #records: MapId | undefined;
  readonly #hasher = new RecordHasher();
  /** What is looked at, and what is there for nobody. */
  readonly #keys: Keys;
  /** What the running hash of the database should be, by the records read so far. */
  readonly #recounted = Int32Array.from(NOTHING);

  /** Of those keys only that a follower may see. */
  constructor(engine: Engine, database: string, keys: Keys = 'all') {
    this.#keys = keys;
    const meta = engine.openMap('meta');
    this.#snapshot = engine.snapshot();
    const row = this.#snapshot.get(meta, STATE_KEY);
    this.#state = row === undefined ? EMPTY_STATE : decodeState(Buffer.from(row));
    this.position = this.#state.position;
    this.next = this.#state.next;
    this.#database = this.#state.databases.find(({ name }) => name === database);
    const { id, storage } = this.#database ?? {};
    this.#records =
      id === undefined || storage === undefined ? undefined : engine.openMap(`records-${id}`, { storage });
  }

  /**
   * Hashes records of a range that do not expire at `cutoffMs` or before, looking at `most` rows; returns the part that
   * it got through.
   */
  hash(range: KeyRange, cutoffMs: number, most: number): RangeHash {
    const hash = Int32Array.from(NOTHING);
    let count = 0;
    let last: Buffer | undefined;
    let looked = 0;
    for (const { key, value } of this.#range(range)) {
      if (looked++ >= most) break;
      last = Buffer.from(key);
      const record = new StoredRecord(value);
      if (record.isTombstone) continue;
      this.#recount(key, record);
      if (record.xtMs !== NEVER_EXPIRES && record.xtMs <= cutoffMs) continue;
      this.#hasher.count(hash, 1, key, record);
      count++;
    }
    const isWhole = looked <= most;
    return { start: range.start, end: isWhole || last === undefined ? range.end : afterKey(last), count, hash };
  }

  *#range({ start, end }: KeyRange): Iterable<{ key: Buffer; value: Buffer }> {
    if (this.#records === undefined) return;
    for (const part of rangesOf(this.#keys)) {
      const from = part.start === undefined || part.start.compare(start) < 0 ? start : part.start;
      const to = part.end === undefined || (end !== undefined && end.compare(part.end) < 0) ? end : part.end;
      if (to !== undefined && from.compare(to) >= 0) continue;
      yield* this.#snapshot.range(this.#records, to === undefined ? { start: from } : { start: from, end: to });
    }
  }

  #recount(key: Buffer, record: StoredRecord): void {
    const { id, storage } = this.#database as DatabaseState;
    const isCounted = isBeyond(horizonOf(this.#state.horizons[storage], id), record.xtMs, key);
    if (isCounted) this.#hasher.count(this.#recounted, 1, key, record);
  }

  /** By how much the running hash is wrong, once every record was hashed exactly once; `undefined` when it is right. */
  miscount(): SetHash | undefined {
    if (this.#keys !== 'all') return undefined;
    const wrong = Int32Array.from(this.#database?.hash ?? NOTHING);
    addHash(wrong, this.#recounted, -1);
    return wrong.every((lane) => lane === 0) ? undefined : wrong;
  }

  /** Hands records of a range to `visit`, each with its own hash, looking at `most` rows; returns where to go on. */
  each(range: KeyRange, most: number, visit: (key: Buffer, record: StoredRecord, hash: SetHash) => void): KeyRange {
    let last: Buffer | undefined;
    let looked = 0;
    for (const { key, value } of this.#range(range)) {
      if (looked++ >= most) return { start: afterKey(last as Buffer), end: range.end };
      last = Buffer.from(key);
      const record = new StoredRecord(value);
      if (record.isTombstone) continue;
      const hash = Int32Array.from(NOTHING);
      this.#hasher.count(hash, 1, key, record);
      visit(key, record, hash);
    }
    return { start: range.start, end: range.start };
  }

  /** Rows of a range, about `bytes` of them; returns the part that it got through. */
  rows(range: KeyRange, bytes: number): RangeRows {
    const writer = new ByteWriter(4096);
    for (const { key, value } of this.#range(range)) {
      writer.sized(key).sized(value);
      if (writer.length >= bytes) return { start: range.start, end: afterKey(key), rows: writer.take() };
    }
    return { ...range, rows: writer.take() };
  }

  close(): void {
    this.#snapshot.close();
  }
}
