/** The Postgres feed on a bench: a database of its own in a real Postgres, a real store, and everything it logged. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import type { Logger } from '../../src/base/logger.js';
import { silentLogger } from '../../src/base/logger.js';
import { sid } from '../../src/base/types.js';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import { PostgresFeed, type PostgresFeedConfig, type PostgresFeedStatus } from '../../src/feeds/postgres/feed.js';
import type { TableMapping } from '../../src/feeds/postgres/mapping.js';
import { parseLsn } from '../../src/feeds/postgres/pgoutput.js';
import { isCopying } from '../../src/feeds/postgres/tables.js';
import { parseDatabases } from '../../src/store/database-spec.js';
import { LocalStore } from '../../src/store/store.js';
import type { Store } from '../../src/store/types.js';
import { broken, eventually, localRuntime } from './local-runtime.js';
import type { TestPostgres } from './postgres.js';

export interface BenchOptions {
  /** SQL that makes the tables. */
  readonly schema: string;
  readonly tables: readonly TableMapping[];
  readonly config?: Partial<PostgresFeedConfig>;
  readonly databases?: readonly string[];
}

let count = 0;

export class FeedBench {
  sql: pg.Client;
  readonly url: string;
  readonly slot: string;
  readonly logged: string[] = [];
  readonly #postgres: TestPostgres;
  readonly #folder = mkdtempSync(join(tmpdir(), 'tokaido-feed-'));
  readonly #options: BenchOptions;
  #feed: PostgresFeed | undefined;
  store: LocalStore;

  private constructor(postgres: TestPostgres, sql: pg.Client, url: string, slot: string, options: BenchOptions) {
    this.#postgres = postgres;
    this.sql = sql;
    this.url = url;
    this.slot = slot;
    this.#options = options;
    this.store = this.openStore();
  }

  static async open(postgres: TestPostgres, options: BenchOptions): Promise<FeedBench> {
    const name = `bench_${process.pid}_${++count}`;
    const admin = await postgres.connect();
    await admin.query(`CREATE DATABASE ${name}`);
    await admin.end();
    const url = postgres.url.replace(/\/postgres$/, `/${name}`);
    const sql = new pg.Client({ connectionString: url });
    sql.on('error', () => undefined);
    await sql.connect();
    await sql.query(options.schema);
    return new FeedBench(postgres, sql, url, name, options);
  }

