/** Whole clusters in one process, under faults, from seeds. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { SCENARIOS } from '../../src/sim/scenarios.js';
import { simulate } from '../../src/sim/simulate.js';

const SEEDS = 200;
/** Of each scenario. */
const PLAYED = 4;

describe('a simulated cluster', () => {
  it(`keeps its invariants and becomes equal again, whatever happens to it (${SEEDS} seeds)`, async () => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      const { violation, trace } = await simulate(seed);
      assert.equal(violation, undefined, `seed ${seed}: ${violation?.stack}\n${trace.slice(-60).join('\n')}`);
    }
  });

  for (const scenario of Object.keys(SCENARIOS)) {
    it(`keeps its invariants in the scenario ${scenario}`, async () => {
      for (let seed = 1; seed <= PLAYED; seed++) {
        const { violation, trace } = await simulate(seed, undefined, scenario);
        assert.equal(violation, undefined, `seed ${seed}: ${violation?.stack}\n${trace.slice(-60).join('\n')}`);
      }
    });
  }

  it('does the same again for the same seed', async () => {
    for (const seed of [11, 12, 13]) {
      const [first, second] = [await simulate(seed), await simulate(seed)];
      assert.deepEqual(first, second);
    }
  });
});
