/**
 * memcached's meta commands (`mg`, `ms`, `md`, `ma`, `me`): a line to a request. Pure. A flag that this server cannot
 * mean what it says is refused by name: `E` (a unique id of the client's own), `h` and `l` (which would make every read
 * a write).
 */
import type { Line, MemcachedRequest } from './memcached.js';
import { BAD_CHUNK, BAD_FORMAT, clientError } from './memcached-replies.js';
import { flagsOf, integerOf, isTooLong, lengthOf, textOf, uniqueOf } from './memcached-words.js';

/** What every meta command has. */
interface MetaBase {
  readonly kind: 'meta';
  readonly key: Buffer;
  /** Flags in the order of their coming, each with its token: what is echoed in the answer. */
  readonly flags: readonly string[];
  /** The key as it was sent, for `k`: with `b` it is Base64 of the key. */
  readonly sentKey: string;
  readonly quiet: boolean;
  /** The record must have this unique id. */
  readonly compare: bigint | undefined;
}

export interface MetaGet extends MetaBase {
  readonly command: 'mg';
  readonly wantsValue: boolean;
  /** New expiration time for a hit, as sent. */
  readonly touch: number | undefined;
  /** Expiration time of the empty record that a miss makes, as sent. */
  readonly vivify: number | undefined;
  /** A record with fewer seconds left is to be made anew by whoever asks first. */
  readonly recache: number | undefined;
}

export interface MetaSet extends MetaBase {
  readonly command: 'ms';
  readonly mode: 'set' | 'add' | 'replace' | 'append' | 'prepend';
  readonly clientFlags: number;
  readonly exptime: number;
  readonly vivify: number | undefined;
  /** An older unique id stores the record too, marked as stale. */
  readonly invalidate: boolean;
  readonly value: Buffer;
}

export interface MetaDelete extends MetaBase {
  readonly command: 'md';
  /** Marks as stale instead of removing. */
  readonly invalidate: boolean;
  readonly touch: number | undefined;
  /** Empties instead of removing. */
  readonly empties: boolean;
}

export interface MetaCount extends MetaBase {
  readonly command: 'ma';
  readonly direction: 'incr' | 'decr';
  readonly by: bigint;
  readonly initial: bigint;
  readonly vivify: number | undefined;
  readonly touch: number | undefined;
  readonly wantsValue: boolean;
}

export interface MetaDebug extends MetaBase {
  readonly command: 'me';
}

export type MetaRequest = MetaGet | MetaSet | MetaDelete | MetaCount | MetaDebug;
export type MetaCommand = MetaRequest['command'];

/** Flags that each command knows. `P` and `L` are for proxies, and ignored. */
const KNOWN: Readonly<Record<MetaCommand, string>> = {
  mg: 'bcCfkOqstuvNRTPL',
  ms: 'bcCFIkOqsTMNPL',
  md: 'bCIkOqTxPL',
  ma: 'bCNJDTMOqtcvkPL',
  me: 'b',
};
const UNKEPT: Readonly<Record<string, string>> = {
  E: 'unique ids are versions of records here and cannot be chosen (E)',
  h: 'hits are not kept (h)',
  l: 'the time of the last access is not kept (l)',
};
const MAX_FLAGS = 20;
const MAX_OPAQUE_BYTES = 32;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

const MODES: Readonly<Record<string, MetaSet['mode']>> = {
  S: 'set',
  E: 'add',
  R: 'replace',
  A: 'append',
  P: 'prepend',
};
const DIRECTIONS: Readonly<Record<string, MetaCount['direction']>> = {
  I: 'incr',
  '+': 'incr',
  D: 'decr',
  '-': 'decr',
};

/** A flag that is wrong, as the answer to it. */
class Wrong extends Error {
  readonly answer: Buffer;

  constructor(answer: Buffer) {
    super('a malformed meta command');
    this.answer = answer;
  }
}

/** Tokens of the flags by their letter, read on demand. */
class Flags {
  readonly all: readonly string[];
  readonly #tokens = new Map<string, string>();

