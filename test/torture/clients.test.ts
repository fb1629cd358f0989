/** Clients that cost too much, a few of each: `npm run torture -- clients` plays the same scenes at full scale. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { knowsProcesses } from '../support/process-facts.js';
import { tortureClients } from './clients.js';

const SMALL = { slow: 40, silent: 0, idle: 500, deaf: 40, keys: 50_000 };

describe('slow, idle, greedy and deaf clients of a real node (invariant 9)', () => {
  it('are bounded in time and memory, and honest ones are served beside them', {
    skip: knowsProcesses ? false : 'reads /proc',
  }, async () => {
    const failures: string[] = [];
    const report = { progress: () => undefined, failure: (text: string) => void failures.push(text) };
    const { failed } = await tortureClients(SMALL, { seconds: 1, report, signal: new AbortController().signal });
    assert.equal(failed, 0, failures.join('\n'));
  });
});
