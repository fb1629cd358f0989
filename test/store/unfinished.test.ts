/** A snapshot that is loaded in several goes: what lies in the engine says where to go on, and the end is the same. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { SnapshotLoader, SnapshotSource } from '../../src/store/snapshot.js';
import { unfinishedIn } from '../../src/store/unfinished.js';
import { aHistory, checkHashes, dump, encode, withBench } from '../support/store-model.js';

const ID = 'ab'.repeat(16);

describe('a loader that goes on', () => {
  it('ends with what one that was never stopped has, wherever it was stopped', async () => {
    await fc.assert(
      fc.asyncProperty(aHistory(1), fc.array(fc.boolean(), { maxLength: 40 }), async (history, stops) => {
        await withBench(async (bench) => {
          const source = bench.store(undefined);
          await source.apply(encode(history)).committed;
          const from = new SnapshotSource(source.engine);
          const engine = bench.engine();
          let loader = new SnapshotLoader(engine, from.contents, [], undefined, ID);
          let at = 0;
          for (let slice = from.next(40); slice !== undefined; slice = from.next(40)) {
            await loader.add(slice);
            assert.equal(unfinishedIn(engine)?.rows, loader.rows);
            if (stops[at++] !== true) continue;
            const { rows } = loader;
            loader = new SnapshotLoader(engine, from.contents, [], undefined, ID);
            assert.equal(loader.rows, rows);
          }
          await loader.finish(loader.rows);
          from.close();
          assert.equal(unfinishedIn(engine), undefined, 'a store that is whole is not unfinished');
          const copy = bench.store(undefined, { engine });
          const whole = await bench.seeded(source);
          assert.deepEqual(dump(engine), dump(whole.engine));
          checkHashes(copy);
        });
      }),
      { numRuns: 30 },
    );
  });

  it('takes no rows of another snapshot for its own', async () => {
    await withBench(async (bench) => {
      const source = bench.store(1);
      await source.write((view) => view.set('default', Buffer.from('k'), Buffer.from('v'), 0xff_ff_ff_ff_ff)).committed;
      const from = new SnapshotSource(source.engine);
      const engine = bench.engine();
      const slice = from.next(1);
      assert.ok(slice !== undefined);
      await new SnapshotLoader(engine, from.contents, [], undefined, ID).add(slice);
      for (const id of ['cd'.repeat(16), undefined])
        assert.throws(() => new SnapshotLoader(engine, from.contents, [], undefined, id), { code: 'CORRUPT' });
      from.close();
      await engine.close();
    });
  });
});
