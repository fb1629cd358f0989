/** Which Postgres transactions share a transaction of the store. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ChangeBatch } from '../../src/feeds/postgres/batch.js';
import type { RowChange } from '../../src/feeds/postgres/mapping.js';

const LIMITS = { maxTransactionBytes: 1000, maxTransactionChanges: 10 };
const changes = (count: number): RowChange[] => Array.from({ length: count }, () => () => undefined);

describe('a batch of changes', () => {
  it('gathers whole transactions in order, and carries the position of the last', () => {
    const [one, two] = [changes(2), changes(3)];
    const batch = new ChangeBatch('postgres', [...one], 20, 7n);
    assert.equal(batch.join(two, 30, 9n, LIMITS), true);
    assert.deepEqual(batch.changes, [...one, ...two]);
    assert.equal(batch.bytes, 50);
    assert.deepEqual(batch.position, { feed: 'postgres', position: 9n });
  });

  it('takes no part of a transaction that was cut, and nothing behind one', () => {
    const whole = new ChangeBatch('postgres', changes(1), 10, 7n);
    assert.equal(whole.join(changes(1), 10, undefined, LIMITS), false);
    assert.deepEqual(whole.position, { feed: 'postgres', position: 7n });
    const part = new ChangeBatch('postgres', changes(1), 10, undefined);
    assert.equal(part.join(changes(1), 10, 9n, LIMITS), false);
    assert.equal(part.position, undefined);
  });

  it('keeps to the limits of one transaction, and to some hundred changes', () => {
    const batch = new ChangeBatch('postgres', changes(6), 600, 7n);
    assert.equal(batch.join(changes(5), 10, 9n, LIMITS), false, 'changes');
    assert.equal(batch.join(changes(1), 500, 9n, LIMITS), false, 'bytes');
    assert.equal(batch.join(changes(4), 400, 9n, LIMITS), true);
    const wide = { maxTransactionBytes: 2 ** 30, maxTransactionChanges: 2 ** 30 };
    assert.equal(new ChangeBatch('postgres', changes(499), 10, 7n).join(changes(2), 10, 9n, wide), false);
    assert.equal(new ChangeBatch('postgres', changes(1), 2 ** 18, 7n).join(changes(1), 1, 9n, wide), false);
  });
});
