/**
 * Rows to records: which key a row has, which value, and until when. Pure, so that every case of the data model can be
 * tested without a database. docs/postgres.md documents the forms.
 */
import { assert, messageOf, TokaidoError } from '../../base/errors.js';
import { NEVER_EXPIRES } from '../../base/types.js';
import type { StoreTransaction } from '../../store/types.js';
import type { Form } from './forms.js';
import { mapMembers, packMap, packValue } from './message-pack.js';
import type { Column, Tuple, Value } from './pgoutput.js';
import {
  arrayItems,
  baseType,
  bytesOf,
  expiryMs,
  isTime,
  jsonMembers,
  jsonObject,
  jsonText,
  MAX_DIMENSIONS,
  OID,
  type TypeCatalog,
  textOrNull,
} from './values.js';

/** One table's mapping, as configured. */
export interface TableMapping {
  /** `schema.table`. */
  readonly table: string;
  readonly database: string;
  /** Literal text and `{column}`. */
  readonly key: string;
  readonly value:
    | { readonly column: string }
    | { readonly json: 'all' | readonly string[] }
    | { readonly msgpack: 'all' | readonly string[] }
    | {
        readonly module: string;
        readonly function: string;
        /** Of the module's text; and the function. Set once it is loaded (functions.ts). */
        readonly mark?: string;
        readonly run?: RowFunction;
      };
  /** `after` is added to the column, ms. */
  readonly expires?: { readonly column: string; readonly after?: number | undefined } | undefined;
  /** A row has no record while this column is neither NULL nor false. */
  readonly deleted?: { readonly column: string } | undefined;
  /** Array column of the key: the row has a record for each of its elements. */
  readonly each?: string | undefined;
}

/** A row for a function: texts as Postgres writes them, `bytea` as bytes. */
export type Row = Readonly<Record<string, string | Buffer | null>>;
/** Makes a record's value; `null` for no record. Synchronous, and the same for the same row. */
export type RowFunction = (row: Row) => string | Uint8Array | null;

/** The latest expiration time that a record can have, ms since 1970. */
const MAX_XT_MS = 2 ** 48 - 1;

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

/** A row whose large value neither came with its change nor is in the store: its record had expired. */
export interface MissingRow {
  readonly table: string;
  /** Table and key, to find the row again when it was asked for. */
  readonly id: string;
  /** Columns to ask for, in the order of the tuple wanted. */
  readonly columns: readonly string[];
  /** Columns of the key and their values. */
  readonly where: readonly (readonly [string, string])[];
}

/** Rows that were asked for. Each is as old as the question: good for the transaction that asked, not for later ones. */
export class FoundRows {
  readonly #rows = new Map<string, Tuple | null>();
  readonly #used = new Set<string>();

  /** `null` says that there is no such row any more. */
  add(id: string, row: Tuple | null): void {
    this.#rows.set(id, row);
  }

  /** `undefined` when it was not asked for. */
  use(id: string): Tuple | null | undefined {
    const row = this.#rows.get(id);
    if (row !== undefined) this.#used.add(id);
    return row;
  }

  forgetUsed(): void {
    for (const id of this.#used) this.#rows.delete(id);
    this.#used.clear();
  }
}

/** What one row change does to the store; runs inside the store's transaction. Adds to `missing` what must be asked for. */
export type RowChange = (transaction: StoreTransaction, missing: MissingRow[], found: FoundRows) => void;

/** Counts what could not be mapped; for status. */
export interface MappingCounters {
  /** Rows whose key has a NULL: they have no key, so they are absent. */
  nullKeys: number;
}

/** A record as a row has it. */
export interface MappedRecord {
  readonly key: Buffer;
  readonly value: Buffer;
  readonly xtMs: number;
}

/** A part of a key template: bytes as they are, or a column, or the elements of one. */
type BoundPart =
  | { readonly literal: Buffer }
  | { readonly column: number; readonly typeOid: number; readonly isElement: boolean };

const NO_KEYS: Buffer[] = [];

/** A mapping bound to the columns that its table has right now. */
export class BoundMapping {
  readonly database: string;
  /** For each column, the form in which its values may come: text is good for all of them, too. */
  readonly forms: readonly Form[];
  readonly #template: readonly BoundPart[];
  readonly #mapping: TableMapping;
  readonly #columns: readonly Column[];
  readonly #types: TypeCatalog;
  readonly #index: ReadonlyMap<string, number>;
  readonly #counters: MappingCounters;
  readonly #each: { readonly index: number; readonly delimiter: string; readonly element: number } | undefined;

