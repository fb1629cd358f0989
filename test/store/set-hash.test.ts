/** The hash of a set of records: known values, and that nothing but the set counts. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { sid, versionNs } from '../../src/base/types.js';
import { Murmur } from '../../src/store/murmur.js';
import { encodeRecord, encodeStamp, StoredRecord } from '../../src/store/record.js';
import { hashText, NOTHING, RecordHasher, type SetHash } from '../../src/store/set-hash.js';

function murmur(text: string): string {
  const hasher = new Murmur();
  hasher.add(Buffer.from(text));
  hasher.finish();
  return hashText(hasher.lanes);
}

interface Sample {
  readonly key: string;
  readonly value: string;
  readonly xtMs: number;
  readonly ns: number;
}

const aSample: fc.Arbitrary<Sample> = fc.record({
  key: fc.string({ maxLength: 20 }),
  value: fc.string({ maxLength: 300 }),
  xtMs: fc.nat({ max: 3 }),
  ns: fc.nat({ max: 3 }),
});

function count(sum: SetHash, sign: 1 | -1, { key, value, xtMs, ns }: Sample, compress = false): void {
  const raw = encodeRecord(encodeStamp(versionNs(BigInt(ns)), sid(1)), xtMs, Buffer.from(value), compress);
  new RecordHasher().count(sum, sign, Buffer.from(key), new StoredRecord(raw));
}

function hashOf(samples: readonly Sample[], compress = false): string {
  const sum = Int32Array.from(NOTHING);
  for (const sample of samples) count(sum, 1, sample, compress);
  return hashText(sum);
}

describe('the hash of a set of records', () => {
  it('is built on MurmurHash3 x86_128', () => {
    assert.equal(murmur(''), '00000000000000000000000000000000');
    assert.equal(murmur('I will not buy this record, it is scratched.'), 'a0a9683b25ac5e40d9af2895890dddf5');
    assert.equal(murmur('The quick brown fox jumps over the lazy dog'), '2f1583c3ecee2c675d7bf66ce5e91d2c');
  });

  it('takes the bytes in pieces of any size, and keeps no memory of large ones', () => {
    const bytes = Buffer.from(Array.from({ length: 200_000 }, (_, i) => (i * 7 + (i >> 8)) & 0xff));
    const hasher = new Murmur();
    const hash = (...pieces: readonly Buffer[]): string => {
      for (const piece of pieces) hasher.add(piece);
      hasher.finish();
      return hashText(hasher.lanes);
    };
    assert.equal(hash(bytes.subarray(0, 65_535)), '33d41e2569679b91160fbbe31b0f2950');
    assert.equal(hash(bytes.subarray(0, 65_536)), '1f0d6ac2915ee25a31207f8d1ba86aea');
    assert.equal(hash(bytes.subarray(0, 65_537)), 'f7b8406f38f1c338387c9b84cf64c4c9');
    const whole = 'c494ac3a2feaf28b98be9eb2df2bf97a';
    fc.assert(
      fc.property(fc.array(fc.nat({ max: bytes.length }), { maxLength: 5 }), (cuts) => {
        const ends = [...cuts, bytes.length].sort((a, b) => a - b);
        const pieces = ends.map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end));
        assert.equal(hash(...pieces), whole);
      }),
      { numRuns: 30 },
    );
  });

  it('is the same for the same records in any order, and with others that came and went', () => {
    fc.assert(
      fc.property(fc.array(aSample), fc.array(aSample), (kept, gone) => {
        const sum = Int32Array.from(NOTHING);
        for (const sample of gone) count(sum, 1, sample);
        for (const sample of [...kept].reverse()) count(sum, 1, sample);
        for (const sample of gone) count(sum, -1, sample);
        assert.equal(hashText(sum), hashOf(kept));
      }),
    );
  });

  it('does not depend on whether a node compresses values', () => {
    const one = { key: 'k', value: 'x'.repeat(500), xtMs: 0, ns: 1 };
    assert.equal(hashOf([one], true), hashOf([one]));
  });

  it('differs by each thing that must be equal, and sees a record counted twice', () => {
    const one = { key: 'ab', value: 'cd', xtMs: 5, ns: 7 };
    const others = [
      { ...one, key: 'abc', value: 'd' },
      { ...one, key: 'a', value: 'bcd' },
      { ...one, key: 'ac' },
      { ...one, value: 'ce' },
      { ...one, xtMs: 0 },
      { ...one, ns: 8 },
    ];
    const all = [[one], [one, one], [], ...others.map((other) => [other])].map((samples) => hashOf(samples));
    assert.equal(new Set(all).size, all.length);
  });

  it('takes values of any size', () => {
    const sizes = [0, 1, 1023, 1024, 100_000];
    const all = sizes.map((size) => hashOf([{ key: 'k', value: 'v'.repeat(size), xtMs: 0, ns: 1 }]));
    assert.equal(new Set(all).size, sizes.length);
  });
});
