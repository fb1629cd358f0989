/**
 * The copy of tables: all their rows as of one moment, in slices, then the removal of records whose row is gone. Several
 * connections share the work: a table is cut into ranges of pages, each connection takes the next range. How many pages
 * from the first are written is noted behind their rows; a table whose last range is written is marked as whole.
 *
 * So a copy that was interrupted goes on where it was, but at a later moment: the old snapshot is gone. The stream brings
 * every change since the first moment (tables.ts keeps it), deletes above all. A row that moved from a page that was not
 * copied to one that was has been changed since; the stream may not have all of it (large values that stayed are not
 * sent), so rows of those pages that are younger than the first moment are read, too: Postgres looks at all of them, and
 * sends few. Only a rewrite of the whole table moves rows that did not change: it makes another file, and the copy begins
 * anew. Where there were records before the copy, those without a row are found by the keys of all rows, so the keys of
 * pages that were copied already are read once more.
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
import { RowReader } from './connection.js';
import { RowSlice } from './forms.js';
import { BoundMapping, columnsOfKeys, FoundRows, literalPrefix, type MappingCounters } from './mapping.js';
import type { Overtaken } from './overtaken.js';
import type { Lsn } from './pgoutput.js';
import { quoteIdentifier, quoteTable } from './setup.js';
import type { SnapshotConnections } from './snapshot.js';
import type { BegunCopy, CopiedTables, PublishedTable } from './tables.js';
import type { TypeCatalog } from './values.js';

/** Rows of one slice, and so of one transaction of the store; and about the most bytes. */
const SLICE_ROWS = 1000;
const SLICE_BYTES = 2 ** 20;
/** Slices that one connection has written and that are not committed yet. */
const MAX_OUTSTANDING = 4;
const ORPHAN_PAGE = 1000;
/** Pages (8 KiB) of one range, all partitions together: what an interruption may cost each connection. */
const RANGE_PAGES = 64;
/** So many times longer are ranges that are read again: few of their rows are sent. */
const PAGES_AGAIN = 64;
/** Beyond so many transactions since a copy began, its rows cannot be told by their age: the numbers are used again. */
const MAX_XIDS = 2n ** 30n;
/** Ranges of one table; those of a larger table have more pages. */
const MAX_RANGES = 16_384;

/** How far a copy is; for status. */
export interface CopyProgress {
  /** Rows written. */
  rows: number;
  /** Rows that Postgres estimates there are, all tables together. */
  expectedRows: number;
  tablesDone: number;
  tables: number;
  /** Transactions that the copy waits for before it begins. */
  waitsFor: number;
}

/** A copy of so many tables is about to begin. */
export function startProgress(progress: CopyProgress, tables: number): void {
  Object.assign(progress, { rows: 0, expectedRows: 0, tablesDone: 0, tables, waitsFor: 0 } satisfies CopyProgress);
}

export interface CopyOptions {
  /** They share the work, and the moment. */
  readonly connections: SnapshotConnections;
  readonly runtime: Runtime;
  readonly store: Store;
  readonly log: Logger;
  readonly tables: readonly PublishedTable[];
  /** Those of them whose copy may go on where it was. */
  readonly goingOn: ReadonlySet<PublishedTable>;
  readonly whole: CopiedTables;
  /** The moment of the snapshot, or one behind it. */
  readonly lsn: Lsn;
  readonly types: TypeCatalog;
  readonly counters: MappingCounters;
  /** What a stream that goes on meanwhile changes. */
  readonly overtaken: Overtaken | undefined;
  readonly progress: CopyProgress;
  /** Asked between slices. */
  readonly stopped: () => boolean;
}

/** Pages of a table, from where the range before it ends. */
interface Range {
  readonly query: string;
  /** First page behind it; of the last range, which has no end, the pages that there were. */
  readonly endPage: number;
  /** Its rows may be in the store already. */
  readonly isAgain: boolean;
  /** They are: only their keys are of interest. */
  readonly isOld: boolean;
  isDone: boolean;
}

/** One table under way. */
interface Work {
  readonly table: PublishedTable;
  readonly bound: BoundMapping;
  readonly prefix: Buffer;
  /** Keys that have a row; only where there were records before the copy there can be orphans. */
  readonly seen: Set<string> | undefined;
  readonly ranges: readonly Range[];
  /** Ranges taken; ranges done without a gap from the first. */
  taken: number;
  done: number;
  /** A note of `done` is on its way. */
  isNoting: boolean;
  rows: number;
}

