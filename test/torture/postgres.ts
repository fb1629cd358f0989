/**
 * Torture of the Postgres feed: eight sessions write whatever an application may write (inserts, updates, deletes, key
 * changes, truncates, changes of a table's shape, large transactions, long ones, savepoints, roll backs) while the root,
 * Postgres and the connection between them are killed at random, and a table leaves the mapping and the publication and
 * comes back. A reader on an edge watches all the time: accounts that always have one sum, and counters that never fall.
 * In the end the edge equals Postgres exactly.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { parse, stringify } from 'yaml';
import { TokaidoClient } from '../../src/client/client.js';
import { connectSql } from '../../src/feeds/postgres/connection.js';
import type { TableMapping } from '../../src/feeds/postgres/mapping.js';
import { verifyTable } from '../../src/feeds/postgres/verify.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { TestPostgres } from '../support/postgres.js';
import { Dice } from '../support/random.js';
import { clock, type Report, type Torture, type TortureOptions, type TortureResult } from './torture.js';

const SESSIONS = 8;
const ACCOUNTS = 8;
const BALANCE = 1000;
/** Rows of a large transaction: streamed before it commits. */
const LARGE_ROWS = 3000;
const LONGEST_LIFE_MS = 1500;
/** How long a long transaction is open: over several kills, copies and changes of shape. */
const LONG_MS = 4_000;
const LONG_CHANCE = 0.01;
/** Longest wait for a kill's work to be undone before the next; more come at once. */
const RECOVER_MS = 4_000;
/** Longest time without any progress. */
const SETTLE_MS = 90_000;
const READ_EVERY_MS = 5;

const SCHEMA = `
  CREATE TABLE account (k int PRIMARY KEY, n int NOT NULL);
  INSERT INTO account SELECT i, ${BALANCE} FROM generate_series(1, ${ACCOUNTS}) i;
  CREATE TABLE counter (k int PRIMARY KEY, n bigint NOT NULL);
  INSERT INTO counter SELECT i, 0 FROM generate_series(1, ${SESSIONS}) i;
  CREATE TABLE kv (k text PRIMARY KEY, v text, tags text[]); ALTER TABLE kv REPLICA IDENTITY FULL;
  CREATE TABLE scratch (k text PRIMARY KEY, v text);
  CREATE TABLE shape (k text PRIMARY KEY, v text, c0 int);
  CREATE TABLE late (k text PRIMARY KEY, v text);`;

const TABLES: readonly TableMapping[] = [
  { table: 'public.account', database: 'watched', key: 'account/{k}', value: { column: 'n' } },
  { table: 'public.counter', database: 'watched', key: 'counter/{k}', value: { column: 'n' } },
  { table: 'public.kv', database: 'kv', key: 'kv/{k}', value: { json: 'all' } },
  { table: 'public.kv', database: 'kv', key: 'tag/{tags}/{k}', each: 'tags', value: { msgpack: ['k', 'v'] } },
  { table: 'public.scratch', database: 'scratch', key: '{k}', value: { column: 'v' } },
  { table: 'public.shape', database: 'shape', key: '{k}', value: { json: 'all' } },
  { table: 'public.late', database: 'late', key: '{k}', value: { column: 'v' } },
];
/** A root that was killed at once may never have published it. */
const UNPUBLISH = `DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'tokaido' AND tablename = 'late') THEN
    ALTER PUBLICATION tokaido DROP TABLE late;
  END IF; END $$`;
/** The table that comes and goes. */
const LATE = 'public.late';
const DATABASES = ['watched', 'kv', 'scratch', 'shape', 'late'];
const WATCHED = [
  ...Array.from({ length: ACCOUNTS }, (_, i) => `account/${i + 1}`),
  ...Array.from({ length: SESSIONS }, (_, i) => `counter/${i + 1}`),
];

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

/** One session of an application: transactions until it is told to end, over all losses of its connection. */
class Session {
  readonly #url: string;
  readonly #number: number;
  readonly #dice: Dice;
  #isOver = false;
  #running: Promise<void> = Promise.resolve();
  commits = 0;
  rollBacks = 0;

