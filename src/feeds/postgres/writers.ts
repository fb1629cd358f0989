/**
 * Transactions that something has to wait for. A table's copy waits for those that had written to it when the feed looked
 * first, and for no others; the slot of a first copy waits for all that run, in Postgres itself.
 *
 * Why a copy does: what a transaction changed of a table before the table was published is never sent, and one whose
 * commit was sent already, in an earlier stream, may not be visible yet. Either still holds its lock on the table, which
 * Postgres lets go after it has made the transaction visible. So once those that held one at a moment are over, a snapshot
 * shows all that the stream will not bring; what others write, they write after that moment, and it will come.
 *
 * They are known by their numbers, which they keep when they are prepared (PREPARE TRANSACTION). One that has none yet has
 * written nothing.
 */
import type pg from 'pg';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';

/** A transaction that is open. */
export interface OpenTransaction {
  readonly xid: string;
  /** Its process; `undefined` for one that is prepared. */
  readonly pid: number | undefined;
  /** When it began, ISO 8601; `undefined` when the role may not know (`pg_read_all_stats`). */
  readonly since: string | undefined;
}

interface Row {
  readonly xid: string;
  readonly pid: string | null;
  readonly since: string | null;
}

/** Looked at once: a lock that changes hands meanwhile would be in neither half. */
const OPEN = `
  WITH held AS MATERIALIZED (SELECT * FROM pg_locks WHERE granted)
  SELECT h.transactionid AS xid, h.pid, to_char(a.xact_start, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since
  FROM held h LEFT JOIN pg_stat_activity a ON a.pid = h.pid
  WHERE h.locktype = 'transactionid' AND h.mode = 'ExclusiveLock' AND h.pid IS DISTINCT FROM pg_backend_pid()`;
const OLDEST_FIRST = 'ORDER BY a.xact_start NULLS LAST, age(h.transactionid) DESC';

/** Modes of INSERT, UPDATE, DELETE, TRUNCATE, and of whoever may rewrite the table; VACUUM and CREATE INDEX have others. */
const WRITING = `virtualtransaction IN (
  SELECT virtualtransaction FROM held WHERE locktype = 'relation'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND (relation = ANY ($1::oid[]) OR relation IN (SELECT t.relid FROM unnest($1::oid[]) o, pg_partition_tree(o) t)))`;

async function ask(sql: pg.Client, condition: string, values: readonly unknown[]): Promise<OpenTransaction[]> {
  const { rows } = await sql.query<Row>(`${OPEN} AND ${condition} ${OLDEST_FIRST}`, [...values]);
  return rows.map(({ xid, pid, since }) => ({
    xid,
    pid: pid === null ? undefined : Number(pid),
    since: since ?? undefined,
  }));
}

/** Those that have written to any of these tables or their partitions, the oldest first. */
export async function writersOf(
  sql: pg.Client,
  tables: readonly { readonly oid: number }[],
): Promise<OpenTransaction[]> {
  return await ask(sql, WRITING, [tables.map(({ oid }) => oid)]);
}

/** Those of these that are still open, the oldest first. */
export async function stillOpen(sql: pg.Client, open: readonly OpenTransaction[]): Promise<OpenTransaction[]> {
  return await ask(sql, 'h.transactionid::text = ANY ($1::text[])', [open.map(({ xid }) => xid)]);
}

/** All that have written anything, in any database, the oldest first. */
export async function allWriters(sql: pg.Client): Promise<OpenTransaction[]> {
  return await ask(sql, 'true', []);
}

/** How many they are: one that has subtransactions has several numbers. */
export function countOf(open: readonly OpenTransaction[]): number {
  return new Set(open.map(({ pid, xid }) => pid ?? `prepared ${xid}`)).size;
}

/** How long something waits before it is said in the log, and until it is said again, ms. */
const SAY_AFTER_MS = 1_000;
const SAY_EVERY_MS = 60_000;

/** Says in the log for whom something waits, now and then. */
export class WaitingNote {
  readonly #runtime: Runtime;
  readonly #log: Logger;
  readonly #what: string;
  #sayAtMs: number;

  constructor(runtime: Runtime, log: Logger, what: string) {
    this.#runtime = runtime;
    this.#log = log;
    this.#what = what;
    this.#sayAtMs = runtime.monotonicMs() + SAY_AFTER_MS;
  }

  /** It still waits for these, the oldest first. */
  note(open: readonly OpenTransaction[]): void {
    const nowMs = this.#runtime.monotonicMs();
    const [oldest] = open;
    if (oldest === undefined || nowMs < this.#sayAtMs) return;
    this.#sayAtMs = nowMs + SAY_EVERY_MS;
    this.#log.warn({ transactions: countOf(open), oldest }, this.#what);
  }
}
