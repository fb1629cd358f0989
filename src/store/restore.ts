/**
 * Brings databases in memory back after a start: rows of an image taken in the background, then everything the update
 * log has after it. The log is the truth for every kind of storage, so without an image a log that still reaches back
 * to its beginning is enough; when neither reaches, the contents are lost and the caller decides what that means (a
 * root says so to everyone with a clear, a follower is seeded anew).
 */
import { ByteReader, EMPTY } from '../base/bytes.js';
import { type LocalNumber, localNumber, NEVER_EXPIRES } from '../base/types.js';
import type { Engine, Writer } from '../engine/engine.js';
import { decodeTransactions } from '../log/transaction.js';
import type { UpdateLog } from '../log/update-log.js';
import type { DatabaseMaps } from './catalog.js';
import { Draft, type StoreMaps } from './draft.js';
import { cachesOf, evictFrom, overCapacity } from './eviction.js';
import { indexKey, isBehind } from './index-rows.js';
import { checkRecord, type StoredRecord } from './record.js';
import { NOTHING, type SetHash } from './set-hash.js';
import type { DatabaseState, StoreState } from './state.js';

/** What was saved of the databases in memory, at one moment. */
export interface MemoryImage {
  /** Local number of the first transaction that is not in it. */
  readonly next: LocalNumber;
  /** Rows as `SnapshotSource` makes them, by database name. Throws `CORRUPT` when the image is damaged. */
  slices(): AsyncIterable<{ readonly database: string; readonly rows: Buffer }>;
}

export interface RestoreOptions {
  readonly engine: Engine;
  readonly maps: StoreMaps;
  readonly log: UpdateLog;
  readonly state: StoreState;
  readonly nowMs: number;
}

export interface Restored {
  /** All databases of the state, with the numbers of records that are there now. */
  readonly databases: readonly DatabaseState[];
  /** Databases that had records and have none now. */
  readonly lost: readonly string[];
}

/** Bytes of the log that are replayed in one engine transaction. */
const REPLAY_BYTES = 1024 * 1024;

/** Errors: `CORRUPT` (the image or the log), `STORAGE`. */
export async function restoreMemory(options: RestoreOptions, image: MemoryImage | undefined): Promise<Restored> {
  const { state, log } = options;
  await empty(options);
  const inMemory = new Set(state.databases.filter(({ storage }) => storage === 'memory').map(({ name }) => name));
  if (inMemory.size === 0) return { databases: state.databases, lost: [] };
  const emptied = state.databases.map((database) =>
    inMemory.has(database.name) ? { ...database, records: 0, hash: NOTHING } : database,
  );
  const from = image?.next ?? localNumber(1);
  if (log.first > from || from > log.next || (image === undefined && !beginsEmpty(options))) {
    const lost = state.databases.filter(({ name, records }) => inMemory.has(name) && records > 0);
    // Where nothing lived, what the log still has is all: tombstones.
    if (lost.length === 0) return { databases: await replay(options, log.first, emptied), lost: [] };
    return { databases: emptied, lost: lost.map(({ name }) => name) };
  }
  const counted = image === undefined ? emptied : await loadImage(options, image, emptied);
  return { databases: await replay(options, from, counted), lost: [] };
}

/** The log, as far back as it reaches, begins where nothing was yet: a store that was seeded by a snapshot has rows before. */
function beginsEmpty({ log, state }: RestoreOptions): boolean {
  const before = log.first < log.next ? log.batchAt(log.first)?.before : state.position;
  return before?.length === 0;
}

/** A restore that failed half-way may have left rows. */
async function empty({ engine, maps }: RestoreOptions): Promise<void> {
  const inMemory = [...maps.databases.values()].filter(({ spec }) => spec.storage === 'memory');
  if (inMemory.length === 0) return;
  await engine.write((writer) => {
    for (const { records, indexes } of inMemory) {
      for (const map of [records, indexes.expiry, indexes.graveyard]) writer.clear(map);
    }
  });
}

async function loadImage(
  { engine, maps, state }: RestoreOptions,
  image: MemoryImage,
  databases: readonly DatabaseState[],
): Promise<readonly DatabaseState[]> {
  const live = new Map<string, { count: number; hash: SetHash }>();
  for await (const { database, rows } of image.slices()) {
    const known = databases.find(({ name, storage }) => name === database && storage === 'memory');
    const target = known === undefined ? undefined : maps.databases.get(known.id);
    if (target === undefined) continue;
    const loggedAt = Math.max(1, image.next - 1);
    const loaded = live.get(database) ?? { count: 0, hash: Int32Array.from(NOTHING) };
    const put = (key: Buffer, record: StoredRecord): void => {
      loaded.count++;
      const { xtMs } = record;
      const isCounted = xtMs === NEVER_EXPIRES || isBehind(state.horizons.memory, xtMs, target.id, key);
      if (isCounted) maps.hasher.count(loaded.hash, 1, key, record);
    };
    await engine.write((writer) => putRows(writer, target, { rows, loggedAt, put }));
    live.set(database, loaded);
  }
  return databases.map((database) => {
    const loaded = live.get(database.name);
    return loaded === undefined ? database : { ...database, records: loaded.count, hash: loaded.hash };
  });
}

interface Rows {
  readonly rows: Buffer;
  /** Tombstones stay as long as this log entry. */
  readonly loggedAt: number;
  /** Hears of every live record. */
  put(key: Buffer, record: StoredRecord): void;
}

function putRows(writer: Writer, { id, records, indexes }: DatabaseMaps, { rows, loggedAt, put }: Rows): void {
  for (const reader = new ByteReader(rows); reader.remaining > 0; ) {
    const key = reader.sized();
    const record = checkRecord(reader.sized());
    writer.put(records, key, record.raw);
    if (record.isTombstone) {
      writer.put(indexes.graveyard, indexKey(loggedAt, id, key), record.stamp);
      continue;
    }
    put(key, record);
    if (record.xtMs !== NEVER_EXPIRES) writer.put(indexes.expiry, indexKey(record.xtMs, id, key), EMPTY);
  }
}

async function replay(
  { engine, maps, log, state, nowMs }: RestoreOptions,
  from: LocalNumber,
  databases: readonly DatabaseState[],
): Promise<readonly DatabaseState[]> {
  const caches = cachesOf(maps.databases.values());
  let running: StoreState = { ...state, next: from, databases };
  while (running.next < log.next || overCapacity(engine, caches).length > 0) {
    const before = running;
    const { result } = await engine.write((writer) => {
      const draft = new Draft(writer, maps, before, nowMs);
      // As behind every commit: the log may hold many times the capacity of a cache.
      evictFrom(engine, draft, caches);
      for (const { payload } of log.read(before.next, REPLAY_BYTES)) {
        for (const { header, changes } of decodeTransactions(payload)) draft.replay(header, changes);
      }
      return draft.state();
    });
    running = result;
  }
  return running.databases;
}
