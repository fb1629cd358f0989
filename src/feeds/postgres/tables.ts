/**
 * What Postgres publishes of each mapped table, and whether what the store holds of it was copied in that very shape.
 *
 * Postgres streams changes of rows, not changes of tables: a column with a default, another type, a partition that is
 * attached, a table that was out of the publication for a while leave no trace in the stream, but records that are no
 * longer right. So the catalog's description of a table is hashed together with its mapping, and the hash is committed
 * once the table is copied. Whenever the two differ (at start, and each time the catalog is looked at while streaming)
 * that table, and only that one, is copied again.
 */
import { createHash } from 'node:crypto';
import type pg from 'pg';
import { TokaidoError } from '../../base/errors.js';
import type { Store } from '../../store/types.js';
import { copyingNote } from '../feed.js';
import { splitTable, type TableMapping } from './mapping.js';
import type { Column, Lsn } from './pgoutput.js';
import type { Sight } from './sight.js';

/** A mapped table as it is published. */
export interface PublishedTable {
  readonly mapping: TableMapping;
  readonly oid: number;
  readonly columns: readonly Column[];
  /** Condition of the publication that rows must meet (Postgres 15 and later). */
  readonly filter: string | undefined;
  readonly isPartitioned: boolean;
  /** Stands for everything above, and for what else decides which records there must be. Never 0. */
  readonly fingerprint: bigint;
}

/** A table that is in the store, or is being copied. */
export interface CopiedTable {
  readonly table: PublishedTable;
  /** What its copy, or the copy's beginning, shows; `undefined` when that lies behind, and every change is still to come. */
  readonly shown: Sight | undefined;
}

/** Fingerprint of a table that is not, or only partly, copied. */
const NOT_COPIED = 0n;
const NAME = 'postgres table';
const AT = 'postgres copied';
/** What the copy under way is of, how many pages of it are written, and the first transaction that it may lack. */
const BEGUN = 'postgres begun';
const PAGES = 'postgres pages';
const XID = 'postgres xid';
/** Name of the feed in the store. */
export const FEED_NAME = 'postgres';
const COPYING = copyingNote(FEED_NAME, '');

interface TableRow {
  readonly oid: string;
  readonly kind: string;
  readonly publication: string;
  readonly membership: string | null;
  readonly partitions: string | null;
}

interface ColumnRow {
  /** Tells a column from one of the same name that was dropped. */
  readonly number: string;
  readonly name: string;
  readonly type: string;
  readonly modifier: string;
  readonly filter: string | null;
}

/** Partitions by file, not only by name: rows that come or go with a partition, or by its truncation, are not streamed. */
const TABLE = `
  SELECT c.oid, c.relkind AS kind, p.oid AS publication,
         (SELECT pr.oid FROM pg_publication_rel pr WHERE pr.prpubid = p.oid AND pr.prrelid = c.oid) AS membership,
         (SELECT string_agg(format('%s:%s', t.relid::oid, pg_relation_filenode(t.relid)), ',' ORDER BY t.relid::oid)
            FROM pg_partition_tree(c.oid) t WHERE c.relkind = 'p' AND t.isleaf) AS partitions
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_publication p
  WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p') AND p.pubname = $3`;

const COLUMNS = `
  SELECT a.attnum AS number, a.attname AS name, a.atttypid AS type, a.atttypmod AS modifier, NULL AS filter
  FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  ORDER BY a.attnum`;

/** From Postgres 15 on a publication chooses columns and rows; from 18 on it may have generated columns too. */
const PUBLISHED_COLUMNS = `
  SELECT a.attnum AS number, a.attname AS name, a.atttypid AS type, a.atttypmod AS modifier, t.rowfilter AS filter
  FROM pg_publication_tables t
  JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY (t.attnames)
  WHERE t.pubname = $2 AND t.schemaname = $3 AND t.tablename = $4
    AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 180000)
  ORDER BY a.attnum`;
const CHOOSES_COLUMNS = 150_000;

