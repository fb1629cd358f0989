/**
 * memcached's text protocol: bytes to requests. Pure. A request is a line, and for the storage commands a block of
 * data behind it. Whatever is wrong with a request becomes a request too (`wrong`), with the line that the client gets
 * for it, so that answers keep their order; only where it cannot be known any more where the next request begins, the
 * connection ends with that answer. The meta commands are read in `memcached-meta.ts`, answers are in
 * `memcached-replies.ts`. Source: memcached's protocol.txt; for names and limits also what memcached 1.6 does.
 */
import { EMPTY } from '../base/bytes.js';
import { type MetaRequest, parseMeta } from './memcached-meta.js';
import {
  BAD_CHUNK,
  BAD_DELTA,
  BAD_EXPTIME,
  BAD_FORMAT,
  BINARY,
  ERROR,
  INVALID_PARAMETERS,
  LINE_TOO_LONG,
  VALUE_TOO_LARGE,
} from './memcached-replies.js';
import { flagsOf, integerOf, isTooLong, lengthOf, textOf, uniqueOf, wordsOf } from './memcached-words.js';

export type StoreMode = 'set' | 'add' | 'replace' | 'append' | 'prepend' | 'cas';

export interface StoreRequest {
  readonly kind: 'store';
  readonly mode: StoreMode;
  readonly key: Buffer;
  readonly flags: number;
  /** As sent; see `xtFromExptime`. */
  readonly exptime: number;
  readonly value: Buffer;
  /** What the record must be, for `cas`. */
  readonly unique: bigint;
  readonly quiet: boolean;
}

export type MemcachedRequest =
  | StoreRequest
  | MetaRequest
  | { readonly kind: 'get'; readonly keys: readonly Buffer[]; readonly withCas: boolean }
  | {
      readonly kind: 'get-and-touch';
      readonly keys: readonly Buffer[];
      readonly exptime: number;
      readonly withCas: boolean;
    }
  | { readonly kind: 'delete'; readonly key: Buffer; readonly quiet: boolean }
  | {
      readonly kind: 'count';
      readonly direction: 'incr' | 'decr';
      readonly key: Buffer;
      readonly by: bigint;
      readonly quiet: boolean;
    }
  | { readonly kind: 'touch'; readonly key: Buffer; readonly exptime: number; readonly quiet: boolean }
  | { readonly kind: 'flush'; readonly delay: number; readonly quiet: boolean }
  | { readonly kind: 'stats'; readonly what: string }
  | { readonly kind: 'verbosity'; readonly quiet: boolean }
  | { readonly kind: 'version' | 'quit' | 'no-op' }
  /** What the client gets for it; `last` when the connection ends with it. */
  | { readonly kind: 'wrong'; readonly answer: Buffer; readonly last: boolean };

export type MemcachedParse =
  | { readonly kind: 'request'; readonly request: MemcachedRequest; readonly bytes: number }
  /** Bytes that belong to a request refused before: they are thrown away. */
  | { readonly kind: 'skipped'; readonly bytes: number }
  | { readonly kind: 'incomplete' };

/** Longest line, bytes: a get of a thousand of the longest keys. */
export const MAX_LINE_BYTES = 256 * 1024;
/** A block of refused data up to this size is read past; beyond, the connection ends. */
export const MAX_SKIPPED_BYTES = 64 * 1024 * 1024;

const NEWLINE = 0x0a;
const RETURN = 0x0d;
const BINARY_MAGIC = 0x80;
/** A browser can be made to send its request to any port: none of its lines may become a command. */
const HTTP_METHOD = /^(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE)$/;

/** A line whose data has not come yet. */
interface Pending {
  readonly lineBytes: number;
  readonly valueBytes: number;
  finish(value: Buffer): MemcachedRequest;
}

/** What a line asks for: a request, or one that needs data. */
export type Line =
  | { readonly request: MemcachedRequest }
  /** `valueBytes` `undefined` is a length that makes no sense. */
  | { readonly valueBytes: number | undefined; finish(value: Buffer): MemcachedRequest }
  /** Refused, together with the data that follows. */
  | { readonly refused: Buffer; readonly valueBytes: number };

function wrong(answer: Buffer, last = false): MemcachedRequest {
  return { kind: 'wrong', answer, last };
}

/** Continues one request as its bytes come in: looks at no byte of a line twice. */
export class MemcachedDecoder {
  readonly #valueBytes: number;
  #scanned = 0;
  #pending: Pending | undefined;
  /** Bytes still to be thrown away; or all up to the end of the line. */
  #skip: number | 'line' = 0;

  /** `valueBytes`: largest value. */
  constructor({ valueBytes }: { readonly valueBytes: number }) {
    this.#valueBytes = valueBytes;
  }

