/**
 * The types of one database in the binary form of `pgoutput`: which of them can be read, and how. The stream has one form
 * for all of its columns, so a feed takes the binary form only when each type that is published can be read here, or has
 * no binary form at all: that Postgres sends as text by itself. What comes out is the very text that Postgres would have
 * sent, except of `bytea`, whose bytes stay bytes.
 */
import type pg from 'pg';
import { messageOf } from '../../../base/errors.js';
import type { Column } from '../pgoutput.js';
import { Undecodable } from './numbers.js';
import { type Decode, SCALARS } from './scalars.js';

/** Reads the binary form of one column. Errors: `Undecodable`. */
export type ReadValue = (bytes: Buffer) => string | Buffer;

/** Of a type. */
export interface BinaryType {
  /** Name of its send function; `undefined` when it has none. */
  readonly send: string | undefined;
  /** Type under a domain; 0 for others. */
  readonly base: number;
  /** Types of an array's elements, of a range's bounds, of a multirange's ranges, of a row's columns. */
  readonly parts: readonly number[];
  /** What stands between such elements in an array. */
  readonly delimiter: string;
}

/** `typdelim` of an element is what its array is written with. Only functions of Postgres itself are known by name. */
const TYPES = `
  SELECT t.oid, t.typdelim AS delimiter, t.typbasetype AS base,
         CASE WHEN n.nspname = 'pg_catalog' OR p.proname = 'citextsend' THEN p.proname ELSE p.oid::text END AS send,
         concat_ws(',', CASE WHEN p.proname = 'array_send' THEN t.typelem END, r.rngsubtype,
                   m.rngtypid, (SELECT string_agg(a.atttypid::text, ',') FROM pg_attribute a
                                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
                                  AND NOT a.attisdropped)) AS parts
  FROM pg_type t LEFT JOIN pg_proc p ON p.oid = t.typsend LEFT JOIN pg_namespace n ON n.oid = p.pronamespace
  LEFT JOIN pg_range r ON r.rngtypid = t.oid LEFT JOIN pg_range m ON m.rngmultitypid = t.oid`;

interface TypeRow {
  readonly oid: string;
  readonly delimiter: string;
  readonly base: string;
  readonly send: string | null;
  readonly parts: string;
}

export async function loadBinaryTypes(sql: pg.Client): Promise<BinaryTypes> {
  const { rows } = await sql.query<TypeRow>(TYPES);
  return new BinaryTypes(
    new Map(
      rows.map(({ oid, delimiter, base, send, parts }) => [
        Number(oid),
        {
          send: send ?? undefined,
          delimiter,
          base: Number(base),
          parts: parts === '' ? [] : parts.split(',').map(Number),
        },
      ]),
    ),
  );
}

const BYTEA = 'byteasend';
/** Types are made of others no deeper. */
const MAX_DEPTH = 32;

export class BinaryTypes {
  readonly #types: ReadonlyMap<number, BinaryType>;
  readonly #decoders = new Map<number, Decode | undefined>();

  constructor(types: ReadonlyMap<number, BinaryType>) {
    this.#types = types;
  }

  /** Columns that would come in a binary form which nobody here can read. */
  unreadable(columns: readonly Column[]): readonly string[] {
    return columns
      .filter(({ typeOid }) => this.#send(typeOid) !== undefined && !this.#isReadable(typeOid, MAX_DEPTH))
      .map(({ name }) => name);
  }

  /** For each column; `undefined` where it cannot be read. */
  readers(columns: readonly Column[]): readonly (ReadValue | undefined)[] {
    return columns.map(({ typeOid }) => {
      if (this.#send(typeOid) === BYTEA) return (bytes) => bytes;
      const decode = this.#isReadable(typeOid, MAX_DEPTH) ? this.#decoder(typeOid) : undefined;
      return decode === undefined ? undefined : guarded(decode);
    });
  }

  /** Domains are what is under them. */
  #type(typeOid: number): BinaryType | undefined {
    let type = this.#types.get(typeOid);
    while (type !== undefined && type.base !== 0) type = this.#types.get(type.base);
    return type;
  }

  #send(typeOid: number): string | undefined {
    return this.#type(typeOid)?.send;
  }

  #isReadable(typeOid: number, depth: number): boolean {
    const type = this.#type(typeOid);
    if (type?.send === undefined || depth === 0) return false;
    const isKnown = Object.hasOwn(SCALARS, type.send) || Object.hasOwn(CONTAINERS, type.send);
    return isKnown && type.parts.every((part) => this.#isReadable(part, depth - 1));
  }

  /** Of one value, as the text that stands inside others. Errors: `Undecodable` for types that came later. */
  #decoder(typeOid: number): Decode {
    let decode = this.#decoders.get(typeOid);
    if (decode !== undefined) return decode;
    const type = this.#type(typeOid);
    const { send = '' } = type ?? {};
    const container = Object.hasOwn(CONTAINERS, send) ? CONTAINERS[send] : undefined;
    if (type !== undefined && container !== undefined)
      decode = container(
        type,
        (oid) => this.#decoder(oid),
        (oid) => this.#types.get(oid),
      );
    else decode = Object.hasOwn(SCALARS, send) ? SCALARS[send] : undefined;
    if (decode === undefined) throw new Undecodable(`a value of type ${typeOid}`);
    this.#decoders.set(typeOid, decode);
    return decode;
  }
}

