/**
 * The node's current store and its replacement: opens what the data directory holds, loads snapshots beside it, and swaps
 * when one is whole. Readers see the old data until the swap and the new data after it, never a mixture.
 */

import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import { type LocalNumber, type Sid, sid } from '../../base/types.js';
import type { Engine } from '../../engine/engine.js';
import { TieredEngine } from '../../engine/tiered.js';
import type { SnapshotTarget } from '../../replication/following/upstream-session.js';
import type { SnapshotPlace } from '../../replication/frames/frames.js';
import { CarryOver, mustMerge, whyNotCarried } from '../../store/carry-over.js';
import { merge } from '../../store/merge.js';
import type { MemoryImage } from '../../store/restore.js';
import { type SnapshotContents, SnapshotLoader } from '../../store/snapshot.js';
import { LocalStore } from '../../store/store.js';
import type { NodeConfig } from '../config/schema.js';
import type { DataDirectory } from './data-directory.js';
import type { Disk } from './disk.js';
import { UnfinishedSnapshot } from './unfinished-snapshot.js';

export interface StoreHolderOptions {
  readonly config: NodeConfig;
  readonly directory: DataDirectory;
  readonly disk: Disk;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** Called when the disk is in a state that only a restart mends. */
  readonly onFatal: (error: unknown) => void;
}

/** Called with the new current store, before the one it replaces is closed. */
export type SwapListener = (store: LocalStore) => void;

export class StoreHolder {
  readonly #options: StoreHolderOptions;
  readonly #listeners: SwapListener[] = [];
  #current: LocalStore | undefined;
  /** Closed as soon as nobody can come to it any more. */
  #replaced: LocalStore | undefined;
  /** A snapshot is being loaded. */
  #isLoading = false;
  readonly #unfinished: UnfinishedSnapshot;
  #resumed = 0;
  #merged = 0;
  /** Databases of a root whose contents did not survive the last run. */
  #lost: readonly string[] = [];

