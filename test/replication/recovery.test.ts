/** What a root does after its machine went down, before it takes writes again. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import type { DataDirectory } from '../../src/node/data/data-directory.js';
import { Recovery } from '../../src/node/data/recovery.js';
import { eventually, localRuntime } from '../support/local-runtime.js';

function recoveryOf(followers: readonly string[], waitMs: number): { recovery: Recovery; events: string[] } {
  const events: string[] = [];
  const directory = {
    tailMayBeLost: true,
    knownFollowers: followers,
    rememberFollower: () => undefined,
    forgetFollowers: (forgotten: readonly string[]) => events.push(`forgets ${forgotten.join(' ')}`),
    tailSettled: () => events.push('settled'),
  } as unknown as DataDirectory;
  const beginEpoch = async (): Promise<void> => {
    events.push('epoch');
  };
  const recovery = new Recovery({ directory, waitMs, runtime: localRuntime(), log: silentLogger, beginEpoch }, true);
  return { recovery, events };
}

describe('a root that may have lost its tail', () => {
  it('goes on in a new epoch when all its followers came: those behind them may know more (invariant 2)', async () => {
    const { recovery, events } = recoveryOf(['a', 'b'], 60_000);
    const complete = recovery.complete();
    recovery.accountedFor('a');
    assert.match(recovery.refusal()?.message ?? '', /waiting for 1 followers/);
    recovery.accountedFor('b');
    await complete;
    assert.deepEqual(events, ['epoch', 'settled']);
    assert.equal(recovery.refusal(), undefined);
  });

  it('waits no longer than it is told to, and forgets who stayed away', async () => {
    const { recovery, events } = recoveryOf(['a', 'b'], 20);
    const complete = recovery.complete();
    recovery.accountedFor('b');
    await eventually('it goes on', () => events.length === 3);
    await complete;
    assert.deepEqual(events, ['forgets a', 'epoch', 'settled']);
  });
});