/** Reads the catalog. Errors: `FEED` when a table or the publication is not there (any more). */
export async function describeTables(
  sql: pg.Client,
  publication: string,
  mappings: readonly TableMapping[],
): Promise<PublishedTable[]> {
  const [server] = (await sql.query<{ version: string }>(`SELECT current_setting('server_version_num') AS version`))
    .rows;
  const tables: PublishedTable[] = [];
  for (const mapping of mappings) {
    const { schema, name } = splitTable(mapping.table);
    const [table] = (await sql.query<TableRow>(TABLE, [schema, name, publication])).rows;
    if (table === undefined) {
      throw new TokaidoError('FEED', `publication ${publication} or table ${mapping.table} is gone`, {
        hint: 'run tokaido pg setup --config FILE: it says what is missing',
      });
    }
    const { rows } =
      Number(server?.version) < CHOOSES_COLUMNS
        ? await sql.query<ColumnRow>(COLUMNS, [table.oid])
        : await sql.query<ColumnRow>(PUBLISHED_COLUMNS, [table.oid, publication, schema, name]);
    if (rows.length === 0) {
      throw new TokaidoError('FEED', `publication ${publication} does not have table ${mapping.table} any more`, {
        hint: `run: ALTER PUBLICATION ${publication} ADD TABLE ${mapping.table};`,
      });
    }
    const hash = createHash('sha256')
      .update(JSON.stringify([mapping, table, rows]))
      .digest();
    tables.push({
      mapping,
      oid: Number(table.oid),
      columns: rows.map((row) => ({ name: row.name, typeOid: Number(row.type), isKey: false })),
      filter: rows[0]?.filter ?? undefined,
      isPartitioned: table.kind === 'p',
      fingerprint: hash.readBigUInt64BE(0) || 1n,
    });
  }
  return tables;
}

/** The columns of a table that is not published yet: those that a new publication would have. */
export async function describeColumns(sql: pg.Client, table: string): Promise<Column[]> {
  const { schema, name } = splitTable(table);
  const { rows } = await sql.query<ColumnRow>(COLUMNS.replace('$1', 'to_regclass(format($1, $2::text, $3::text))'), [
    '%I.%I',
    schema,
    name,
  ]);
  return rows.map((row) => ({ name: row.name, typeOid: Number(row.type), isKey: false }));
}

/** Whether a description in the stream has the columns that the table was copied with. */
export function hasColumns(table: PublishedTable, columns: readonly Column[]): boolean {
  if (columns.length !== table.columns.length) return false;
  return columns.every(({ name, typeOid }, index) => {
    const known = table.columns[index];
    return known?.name === name && known.typeOid === typeOid;
  });
}

/** What the store holds of a table is not (any more) what Postgres has: it is copied again. */
export class TablesChanged extends TokaidoError {
  readonly mappings: readonly TableMapping[];
  readonly reason: string;

  constructor(mappings: readonly TableMapping[], reason = 'changed in shape') {
    super('FEED', `${mappings.map(({ table }) => table).join(', ')}: ${reason}`);
    this.mappings = mappings;
    this.reason = reason;
  }
}

/** Whether a copy is under way, or was when the process ended. */
export function isCopying(store: Store): boolean {
  return store.feeds().some(({ feed, position }) => feed.startsWith(COPYING) && position !== 0n);
}

/** A copy that was interrupted. */
export interface BegunCopy {
  /** So many pages of the table, from its first, are written. */
  readonly pages: number;
  /** Whatever transactions before this one did was seen when it began. */
  readonly sinceXid: bigint;
  /** There were records already when it began: some may have no row. */
  readonly isOverRecords: boolean;
}

/**
 * Which tables are whole in the store, and since when; how far a copy under way is. Kept in the store as feed positions
 * beside that of the stream, so that they are committed in the order of the rows that they speak of.
 */
