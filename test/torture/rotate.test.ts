/** A rotation of the CA under a small cluster: `npm run torture -- rotate` goes on with ten nodes, for minutes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { rotateUnderLoad } from './rotate.js';

describe('a cluster whose CA is rotated under load', () => {
  it('loses no write, restarts no node, and believes no old certificate in the end (invariants 5 and 7)', async () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const failures: string[] = [];
    const report = { progress: () => undefined, failure: (text: string) => void failures.push(text) };
    const options = { seconds: 1, seed, report, signal: new AbortController().signal };
    const result = await rotateUnderLoad({ relays: 1, edges: 2 }, options, undefined);
    assert.equal(result.failed, 0, `seed ${seed}\n${failures.join('\n')}`);
    assert.ok(Number(result.acknowledged) > 5, JSON.stringify(result));
  });
});
