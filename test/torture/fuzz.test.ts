/** The fuzzer for a few seconds: every port of a real server, with a seed of its own each time. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { knowsProcesses } from '../support/process-facts.js';
import { fuzz } from './fuzz.js';

const SECONDS = 4;

describe('a server that gets broken input on every port (invariant 9)', () => {
  it('lives, answers honest clients, and is as before afterwards', {
    skip: knowsProcesses ? false : 'reads /proc',
  }, async () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const failures: string[] = [];
    const report = { progress: () => undefined, failure: (text: string) => void failures.push(text) };
    const { runs, failed } = await fuzz.run({ seconds: SECONDS, seed, report, signal: new AbortController().signal });
    assert.equal(failed, 0, `npm run torture -- fuzz --seconds ${SECONDS} --seed ${seed}\n${failures.join('\n')}`);
    assert.ok(runs > 1000, `${runs} inputs`);
  });
});
