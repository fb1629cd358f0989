/**
 * One commit in the making: applies changes to the engine's write transaction and keeps the next state beside it.
 * Whoever wins is decided here and only here (invariant 4): the higher (version, sid) stays, whether it is a record, a
 * tombstone or a clear. Nothing of this is visible, in memory either, before the engine has committed.
 */
import { afterPrefix, ByteReader, ByteWriter, EMPTY } from '../base/bytes.js';
import { assert, TokaidoError } from '../base/errors.js';
import {
  type Epoch,
  type LocalNumber,
  localNumber,
  NEVER_EXPIRES,
  type OriginPosition,
  type Sid,
  type VersionNs,
} from '../base/types.js';
import type { MapId, Writer } from '../engine/engine.js';
import type { Change, FeedPosition, TransactionHeader } from '../log/transaction.js';
import type { Retention, UpdateLog } from '../log/update-log.js';
import type { DatabaseMaps, IndexMaps } from './catalog.js';
import type { Storage } from './database-spec.js';
import { type Forgotten, joinForgotten, withForgotten } from './forgotten.js';
import { indexKey, isCounted, parseIndexKey } from './index-rows.js';
import type { PartChanges, PartHashes } from './part-hashes.js';
import { checkRecord, encodeRecord, encodeStamp, encodeTombstone, StoredRecord } from './record.js';
import { isCoveredBy, type Repair, type Repaired } from './repair.js';
import { addHash, NOTHING, type RecordHasher, type SetHash } from './set-hash.js';
import { type ClearMark, type DatabaseState, type Horizons, type StoreState, withClear } from './state.js';

/** The engine maps of a store, and what hashes their records. */
export interface StoreMaps {
  readonly hasher: RecordHasher;
  /** Hashes of parts that somebody wants. */
  readonly parts: PartHashes;
  readonly meta: MapId;
  readonly log: MapId;
  /** One per kind of storage in use: what is rebuilt at start must not be pointed at by what is not. */
  readonly indexes: readonly IndexMaps[];
  /** By database id. */
  readonly databases: ReadonlyMap<number, DatabaseMaps>;
}

/** What a store takes over from another one, besides records and clears. */
export type Adopted = Pick<StoreState, 'position' | 'lastVersionNs' | 'feeds' | 'forgotten'>;

/** One database as this commit leaves it. */
interface DatabaseDraft {
  readonly id: number;
  readonly name: string;
  readonly maps: DatabaseMaps;
  records: number;
  hash: SetHash;
}

export class Draft {
  readonly #writer: Writer;
  readonly #maps: StoreMaps;
  readonly #before: StoreState;
  readonly #nowMs: number;
  /** The databases that this commit has to do with. */
  readonly #drafts: DatabaseDraft[] = [];
  readonly #horizons: { -readonly [storage in keyof Horizons]: Horizons[storage] };
  /** Encoded transactions of this commit. */
  readonly log = new ByteWriter(1024);
  lastVersionNs: VersionNs;
  /** By sid; the state of the position inside this commit. */
  readonly #origins = new Map<Sid, OriginPosition>();
  #epoch: Epoch;
  /** Grows with everything this commit would leave behind; 0 means that there is nothing to commit. */
  writes = 0;
  /** Number of transactions logged by this commit. */
  transactions = 0;
  /** Number of changes applied; bounds how long a commit holds the event loop. */
  changes = 0;
  /** What it changes of the parts that somebody wants hashes of. */
  readonly parts: PartChanges;
  readonly #feeds = new Map<string, FeedPosition>();
  #clears: readonly ClearMark[];
  #forgotten: Forgotten;
  logBytes: number;
  /** Set when this commit trimmed the log: its oldest number then. */
  logFirst: LocalNumber | undefined;

