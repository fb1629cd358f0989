/** The order of use of a cache's keys, against an array. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Recency } from '../../src/engine/recency.js';

describe('the order in which the keys of a cache were used', () => {
  it('is exact after any sequence of uses and removals', () => {
    const step = fc.tuple(
      fc.constantFrom('touch' as const, 'touch' as const, 'forget' as const),
      fc.nat(1500).map(String),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 4000, size: 'max' }), (steps) => {
        const recency = new Recency();
        const model = new Set<string>();
        for (const [kind, key] of steps) {
          recency[kind](key);
          model.delete(key);
          if (kind === 'touch') model.add(key);
        }
        assert.deepEqual([...recency.oldest()], [...model]);
        recency.clear();
        assert.deepEqual([...recency.oldest()], []);
      }),
      { numRuns: 60 },
    );
  });
});
