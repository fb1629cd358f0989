/** Sets of keys that are compared without holding them, and keys that are listed from servers of either kind. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { listKeys } from '../../src/client/bulk.js';
import type { RpcAnswer, TokaidoClient } from '../../src/client/client.js';
import { KeyBuckets } from '../../src/feeds/postgres/key-buckets.js';

const keySet = fc.uniqueArray(fc.string({ maxLength: 12 }), { maxLength: 200 });

function bytes(texts: readonly string[]): Buffer[] {
  return texts.map((text) => Buffer.from(text));
}

describe('keys in buckets', () => {
  it('the same keys in any order differ nowhere', () => {
    fc.assert(
      fc.property(keySet, (texts) => {
        const buckets = new KeyBuckets();
        for (const key of bytes(texts)) buckets.expect(key);
        for (const key of bytes(texts).reverse()) buckets.meet(key);
        assert.deepEqual([...buckets.differing(10)], []);
      }),
      { numRuns: 100 },
    );
  });

  it('a key that only one side is said to have is in a bucket that differs, and groups are bounded', () => {
    fc.assert(
      fc.property(keySet, keySet, fc.integer({ min: 1, max: 20 }), (rows, records, most) => {
        const buckets = new KeyBuckets();
        for (const key of bytes(rows)) buckets.expect(key);
        for (const key of bytes(records)) buckets.meet(key);
        const groups = [...buckets.differing(most)];
        const without = bytes(records.filter((key) => !rows.includes(key)));
        for (const key of without) assert.ok(groups.some((group) => group.has(buckets.bucketOf(key))));
        for (const group of groups) {
          const held = bytes(records).filter((key) => group.has(buckets.bucketOf(key))).length;
          assert.ok(held <= most || group.size === 1, `${held} keys in a group of at most ${most}`);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('a key that comes twice on one side is noticed', () => {
    const buckets = new KeyBuckets();
    const key = Buffer.from('k');
    for (let i = 0; i < 2; i++) buckets.meet(key);
    buckets.expect(key);
    assert.equal([...buckets.differing(10)].length, 1);
  });
});

/** A server that has these keys; `pages` if it knows `after`. */
function serverOf(keys: readonly string[], pages: boolean): TokaidoClient {
  let at = 0;
  const answer = (status: number, rows: readonly (readonly [string, string])[]): RpcAnswer => ({
    status,
    rows: new Map(rows.map(([name, value]) => [name, Buffer.from(value)])),
  });
  const none = answer(450, [['ERROR', 'DB: 7: no record: no record']]);
  const call = async (procedure: string, input: Record<string, string | Buffer>): Promise<RpcAnswer> => {
    if (procedure === 'match_prefix') {
      const after = pages ? String(input.after ?? '') : '';
      const found = keys.filter((key) => key.startsWith(String(input.prefix)) && key > after);
      return answer(
        200,
        found.slice(0, Number(input.max)).map((key) => [`_${key}`, '0'] as const),
      );
    }
    if (procedure === 'cur_jump') return keys.length === 0 ? none : answer(200, []);
    if (procedure === 'cur_delete') return answer(200, []);
    const key = keys[at++];
    return key === undefined
      ? none
      : answer(200, [
          ['key', key],
          ['value', 'v'],
        ]);
  };
  return { call, connections: 1 } as unknown as TokaidoClient;
}

describe('listing keys', () => {
  const keys = Array.from({ length: 12_000 }, (_, i) => `k${String(i).padStart(5, '0')}`);
  const all = [...keys, 'other'];

  for (const [kind, pages] of [
    ['a server that goes on behind a key', true],
    ['a server that knows only whole lists', false],
  ] as const) {
    it(`${kind}: every key of the prefix, and no other`, async () => {
      const listed = new Set<string>();
      for await (const page of listKeys(serverOf(all, pages), 'kv', Buffer.from('k')))
        for (const key of page) listed.add(key.toString());
      assert.deepEqual(listed, new Set(keys));
    });
  }

  it('no keys at all', async () => {
    for await (const page of listKeys(serverOf([], true), 'kv', Buffer.alloc(0))) assert.deepEqual(page, []);
  });
});