/** What is too short for its type is `Undecodable`, too. */
function guarded(decode: Decode): Decode {
  return (bytes) => {
    try {
      return decode(bytes);
    } catch (error) {
      if (error instanceof Undecodable) throw error;
      throw new Undecodable(messageOf(error));
    }
  };
}

type Container = (
  type: BinaryType,
  decoder: (typeOid: number) => Decode,
  typeOf: (typeOid: number) => BinaryType | undefined,
) => Decode;

/** Postgres nests arrays no deeper. */
const MAX_DIMENSIONS = 6;
const NULL_LENGTH = -1;

/** A length and as many bytes, at a place; `null` for NULL. */
function part(bytes: Buffer, at: number, decode: Decode): { readonly text: string | null; readonly end: number } {
  const length = bytes.readInt32BE(at);
  if (length === NULL_LENGTH) return { text: null, end: at + 4 };
  const end = at + 4 + length;
  if (length < 0 || end > bytes.length) throw new Undecodable(`a part of ${length} bytes`);
  return { text: decode(bytes.subarray(at + 4, end)), end };
}

const array: Container = ({ parts: [element = 0] }, decoder, typeOf) => {
  const decode = decoder(element);
  const delimiter = typeOf(element)?.delimiter ?? ',';
  return (bytes) => {
    const dimensions = bytes.readInt32BE(0);
    if (dimensions === 0) return '{}';
    if (dimensions < 0 || dimensions > MAX_DIMENSIONS) throw new Undecodable(`an array of ${dimensions} dimensions`);
    const sizes = Array.from({ length: dimensions }, (_, index) => bytes.readInt32BE(12 + 8 * index));
    const bounds = Array.from({ length: dimensions }, (_, index) => bytes.readInt32BE(16 + 8 * index));
    let at = 12 + 8 * dimensions;
    const list = (dimension: number): string => {
      const items: string[] = [];
      for (let left = sizes[dimension] as number; left > 0; left--) {
        if (dimension + 1 < dimensions) {
          items.push(list(dimension + 1));
          continue;
        }
        const { text, end } = part(bytes, at, decode);
        at = end;
        items.push(text === null ? 'NULL' : item(text, delimiter));
      }
      return `{${items.join(delimiter)}}`;
    };
    const text = list(0);
    if (bounds.every((bound) => bound === 1)) return text;
    return `${bounds.map((bound, index) => `[${bound}:${bound + (sizes[index] as number) - 1}]`).join('')}=${text}`;
  };
};

/** A text inside an array, in quotes where it would be taken for something else. */
function item(text: string, delimiter: string): string {
  const isPlain = text !== '' && !/["\\{} \t\n\r\v\f]/.test(text) && !text.includes(delimiter) && !/^null$/i.test(text);
  return isPlain ? text : `"${text.replace(/["\\]/g, '\\$&')}"`;
}

/** A text inside a row or a range. */
function member(text: string, special: RegExp): string {
  return text !== '' && !special.test(text) ? text : `"${text.replace(/["\\]/g, '$&$&')}"`;
}

/** A row says which types it is made of. */
const row: Container = (_, decoder) => (bytes) => {
  const members: string[] = [];
  let at = 4;
  for (let left = bytes.readInt32BE(0); left > 0; left--) {
    const { text, end } = part(bytes, at + 4, (value) => decoder(bytes.readUInt32BE(at))(value));
    at = end;
    members.push(text === null ? '' : member(text, /["\\(), \t\n\r\v\f]/));
  }
  return `(${members.join(',')})`;
};

const RANGE = { isEmpty: 1, hasLower: 2, hasUpper: 4, noLower: 8, noUpper: 16 } as const;

const range: Container = ({ parts: [bound = 0] }, decoder) => {
  const decode = decoder(bound);
  return (bytes) => {
    const flags = bytes.readUInt8(0);
    if ((flags & RANGE.isEmpty) !== 0) return 'empty';
    let at = 1;
    const end = (isOpen: number): string => {
      if ((flags & isOpen) !== 0) return '';
      const found = part(bytes, at, decode);
      at = found.end;
      return member(found.text ?? '', /["\\()[\], \t\n\r\v\f]/);
    };
    const [lower, upper] = [end(RANGE.noLower), end(RANGE.noUpper)];
    return `${flags & RANGE.hasLower ? '[' : '('}${lower},${upper}${flags & RANGE.hasUpper ? ']' : ')'}`;
  };
};

const multirange: Container = ({ parts: [ranges = 0] }, decoder) => {
  const decode = decoder(ranges);
  return (bytes) => {
    const texts: string[] = [];
    let at = 4;
    for (let left = bytes.readInt32BE(0); left > 0; left--) {
      const { text, end } = part(bytes, at, decode);
      at = end;
      texts.push(text ?? '');
    }
    return `{${texts.join(',')}}`;
  };
};

/** By the name of the send function. */
const CONTAINERS: Readonly<Record<string, Container>> = {
  array_send: array,
  record_send: row,
  range_send: range,
  multirange_send: multirange,
};