/** The tables changed between the snapshot and the copy: to be tried again at once, from a new moment. */
export class Rewritten extends TokaidoError {
  constructor(table: string) {
    super('FEED', `table ${table} was rewritten while its copy began`);
  }
}

/** Prepares the copy over connections that see its moment; `run` does it, and ends them. Errors: `FEED`. */
export async function prepareCopy(options: CopyOptions): Promise<TableCopy> {
  const { connections, tables } = options;
  const [first] = connections.clients as [pg.Client];
  await lockTables(first, tables);
  return new TableCopy(options, await planWork(first, options));
}

async function lockTables(sql: pg.Client, tables: readonly PublishedTable[]): Promise<void> {
  for (const { mapping } of tables) await sql.query(`LOCK TABLE ${quoteTable(mapping.table)} IN ACCESS SHARE MODE`);
  const { rows } = await sql.query<{ name: string }>(
    `SELECT c.oid::regclass AS name FROM pg_class c
     WHERE (c.oid = ANY ($1::oid[]) OR c.oid IN (SELECT t.relid FROM unnest($1::oid[]) o, pg_partition_tree(o) t))
       AND c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid)`,
    [tables.map(({ oid }) => oid)],
  );
  if (rows[0] !== undefined) throw new Rewritten(rows[0].name);
}

/** All rows of a table, or of a partitioned one with its partitions. `only` replaces other columns by NULL. */
export function selectFrom({ mapping, columns, isPartitioned }: PublishedTable, only?: readonly string[]): string {
  const from = isPartitioned ? '' : 'ONLY ';
  const list = columns.map(({ name }) => (only?.includes(name) === false ? 'NULL' : quoteIdentifier(name)));
  return `SELECT ${list.join(', ')} FROM ${from}${quoteTable(mapping.table)}`;
}

/** Of partitions: the pages of the largest, the rows of all, and how many there are. */
const SIZE = `
  SELECT pg_relation_filenode($1::oid) AS file, coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint AS rows,
         coalesce(max(pg_relation_size(c.oid)), 0) / current_setting('block_size')::int AS pages, count(*) AS files,
         pg_snapshot_xmin(pg_current_snapshot()) AS least, pg_snapshot_xmax(pg_current_snapshot()) AS next
  FROM pg_class c
  WHERE c.relkind = 'r' AND (c.oid = $1::oid OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid)))`;

interface SizeRow {
  readonly file: string | null;
  readonly rows: string;
  readonly pages: string;
  readonly files: string;
  /** Transactions before `least` are over, as the snapshot sees it; `next` and later ones did not begin. */
  readonly least: string;
  readonly next: string;
}

/** Whether there are records of a table, or of what was mapped so before. */
export function hasRecords(store: Store, { mapping }: PublishedTable): boolean {
  return store.keys(mapping.database, literalPrefix(mapping.key), undefined, 1).length > 0;
}

/** Decides for each table where its copy begins, or goes on, and notes it. */
async function planWork(sql: pg.Client, options: CopyOptions): Promise<Work[]> {
  const { tables, goingOn, types, counters, store, progress, whole, lsn, log } = options;
  const works: Work[] = [];
  for (const table of tables) {
    const { mapping, columns } = table;
    const bound = new BoundMapping(mapping, columns, types, counters);
    const prefix = literalPrefix(mapping.key);
    const [size] = (await sql.query<SizeRow>(SIZE, [table.oid])).rows as [SizeRow];
    const [pages, files] = [Number(size.pages), Number(size.files)];
    const known = goingOn.has(table) ? whole.begun(table, size.file) : undefined;
    const begun = known !== undefined && BigInt(size.next) - known.sinceXid < MAX_XIDS ? known : undefined;
    const isOverRecords = begun?.isOverRecords ?? hasRecords(store, table);
    if (begun === undefined)
      await whole.begin(table, size.file, lsn, { pages: 0, sinceXid: BigInt(size.least), isOverRecords });
    const from = begun?.pages ?? 0;
    const rangePages = Math.ceil(Math.max(RANGE_PAGES / Math.max(1, files), pages / MAX_RANGES));
    const ranges = pageRanges(from, pages, rangePages).map((range) => rangeOf(table, range));
    if (begun !== undefined && from > 0) {
      log.info({ table: mapping.table, page: from, pages }, 'going on with a copy that was interrupted');
      // Behind the others, so that these do not hold up the note of how far the table is.
      ranges.push(...againRanges(table, begun, rangePages * PAGES_AGAIN, Math.max(from, pages)));
    }
    progress.expectedRows += Math.round(Number(size.rows) * (1 - Math.min(1, from / Math.max(1, pages))));
    const seen = isOverRecords ? new Set<string>() : undefined;
    works.push({ table, bound, prefix, seen, ranges, taken: 0, done: 0, isNoting: false, rows: 0 });
  }
  return works;
}