  constructor(writer: Writer, maps: StoreMaps, before: StoreState, nowMs: number) {
    this.#writer = writer;
    this.#maps = maps;
    this.parts = maps.parts.changes();
    this.#before = before;
    this.#nowMs = nowMs;
    for (const origin of before.position) this.#origins.set(origin.sid, origin);
    this.lastVersionNs = before.lastVersionNs;
    this.#epoch = before.epoch;
    this.logBytes = before.logBytes;
    for (const feed of before.feeds) this.#feeds.set(feed.feed, feed);
    this.#clears = before.clears;
    this.#forgotten = before.forgotten;
    this.#horizons = { ...before.horizons };
  }

  /** Local number of the transaction being applied. */
  get #number(): LocalNumber {
    return localNumber(this.#before.next + this.transactions);
  }

  /** The last transaction of an origin, those of this commit included. */
  lastOf(sid: Sid): OriginPosition | undefined {
    return this.#origins.get(sid);
  }

  get epoch(): Epoch {
    return this.#epoch;
  }

  setEpoch(epoch: Epoch): void {
    this.writes++;
    this.#epoch = epoch;
  }

  /** Writes a row beside the state. */
  putMeta(key: Buffer, value: Buffer): void {
    this.writes++;
    this.#writer.put(this.#maps.meta, key, value);
  }

  /** Puts values as they are once more, those that are still there. Reads all before it touches any. */
  putAgain(map: MapId, keys: readonly Buffer[]): void {
    const values = keys.map((key) => {
      const value = this.#writer.get(map, key);
      return value === undefined ? undefined : Buffer.from(value);
    });
    for (const [index, value] of values.entries()) {
      if (value === undefined) continue;
      this.writes++;
      this.#writer.put(map, keys[index] as Buffer, value);
    }
  }

  /** Errors: `NO_DATABASE`. */
  requireDatabase(name: string): void {
    this.#named(name);
  }

  #named(name: string): DatabaseDraft {
    // They are few, and most commits change one.
    for (const draft of this.#drafts) if (draft.name === name) return draft;
    const state = this.#before.databases.find((database) => database.name === name);
    if (state === undefined) throw new TokaidoError('NO_DATABASE', `no such database: ${name}`);
    return this.#draftOf(state);
  }

  #numbered(databaseId: number): DatabaseDraft {
    for (const draft of this.#drafts) if (draft.id === databaseId) return draft;
    const state = this.#before.databases.find(({ id }) => id === databaseId);
    assert(state !== undefined, 'every database of an index is known');
    return this.#draftOf(state);
  }

