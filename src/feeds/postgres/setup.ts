/** Publication and slot: creates them, and checks at start that the live schema allows what the mapping asks for. */
import type pg from 'pg';
import { messageOf, TokaidoError } from '../../base/errors.js';
import { FoundRows, keyColumns, type MissingRow, splitTable, type TableMapping } from './mapping.js';
import type { Tuple } from './pgoutput.js';
import type { TypeCatalog } from './values.js';

export interface SetupConfig {
  readonly slot: string;
  readonly publication: string;
  readonly create: boolean;
  /** The slot shall be kept by standbys, too. */
  readonly failover: boolean;
  readonly tables: readonly TableMapping[];
}

export function quoteIdentifier(name: string): string {
  return `"${name.replace(/"/g, '""')}"`;
}

/** `schema.table` quoted. Errors: `CONFIG`. */
export function quoteTable(table: string): string {
  const { schema, name } = splitTable(table);
  return `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
}

/** Errors: `FEED`, naming what is missing and the SQL that mends it. */
export async function checkServer(sql: pg.Client, config: SetupConfig): Promise<void> {
  const { rows } = await sql.query<{ level: string; version: string }>(
    `SELECT current_setting('wal_level') AS level, current_setting('server_version_num') AS version`,
  );
  const [server] = rows;
  if (server?.level !== 'logical') {
    throw new TokaidoError(
      'FEED',
      `Postgres runs with wal_level = ${server?.level}, logical replication needs logical`,
      {
        hint: 'ALTER SYSTEM SET wal_level = logical; then restart Postgres',
      },
    );
  }
  if (Number(server.version) < 140_000)
    throw new TokaidoError('FEED', `Postgres ${server.version} is too old: 14 or later is needed`);
  if (config.failover && Number(server.version) < 170_000) {
    throw new TokaidoError('FEED', `Postgres ${server.version} keeps no slots on standbys: 17 or later does`, {
      hint: 'remove postgres.failover; docs/postgres.md says what a fail-over needs then',
    });
  }
  for (const mapping of config.tables) await checkTable(sql, mapping);
}

/** Errors: `FEED`, as `checkServer`, of one table. */
export async function checkTable(sql: pg.Client, { table, key }: TableMapping): Promise<void> {
  const { schema, name } = splitTable(table);
  const { rows: tables } = await sql.query<{
    oid: string;
    identity: string;
    schema: string;
    allowed: string;
    me: string;
  }>(
    `SELECT c.oid, c.relreplident AS identity, current_user AS me, has_schema_privilege(n.oid, 'USAGE') AS schema,
            has_table_privilege(c.oid, 'SELECT') AS allowed
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')`,
    [schema, name],
  );
  const [found] = tables;
  if (found === undefined) {
    throw new TokaidoError('FEED', `there is no table ${table}`, {
      hint: 'check postgres.tables and the database in postgres.connection',
    });
  }
  if (found.schema !== 't' || found.allowed !== 't') {
    const what = found.schema === 't' ? `SELECT ON ${quoteTable(table)}` : `USAGE ON SCHEMA ${quoteIdentifier(schema)}`;
    throw new TokaidoError('FEED', `the role ${found.me} may not read table ${table}`, {
      hint: `run: GRANT ${what} TO ${quoteIdentifier(found.me)};`,
    });
  }
  await checkPartitions(sql, table, found);
  if (found.identity === 'f') return;
  const { rows } = await sql.query<{ column: string }>(
    `SELECT a.attname AS column FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
     WHERE i.indrelid = $1 AND CASE $2 WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END`,
    [found.oid, found.identity],
  );
  const identity = rows.map(({ column }) => column);
  const missing = keyColumns(key).filter((column) => !identity.includes(column));
  const uncovered = identity.filter((column) => !keyColumns(key).includes(column));
  const mend = `ALTER TABLE ${quoteTable(table)} REPLICA IDENTITY FULL;`;
  if (identity.length === 0) {
    const why = found.identity === 'n' ? 'its replica identity is NOTHING' : 'it has no primary key';
    throw new TokaidoError('FEED', `Postgres would not send which row of ${table} was changed or deleted: ${why}`, {
      hint: `give it a primary key and REPLICA IDENTITY DEFAULT, or run: ${mend}`,
    });
  }
  if (missing.length > 0) {
    throw new TokaidoError(
      'FEED',
      `the key of ${table} uses ${missing.join(', ')}, which Postgres does not send for deletes and key changes`,
      {
        hint: `use columns of the primary key in the key template, or run: ${mend}`,
      },
    );
  }
  if (uncovered.length > 0) {
    throw new TokaidoError(
      'FEED',
      `the key template of ${table} leaves out ${uncovered.join(', ')} of its primary key: two rows could have one key`,
      {
        hint: `name every column of the primary key in the template, or, if the template is unique all the same, run: ${mend}`,
      },
    );
  }
}