/** What is read again of pages that are written: rows that changed since, and all keys where orphans are looked for. */
function againRanges(
  table: PublishedTable,
  { pages, sinceXid, isOverRecords }: BegunCopy,
  rangePages: number,
  endPage: number,
): Range[] {
  const isYoung = `age(xmin) <= age(xid '${BigInt.asUintN(32, sinceXid)}')`;
  const ranges: Range[] = [];
  for (let from = 0; from < pages; from += rangePages) {
    const range = { from, to: Math.min(pages, from + rangePages), endPage };
    ranges.push({ ...rangeOf(table, range, isYoung), isAgain: true });
    const keys = rangeOf(table, range, undefined, columnsOfKeys(table.mapping));
    if (isOverRecords) ranges.push({ ...keys, isAgain: true, isOld: true });
  }
  return ranges;
}

/** Pages from `from` up to `to`, or to the end however far it is. */
export interface PageRange {
  readonly from: number;
  readonly to: number | undefined;
  readonly endPage: number;
}

/** Cuts a table of so many pages into ranges, from a page on; the last has no end. */
export function pageRanges(from: number, pages: number, rangePages: number): PageRange[] {
  const ranges: PageRange[] = [];
  let at = from;
  for (; at + rangePages < pages; at += rangePages)
    ranges.push({ from: at, to: at + rangePages, endPage: at + rangePages });
  ranges.push({ from: at, to: undefined, endPage: Math.max(at, pages) });
  return ranges;
}

/** `condition` leaves out rows, `only` leaves out columns. */
function rangeOf(
  table: PublishedTable,
  { from, to, endPage }: PageRange,
  condition?: string,
  only?: readonly string[],
): Range {
  const conditions = [
    from === 0 ? undefined : `ctid >= '(${from},0)'`,
    to === undefined ? undefined : `ctid < '(${to},0)'`,
    table.filter === undefined ? undefined : `(${table.filter})`,
    condition,
  ].filter((text) => text !== undefined);
  const select = selectFrom(table, only);
  const query = conditions.length === 0 ? select : `${select} WHERE ${conditions.join(' AND ')}`;
  return { query, endPage, isAgain: false, isOld: false, isDone: false };
}

export class TableCopy {
  readonly #options: CopyOptions;
  readonly #works: readonly Work[];
  /** One connection failed, or all were cut: none may go on. */
  #failed = false;
  /** Why the store took no more. */
  #refused: unknown;

  constructor(options: CopyOptions, works: readonly Work[]) {
    this.#options = options;
    this.#works = works;
  }