  #draftOf({ id, name, records, hash }: DatabaseState): DatabaseDraft {
    const maps = this.#maps.databases.get(id);
    assert(maps !== undefined, 'every known database has its maps');
    const draft = { id, name, maps, records, hash: Int32Array.from(hash) };
    this.#drafts.push(draft);
    return draft;
  }

  /** The expiration time that a record of this database gets when `xtMs` was asked for. Errors: `NO_DATABASE`. */
  expiryFor(database: string, xtMs: number): number {
    return expiryIn(this.#named(database), xtMs);
  }

  /** The record as this commit sees it so far, tombstones and expired ones included. */
  #stored(database: DatabaseDraft, key: Buffer): StoredRecord | undefined {
    const raw = this.#writer.get(database.maps.records, key);
    return raw === undefined ? undefined : new StoredRecord(raw);
  }

  /** Errors: `NO_DATABASE`. */
  live(database: string, key: Buffer): StoredRecord | undefined {
    const record = this.#stored(this.#named(database), key);
    return record?.isLive(() => this.#nowMs) === true ? record : undefined;
  }

  /** Applies one transaction whose bytes are in `this.log` already. */
  apply(header: TransactionHeader, changes: readonly Change[]): void {
    this.writes++;
    const stamp = encodeStamp(header.versionNs, header.sid);
    for (const change of changes) this.#applyChange(change, header, stamp);
    this.changes += changes.length;
    const { sid, epoch, sequence, versionNs } = header;
    this.#origins.set(sid, { sid, epoch, sequence, versionNs });
    if (header.versionNs > this.lastVersionNs) this.lastVersionNs = header.versionNs;
    const { feed } = header;
    if (feed !== undefined) this.#feeds.set(feed.feed, feed);
    this.transactions++;
  }

  /** Does again what a logged transaction did to databases in memory; nothing else of this commit is about it. */
  replay(header: TransactionHeader, changes: readonly Change[]): void {
    const stamp = encodeStamp(header.versionNs, header.sid);
    for (const change of changes) {
      if (this.#named(change.database).maps.spec.storage === 'memory') this.#applyChange(change, header, stamp);
    }
    this.transactions++;
  }

  #applyChange(change: Change, header: TransactionHeader, stamp: Buffer): void {
    const database = this.#named(change.database);
    if (change.kind === 'clear') {
      this.#clear(database, change.prefix, header, stamp);
      return;
    }
    const { key } = change;
    const before = this.#stored(database, key);
    if (before?.isNewerThan(stamp) === true || this.#isCleared(database, key, stamp)) return;
    if (change.kind === 'set') {
      const { compressed } = database.maps.spec;
      this.#put(database, key, before, encodeRecord(stamp, expiryIn(database, change.xtMs), change.value, compressed));
    } else {
      this.#bury(database, key, before, stamp);
    }
  }

  #put(database: DatabaseDraft, key: Buffer, before: StoredRecord | undefined, raw: Buffer): void {
    const wasLive = this.#leave(database, key, before);
    const { records, indexes } = database.maps;
    this.#writer.put(records, key, raw);
    const record = new StoredRecord(raw);
    const { xtMs } = record;
    this.#hash(database, 1, key, record, xtMs);
    if (xtMs !== NEVER_EXPIRES) this.#writer.put(indexes.expiry, indexKey(xtMs, database.id, key), EMPTY);
    if (!wasLive) database.records++;
  }

  /** Leaves a tombstone with this stamp. */
  #bury(database: DatabaseDraft, key: Buffer, before: StoredRecord | undefined, stamp: Buffer): void {
    const wasLive = this.#leave(database, key, before);
    const { records, indexes } = database.maps;
    this.#writer.put(records, key, encodeTombstone(stamp));
    this.#writer.put(indexes.graveyard, indexKey(this.#number, database.id, key), stamp);
    if (wasLive) database.records--;
  }

  /** Takes what was stored out of hash and index; returns whether it was a record, live or expired. */
  #leave(database: DatabaseDraft, key: Buffer, before: StoredRecord | undefined): boolean {
    if (before === undefined || before.isTombstone) return false;
    const { xtMs } = before;
    this.#hash(database, -1, key, before, xtMs);
    if (xtMs !== NEVER_EXPIRES) this.#writer.remove(database.maps.indexes.expiry, indexKey(xtMs, database.id, key));
    return true;
  }

  /** The database's hash gains (1) or loses (-1) a record that is no tombstone, if it counts (see `Horizons`). */
  #hash(database: DatabaseDraft, sign: 1 | -1, key: Buffer, record: StoredRecord, xtMs: number): void {
    if (!isCounted(this.#horizons[database.maps.spec.storage], xtMs, database.id, key)) return;
    this.#maps.hasher.count(database.hash, sign, key, record);
    this.parts.count(database.id, sign, key, record);
  }

  #isCleared(database: DatabaseDraft, key: Buffer, stamp: Buffer): boolean {
    if (this.#clears.length === 0) return false;
    return this.#clears.some((clear) => {
      if (clear.databaseId !== database.id || !key.subarray(0, clear.prefix.length).equals(clear.prefix)) return false;
      return encodeStamp(clear.versionNs, clear.sid).compare(stamp) > 0;
    });
  }

  #clear(database: DatabaseDraft, prefix: Buffer, header: TransactionHeader, stamp: Buffer): void {
    const map = database.maps.records;
    // Index rows of cleared records stay behind; the sweep finds nothing under them and drops them. An equal version may
    // be another origin's, which wins by its sid: only a higher one is above everything here.
    if (header.versionNs > this.lastVersionNs && this.#isWholeDatabase(map, prefix)) {
      this.#writer.clear(map);
      database.records = 0;
      database.hash = Int32Array.from(NOTHING);
      this.parts.clear(database.id);
    } else {
      const end = afterPrefix(prefix);
      const range = { start: prefix, ...(end === undefined ? {} : { end }) };
      const doomed: Buffer[] = [];
      for (const { key, value } of this.#writer.range(map, range)) {
        if (!new StoredRecord(value).isNewerThan(stamp)) doomed.push(Buffer.from(key));
      }
      for (const key of doomed) {
        const record = this.#stored(database, key);
        if (record?.isTombstone === false) {
          this.#hash(database, -1, key, record, record.xtMs);
          database.records--;
        }
        this.#writer.remove(map, key);
      }
    }
    const { versionNs, sid } = header;
    this.#clears = withClear(this.#clears, {
      databaseId: database.id,
      prefix: Buffer.from(prefix),
      versionNs,
      sid,
      loggedAt: this.#number,
    });
  }

  #isWholeDatabase(map: MapId, prefix: Buffer): boolean {
    const begins = (reverse: boolean): boolean => {
      for (const { key } of this.#writer.range(map, { reverse, limit: 1 })) {
        return key.subarray(0, prefix.length).equals(prefix);
      }
      return true;
    };
    return begins(false) && begins(true);
  }

  /**
   * Turns records that expired at `upToMs` or before into tombstones, at most `limit`; returns how many index rows it
   * handled.
   */
  collectExpired(limit: number, upToMs: number): number {
    let handled = 0;
    for (const { expiry, storage } of this.#maps.indexes) {
      handled += this.#collectExpired(expiry, storage, limit - handled, upToMs);
    }
    this.writes += handled;
    this.changes += handled;
    return handled;
  }

  #collectExpired(expiry: MapId, storage: Storage, limit: number, upToMs: number): number {
    if (limit <= 0) return 0;
    const end = indexKey(upToMs + 1, 0, EMPTY);
    const due: Buffer[] = [];
    for (const { key } of this.#writer.range(expiry, { end, limit })) due.push(Buffer.from(key));
    for (const row of due) {
      const { number: xtMs, databaseId, key } = parseIndexKey(row);
      const database = this.#maps.databases.has(databaseId) ? this.#numbered(databaseId) : undefined;
      const record = database === undefined ? undefined : this.#stored(database, key);
      if (database !== undefined && record?.isTombstone === false && record.xtMs === xtMs) {
        this.#bury(database, key, record, Buffer.from(record.stamp));
      } else {
        this.#writer.remove(expiry, row);
      }
    }
    // Rows behind the last one handled still count. When there are none, all up to the moment is done.
    const reached = due.length < limit ? end : (due.at(-1) as Buffer);
    if (due.length > 0 && reached.compare(this.#horizons[storage]) > 0) this.#horizons[storage] = reached;
    return due.length;
  }

  /** Takes a record out of a cache that is full: without a trace, on this node only. */
  evict(databaseId: number, key: Buffer): void {
    this.#evict(this.#numbered(databaseId), key);
  }

  #evict(database: DatabaseDraft, key: Buffer): void {
    const before = this.#stored(database, key);
    if (before === undefined) return;
    this.writes++;
    this.changes++;
    if (this.#leave(database, key, before)) database.records--;
    this.#writer.remove(database.maps.records, key);
  }

  /**
   * Makes a range of keys what another node at a position says it is, where this node's own record is not newer than
   * that position. Not logged: every node compares itself, and followers of this one need nothing but what is right.
   */
  repair(repair: Repair): Repaired {
    const database = this.#named(repair.database);
    const { records } = database.maps;
    const theirs = new Map<string, StoredRecord>();
    for (const reader = new ByteReader(repair.rows); reader.remaining > 0; ) {
      const key = reader.sized().toString('latin1');
      theirs.set(key, checkRecord(reader.sized()));
    }
    const keys = new Set(theirs.keys());
    const { start, end } = repair;
    for (const { key } of this.#writer.range(records, end === undefined ? { start } : { start, end })) {
      keys.add(key.toString('latin1'));
    }
    const counts = { added: 0, replaced: 0, removed: 0 };
    const touched: Buffer[] = [];
    for (const name of keys) {
      const key = Buffer.from(name, 'latin1');
      const done = this.#repairRecord(database, key, theirs.get(name), repair);
      if (done === undefined) continue;
      counts[done]++;
      touched.push(key);
    }
    this.writes += touched.length;
    this.changes += touched.length;
    return { ...counts, keys: touched };
  }

  #repairRecord(
    database: DatabaseDraft,
    key: Buffer,
    right: StoredRecord | undefined,
    { position, cutoffMs }: Repair,
  ): 'added' | 'replaced' | 'removed' | undefined {
    const own = this.#stored(database, key);
    const isDue = (record: StoredRecord): boolean => record.xtMs !== NEVER_EXPIRES && record.xtMs <= cutoffMs;
    if (own !== undefined && (!isCoveredBy(position, own) || (!own.isTombstone && isDue(own)))) return undefined;
    const wasLive = own !== undefined && !own.isTombstone;
    if (right === undefined || right.isTombstone) {
      if (!wasLive) return undefined;
      if (right === undefined) this.#evict(database, key);
      else this.#bury(database, key, own, Buffer.from(right.stamp));
      return 'removed';
    }
    if (isDue(right) || this.#isCleared(database, key, right.stamp)) return undefined;
    if (own?.uncompressed.equals(right.uncompressed) === true) return undefined;
    this.#put(database, key, own, Buffer.from(right.raw));
    return wasLive ? 'replaced' : 'added';
  }

  /** Makes a key of a database what another store has under it, or nothing, whatever is here and whoever would win. */
  place(database: string, key: Buffer, raw: Buffer | undefined): void {
    const draft = this.#named(database);
    if (raw === undefined) {
      this.#evict(draft, key);
      return;
    }
    this.writes++;
    this.changes++;
    const record = new StoredRecord(raw);
    const before = this.#stored(draft, key);
    if (record.isTombstone) this.#bury(draft, key, before, record.stamp);
    else this.#put(draft, key, before, raw);
  }

  /** Logs a transaction of another store whose records are placed by themselves. */
  relog(header: TransactionHeader, bytes: Buffer): void {
    this.writes++;
    this.log.bytes(bytes);
    const { sid, epoch, sequence, versionNs, feed } = header;
    this.#origins.set(sid, { sid, epoch, sequence, versionNs });
    if (feed !== undefined) this.#feeds.set(feed.feed, feed);
    this.transactions++;
  }

  /** What this store knows of others besides its records, and another one, which it is merged with, does, too. */
  adopt({ position, lastVersionNs, feeds, forgotten }: Adopted): void {
    this.writes++;
    for (const origin of position) this.#origins.set(origin.sid, origin);
    if (lastVersionNs > this.lastVersionNs) this.lastVersionNs = lastVersionNs;
    for (const feed of feeds) this.#feeds.set(feed.feed, feed);
    this.#forgotten = joinForgotten(this.#forgotten, forgotten);
  }

  /** A clear that is known elsewhere keeps out here, too, as long as what is logged so far. */
  adoptClear(clear: Omit<ClearMark, 'loggedAt'>): void {
    this.writes++;
    this.#clears = withClear(this.#clears, { ...clear, loggedAt: this.#number });
  }

  /** Expirations up to this moment have been worked off, and none is left. */
  workedOff(upToMs: number): void {
    const reached = indexKey(upToMs + 1, 0, EMPTY);
    this.writes++;
    for (const { storage } of this.#maps.indexes) {
      if (reached.compare(this.#horizons[storage]) > 0) this.#horizons[storage] = reached;
    }
  }

  /** The running hash of a database was found to be wrong by `miscount`. */
  correctHash(database: string, miscount: SetHash): void {
    this.writes++;
    addHash(this.#named(database).hash, miscount, -1);
  }

  /** Applies the log's retention, at most `maxBatches` batches; returns the log's oldest number then. */
  trimLog(log: UpdateLog, retention: Retention, maxBatches: number): LocalNumber {
    // The log learns of a trim with the commit: a second one in the same commit would begin where the first began.
    if (this.logFirst !== undefined) return this.logFirst;
    const { first, bytes } = log.trim(this.#writer, retention, this.logBytes, this.#nowMs, maxBatches);
    this.writes += first - log.first;
    this.logBytes = bytes;
    this.logFirst = first;
    return first;
  }

  /** Forgets tombstones and clears whose log entries are gone, at most `limit` tombstones. */
  forgetBuried(firstLogged: LocalNumber, limit: number): number {
    let handled = 0;
    for (const { graveyard } of this.#maps.indexes) {
      handled += this.#forgetBuried(graveyard, firstLogged, limit - handled);
    }
    const clears = this.#clears.filter((clear) => clear.loggedAt >= firstLogged);
    for (const clear of this.#clears) if (clear.loggedAt < firstLogged) this.#forget(clear);
    this.writes += handled + this.#clears.length - clears.length;
    this.#clears = clears;
    this.changes += handled;
    return handled;
  }

  #forgetBuried(graveyard: MapId, firstLogged: LocalNumber, limit: number): number {
    const end = indexKey(firstLogged, 0, EMPTY);
    const rows: { row: Buffer; stamp: Buffer }[] = [];
    for (const { key, value } of this.#writer.range(graveyard, { end, limit })) {
      rows.push({ row: Buffer.from(key), stamp: Buffer.from(value) });
    }
    for (const { row, stamp } of rows) {
      const { databaseId, key } = parseIndexKey(row);
      const database = this.#maps.databases.has(databaseId) ? this.#numbered(databaseId) : undefined;
      const record = database === undefined ? undefined : this.#stored(database, key);
      // A younger tombstone of the same key has a row of its own.
      if (database !== undefined && record?.isTombstone === true && record.stamp.equals(stamp)) {
        this.#writer.remove(database.maps.records, key);
        this.#forget(record);
      }
      this.#writer.remove(graveyard, row);
    }
    return rows.length;
  }

  #forget({ sid, versionNs }: { readonly sid: Sid; readonly versionNs: VersionNs }): void {
    this.#forgotten = withForgotten(this.#forgotten, { sid, versionNs });
  }

  /** The state after this commit. */
  state(): StoreState {
    return {
      position: [...this.#origins.values()].sort((a, b) => a.sid - b.sid),
      next: localNumber(this.#before.next + this.transactions),
      logBytes: this.logBytes,
      epoch: this.#epoch,
      lastVersionNs: this.lastVersionNs,
      databases: this.#before.databases.map((database) => {
        const draft = this.#drafts.find(({ id }) => id === database.id);
        return draft === undefined ? database : { ...database, records: draft.records, hash: draft.hash };
      }),
      horizons: this.#horizons,
      feeds: [...this.#feeds.values()],
      clears: this.#clears,
      forgotten: this.#forgotten,
    };
  }
}

function expiryIn({ maps }: DatabaseDraft, xtMs: number): number {
  return maps.spec.persistent ? NEVER_EXPIRES : xtMs;
}

/** The stamp of a local transaction that is about to be made: the hybrid clock never repeats and never goes back. */
export function nextVersion(nowNs: bigint, lastVersionNs: VersionNs): VersionNs {
  return (nowNs > lastVersionNs ? nowNs : lastVersionNs + 1n) as VersionNs;
}
