/** Looks at tables as the feed would, without a node and without changing anything: for `tokaido pg check` and `preview`. */
import type pg from 'pg';
import { messageOf, TokaidoError } from '../../base/errors.js';
import { type BinaryTypes, loadBinaryTypes } from './binary/types.js';
import { selectFrom } from './copy.js';
import { BoundMapping, type MappedRecord, type TableMapping } from './mapping.js';
import type { Tuple } from './pgoutput.js';
import { checkServer, checkTable, loadTypes, quoteTable, type SetupConfig } from './setup.js';
import { describeColumns, describeTables, type PublishedTable } from './tables.js';
import { type TypeCatalog, textOrNull } from './values.js';

/** A mistake, and what mends it. */
export interface Problem {
  readonly message: string;
  readonly hint: string | undefined;
}

/** A row, and what it becomes. */
export interface Sample {
  readonly row: Readonly<Record<string, string | null>>;
  readonly records: readonly MappedRecord[] | 'no key' | 'no value' | 'deleted';
}

export interface TableReport {
  readonly mapping: TableMapping;
  /** Rows, as Postgres estimates them; `undefined` when it never looked. */
  readonly rows: number | undefined;
  readonly columns: readonly string[];
  /** Condition of the publication that rows must meet. */
  readonly filter: string | undefined;
  readonly isPartitioned: boolean;
  readonly isPublished: boolean;
  /** Columns that are not read in binary form, where that is asked for: because of them all values come as text. */
  readonly asText: readonly string[];
  readonly samples: readonly Sample[];
  readonly problems: readonly Problem[];
}

function problemOf(error: unknown): Problem {
  return { message: messageOf(error), hint: error instanceof TokaidoError ? error.hint : undefined };
}

/** The table as it is published, or, before there is a publication, as it would be. */
export async function findTable(
  sql: pg.Client,
  publication: string,
  mapping: TableMapping,
): Promise<{ readonly table: PublishedTable; readonly isPublished: boolean }> {
  try {
    const [table] = await describeTables(sql, publication, [mapping]);
    if (table !== undefined) return { table, isPublished: true };
  } catch (error) {
    if (!(error instanceof TokaidoError)) throw error;
  }
  const { rows } = await sql.query<{ oid: string; kind: string }>(
    `SELECT oid, relkind AS kind FROM pg_class WHERE oid = to_regclass($1)`,
    [quoteTable(mapping.table)],
  );
  if (rows[0] === undefined) throw new TokaidoError('FEED', `there is no table ${mapping.table}`);
  const table = {
    mapping,
    oid: Number(rows[0].oid),
    columns: await describeColumns(sql, mapping.table),
    filter: undefined,
    isPartitioned: rows[0].kind === 'p',
    fingerprint: 0n,
  };
  return { table, isPublished: false };
}

/** Some rows, and what each becomes. */
export async function sampleRows(
  sql: pg.Client,
  table: PublishedTable,
  types: TypeCatalog,
  limit: number,
): Promise<Sample[]> {
  const bound = new BoundMapping(table.mapping, table.columns, types, { nullKeys: 0 });
  const where = table.filter === undefined ? '' : ` WHERE (${table.filter})`;
  const { rows } = await sql.query({
    text: `${selectFrom(table)}${where} LIMIT ${limit}`,
    rowMode: 'array',
  } as never);
  return (rows as unknown as Tuple[]).map((tuple) => ({
    row: Object.fromEntries(table.columns.map(({ name }, at) => [name, textOrNull(tuple[at])])),
    records: bound.records(tuple),
  }));
}

/** Everything that would stop the feed, not only the first of it, and what it would make of the rows there are. */
export async function inspect(
  sql: pg.Client,
  config: SetupConfig & { readonly binary: boolean },
  samples: number,
): Promise<{ readonly problems: readonly Problem[]; readonly tables: readonly TableReport[] }> {
  const problems: Problem[] = [];
  await checkServer(sql, { ...config, tables: [] }).catch((error: unknown) => problems.push(problemOf(error)));
  const types = await loadTypes(sql);
  const binary = config.binary ? await loadBinaryTypes(sql) : undefined;
  const tables: TableReport[] = [];
  for (const mapping of config.tables)
    tables.push(await inspectTable(sql, config, mapping, { types, binary }, samples));
  return { problems, tables };
}

async function inspectTable(
  sql: pg.Client,
  { publication }: SetupConfig,
  mapping: TableMapping,
  { types, binary }: { readonly types: TypeCatalog; readonly binary: BinaryTypes | undefined },
  limit: number,
): Promise<TableReport> {
  const problems: Problem[] = [];
  await checkTable(sql, mapping).catch((error: unknown) => problems.push(problemOf(error)));
  const nothing = {
    mapping,
    rows: undefined,
    columns: [],
    filter: undefined,
    isPartitioned: false,
    isPublished: false,
    asText: [],
  };
  try {
    const { table, isPublished } = await findTable(sql, publication, mapping);
    const { rows } = await sql.query<{ rows: string }>('SELECT reltuples AS rows FROM pg_class WHERE oid = $1', [
      table.oid,
    ]);
    const estimate = Number(rows[0]?.rows ?? -1);
    const report = {
      mapping,
      rows: estimate < 0 ? undefined : estimate,
      columns: table.columns.map(({ name }) => name),
      filter: table.filter,
      isPartitioned: table.isPartitioned,
      isPublished,
      asText: binary?.unreadable(table.columns) ?? [],
    };
    try {
      return { ...report, samples: await sampleRows(sql, table, types, limit), problems };
    } catch (error) {
      return { ...report, samples: [], problems: [...problems, problemOf(error)] };
    }
  } catch (error) {
    if (problems.length === 0) problems.push(problemOf(error));
    return { ...nothing, samples: [], problems };
  }
}
