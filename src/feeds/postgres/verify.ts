/**
 * Compares a node with Postgres: every row of the mapped tables with its record (value and expiration time), and every
 * record of theirs with the rows. Neither side stands still meanwhile, so a difference counts only when it is still there
 * each time it is looked at again: the row first, then the position at which it was read, then the record once the node
 * has reached that position, then the row once more. What is equal at one such position is right; what never was, although
 * the row stood still, is reported. A row that changes at every look proves nothing either way.
 *
 * Rows are read once, in slices, and their records in one call a slice, while Postgres works on the next. Records without
 * a row are found by the keys alone: those of the rows and those of the node are compared by sums of hashes
 * (key-buckets.ts), and only where these differ are keys held and looked for among all rows. So memory grows with what
 * differs, not with the table.
 */
import type pg from 'pg';
import { TokaidoError } from '../../base/errors.js';
import { NEVER_EXPIRES } from '../../base/types.js';
import { databaseNumber, listKeys } from '../../client/bulk.js';
import type { TokaidoClient } from '../../client/client.js';
import { secondsFromXt } from '../../protocol/expiry.js';
import { selectFrom } from './copy.js';
import { findTable } from './inspect.js';
import { KeyBuckets } from './key-buckets.js';
import { BoundMapping, keyColumns, literalPrefix, type TableMapping } from './mapping.js';
import type { Tuple } from './pgoutput.js';
import { loadTypes, quoteIdentifier } from './setup.js';
import type { PublishedTable } from './tables.js';
import { textOrNull } from './values.js';

/** Rows read, and records asked for, at a time. */
const SLICE_ROWS = 1000;
/** How often a difference is looked at again. */
const ROUNDS = 4;
const ORPHAN_ROUNDS = 2;
/** Keys held at a time of the buckets that differ. */
const HELD_KEYS = 1_000_000;
/** Of one query. */
const MAX_PARAMETERS = 30_000;
/** Longest wait for the node to reach a position, ms. */
const REACH_MS = 30_000;

export interface VerifyOptions {
  readonly sql: pg.Client;
  /** A node of the cluster, root or not. */
  readonly client: TokaidoClient;
  readonly publication: string;
  readonly mapping: TableMapping;
  nowMs(): number;
}

export interface VerifyReport {
  readonly table: string;
  readonly database: string;
  /** Rows that have a record. */
  readonly rows: number;
  /** Position that the whole table was read at. */
  readonly lsn: string;
  /** Keys whose record is not there, is another one, or is there without a row. */
  readonly missing: readonly Buffer[];
  readonly different: readonly Buffer[];
  readonly orphans: readonly Buffer[];
}

/** A key that is not as its row says; `where` finds the row again. */
interface Doubt {
  readonly key: Buffer;
  readonly what: 'missing' | 'different';
  readonly expected: Content;
  /** The row's values of the key columns. */
  readonly where: Where;
}

type Where = readonly (string | null)[];

interface Expected extends Content {
  readonly key: Buffer;
  readonly where: Where;
}

/** Errors: `FEED`, `TIMEOUT` when the node does not keep up, those of the client. */
export async function verifyTable(options: VerifyOptions): Promise<VerifyReport> {
  const { sql, client, publication, mapping } = options;
  const { table } = await findTable(sql, publication, mapping);
  const bound = new BoundMapping(mapping, table.columns, await loadTypes(sql), { nullKeys: 0 });
  const number = await databaseNumber(client, mapping.database);
  return await new Verification(options, table, bound, number).run();
}

class Verification {
  readonly #options: VerifyOptions;
  readonly #table: PublishedTable;
  readonly #bound: BoundMapping;
  readonly #database: number;
  /** Columns of the key, and their places in a row. */
  readonly #columns: readonly string[];
  readonly #places: readonly number[];

  constructor(options: VerifyOptions, table: PublishedTable, bound: BoundMapping, database: number) {
    this.#options = options;
    this.#table = table;
    this.#bound = bound;
    this.#database = database;
    this.#columns = keyColumns(options.mapping.key);
    this.#places = this.#columns.map((name) => table.columns.findIndex((column) => column.name === name));
  }

