/** Clocks that differ: when that is said, and when it is only a slow network. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ClockWatch } from '../../src/replication/following/clock-watch.js';

const HOUR_MS = 3_600_000;

describe('a follower that compares its clock with the origin', () => {
  /** A beat each second, `late(i)` ms on its way. */
  function watch(beats: number, aheadMs: number, late: (i: number) => number): number[] {
    const said: number[] = [];
    const clock = new ClockWatch((facts) => said.push(facts.aheadMs));
    for (let i = 0; i < beats; i++) clock.hear(i * 1000, i * 1000 + late(i) + aheadMs, i * 1000 + late(i));
    return said;
  }

  it('says soon that it is an hour ahead or behind, and then once a minute', () => {
    for (const aheadMs of [HOUR_MS, -HOUR_MS]) {
      assert.deepEqual(
        watch(5, aheadMs, () => 20),
        [aheadMs + 20],
      );
      assert.equal(watch(185, aheadMs, () => 20).length, 3);
    }
  });

  it('says nothing of clocks that agree, however slow the network is at times', () => {
    assert.deepEqual(
      watch(600, 0, (i) => (i % 4 === 0 ? 50 : 30_000)),
      [],
    );
    // A network that stood still for half a minute, later on.
    assert.deepEqual(
      watch(600, 0, (i) => (i > 10 && i < 40 ? 40_000 - i * 1000 : 5)),
      [],
    );
    assert.deepEqual(
      watch(600, -2000, () => 0),
      [],
    );
  });
});
