/**
 * A whole store as a stream of rows, and back. The source reads from one engine snapshot, in slices, while writes go on;
 * the loader fills a store that nobody reads yet. Rows are the engine's own bytes, so a copy is equal to its source,
 * versions and tombstones included.
 */
import { afterKey, ByteReader, ByteWriter, EMPTY } from '../base/bytes.js';
import { assert, TokaidoError } from '../base/errors.js';
import { isNone, type Keys, rangesOf, within } from '../base/keys.js';
import {
  type LocalNumber,
  localNumber,
  NEVER_EXPIRES,
  type Position,
  type Sid,
  type VersionNs,
} from '../base/types.js';
import type { Engine, MapId, Range, Snapshot } from '../engine/engine.js';
import type { FeedPosition } from '../log/transaction.js';
import { type DatabaseMaps, openDatabase, specFor } from './catalog.js';
import type { DatabaseSpec } from './database-spec.js';
import { everythingAt, type Forgotten } from './forgotten.js';
import { indexKey, isCounted } from './index-rows.js';
import { horizonOf } from './proof.js';
import { checkRecord } from './record.js';
import { NOTHING, RecordHasher, type SetHash } from './set-hash.js';
import { type DatabaseState, decodeState, EMPTY_STATE, encodeState, type StoreState } from './state.js';
import { SCOPE_KEY, STATE_KEY } from './store.js';
import { decodeUnfinished, encodeUnfinished, UNFINISHED_KEY } from './unfinished.js';

/** A clear that still keeps older writes out: without it a seeded node would let them in. */
export interface SnapshotClear {
  /** Index into the snapshot's databases. */
  readonly database: number;
  readonly prefix: Buffer;
  readonly versionNs: VersionNs;
  readonly sid: Sid;
}

/** The part of a store that a copy may show. */
export interface RowScope {
  /** Nothing of a database without keys is shown, not even its name. */
  keysOf(database: string): Keys;
  seesFeed(feed: string): boolean;
}

/** What a snapshot consists of besides its rows. */
export interface SnapshotContents {
  readonly position: Position;
  readonly lastVersionNs: VersionNs;
  readonly feeds: readonly FeedPosition[];
  readonly databases: readonly { readonly name: string; readonly records: number }[];
  readonly clears: readonly SnapshotClear[];
  /**
   * Expirations at this moment or before may have been worked off where the snapshot is from, ms: its records of that
   * age may be gone already, and do not count (see `Horizons`). 0 when nothing was; absent when the source is too old to
   * say.
   */
  readonly horizonMs?: number | undefined;
  /** Absent when the source is too old to say. */
  readonly forgotten?: Forgotten | undefined;
}

/**
 * Local number that tombstones and clears of a snapshot count as logged at: the first one after it. A lower one would
 * have the first sweep forget them while writes older than they are still on their way.
 */
const LOGGED_AT = localNumber(1);

/** Some rows of one database, in key order: sized key, sized record, repeated. */
export interface RowSlice {
  readonly database: number;
  readonly rows: Buffer;
  readonly count: number;
}

/** Where a source is: in which of its parts, and behind which key of it. */
export interface SnapshotMark {
  readonly part: number;
  readonly after: Buffer | undefined;
}

/** Rows of a database that lie together. */
interface Part {
  readonly database: number;
  readonly map: MapId;
  readonly range: Range;
}

const EVERYTHING: RowScope = { keysOf: () => 'all', seesFeed: () => true };

/** Reads a store at one moment. Close it: it pins disk pages. */
export class SnapshotSource {
  readonly contents: SnapshotContents;
  /** Local number of the first transaction that is not in it. */
  readonly nextNumber: LocalNumber;
  readonly #snapshot: Snapshot;
  readonly #parts: readonly Part[];
  #part = 0;
  #after: Buffer | undefined;