  /** Whether the middle of a request is reached although no byte of it waits. */
  get isBegun(): boolean {
    return this.#skip !== 0;
  }

  /** Parses the request at the beginning of `bytes` (not empty), which grew since the last call. */
  parse(bytes: Buffer): MemcachedParse {
    if (this.#skip !== 0) return this.#skipOver(bytes);
    if (this.#pending !== undefined) return this.#data(bytes, this.#pending);
    if (bytes[0] === BINARY_MAGIC) return this.#end(bytes.length, BINARY);
    const end = bytes.indexOf(NEWLINE, this.#scanned);
    if (end < 0 ? bytes.length > MAX_LINE_BYTES : end > MAX_LINE_BYTES) return this.#end(bytes.length, LINE_TOO_LONG);
    if (end < 0) {
      this.#scanned = bytes.length;
      return { kind: 'incomplete' };
    }
    this.#scanned = 0;
    const line = bytes.subarray(0, end > 0 && bytes[end - 1] === RETURN ? end - 1 : end);
    return this.#line(parseLine(line), bytes, end + 1);
  }

  #line(line: Line, bytes: Buffer, lineBytes: number): MemcachedParse {
    if ('request' in line) return { kind: 'request', request: line.request, bytes: lineBytes };
    if (line.valueBytes === undefined) return this.#end(lineBytes, BAD_CHUNK);
    if ('refused' in line) return this.#refuse(lineBytes, line.valueBytes, line.refused);
    if (line.valueBytes > this.#valueBytes) return this.#refuse(lineBytes, line.valueBytes, VALUE_TOO_LARGE);
    const { valueBytes, finish } = line;
    this.#pending = { lineBytes, valueBytes, finish };
    return this.#data(bytes, this.#pending);
  }

  /** The data block ends in a newline, with or without a return before it. */
  #data(bytes: Buffer, { lineBytes, valueBytes, finish }: Pending): MemcachedParse {
    const end = lineBytes + valueBytes;
    const after = bytes[end];
    if (after === undefined || (after === RETURN && bytes.length < end + 2)) return { kind: 'incomplete' };
    this.#pending = undefined;
    const terminator = after === NEWLINE ? 1 : after === RETURN && bytes[end + 1] === NEWLINE ? 2 : undefined;
    if (terminator === undefined) {
      // The length was wrong. The rest of the line is no command, whatever it looks like.
      this.#skip = 'line';
      return { kind: 'request', request: wrong(BAD_CHUNK), bytes: end };
    }
    return { kind: 'request', request: finish(bytes.subarray(lineBytes, end)), bytes: end + terminator };
  }

  #refuse(lineBytes: number, valueBytes: number, answer: Buffer): MemcachedParse {
    if (valueBytes > MAX_SKIPPED_BYTES) return this.#end(lineBytes, answer);
    this.#skip = valueBytes;
    if (valueBytes === 0) this.#skip = 'line';
    return { kind: 'request', request: wrong(answer), bytes: lineBytes };
  }

  #skipOver(bytes: Buffer): MemcachedParse {
    if (this.#skip !== 'line') {
      const skipped = Math.min(this.#skip, bytes.length);
      this.#skip -= skipped;
      if (this.#skip === 0) this.#skip = 'line';
      return { kind: 'skipped', bytes: skipped };
    }
    const end = bytes.indexOf(NEWLINE);
    if (end >= 0) this.#skip = 0;
    return { kind: 'skipped', bytes: end < 0 ? bytes.length : end + 1 };
  }

  #end(bytes: number, answer: Buffer): MemcachedParse {
    this.#scanned = 0;
    return { kind: 'request', request: wrong(answer, true), bytes };
  }
}

function isQuiet(words: readonly Buffer[], from: number): boolean {
  return words.slice(from).some((word) => textOf(word) === 'noreply');
}

function parseLine(line: Buffer): Line {
  const words = wordsOf(line);
  const command = textOf(words[0]);
  switch (command) {
    case 'get':
    case 'gets':
      return { request: getOf(words, command === 'gets') };
    case 'gat':
    case 'gats':
      return { request: getAndTouchOf(words, command === 'gats') };
    case 'set':
    case 'add':
    case 'replace':
    case 'append':
    case 'prepend':
    case 'cas':
      return storeOf(command, words);
    case 'mg':
    case 'ms':
    case 'md':
    case 'ma':
    case 'me':
      return parseMeta(command, words);
    default:
      return { request: HTTP_METHOD.test(command) ? wrong(ERROR, true) : hushed(otherOf(command, words), words) };
  }
}

/** Who asked for no reply gets none for a malformed request either: nobody would read it in its place. */
function hushed(request: MemcachedRequest, words: readonly Buffer[]): MemcachedRequest {
  const isUnanswered = request.kind === 'wrong' && request.answer !== ERROR && isQuiet(words, 2);
  return isUnanswered ? wrong(EMPTY) : request;
}

function getOf(words: readonly Buffer[], withCas: boolean): MemcachedRequest {
  if (words.length < 2) return wrong(ERROR);
  const keys = words.slice(1);
  return keys.some(isTooLong) ? wrong(BAD_FORMAT) : { kind: 'get', keys, withCas };
}

function getAndTouchOf(words: readonly Buffer[], withCas: boolean): MemcachedRequest {
  if (words.length < 3) return wrong(ERROR);
  const exptime = integerOf(textOf(words[1]));
  if (exptime === undefined) return wrong(BAD_EXPTIME);
  const keys = words.slice(2);
  return keys.some(isTooLong) ? wrong(BAD_FORMAT) : { kind: 'get-and-touch', keys, exptime, withCas };
}

function storeOf(mode: StoreMode, words: readonly Buffer[]): Line {
  // Without a length nothing can follow but the next line.
  if (words.length < 5) return { request: wrong(INVALID_PARAMETERS) };
  const key = words[1] as Buffer;
  const flags = flagsOf(textOf(words[2]));
  const exptime = integerOf(textOf(words[3]));
  const valueBytes = lengthOf(textOf(words[4]));
  const unique = mode === 'cas' ? uniqueOf(textOf(words[5])) : 0n;
  const isSound = flags !== undefined && exptime !== undefined && unique !== undefined && !isTooLong(key);
  if (valueBytes !== undefined && !isSound) return { refused: BAD_FORMAT, valueBytes };
  const quiet = isQuiet(words, mode === 'cas' ? 6 : 5);
  const finish = (value: Buffer): MemcachedRequest => {
    return { kind: 'store', mode, key, flags: flags ?? 0, exptime: exptime ?? 0, value, unique: unique ?? 0n, quiet };
  };
  return { valueBytes, finish };
}

function otherOf(command: string, words: readonly Buffer[]): MemcachedRequest {
  switch (command) {
    case 'delete':
      return deleteOf(words);
    case 'incr':
    case 'decr':
      return countOf(command, words);
    case 'touch':
      return touchOf(words);
    case 'flush_all':
      return flushOf(words);
    case 'stats':
      return { kind: 'stats', what: textOf(words[1]) };
    case 'verbosity':
      return verbosityOf(words);
    case 'version':
    case 'quit':
      return { kind: command };
    case 'mn':
      return { kind: 'no-op' };
    default:
      return wrong(ERROR);
  }
}

/** There is nothing here that could say more; the form is checked all the same. */
function verbosityOf(words: readonly Buffer[]): MemcachedRequest {
  const level = textOf(words[1]);
  if (level === '') return wrong(ERROR);
  const isSound = level === 'noreply' || lengthOf(level) !== undefined;
  return isSound ? { kind: 'verbosity', quiet: isQuiet(words, 1) } : wrong(BAD_FORMAT);
}

/** An old form has a time behind the key; only 0 ever meant anything. */
function deleteOf(words: readonly Buffer[]): MemcachedRequest {
  const key = words[1] ?? EMPTY;
  const time = textOf(words[2]);
  if (key.length === 0) return wrong(INVALID_PARAMETERS);
  if (isTooLong(key) || !['', '0', 'noreply'].includes(time)) return wrong(BAD_FORMAT);
  return { kind: 'delete', key, quiet: isQuiet(words, 2) };
}

function countOf(direction: 'incr' | 'decr', words: readonly Buffer[]): MemcachedRequest {
  if (words.length < 3) return wrong(INVALID_PARAMETERS);
  const key = words[1] as Buffer;
  if (isTooLong(key)) return wrong(BAD_FORMAT);
  const by = uniqueOf(textOf(words[2]));
  return by === undefined ? wrong(BAD_DELTA) : { kind: 'count', direction, key, by, quiet: isQuiet(words, 3) };
}

function touchOf(words: readonly Buffer[]): MemcachedRequest {
  if (words.length < 3) return wrong(ERROR);
  const key = words[1] as Buffer;
  if (isTooLong(key)) return wrong(BAD_FORMAT);
  const exptime = integerOf(textOf(words[2]));
  return exptime === undefined ? wrong(BAD_EXPTIME) : { kind: 'touch', key, exptime, quiet: isQuiet(words, 3) };
}

function flushOf(words: readonly Buffer[]): MemcachedRequest {
  const word = textOf(words[1]);
  const delay = word === '' || word === 'noreply' ? 0 : integerOf(word);
  return delay === undefined ? wrong(BAD_EXPTIME) : { kind: 'flush', delay, quiet: isQuiet(words, 1) };
}
