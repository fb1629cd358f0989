/** Full disks for a few seconds: `npm run torture -- disk-full` goes on for minutes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { diskFull } from './disk-full.js';

const SECONDS = 6;

describe('disks that are full again and again', {
  skip: process.platform === 'linux' ? false : 'needs prlimit',
}, () => {
  it('lose nothing acknowledged, and all comes back by itself when there is room', async () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const failures: string[] = [];
    const report = { progress: () => undefined, failure: (text: string) => void failures.push(text) };
    const { failed } = await diskFull.run({ seconds: SECONDS, seed, report, signal: new AbortController().signal });
    assert.equal(failed, 0, `npm run torture -- disk-full --seconds ${SECONDS} --seed ${seed}\n${failures.join('\n')}`);
  });
});
