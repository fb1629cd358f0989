/** The bench as its users run it: options, one short row, and nothing left behind. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { median } from '../../bench/measure.js';
import { cliPath } from '../support/cluster.js';

const RUN = join(dirname(cliPath()), '..', '..', 'bench', 'run.js');

function bench(parameters: readonly string[], env: Record<string, string> = {}) {
  const run = spawnSync(process.execPath, [RUN, ...parameters], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 60_000,
  });
  return { code: run.status, out: run.stdout, err: run.stderr };
}

describe('the bench', () => {
  it('names its rows, those asked for', () => {
    const { code, out } = bench(['--list', '--only', '^bulk-']);
    assert.equal(code, 0);
    assert.equal(out.trim().split('\n').length, 6);
    assert.match(out, /^bulk-get-memory /m);
  });

  it('refuses wrong options with 2, and says what is wrong', () => {
    for (const [parameters, message] of [
      [['--seconds', '0'], /--seconds must be/],
      [['--only', '('], /regular expression/],
      [['--only', 'no such row'], /no row matches/],
      [['--fast'], /--fast/],
    ] as const) {
      const { code, err } = bench(parameters);
      assert.equal(code, 2);
      assert.match(err, message);
    }
  });

  it('measures a row alone when there is no peer, prints one JSON array last, and leaves nothing behind', () => {
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-bench-test-'));
    try {
      const parameters = ['--only', '^rest-get-memory$', '--seconds', '1', '--rounds', '1', '--json'];
      const { code, out, err } = bench(parameters, { PATH: '', TMPDIR: folder });
      assert.equal(code, 0, err);
      const [row, ...more] = JSON.parse(out.trim().split('\n').at(-1) as string) as Record<string, unknown>[];
      assert.deepEqual(more, []);
      const { ours, range, ...rest } = row as { ours: number; range: number[] };
      const alone = { peer: null, peerName: null, ratio: null, budget: null };
      assert.deepEqual(rest, { row: 'rest-get-memory', unit: 'requests/s', better: 'higher', ...alone });
      assert.ok(ours > 100, `${ours} requests per second`);
      assert.deepEqual(range, [ours, ours]);
      assert.deepEqual(readdirSync(folder), []);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it('takes the median over the rounds', () => {
    assert.equal(median([9, 1, 5]), 5);
    assert.equal(median([4, 1, 2, 100]), 3);
  });
});
