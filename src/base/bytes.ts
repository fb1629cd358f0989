/**
 * Bytes in and out: one growing writer and one bounds-checked reader, used by every codec of our own. All integers are
 * big-endian; `varint` is unsigned LEB128 of at most 53 bits, so that it is an exact JavaScript number.
 */
import { assert, TokaidoError } from './errors.js';

export const EMPTY: Buffer = Buffer.alloc(0);

/** Largest encoded varint: 53 bits in groups of seven. */
const MAX_VARINT_BYTES = 8;

function viewOf({ buffer, byteOffset, length }: Buffer): DataView {
  return new DataView(buffer, byteOffset, length);
}

/** Appends to one buffer that grows by doubling. `take()` hands the bytes over without copying them. */
export class ByteWriter {
  #buffer: Buffer;
  /** Of the same bytes, made when it is needed. */
  #view: DataView | undefined;
  #length = 0;

  constructor(initialBytes = 256) {
    this.#buffer = Buffer.allocUnsafe(initialBytes);
  }

  get length(): number {
    return this.#length;
  }

  #grow(bytes: number): number {
    const at = this.#length;
    const needed = at + bytes;
    if (needed > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(needed, this.#buffer.length * 2));
      this.#buffer.copy(larger, 0, 0, at);
      this.#buffer = larger;
      this.#view = undefined;
    }
    this.#length = needed;
    return at;
  }

  u8(value: number): this {
    const at = this.#grow(1);
    this.#buffer[at] = value;
    return this;
  }

  u16(value: number): this {
    const at = this.#grow(2);
    this.#buffer.writeUInt16BE(value, at);
    return this;
  }

  u32(value: number): this {
    const at = this.#grow(4);
    this.#buffer.writeUInt32BE(value, at);
    return this;
  }

  /** 48 bits: milliseconds since 1970 fit until the year 10889. */
  u48(value: number): this {
    const at = this.#grow(6);
    this.#buffer.writeUIntBE(value, at, 6);
    return this;
  }

  u64(value: bigint): this {
    const at = this.#grow(8);
    // Not `writeBigUInt64BE`, which takes it apart into eight bytes in JavaScript.
    this.#view ??= viewOf(this.#buffer);
    this.#view.setBigUint64(at, value);
    return this;
  }

  varint(value: number): this {
    assert(Number.isSafeInteger(value) && value >= 0, 'varint of a safe non-negative integer');
    let rest = value;
    while (rest >= 0x80) {
      this.u8((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    return this.u8(rest);
  }

  bytes(value: Uint8Array): this {
    const at = this.#grow(value.length);
    this.#buffer.set(value, at);
    return this;
  }

  /** A varint length, then the bytes. */
  sized(value: Uint8Array): this {
    return this.varint(value.length).bytes(value);
  }

  /** A varint length in bytes, then UTF-8. */
  text(value: string): this {
    const length = Buffer.byteLength(value, 'utf8');
    const at = this.varint(length).#grow(length);
    this.#buffer.write(value, at, length, 'utf8');
    return this;
  }

  /** Overwrites four bytes written before, for a length or a checksum known only at the end. */
  patchU32(at: number, value: number): this {
    assert(at + 4 <= this.#length, 'patch inside what was written');
    this.#buffer.writeUInt32BE(value, at);
    return this;
  }

  /** A view of what was written so far; valid until the next write. */
  view(from = 0): Buffer {
    return this.#buffer.subarray(from, this.#length);
  }

  /** Hands the bytes over and starts anew. */
  take(): Buffer {
    const out = this.#buffer.subarray(0, this.#length);
    this.#buffer = Buffer.allocUnsafe(256);
    this.#view = undefined;
    this.#length = 0;
    return out;
  }
}

/** Reads views out of one buffer; everything that does not fit is `CORRUPT`, never a partial result. */
export class ByteReader {
  readonly #buffer: Buffer;
  /** Of the same bytes, made when it is needed. */
  #view: DataView | undefined;
  #at: number;

  constructor(buffer: Buffer, at = 0) {
    this.#buffer = buffer;
    this.#at = at;
  }

  get offset(): number {
    return this.#at;
  }

  get remaining(): number {
    return this.#buffer.length - this.#at;
  }

  #advance(bytes: number): number {
    const at = this.#at;
    if (bytes > this.#buffer.length - at) this.#tooShort(bytes);
    this.#at = at + bytes;
    return at;
  }

  #tooShort(bytes: number): never {
    throw new TokaidoError('CORRUPT', `need ${bytes} more bytes at ${this.#at}, have ${this.remaining}`);
  }

  u8(): number {
    return this.#buffer[this.#advance(1)] as number;
  }

  u16(): number {
    return this.#buffer.readUInt16BE(this.#advance(2));
  }

  u32(): number {
    return this.#buffer.readUInt32BE(this.#advance(4));
  }

  u48(): number {
    return this.#buffer.readUIntBE(this.#advance(6), 6);
  }

  u64(): bigint {
    // Not `readBigUInt64BE`, which is put together from eight bytes in JavaScript.
    this.#view ??= viewOf(this.#buffer);
    return this.#view.getBigUint64(this.#advance(8));
  }

  varint(): number {
    const buffer = this.#buffer;
    let at = this.#at;
    let value = 0;
    let scale = 1;
    for (const end = at + MAX_VARINT_BYTES; at < end; ) {
      if (at >= buffer.length) this.#tooShort(at + 1 - this.#at);
      const byte = buffer[at++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.#at = at;
        if (!Number.isSafeInteger(value)) break;
        return value;
      }
      scale *= 0x80;
    }
    throw new TokaidoError('CORRUPT', `varint before ${at} exceeds 53 bits`);
  }

  /** A view, not a copy. */
  bytes(count: number): Buffer {
    const at = this.#advance(count);
    return this.#buffer.subarray(at, at + count);
  }

  /** Bytes anywhere in what was read, as a view. */
  slice(from: number, count: number): Buffer {
    return this.#buffer.subarray(from, from + count);
  }

  /** A varint length, then that many bytes as a view. */
  sized(): Buffer {
    return this.bytes(this.varint());
  }

  text(): string {
    const count = this.varint();
    const at = this.#advance(count);
    return this.#buffer.toString('utf8', at, at + count);
  }

  /** Everything that is left, as a view. */
  rest(): Buffer {
    return this.bytes(this.remaining);
  }

  /** Leaves out what is of no interest. */
  skip(count: number): void {
    assert(count >= 0, 'a reader goes forwards');
    this.#advance(count);
  }

  /** Every structure of ours ends exactly where its bytes end. */
  end(what: string): void {
    if (this.remaining !== 0) throw new TokaidoError('CORRUPT', `${this.remaining} stray bytes after ${what}`);
  }
}

/** Byte by byte: for the few bytes that prefixes have, that is several times faster than a call of the runtime. */
export function startsWith(bytes: Buffer, prefix: Buffer): boolean {
  const { length } = prefix;
  if (bytes.length < length) return false;
  for (let i = 0; i < length; i++) if (bytes[i] !== prefix[i]) return false;
  return true;
}

/** The smallest bytes above all that begin with `prefix`; `undefined` when there are none. */
export function afterPrefix(prefix: Buffer): Buffer | undefined {
  const at = prefix.findLastIndex((byte) => byte < 0xff);
  if (at < 0) return undefined;
  const end = Buffer.from(prefix.subarray(0, at + 1));
  end[at] = (end[at] as number) + 1;
  return end;
}

/** The smallest bytes above `key`. */
export function afterKey(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.of(0)]);
}
