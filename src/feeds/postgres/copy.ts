/**
 * The copy of tables: all their rows as of one moment, in slices, then the removal of records whose row is gone. Several
 * connections share the work: a table is cut into ranges of pages, each connection takes the next range. A table whose
 * last range is written is marked as whole, so that a copy that was interrupted goes on with the tables that are left.
 *
 * A snapshot shows rows as of its moment, but not files: rewriting a table (ALTER, TRUNCATE) empties it for older
 * snapshots. So the tables are locked against that first (ACCESS SHARE, what any SELECT takes), and the copy gives up
 * when one was rewritten in the moment between.
 */
import type pg from 'pg';
import { TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import type { Store, StoreTransaction } from '../../store/types.js';
import { applicationName, type ConnectionConfig, connectSql, cut, endSql } from './connection.js';
import { BoundMapping, FoundRows, literalPrefix, type MappingCounters } from './mapping.js';
import type { Overtaken } from './overtaken.js';
import type { Lsn, Tuple } from './pgoutput.js';
import { quoteIdentifier, quoteTable } from './setup.js';
import type { CopiedTables, PublishedTable } from './tables.js';
import type { TypeCatalog } from './values.js';

/** Rows of one slice, and so of one transaction of the store. */
const SLICE_ROWS = 1000;
/** Slices that one connection has written and that are not committed yet. */
const MAX_OUTSTANDING = 4;
const ORPHAN_PAGE = 1000;
/** Pages (8 KiB) of one range. */
const RANGE_PAGES = 1024;

/** How far a copy is; for status. */
export interface CopyProgress {
  /** Rows written. */
  rows: number;
  /** Rows that Postgres estimates there are, all tables together. */
  expectedRows: number;
  tablesDone: number;
  tables: number;
}

export interface CopyOptions {
  readonly connection: ConnectionConfig;
  /** Connections that share the work. */
  readonly connections: number;
  readonly name: string;
  readonly runtime: Runtime;
  readonly store: Store;
  readonly log: Logger;
  readonly tables: readonly PublishedTable[];
  readonly whole: CopiedTables;
  /** The moment of the snapshot. */
  readonly lsn: Lsn;
  readonly types: TypeCatalog;
  readonly counters: MappingCounters;
  /** What a stream that goes on meanwhile changes. */
  readonly overtaken: Overtaken | undefined;
  readonly progress: CopyProgress;
  /** Asked between slices. */
  readonly stopped: () => boolean;
}

/** One table under way. */
interface Work {
  readonly table: PublishedTable;
  readonly bound: BoundMapping;
  readonly prefix: Buffer;
  /** Keys copied; only a store that has records of this table already can have orphans. */
  readonly seen: Set<string> | undefined;
  readonly ranges: string[];
  /** Ranges not yet written. */
  left: number;
  rows: number;
}

/** The tables changed between the snapshot and the copy: to be tried again at once, from a new moment. */
export class Rewritten extends TokaidoError {
  constructor(table: string) {
    super('FEED', `table ${table} was rewritten while its copy began`);
  }
}

/**
 * Opens the connections that copy, all at the moment of `snapshot`, which may end when this has resolved; `run` does it.
 * Errors: `FEED`.
 */
export async function prepareCopy(options: CopyOptions, snapshot: string): Promise<TableCopy> {
  const clients: pg.Client[] = [];
  try {
    for (let i = 0; i < options.connections; i++) {
      const sql = await connectSql(options.connection, applicationName(`copy of ${options.name}`));
      clients.push(sql);
      await sql.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
      await sql.query(`SET TRANSACTION SNAPSHOT '${snapshot}'`);
    }
    const [first] = clients as [pg.Client];
    await lockTables(first, options.tables);
    return new TableCopy(options, clients, await planWork(first, options));
  } catch (error) {
    await Promise.all(clients.map(async (sql) => await endSql(sql, options.runtime)));
    throw error;
  }
}

async function lockTables(sql: pg.Client, tables: readonly PublishedTable[]): Promise<void> {
  for (const { mapping } of tables) await sql.query(`LOCK TABLE ${quoteTable(mapping.table)} IN ACCESS SHARE MODE`);
  const { rows } = await sql.query<{ name: string }>(
    `SELECT c.oid::regclass AS name FROM pg_class c
     WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid)`,
    [tables.map(({ oid }) => oid)],
  );
  if (rows[0] !== undefined) throw new Rewritten(rows[0].name);
}

/** All rows of a table, or of a partitioned one with its partitions. */
export function selectFrom({ mapping, columns, isPartitioned }: PublishedTable): string {
  const only = isPartitioned ? '' : 'ONLY ';
  return `SELECT ${columns.map(({ name }) => quoteIdentifier(name)).join(', ')} FROM ${only}${quoteTable(mapping.table)}`;
}

async function planWork(sql: pg.Client, { tables, types, counters, store, progress }: CopyOptions): Promise<Work[]> {
  const works: Work[] = [];
  for (const table of tables) {
    const { mapping, columns, filter, isPartitioned } = table;
    const bound = new BoundMapping(mapping, columns, types, counters);
    const query = selectFrom(table);
    const { rows } = await sql.query<{ pages: string; rows: string }>(
      `SELECT pg_relation_size(oid) / current_setting('block_size')::int AS pages, greatest(reltuples, 0)::bigint AS rows
       FROM pg_class WHERE oid = $1`,
      [table.oid],
    );
    progress.expectedRows += Number(rows[0]?.rows ?? 0);
    const ranges = (isPartitioned ? [''] : pageRanges(Number(rows[0]?.pages ?? 0))).map((range) => {
      const conditions = [range, filter === undefined ? '' : `(${filter})`].filter((condition) => condition !== '');
      return conditions.length === 0 ? query : `${query} WHERE ${conditions.join(' AND ')}`;
    });
    const prefix = literalPrefix(mapping.key);
    const seen = store.keys(bound.database, prefix, undefined, 1).length > 0 ? new Set<string>() : undefined;
    works.push({ table, bound, prefix, seen, ranges, left: ranges.length, rows: 0 });
  }
  return works;
}

/** Conditions that cut a table into ranges; the last has no end. */
export function pageRanges(pages: number, rangePages = RANGE_PAGES): string[] {
  const ranges: string[] = [];
  for (let from = 0; from === 0 || from < pages; from += rangePages) {
    const start = from === 0 ? '' : `ctid >= '(${from},0)'`;
    const end = from + rangePages < pages ? `ctid < '(${from + rangePages},0)'` : '';
    ranges.push([start, end].filter((condition) => condition !== '').join(' AND '));
  }
  return ranges;
}

export class TableCopy {
  readonly #options: CopyOptions;
  readonly #clients: readonly pg.Client[];
  readonly #works: readonly Work[];
  /** One connection failed: the others need not go on. */
  #failed = false;

  constructor(options: CopyOptions, clients: readonly pg.Client[], works: readonly Work[]) {
    this.#options = options;
    this.#clients = clients;
    this.#works = works;
  }

  /** The moment that is copied. */
  get lsn(): Lsn {
    return this.#options.lsn;
  }

  get #stopped(): boolean {
    return this.#failed || this.#options.stopped();
  }

  /** Copies everything. Returns false when it was stopped. Errors: `FEED` and those of the store. */
  async run(): Promise<boolean> {
    const { log, runtime, progress } = this.#options;
    const startedMs = runtime.monotonicMs();
    try {
      await Promise.all(this.#clients.map(async (sql) => await this.#work(sql)));
      if (this.#stopped) return false;
      log.info({ rows: progress.rows, ms: Math.round(runtime.monotonicMs() - startedMs) }, 'copied');
      return true;
    } finally {
      this.#failed = true;
      await Promise.all(this.#clients.map(async (sql) => await endSql(sql, runtime)));
    }
  }

  /** Cuts the connections: what waits for them fails. */
  cut(): void {
    for (const sql of this.#clients) cut(sql);
  }

  async #work(sql: pg.Client): Promise<void> {
    try {
      for (const work of this.#works) {
        for (let query = work.ranges.shift(); query !== undefined; query = work.ranges.shift()) {
          if (!(await this.#copyRange(sql, work, query))) return;
          if (--work.left === 0) await this.#finish(work);
        }
      }
    } catch (error) {
      this.#failed = true;
      throw error;
    }
  }

  async #copyRange(sql: pg.Client, work: Work, query: string): Promise<boolean> {
    const { progress } = this.#options;
    const { bound, seen } = work;
    const outstanding: Promise<unknown>[] = [];
    await sql.query(`DECLARE tokaido_copy NO SCROLL CURSOR FOR ${query}`);
    const fetch = async (): Promise<{ rows: unknown }> =>
      await sql.query({ text: `FETCH ${SLICE_ROWS} FROM tokaido_copy`, rowMode: 'array' } as never);
    let fetching = fetch();
    for (;;) {
      const slice = (await fetching).rows as Tuple[];
      if (slice.length === 0) break;
      if (this.#stopped) return false;
      // Postgres works on the next slice while this one is written.
      fetching = fetch();
      // Awaited later, if at all: the first failure ends the copy, those behind it must not go unheard.
      fetching.catch(() => undefined);
      if (seen !== undefined) {
        for (const row of slice) {
          for (const key of bound.keys(row)) seen.add(key.toString('latin1'));
        }
      }
      const committed = this.#write(bound, slice);
      committed.catch(() => undefined);
      outstanding.push(committed);
      if (outstanding.length >= MAX_OUTSTANDING) await outstanding.shift();
      work.rows += slice.length;
      progress.rows += slice.length;
    }
    await sql.query('CLOSE tokaido_copy');
    await Promise.all(outstanding);
    return true;
  }

  async #write(bound: BoundMapping, slice: readonly Tuple[]): Promise<void> {
    const { store, overtaken } = this.#options;
    const changes = slice.map((row) => bound.put(row));
    const found = new FoundRows();
    await store.write((transaction) => {
      const target = onlyDifferences(transaction, overtaken);
      // A copied row is whole: nothing can be missing.
      for (const change of changes) change(target, [], found);
    }).committed;
  }

  async #finish({ table, bound, prefix, seen, rows }: Work): Promise<void> {
    const { log, whole, lsn, progress } = this.#options;
    const orphans = seen === undefined ? 0 : await this.#removeOrphans(bound.database, prefix, seen);
    if (this.#stopped) return;
    await whole.setWhole(table, lsn);
    progress.tablesDone++;
    log.info({ table: table.mapping.table, rows, orphans }, 'table copied');
  }

  /** Removes records of this table whose row is gone. */
  async #removeOrphans(database: string, prefix: Buffer, seen: ReadonlySet<string>): Promise<number> {
    const { store, overtaken } = this.#options;
    let removed = 0;
    let after: Buffer | undefined;
    while (!this.#stopped) {
      const keys = store.keys(database, prefix, after, ORPHAN_PAGE);
      if (keys.length === 0) return removed;
      after = keys.at(-1);
      const orphans = keys.filter((key) => !seen.has(key.toString('latin1')));
      if (orphans.length === 0) continue;
      removed += await store.write((transaction) => {
        const target = onlyDifferences(transaction, overtaken);
        return orphans.filter((key) => target.remove(database, key)).length;
      }).committed;
    }
    return removed;
  }
}

/**
 * A transaction in which a `set` of what is there already does nothing, so that a copy made again costs only what
 * differs, and in which what the stream has changed since stays as it is.
 */
function onlyDifferences(transaction: StoreTransaction, overtaken: Overtaken | undefined): StoreTransaction {
  return {
    get: (database, key) => transaction.get(database, key),
    set: (database, key, value, xtMs) => {
      if (overtaken?.has(database, key) === true) return;
      const old = transaction.get(database, key);
      if (old === undefined || old.xtMs !== xtMs || !value.equals(old.value))
        transaction.set(database, key, value, xtMs);
    },
    remove: (database, key) => overtaken?.has(database, key) !== true && transaction.remove(database, key),
    clear: (database, prefix) => transaction.clear(database, prefix),
  };
}