  get spillFolder(): string {
    return join(this.#folder, 'spill');
  }

  openStore(): LocalStore {
    return new LocalStore({
      engine: new LmdbEngine({
        bootId: 'a boot',
        folder: join(this.#folder, 'store'),
        mapSizeBytes: 2 ** 30,
        maxMaps: 16,
        flushesCommits: true,
      }),
      runtime: localRuntime(),
      log: silentLogger,
      sid: sid(1),
      databases: parseDatabases(this.#options.databases ?? ['default']),
      retention: { bytes: 2 ** 28, ageMs: 3_600_000 },
      transaction: { bytes: 32 * 2 ** 20, keyBytes: 1024 },
      queue: { jobs: 10_000, commitChanges: 2000, commitBytes: 2 ** 20, commitIntervalMs: 0 },
      maxDatabases: 8,
      onBroken: broken,
    });
  }

  get config(): PostgresFeedConfig {
    return {
      connection: this.url,
      slot: this.slot,
      publication: this.slot,
      create: true,
      failover: false,
      tables: this.#options.tables,
      statusMs: 200,
      heartbeatMs: 200,
      silenceMs: 10_000,
      copyConnections: 2,
      binary: false,
      slotWarnBytes: 2 ** 30,
      maxTransactionBytes: 8 * 2 ** 20,
      maxTransactionChanges: 50_000,
      maxUnappliedBytes: 32 * 2 ** 20,
      maxSpillBytes: 2 ** 30,
      ...this.#options.config,
    };
  }

  /** Starts a feed; `overrides` replace parts of the configuration, `store` the store that it feeds. */
  start(overrides: Partial<PostgresFeedConfig> = {}, store: Store = this.store): this {
    const note = (fields: object, message: string): void => {
      this.logged.push(`${message} ${JSON.stringify(fields)}`);
    };
    const log: Logger = { debug: note, info: note, warn: note, error: note, child: () => log };
    this.#feed = new PostgresFeed({
      config: { ...this.config, ...overrides },
      runtime: localRuntime(),
      log,
      spillFolder: this.spillFolder,
    });
    this.#feed.start(store);
    return this;
  }

  get status(): PostgresFeedStatus {
    if (this.#feed === undefined) throw new Error('no feed was started');
    return this.#feed.status();
  }

  /** Has the feed copy a table again. */
  copyAgain(table: string): void {
    this.#feed?.copyAgain(table);
  }

  /** Waits until the feed streams, and everything committed in Postgres so far is in the store and flushed. */
  async synced(deadlineMs = 15_000): Promise<void> {
    const { rows } = await this.sql.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn() AS lsn');
    const lsn = parseLsn(rows[0]?.lsn ?? '');
    const isThere = (): boolean => {
      const { state, copy, confirmedLsn } = this.status;
      return state === 'streaming' && copy === undefined && !isCopying(this.store) && parseLsn(confirmedLsn) >= lsn;
    };
    await eventually(`the feed reaches ${rows[0]?.lsn}`, isThere, deadlineMs).catch((error: unknown) => {
      throw new Error(`${String(error)}: ${JSON.stringify(this.status)} ${this.logged.join('\n')}`);
    });
  }

  /** Waits for an error of the feed. */
  async failure(pattern: RegExp): Promise<string> {
    const found = (): string | undefined => this.logged.find((line) => pattern.test(line));
    await eventually(`the feed says ${pattern}`, () => found() !== undefined, 10_000).catch((error: unknown) => {
      throw new Error(`${String(error)}; it said ${this.logged.join('\n')}`);
    });
    return found() as string;
  }

  /** All live records: value as text, by key as text. */
  records(database = 'default'): Record<string, string> {
    const found: Record<string, string> = {};
    for (const key of this.store.keys(database, Buffer.alloc(0), undefined, 1_000_000)) {
      found[key.toString('utf8')] = this.value(key, database)?.toString('utf8') ?? '';
    }
    return found;
  }

  value(key: string | Buffer, database = 'default'): Buffer | undefined {
    const view = this.store.get(database, typeof key === 'string' ? Buffer.from(key) : key);
    return view === undefined ? undefined : Buffer.from(view.value);
  }

  async stopFeed(): Promise<void> {
    await this.#feed?.stop();
  }

  /** Drops the slot of a feed that was stopped: Postgres notices only after a while that its connection is gone. */
  async dropSlot(): Promise<void> {
    const deadlineMs = performance.now() + 15_000;
    for (;;) {
      const { rowCount } = await this.sql.query(
        'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active',
        [this.slot],
      );
      if (rowCount === 1) return;
      if (performance.now() > deadlineMs) throw new Error(`slot ${this.slot} is gone or stays active`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Another session, for the caller to end. */
  async connect(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: this.url });
    client.on('error', () => undefined);
    await client.connect();
    return client;
  }

  /** A new connection for `sql`, after Postgres was restarted. */
  async reconnect(): Promise<pg.Client> {
    await this.sql.end().catch(() => undefined);
    this.sql = new pg.Client({ connectionString: this.url });
    this.sql.on('error', () => undefined);
    await this.sql.connect();
    return this.sql;
  }

  /** Removes everything, slot and database included. */
  async close(): Promise<void> {
    await this.stopFeed();
    await this.store.close();
    await this.sql.end().catch(() => undefined);
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
    const admin = await this.#postgres.connect();
    try {
      await admin.query(
        `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active`,
        [this.slot],
      );
      for (let attempt = 0; attempt < 50; attempt++) {
        const dropped = await admin
          .query('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1', [
            this.slot,
          ])
          .then(
            () => true,
            () => false,
          );
        if (dropped) break;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      await admin.query(`DROP DATABASE IF EXISTS ${this.slot} WITH (FORCE)`);
    } finally {
      await admin.end();
    }
  }
}
