/**
 * Rows to records: which key a row has, which value, and until when. Pure, so that every case of the data model can be
 * tested without a database. docs/postgres.md documents the forms.
 */
import { TokaidoError } from '../../base/errors.js';
import { NEVER_EXPIRES } from '../../base/types.js';
import type { StoreTransaction } from '../../store/types.js';
import type { Column, Tuple, Value } from './pgoutput.js';

/** One table's mapping, as configured. */
export interface TableMapping {
  /** `schema.table`. */
  readonly table: string;
  readonly database: string;
  /** Literal text and `{column}`. */
  readonly key: string;
  readonly value: { readonly column: string } | { readonly json: 'all' | readonly string[] };
  readonly expires?: { readonly column: string } | undefined;
}

/** Built-in types whose text form is not their value. */
const OID = {
  bool: 16,
  bytea: 17,
  int8: 20,
  int2: 21,
  int4: 23,
  json: 114,
  float4: 700,
  float8: 701,
  timestamp: 1114,
  timestamptz: 1184,
  jsonb: 3802,
};

type Part = { readonly literal: string } | { readonly column: string };

function parseTemplate(template: string): Part[] {
  const parts: Part[] = [];
  for (const [whole, column] of template.matchAll(/\{([^{}]*)\}|[^{}]+|[{}]/g)) {
    if (whole === '{' || whole === '}' || column === '') {
      throw new TokaidoError('CONFIG', `the key template ${JSON.stringify(template)} has a brace without its partner`);
    }
    parts.push(column === undefined ? { literal: whole } : { column });
  }
  return parts;
}

/** Bytes of a value: bytea as it is, everything else as text. */
function bytesOf(value: string, typeOid: number): Buffer {
  return typeOid === OID.bytea ? Buffer.from(value.slice(2), 'hex') : Buffer.from(value, 'utf8');
}

/** `2026-11-23 21:00:00.5+00` as ISO 8601. */
function isoTime(value: string): string {
  return value.replace(' ', 'T').replace(/([+-]\d\d)$/, (zone) => (zone === '+00' ? 'Z' : `${zone}:00`));
}

/** A value in JSON without loss: what a JSON number cannot hold exactly stays text. */
export function jsonOf(value: string | null, typeOid: number): unknown {
  if (value === null) return null;
  switch (typeOid) {
    case OID.bool:
      return value === 't';
    case OID.int2:
    case OID.int4:
      return Number(value);
    case OID.int8:
      return Number.isSafeInteger(Number(value)) ? Number(value) : value;
    case OID.float4:
    case OID.float8:
      return Number.isFinite(Number(value)) ? Number(value) : value;
    case OID.json:
    case OID.jsonb:
      return JSON.parse(value);
    case OID.bytea:
      return Buffer.from(value.slice(2), 'hex').toString('base64');
    case OID.timestamp:
    case OID.timestamptz:
      return isoTime(value);
    default:
      return value;
  }
}

/** What one row change does to the store; runs inside the store's transaction. */
export type RowChange = (transaction: StoreTransaction) => void;

/** Counts what could not be mapped; for status. */
export interface MappingCounters {
  /** Rows whose key has a NULL: they have no key, so they are absent. */
  nullKeys: number;
  /** Changes that did not carry a large value and met no record to take it from. */
  missingValues: number;
}

/** A mapping bound to the columns that its table has right now. */
export class BoundMapping {
  readonly database: string;
  readonly #template: readonly Part[];
  readonly #mapping: TableMapping;
  readonly #columns: readonly Column[];
  readonly #index: ReadonlyMap<string, number>;
  readonly #counters: MappingCounters;

