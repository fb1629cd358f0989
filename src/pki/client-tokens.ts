/**
 * Tokens for clients without a certificate: 256 random bits, of which a file (0600) keeps the SHA-256 only. So much
 * randomness needs no slow hash: nobody can try it out, and a request costs a microsecond.
 *
 * A line of the file: NAME, the hash in hex, and optionally when the token ends (ISO 8601), parted by blanks; `#` begins a
 * comment.
 */
import { hash, randomBytes, timingSafeEqual } from 'node:crypto';
import { TokaidoError } from '../base/errors.js';

/** Says what it is to who finds one, and to programs that look for leaked secrets. */
const TOKEN_PREFIX = 'tokaido_';
const TOKEN_BYTES = 32;
/** Every token is compared for each request that brings one. */
export const MAX_TOKENS = 1000;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const HASH = /^[0-9a-f]{64}$/;

interface Entry {
  readonly name: string;
  readonly hash: Buffer;
  /** Ms since 1970; `Infinity` for a token without an end. */
  readonly endsMs: number;
}

function sha256(token: string): Buffer {
  return hash('sha256', token, 'buffer');
}

/** A new token, and its line for the file. `endsMs` is `undefined` for one without an end. Errors: `CONFIG`. */
export function makeToken(name: string, endsMs: number | undefined): { readonly token: string; readonly line: string } {
  if (!NAME.test(name)) {
    throw new TokaidoError('CONFIG', `${JSON.stringify(name)} is no name for a token`, {
      hint: 'use 1 to 63 of letters, digits, dot, dash and underscore, beginning with a letter or digit',
    });
  }
  const token = `${TOKEN_PREFIX}${randomBytes(TOKEN_BYTES).toString('base64url')}`;
  const end = endsMs === undefined ? '' : ` ${new Date(endsMs).toISOString()}`;
  return { token, line: `${name} ${sha256(token).toString('hex')}${end}` };
}

/** Tokens that are known, by their hashes. */
export class TokenTable {
  readonly #entries: readonly Entry[];

  constructor(entries: readonly Entry[]) {
    this.#entries = entries;
  }

  /** Errors: `CONFIG`, naming the line; never its content. */
  static parse(text: string, path: string): TokenTable {
    const entries: Entry[] = [];
    for (const [index, line] of text.split('\n').entries()) {
      const words = line.replace(/#.*/, '').trim().split(/\s+/);
      const [name = '', hex = '', end, ...more] = words;
      if (name === '') continue;
      const endsMs = end === undefined ? Number.POSITIVE_INFINITY : Date.parse(end);
      if (!NAME.test(name) || !HASH.test(hex) || Number.isNaN(endsMs) || more.length > 0) {
        throw new TokaidoError('CONFIG', `${path}:${index + 1}: not NAME HASH [END]`, {
          hint: 'add lines with `tokaido client-token`',
        });
      }
      if (entries.length === MAX_TOKENS) throw new TokaidoError('CONFIG', `${path}: more than ${MAX_TOKENS} tokens`);
      entries.push({ name, hash: Buffer.from(hex, 'hex'), endsMs });
    }
    return new TokenTable(entries);
  }

  get names(): readonly string[] {
    return this.#entries.map(({ name }) => name);
  }

  /** Whose token it is. How long it takes says nothing about how near a guess was. */
  nameOf(token: string, nowMs: number): string | undefined {
    const wanted = sha256(token);
    let found: Entry | undefined;
    for (const entry of this.#entries) if (timingSafeEqual(entry.hash, wanted)) found = entry;
    return found === undefined || found.endsMs <= nowMs ? undefined : found.name;
  }
}
