/**
 * Values as Postgres writes them in text, and what they become: bytes, JSON, or a time. Pure. JSON is put together as text
 * and never parsed into numbers, so that no digit of a number and no byte of a json column is lost.
 */
import { NEVER_EXPIRES } from '../../base/types.js';
import type { Value } from './pgoutput.js';

/** What is known of the types of one database beyond the built-in scalars. */
export interface TypeCatalog {
  /** Type under a domain, by the domain's oid. */
  readonly domains: ReadonlyMap<number, number>;
  /** Type of the elements and the character between them, by the array type's oid. */
  readonly arrays: ReadonlyMap<number, { readonly element: number; readonly delimiter: string }>;
}

/** Built-in types whose text form is not their value. */
export const OID = {
  bool: 16,
  bytea: 17,
  int8: 20,
  int2: 21,
  int4: 23,
  json: 114,
  float4: 700,
  float8: 701,
  date: 1082,
  timestamp: 1114,
  timestamptz: 1184,
  jsonb: 3802,
} as const;

/** Postgres nests arrays no deeper. */
export const MAX_DIMENSIONS = 6;

/** The type under any domains. */
export function baseType(typeOid: number, { domains }: TypeCatalog): number {
  let oid = typeOid;
  // A domain is made of types that were there before it: the chain ends.
  for (let under = domains.get(oid); under !== undefined; under = domains.get(oid)) oid = under;
  return oid;
}

/** Bytes of a value: bytea as it is, everything else as text. */
export function bytesOf(value: string | Buffer, typeOid: number): Buffer {
  if (typeof value !== 'string') return value;
  return typeOid === OID.bytea ? Buffer.from(value.slice(2), 'hex') : Buffer.from(value, 'utf8');
}

const TIME = /^(\d{4,6})(-\d\d-\d\d)(?: (\d\d:\d\d:\d\d(?:\.\d+)?))?([+-]\d\d(?::\d\d)?)?( BC)?$/;

/**
 * `2026-11-23 21:00:00.5+00` as ISO 8601, a year beyond 9999 in the form that JavaScript reads (`+010000-`). What ISO has
 * no form for (infinity, years before Christ) stays as it is.
 */
export function isoTime(value: string): string {
  const [, year, day, time, zone, beforeChrist] = TIME.exec(value) ?? [];
  if (year === undefined || beforeChrist !== undefined) return value;
  const date = `${year.length > 4 ? `+${year.padStart(6, '0')}` : year}${day}`;
  if (time === undefined) return date;
  const offset = zone === undefined ? '' : zone === '+00' ? 'Z' : zone.length === 3 ? `${zone}:00` : zone;
  return `${date}T${time}${offset}`;
}

/** The text that Postgres would have written; `null` for what is NULL or was not sent. */
export function textOrNull(value: Value): string | null {
  if (value == null || typeof value === 'string') return value ?? null;
  return `\\x${value.toString('hex')}`;
}

/** An expiration time in ms since 1970. A timestamp without a time zone is UTC; before 1970 is long past, so 1. */
export function expiryMs(value: string | null): number {
  if (value === null || value === 'infinity') return NEVER_EXPIRES;
  if (value === '-infinity' || value.endsWith(' BC')) return 1;
  const iso = isoTime(value);
  const ms = Date.parse(iso.includes('T') && !/(Z|[+-]\d\d:\d\d)$/.test(iso) ? `${iso}Z` : iso);
  // Postgres knows years that JavaScript does not: all of them are far in the future.
  if (Number.isNaN(ms)) return NEVER_EXPIRES;
  return Math.max(1, ms);
}

/** Types that an expiration time may have. */
export function isTime(typeOid: number): boolean {
  return typeOid === OID.timestamptz || typeOid === OID.timestamp || typeOid === OID.date;
}