  /** Errors: `FEED` when the table lacks a column that the mapping names. */
  constructor(mapping: TableMapping, columns: readonly Column[], counters: MappingCounters) {
    this.#mapping = mapping;
    this.database = mapping.database;
    this.#columns = columns;
    this.#index = new Map(columns.map(({ name }, index) => [name, index]));
    this.#template = parseTemplate(mapping.key);
    this.#counters = counters;
    for (const name of columnsOf(mapping)) {
      if (this.#index.has(name)) continue;
      throw new TokaidoError('FEED', `table ${mapping.table} has no column ${name}, which its mapping names`, {
        hint: `it has ${columns.map((column) => column.name).join(', ')}`,
      });
    }
  }

  #value(row: Tuple, column: string): Value {
    return row[this.#index.get(column) as number];
  }

  #typeOf(column: string): number {
    return (this.#columns[this.#index.get(column) as number] as Column).typeOid;
  }

  /** `undefined` when a column of the key is NULL or was not sent. */
  key(row: Tuple): Buffer | undefined {
    const parts: Buffer[] = [];
    for (const part of this.#template) {
      if ('literal' in part) {
        parts.push(Buffer.from(part.literal, 'utf8'));
        continue;
      }
      const value = this.#value(row, part.column);
      if (value == null) return undefined;
      parts.push(bytesOf(value, this.#typeOf(part.column)));
    }
    return Buffer.concat(parts);
  }

  #expiry(row: Tuple): number {
    const column = this.#mapping.expires?.column;
    const value = column === undefined ? null : this.#value(row, column);
    if (value == null || value === 'infinity') return NEVER_EXPIRES;
    const ms = Date.parse(isoTime(value));
    // Before 1970, or -infinity: long past.
    return Number.isNaN(ms) || ms < 1 ? 1 : ms;
  }

  /** An insert, or an update with what is known of the row before it. */
  put(after: Tuple, before?: Tuple): RowChange {
    const key = this.key(after.map((value, index) => (value === undefined ? before?.[index] : value)));
    const oldKey = before === undefined ? undefined : this.key(before);
    const moved = oldKey !== undefined && (key === undefined || !oldKey.equals(key));
    if (key === undefined) this.#counters.nullKeys++;
    const value = this.#valueOf(after, before);
    const xtMs = this.#expiry(after);
    return (transaction) => {
      const known =
        typeof value === 'function'
          ? value(transaction.get(this.database, oldKey ?? key ?? Buffer.alloc(0))?.value)
          : value;
      if (moved) transaction.remove(this.database, oldKey);
      if (key === undefined) return;
      if (known === undefined) this.#counters.missingValues++;
      if (known == null) transaction.remove(this.database, key);
      else transaction.set(this.database, key, known, xtMs);
    };
  }

  remove(before: Tuple): RowChange {
    const key = this.key(before);
    return (transaction) => {
      if (key !== undefined) transaction.remove(this.database, key);
    };
  }

  clear(): RowChange {
    const prefix = literalPrefix(this.#mapping.key);
    return (transaction) => transaction.clear(this.database, prefix);
  }

  /**
   * The record's value; `null` when the row has none. A large value that did not change is not sent: then the value is
   * made from the record as it is, which a function does once it is known.
   */
  #valueOf(
    after: Tuple,
    before: Tuple | undefined,
  ): Buffer | null | ((stored: Buffer | undefined) => Buffer | undefined) {
    const { value } = this.#mapping;
    const sent = (index: number): Value => (after[index] === undefined ? (before?.[index] ?? undefined) : after[index]);
    if ('column' in value) {
      const text = sent(this.#index.get(value.column) as number);
      if (text === undefined) return (stored) => (stored === undefined ? undefined : Buffer.from(stored));
      return text === null ? null : bytesOf(text, this.#typeOf(value.column));
    }
    const wanted = value.json === 'all' ? this.#columns.map(({ name }) => name) : value.json;
    const object: Record<string, unknown> = {};
    const unsent: string[] = [];
    for (const name of wanted) {
      const text = sent(this.#index.get(name) as number);
      object[name] = text === undefined ? undefined : jsonOf(text, this.#typeOf(name));
      if (text === undefined) unsent.push(name);
    }
    if (unsent.length === 0) return Buffer.from(JSON.stringify(object));
    return (stored) => {
      if (stored === undefined) return undefined;
      const old = JSON.parse(stored.toString('utf8')) as Record<string, unknown>;
      for (const name of unsent) object[name] = old[name];
      return Buffer.from(JSON.stringify(object));
    };
  }
}

/** Columns that a key template names. */
export function keyColumns(template: string): string[] {
  return parseTemplate(template).flatMap((part) => ('column' in part ? [part.column] : []));
}

function columnsOf({ key, value, expires }: TableMapping): string[] {
  const valueColumns = 'column' in value ? [value.column] : value.json === 'all' ? [] : value.json;
  return [...keyColumns(key), ...valueColumns, ...(expires === undefined ? [] : [expires.column])];
}

/** The text that all keys of a template begin with. */
export function literalPrefix(template: string): Buffer {
  const [first] = parseTemplate(template);
  return Buffer.from(first !== undefined && 'literal' in first ? first.literal : '', 'utf8');
}

/** Errors: `CONFIG` when the keys of two tables could be the same, or a truncate of one would remove the other's. */
export function checkMappings(mappings: readonly TableMapping[]): void {
  for (const [index, mapping] of mappings.entries()) {
    if (keyColumns(mapping.key).length === 0) {
      throw new TokaidoError(
        'CONFIG',
        `the key template of ${mapping.table} names no column: all rows would have one key`,
      );
    }
    const prefix = literalPrefix(mapping.key).toString('utf8');
    for (const other of mappings.slice(index + 1)) {
      const otherPrefix = literalPrefix(other.key).toString('utf8');
      const overlap = prefix.startsWith(otherPrefix) || otherPrefix.startsWith(prefix);
      if (mapping.database === other.database && overlap) {
        throw new TokaidoError(
          'CONFIG',
          `${mapping.table} and ${other.table} share database ${mapping.database} and their keys could collide`,
          {
            hint: 'give their key templates different literal beginnings (dns/{...}, tickets/{...}), or use two databases',
          },
        );
      }
    }
  }
}
