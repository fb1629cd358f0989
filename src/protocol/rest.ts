/** REST: `GET`, `HEAD`, `PUT` and `DELETE` of `/KEY` or `/DATABASE/KEY`, as Kyoto Tycoon defines them. Pure translation. */
import type { TokaidoError } from '../base/errors.js';
import { PROTOCOL_ERRORS } from './errors.js';
import { dateFromXt, xtFromDate } from './expiry.js';
import type { HttpReply, HttpRequest } from './http.js';
import { decodePercent } from './percent.js';

/** `X-Kt-Mode`: store whatever was there, only a new record, or only over an existing one. */
export type PutMode = 'set' | 'add' | 'replace';

/** What a request asks for. */
export type RestCommand =
  | { readonly kind: 'get' | 'head' | 'remove'; readonly database: string | undefined; readonly key: Buffer }
  | {
      readonly kind: 'put';
      readonly database: string | undefined;
      readonly key: Buffer;
      readonly value: Buffer;
      readonly mode: PutMode;
      readonly xtMs: number;
    }
  | { readonly kind: 'unknown' };

export function parseRest({ method, target, headers, body }: HttpRequest): RestCommand {
  const query = target.indexOf('?');
  const path = target.slice(target.startsWith('/') ? 1 : 0, query < 0 ? undefined : query);
  const slash = path.indexOf('/');
  const database = slash < 0 ? undefined : decodePercent(path.slice(0, slash)).toString('utf8');
  // Between a database and a key there may be two slashes: keys that begin with one escape it.
  const start = path[slash + 1] === '/' ? slash + 2 : slash + 1;
  const key = decodePercent(slash < 0 ? path : path.slice(start));
  switch (method) {
    case 'GET':
      return { kind: 'get', database, key };
    case 'HEAD':
      return { kind: 'head', database, key };
    case 'DELETE':
      return { kind: 'remove', database, key };
    case 'PUT': {
      const wanted = headers.get('x-kt-mode')?.toLowerCase();
      const mode = wanted === 'add' || wanted === 'replace' ? wanted : 'set';
      const xt = headers.get('x-kt-xt');
      return { kind: 'put', database, key, value: body, mode, xtMs: xt === undefined ? 0 : xtFromDate(xt) };
    }
    default:
      return { kind: 'unknown' };
  }
}

/** The entity tag of a record: its version, which no other record of that key ever had. */
export function entityTag(versionNs: bigint, sid: number): string {
  return `"${versionNs.toString(16)}-${sid.toString(16)}"`;
}

/** `If-Match` and `If-None-Match` of a request. Tags are compared as they are; `*` stands for any record. */
export interface Conditions {
  readonly match: readonly string[] | undefined;
  readonly noneMatch: readonly string[] | undefined;
}

/** `undefined` for a request without conditions. */
export function parseConditions({ headers }: HttpRequest): Conditions | undefined {
  const match = headers.get('if-match');
  const noneMatch = headers.get('if-none-match');
  if (match === undefined && noneMatch === undefined) return undefined;
  // A weak tag never matches strongly, but a cache that weakened ours still holds the same bytes.
  return { match: tagsOf(match), noneMatch: tagsOf(noneMatch)?.map((tag) => tag.replace(/^W\//, '')) };
}

function tagsOf(header: string | undefined): readonly string[] | undefined {
  return header?.match(/(?:W\/)?"[^"]*"|\*/g) ?? (header === undefined ? undefined : []);
}

/** Which condition fails for a record with this tag (`undefined`: there is no record). */
export function failedCondition(
  { match, noneMatch }: Conditions,
  tag: string | undefined,
): keyof Conditions | undefined {
  const isAmong = (tags: readonly string[]): boolean => tag !== undefined && (tags.includes('*') || tags.includes(tag));
  if (match !== undefined && !isAmong(match)) return 'match';
  if (noneMatch !== undefined && isAmong(noneMatch)) return 'noneMatch';
  return undefined;
}

export const PRECONDITION_FAILED: HttpReply = { status: 412 };

export function recordReply(value: Buffer, xtMs: number, isHead: boolean, tag?: string): HttpReply {
  const headers: Record<string, string> = xtMs === 0 ? {} : { 'X-Kt-Xt': dateFromXt(xtMs) };
  if (tag !== undefined) headers.ETag = tag;
  return isHead ? { status: 200, headers, announcedBytes: value.length } : { status: 200, headers, body: value };
}

/** An error in HTTP's form: Kyoto Tycoon's header where it has one, our words in the body where it has none. */
export function errorReply(error: TokaidoError, isHead = false): HttpReply {
  const { http, kt } = PROTOCOL_ERRORS[error.code];
  if (error.code === 'NO_RECORD' || error.code === 'DUPLICATE_RECORD') {
    return { status: http, headers: { 'X-Kt-Error': `DB: ${kt}: ${kt.slice(kt.indexOf(' ') + 1)}` } };
  }
  const hint = error.hint === undefined ? '' : `${error.hint}\n`;
  const body = Buffer.from(`${error.message}\n${hint}`);
  const headers: Record<string, string> = {
    'Content-Type': 'text/plain; charset=utf-8',
    'X-Tokaido-Error': error.code,
  };
  if (http === 503) headers['Retry-After'] = '1';
  if (http === 401) headers['WWW-Authenticate'] = 'Bearer';
  return isHead ? { status: http, headers, announcedBytes: body.length } : { status: http, headers, body };
}