  /** Errors: `FEED` when the table lacks a column that the mapping names, or one is of the wrong type. */
  constructor(mapping: TableMapping, columns: readonly Column[], types: TypeCatalog, counters: MappingCounters) {
    this.#mapping = mapping;
    this.database = mapping.database;
    this.#columns = columns;
    this.#types = types;
    this.#index = new Map(columns.map(({ name }, index) => [name, index]));
    this.#counters = counters;
    for (const name of columnsOf(mapping)) {
      if (this.#index.has(name)) continue;
      throw new TokaidoError('FEED', `table ${mapping.table} has no column ${name}, which its mapping names`, {
        hint: `it has ${columns.map((column) => column.name).join(', ')}; generated columns are not replicated`,
      });
    }
    this.#each = mapping.each === undefined ? undefined : this.#arrayOf(mapping.each);
    this.#template = parseTemplate(mapping.key).map((part) => this.#bind(part));
    this.forms = columns.map(({ name }) => this.#formOf(name));
    const expires = mapping.expires?.column;
    if (expires !== undefined && !isTime(this.#typeOf(expires))) {
      throw new TokaidoError(
        'FEED',
        `column ${expires} of table ${mapping.table} is no time that records could expire at`,
        {
          hint: 'expires needs a column of type timestamptz, timestamp (taken as UTC) or date',
        },
      );
    }
  }

  #bind(part: Part): BoundPart {
    if ('literal' in part) return { literal: Buffer.from(part.literal, 'utf8') };
    const isElement = part.column === this.#mapping.each;
    const typeOid = isElement ? baseType(this.#each?.element ?? 0, this.#types) : this.#typeOf(part.column);
    return { column: this.#index.get(part.column) as number, typeOid, isElement };
  }

  #formOf(column: string): Form {
    const { key, value, each, expires, deleted } = this.#mapping;
    if (column === each || column === expires?.column || column === deleted?.column) return 'text';
    const isValue = 'column' in value && value.column === column;
    if (!('column' in value) && hasMember(value, column)) return 'text';
    if (!isValue && !keyColumns(key).includes(column)) return 'none';
    return this.#typeOf(column) === OID.bytea ? 'hex' : 'bytes';
  }

  #value(row: Tuple, column: string): Value {
    return row[this.#index.get(column) as number];
  }

  #typeOf(column: string): number {
    return baseType((this.#columns[this.#index.get(column) as number] as Column).typeOid, this.#types);
  }

  #arrayOf(column: string): { readonly index: number; readonly delimiter: string; readonly element: number } {
    const array = this.#types.arrays.get(this.#typeOf(column));
    if (array !== undefined) return { index: this.#index.get(column) as number, ...array };
    throw new TokaidoError('FEED', `column ${column} of table ${this.#mapping.table} is no array`, {
      hint: 'each needs an array column, such as text[]',
    });
  }

  /** Keys of a row's records; none when a column of the key is NULL or was not sent, or the row counts as deleted. */
  keys(row: Tuple): Buffer[] {
    return this.#isDeleted(row) ? [] : this.#allKeys(row);
  }

  /** Also those of a row that counts as deleted. */
  #allKeys(row: Tuple): Buffer[] {
    const each = this.#each;
    if (each === undefined) return this.#keyOf(row, undefined);
    const value = textOrNull(row[each.index]);
    const items = value === null ? [] : (arrayItems(value, each.delimiter) ?? []).flat(MAX_DIMENSIONS);
    const elements = new Set(items.filter((item) => typeof item === 'string'));
    return [...elements].flatMap((element) => this.#keyOf(row, element));
  }

  /** One key, or none. `element` stands for the array column. */
  #keyOf(row: Tuple, element: string | undefined): Buffer[] {
    const parts: Buffer[] = [];
    for (const part of this.#template) {
      if ('literal' in part) {
        parts.push(part.literal);
        continue;
      }
      const value = element !== undefined && part.isElement ? element : row[part.column];
      if (value == null) return NO_KEYS;
      parts.push(bytesOf(value, part.typeOid));
    }
    return parts.length === 1 ? parts : [Buffer.concat(parts)];
  }

  #isDeleted(row: Tuple): boolean {
    const column = this.#mapping.deleted?.column;
    if (column === undefined) return false;
    const value = this.#value(row, column);
    return value != null && !(value === 'f' && this.#typeOf(column) === OID.bool);
  }

  /** What a whole row becomes, or why it becomes nothing. */
  records(row: Tuple): readonly MappedRecord[] | 'no key' | 'no value' | 'deleted' {
    if (this.#isDeleted(row)) return 'deleted';
    const keys = this.#allKeys(row);
    if (keys.length === 0) return 'no key';
    const value = this.#valueOf(row, undefined);
    if (value === null || typeof value === 'function') return 'no value';
    const xtMs = this.#expiry(row);
    return keys.map((key) => ({ key, value, xtMs }));
  }

  #expiry(row: Tuple): number {
    const { column, after = 0 } = this.#mapping.expires ?? {};
    if (column === undefined) return NEVER_EXPIRES;
    const xtMs = expiryMs(textOrNull(this.#value(row, column)));
    return xtMs === NEVER_EXPIRES ? xtMs : Math.min(xtMs + after, MAX_XT_MS);
  }

  /** An insert, or an update with what is known of the row before it. */
  put(after: Tuple, before?: Tuple): RowChange {
    const whole =
      before === undefined ? after : after.map((value, index) => (value === undefined ? before[index] : value));
    const allKeys = this.#allKeys(whole);
    const keys = this.#isDeleted(whole) ? NO_KEYS : allKeys;
    const wasKeys = before === undefined ? allKeys : [...this.#allKeys(before), ...allKeys];
    const gone = wasKeys === keys ? NO_KEYS : wasKeys.filter((old) => !keys.some((key) => key.equals(old)));
    if (allKeys.length === 0 && this.#each === undefined) this.#counters.nullKeys++;
    const value = this.#valueOf(after, before);
    const xtMs = this.#expiry(after);
    return (transaction, missing, found) => {
      const stored = typeof value === 'function' ? value(this.#stored(transaction, wasKeys)) : value;
      for (const key of gone) transaction.remove(this.database, key);
      for (const key of keys) {
        const known = stored === undefined ? this.#ask(key, after, before, missing, found) : stored;
        if (known === undefined) continue;
        if (known === null) transaction.remove(this.database, key);
        else transaction.set(this.database, key, known, xtMs);
      }
    };
  }

  /** The value of a row that was asked for; `undefined` until it was, `null` when the row is gone. */
  #ask(
    key: Buffer,
    after: Tuple,
    before: Tuple | undefined,
    missing: MissingRow[],
    found: FoundRows,
  ): Buffer | null | undefined {
    const { table } = this.#mapping;
    const id = `${table} ${key.toString('latin1')}`;
    const row = found.use(id);
    if (row === undefined) {
      const where = keyColumns(this.#mapping.key).map((name) => {
        const value = this.#value(after, name) ?? (before === undefined ? undefined : this.#value(before, name));
        return [name, this.#textOf(name, value) ?? ''] as const;
      });
      missing.push({ table, id, columns: this.#columns.map(({ name }) => name), where });
      return undefined;
    }
    const value = row === null ? null : this.#valueOf(row, undefined);
    return typeof value === 'function' ? null : value;
  }

  /** The text of a value that may have come as bytes. */
  #textOf(column: string, value: Value): string | null {
    const isText = this.#typeOf(column) !== OID.bytea;
    return isText && typeof value === 'object' && value !== null ? value.toString('utf8') : textOrNull(value);
  }

  /** The record as it is before a change: under an old key, or under a new one when a part is applied again. */
  #stored(transaction: StoreTransaction, keys: readonly Buffer[]): Buffer | undefined {
    for (const key of keys) {
      const record = transaction.get(this.database, key);
      // A copy on purpose: the view is valid until the next call only.
      if (record !== undefined) return Buffer.from(record.value);
    }
    return undefined;
  }

  remove(before: Tuple): RowChange {
    const keys = this.#allKeys(before);
    return (transaction) => {
      for (const key of keys) transaction.remove(this.database, key);
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
      if (text === undefined) return (stored) => stored;
      return text === null ? null : bytesOf(text, this.#typeOf(value.column));
    }
    if ('module' in value) return this.#madeOf(value, sent);
    if ('json' in value) {
      const text = (raw: string | Buffer | null, oid: number): string => jsonText(raw, oid, this.#types);
      return this.#membersOf(value.json, sent, text, jsonObject, (stored) => jsonMembers(stored.toString('utf8')));
    }
    const packed = (raw: string | Buffer | null, oid: number): Buffer => packValue(raw, oid, this.#types);
    return this.#membersOf(value.msgpack, sent, packed, packMap, mapMembers);
  }

  /** A value of several columns; those that were not sent are taken from the record as it is. */
  #membersOf<T>(
    columns: 'all' | readonly string[],
    sent: (index: number) => Value,
    encode: (value: string | Buffer | null, typeOid: number) => T,
    join: (members: ReadonlyMap<string, T>) => Buffer,
    split: (stored: Buffer) => ReadonlyMap<string, T> | undefined,
  ): Buffer | ((stored: Buffer | undefined) => Buffer | undefined) {
    const wanted = columns === 'all' ? this.#columns.map(({ name }) => name) : columns;
    const members = new Map<string, T>();
    const unsent: string[] = [];
    for (const name of wanted) {
      const text = sent(this.#index.get(name) as number);
      if (text === undefined) unsent.push(name);
      // Set all the same: it keeps its place among the members.
      members.set(name, encode(text ?? null, this.#typeOf(name)));
    }
    if (unsent.length === 0) return join(members);
    return (stored) => {
      const old = stored === undefined ? undefined : split(stored);
      for (const name of unsent) {
        const text = old?.get(name);
        if (text === undefined) return undefined;
        members.set(name, text);
      }
      return join(members);
    };
  }

  /** What the operator's function makes of the row; a row that is not whole has to be asked for. Errors: `FEED`. */
  #madeOf(
    { run, module }: Extract<TableMapping['value'], { readonly module: string }>,
    sent: (index: number) => Value,
  ): Buffer | null | (() => undefined) {
    const row: Record<string, string | Buffer | null> = {};
    for (const [index, { name, typeOid }] of this.#columns.entries()) {
      const text = sent(index);
      if (text === undefined) return () => undefined;
      const isBytes = text !== null && baseType(typeOid, this.#types) === OID.bytea;
      row[name] = isBytes ? bytesOf(text, OID.bytea) : text;
    }
    assert(run !== undefined, 'functions are loaded before rows are mapped');
    let made: unknown;
    try {
      made = run(row);
    } catch (error) {
      throw new TokaidoError('FEED', `the function of table ${this.#mapping.table} failed: ${messageOf(error)}`, {
        hint: `mend ${module}, and restart the root`,
        cause: error,
      });
    }
    if (made === null) return null;
    if (typeof made === 'string') return Buffer.from(made, 'utf8');
    if (made instanceof Uint8Array) return Buffer.from(made);
    throw new TokaidoError('FEED', `the function of table ${this.#mapping.table} made neither text, bytes nor null`, {
      hint: `mend ${module}, and restart the root`,
    });
  }
}

/** `{ schema, name }` of `schema.table`. Errors: `CONFIG`. */
export function splitTable(table: string): { readonly schema: string; readonly name: string } {
  const [schema, name, ...rest] = table.split('.');
  if (!schema || !name || rest.length > 0) {
    throw new TokaidoError('CONFIG', `${table} is not SCHEMA.TABLE`, { hint: 'write public.my_table' });
  }
  return { schema, name };
}

/** Columns that a key template names. */
export function keyColumns(template: string): string[] {
  return parseTemplate(template).flatMap((part) => ('column' in part ? [part.column] : []));
}

/** Columns that decide which keys a row has. */
export function columnsOfKeys({ key, deleted }: TableMapping): string[] {
  return [...keyColumns(key), ...(deleted === undefined ? [] : [deleted.column])];
}

/** Whether a value of several columns has this one. */
function hasMember(value: Exclude<TableMapping['value'], { readonly column: string }>, column: string): boolean {
  if ('module' in value) return true;
  const members = 'json' in value ? value.json : value.msgpack;
  return members === 'all' || members.includes(column);
}

function columnsOf({ key, value, expires, deleted }: TableMapping): string[] {
  const lists =
    'json' in value ? value.json : 'msgpack' in value ? value.msgpack : 'column' in value ? [value.column] : [];
  const others = [expires?.column, deleted?.column].filter((name) => name !== undefined);
  return [...keyColumns(key), ...(lists === 'all' ? [] : lists), ...others];
}

/** The text that all keys of a template begin with. */
export function literalPrefix(template: string): Buffer {
  const [first] = parseTemplate(template);
  return Buffer.from(first !== undefined && 'literal' in first ? first.literal : '', 'utf8');
}

/**
 * Errors: `CONFIG` for names and templates that cannot be, when the keys of two rows or tables could be the same, or a
 * truncate of one table would remove the other's records.
 */
export function checkMappings(mappings: readonly TableMapping[]): void {
  for (const [index, mapping] of mappings.entries()) {
    splitTable(mapping.table);
    if (keyColumns(mapping.key).length === 0) {
      throw new TokaidoError(
        'CONFIG',
        `the key template of ${mapping.table} names no column: all rows would have one key`,
      );
    }
    if (mapping.each !== undefined && !keyColumns(mapping.key).includes(mapping.each)) {
      throw new TokaidoError('CONFIG', `the key template of ${mapping.table} does not name ${mapping.each}`, {
        hint: `each: ${mapping.each} makes a record for every element: put {${mapping.each}} into the key`,
      });
    }
    const parts = parseTemplate(mapping.key);
    if (parts.some((part, at) => 'column' in part && 'column' in (parts[at + 1] ?? { literal: '' }))) {
      throw new TokaidoError(
        'CONFIG',
        `the key template of ${mapping.table} puts two columns side by side: two rows could have one key`,
        { hint: 'put text between them that they do not contain, such as {zone}/{name}' },
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
