/** DER, as much of it as certificates and revocation lists need: one bounds-checked reader, and a writer of values. */
import { TokaidoError } from '../base/errors.js';

/** Tags by name; `context(n)` for the numbered ones. */
export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bits: 0x03,
  octets: 0x04,
  oid: 0x06,
  utf8: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** A constructed, context-specific tag. */
export const context = (number: number): number => 0xa0 | number;

/** One value: its tag, its content, and all its bytes. Views, not copies. */
export interface DerValue {
  readonly tag: number;
  readonly content: Buffer;
  readonly bytes: Buffer;
}

/** Bytes of a length beyond the first: structures here are smaller than 4 GiB. */
const MAX_LENGTH_BYTES = 4;

function corrupt(what: string): never {
  throw new TokaidoError('CORRUPT', `not DER: ${what}`);
}

/** Reads values one after the other; everything that does not fit is `CORRUPT`. */
export class DerReader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#buffer.length;
  }

  /** The tag of the next value; `undefined` at the end. */
  peek(): number | undefined {
    return this.#buffer[this.#at];
  }

  /** The next value, which must have this tag when one is given. */
  next(tag?: number): DerValue {
    const start = this.#at;
    const found = this.#byte();
    if (tag !== undefined && found !== tag) corrupt(`tag ${found} where ${tag} belongs`);
    const length = this.#length();
    if (length > this.#buffer.length - this.#at) corrupt('a value is longer than what holds it');
    const content = this.#buffer.subarray(this.#at, this.#at + length);
    this.#at += length;
    return { tag: found, content, bytes: this.#buffer.subarray(start, this.#at) };
  }

  /** The next value if it has this tag. */
  optional(tag: number): DerValue | undefined {
    return this.peek() === tag ? this.next(tag) : undefined;
  }

  /** Inside the next value, which is a sequence unless told otherwise. */
  enter(tag: number = TAG.sequence): DerReader {
    return new DerReader(this.next(tag).content);
  }

  end(): void {
    if (!this.isAtEnd) corrupt('stray bytes');
  }

  #byte(): number {
    const byte = this.#buffer[this.#at++];
    return byte ?? corrupt('it ends too early');
  }

  #length(): number {
    const first = this.#byte();
    if (first < 0x80) return first;
    const count = first & 0x7f;
    if (count === 0 || count > MAX_LENGTH_BYTES) corrupt(`a length of ${count} bytes`);
    let length = 0;
    for (let i = 0; i < count; i++) length = length * 0x100 + this.#byte();
    return length;
  }
}

/** Dotted form of an object identifier's content. */
export function oidText(content: Buffer): string {
  const numbers: number[] = [];
  let value = 0;
  for (const byte of content) {
    value = value * 0x80 + (byte & 0x7f);
    if (byte >= 0x80) continue;
    numbers.push(value);
    value = 0;
  }
  const [first = 0, ...rest] = numbers;
  const head = Math.min(2, Math.floor(first / 40));
  return [head, first - head * 40, ...rest].join('.');
}

/** Milliseconds since 1970 of a UTCTime or GeneralizedTime. */
export function timeMs({ tag, content }: DerValue): number {
  const text = content.toString('latin1');
  const form =
    tag === TAG.utcTime
      ? /^(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z$/
      : /^(\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z$/;
  const [, year = '', ...parts] = form.exec(text) ?? corrupt(`the time ${JSON.stringify(text)}`);
  const [month = 1, day = 1, hour = 0, minute = 0, second = 0] = parts.map(Number);
  const century = tag === TAG.utcTime ? (Number(year) < 50 ? 2000 : 1900) : 0;
  return Date.UTC(century + Number(year), month - 1, day, hour, minute, second);
}

/** A serial number as `X509Certificate.serialNumber` prints it: upper-case hex without leading zero bytes. */
export function serialText(integer: Buffer): string {
  let at = 0;
  while (at < integer.length - 1 && integer[at] === 0) at++;
  return integer.subarray(at).toString('hex').toUpperCase();
}

/** One value as bytes. */
export function der(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents);
  const { length } = content;
  if (length < 0x80) return Buffer.concat([Buffer.of(tag, length), content]);
  const digits = Buffer.from(
    length.toString(16).padStart(length > 0xffffff ? 8 : length > 0xffff ? 6 : length > 0xff ? 4 : 2, '0'),
    'hex',
  );
  return Buffer.concat([Buffer.of(tag, 0x80 | digits.length), digits, content]);
}

export const sequence = (...contents: readonly Uint8Array[]): Buffer => der(TAG.sequence, ...contents);

/** A non-negative integer from its big-endian bytes. */
export function integer(bytes: Buffer): Buffer {
  let at = 0;
  while (at < bytes.length - 1 && bytes[at] === 0) at++;
  const digits = bytes.subarray(at);
  const isHigh = ((digits[0] ?? 0) & 0x80) !== 0;
  return der(TAG.integer, isHigh ? Buffer.of(0) : Buffer.alloc(0), digits);
}

export function oid(dotted: string): Buffer {
  const [head = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes: number[] = [];
  for (const number of [head * 40 + second, ...rest]) {
    const groups = [number % 0x80];
    for (let left = Math.floor(number / 0x80); left > 0; left = Math.floor(left / 0x80))
      groups.unshift((left % 0x80) | 0x80);
    bytes.push(...groups);
  }
  return der(TAG.oid, Buffer.from(bytes));
}

/** Bits that fill whole bytes. */
export const bits = (bytes: Uint8Array): Buffer => der(TAG.bits, Buffer.of(0), bytes);

/** The form that RFC 5280 asks for: UTCTime up to 2049, GeneralizedTime beyond. */
export function time(ms: number): Buffer {
  const digits = `${new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, '')}`;
  const isLate = new Date(ms).getUTCFullYear() >= 2050;
  return der(isLate ? TAG.generalizedTime : TAG.utcTime, Buffer.from(isLate ? digits : digits.slice(2), 'latin1'));
}
