/** The LMDB engine: the suite of every engine, in both modes of flushing, and what only this one has. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { LmdbEngine, MAX_ENGINE_KEY_BYTES } from '../../src/engine/lmdb.js';
import { engineConformance } from './conformance.js';

for (const flushesCommits of [true, false]) {
  engineConformance(flushesCommits ? 'LMDB' : 'LMDB, flushed when it closes', {
    open: (folder) => new LmdbEngine({ bootId: 'a boot', folder, mapSizeBytes: 2 ** 28, maxMaps: 70, flushesCommits }),
    persists: true,
    // One byte escapes a leading zero.
    maxKeyBytes: MAX_ENGINE_KEY_BYTES - 1,
  });
}

describe('LMDB', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-lmdb-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it('a commit is visible to readers when its write resolves, and its flush may still be under way', async () => {
    const engine = new LmdbEngine({ bootId: 'a boot', folder, mapSizeBytes: 2 ** 26, maxMaps: 4 });
    const map = engine.openMap('map');
    const flushes: Promise<void>[] = [];
    let underWay = 0;
    for (let n = 0; n < 300; n++) {
      // Read before, so that a reader of this turn is open on the older commit.
      assert.equal(engine.get(map, Buffer.from('n'))?.toString(), n === 0 ? undefined : `${n - 1}`);
      const { flushed } = await engine.write((writer) => writer.put(map, Buffer.from('n'), Buffer.from(`${n}`)));
      assert.equal(engine.get(map, Buffer.from('n'))?.toString(), `${n}`);
      underWay++;
      flushes.push(flushed.then(() => void underWay--));
    }
    await Promise.all(flushes);
    assert.equal(underWay, 0);
    await engine.close();
  });

  it('refuses more maps than it was opened for with STORAGE', async () => {
    const engine = new LmdbEngine({ bootId: 'a boot', folder, mapSizeBytes: 2 ** 20, maxMaps: 2 });
    engine.openMap('one');
    engine.openMap('two');
    assert.throws(() => engine.openMap('three'), { code: 'STORAGE' });
    await engine.close();
  });

  it('a file written with flushes opens without them, and the other way round, with everything in it', async () => {
    const options = { folder, mapSizeBytes: 2 ** 24, maxMaps: 4 };
    const modes = [true, false, true, false];
    for (const [round, flushesCommits] of modes.entries()) {
      const engine = new LmdbEngine({ bootId: 'a boot', ...options, flushesCommits });
      const map = engine.openMap('map');
      const { flushed } = await engine.write((writer) => writer.put(map, Buffer.from(`${round}`), Buffer.from('here')));
      await flushed;
      for (let i = 0; i <= round; i++) assert.equal(engine.get(map, Buffer.from(`${i}`))?.toString(), 'here');
      await engine.close();
    }
  });
});
