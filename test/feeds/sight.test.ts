/** What a snapshot shows of the transactions that come with the stream. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Beside } from '../../src/feeds/postgres/beside.js';
import { Sight } from '../../src/feeds/postgres/sight.js';
import type { PublishedTable } from '../../src/feeds/postgres/tables.js';

const CYCLE = 2n ** 32n;

describe('a sight', () => {
  it('shows what is over, and nothing that is open or began later', () => {
    const sight = new Sight('100:110:103,107', 1000n);
    const shown = [99, 100, 102, 104, 109];
    const hidden = [103, 107, 110, 111, 5000];
    for (const xid of shown) assert.equal(sight.shows(xid, 999n), true, `${xid}`);
    for (const xid of hidden) assert.equal(sight.shows(xid, 999n), false, `${xid}`);
  });

  it('shows nothing that was committed behind its position, whatever the number', () => {
    const sight = new Sight('100:110:', 1000n);
    assert.deepEqual([sight.shows(104, 999n), sight.shows(104, 1000n)], [true, false]);
  });

  it('is right about every transaction less than 2^31 away, wherever the numbers begin again', () => {
    const near = fc.bigInt({ min: -(2n ** 31n) + 1n, max: 2n ** 31n - 1n });
    const open = fc.uniqueArray(fc.integer({ min: 0, max: 99 }), { maxLength: 20 });
    const least = fc.bigInt({ min: 2n ** 31n, max: 2n ** 40n });
    fc.assert(
      fc.property(least, fc.integer({ min: 0, max: 100 }), open, near, (xmin, span, offsets, away) => {
        const next = xmin + BigInt(span);
        const listed = offsets.filter((offset) => offset < span).map((offset) => xmin + BigInt(offset));
        const sight = new Sight(`${xmin}:${next}:${listed.join(',')}`, 1n);
        const xid = next + away;
        const wanted = xid < next && !listed.includes(xid);
        assert.equal(sight.sees(Number(BigInt.asUintN(32, xid))), wanted, `${xid} in ${xmin}:${next}:${listed.join()}`);
        assert.equal(sight.sees(Number(BigInt.asUintN(32, xid + CYCLE))), wanted);
      }),
    );
  });

  it('refuses what is no snapshot', () => {
    for (const text of ['', '1:2', '1:2:a', '-1:2:', '1:2:3:4'])
      assert.throws(() => new Sight(text, 1n), /is not a snapshot of Postgres/);
  });
});

describe('a copy beside the stream', () => {
  const [anew, on, other] = [{}, {}, {}] as [PublishedTable, PublishedTable, PublishedTable];
  const kinds = new Map([
    [anew, 'anew'],
    [on, 'on'],
  ] as const);

  it('takes no snapshot that lacks what the stream left to it', () => {
    const beside = new Beside(kinds, new Set());
    assert.equal(beside.has(anew, 103, 50n), true);
    assert.equal(beside.hasRows(on, 104, 51n), true);
    assert.equal(beside.judge(new Sight('103:105:103,104', 100n)), false);
    assert.equal(beside.judge(new Sight('103:105:103', 100n)), false);
    assert.equal(beside.isJudged, false);
    assert.equal(beside.judge(new Sight('110:110:', 200n)), true);
    assert.deepEqual([beside.isJudged, beside.lsn], [true, 200n]);
  });

  it('leaves changes to the snapshot only where this shows them', () => {
    const beside = new Beside(kinds, new Set());
    assert.equal(beside.judge(new Sight('100:105:103', 100n)), true);
    assert.deepEqual(
      [beside.has(anew, 102, 60n), beside.has(anew, 103, 60n), beside.has(anew, 102, 100n)],
      [true, false, false],
    );
    assert.deepEqual([beside.hasRows(on, 102, 60n), beside.hasRows(on, 103, 60n)], [true, false]);
  });

  it('has nothing of other tables, and all changes of one that goes on are applied', () => {
    const beside = new Beside(kinds, new Set());
    assert.deepEqual([beside.has(other, 1, 1n), beside.hasRows(other, 1, 1n)], [false, false]);
    assert.equal(beside.has(on, 1, 1n), false);
    assert.equal(beside.hasRows(anew, 1, 1n), false);
    assert.equal(beside.judge(new Sight('1:1:', 1n)), true, 'nothing was promised');
  });

  it('remembers no more transactions than its limit', () => {
    const beside = new Beside(kinds, new Set(), 2);
    beside.has(anew, 1, 1n);
    beside.has(anew, 2, 1n);
    beside.has(anew, 2, 1n);
    assert.throws(() => beside.has(anew, 3, 1n), /more than 2 transactions/);
    beside.forget(new Sight('3:3:', 1n));
    beside.has(anew, 4, 1n);
  });
});
