/**
 * JSON lines as a feed reads them: one line is one transaction, an object or an array of them. docs/feeds.md has the
 * forms. Pure.
 */
import { TokaidoError } from '../../base/errors.js';
import { NEVER_EXPIRES } from '../../base/types.js';

/** What one object of a line does. */
export type LineChange =
  | {
      readonly kind: 'set';
      readonly database: string;
      readonly key: Buffer;
      readonly value: Buffer;
      readonly xtMs: number;
    }
  | { readonly kind: 'remove' | 'clear'; readonly database: string; readonly key: Buffer };

const VALUES = ['value', 'base64', 'json'] as const;
const MEMBERS = new Set(['set', 'remove', 'clear', 'database', 'expires', ...VALUES]);
/** The latest expiration time that a record can have, ms since 1970. */
const MAX_XT_MS = 2 ** 48 - 1;

function malformed(message: string): TokaidoError {
  return new TokaidoError('MALFORMED', message, { hint: 'docs/feeds.md has the forms of a line' });
}

/** Changes of a line, in order; none for a blank one. `database` is where they go that name none. Errors: `MALFORMED`. */
export function parseLine(line: string, database: string): LineChange[] {
  if (line.trim() === '') return [];
  let parsed: unknown;
  try {
    parsed = JSON.parse(line);
  } catch {
    throw malformed('a line is not JSON');
  }
  return (Array.isArray(parsed) ? parsed : [parsed]).map((object) => changeOf(object, database));
}

function changeOf(object: unknown, fallback: string): LineChange {
  if (typeof object !== 'object' || object === null || Array.isArray(object)) throw malformed('a change is no object');
  const members = object as Readonly<Record<string, unknown>>;
  const unknown = Object.keys(members).find((name) => !MEMBERS.has(name));
  if (unknown !== undefined) throw malformed(`a change has a member ${JSON.stringify(unknown)} that means nothing`);
  const kinds = (['set', 'remove', 'clear'] as const).filter((kind) => members[kind] !== undefined);
  const [kind] = kinds;
  if (kind === undefined || kinds.length > 1) throw malformed('a change has to have one of set, remove and clear');
  const key = textOf(members, kind);
  const database = members.database === undefined ? fallback : textOf(members, 'database').toString('utf8');
  if (kind === 'set') return { kind, database, key, value: bytesOf(members), xtMs: expiryOf(members.expires) };
  const extra = [...VALUES, 'expires'].find((name) => members[name] !== undefined);
  if (extra !== undefined) throw malformed(`${kind} takes no ${extra}`);
  return { kind, database, key };
}

function textOf(members: Readonly<Record<string, unknown>>, name: string): Buffer {
  const text = members[name];
  if (typeof text !== 'string') throw malformed(`${name} has to be text`);
  return Buffer.from(text, 'utf8');
}

function bytesOf(members: Readonly<Record<string, unknown>>): Buffer {
  const given = VALUES.filter((name) => members[name] !== undefined);
  const [form] = given;
  if (form === undefined || given.length > 1) throw malformed('set takes one of value, base64 and json');
  if (form === 'json') return Buffer.from(JSON.stringify(members.json), 'utf8');
  const text = textOf(members, form);
  if (form === 'value') return text;
  const bytes = Buffer.from(text.toString('latin1'), 'base64');
  if (bytes.toString('base64').replace(/=+$/, '') !== text.toString('latin1').replace(/=+$/, ''))
    throw malformed('base64 is not Base64');
  return bytes;
}

/** A date in ISO 8601, or ms since 1970; the past has expired at once. */
function expiryOf(expires: unknown): number {
  if (expires === undefined || expires === null) return NEVER_EXPIRES;
  const ms = typeof expires === 'number' ? expires : typeof expires === 'string' ? Date.parse(expires) : Number.NaN;
  if (!Number.isFinite(ms)) throw malformed('expires is neither a date nor milliseconds since 1970');
  return Math.min(MAX_XT_MS, Math.max(1, Math.ceil(ms)));
}
