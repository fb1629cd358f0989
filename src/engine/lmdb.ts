/**
 * The persistent engine, on LMDB: readers never block, snapshots are free, one writer thread commits while the event
 * loop goes on. Commits overlap with flushes: a commit is visible (and survives the process) before it is on the disk,
 * and LMDB keeps the last flushed state beside the newest, so that after a power cut the file opens at that state,
 * never at a torn one. That roll-back takes data, log and positions back together, which is what lets a follower fetch
 * its tail again (invariants 1, 3 and 5).
 *
 * Traps of the library that this file is the only one to know:
 * - An exception inside `transaction()` does not undo what ran before it; inside `childTransaction()` it does.
 * - A write's promise resolves only when its flush is over, although readers see the commit long before. The library
 *   reports that moment to itself and does nothing with it, so this file listens in. A report may come too early: the
 *   number of the newest commit says whether it is true.
 * - Its batches of one event turn make a promise that nobody holds and that rejects when a commit fails; our writes are
 *   transactions, so batches are turned off.
 * - The map grows by itself whatever its size: a limit of the file is for the caller to keep.
 * - A key must have 1 to 1978 bytes. Ours may be empty, so a leading zero byte escapes (order is preserved).
 */
import { closeSync, fsyncSync, mkdirSync, openSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { type Database, open, type RootDatabase, type Transaction } from 'lmdb';
import { assert, messageOf, TokaidoError } from '../base/errors.js';
import type { Commit, Engine, Entry, MapId, MapOptions, Range, Snapshot, Writer } from './engine.js';

/** Longest key this engine stores, in bytes, the escape byte of a leading zero included. */
export const MAX_ENGINE_KEY_BYTES = 1978;

export interface LmdbOptions {
  /** Folder of the data file; created (0700) when missing. */
  readonly folder: string;
  /** Address space to begin with, in bytes. Not memory; it grows with the file. */
  readonly mapSizeBytes: number;
  /** Most maps that can be opened. */
  readonly maxMaps: number;
  /**
   * Whether each commit is flushed in the background. Without it a commit costs a quarter, and after a power cut the
   * file is worth nothing: the caller must throw it away then.
   */
  readonly flushesCommits?: boolean;
  /**
   * Called once when the environment cannot go on: a flush failed, after which nobody knows what is on the disk (the
   * system may forget unwritten pages), or the library says so. Only opening the file again helps: it opens at its last
   * flushed state.
   */
  readonly onBroken?: (error: TokaidoError) => void;
}

type Map = Database<Buffer, Buffer>;

/** The part of the library under its types that this file needs. */
interface NativeEnvironment {
  /** Brings every commit so far to the disk, on a thread of the pool. */
  sync(done: (error?: unknown) => void): void;
  /** Runs queued writes on a thread of the pool and reports how they stand, `VISIBLE` among others. */
  startWriting(address: number, onStatus: (status: number) => unknown): void;
  /** `lastTxnId` is the number of the newest commit. */
  info(): { readonly lastTxnId: number; readonly lastPageNumber: number };
}

/** Pages of one map, as LMDB counts them. */
interface MapPages {
  readonly pageSize: number;
  readonly treeBranchPageCount: number;
  readonly treeLeafPageCount: number;
  readonly overflowPages: number;
}

/** The commit is what readers see from now on (and survives the process); its flush goes on. */
const VISIBLE = 1;
/** Statuses beyond are errors. */
const LAST_STATUS = 2;
/** A disk with less free space than this is why a write failed. */
const FULL_BYTES = 2 ** 20;

const BINARY = { encoding: 'binary', keyEncoding: 'binary', cache: false } as const;
const ESCAPE = Buffer.of(0);

/** Stored form of a key: unchanged, unless it is empty or begins with the escape byte. */
function storedKey(key: Buffer): Buffer {
  return key.length === 0 || key[0] === 0 ? Buffer.concat([ESCAPE, key]) : key;
}

/** No key of this length is ever stored: reads find nothing, without asking LMDB, which would throw. */
function isTooLong(key: Buffer): boolean {
  return key.length > MAX_ENGINE_KEY_BYTES || (key.length === MAX_ENGINE_KEY_BYTES && key[0] === 0);
}

function callerKey(key: Buffer): Buffer {
  return key[0] === 0 ? key.subarray(1) : key;
}

/** LMDB counts a bound below a reverse range differently; this is the one place that translates ours. */
function* entries(map: Map, range: Range, transaction: Transaction | undefined): Iterable<Entry> {
  const start = range.start === undefined ? undefined : storedKey(range.start);
  const end = range.end === undefined ? undefined : storedKey(range.end);
  const bounds = range.reverse
    ? { start: end, exclusiveStart: end !== undefined, end: start, inclusiveEnd: true, reverse: true }
    : { start, end };
  const found = map.getRange({
    ...(bounds as object),
    ...(range.limit === undefined ? {} : { limit: range.limit }),
    ...(transaction === undefined ? {} : { transaction }),
  });
  for (const { key, value } of found) yield { key: callerKey(key), value };
}

/** Turns what the library throws into what an operator can act on. */
function storageError(error: unknown, folder: string): TokaidoError {
  const text = messageOf(error);
  // LMDB reports a write that was cut short as an input/output error.
  if (/ENOSPC|No space left/i.test(text) || isFull(folder)) {
    return new TokaidoError('STORAGE', `the disk of ${folder} is full; nothing was written`, {
      hint: 'free space on it; the node goes on by itself',
      cause: error,
    });
  }
  return new TokaidoError('STORAGE', `the disk of ${folder} refused: ${text}; nothing was written`, {
    hint: 'look at its free space, its quota and the log of the kernel; the node goes on by itself',
    cause: error,
  });
}

function isFull(folder: string): boolean {
  try {
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize < FULL_BYTES;
  } catch {
    return false;
  }
}

/** The library has told the reason of a failed commit by then, or it never will. */
const REASON_MS = 100;

/**
 * The library says of a failed commit only that it failed, and the reason in a promise beside it. When the reason came
 * before it made that promise, nothing ever settles it: whoever waited for it would hold up every later commit.
 */
async function commitError(error: unknown, folder: string): Promise<TokaidoError> {
  const reason = (error as { commitError?: Promise<unknown> }).commitError?.catch((cause: unknown) => cause);
  if (reason === undefined) return storageError(error, folder);
  let timer: NodeJS.Timeout | undefined;
  const never = new Promise((resolve) => {
    timer = setTimeout(resolve, REASON_MS, new Error('the commit failed'));
  });
  const cause = await Promise.race([reason, never]);
  clearTimeout(timer);
  return storageError(cause, folder);
}

/** The library prints failures besides reporting them: a line that nobody asked for, for each write. */
function withoutPrinting<T>(run: () => T): T {
  const { error } = console;
  console.error = () => undefined;
  try {
    return run();
  } finally {
    console.error = error;
  }
}

export class LmdbEngine implements Engine {
  readonly flushesCommits: boolean;
  readonly #folder: string;
  readonly #onBroken: (error: TokaidoError) => void;
  readonly #environment: RootDatabase<Buffer, Buffer>;
  readonly #pageBytes: number;
  readonly #maps: Map[] = [];
  readonly #names: string[] = [];
  readonly #snapshots = new Set<Snapshot>();
  #writing = false;
  /** Tells the write under way that its commit is visible. */
  #onVisible: () => void = () => undefined;
  #closed = false;

  constructor(options: LmdbOptions) {
    this.flushesCommits = options.flushesCommits ?? true;
    this.#folder = options.folder;
    this.#onBroken = options.onBroken ?? (() => undefined);
    mkdirSync(options.folder, { recursive: true, mode: 0o700 });
    try {
      this.#environment = open<Buffer, Buffer>({
        path: options.folder,
        noSubdir: false,
        maxDbs: options.maxMaps,
        mapSize: options.mapSizeBytes,
        permissionsMode: 0o600,
        noSync: !this.flushesCommits,
        eventTurnBatching: false,
        ...BINARY,
      } as Parameters<typeof open>[0]) as RootDatabase<Buffer, Buffer>;
    } catch (error) {
      throw new TokaidoError('STORAGE', `cannot open the data file in ${options.folder}: ${messageOf(error)}`, {
        hint: 'check that the folder is writable and that no other node uses it',
        cause: error,
      });
    }
    this.#pageBytes = (this.#environment.getStats() as { pageSize: number }).pageSize;
    this.#listenIn();
  }

  get #native(): NativeEnvironment {
    return (this.#environment as unknown as { env: NativeEnvironment }).env;
  }

  #listenIn(): void {
    const native = this.#native;
    const start = native.startWriting;
    const listening: NativeEnvironment['startWriting'] = (address, onStatus) => {
      start.call(native, address, (status) => {
        const answer = status > LAST_STATUS ? withoutPrinting(() => onStatus(status)) : onStatus(status);
        if (status === VISIBLE) this.#onVisible();
        return answer;
      });
    };
    Object.defineProperty(native, 'startWriting', { value: listening });
  }

  openMap(name: string, { storage }: MapOptions = { storage: 'disk' }): MapId {
    assert(storage === 'disk', 'this engine has maps on the disk only');
    const known = this.#names.indexOf(name);
    if (known >= 0) return known as MapId;
    assert(!this.#writing, 'maps are opened outside of write transactions');
    try {
      this.#maps.push(this.#environment.openDB<Buffer, Buffer>({ name, ...BINARY }));
    } catch (error) {
      throw storageError(error, this.#folder);
    }
    this.#names.push(name);
    return (this.#names.length - 1) as MapId;
  }

  /** A file has no capacity. */
  overflow(): Buffer[] {
    return [];
  }

  #map(map: MapId): Map {
    const found = this.#maps[map];
    assert(found !== undefined, 'the map is open');
    return found;
  }

  get(map: MapId, key: Buffer): Buffer | undefined {
    return isTooLong(key) ? undefined : this.#map(map).get(storedKey(key));
  }

  range(map: MapId, range: Range): Iterable<Entry> {
    return entries(this.#map(map), range, undefined);
  }

  async write<T>(fn: (writer: Writer) => T): Promise<Commit<T>> {
    assert(!this.#writing && !this.#closed, 'one write transaction at a time, on an open engine');
    this.#writing = true;
    let thrown: { error: unknown } | undefined;
    try {
      const run = (): T => {
        try {
          return fn(this.#writer);
        } catch (error) {
          thrown = { error };
          throw error;
        }
      };
      // Without a flush a commit takes some tens of microseconds: less than handing it to another thread and back.
      if (!this.flushesCommits) {
        return { result: this.#environment.transactionSync(run) as T, flushed: Promise.resolve() };
      }
      return await this.#commit(run);
    } catch (error) {
      if (thrown !== undefined && !/^(MDB_|Error: MDB_)|ENOSPC/.test(messageOf(thrown.error))) throw thrown.error;
      const failure = await commitError(error, this.#folder);
      if (/MDB_PANIC/.test(failure.message)) this.#onBroken(failure);
      throw failure;
    } finally {
      this.#writing = false;
    }
  }

  /** Resolves when the commit is visible, which a quick disk may report together with the flush. */
  async #commit<T>(run: () => T): Promise<Commit<T>> {
    let outcome: { result: T; newest: number } | undefined;
    const visible = new Promise<void>((resolve) => {
      this.#onVisible = () => {
        if (outcome !== undefined && this.#native.info().lastTxnId > outcome.newest) resolve();
      };
    });
    const finished: Promise<unknown> = this.#environment.childTransaction(() => {
      outcome = { newest: this.#native.info().lastTxnId, result: run() };
    });
    await Promise.race([visible, finished]);
    assert(outcome !== undefined, 'a commit has run its transaction');
    // The reader of this event turn began before the commit.
    this.#environment.resetReadTxn();
    const flushed = finished.then(
      () => undefined,
      async (error: unknown) => {
        const failure = await commitError(error, this.#folder);
        this.#onBroken(failure);
        throw failure;
      },
    );
    // Whoever asked for no flush is told by `onBroken`.
    flushed.catch(() => undefined);
    return { result: outcome.result, flushed };
  }

  readonly #writer: Writer = {
    get: (map, key) => this.get(map, key),
    range: (map, range) => this.range(map, range),
    put: (map, key, value) => {
      if (isTooLong(key)) {
        throw new TokaidoError('TOO_LARGE', `a key of ${key.length} bytes exceeds what the engine stores`, {
          hint: `shorten it to ${MAX_ENGINE_KEY_BYTES - 1} bytes`,
        });
      }
      this.#map(map).put(storedKey(key), value);
    },
    remove: (map, key) => {
      if (isTooLong(key)) return false;
      return (this.#map(map).remove(storedKey(key)) as unknown as { result: boolean }).result;
    },
    clear: (map) => this.#map(map).clearSync(),
  };

  snapshot(): Snapshot {
    const transaction = this.#environment.useReadTransaction();
    let open = true;
    const snapshot: Snapshot = {
      get: (map, key) => (isTooLong(key) ? undefined : this.#map(map).get(storedKey(key), { transaction })),
      range: (map, range) => entries(this.#map(map), range, transaction),
      close: () => {
        if (!open) return;
        open = false;
        this.#snapshots.delete(snapshot);
        transaction.done();
      },
    };
    this.#snapshots.add(snapshot);
    return snapshot;
  }

  /** Also what an earlier process committed and left in the system's page cache: no promise of ours knows of that. */
  async flush(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#native.sync((error) => (error === undefined ? resolve() : reject(storageError(error, this.#folder))));
    });
  }

  usedBytes(): number {
    let bytes = 0;
    for (const map of this.#maps) {
      const stats = map.getStats() as MapPages;
      bytes += (stats.treeBranchPageCount + stats.treeLeafPageCount + stats.overflowPages) * stats.pageSize;
    }
    return bytes;
  }

  /** Asked with every commit, so not through the library's statistics, which walk the list of free pages. */
  sizeBytes(): number {
    return (this.#native.info().lastPageNumber + 1) * this.#pageBytes;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    // A read transaction that outlives its environment crashes the process at exit.
    for (const snapshot of [...this.#snapshots]) snapshot.close();
    await this.#environment.flushed;
    if (!this.flushesCommits) this.#flushFile();
    await this.#environment.close();
  }

  /** What was written lies in the system's page cache; from there any descriptor of the file can flush it. */
  #flushFile(): void {
    const file = openSync(join(this.#folder, 'data.mdb'), 'r');
    try {
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  }
}