  /** Of all databases, or of those that `only` chooses, as far as `scope` shows them. */
  constructor(engine: Engine, only: (database: DatabaseState) => boolean = () => true, scope: RowScope = EVERYTHING) {
    const meta = engine.openMap('meta');
    this.#snapshot = engine.snapshot();
    const row = this.#snapshot.get(meta, STATE_KEY);
    const state = row === undefined ? EMPTY_STATE : decodeState(Buffer.from(row));
    const chosen = state.databases.filter((database) => only(database) && !isNone(scope.keysOf(database.name)));
    this.#parts = chosen.flatMap(({ id, name, storage }, database) => {
      const map = engine.openMap(`records-${id}`, { storage });
      return rangesOf(scope.keysOf(name)).map((range) => ({ database, map, range }));
    });
    this.nextNumber = state.next;
    const { position, lastVersionNs, forgotten } = state;
    const feeds = state.feeds.filter(({ feed }) => scope.seesFeed(feed));
    // How many records of a part there are would take counting; how many there are outside is nobody's business.
    const databases = chosen.map(({ name, records }) => ({
      name,
      records: scope.keysOf(name) === 'all' ? records : 0,
    }));
    const clears = state.clears.flatMap(({ databaseId, prefix, versionNs, sid }) => {
      const database = chosen.findIndex(({ id }) => id === databaseId);
      const name = chosen[database]?.name;
      const keys = name === undefined ? [] : within(scope.keysOf(name), prefix);
      const prefixes = keys === 'all' ? [prefix] : keys;
      return prefixes.map((part) => ({ database, prefix: part, versionNs, sid }));
    });
    const horizons = chosen.map(({ id, storage }) => horizonOf(state.horizons[storage], id).xtMs);
    const horizonMs = Math.max(0, ...horizons);
    this.contents = { position, lastVersionNs, feeds, databases, clears, horizonMs, forgotten };
  }

  /** The next rows, about `bytes` of them, or `undefined` after the last. */
  next(bytes: number): RowSlice | undefined {
    for (; this.#part < this.#parts.length; this.#part++, this.#after = undefined) {
      const slice = this.#slice(this.#parts[this.#part] as Part, bytes);
      if (slice !== undefined) return slice;
    }
    return undefined;
  }

  /** Behind the rows that were given last. */
  get mark(): SnapshotMark {
    return { part: this.#part, after: this.#after };
  }

  /** Goes on behind a mark of its own. */
  goTo({ part, after }: SnapshotMark): void {
    this.#part = part;
    this.#after = after;
  }

  #slice({ database, map, range }: Part, bytes: number): RowSlice | undefined {
    const rest = this.#after === undefined ? range : { ...range, start: afterKey(this.#after) };
    const writer = new ByteWriter(bytes + 4096);
    let count = 0;
    for (const { key, value } of this.#snapshot.range(map, rest)) {
      writer.sized(key).sized(value);
      count++;
      if (writer.length >= bytes) {
        this.#after = Buffer.from(key);
        return { database, rows: writer.take(), count };
      }
    }
    if (count === 0) return undefined;
    // The part is done: the next call looks after a key that has none behind it.
    this.#after = this.#lastKey(map, range);
    return { database, rows: writer.take(), count };
  }

  #lastKey(map: MapId, range: Range): Buffer | undefined {
    for (const { key } of this.#snapshot.range(map, { ...range, reverse: true, limit: 1 })) return Buffer.from(key);
    return undefined;
  }

  close(): void {
    this.#snapshot.close();
  }
}

/**
 * Fills an empty engine, or goes on where one stopped that is in the making. Until `finish` resolves, the engine holds
 * nothing that a store would open as complete. With an id, how far it is lies beside the rows (see `unfinished.ts`).
 */
export class SnapshotLoader {
  readonly #engine: Engine;
  readonly #contents: SnapshotContents;
  readonly #scope: Buffer;
  readonly #databases: readonly DatabaseMaps[];
  readonly #meta: MapId;
  readonly #id: string | undefined;
  readonly #live: number[];
  readonly #hasher = new RecordHasher();
  readonly #hashes: readonly SetHash[];
  /** As the state row has it. The moment is the highest of all databases': theirs are numbered, and lie, as here. */
  readonly #horizon: Buffer;
  #rows = 0;

