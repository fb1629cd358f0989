/** Moments in which a node answered nobody: counted, and told with who was the reason. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Logger, silentLogger } from '../../src/base/logger.js';
import { StallWatch } from '../../src/node/status/stall-watch.js';
import { Cluster } from '../support/cluster.js';
import { eventually } from '../support/local-runtime.js';
import { adminText } from '../torture/honest-client.js';

describe('stalls of a node', () => {
  it('are counted by length, and told at most once a minute, with whose fault they are', () => {
    let [nowMs, usedMs] = [0, 0];
    let look: () => void = () => undefined;
    const told: string[] = [];
    const log: Logger = { ...silentLogger, warn: (_, message) => void told.push(message) };
    const runtime = {
      monotonicMs: () => nowMs,
      every: (_: number, fn: () => void) => {
        look = fn;
        return { cancel: () => undefined };
      },
    };
    const watch = new StallWatch({ runtime, log, usedMs: () => usedMs });
    const pass = (ms: number, used: number): void => {
      nowMs += ms;
      usedMs += used;
      look();
    };
    pass(250, 250);
    pass(300, 300);
    assert.deepEqual(
      [...watch.counts],
      [
        [100, 0],
        [1000, 0],
      ],
    );
    pass(400, 400);
    pass(3250, 3000);
    pass(2250, 100);
    assert.deepEqual(
      [...watch.counts],
      [
        [100, 3],
        [1000, 2],
      ],
    );
    assert.equal(watch.stalledMs, 150 + 3000 + 2000);
    assert.equal(told.length, 1);
    assert.match(told[0] as string, /answered for 3\.0 s; something took long here/);
    pass(60_000, 10);
    assert.match(told[1] as string, /the machine gave this process no processor/);
    watch.close();
  });

  it('of a process that was stopped are in its metrics and its log', async () => {
    const cluster = await Cluster.create();
    try {
      const root = await cluster.add({ name: 'root', role: 'root' });
      cluster.start(root);
      await cluster.ready(root);
      const pid = root.process?.pid as number;
      process.kill(pid, 'SIGSTOP');
      await new Promise((resolve) => setTimeout(resolve, 2000));
      process.kill(pid, 'SIGCONT');
      await eventually('it is counted', async () =>
        /tokaido_stalls_total\{seconds="1"\} [1-9]/.test(await adminText(root, '/metrics')),
      );
      assert.match(cluster.log(root), /nobody was answered for [0-9.]+ s; the machine gave this process no processor/);
    } finally {
      await cluster.close();
    }
  });
});
