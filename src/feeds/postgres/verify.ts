/**
 * Compares a node with Postgres: every row of the mapped tables with its record (value and expiration time), and every record of theirs with the
 * rows. Neither side stands still meanwhile, so a difference counts only when it is still there each time it is looked
 * at again: the row first, then the position at which it was read, then the record once the node has reached that
 * position, then the row once more. What is equal at one such position is right; what never was, although the row stood
 * still, is reported. A row that changes at every look proves nothing either way.
 */
import type pg from 'pg';
import { TokaidoError } from '../../base/errors.js';
import { NEVER_EXPIRES } from '../../base/types.js';
import { databaseNumber, walkRecords } from '../../client/bulk.js';
import type { TokaidoClient } from '../../client/client.js';
import { secondsFromXt } from '../../protocol/expiry.js';
import { selectFrom } from './copy.js';
import { findTable } from './inspect.js';
import { BoundMapping, keyColumns, literalPrefix, type TableMapping } from './mapping.js';
import type { Tuple } from './pgoutput.js';
import { loadTypes, quoteIdentifier } from './setup.js';
import { textOrNull } from './values.js';

/** Rows read, and records asked for, at a time. */
const SLICE_ROWS = 1000;
/** How often a difference is looked at again. */
const ROUNDS = 4;
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

type Doubt = readonly [key: string, expected: Expected, what: 'missing' | 'different'];

interface Expected {
  readonly value: Buffer;
  readonly xtMs: number;
  /** The row's values of the key columns. */
  readonly where: readonly (string | null)[];
}

/** Errors: `FEED`, `TIMEOUT` when the node does not keep up, those of the client. */
export async function verifyTable(options: VerifyOptions): Promise<VerifyReport> {
  const { sql, client, publication, mapping } = options;
  const { table } = await findTable(sql, publication, mapping);
  const bound = new BoundMapping(mapping, table.columns, await loadTypes(sql), { nullKeys: 0 });
  const number = await databaseNumber(client, mapping.database);
  const query = `${selectFrom(table)}${table.filter === undefined ? '' : ` WHERE (${table.filter})`}`;
  const columns = keyColumns(mapping.key);
  const places = columns.map((name) => table.columns.findIndex((column) => column.name === name));

  /** What Postgres has, slice by slice, and the position that all of it is older than. */
  const readAll = async (each: (slice: ReadonlyMap<string, Expected>) => Promise<void>): Promise<string> => {
    const lsn = await reach(options);
    await sql.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    try {
      await sql.query(`DECLARE tokaido_verify NO SCROLL CURSOR FOR ${query}`);
      for (;;) {
        const tuples = await tuplesOf(sql, `FETCH ${SLICE_ROWS} FROM tokaido_verify`);
        if (tuples.length === 0) return lsn;
        await each(expectedOf(tuples));
      }
    } finally {
      await sql.query('ROLLBACK');
    }
  };
  const expectedOf = (rows: readonly Tuple[]): Map<string, Expected> => {
    const slice = new Map<string, Expected>();
    for (const row of rows) {
      const records = bound.records(row);
      if (typeof records === 'string') continue;
      const where = places.map((at) => textOrNull(row[at]));
      for (const { key, value, xtMs } of records) {
        if (!isOver({ xtMs }, options.nowMs())) slice.set(key.toString('latin1'), { value, xtMs, where });
      }
    }
    return slice;
  };
  const differing = async (slice: ReadonlyMap<string, Expected>): Promise<Doubt[]> => {
    const entries = [...slice];
    const records = await client.getRecords(
      entries.map(([key]) => ({ database: number, key: Buffer.from(key, 'latin1') })),
    );
    return entries.flatMap(([key, expected], at): Doubt[] => {
      const record = records[at];
      // A record that reached its time between the two looks is no loss.
      if (record === undefined) return isOver(expected, options.nowMs()) ? [] : [[key, expected, 'missing']];
      return isSame(record, expected) ? [] : [[key, expected, 'different']];
    });
  };

  const orphans = await keysOf(client, mapping);
  let doubtful: Doubt[] = [];
  let rows = 0;
  const lsn = await readAll(async (slice) => {
    rows += slice.size;
    for (const key of slice.keys()) orphans.delete(key);
    doubtful.push(...(await differing(slice)));
  });

  const lookAgain = async (where: Expected['where']): Promise<ReadonlyMap<string, Expected>> => {
    const conditions = columns.map((name, at) => `${quoteIdentifier(name)} = $${at + 1}`).join(' AND ');
    const filter = table.filter === undefined ? '' : ` AND (${table.filter})`;
    return expectedOf(await tuplesOf(sql, `${selectFrom(table)} WHERE ${conditions}${filter}`, where));
  };
  let moving: Doubt[] = [];
  for (let round = 0; round < ROUNDS && doubtful.length + moving.length > 0; round++) {
    const looked = [...doubtful, ...moving];
    doubtful = [];
    moving = [];
    for (const [, { where }] of looked) {
      const before = await lookAgain(where);
      await reach(options);
      const found = await differing(before);
      if (found.length === 0) continue;
      // Only a row that stood still meanwhile proves anything: the record may be any of the rows in between.
      const after = await lookAgain(where);
      for (const doubt of found) {
        const now = after.get(doubt[0]);
        const stoodStill = now !== undefined && isSame(now, doubt[1]);
        (stoodStill ? doubtful : moving).push(doubt);
      }
    }
  }

  // Whatever had no row may have got one, or be gone, meanwhile.
  for (let round = 0; round < 2 && orphans.size > 0; round++) {
    await readAll(async (slice) => {
      for (const key of slice.keys()) orphans.delete(key);
    });
    await reach(options);
    const keys = [...orphans];
    for (let at = 0; at < keys.length; at += SLICE_ROWS) {
      const part = keys.slice(at, at + SLICE_ROWS);
      const values = await client.getMany(part.map((key) => ({ database: number, key: Buffer.from(key, 'latin1') })));
      for (const [index, value] of values.entries()) if (value === undefined) orphans.delete(part[index] as string);
    }
  }
  const keysOfKind = (kind: string): Buffer[] => {
    return doubtful.filter(([, , what]) => what === kind).map(([key]) => Buffer.from(key, 'latin1'));
  };
  return {
    table: mapping.table,
    database: mapping.database,
    rows,
    lsn,
    missing: keysOfKind('missing'),
    different: keysOfKind('different'),
    orphans: [...orphans].map((key) => Buffer.from(key, 'latin1')),
  };
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

/** Keys of the records that a table has, or would have. */
async function keysOf(client: TokaidoClient, { database, key }: TableMapping): Promise<Set<string>> {
  const prefix = literalPrefix(key);
  const keys = new Set<string>();
  for await (const records of walkRecords(client, database)) {
    for (const record of records) {
      if (record.key.subarray(0, prefix.length).equals(prefix)) keys.add(record.key.toString('latin1'));
    }
  }
  return keys;
}