  /**
   * `specs` are the databases configured on this node; `scope` names the part that the snapshot is, empty for all; `id`
   * is that of a snapshot that can be gone on with. Errors: `CORRUPT` when what the engine has does not belong to it.
   */
  constructor(
    engine: Engine,
    contents: SnapshotContents,
    specs: readonly DatabaseSpec[],
    scope = EMPTY,
    id: string | undefined = undefined,
  ) {
    this.#engine = engine;
    this.#contents = contents;
    this.#scope = scope;
    this.#id = id;
    this.#meta = engine.openMap('meta');
    this.#databases = contents.databases.map(({ name }, index) => {
      return openDatabase(engine, index + 1, specFor(name, specs));
    });
    this.#live = contents.databases.map(() => 0);
    this.#hashes = contents.databases.map(() => Int32Array.from(NOTHING));
    const { horizonMs = 0 } = contents;
    this.#horizon = horizonMs === 0 ? EMPTY : indexKey(horizonMs + 1, 0, EMPTY);
    if (contents.clears.some(({ database }) => database >= contents.databases.length)) {
      throw new TokaidoError('CORRUPT', 'a snapshot has a clear of a database it did not announce');
    }
    assert(engine.get(this.#meta, STATE_KEY) === undefined, 'a snapshot is loaded into an empty engine');
    this.#goOn();
  }

  /** Counts and hashes as they are behind the rows that an interrupted loader left. */
  #goOn(): void {
    const row = this.#engine.get(this.#meta, UNFINISHED_KEY);
    if (row === undefined) return;
    const { id, rows, databases } = decodeUnfinished(Buffer.from(row));
    const isSame =
      id === this.#id &&
      databases.length === this.#databases.length &&
      databases.every(({ storage }, index) => storage === this.#databases[index]?.spec.storage);
    if (!isSame) throw new TokaidoError('CORRUPT', 'what was loaded so far belongs to another snapshot');
    this.#rows = rows;
    for (const [index, { live, hash }] of databases.entries()) {
      this.#live[index] = live;
      (this.#hashes[index] as SetHash).set(hash);
    }
  }

  #unfinished(id: string): Buffer {
    const databases = this.#databases.map(({ spec }, index) => {
      return { storage: spec.storage, live: this.#live[index] ?? 0, hash: this.#hashes[index] as SetHash };
    });
    return encodeUnfinished({ id, rows: this.#rows, databases });
  }

  get rows(): number {
    return this.#rows;
  }

  /** Returns the number of rows. Errors: `CORRUPT` for rows that are not records, `STORAGE`. */
  async add({ database, rows }: { readonly database: number; readonly rows: Buffer }): Promise<number> {
    const maps = this.#databases[database];
    if (maps === undefined) throw new TokaidoError('CORRUPT', 'a snapshot has rows of a database it did not announce');
    const { id: databaseId, records, indexes } = maps;
    const reader = new ByteReader(rows);
    const before = this.#rows;
    await this.#engine.write((writer) => {
      while (reader.remaining > 0) {
        const key = reader.sized();
        const record = checkRecord(reader.sized());
        writer.put(records, key, record.raw);
        this.#rows++;
        if (record.isTombstone) {
          writer.put(indexes.graveyard, indexKey(LOGGED_AT, databaseId, key), record.stamp);
          continue;
        }
        this.#live[database] = (this.#live[database] ?? 0) + 1;
        const { xtMs } = record;
        if (isCounted(this.#horizon, xtMs, databaseId, key))
          this.#hasher.count(this.#hashes[database] as SetHash, 1, key, record);
        if (xtMs !== NEVER_EXPIRES) writer.put(indexes.expiry, indexKey(xtMs, databaseId, key), Buffer.alloc(0));
      }
      if (this.#id !== undefined) writer.put(this.#meta, UNFINISHED_KEY, this.#unfinished(this.#id));
    });
    return this.#rows - before;
  }

  /** Writes the state row, which makes the store complete, and flushes. Errors: `CORRUPT` when rows are missing. */
  async finish(rows: number): Promise<void> {
    if (rows !== this.#rows) throw new TokaidoError('CORRUPT', `the snapshot has ${this.#rows} of ${rows} rows`);
    const { position, lastVersionNs, feeds, databases, clears, forgotten } = this.#contents;
    const state: StoreState = {
      ...EMPTY_STATE,
      next: LOGGED_AT,
      position,
      lastVersionNs,
      feeds,
      databases: databases.map(({ name }, index) => {
        const { id, spec } = this.#databases[index] as DatabaseMaps;
        const hash = this.#hashes[index] as SetHash;
        return { id, name, storage: spec.storage, records: this.#live[index] ?? 0, hash };
      }),
      horizons: { disk: this.#horizon, memory: this.#horizon },
      forgotten: forgotten ?? everythingAt(position),
      clears: clears.map(({ database, ...clear }) => ({ ...clear, databaseId: database + 1, loggedAt: LOGGED_AT })),
    };
    const { flushed } = await this.#engine.write((writer) => {
      if (this.#scope.length > 0) writer.put(this.#meta, SCOPE_KEY, this.#scope);
      writer.remove(this.#meta, UNFINISHED_KEY);
      writer.put(this.#meta, STATE_KEY, encodeState(state));
    });
    await flushed;
  }
}