/** A value as JSON text, without loss: what a JSON number cannot hold in every reader stays text. */
export function jsonText(raw: string | Buffer | null, typeOid: number, types: TypeCatalog): string {
  if (raw === null) return 'null';
  if (typeof raw !== 'string') return JSON.stringify(raw.toString('base64'));
  const value = raw;
  switch (baseType(typeOid, types)) {
    case OID.bool:
      return value === 't' ? 'true' : 'false';
    case OID.int2:
    case OID.int4:
    case OID.json:
    case OID.jsonb:
      return value;
    case OID.int8:
      return Number.isSafeInteger(Number(value)) ? value : JSON.stringify(value);
    case OID.float4:
    case OID.float8:
      return Number.isFinite(Number(value)) ? value : JSON.stringify(value);
    case OID.bytea:
      return JSON.stringify(bytesOf(value, OID.bytea).toString('base64'));
    case OID.timestamp:
    case OID.timestamptz:
      return JSON.stringify(isoTime(value));
    default: {
      const array = types.arrays.get(baseType(typeOid, types));
      if (array === undefined) return JSON.stringify(value);
      const items = arrayItems(value, array.delimiter);
      return items === undefined ? JSON.stringify(value) : jsonArray(items, array.element, types);
    }
  }
}

function jsonArray(items: Items, element: number, types: TypeCatalog): string {
  const texts = items.map((item) => {
    return typeof item === 'string' || item === null ? jsonText(item, element, types) : jsonArray(item, element, types);
  });
  return `[${texts.join(',')}]`;
}

/** An array's items: texts, NULLs, and arrays of them. */
export type Items = readonly (string | null | Items)[];

/** The items of `{1,NULL,"a \"b\""}`; `undefined` when it is not in that form. */
export function arrayItems(value: string, delimiter: string): Items | undefined {
  // Bounds other than 1 are written in front: `[0:1]={1,2}`.
  let at = value.startsWith('[') ? value.indexOf('=') + 1 : 0;
  const quoted = (): string => {
    let text = '';
    for (at++; at < value.length && value[at] !== '"'; at++) {
      if (value[at] === '\\') at++;
      text += value[at] ?? '';
    }
    at++;
    return text;
  };
  const bare = (): string | null => {
    const from = at;
    while (at < value.length && value[at] !== delimiter && value[at] !== '}') at++;
    const text = value.slice(from, at);
    return text === 'NULL' ? null : text;
  };
  const list = (depth: number): Items | undefined => {
    if (value[at] !== '{' || depth > MAX_DIMENSIONS) return undefined;
    const items: (string | null | Items)[] = [];
    at++;
    while (at < value.length && value[at] !== '}') {
      const next = value[at] === '{' ? list(depth + 1) : value[at] === '"' ? quoted() : bare();
      if (next === undefined) return undefined;
      items.push(next);
      if (value[at] === delimiter) at++;
    }
    at++;
    return items;
  };
  const items = list(1);
  return at === value.length ? items : undefined;
}

/** The members of a JSON object as the texts that they were written in; `undefined` when it is not an object. */
export function jsonMembers(object: string): Map<string, string> | undefined {
  try {
    const whole: unknown = JSON.parse(object);
    if (typeof whole !== 'object' || whole === null || Array.isArray(whole)) return undefined;
  } catch {
    return undefined;
  }
  const members = new Map<string, string>();
  let depth = 0;
  let from = 0;
  let name = '';
  for (let at = 0; at < object.length; at++) {
    const character = object[at] as string;
    if (character === '"') {
      const start = at;
      for (at++; object[at] !== '"'; at++) if (object[at] === '\\') at++;
      if (depth === 1 && name === '') name = object.slice(start, at + 1);
    } else if (character === '{' || character === '[') {
      if (depth++ === 0) from = at + 1;
    } else if (character === ':' && depth === 1) from = at + 1;
    else if (character === '}' || character === ']') depth--;
    const ended = (character === ',' && depth === 1) || (character === '}' && depth === 0);
    if (!ended || name === '') continue;
    members.set(JSON.parse(name) as string, object.slice(from, at).trim());
    name = '';
  }
  return members;
}

/** A JSON object of members that are JSON texts already. */
export function jsonObject(members: Iterable<readonly [string, string]>): Buffer {
  return Buffer.from(`{${[...members].map(([name, text]) => `${JSON.stringify(name)}:${text}`).join(',')}}`, 'utf8');
}
