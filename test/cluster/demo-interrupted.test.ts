/** The demonstration ended in its middle: whatever it had made by then is gone a few seconds later. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { startDemo } from '../support/demo.js';

/** More than any clean-up needs; what stays longer stays for ever. */
const CLEAN_UP_MS = 10_000;

describe('the demonstration', () => {
  // Ctrl-C reaches every process of the terminal's group; whoever supervises ends the one that it knows.
  const moments = [
    ['SIGTERM', 'the command', 'while Postgres is made', /starting Postgres/],
    ['SIGINT', 'the process group', 'while nodes start', /starting a root/],
    ['SIGINT', 'the process group', 'while it writes', /writing \d+ row changes/],
    ['SIGTERM', 'the command', 'while nodes are down', /are killed with kill -9/],
  ] as const;
  for (const [signal, who, when, said] of moments) {
    const skip = process.platform !== 'linux' && 'reads /proc';
    it(`leaves nothing behind after ${signal} to ${who} ${when}`, { skip }, async () => {
      const run = startDemo(['--edges', '2', '--relays', '1', '--rate', '50', '--seconds', '3', '--json'], 60_000);
      try {
        await run.said(said);
        const pid = run.child.pid as number;
        const startMs = performance.now();
        process.kill(signal === 'SIGINT' ? -pid : pid, signal);
        const code = await run.ended;
        assert.equal(code, signal === 'SIGINT' ? 130 : 143, run.err());
        assert.ok(performance.now() - startMs < CLEAN_UP_MS);
        assert.deepEqual(run.left(), { processes: [], files: [] });
        assert.equal(run.out(), '');
      } finally {
        run.remove();
      }
    });
  }
});
