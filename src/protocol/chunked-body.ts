/**
 * A body in HTTP's chunked coding, as it arrives. A chunk may be one byte, and what is said around it a thousand: what
 * is kept is bounded by bytes of the body, not by chunks, and what nobody reads is bounded by itself.
 */
import { EMPTY } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';

export interface Body {
  readonly body: Buffer;
  /** Where it ends, from the beginning of the request. */
  readonly end: number;
}

/** Longest line before a chunk, bytes. */
const MAX_LINE_BYTES = 1024;
/** Most bytes of such lines beyond the sizes (extensions), and of trailers, in one body. */
const MAX_EXTRA_BYTES = 16 * 1024;
const LINE_FEED = 0x0a;
const RETURN = 0x0d;

export class ChunkedBody {
  readonly #limit: number;
  #body: Buffer = EMPTY;
  #length = 0;
  /** How far it is understood, from the beginning of the request. */
  #at: number;
  #extraBytes = 0;
  #inTrailer = false;

  /** `start`: where the body begins in the request; `limit`: its most bytes. */
  constructor(start: number, limit: number) {
    this.#at = start;
    this.#limit = limit;
  }

  /** `bytes` is the request, which grew since the last call. `undefined` when more has to come. */
  parse(bytes: Buffer): Body | undefined {
    for (;;) {
      const end = bytes.indexOf(LINE_FEED, this.#at);
      if (end < 0) {
        if (bytes.length - this.#at > MAX_LINE_BYTES) throw malformed('a chunk line is too long');
        return undefined;
      }
      const line = bytes.toString('latin1', this.#at, end).trimEnd();
      if (this.#inTrailer) {
        // Trailers are read and ignored, up to the blank line.
        this.#count(end - this.#at);
        this.#at = end + 1;
        if (line === '') return { body: this.#body.subarray(0, this.#length), end: this.#at };
        continue;
      }
      const [, digits] = /^([0-9a-fA-F]{1,8})(?:;.*)?$/.exec(line) ?? [];
      if (digits === undefined) throw malformed('a chunk size does not parse');
      const size = Number.parseInt(digits, 16);
      if (this.#length + size > this.#limit) throw bodyTooLarge(this.#limit);
      const from = end + 1;
      if (size > 0) {
        const after = bytes[from + size] === RETURN ? from + size + 1 : from + size;
        if (after >= bytes.length) return undefined;
        if (bytes[after] !== LINE_FEED) throw malformed('a chunk does not end where it says');
        this.#append(bytes, from, size);
      }
      this.#count(end - this.#at - digits.length - 1);
      this.#inTrailer = size === 0;
      this.#at = size === 0 ? from : from + size + (bytes[from + size] === RETURN ? 2 : 1);
    }
  }

  #append(bytes: Buffer, from: number, size: number): void {
    if (this.#length + size > this.#body.length) {
      const larger = Buffer.allocUnsafe(Math.min(this.#limit, (this.#length + size) * 2));
      larger.set(this.#body.subarray(0, this.#length));
      this.#body = larger;
    }
    bytes.copy(this.#body, this.#length, from, from + size);
    this.#length += size;
  }

  #count(extraBytes: number): void {
    this.#extraBytes += Math.max(0, extraBytes);
    if (this.#extraBytes > MAX_EXTRA_BYTES) throw malformed('too much is said beside the chunks');
  }
}

function malformed(message: string): TokaidoError {
  return new TokaidoError('MALFORMED', message);
}

export function bodyTooLarge(limit: number): TokaidoError {
  return new TokaidoError('TOO_LARGE', `a body of more than ${limit} bytes`);
}
