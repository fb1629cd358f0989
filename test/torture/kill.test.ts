/** The killing of a root under load, a few times: `npm run torture -- kill` goes on for minutes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { kill } from './kill.js';

const SECONDS = 4;

describe('a root fed from Postgres and written to by clients, killed again and again', () => {
  it('leaves every node equal to both, and nothing acknowledged lost (invariants 3 and 5)', async () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const failures: string[] = [];
    const report = { progress: () => undefined, failure: (text: string) => void failures.push(text) };
    const result = await kill.run({ seconds: SECONDS, seed, report, signal: new AbortController().signal });
    const { runs, failed, acknowledged, rowChanges } = result;
    assert.equal(failed, 0, `npm run torture -- kill --seconds ${SECONDS} --seed ${seed}\n${failures.join('\n')}`);
    assert.ok(runs >= 1 && Number(acknowledged) > 0 && Number(rowChanges) > 0, JSON.stringify(result));
  });
});