/** Changes of a partition carry what its own replica identity says: the one of the table must hold for all of them. */
async function checkPartitions(
  sql: pg.Client,
  table: string,
  { oid, identity }: { readonly oid: string; readonly identity: string },
): Promise<void> {
  const { rows } = await sql.query<{ partition: string }>(
    `SELECT c.oid::regclass AS partition FROM pg_partition_tree($1) t JOIN pg_class c ON c.oid = t.relid
     WHERE t.isleaf AND t.level > 0 AND c.relreplident NOT IN ('f', CASE $2 WHEN 'i' THEN 'd' ELSE $2 END) LIMIT 1`,
    [oid, identity],
  );
  const [other] = rows;
  if (other === undefined) return;
  const wanted = identity === 'f' ? 'FULL' : 'DEFAULT';
  throw new TokaidoError('FEED', `partition ${other.partition} of ${table} has a replica identity of its own`, {
    hint: `run: ALTER TABLE ${other.partition} REPLICA IDENTITY ${wanted};`,
  });
}

/** Creates the publication, or adds tables that it lacks. Returns what it did. Errors: `FEED`. */
export async function ensurePublication(sql: pg.Client, config: SetupConfig): Promise<string[]> {
  const wanted = config.tables.map(({ table }) => table);
  const { rows } = await sql.query<{ whole: string; root: string }>(
    `SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AS whole, pubviaroot AS root
     FROM pg_publication WHERE pubname = $1`,
    [config.publication],
  );
  const publication = quoteIdentifier(config.publication);
  const create = `CREATE PUBLICATION ${publication} FOR TABLE ${wanted.map(quoteTable).join(', ')} WITH (publish_via_partition_root = true)`;
  const [existing] = rows;
  if (existing === undefined) return await run(sql, config, create);
  if (existing.whole !== 't') {
    throw new TokaidoError('FEED', `publication ${config.publication} leaves out some kinds of changes`, {
      hint: `run: ALTER PUBLICATION ${publication} SET (publish = 'insert, update, delete, truncate');`,
    });
  }
  if (existing.root !== 't') await refusePartitioned(sql, config, publication);
  const { rows: published } = await sql.query<{ table: string }>(
    `SELECT schemaname || '.' || tablename AS table FROM pg_publication_tables WHERE pubname = $1`,
    [config.publication],
  );
  const missing = wanted.filter((table) => !published.some((row) => row.table === table));
  if (missing.length === 0) return [];
  return await run(sql, config, `ALTER PUBLICATION ${publication} ADD TABLE ${missing.map(quoteTable).join(', ')}`);
}

/** Without `publish_via_partition_root` changes would come under the names of the partitions, which nothing maps. */
async function refusePartitioned(sql: pg.Client, config: SetupConfig, publication: string): Promise<void> {
  for (const { table } of config.tables) {
    const { rows } = await sql.query(`SELECT 1 FROM pg_class WHERE oid = $1::regclass AND relkind = 'p'`, [
      quoteTable(table),
    ]);
    if (rows.length === 0) continue;
    throw new TokaidoError(
      'FEED',
      `publication ${config.publication} sends changes of ${table} under the names of its partitions`,
      { hint: `run: ALTER PUBLICATION ${publication} SET (publish_via_partition_root = true);` },
    );
  }
}

async function run(sql: pg.Client, config: SetupConfig, statement: string): Promise<string[]> {
  if (!config.create) {
    throw new TokaidoError('FEED', `publication ${config.publication} is missing or lacks a table`, {
      hint: `run: ${statement};`,
    });
  }
  try {
    await sql.query(statement);
  } catch (error) {
    throw new TokaidoError('FEED', `cannot prepare publication ${config.publication}: ${messageOf(error)}`, {
      hint: `have its owner run: ${statement};`,
      cause: error,
    });
  }
  return [statement];
}

/** Domains and arrays of this database. */
export async function loadTypes(sql: pg.Client): Promise<TypeCatalog> {
  const domains = await sql.query<{ oid: string; base: string }>(
    `SELECT oid, typbasetype AS base FROM pg_type WHERE typtype = 'd'`,
  );
  const arrays = await sql.query<{ oid: string; element: string; delimiter: string }>(
    'SELECT typarray AS oid, oid AS element, typdelim AS delimiter FROM pg_type WHERE typarray <> 0',
  );
  return {
    domains: new Map(domains.rows.map(({ oid, base }) => [Number(oid), Number(base)])),
    arrays: new Map(
      arrays.rows.map(({ oid, element, delimiter }) => [Number(oid), { element: Number(element), delimiter }]),
    ),
  };
}

/** Reads rows whose large values did not come with the stream. */
export async function findRows(sql: pg.Client, missing: readonly MissingRow[]): Promise<FoundRows> {
  const found = new FoundRows();
  for (const { table, id, columns, where } of missing) {
    const conditions = where.map(([name], at) => `${quoteIdentifier(name)} = $${at + 1}`).join(' AND ');
    const { rows } = await sql.query<Tuple[]>({
      text: `SELECT ${columns.map(quoteIdentifier).join(', ')} FROM ${quoteTable(table)} WHERE ${conditions}`,
      values: where.map(([, value]) => value),
      rowMode: 'array',
    } as never);
    found.add(id, (rows[0] as unknown as Tuple | undefined) ?? null);
  }
  return found;
}
