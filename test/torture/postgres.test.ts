/** The torture of the feed, for moments: `npm run torture -- postgres` goes on for minutes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { postgres } from './postgres.js';
import { postgresIdle } from './postgres-idle.js';
import type { Torture } from './torture.js';

describe('the Postgres feed under torture', () => {
  for (const [torture, seconds] of [
    [postgres, 3],
    [postgresIdle, 1],
  ] as const satisfies readonly (readonly [Torture, number])[]) {
    it(torture.about, async () => {
      const seed = Math.floor(Math.random() * 2 ** 32);
      const failures: string[] = [];
      const report = { progress: () => undefined, failure: (text: string) => void failures.push(text) };
      const result = await torture.run({ seconds, seed, report, signal: new AbortController().signal });
      assert.equal(result.failed, 0, `npm run torture -- ${torture.name} --seed ${seed}\n${failures.join('\n')}`);
      assert.ok(result.runs >= 1, JSON.stringify(result));
    });
  }
});