  get #stopped(): boolean {
    return this.#failed || this.#options.stopped();
  }

  /** Copies everything. Returns false when it was stopped. Errors: `FEED` and those of the store. */
  async run(): Promise<boolean> {
    const { connections, log, runtime, progress } = this.#options;
    const startedMs = runtime.monotonicMs();
    try {
      await Promise.all(connections.clients.map(async (sql) => await this.#work(sql)));
      if (this.#stopped) return false;
      log.info({ rows: progress.rows, ms: Math.round(runtime.monotonicMs() - startedMs) }, 'copied');
      return true;
    } finally {
      this.#failed = true;
      await connections.end();
    }
  }

  /** Cuts the connections: what waits for them fails, and nothing more is written. */
  cut(): void {
    this.#failed = true;
    this.#options.connections.cut();
  }

  async #work(sql: pg.Client): Promise<void> {
    const rows = new RowReader(sql);
    // The next range is read while what the one before brought is on its way to the disk.
    let before: Promise<void> = Promise.resolve();
    try {
      for (const work of this.#works) {
        for (let range = work.ranges[work.taken++]; range !== undefined; range = work.ranges[work.taken++]) {
          const { written } = await this.#read(rows, work, range);
          await before;
          if (this.#stopped) return;
          before = written.then(async () => await this.#done(work, range));
          // Awaited later: it must not fail unheard.
          before.catch(() => undefined);
        }
      }
      await before;
    } catch (error) {
      this.#failed = true;
      throw this.#refused ?? error;
    }
  }

  async #done(work: Work, range: Range): Promise<void> {
    if (this.#stopped) return;
    range.isDone = true;
    while (work.ranges[work.done]?.isDone === true) work.done++;
    if (work.done === work.ranges.length) await this.#finish(work);
    else await this.#note(work);
  }

  /** Notes how far the table is, behind the commits of its rows: the note is on no disk without them. */
  async #note(work: Work): Promise<void> {
    if (work.isNoting) return;
    work.isNoting = true;
    const last = work.ranges[work.done - 1];
    if (last !== undefined) await this.#options.whole.notePages(work.table.mapping, last.endPage);
    work.isNoting = false;
  }

  /** Reads a range; resolves with what resolves when all of it is written. */
  async #read(rows: RowReader, work: Work, range: Range): Promise<{ readonly written: Promise<unknown> }> {
    const writes: Promise<void>[] = [];
    let slice = new RowSlice();
    let outstanding = 0;
    const end = (): void => {
      const whole = slice;
      slice = new RowSlice();
      if (this.#stopped || whole.rows === 0) return;
      if (work.seen !== undefined) this.#see(work.bound, whole, work.seen);
      if (range.isOld) return;
      if (++outstanding >= MAX_OUTSTANDING) rows.pause();
      const written = this.#write(work, range, whole).finally(() => {
        if (--outstanding < MAX_OUTSTANDING) rows.resume();
      });
      written.catch((error: unknown) => {
        this.#refused ??= error;
        this.cut();
      });
      writes.push(written);
      work.rows += whole.rows;
      this.#options.progress.rows += whole.rows;
    };
    await rows.read(range.query, (bytes, from, to) => {
      slice.add(bytes, from, to);
      if (slice.rows >= SLICE_ROWS || slice.bytes >= SLICE_BYTES) end();
    });
    end();
    const written = Promise.all(writes);
    // Awaited later, if at all.
    written.catch(() => undefined);
    return { written };
  }

  #see(bound: BoundMapping, slice: RowSlice, seen: Set<string>): void {
    slice.each(bound.forms, (row) => {
      for (const key of bound.keys(row)) seen.add(key.toString('latin1'));
    });
  }

  async #write({ bound, seen }: Work, range: Range, slice: RowSlice): Promise<void> {
    const { store, overtaken } = this.#options;
    const isNew = seen === undefined && !range.isAgain;
    const found = new FoundRows();
    await store.write((transaction) => {
      // What still waited when the copy was given up is older than what the next one begins with.
      if (this.#failed) throw new TokaidoError('FEED', 'the copy was given up');
      const target = isNew && overtaken === undefined ? transaction : onlyDifferences(transaction, overtaken, isNew);
      // A copied row is whole: nothing can be missing.
      slice.each(bound.forms, (row) => bound.put(row)(target, [], found));
    }).committed;
  }

  async #finish({ table, bound, prefix, seen, rows }: Work): Promise<void> {
    const { log, whole, progress } = this.#options;
    const orphans = seen === undefined ? 0 : await this.#removeOrphans(bound.database, prefix, seen);
    if (this.#stopped) return;
    await whole.setWhole(table);
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
        const target = onlyDifferences(transaction, overtaken, false);
        return orphans.filter((key) => target.remove(database, key)).length;
      }).committed;
    }
    return removed;
  }
}

/**
 * A transaction in which a `set` of what is there already does nothing, so that a copy made again costs only what
 * differs, and in which what the stream has changed since stays as it is. `isNew`: nothing else is there.
 */
function onlyDifferences(
  transaction: StoreTransaction,
  overtaken: Overtaken | undefined,
  isNew: boolean,
): StoreTransaction {
  return {
    get: (database, key) => transaction.get(database, key),
    set: (database, key, value, xtMs) => {
      if (overtaken?.has(database, key) === true) return;
      const old = isNew ? undefined : transaction.get(database, key);
      if (old === undefined || old.xtMs !== xtMs || !value.equals(old.value))
        transaction.set(database, key, value, xtMs);
    },
    remove: (database, key) => overtaken?.has(database, key) !== true && transaction.remove(database, key),
    clear: (database, prefix) => transaction.clear(database, prefix),
  };
}