  constructor(command: MetaCommand, words: readonly Buffer[]) {
    if (words.length > MAX_FLAGS) throw new Wrong(clientError('options flags are too long'));
    this.all = words.map(textOf);
    for (const flag of this.all) {
      const letter = flag[0] as string;
      if (UNKEPT[letter] !== undefined && command !== 'me') throw new Wrong(clientError(UNKEPT[letter]));
      if (!KNOWN[command].includes(letter)) throw new Wrong(clientError('invalid flag'));
      if (this.#tokens.has(letter)) throw new Wrong(clientError('duplicate flag'));
      this.#tokens.set(letter, flag.slice(1));
    }
    if ((this.#tokens.get('O')?.length ?? 0) > MAX_OPAQUE_BYTES) throw new Wrong(clientError('opaque token too long'));
  }

  has(letter: string): boolean {
    return this.#tokens.has(letter);
  }

  /** The token of a flag in its form, `undefined` without the flag. */
  read<T>(letter: string, form: (token: string) => T | undefined): T | undefined {
    const token = this.#tokens.get(letter);
    if (token === undefined) return undefined;
    const value = form(token);
    if (value === undefined) throw new Wrong(clientError('bad token in command line format'));
    return value;
  }

  mode<T>(modes: Readonly<Record<string, T>>, fallback: T): T {
    const token = this.#tokens.get('M');
    if (token === undefined) return fallback;
    const mode = Object.hasOwn(modes, token) ? modes[token] : undefined;
    if (mode === undefined) throw new Wrong(clientError('invalid mode'));
    return mode;
  }
}

/** Words of the line, the command included. */
export function parseMeta(command: MetaCommand, words: readonly Buffer[]): Line {
  const word = words[2];
  const hasLength = command === 'ms' && word !== undefined;
  const valueBytes = hasLength ? lengthOf(textOf(word)) : undefined;
  try {
    if (words.length < 2 || isTooLong(words[1] as Buffer)) throw new Wrong(BAD_FORMAT);
    // Without a length, what follows is the next line.
    if (command === 'ms' && !hasLength) throw new Wrong(BAD_CHUNK);
    const flags = new Flags(command, words.slice(command === 'ms' ? 3 : 2));
    const base = baseOf(words[1] as Buffer, flags);
    if (command !== 'ms') return { request: requestOf(command, base, flags) };
    const set = setOf(base, flags);
    return { valueBytes, finish: (value): MemcachedRequest => ({ ...set, value }) };
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    if (valueBytes !== undefined) return { refused: error.answer, valueBytes };
    return { request: { kind: 'wrong', answer: error.answer, last: hasLength } };
  }
}

function baseOf(sent: Buffer, flags: Flags): MetaBase {
  const sentKey = textOf(sent);
  if (flags.has('b') && !BASE64.test(sentKey)) throw new Wrong(clientError('error decoding key'));
  const key = flags.has('b') ? Buffer.from(sentKey, 'base64') : sent;
  if (key.length === 0) throw new Wrong(clientError('error decoding key'));
  return {
    kind: 'meta',
    key,
    flags: flags.all,
    sentKey,
    quiet: flags.has('q'),
    compare: flags.read('C', uniqueOf),
  };
}

function setOf(base: MetaBase, flags: Flags): Omit<MetaSet, 'value'> {
  return {
    ...base,
    command: 'ms',
    mode: flags.mode(MODES, 'set'),
    clientFlags: flags.read('F', flagsOf) ?? 0,
    exptime: flags.read('T', integerOf) ?? 0,
    vivify: flags.read('N', integerOf),
    invalidate: flags.has('I'),
  };
}

function requestOf(command: Exclude<MetaCommand, 'ms'>, base: MetaBase, flags: Flags): MetaRequest {
  const touch = flags.read('T', integerOf);
  const vivify = flags.read('N', integerOf);
  switch (command) {
    case 'mg': {
      const recache = flags.read('R', integerOf);
      return { ...base, command, wantsValue: flags.has('v'), touch, vivify, recache };
    }
    case 'md':
      return { ...base, command, invalidate: flags.has('I'), touch, empties: flags.has('x') };
    case 'ma':
      return {
        ...base,
        command,
        direction: flags.mode(DIRECTIONS, 'incr'),
        by: flags.read('D', uniqueOf) ?? 1n,
        initial: flags.read('J', uniqueOf) ?? 0n,
        vivify,
        touch,
        wantsValue: flags.has('v'),
      };
    default:
      return { ...base, command };
  }
}
