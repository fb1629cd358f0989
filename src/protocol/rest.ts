/** REST: `GET`, `HEAD`, `PUT` and `DELETE` of `/KEY` or `/DATABASE/KEY`, as Kyoto Tycoon defines them. Pure translation. */
import type { TokaidoError } from '../base/errors.js';
import { PROTOCOL_ERRORS } from './errors.js';
import { dateFromXt, xtFromDate } from './expiry.js';
import type { HttpReply, HttpRequest } from './http.js';

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

/** Percent-decoding to bytes; a stray `%` stands for itself, as in the reference. */
export function decodePercent(text: string): Buffer {
  if (!text.includes('%')) return Buffer.from(text, 'latin1');
  return Buffer.from(
    text.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
    'latin1',
  );
}

export function parseRest({ method, target, headers, body }: HttpRequest): RestCommand {
  const query = target.indexOf('?');
  const path = (query < 0 ? target : target.slice(0, query)).replace(/^\//, '');
  const slash = path.indexOf('/');
  const database = slash < 0 ? undefined : decodePercent(path.slice(0, slash)).toString('utf8');
  const key = decodePercent(slash < 0 ? path : path.slice(slash + 1));
  switch (method) {
    case 'GET':
      return { kind: 'get', database, key };
    case 'HEAD':
      return { kind: 'head', database, key };
    case 'DELETE':
      return { kind: 'remove', database, key };
    case 'PUT': {
      const wanted = headers.get('x-kt-mode');
      const mode = wanted === 'add' || wanted === 'replace' ? wanted : 'set';
      const xt = headers.get('x-kt-xt');
      return { kind: 'put', database, key, value: body, mode, xtMs: xt === undefined ? 0 : xtFromDate(xt) };
    }
    default:
      return { kind: 'unknown' };
  }
}

export function recordReply(value: Buffer, xtMs: number, isHead: boolean): HttpReply {
  const headers = xtMs === 0 ? {} : { 'X-Kt-Xt': dateFromXt(xtMs) };
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
  return isHead ? { status: http, headers, announcedBytes: body.length } : { status: http, headers, body };
}
