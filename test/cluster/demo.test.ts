/** The demonstration: its verdict and its figures, for programs. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { startDemo } from '../support/demo.js';

describe('the demonstration', () => {
  it('kills, wipes, and ends with every edge equal to Postgres; --keep keeps the folders and says where', async () => {
    const run = startDemo(
      ['--edges', '2', '--relays', '1', '--rate', '50', '--seconds', '8', '--json', '--keep'],
      90_000,
    );
    try {
      const code = await run.ended;
      assert.equal(code, 0, run.err());
      const lines = run.out().trimEnd().split('\n');
      assert.equal(lines.length, 1, 'standard output is one JSON object');
      const result = JSON.parse(lines[0] as string) as Record<string, number>;
      const { p50Ms = -1, p99Ms = -1, maxMs = -1 } = result;
      assert.deepEqual([result.edges, result.relays, result.missing, result.wrong, result.unseen], [2, 1, 0, 0, 0]);
      assert.ok((result.rowChanges as number) > 200, `${result.rowChanges} row changes`);
      assert.ok((result.samples as number) > 200 && (result.compared as number) > 200);
      assert.ok(p50Ms > 0 && p50Ms <= p99Ms && p99Ms <= maxMs);
      assert.equal(result.killed, 3);
      assert.equal(result.rebuilt, 1);
      assert.equal(result.readErrors, 0, 'reads fail only at edges that were killed');
      assert.ok((result.readErrorsAroundKills as number) > 0, 'reads of a killed edge fail');
      const [, kept] = /kept: (\S+)/.exec(run.err()) ?? [];
      assert.ok(kept !== undefined && existsSync(join(kept, 'edge-02', 'node.log')), run.err());
      assert.deepEqual(run.left().processes, []);
      assert.deepEqual(
        run.left().files.map((name) => join(run.folder, name)),
        [kept],
      );
    } finally {
      run.remove();
    }
  });

  for (const [parameters, says] of [
    [['--edges', '0'], /error: --edges must be a whole number from 1 to 200, not "0"/],
    [['--rate', 'fast'], /error: --rate must be a whole number/],
    [['--seconds'], /error: .*--seconds/],
    [['--egdes', '3'], /error: .*--egdes/],
    [['30'], /error: .*30/],
  ] as const) {
    it(`${parameters.join(' ')} is refused with the options that there are`, async () => {
      const run = startDemo(parameters, 20_000);
      try {
        assert.equal(await run.ended, 2);
        assert.match(run.err(), says);
        assert.match(run.err(), /--relays N/);
        assert.doesNotMatch(run.err(), /\n +at /);
      } finally {
        run.remove();
      }
    });
  }
});
