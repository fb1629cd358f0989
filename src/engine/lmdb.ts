/**
 * The persistent engine, on LMDB: readers never block, snapshots are free. A commit is one short synchronous
 * transaction of everything that waits: handing it to another thread and back costs more than the commit itself, and
 * under load whole slices of the scheduler. It is visible, and survives the process, at once; it goes to the disk
 * behind, while others are made. After a power cut the file opens as it was flushed last, never torn: `checkpoint.ts`
 * says how. That roll-back takes data, log and positions back together, which is what lets a follower fetch its tail
 * again (invariants 1, 3 and 5).
 *
 * Traps of the library that this file is the only one to know:
 * - Its own overlapping flushes flush inside a synchronous commit, on the event loop; so they are off.
 * - Its batches of one event turn make a promise that nobody holds and that rejects when a commit fails; our writes are
 *   transactions, so batches are turned off.
 * - The map grows by itself whatever its size: a limit of the file is for the caller to keep.
 * - A key must have 1 to 1978 bytes. Ours may be empty, so a leading zero byte escapes (order is preserved).
 */
import { mkdirSync, statfsSync } from 'node:fs';
import { promisify } from 'node:util';
import { type Database, open, type RootDatabase, type Transaction } from 'lmdb';
import { assert, messageOf, TokaidoError } from '../base/errors.js';
import { Checkpoint } from './checkpoint.js';
import { refuseDamagedFile } from './damaged-file.js';
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
   * Whether each commit is flushed in the background. Without it only `flush` and `close` bring anything to the disk,
   * and whatever is committed after that makes the file worthless for the case of a power cut.
   */
  readonly flushesCommits?: boolean;
  /**
   * This boot of the machine. During another one than the last the file opens at its last flush. Empty when unknown:
   * then it always does.
   */
  readonly bootId: string;
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

/** Nobody knows what is on the disk then: the system may have forgotten what it could not write. */
function flushError(error: unknown, folder: string): TokaidoError {
  if (error instanceof TokaidoError) return error;
  return new TokaidoError('STORAGE', `the disk of ${folder} refused a flush: ${messageOf(error)}`, {
    hint: 'the node goes back to what was flushed last when it is started again; look at the disk and the log of the kernel',
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

const turn = promisify(setImmediate);

export class LmdbEngine implements Engine {
  readonly flushesCommits: boolean;
  readonly #folder: string;
  readonly #onBroken: (error: TokaidoError) => void;
  readonly #environment: RootDatabase<Buffer, Buffer>;
  readonly #checkpoint: Checkpoint;
  readonly #pageBytes: number;
  readonly #maps: Map[] = [];
  readonly #names: string[] = [];
  readonly #snapshots = new Set<Snapshot>();
  #writing = false;
  /** The flush under way, and the one that begins after it. */
  #flushing: Promise<void> | undefined;
  #nextFlush: Promise<void> | undefined;
  /** Keeps the pages of what was flushed last, while commits are flushed. */
  #pin: Transaction | undefined;
  #broken: TokaidoError | undefined;
  #closed = false;

  constructor(options: LmdbOptions) {
    this.flushesCommits = options.flushesCommits ?? true;
    this.#folder = options.folder;
    this.#onBroken = options.onBroken ?? (() => undefined);
    try {
      mkdirSync(options.folder, { recursive: true, mode: 0o700 });
      Checkpoint.begin(options.folder, options.bootId);
      refuseDamagedFile(options.folder);
      this.#environment = open<Buffer, Buffer>({
        path: options.folder,
        noSubdir: false,
        maxDbs: options.maxMaps,
        mapSize: options.mapSizeBytes,
        permissionsMode: 0o600,
        noSync: true,
        eventTurnBatching: false,
        ...BINARY,
      } as Parameters<typeof open>[0]) as RootDatabase<Buffer, Buffer>;
      this.#pageBytes = (this.#environment.getStats() as { pageSize: number }).pageSize;
      this.#checkpoint = new Checkpoint(options.folder, this.#pageBytes, this.#native.info().lastTxnId);
      if (this.flushesCommits) this.#pin = this.#environment.useReadTransaction();
    } catch (error) {
      if (error instanceof TokaidoError) throw error;
      throw new TokaidoError('STORAGE', `cannot open the data file in ${options.folder}: ${messageOf(error)}`, {
        hint: 'check that the folder is writable and that no other node uses it',
        cause: error,
      });
    }
  }

  get #native(): NativeEnvironment {
    return (this.#environment as unknown as { env: NativeEnvironment }).env;
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
    const run = (): T => {
      try {
        return fn(this.#writer);
      } catch (error) {
        thrown = { error };
        throw error;
      }
    };
    try {
      // What else this turn of the event loop brings is committed with it.
      await turn();
      if (this.#broken !== undefined) throw this.#broken;
      const result = this.#environment.transactionSync(run) as T;
      return { result, flushed: this.flushesCommits ? this.#flushed() : Promise.resolve() };
    } catch (error) {
      if (thrown !== undefined && !/^(MDB_|Error: MDB_)|ENOSPC/.test(messageOf(thrown.error))) throw thrown.error;
      const failure = storageError(error, this.#folder);
      if (/MDB_PANIC/.test(failure.message)) this.#break(failure);
      throw failure;
    } finally {
      this.#writing = false;
    }
  }

  /** Resolves when a flush that began after this call is over. Whoever asked for none hears of a failure elsewhere. */
  #flushed(): Promise<void> {
    if (this.#flushing === undefined) return this.#startFlush();
    if (this.#nextFlush === undefined) {
      const next = async (): Promise<void> => {
        this.#nextFlush = undefined;
        await this.#startFlush();
      };
      this.#nextFlush = this.#flushing.then(next, next);
      this.#nextFlush.catch(() => undefined);
    }
    return this.#nextFlush;
  }

  #startFlush(): Promise<void> {
    this.#flushing = this.#flushOnce().finally(() => {
      if (this.#nextFlush === undefined) this.#flushing = undefined;
    });
    this.#flushing.catch(() => undefined);
    return this.#flushing;
  }

  async #flushOnce(): Promise<void> {
    // Whoever hears of the commit goes first: followers should have it by the time that the disk is busy with it.
    await turn();
    // The reader of this event turn may have begun before the newest commit.
    this.#environment.resetReadTxn();
    const pin = this.#environment.useReadTransaction();
    try {
      if (this.#broken !== undefined) throw this.#broken;
      await this.#checkpoint.flush(this.#checkpoint.note(this.#native.info().lastTxnId));
    } catch (error) {
      pin.done();
      const failure = flushError(error, this.#folder);
      this.#break(failure);
      throw failure;
    }
    // Without the pin pages are used again. Where nobody flushes again soon, keeping them would have the file grow.
    if (!this.flushesCommits) return pin.done();
    this.#pin?.done();
    this.#pin = pin;
  }

  #break(failure: TokaidoError): void {
    if (this.#broken !== undefined) return;
    this.#broken = failure;
    this.#checkpoint.distrust();
    this.#onBroken(failure);
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

  /** Also what an earlier process committed and left in the system's page cache. */
  async flush(): Promise<void> {
    await this.#flushed();
  }

  usedBytes(of?: MapId): number {
    let bytes = 0;
    for (const map of of === undefined ? this.#maps : [this.#map(of)]) {
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
    try {
      if (this.#broken === undefined) await this.#flushed();
    } finally {
      await this.#nextFlush?.catch(() => undefined);
      await this.#flushing?.catch(() => undefined);
      this.#pin?.done();
      this.#checkpoint.close();
      await this.#environment.close();
    }
  }
}
