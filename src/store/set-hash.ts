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
import { ByteWriter } from '../base/bytes.js';
import { Murmur } from './murmur.js';
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
  const writer = new ByteWriter(SET_HASH_BYTES);
  writeHash(writer, hash);
  return writer.take();
}

export function writeHash(writer: ByteWriter, hash: SetHash): void {
  for (let lane = 0; lane < LANES; lane++) writer.u32((hash[lane] as number) >>> 0);
}

export function decodeHash(bytes: Buffer): SetHash {
  return Int32Array.from({ length: LANES }, (_, lane) => bytes.readInt32BE(lane * 4));
}

/** `into` loses or gains what `other` holds. */
export function addHash(into: SetHash, other: SetHash, sign: 1 | -1): void {
  into[0] = (into[0] as number) + sign * (other[0] as number);
  into[1] = (into[1] as number) + sign * (other[1] as number);
  into[2] = (into[2] as number) + sign * (other[2] as number);
  into[3] = (into[3] as number) + sign * (other[3] as number);
}

/** Hashes records one after the other; owns the memory that takes. */
export class RecordHasher {
  readonly #murmur = new Murmur();

  /**
   * `sum` gains (1) or loses (-1) a record that is no tombstone. What is hashed: the record as it would lie in the engine
   * uncompressed, with no flag but that of the expiration time, then the key and its length (u16).
   */
  count(sum: SetHash, sign: 1 | -1, key: Buffer, record: StoredRecord): void {
    const murmur = this.#murmur;
    murmur.add(record.uncompressed);
    murmur.add(key);
    murmur.addU16(key.length);
    murmur.finish();
    addHash(sum, murmur.lanes, sign);
  }
}
