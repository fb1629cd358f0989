/**
 * The initial copy: all rows as of the slot's consistent point, in slices, then the removal of records whose row is gone.
 * The feed position is committed with the last slice only; a copy that was interrupted begins anew.
 */
import type pg from 'pg';
import type { Logger } from '../../base/logger.js';
import type { Store, StoreTransaction, Written } from '../../store/types.js';
import {
  BoundMapping,
  FoundRows,
  literalPrefix,
  type MappingCounters,
  type RowChange,
  type TableMapping,
} from './mapping.js';
import type { Tuple } from './pgoutput.js';
import { columnsOf, quoteIdentifier, quoteTable } from './setup.js';
import type { TypeCatalog } from './values.js';

/** Rows of one slice, and so of one transaction of the store. */
const SLICE_ROWS = 1000;
/** Slices written and not yet committed. */
const MAX_OUTSTANDING = 4;
const ORPHAN_PAGE = 1000;

export interface CopyOptions {
  readonly sql: pg.Client;
  readonly store: Store;
  readonly log: Logger;
  readonly tables: readonly TableMapping[];
  readonly types: TypeCatalog;
  readonly counters: MappingCounters;
  /** Asked between slices. */
  readonly stopped: () => boolean;
  readonly onRows: (rows: number) => void;
}

/** Runs inside an open transaction of `sql` that sees the snapshot. Returns false when it was stopped. */
export async function copyTables(options: CopyOptions): Promise<boolean> {
  for (const mapping of options.tables) {
    const columns = await columnsOf(options.sql, mapping.table);
    const bound = new BoundMapping(mapping, columns, options.types, options.counters);
    const query = `SELECT ${columns.map(({ name }) => quoteIdentifier(name)).join(', ')} FROM ${quoteTable(mapping.table)}`;
    if (!(await copyTable(options, mapping, bound, query))) return false;
  }
  return true;
}

/** A transaction in which a `set` of what is there already does nothing: a copy made again costs only what differs. */
function onlyDifferences(transaction: StoreTransaction): StoreTransaction {
  return {
    get: (database, key) => transaction.get(database, key),
    set: (database, key, value, xtMs) => {
      const old = transaction.get(database, key);
      if (old === undefined || old.xtMs !== xtMs || !value.equals(old.value))
        transaction.set(database, key, value, xtMs);
    },
    remove: (database, key) => transaction.remove(database, key),
    clear: (database, prefix) => transaction.clear(database, prefix),
  };
}

async function copyTable(
  options: CopyOptions,
  mapping: TableMapping,
  bound: BoundMapping,
  query: string,
): Promise<boolean> {
  const { sql, store, log } = options;
  const prefix = literalPrefix(mapping.key);
  // Only a store that has records of this table can have orphans; an empty one need not remember the keys.
  const seen = store.keys(bound.database, prefix, undefined, 1).length > 0 ? new Set<string>() : undefined;
  const found = new FoundRows();
  const outstanding: Promise<unknown>[] = [];
  const write = async (changes: readonly RowChange[]): Promise<void> => {
    const { committed } = store.write((transaction: StoreTransaction) => {
      const target = onlyDifferences(transaction);
      // A copied row is whole: nothing can be missing.
      for (const change of changes) change(target, [], found);
    }) satisfies Written<void>;
    // Awaited later, if at all: the first failure ends the copy, those behind it must not go unheard.
    committed.catch(() => undefined);
    outstanding.push(committed);
    if (outstanding.length >= MAX_OUTSTANDING) await outstanding.shift();
  };
  let rows = 0;
  await sql.query(`DECLARE tokaido_copy NO SCROLL CURSOR FOR ${query}`);
  for (;;) {
    if (options.stopped()) return false;
    const fetched = await sql.query<Tuple>({
      text: `FETCH ${SLICE_ROWS} FROM tokaido_copy`,
      rowMode: 'array',
    } as never);
    const slice = fetched.rows as unknown as Tuple[];
    if (slice.length === 0) break;
    for (const row of slice) {
      const key = bound.key(row);
      if (key !== undefined) seen?.add(key.toString('latin1'));
    }
    await write(slice.map((row) => bound.put(row)));
    rows += slice.length;
    options.onRows(slice.length);
  }
  await sql.query('CLOSE tokaido_copy');
  await Promise.all(outstanding.splice(0));
  const orphans = seen === undefined ? 0 : await removeOrphans(store, bound.database, prefix, seen);
  log.info({ table: mapping.table, rows, orphans }, 'table copied');
  return true;
}

/** Removes records of this table whose row is gone. */
async function removeOrphans(
  store: Store,
  database: string,
  prefix: Buffer,
  seen: ReadonlySet<string>,
): Promise<number> {
  let removed = 0;
  let after: Buffer | undefined;
  for (;;) {
    const keys = store.keys(database, prefix, after, ORPHAN_PAGE);
    if (keys.length === 0) return removed;
    after = keys.at(-1);
    const orphans = keys.filter((key) => !seen.has(key.toString('latin1')));
    removed += orphans.length;
    if (orphans.length === 0) continue;
    await store.write((transaction) => {
      for (const key of orphans) transaction.remove(database, key);
    }).committed;
  }
}
