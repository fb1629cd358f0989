/**
 * The hash of a set of records that is kept up to date with every change: add what came, subtract what went. Two stores
 * whose sets are equal have equal hashes, whatever the order of the changes that led there.
 *
 * Construction. A record is hashed to 128 bits (MurmurHash3 x86_128, seed 0) together with everything that must be
 * equal on two nodes: key, value, expiration time and version. The hash of a set is the sum of its records' hashes in
 * four lanes of 32 bits, each modulo 2^32. Sums, because a set has no order and must be able to lose a member; not
 * exclusive or, because there a record counted twice would vanish, while in a sum every mistake of counting shows.
 *
 * What it is good for. A record lost, doubled, stale or damaged changes the sum by a difference of well mixed 128-bit
 * values: two different sets agree by accident with probability 2^-128. What it is not: a proof against someone who
 * chooses records in order to deceive. MurmurHash3 is not a cryptographic function, and sums of this width could be
 * forged by a birthday attack even with one that is. Whoever could do that may write to the database anyway; links are
 * authenticated by other means.
 */
import type { StoredRecord } from './record.js';

/** Four lanes of 32 bits. Never changed in place once it is part of a state. */
export type SetHash = Int32Array;

const LANES = 4;
export const SET_HASH_BYTES = LANES * 4;
/** The hash of no records. */
export const NOTHING: SetHash = new Int32Array(LANES);

export function isSameHash(a: SetHash, b: SetHash): boolean {
  return a[0] === b[0] && a[1] === b[1] && a[2] === b[2] && a[3] === b[3];
}

/** 32 hexadecimal digits, for people. */
export function hashText(hash: SetHash): string {
  return encodeHash(hash).toString('hex');
}

export function encodeHash(hash: SetHash): Buffer {
  const bytes = Buffer.allocUnsafe(SET_HASH_BYTES);
  for (let lane = 0; lane < LANES; lane++) bytes.writeInt32BE(hash[lane] as number, lane * 4);
  return bytes;
}

export function decodeHash(bytes: Buffer): SetHash {
  return Int32Array.from({ length: LANES }, (_, lane) => bytes.readInt32BE(lane * 4));
}

/** `into` loses or gains what `other` holds. */
export function addHash(into: SetHash, other: SetHash, sign: 1 | -1): void {
  for (let lane = 0; lane < LANES; lane++) into[lane] = (into[lane] as number) + sign * (other[lane] as number);
}

/** Zero bytes behind the data, so that its end can be read in whole words. */
export const PADDING = 16;
/** Beyond this the bytes of one record are not kept room for. */
const LARGEST_KEPT_BYTES = 64 * 1024;

/** Hashes records one after the other; owns the memory that takes. */
export class RecordHasher {
  #view = new DataView(new ArrayBuffer(1024));
  #bytes = Buffer.from(this.#view.buffer);

  /** `sum` gains (1) or loses (-1) a record that is no tombstone. */
  count(sum: SetHash, sign: 1 | -1, key: Buffer, record: StoredRecord): void {
    const length = this.#lay(key, record);
    addMurmur(sum, sign, this.#view, length);
    if (this.#bytes.length > LARGEST_KEPT_BYTES) this.#reserve(1024);
  }

  #reserve(bytes: number): void {
    this.#view = new DataView(new ArrayBuffer(bytes));
    this.#bytes = Buffer.from(this.#view.buffer);
  }

  /**
   * Lays out what is hashed: the record as it would lie in the engine uncompressed, with no flag but that of the
   * expiration time, then the key and its length (u16). This runs twice for every overwritten record: no views are made.
   */
  #lay(key: Buffer, record: StoredRecord): number {
    const plain = record.uncompressed;
    const keyAt = plain.length;
    const length = keyAt + key.length + 2;
    if (length + PADDING > this.#bytes.length) this.#reserve(Math.max(length + PADDING, 2 * this.#bytes.length));
    const bytes = this.#bytes;
    copy(plain, bytes, 0);
    copy(key, bytes, keyAt);
    bytes[length - 2] = key.length >> 8;
    bytes[length - 1] = key.length;
    this.#view.setFloat64(length, 0);
    this.#view.setFloat64(length + 8, 0);
    return length;
  }
}

/** Up to here a loop is quicker than a call. */
const SHORT_BYTES = 64;

function copy(from: Buffer, to: Buffer, at: number): void {
  if (from.length > SHORT_BYTES) {
    to.set(from, at);
    return;
  }
  for (let i = 0; i < from.length; i++) to[at + i] = from[i] as number;
}

function rotate(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}

function finish(x: number): number {
  let h = x ^ (x >>> 16);
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/**
 * MurmurHash3 x86_128 with seed 0 of the first `length` bytes, added to (or subtracted from) the lanes of `sum`. Behind
 * them `data` has `PADDING` zero bytes.
 */
export function addMurmur(sum: SetHash, sign: 1 | -1, data: DataView, length: number): void {
  let h1 = 0;
  let h2 = 0;
  let h3 = 0;
  let h4 = 0;
  const whole = length & ~15;
  for (let i = 0; i < whole; i += 16) {
    h1 ^= mix1(data.getInt32(i, true));
    h1 = (Math.imul(rotate(h1, 19) + h2, 5) + 0x561ccd1b) | 0;
    h2 ^= mix2(data.getInt32(i + 4, true));
    h2 = (Math.imul(rotate(h2, 17) + h3, 5) + 0x0bcaa747) | 0;
    h3 ^= mix3(data.getInt32(i + 8, true));
    h3 = (Math.imul(rotate(h3, 15) + h4, 5) + 0x96cd1c35) | 0;
    h4 ^= mix4(data.getInt32(i + 12, true));
    h4 = (Math.imul(rotate(h4, 13) + h1, 5) + 0x32ac3b17) | 0;
  }
  h1 = h1 ^ mix1(data.getInt32(whole, true)) ^ length;
  h2 = h2 ^ mix2(data.getInt32(whole + 4, true)) ^ length;
  h3 = h3 ^ mix3(data.getInt32(whole + 8, true)) ^ length;
  h4 = h4 ^ mix4(data.getInt32(whole + 12, true)) ^ length;
  h1 = (h1 + h2 + h3 + h4) | 0;
  h2 = finish((h2 + h1) | 0);
  h3 = finish((h3 + h1) | 0);
  h4 = finish((h4 + h1) | 0);
  h1 = finish(h1);
  h1 = (h1 + h2 + h3 + h4) | 0;
  sum[0] = (sum[0] as number) + sign * h1;
  sum[1] = (sum[1] as number) + sign * ((h2 + h1) | 0);
  sum[2] = (sum[2] as number) + sign * ((h3 + h1) | 0);
  sum[3] = (sum[3] as number) + sign * ((h4 + h1) | 0);
}

function mix1(k: number): number {
  return Math.imul(rotate(Math.imul(k, 0x239b961b), 15), 0xab0e9789);
}

function mix2(k: number): number {
  return Math.imul(rotate(Math.imul(k, 0xab0e9789), 16), 0x38b34ae5);
}

function mix3(k: number): number {
  return Math.imul(rotate(Math.imul(k, 0x38b34ae5), 17), 0xa1e38b93);
}

function mix4(k: number): number {
  return Math.imul(rotate(Math.imul(k, 0xa1e38b93), 18), 0x239b961b);
}