  constructor(url: string, number: number, dice: Dice) {
    this.#url = url;
    this.#number = number;
    this.#dice = dice;
  }

  start(): void {
    this.#running = this.#run();
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#isOver) {
      const client = new pg.Client({ connectionString: this.#url, connectionTimeoutMillis: 2000 });
      client.on('error', () => undefined);
      try {
        await client.connect();
        while (!this.#isOver) await this.#transaction(client);
        await client.end();
      } catch {
        // Killed, or in a deadlock: what became of the transaction is for Postgres to know.
        await client.end().catch(() => undefined);
        await sleep(20);
      }
    }
  }

  async #transaction(client: pg.Client): Promise<void> {
    const dice = this.#dice;
    await client.query('BEGIN');
    if (dice.chance(LONG_CHANCE)) await this.#long(client);
    const from = 1 + dice.below(ACCOUNTS);
    const to = 1 + dice.below(ACCOUNTS);
    const amount = dice.below(50);
    const step = async (account: number, sign: string): Promise<void> => {
      await client.query(`UPDATE account SET n = n ${sign} ${amount} WHERE k = ${account}`);
    };
    // In one order, whoever pays: no deadlocks.
    if (from < to) await step(from, '-');
    await step(to, '+');
    if (from >= to) await step(from, '-');
    await client.query(`UPDATE counter SET n = n + 1 WHERE k = ${this.#number}`);
    for (let left = 1 + dice.below(4); left > 0; left--) await client.query(this.#statement());
    if (dice.chance(0.3)) {
      await client.query('SAVEPOINT s');
      await client.query(this.#statement());
      await client.query(dice.chance(0.5) ? 'ROLLBACK TO s' : 'RELEASE s');
    }
    const isRolledBack = dice.chance(0.15);
    await client.query(isRolledBack ? 'ROLLBACK' : 'COMMIT');
    if (isRolledBack) this.rollBacks++;
    else this.commits++;
  }

  /** Stays open for long, before it takes anything that others wait for. */
  async #long(client: pg.Client): Promise<void> {
    for (let left = 1 + this.#dice.below(3); left > 0; left--) {
      await client.query(this.#late());
      await sleep(this.#dice.roll() * LONG_MS);
    }
  }

  #late(): string {
    const own = `${this.#number}-${this.#dice.below(40)}`;
    if (this.#dice.chance(0.2)) return `DELETE FROM late WHERE k = '${own}'`;
    return `INSERT INTO late VALUES ('${own}', '${this.#dice.below(1000)}') ON CONFLICT (k) DO UPDATE SET v = excluded.v`;
  }

  /** Sessions keep to keys of their own: they are to be killed, not to wait for each other. */
  #statement(): string {
    const dice = this.#dice;
    const own = `${this.#number}-${dice.below(40)}`;
    const value = `${dice.below(1000)}${'x'.repeat(dice.chance(0.1) ? 9000 : dice.below(60))}`;
    const tags = `'{t${dice.below(5)},t${dice.below(5)},"odd \\"tag"}'`;
    const roll = dice.roll();
    if (roll < 0.25)
      return `INSERT INTO kv VALUES ('${own}', '${value}', ${tags}) ON CONFLICT (k) DO UPDATE SET v = excluded.v`;
    if (roll < 0.4) return `UPDATE kv SET tags = ${tags} WHERE k = '${own}'`;
    if (roll < 0.5) return `DELETE FROM kv WHERE k = '${own}'`;
    if (roll < 0.6)
      return `UPDATE kv SET k = '${this.#number}-m' || md5(k || v) WHERE k = '${own}' AND length(v) < 9000`;
    if (roll < 0.62) return `DELETE FROM kv WHERE k LIKE '${this.#number}-m%'`;
    if (roll < 0.72) return this.#late();
    if (roll < 0.82)
      return `INSERT INTO shape (k, v) VALUES ('${own}', '${value}') ON CONFLICT (k) DO UPDATE SET v = excluded.v`;
    if (roll < 0.85)
      return `INSERT INTO scratch SELECT '${own}/' || i, repeat('y', 50) FROM generate_series(1, ${LARGE_ROWS}) i ON CONFLICT (k) DO UPDATE SET v = excluded.v || '${dice.below(10)}'`;
    if (roll < 0.95) return `INSERT INTO scratch VALUES ('${own}', '${value}') ON CONFLICT (k) DO NOTHING`;
    // One of them changes what others only write.
    if (this.#number === 1 && roll < 0.98) return 'TRUNCATE scratch';
    if (this.#number === 2 && roll < 0.97)
      return `ALTER TABLE shape ADD COLUMN IF NOT EXISTS c${dice.below(3)} int DEFAULT ${dice.below(9)}`;
    if (this.#number === 2) return `ALTER TABLE shape DROP COLUMN IF EXISTS c${dice.below(3)}`;
    return `UPDATE shape SET v = v || '!' WHERE k = '${own}'`;
  }
}

/** Reads on an edge, and checks what no transaction of Postgres ever breaks. */
class Watcher {
  readonly #client: TokaidoClient;
  readonly #report: Report;
  readonly #counters = new Map<string, bigint>();
  #isOver = false;
  #running: Promise<void> = Promise.resolve();
  reads = 0;
  /** Reads that differed from the one before: without them nothing was proved. */
  states = 0;
  #last = '';
  broken = 0;

  constructor(client: TokaidoClient, report: Report) {
    this.#client = client;
    this.#report = report;
  }

  start(): void {
    this.#running = this.#run();
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    const input = { DB: 'watched', atomic: '', ...Object.fromEntries(WATCHED.map((key) => [`_${key}`, ''])) };
    while (!this.#isOver) {
      const answer = await this.#client.call('get_bulk', input).catch(() => undefined);
      const all = WATCHED.map((key) => answer?.rows.get(`_${key}`)?.toString());
      // Before the first copy is whole.
      if (all.every((value) => value !== undefined)) this.#check(all as string[]);
      await sleep(READ_EVERY_MS);
    }
  }

  #check(values: readonly string[]): void {
    this.reads++;
    const state = values.join(' ');
    if (state !== this.#last) this.states++;
    this.#last = state;
    const sum = values.slice(0, ACCOUNTS).reduce((total, value) => total + Number(value), 0);
    if (sum !== ACCOUNTS * BALANCE) this.#fail(`the accounts had ${sum}: no state that Postgres ever had`);
    for (const [at, key] of WATCHED.slice(ACCOUNTS).entries()) {
      const now = BigInt(values[ACCOUNTS + at] as string);
      const before = this.#counters.get(key) ?? 0n;
      if (now < before) this.#fail(`${key} fell from ${before} to ${now}: something was applied twice`);
      this.#counters.set(key, now);
    }
  }

  #fail(text: string): void {
    this.broken++;
    this.#report.failure(text);
  }
}

class Feeding {
  readonly #dice: Dice;
  readonly #report: Report;
  readonly #cluster: Cluster;
  readonly #postgres: TestPostgres;
  readonly #root: ClusterNode;
  readonly #edge: ClusterNode;
  readonly #client: TokaidoClient;
  readonly #watcher: Watcher;
  readonly #sessions: readonly Session[];
  readonly kills = { root: 0, postgres: 0, connection: 0 };
  #isLateMapped = true;
  /** How often the late table came back. */
  added = 0;

  private constructor(
    postgres: TestPostgres,
    cluster: Cluster,
    root: ClusterNode,
    edge: ClusterNode,
    dice: Dice,
    report: Report,
  ) {
    this.#postgres = postgres;
    this.#cluster = cluster;
    this.#root = root;
    this.#edge = edge;
    this.#dice = dice;
    this.#report = report;
    this.#client = new TokaidoClient({ server: `127.0.0.1:${edge.clientPort}`, timeoutMs: 5000 });
    this.#watcher = new Watcher(this.#client, report);
    this.#sessions = Array.from({ length: SESSIONS }, (_, i) => new Session(postgres.url, i + 1, dice.fork()));
  }

  /** `binary`: values come in binary form. */
  static async begin(dice: Dice, report: Report, binary: boolean): Promise<Feeding> {
    const postgres = await TestPostgres.start({
      settings: ['logical_decoding_work_mem=64kB', 'synchronous_commit=on'],
    });
    const cluster = await Cluster.create();
    try {
      const sql = await postgres.connect();
      await sql.query(SCHEMA);
      await sql.end();
      const config = {
        databases: DATABASES,
        replication: { heartbeatMs: 200, reconnectMinMs: 50, reconnectMaxMs: 300 },
      };
      const feed = { connection: postgres.url, tables: TABLES, binary, heartbeatMs: 500, statusMs: 100 };
      const root = await cluster.add({ name: 'root', role: 'root', config: { ...config, postgres: feed } });
      const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config });
      for (const node of [root, edge]) cluster.start(node, { supervised: true });
      for (const node of [root, edge]) await cluster.ready(node);
      const feeding = new Feeding(postgres, cluster, root, edge, dice, report);
      await feeding.#settled();
      feeding.#watcher.start();
      for (const session of feeding.#sessions) session.start();
      return feeding;
    } catch (error) {
      await cluster.close();
      await postgres.stop();
      throw error;
    }
  }

  /** Until the edge has everything that Postgres has now. */
  async #settled(): Promise<void> {
    const sql = await this.#postgres.connect();
    try {
      const { rows } = await sql.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
      let deadline = performance.now() + SETTLE_MS;
      let last: string | undefined;
      for (const database of DATABASES) {
        for (let isThere = false; !isThere; ) {
          isThere = await this.#client.reach({ position: rows[0]?.lsn as string, waitMs: 2000 }, { database }).then(
            () => true,
            (error: unknown) => {
              const now = / has reached (\S+) /.exec(String(error))?.[1];
              if (now !== undefined && now !== last) deadline = performance.now() + SETTLE_MS;
              last = now ?? last;
              if (performance.now() > deadline) throw error;
              return false;
            },
          );
        }
      }
    } finally {
      await sql.end();
    }
  }

  async kill(): Promise<void> {
    // Some of them meet a feed that works again, others one that is about to.
    const { states } = this.#watcher;
    const deadline = performance.now() + (this.#dice.chance(0.4) ? RECOVER_MS : 0);
    while (this.#watcher.states === states && performance.now() < deadline) await sleep(READ_EVERY_MS);
    await sleep(this.#dice.roll() * LONGEST_LIFE_MS);
    const roll = this.#dice.roll();
    if (roll < 0.4) {
      this.kills.root++;
      const isChanged = this.#dice.chance(0.5);
      if (isChanged) this.#map(!this.#isLateMapped);
      await this.#cluster.kill(this.#root);
      // So that it is written to while it is not published.
      if (isChanged && !this.#isLateMapped) await this.#ask(UNPUBLISH);
    } else if (roll < 0.6) {
      this.kills.postgres++;
      await this.#postgres.crash();
    } else {
      this.kills.connection++;
      await this.#ask(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%tokaido%'`);
    }
  }

  async #ask(query: string): Promise<void> {
    const sql = await this.#postgres.connect();
    await sql.query(query);
    await sql.end();
  }

  /** From its next start on the root feeds the late table, or does not. */
  #map(isMapped: boolean): void {
    const path = join(this.#root.folder, 'node.yaml');
    const config = parse(readFileSync(path, 'utf8')) as { postgres: { tables: readonly TableMapping[] } };
    config.postgres.tables = TABLES.filter(({ table }) => isMapped || table !== LATE);
    writeFileSync(path, stringify(config));
    this.#isLateMapped = isMapped;
    if (isMapped) this.added++;
  }

  get total(): number {
    return this.kills.root + this.kills.postgres + this.kills.connection;
  }

  /**
   * Has the late table fed in the end. The edge learns that it is copied, and that no position says what is there, from the
   * root that starts with it: until then it knows of positions of before.
   */
  async #mapLate(): Promise<void> {
    const copied = /"table":"public\.late".*"table copied"/g;
    const copies = (): number => this.#cluster.log(this.#root).match(copied)?.length ?? 0;
    const before = copies();
    this.#map(true);
    await this.#cluster.kill(this.#root);
    const sequence = async (node: ClusterNode): Promise<number> => {
      return (await this.#cluster.status(node).catch(() => undefined))?.position[0]?.sequence ?? -1;
    };
    const deadline = performance.now() + SETTLE_MS;
    while (copies() === before && performance.now() < deadline) await sleep(READ_EVERY_MS);
    const reached = await sequence(this.#root);
    while ((await sequence(this.#edge)) < reached && performance.now() < deadline) await sleep(READ_EVERY_MS);
    assert.ok(performance.now() < deadline, `${LATE} is not copied in ${SETTLE_MS} ms`);
  }

  /** Ends the writing and compares. Returns what came out. */
  async finish(): Promise<Omit<TortureResult, 'runs'> & { readonly failed: number }> {
    await Promise.all(this.#sessions.map(async (session) => await session.end()));
    let failed = 0;
    const sql = await connectSql({ connection: this.#postgres.url }, 'compare');
    try {
      if (!this.#isLateMapped) await this.#mapLate();
      await this.#settled();
      for (const mapping of TABLES) {
        const { missing, different, orphans } = await verifyTable({
          sql,
          client: this.#client,
          publication: 'tokaido',
          mapping,
          nowMs: () => Date.now(),
        });
        if (missing.length + different.length + orphans.length === 0) continue;
        failed++;
        const keys = { missing: missing.map(String), different: different.map(String), orphans: orphans.map(String) };
        this.#report.failure(`${mapping.table} differs under ${mapping.key}: ${JSON.stringify(keys).slice(0, 500)}`);
      }
    } catch (error) {
      failed++;
      this.#report.failure(
        `the edge does not reach Postgres: ${String(error)}\n${this.#cluster.log(this.#root).slice(-2000)}`,
      );
    } finally {
      await sql.end();
    }
    await this.#watcher.end();
    // Over older data that would show rows one by one. None of these kills takes the slot away: nothing calls for it.
    const fullCopies = this.#cluster.log(this.#root).split('slot made: copying all rows').length - 1;
    if (fullCopies !== 1) {
      failed++;
      this.#report.failure(`everything was copied ${fullCopies} times, instead of once at the start`);
    }
    const sum = (of: (session: Session) => number): number =>
      this.#sessions.reduce((all, session) => all + of(session), 0);
    return {
      failed: failed + this.#watcher.broken,
      ...this.kills,
      added: this.added,
      commits: sum(({ commits }) => commits),
      rollBacks: sum(({ rollBacks }) => rollBacks),
      reads: this.#watcher.reads,
      states: this.#watcher.states,
    };
  }

  async close(): Promise<void> {
    this.#client.close();
    await this.#cluster.close();
    await this.#postgres.stop();
  }
}

export const postgres: Torture = {
  name: 'postgres',
  about:
    'Kills the root, Postgres and the connection between them while eight sessions write: an edge never shows a state that Postgres did not have, and equals it in the end.',
  async run({ seconds, seed, report, signal }: TortureOptions): Promise<TortureResult> {
    const binary = seed % 2 === 0;
    const feeding = await Feeding.begin(new Dice(seed), report, binary);
    try {
      const goesOn = clock({ seconds, signal });
      do {
        await feeding.kill();
        report.progress(`${feeding.total} kills`);
      } while (goesOn());
      return { ...(await feeding.finish()), runs: feeding.total, binary };
    } finally {
      await feeding.close();
    }
  },
};
