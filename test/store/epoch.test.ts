/** An epoch that began once is never begun again, whatever the power does meanwhile (invariant 2). */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { type Epoch, sid } from '../../src/base/types.js';
import { describePosition } from '../../src/log/position.js';
import { Dice } from '../../src/sim/dice.js';
import { DataFile, SimulatedEngine } from '../../src/sim/engine.js';
import { Machine } from '../../src/sim/machine.js';
import { Scheduler } from '../../src/sim/scheduler.js';
import { ApplyOrder } from '../../src/store/apply-order.js';
import { parseDatabase } from '../../src/store/database-spec.js';
import { LocalStore } from '../../src/store/store.js';
import { broken } from '../support/local-runtime.js';
import { encode, set, transaction, withBench } from '../support/store-model.js';

const OPTIONS = { mapSizeBytes: 1, maxMaps: 1, flushesCommits: true, onBroken: () => undefined };

describe('an epoch', () => {
  it('is not begun a second time after a power cut, at whatever moment it comes', async () => {
    for (let seed = 0; seed < 60; seed++) {
      const steps = 1 + (seed % 12);
      const scheduler = new Scheduler();
      const dice = new Dice(seed);
      const file = new DataFile();
      const machine = new Machine('root', scheduler, dice, () => file.powerCut(dice));
      const weather = { commitMs: 1, flushMs: 10, full: false };
      const open = (): LocalStore => {
        const world = { scheduler, weather, dice, onCommit: () => undefined };
        const process = machine.start();
        return new LocalStore({
          engine: new SimulatedEngine(file, process, world, OPTIONS),
          runtime: process.runtime,
          log: silentLogger,
          sid: sid(1),
          databases: [parseDatabase('default')],
          retention: { bytes: 2 ** 30, ageMs: 2 ** 40 },
          transaction: { bytes: 2 ** 20, keyBytes: 1024 },
          queue: { jobs: 1000, commitChanges: 2000, commitBytes: 2 ** 20, commitIntervalMs: 0 },
          maxDatabases: 16,
          onBroken: broken,
        });
      };
      const step = async (count: number): Promise<void> => {
        for (let i = 0; i < count; i++) {
          await new Promise((resolve) => setImmediate(resolve));
          await scheduler.step(scheduler.nowMs + 100);
        }
      };
      const numbered: Epoch[] = [];
      const first = open();
      first.onCommit(() => numbered.push(first.ownPosition()?.epoch as Epoch));
      void first.write((transaction) => transaction.set('default', Buffer.from('k'), Buffer.from('v'), 0)).committed;
      await step(20);
      void first.beginEpoch();
      await step(steps);
      machine.crash('power');
      const second = open();
      void second.beginEpoch();
      await step(40);
      const { epoch } = second;
      assert.ok(epoch > Math.max(...numbered), `${steps} steps: ${epoch} after ${numbered.join(' ')}`);
    }
  });

  it('lies beyond one that comes back from a follower meanwhile', async () => {
    await withBench(async (bench) => {
      const store = bench.store(1);
      const [first, second] = [store.beginEpoch(), store.beginEpoch()];
      await store.apply(encode([transaction(1, 1, 5, [set('k', 'v')], 7)])).committed;
      await Promise.all([first, second]);
      const [origin] = store.position();
      assert.ok((origin?.epoch ?? 0) > 7, `epoch ${origin?.epoch}`);
    });
  });

  it('that could not be taken over is not taken from its middle, where a number looks like the next one (invariant 2)', async () => {
    // Seed 133330 of the simulation: another link had brought what the origin lost.
    await withBench(async (bench) => {
      const store = bench.store(undefined);
      for (const n of [1, 2, 3]) await store.apply(encode([transaction(1, n, n, [])])).committed;
      const order = new ApplyOrder();
      const first = store.apply(encode([transaction(1, 2, 4, [], 2), transaction(1, 3, 5, [], 2)]), order);
      const second = store.apply(encode([transaction(1, 4, 6, [], 2)]), order);
      await assert.rejects(first.committed, { code: 'REPLICATION', message: /began epoch 2 at 2, this node has 3/ });
      await assert.rejects(second.committed, { code: 'REPLICATION', message: /came before it/ });
      await assert.rejects(store.apply(encode([transaction(1, 4, 6, [], 2)]), order).committed, {
        code: 'REPLICATION',
      });
      assert.equal(describePosition(store.position()), '1:3');
    });
  });
});
