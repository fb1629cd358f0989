/**
 * Scope names: what a certificate lets its holder follow at most, as URIs in the subject's alternative names, one for each
 * part: `tokaido-scope:DATABASE`, or `tokaido-scope:DATABASE/PREFIX` for keys that begin so; `*` for every database. Bytes
 * other than letters, digits and `-._~*` are percent-encoded. So every node that is followed can enforce it, whatever its
 * own configuration says, and a CA that is not ours can issue it.
 *
 * A certificate without such a name says nothing of it. One with a name that is not understood lets its holder see
 * nothing: to pass over it would be to give more than the CA meant.
 */
import { TokaidoError } from '../base/errors.js';

const SCHEME = 'tokaido-scope:';
const FORM = /^tokaido-scope:((?:[A-Za-z0-9._~*-]|%[0-9A-F]{2})+)(?:\/((?:[A-Za-z0-9._~*-]|%[0-9A-F]{2})+))?$/;
/** Of one certificate: it crosses the wire in every handshake. */
const MAX_NAMES = 64;
const MAX_BYTES = 4096;

/** Part of a scope, in the form that replication takes. */
export interface CertifiedPart {
  readonly databases: readonly string[];
  /** Every key without any. */
  readonly prefixes: readonly Buffer[];
}

function encode(bytes: Buffer): string {
  return [...bytes]
    .map((byte) => {
      const letter = String.fromCharCode(byte);
      return /[A-Za-z0-9._~*-]/.test(letter) ? letter : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
    })
    .join('');
}

function decode(text: string): Buffer {
  const latin = text.replace(/%([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return Buffer.from(latin, 'latin1');
}

/** The name for a part as people write it: `DATABASE` or `DATABASE/PREFIX`. Errors: `CONFIG`. */
export function scopeName(text: string): string {
  const at = text.indexOf('/');
  const [database, prefix] = at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
  if (database === '' || prefix === '') {
    throw new TokaidoError('CONFIG', `${JSON.stringify(text)} is not part of a scope`, {
      hint: "use DATABASE, DATABASE/PREFIX, or '*' for every database",
    });
  }
  const rest = prefix === undefined ? '' : `/${encode(Buffer.from(prefix))}`;
  return `${SCHEME}${encode(Buffer.from(database))}${rest}`;
}

/** As `scopeName` takes it. */
export function scopeText(name: string): string {
  const [, database = '', prefix] = FORM.exec(name) ?? [];
  const rest = prefix === undefined ? '' : `/${decode(prefix).toString()}`;
  return `${decode(database).toString()}${rest}`;
}

/** Whether a certificate may carry these names. */
export function areScopeNames(names: unknown): names is readonly string[] {
  if (!Array.isArray(names) || names.length === 0 || names.length > MAX_NAMES) return false;
  return names.every((name) => typeof name === 'string' && FORM.test(name)) && names.join().length <= MAX_BYTES;
}

/** Errors: `CONFIG`. */
export function scopeNames(texts: readonly string[]): readonly string[] {
  const names = texts.map(scopeName);
  if (areScopeNames(names)) return names;
  throw new TokaidoError(
    'CONFIG',
    `a certificate has room for ${MAX_NAMES} parts of a scope, ${MAX_BYTES} bytes in all`,
    {
      hint: 'put larger scopes into replication.scopes',
    },
  );
}

/**
 * The scope names of a certificate, as Node prints its alternative names; `undefined` when there is none, and `malformed`
 * when one is not understood.
 */
export function scopeNamesOf(subjectAltName: string | undefined): readonly string[] | 'malformed' | undefined {
  const found = (subjectAltName ?? '').split(', ').filter((name) => name.includes(SCHEME));
  if (found.length === 0) return undefined;
  const names = found.map((name) => (name.startsWith('URI:') ? name.slice('URI:'.length) : ''));
  return areScopeNames(names) ? names : 'malformed';
}

/** What a certificate lets its holder see: nothing at all is an empty list, `undefined` that it says nothing of it. */
export function certifiedScope(subjectAltName: string | undefined): readonly CertifiedPart[] | undefined {
  const names = scopeNamesOf(subjectAltName);
  if (names === undefined || names === 'malformed') return names === undefined ? undefined : [];
  return names.map((name) => {
    const [, database = '', prefix] = FORM.exec(name) ?? [];
    return { databases: [decode(database).toString()], prefixes: prefix === undefined ? [] : [decode(prefix)] };
  });
}

/** The names of a certificate that is renewed. Errors: `IDENTITY` when they would not mean the same again. */
export function keptScope(subjectAltName: string | undefined): readonly string[] {
  const names = scopeNamesOf(subjectAltName);
  if (names !== 'malformed') return names ?? [];
  throw new TokaidoError('IDENTITY', 'the certificate names a scope that is not understood: it is not renewed');
}
