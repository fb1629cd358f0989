/** A few seconds of attacks on running nodes: `npm run torture -- attacks` goes on for minutes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { attacks } from './attacks.js';

const SECONDS = 5;

describe('a cluster that is attacked by who has no right to it', () => {
  it('lets nobody in, and loses and invents nothing (invariants 7 and 9)', async () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const failures: string[] = [];
    const report = { progress: () => undefined, failure: (text: string) => void failures.push(text) };
    const result = await attacks.run({ seconds: SECONDS, seed, report, signal: new AbortController().signal });
    const again = `npm run torture -- attacks --seconds ${SECONDS} --seed ${seed}`;
    assert.equal(result.failed, 0, `${again}\n${failures.join('\n')}`);
    assert.ok(result.runs >= 3 && Number(result.records) > 0, JSON.stringify(result));
  });
});
