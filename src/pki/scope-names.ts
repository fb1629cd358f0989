/**
 * Scope names: what a certificate lets its holder follow at most, as URIs in the subject's alternative names, one for each
 * part: `tokaido-scope:DATABASE`, or `tokaido-scope:DATABASE/PREFIX` for keys that begin so; `*` for every database. Bytes
 * other than letters, digits and `-._~*` are percent-encoded. So every node that is followed can enforce it, whatever its
 * own configuration says, and a CA that is not ours can issue it.
 *
 * A certificate without such a name says nothing of it. One with a name that is not understood lets its holder see
 * nothing: to pass over it would be to give more than the CA meant. One may carry a commitment to such names instead
 * (`hidden-scope.ts`), alone: beside names it is not understood.
 */
import { TokaidoError, unreachable } from '../base/errors.js';

const SCHEME = 'tokaido-scope:';
/** Of a scope that is hidden. It has the scheme of names, and a form that none of them has. */
export const COMMITMENT = `${SCHEME}?sha256=`;
const COMMITMENT_FORM = /^tokaido-scope:\?sha256=[0-9a-f]{64}$/;
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

/** As `scopeName` takes it; of a commitment, that it is one. */
export function scopeText(name: string): string {
  if (COMMITMENT_FORM.test(name)) return 'hidden';
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

/** What a certificate says of the scope of its holder. */
export type ScopeInCertificate =
  | { readonly kind: 'unsaid' }
  | { readonly kind: 'named'; readonly names: readonly string[] }
  /** `name` commits to it. */
  | { readonly kind: 'hidden'; readonly name: string }
  | { readonly kind: 'malformed' };

/** Reads the alternative names of a certificate, as Node prints them. */
export function scopeIn(subjectAltName: string | undefined): ScopeInCertificate {
  // A scheme has no case: one in capitals is the same, in a form that is not understood.
  const found = (subjectAltName ?? '').split(', ').filter((name) => name.toLowerCase().includes(SCHEME));
  const [first] = found;
  if (first === undefined) return { kind: 'unsaid' };
  const names = found.map((name) => (name.startsWith('URI:') ? name.slice('URI:'.length) : ''));
  const [name = ''] = names;
  if (names.length === 1 && COMMITMENT_FORM.test(name)) return { kind: 'hidden', name };
  return areScopeNames(names) ? { kind: 'named', names } : { kind: 'malformed' };
}

/** Scope names as parts of a scope. */
export function partsOf(names: readonly string[]): readonly CertifiedPart[] {
  return names.map((name) => {
    const [, database = '', prefix] = FORM.exec(name) ?? [];
    return { databases: [decode(database).toString()], prefixes: prefix === undefined ? [] : [decode(prefix)] };
  });
}

/** What a certificate lets its holder see, as far as it can be read in it. */
export type CertifiedScope =
  | { readonly kind: 'unsaid' }
  /** Nothing at all when there are no parts. */
  | { readonly kind: 'parts'; readonly parts: readonly CertifiedPart[] }
  /** Nothing until its holder opens it. */
  | { readonly kind: 'hidden'; readonly name: string };

export function certifiedScope(subjectAltName: string | undefined): CertifiedScope {
  const scope = scopeIn(subjectAltName);
  if (scope.kind === 'malformed') return { kind: 'parts', parts: [] };
  return scope.kind === 'named' ? { kind: 'parts', parts: partsOf(scope.names) } : scope;
}

/** The names of a certificate that is renewed, in the form that they have. Errors: `IDENTITY` when they would not mean the same again. */
export function keptScope(subjectAltName: string | undefined): readonly string[] {
  const scope = scopeIn(subjectAltName);
  switch (scope.kind) {
    case 'unsaid':
      return [];
    case 'named':
      return scope.names;
    case 'hidden':
      return [scope.name];
    case 'malformed':
      throw new TokaidoError('IDENTITY', 'the certificate names a scope that is not understood: it is not renewed');
    default:
      return unreachable(scope);
  }
}
