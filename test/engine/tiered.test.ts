/** The engine with maps of both kinds: the suite of every engine on each kind, and one transaction over both. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { MapId, MapOptions } from '../../src/engine/engine.js';
import { LmdbEngine, MAX_ENGINE_KEY_BYTES } from '../../src/engine/lmdb.js';
import { MAX_MEMORY_KEY_BYTES, TieredEngine } from '../../src/engine/tiered.js';
import { engineConformance } from './conformance.js';

const disk = (folder: string): LmdbEngine =>
  new LmdbEngine({ bootId: 'a boot', folder, mapSizeBytes: 2 ** 28, maxMaps: 70 });

/** Everything in memory. */
class MemoryOnly extends TieredEngine {
  override openMap(name: string, options: MapOptions = { storage: 'memory' }): MapId {
    return super.openMap(name, options);
  }
}

engineConformance('both kinds, on the disk', {
  open: (folder) => new TieredEngine(disk(folder)),
  persists: true,
  maxKeyBytes: MAX_ENGINE_KEY_BYTES - 1,
});
engineConformance('both kinds, in memory', {
  open: (folder) => new MemoryOnly(disk(folder)),
  persists: false,
  maxKeyBytes: MAX_MEMORY_KEY_BYTES,
});

describe('one transaction over maps on the disk and in memory', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-tiered-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  const key = Buffer.from('key');

  it('is made whole or not at all (invariant 1)', async () => {
    const engine = new TieredEngine(disk(folder));
    const maps = [engine.openMap('disk'), engine.openMap('memory', { storage: 'memory' })];
    await engine.write((writer) => {
      for (const map of maps) writer.put(map, key, Buffer.from('one'));
    });
    await assert.rejects(
      engine.write((writer) => {
        for (const map of maps) writer.put(map, key, Buffer.from('two'));
        for (const map of maps) assert.equal(writer.get(map, key)?.toString(), 'two');
        throw new Error('on purpose');
      }),
      /on purpose/,
    );
    for (const map of maps) assert.equal(engine.get(map, key)?.toString(), 'one');
    await engine.close();
  });

  it('a snapshot is of one moment on both', async () => {
    const engine = new TieredEngine(disk(folder));
    const maps = [engine.openMap('disk'), engine.openMap('memory', { storage: 'memory' })];
    const put = async (text: string): Promise<unknown> =>
      await engine.write((writer) => {
        for (const map of maps) writer.put(map, key, Buffer.from(text));
      });
    await put('before');
    const snapshot = engine.snapshot();
    await put('after');
    for (const map of maps) assert.equal(snapshot.get(map, key)?.toString(), 'before');
    for (const map of maps) assert.equal(engine.get(map, key)?.toString(), 'after');
    snapshot.close();
    await engine.close();
  });
});
