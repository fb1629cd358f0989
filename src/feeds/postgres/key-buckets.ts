/**
 * Whether two streams of keys are the same set, in memory that does not grow with them: each key is hashed into one of
 * some buckets, and each bucket has the sum of its keys' hashes on one side less that of the other. Where it is nothing,
 * the keys are the same (but for an accident of 1 in 2^64); where it is not, they have to be looked at. Pure.
 */
import { Murmur } from '../../store/murmur.js';

const BUCKETS = 65_536;
const BUCKET_BITS = 16;

export class KeyBuckets {
  readonly #murmur = new Murmur();
  readonly #sums = new Int32Array(2 * BUCKETS);
  readonly #there = new Uint32Array(BUCKETS);

  /** Of what should be there. */
  expect(key: Buffer): void {
    this.#count(key, 1);
  }

  /** Of what is there. */
  meet(key: Buffer): void {
    const bucket = this.#count(key, -1);
    this.#there[bucket] = (this.#there[bucket] as number) + 1;
  }

  #count(key: Buffer, sign: 1 | -1): number {
    const bucket = this.bucketOf(key);
    const [, one = 0, other = 0] = this.#murmur.lanes;
    const at = 2 * bucket;
    this.#sums[at] = (this.#sums[at] as number) + sign * one;
    this.#sums[at + 1] = (this.#sums[at + 1] as number) + sign * other;
    return bucket;
  }

  bucketOf(key: Buffer): number {
    this.#murmur.add(key);
    // The empty key would count as nothing.
    this.#murmur.addU16(key.length);
    this.#murmur.finish();
    return (this.#murmur.lanes[0] as number) >>> (32 - BUCKET_BITS);
  }

  /** Buckets whose keys differ and that some are there of, in groups of about `most` of these. */
  *differing(most: number): Generator<ReadonlySet<number>> {
    let group = new Set<number>();
    let keys = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const there = this.#there[bucket] as number;
      if (there === 0 || (this.#sums[2 * bucket] === 0 && this.#sums[2 * bucket + 1] === 0)) continue;
      if (keys + there > most && group.size > 0) {
        yield group;
        group = new Set();
        keys = 0;
      }
      group.add(bucket);
      keys += there;
    }
    if (group.size > 0) yield group;
  }
}