  async run(): Promise<VerifyReport> {
    const { mapping } = this.#options;
    const buckets = new KeyBuckets();
    const doubtful: Doubt[] = [];
    let rows = 0;
    const lsn = await this.#readAll(async (slice) => {
      rows += slice.length;
      for (const { key } of slice) buckets.expect(key);
      doubtful.push(...(await this.#differing(slice)));
    });
    for await (const keys of this.#listKeys()) for (const key of keys) buckets.meet(key);
    const orphans: Buffer[] = [];
    for (const group of buckets.differing(HELD_KEYS))
      orphans.push(...(await this.#orphansAmong((key) => group.has(buckets.bucketOf(key)))));
    const different = await this.#stillDiffering(doubtful);
    const keysOfKind = (kind: Doubt['what']): Buffer[] => {
      return different.filter(({ what }) => what === kind).map(({ key }) => key);
    };
    return {
      table: mapping.table,
      database: mapping.database,
      rows,
      lsn,
      missing: keysOfKind('missing'),
      different: keysOfKind('different'),
      orphans,
    };
  }

  /** What Postgres has, slice by slice. Returns the position that all of it is older than. */
  async #readAll(each: (slice: readonly Expected[]) => Promise<void>): Promise<string> {
    const { sql } = this.#options;
    const lsn = await reach(this.#options);
    await sql.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    try {
      await sql.query(`DECLARE tokaido_verify NO SCROLL CURSOR FOR ${this.#select(undefined)}`);
      const fetch = async (): Promise<readonly Tuple[]> =>
        await tuplesOf(sql, `FETCH ${SLICE_ROWS} FROM tokaido_verify`);
      let fetching = fetch();
      for (;;) {
        const tuples = await fetching;
        if (tuples.length === 0) return lsn;
        // Postgres works on the next slice while this one is compared; when that fails, nobody asks for it any more.
        fetching = fetch();
        fetching.catch(() => undefined);
        await each(this.#expected(tuples));
      }
    } finally {
      await sql.query('ROLLBACK');
    }
  }

  #select(condition: string | undefined): string {
    const conditions = [this.#table.filter === undefined ? undefined : `(${this.#table.filter})`, condition].filter(
      (text) => text !== undefined,
    );
    return `${selectFrom(this.#table)}${conditions.length === 0 ? '' : ` WHERE ${conditions.join(' AND ')}`}`;
  }

  /** Records that there should be for rows. */
  #expected(rows: readonly Tuple[]): Expected[] {
    const nowMs = this.#options.nowMs();
    return rows.flatMap((row) => {
      const records = this.#bound.records(row);
      if (typeof records === 'string') return [];
      const where = this.#places.map((at) => textOrNull(row[at]));
      return records.filter((record) => !isOver(record, nowMs)).map((record) => ({ ...record, where }));
    });
  }

  async #differing(slice: readonly Expected[]): Promise<Doubt[]> {
    const { client, nowMs } = this.#options;
    const doubts: Doubt[] = [];
    // Rows of arrays have many records.
    for (let from = 0; from < slice.length; from += SLICE_ROWS) {
      const part = slice.slice(from, from + SLICE_ROWS);
      const records = await client.getRecords(part.map(({ key }) => ({ database: this.#database, key })));
      for (const [at, expected] of part.entries()) {
        const { key, where } = expected;
        const record = records[at];
        if (record !== undefined && isSame(record, expected)) continue;
        // A record that reached its time between the two looks is no loss.
        if (record === undefined && isOver(expected, nowMs())) continue;
        doubts.push({ key, expected, where, what: record === undefined ? 'missing' : 'different' });
      }
    }
    return doubts;
  }

  /** Looks again and again at what differed, as many rows at a time as were read at a time. */
  async #stillDiffering(first: readonly Doubt[]): Promise<readonly Doubt[]> {
    let doubtful = first;
    let moving: readonly Doubt[] = [];
    for (let round = 0; round < ROUNDS && doubtful.length + moving.length > 0; round++) {
      const looked = new Map([...doubtful, ...moving].map(({ where }) => [JSON.stringify(where), where]));
      const rows = [...looked.values()];
      const still: Doubt[] = [];
      const moved: Doubt[] = [];
      for (let from = 0; from < rows.length; from += SLICE_ROWS) {
        const found = await this.#lookAgain(rows.slice(from, from + SLICE_ROWS));
        still.push(...found.still);
        moved.push(...found.moved);
      }
      doubtful = still;
      moving = moved;
    }
    return doubtful;
  }

  async #lookAgain(rows: readonly Where[]): Promise<{ readonly still: Doubt[]; readonly moved: Doubt[] }> {
    const before = await this.#rowsWhere(rows);
    await reach(this.#options);
    const found = await this.#differing(before);
    if (found.length === 0) return { still: [], moved: [] };
    // Only a row that stood still meanwhile proves anything: the record may be any of the rows in between.
    const after = new Map(
      (await this.#rowsWhere(found.map(({ where }) => where))).map((row) => [row.key.toString('latin1'), row]),
    );
    const stoodStill = ({ key, expected }: Doubt): boolean => {
      const now = after.get(key.toString('latin1'));
      return now !== undefined && isSame(now, expected);
    };
    return { still: found.filter(stoodStill), moved: found.filter((doubt) => !stoodStill(doubt)) };
  }

  /** Rows by the values of their key columns; a NULL among them finds none. */
  async #rowsWhere(rows: readonly Where[]): Promise<Expected[]> {
    const { sql } = this.#options;
    const columns = this.#columns.map(quoteIdentifier).join(', ');
    const perQuery = Math.max(1, Math.floor(MAX_PARAMETERS / this.#columns.length));
    const found: Expected[] = [];
    for (let from = 0; from < rows.length; from += perQuery) {
      const part = rows.slice(from, from + perQuery);
      let count = 0;
      const lists = part.map((values) => `(${values.map(() => `$${++count}`).join(', ')})`);
      const query = this.#select(`(${columns}) IN (${lists.join(', ')})`);
      found.push(...this.#expected(await tuplesOf(sql, query, part.flat())));
    }
    return found;
  }

  /** Keys of the node, of those that are `wanted`, which have no row. Whatever had none may have got one meanwhile. */
  async #orphansAmong(wanted: (key: Buffer) => boolean): Promise<Buffer[]> {
    const { client } = this.#options;
    const orphans = new Set<string>();
    for await (const keys of this.#listKeys())
      for (const key of keys) if (wanted(key)) orphans.add(key.toString('latin1'));
    for (let round = 0; round < ORPHAN_ROUNDS && orphans.size > 0; round++) {
      await this.#readAll(async (slice) => {
        for (const { key } of slice) orphans.delete(key.toString('latin1'));
      });
      await reach(this.#options);
      const keys = [...orphans];
      for (let at = 0; at < keys.length; at += SLICE_ROWS) {
        const part = keys.slice(at, at + SLICE_ROWS);
        const refs = part.map((key) => ({ database: this.#database, key: Buffer.from(key, 'latin1') }));
        const values = await client.getMany(refs);
        for (const [index, value] of values.entries()) if (value === undefined) orphans.delete(part[index] as string);
      }
    }
    return [...orphans].map((key) => Buffer.from(key, 'latin1'));
  }

  /** Keys of the records that the table has, or would have. */
  #listKeys(): AsyncGenerator<Buffer[]> {
    const { client, mapping } = this.#options;
    return listKeys(client, mapping.database, literalPrefix(mapping.key));
  }
}

interface Content {
  readonly value: Buffer;
  readonly xtMs: number;
}

/** Clients see expiration times in whole seconds. */
function isSame(one: Content, other: Content): boolean {
  return one.value.equals(other.value) && secondsFromXt(one.xtMs) === secondsFromXt(other.xtMs);
}

function isOver({ xtMs }: Pick<Content, 'xtMs'>, nowMs: number): boolean {
  return xtMs !== NEVER_EXPIRES && xtMs <= nowMs;
}

async function tuplesOf(sql: pg.Client, text: string, values: readonly unknown[] = []): Promise<readonly Tuple[]> {
  const { rows } = (await sql.query({ text, values, rowMode: 'array' } as never)) as { readonly rows: Tuple[] };
  return rows;
}

/** Waits until the node has everything that Postgres has now; returns up to where. */
async function reach({ sql, client, mapping }: VerifyOptions): Promise<string> {
  const { rows } = await sql.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
  const position = rows[0]?.lsn;
  if (position === undefined) throw new TokaidoError('FEED', 'Postgres does not say where it is');
  await client.reach({ position, waitMs: REACH_MS }, { database: mapping.database });
  return position;
}
