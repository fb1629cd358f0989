/** The torture command itself, as people and scripts use it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { TORTURES } from './registry.js';

const RUN = join(dirname(fileURLToPath(import.meta.url)), 'run.js');

function torture(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, ['--enable-source-maps', RUN, ...args], { encoding: 'utf8', timeout: 60_000 });
}

describe('npm run torture', () => {
  it('lists what there is, each name once', () => {
    const { status, stdout } = torture('--list');
    assert.equal(status, 0);
    assert.deepEqual(
      stdout
        .trim()
        .split('\n')
        .map((line) => line.split(' ')[0]),
      TORTURES.map(({ name }) => name),
    );
    assert.equal(new Set(TORTURES.map(({ name }) => name)).size, TORTURES.length);
  });

  it('refuses a name that does not exist, and names the nearest', () => {
    const { status, stderr } = torture('codec');
    assert.equal(status, 2);
    assert.match(stderr, /there is no torture "codec": did you mean codecs\?/);
  });

  it('refuses options out of range', () => {
    for (const wrong of [['--seconds', '0'], ['--seed', 'x'], ['--speed', '1'], ['other']]) {
      assert.equal(torture('codecs', ...wrong).status, 2, wrong.join(' '));
    }
  });

  it('ends with one JSON object, and nothing else on standard output', () => {
    const { status, stdout, stderr } = torture('codecs', '--seconds', '1', '--seed', '7', '--json');
    assert.equal(status, 0, stderr);
    const { name, seed, runs, failed } = JSON.parse(stdout) as Record<string, unknown>;
    assert.deepEqual({ name, seed, failed }, { name: 'codecs', seed: 7, failed: 0 });
    assert.ok(Number(runs) >= 500, `${runs} inputs`);
  });
});