export class CopiedTables {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  #nameOf({ table, database, key }: TableMapping, prefix = NAME): string {
    return `${prefix} ${table} ${database} ${key}`;
  }

  /**
   * The moment at which the table's copy began: every change since then comes, or came, with the stream. While the stream
   * is not there yet, only the copy's sight says which changes are in the copy (sight.ts).
   */
  copiedAt(mapping: TableMapping): Lsn {
    return this.#store.feedPosition(this.#nameOf(mapping, AT)) ?? 0n;
  }

  isWhole({ mapping, fingerprint }: PublishedTable): boolean {
    return this.#store.feedPosition(this.#nameOf(mapping)) === fingerprint;
  }

  /**
   * How far an interrupted copy of the table came; `undefined` when there is none that may go on, because the table has
   * another shape or was rewritten to another `file`: then its pages hold other rows than they did.
   */
  begun(table: PublishedTable, file: string | null): BegunCopy | undefined {
    const known = this.#store.feedPosition(this.#nameOf(table.mapping, BEGUN));
    const pages = Number(this.#store.feedPosition(this.#nameOf(table.mapping, PAGES)) ?? 0n);
    const sinceXid = this.#store.feedPosition(this.#nameOf(table.mapping, XID)) ?? 0n;
    for (const isOverRecords of [false, true]) {
      if (known === identityOf(table, file, isOverRecords)) return { pages, sinceXid, isOverRecords };
    }
    return undefined;
  }

  /** How far an interrupted copy of the table came that may go on, as Postgres has it now. */
  async begunNow(sql: pg.Client, table: PublishedTable): Promise<BegunCopy | undefined> {
    const { rows } = await sql.query<{ file: string | null }>('SELECT pg_relation_filenode($1::oid) AS file', [
      table.oid,
    ]);
    return this.begun(table, rows[0]?.file ?? null);
  }

  /** A copy of the table begins, as of a moment. Resolves once nothing that it writes can be on the disk without that. */
  async begin(table: PublishedTable, file: string | null, lsn: Lsn, begun: BegunCopy): Promise<void> {
    const { mapping } = table;
    const { pages, sinceXid, isOverRecords } = begun;
    // In this order: what is half copied counts neither as whole nor as a copy of another moment.
    await this.forget([mapping]);
    await this.#store.mark({ feed: this.#nameOf(mapping, AT), position: lsn }).committed;
    await this.#store.mark({ feed: this.#nameOf(mapping, XID), position: sinceXid }).committed;
    await this.notePages(mapping, pages);
    const identity = identityOf(table, file, isOverRecords);
    await this.#store.mark({ feed: this.#nameOf(mapping, BEGUN), position: identity }).committed;
  }

  /** All rows of the table's first pages are committed. */
  async notePages(mapping: TableMapping, pages: number): Promise<void> {
    await this.#store.mark({ feed: this.#nameOf(mapping, PAGES), position: BigInt(pages) }).committed;
  }

  /** The table is in the store, whole, as `fingerprint` describes it. */
  async setWhole({ mapping, fingerprint }: PublishedTable): Promise<void> {
    await this.#store.mark({ feed: this.#nameOf(mapping), position: fingerprint }).flushed;
    await this.#store.mark({ feed: this.#nameOf(mapping, BEGUN), position: NOT_COPIED }).committed;
  }

  /** Tables of these databases, and of no other, are being copied. Every node knows it from its replicated state. */
  async noteCopying(databases: readonly string[]): Promise<void> {
    const copying = new Set(databases.map((database) => copyingNote(FEED_NAME, database)));
    const noted = this.#store.feeds().filter(({ feed, position }) => feed.startsWith(COPYING) && position !== 0n);
    for (const { feed } of noted) if (!copying.has(feed)) await this.#store.mark({ feed, position: 0n }).flushed;
    for (const feed of copying) {
      if ((this.#store.feedPosition(feed) ?? 0n) === 0n) await this.#store.mark({ feed, position: 1n }).flushed;
    }
  }

  /** It has to be copied again, from its beginning. */
  async forget(mappings: readonly TableMapping[]): Promise<void> {
    await this.#forget(mappings.flatMap((mapping) => [this.#nameOf(mapping), this.#nameOf(mapping, BEGUN)]));
  }

  /** Forgets every table but these: what is not streamed any more does not stay right. */
  async forgetAllBut(mappings: readonly TableMapping[]): Promise<void> {
    const kept = new Set(mappings.flatMap((mapping) => [this.#nameOf(mapping), this.#nameOf(mapping, BEGUN)]));
    const known = this.#store.feeds().filter(({ feed }) => feed.startsWith(NAME) || feed.startsWith(BEGUN));
    await this.#forget(known.filter(({ feed }) => !kept.has(feed)).map(({ feed }) => feed));
  }

  async #forget(names: readonly string[]): Promise<void> {
    for (const feed of names) {
      if ((this.#store.feedPosition(feed) ?? NOT_COPIED) === NOT_COPIED) continue;
      await this.#store.mark({ feed, position: NOT_COPIED }).flushed;
    }
  }
}

/** Stands for one copy of a table: of this shape, from this file, into an empty place or over what was there. Never 0. */
function identityOf({ fingerprint }: PublishedTable, file: string | null, isOverRecords: boolean): bigint {
  const hash = createHash('sha256').update(JSON.stringify([String(fingerprint), file, isOverRecords]));
  return hash.digest().readBigUInt64BE(0) || 1n;
}