  /** Errors: `STORAGE`, `CORRUPT`. */
  constructor(options: StoreHolderOptions) {
    this.#options = options;
    const { directory, config, runtime, log } = options;
    this.#unfinished = new UnfinishedSnapshot({
      keepMs: config.replication.snapshotResumeMs,
      runtime,
      log,
      remove: () => directory.removeNextStore(),
    });
    let folder = directory.currentStore;
    // Only a root begins with an empty store: a follower without data has nothing to serve until it was seeded.
    if (folder === undefined && config.role === 'root') {
      folder = directory.nextStore();
      directory.beginEmptyStore(runtime.nowMs());
    }
    if (config.startsAnew) {
      directory.standByEmpty();
      log.warn(
        {},
        'followers take over what is here, whatever they have (startsAnew): remove that from the configuration',
      );
    }
    if (folder !== undefined) this.#current = this.#openStore(this.#openEngine(folder));
  }

  #openEngine(folder: string): Engine {
    const { store, limits } = this.#options.config;
    // Besides one map per database there are four of the store's own.
    const disk = this.#options.disk.openEngine(folder, {
      mapSizeBytes: store.maxSizeBytes,
      maxMaps: limits.databases + 8,
      flushesCommits: store.flush === 'commits',
      onBroken: this.#options.onFatal,
    });
    // Nothing in memory, nothing in between: every read and write would go through it.
    return this.#options.config.databases.some(({ storage }) => storage === 'memory') ? new TieredEngine(disk) : disk;
  }

  /**
   * Brings databases in memory back, and finds a snapshot that was broken off, before anything is served. What cannot be brought back is forgotten: on a root,
   * `announceLost` says so to everyone; a follower has no data any more and is seeded anew.
   */
  async restore(): Promise<void> {
    const { config, log, directory } = this.#options;
    const { unfinishedStore } = directory;
    if (unfinishedStore !== undefined) await this.#unfinished.find(() => this.#openEngine(unfinishedStore));
    const store = this.#current;
    if (store === undefined) return;
    const image = await this.#openImage(directory.currentStore as string, store.log.next);
    const lost = await store.restore(image).catch(async (error: unknown) => {
      if (!(error instanceof TokaidoError && error.code === 'CORRUPT') || image === undefined) throw error;
      log.error({ reason: error.message }, 'the image of the databases in memory is damaged: going on without it');
      return await store.restore(undefined);
    });
    if (lost.length === 0) return;
    if (config.role === 'root') {
      this.#lost = lost;
      return;
    }
    log.warn({ databases: lost }, 'databases in memory could not be restored: this node is seeded anew');
    this.#current = undefined;
    await store.close();
  }

  async #openImage(folder: string, logNext: LocalNumber): Promise<MemoryImage | undefined> {
    try {
      return await this.#options.disk.openImage(folder, logNext);
    } catch (error) {
      this.#options.log.error({ reason: messageOf(error) }, 'the image of the databases in memory cannot be used');
      return undefined;
    }
  }

  /** Why a root takes no writes yet: what it would acknowledge now, the announcement would clear. */
  refusal(): TokaidoError | undefined {
    if (this.#lost.length === 0) return undefined;
    return new TokaidoError('NOT_READY', 'this root is still forgetting databases in memory that it lost');
  }

  /** A root lost databases in memory: followers, which still have the records, must not go on with them. */
  async announceLost(): Promise<void> {
    const lost = this.#lost;
    if (lost.length === 0 || this.#current === undefined) return;
    this.#options.log.error(
      { databases: lost },
      'databases in memory were lost with the last run, and are cleared everywhere: save them with memory.saveIntervalMs',
    );
    await this.#current.write((transaction) => {
      for (const database of lost) transaction.clear(database);
    }).committed;
    this.#lost = [];
  }

  #openStore(engine: Engine): LocalStore {
    const { config, runtime, log, onFatal } = this.#options;
    const ownSid: Sid | undefined = config.role === 'root' ? sid(config.sid as number) : undefined;
    const { begunEmptyNs } = this.#options.directory;
    return new LocalStore({
      engine,
      runtime,
      log,
      sid: ownSid,
      ...(begunEmptyNs === undefined ? {} : { versionsAfterNs: begunEmptyNs }),
      databases: config.databases,
      retention: { bytes: config.log.retainBytes, ageMs: config.log.retainAgeMs },
      transaction: { bytes: config.limits.transactionBytes, keyBytes: config.limits.keyBytes },
      removalBytes: config.log.removalBytes,
      maxSizeBytes: config.store.maxSizeBytes,
      queue: {
        jobs: config.limits.queuedWrites,
        commitChanges: config.store.commitChanges,
        commitBytes: config.store.commitBytes,
        commitIntervalMs: config.store.commitIntervalMs,
      },
      maxDatabases: config.limits.databases,
      onBroken: onFatal,
    });
  }

  /** The store to read from, or `undefined` while a node without data is being seeded. */
  get current(): LocalStore | undefined {
    return this.#current;
  }

  /** Whether a snapshot is being loaded beside the current store. */
  get isLoading(): boolean {
    return this.#isLoading;
  }

  onSwap(listener: SwapListener): void {
    this.#listeners.push(listener);
  }

  /** Whether a snapshot that is broken off is kept for a while. */
  get resumesSnapshots(): boolean {
    return this.#unfinished.isPossible;
  }

  /** Where a snapshot was broken off that can be gone on with. */
  get unfinished(): SnapshotPlace | undefined {
    return this.#unfinished.place;
  }

  /** Snapshots that went on where they had stopped, since the start. */
  get resumed(): number {
    return this.#resumed;
  }

  /** Snapshots of other roots that the data here was merged with, since the start. */
  get merged(): number {
    return this.#merged;
  }

  /**
   * Begins to load a snapshot beside the current store, or goes on with it behind the rows of `from`; `scope` names the
   * part of the whole that it is.
   */
  async openSnapshot(contents: SnapshotContents, scope: Buffer, from?: SnapshotPlace): Promise<SnapshotTarget> {
    // Of two others at the same time, say: a root has one store in the making.
    if (this.#isLoading) throw new TokaidoError('REPLICATION', 'another snapshot is being loaded already');
    const refusal = this.#isRoot && this.#current !== undefined ? whyNotCarried(this.#current, contents) : undefined;
    this.#isLoading = true;
    let engine: Engine | undefined;
    try {
      if (refusal !== undefined) throw new TokaidoError('REPLICATION', refusal);
      engine = await this.#engineFor(from);
      const loader = new SnapshotLoader(engine, contents, this.#options.config.databases, scope, from?.id);
      return this.#target(engine, loader, from);
    } catch (error) {
      this.#isLoading = false;
      await engine?.close();
      await this.#unfinished.drop();
      throw error;
    }
  }

  /** The one that was kept, or an empty one in its place. */
  async #engineFor(from: SnapshotPlace | undefined): Promise<Engine> {
    if (from !== undefined && from.rows > 0) {
      this.#resumed++;
      return this.#unfinished.take(from);
    }
    await this.#unfinished.drop();
    return this.#openEngine(this.#options.directory.nextStore());
  }

  #target(engine: Engine, loader: SnapshotLoader, from: SnapshotPlace | undefined): SnapshotTarget {
    return {
      add: async (slice) => await loader.add(slice),
      finish: async (rows) => {
        await loader.finish(rows);
        if (this.#isRoot) await this.#join(engine);
        else this.#swap(this.#openStore(engine));
        await this.#closeReplaced();
        this.#isLoading = false;
      },
      suspend: async () => {
        const { rows } = loader;
        if (from === undefined || rows === 0) await engine.close();
        else await this.#unfinished.keep(engine, { id: from.id, rows });
        this.#isLoading = false;
      },
      discard: async () => {
        await engine.close();
        this.#options.directory.removeNextStore();
        this.#isLoading = false;
      },
    };
  }

  get #isRoot(): boolean {
    return this.#options.config.role === 'root';
  }

  /**
   * A root keeps what only it has. Most of that is carried over while it takes writes; for the rest they wait a moment.
   */
  async #join(engine: Engine): Promise<void> {
    const from = this.#current;
    const to = this.#openStore(engine);
    if (from === undefined) {
      this.#swap(to);
      return;
    }
    // What is carried over is read from the log, which must not be cut meanwhile.
    from.isLogHeld = true;
    try {
      const merged = mustMerge(from, to) ? await merge(from, to) : undefined;
      const carry = new CarryOver(from, to);
      const transactions = (await carry.run()) + (await this.#changeOver(from, to, carry));
      const { log } = this.#options;
      if (merged === undefined) {
        log.warn({ transactions }, 'the data of another root was loaded, what only this root had was kept');
        return;
      }
      this.#merged++;
      log.warn({ ...merged, transactions }, 'the data of another root was merged with what this root has');
    } finally {
      from.isLogHeld = false;
    }
  }

  /** The rest, while writes wait, and the swap. Returns how many transactions that were. */
  async #changeOver(from: LocalStore, to: LocalStore, carry: CarryOver): Promise<number> {
    await from.pause();
    try {
      const transactions = await carry.run();
      await to.flush();
      this.#swap(to);
      return transactions;
    } catch (error) {
      from.resume();
      throw error;
    }
  }

  #swap(store: LocalStore): void {
    this.#options.directory.adoptNextStore();
    this.#replaced = this.#current;
    this.#current = store;
    for (const listener of this.#listeners) listener(store);
  }

  async #closeReplaced(): Promise<void> {
    await this.#replaced?.close();
    this.#replaced = undefined;
    this.#options.directory.removeReplaced();
  }

  async close(): Promise<void> {
    await this.#unfinished.close();
    await this.#current?.close();
  }
}
