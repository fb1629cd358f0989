/**
 * The node's current store and its replacement: opens what the data directory holds, loads snapshots beside it, and swaps
 * when one is whole. Readers see the old data until the swap and the new data after it, never a mixture.
 */
import type { Logger } from '../base/logger.js';
import type { Runtime } from '../base/runtime.js';
import { type Sid, sid } from '../base/types.js';
import { LmdbEngine } from '../engine/lmdb.js';
import type { SnapshotTarget } from '../replication/upstream-session.js';
import { type SnapshotContents, SnapshotLoader } from '../store/snapshot.js';
import { LocalStore } from '../store/store.js';
import type { NodeConfig } from './config/schema.js';
import type { DataDirectory } from './data-directory.js';

export interface StoreHolderOptions {
  readonly config: NodeConfig;
  readonly directory: DataDirectory;
  readonly runtime: Runtime;
  readonly log: Logger;
}

/** Called with the new current store, before the one it replaces is closed. */
export type SwapListener = (store: LocalStore) => void;

export class StoreHolder {
  readonly #options: StoreHolderOptions;
  readonly #listeners: SwapListener[] = [];
  #current: LocalStore | undefined;

  /** Errors: `STORAGE`, `CORRUPT`. */
  constructor(options: StoreHolderOptions) {
    this.#options = options;
    const { directory, config } = options;
    let folder = directory.currentStore;
    // Only a root begins with an empty store: a follower without data has nothing to serve until it was seeded.
    if (folder === undefined && config.role === 'root') {
      folder = directory.nextStore();
      directory.adoptNextStore();
    }
    if (folder !== undefined) this.#current = this.#openStore(this.#openEngine(folder));
  }

  #openEngine(folder: string): LmdbEngine {
    const { store, limits } = this.#options.config;
    // Besides one map per database there are four of the store's own.
    return new LmdbEngine({
      folder,
      maxSizeBytes: store.maxSizeBytes,
      maxMaps: limits.databases + 8,
      flushesCommits: store.flush === 'commits',
    });
  }

  #openStore(engine: LmdbEngine): LocalStore {
    const { config, runtime, log } = this.#options;
    const ownSid: Sid | undefined = config.role === 'root' ? sid(config.sid as number) : undefined;
    return new LocalStore({
      engine,
      runtime,
      log,
      sid: ownSid,
      databases: config.databases,
      retention: { bytes: config.log.retainBytes, ageMs: config.log.retainAgeMs },
      transaction: { bytes: config.limits.transactionBytes, keyBytes: config.limits.keyBytes },
      queue: {
        jobs: config.limits.queuedWrites,
        commitChanges: config.store.commitChanges,
        commitBytes: config.store.commitBytes,
        commitIntervalMs: config.store.commitIntervalMs,
      },
      maxDatabases: config.limits.databases,
    });
  }

  /** The store to read from, or `undefined` while a node without data is being seeded. */
  get current(): LocalStore | undefined {
    return this.#current;
  }

  onSwap(listener: SwapListener): void {
    this.#listeners.push(listener);
  }

  /** Begins to load a snapshot beside the current store. */
  async openSnapshot(contents: SnapshotContents): Promise<SnapshotTarget> {
    const folder = this.#options.directory.nextStore();
    const engine = this.#openEngine(folder);
    const loader = new SnapshotLoader(engine, contents);
    return {
      add: async (slice) => await loader.add(slice),
      finish: async (rows) => {
        await loader.finish(rows);
        await this.#swap(engine);
      },
      discard: async () => await engine.close(),
    };
  }

  async #swap(engine: LmdbEngine): Promise<void> {
    const { directory } = this.#options;
    const store = this.#openStore(engine);
    directory.adoptNextStore();
    const replaced = this.#current;
    this.#current = store;
    for (const listener of this.#listeners) listener(store);
    await replaced?.close();
    directory.removeReplaced();
  }

  async close(): Promise<void> {
    await this.#current?.close();
  }
}
