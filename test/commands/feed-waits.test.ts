/** Readers that wait for a position: woken in time, told how far the node is, and limited in number. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { FeedWaits, type Reached } from '../../src/commands/feed-waits.js';

/** Timers that end when the test says so. */
function bench(maxWaiters = 100) {
  const due: (() => void)[] = [];
  const state: { reached: Reached } = { reached: 'nothing' };
  const waits = new FeedWaits({
    runtime: {
      after: (_, fn) => {
        due.push(fn);
        return { cancel: () => due.splice(due.indexOf(fn), 1) };
      },
    },
    reached: () => state.reached,
    describe: (_, position) => `at ${position}`,
    maxWaiters,
  });
  const wait = (position: bigint) => waits.wait({ feed: 'postgres', database: 'dns', position }, 300);
  return { state, waits, wait, due };
}

describe('waiting for a feed', () => {
  it('wakes exactly those whose position is reached, whatever the order of their coming', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 5 }),
        async (positions, steps) => {
          const { state, waits, wait, due } = bench();
          const woken: number[] = [];
          for (const position of positions) void wait(BigInt(position))?.done.then(() => woken.push(position));
          for (const step of steps.sort((a, b) => a - b)) {
            state.reached = BigInt(step);
            waits.advance();
            await new Promise((resolve) => setImmediate(resolve));
            const expected = positions.filter((position) => position <= step);
            assert.deepEqual([...woken].sort(), [...expected].sort());
            assert.equal(waits.waiting, positions.length - expected.length);
            assert.equal(due.length, waits.waiting, 'no timer is left behind');
          }
        },
      ),
    );
  });

  it('says how far the node is when the time is over', async () => {
    const { state, waits, wait, due } = bench();
    for (const [reached, message] of [
      ['nothing', /has reached nothing of postgres, not at 9, in 300 ms/],
      [7n, /has reached at 7 of postgres, not at 9, in 300 ms/],
      ['copying', /tables of database dns are being copied from postgres/],
    ] as const) {
      state.reached = reached;
      const waiting = wait(9n);
      due[0]?.();
      await assert.rejects(waiting?.done ?? Promise.resolve(), message);
    }
    assert.deepEqual([waits.waiting, waits.timeouts], [0, 3]);
    state.reached = 9n;
    assert.equal(wait(9n), undefined, 'nothing to wait for');
  });

  it('takes so many readers and no more', async () => {
    const { wait, waits } = bench(2);
    const first = wait(1n);
    wait(2n)?.done.catch(() => undefined);
    assert.throws(() => wait(3n), { code: 'OVERLOADED' });
    first?.cancel();
    await assert.rejects(first?.done ?? Promise.resolve(), { code: 'TIMEOUT' });
    const third = wait(3n);
    waits.close();
    await assert.rejects(third?.done ?? Promise.resolve(), { code: 'NOT_READY' });
    assert.equal(waits.waiting, 0);
  });
});
