/** memcached's text protocol: answers to bytes, and the expiration times of its clients. Pure. */
import { ByteWriter } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import { NEVER_EXPIRES } from '../base/types.js';

const line = (text: string): Buffer => Buffer.from(`${text}\r\n`, 'latin1');

export const ERROR = line('ERROR');
/** What Kyoto Tycoon says to a command with too few words. */
export const INVALID_PARAMETERS = line('CLIENT_ERROR invalid parameters');
export const BAD_FORMAT = line('CLIENT_ERROR bad command line format');
export const BAD_CHUNK = line('CLIENT_ERROR bad data chunk');
export const BAD_DELTA = line('CLIENT_ERROR invalid numeric delta argument');
export const BAD_EXPTIME = line('CLIENT_ERROR invalid exptime argument');
export const NOT_A_NUMBER = line('CLIENT_ERROR cannot increment or decrement non-numeric value');
export const LINE_TOO_LONG = line('CLIENT_ERROR line too long');
export const BINARY = line('CLIENT_ERROR this port speaks the text protocol, not the binary one');
export const VALUE_TOO_LARGE = line('SERVER_ERROR object too large for cache');
export const STORED = line('STORED');
export const NOT_STORED = line('NOT_STORED');
export const EXISTS = line('EXISTS');
export const NOT_FOUND = line('NOT_FOUND');
export const DELETED = line('DELETED');
export const TOUCHED = line('TOUCHED');
export const OK = line('OK');
export const RESET = line('RESET');
export const END = line('END');
export const NO_OP = line('MN');
const LINE_END = Buffer.from('\r\n');

/** A number of at most this many seconds (30 days) counts from now; a larger one is a time since 1970. */
export const LONGEST_RELATIVE_SECONDS = 60 * 60 * 24 * 30;
const LONGEST_MS = 2 ** 48 - 1;

/** Expiration time, ms since 1970: 0 is never, negative is at once. */
export function xtFromExptime(exptime: number, nowMs: number): number {
  if (exptime === 0) return NEVER_EXPIRES;
  const xtMs = exptime > LONGEST_RELATIVE_SECONDS ? exptime * 1000 : Math.floor(nowMs) + exptime * 1000;
  // 1 ms after 1970: the earliest time that is not "never".
  return exptime < 0 ? 1 : Math.min(xtMs, LONGEST_MS);
}

/** Seconds that are left, -1 without an end. */
export function secondsLeft(xtMs: number, nowMs: number): number {
  return xtMs === NEVER_EXPIRES ? -1 : Math.max(0, Math.ceil((xtMs - nowMs) / 1000));
}

/** What a client is told of an error. Line ends in messages would begin another answer. */
export function renderError(error: TokaidoError): Buffer {
  const kind = error.code === 'MALFORMED' || error.code === 'CONFLICT' ? 'CLIENT_ERROR' : 'SERVER_ERROR';
  return line(`${kind} ${error.message.replace(/[^\x20-\x7e]+/g, ' ')}`);
}

export function renderNumber(value: bigint): Buffer {
  return line(String(value));
}

export function renderVersion(version: string): Buffer {
  return line(`VERSION ${version}`);
}

export function renderStats(rows: readonly (readonly [string, string | number])[]): Buffer {
  return Buffer.concat([...rows.map(([name, value]) => line(`STAT ${name} ${value}`)), END]);
}

/** One record of an answer. */
export interface Item {
  readonly value: Buffer;
  readonly flags: number;
  readonly unique: bigint;
}

/** Builds the answer to a get. Values are copied into it, so views may be handed in. */
export class ItemsReply {
  readonly #writer = new ByteWriter(256);
  readonly #withCas: boolean;

  constructor(withCas: boolean) {
    this.#withCas = withCas;
  }

  get bytes(): number {
    return this.#writer.length;
  }

  add(key: Buffer, { value, flags, unique }: Item): void {
    const cas = this.#withCas ? ` ${unique}` : '';
    const writer = this.#writer;
    writer
      .bytes(VALUE)
      .bytes(key)
      .bytes(Buffer.from(` ${flags} ${value.length}${cas}\r\n`, 'latin1'))
      .bytes(value)
      .bytes(LINE_END);
  }

  take(): Buffer {
    return this.#writer.bytes(END).take();
  }
}

const VALUE = Buffer.from('VALUE ');

/** An answer to a meta command: code, flags, and for `VA` the data. `value` is copied. */
export function renderMeta(code: string, flags: readonly string[], value?: Buffer): Buffer {
  const head = value === undefined ? code : `${code} ${value.length}`;
  const first = line([head, ...flags].join(' '));
  return value === undefined ? first : Buffer.concat([first, value, LINE_END]);
}

/** `CLIENT_ERROR` with a reason, for what only a meta command can be wrong in. */
export function clientError(reason: string): Buffer {
  return line(`CLIENT_ERROR ${reason}`);
}

/** Refused because what it asks for is not kept here. */
export function notOffered(what: string): TokaidoError {
  return new TokaidoError('MALFORMED', what);
}
