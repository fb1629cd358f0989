/** Databases in memory: the same answers as on the disk, capacities, and what comes back after a start. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import fc from 'fast-check';
import { silentLogger } from '../../src/base/logger.js';
import { NEVER_EXPIRES, sid } from '../../src/base/types.js';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import { TieredEngine } from '../../src/engine/tiered.js';
import { imagePath, saveImage } from '../../src/node/data/memory-image.js';
import { parseDatabases } from '../../src/store/database-spec.js';
import { StoredRecord } from '../../src/store/record.js';
import type { MemoryImage } from '../../src/store/restore.js';
import { SnapshotLoader, SnapshotSource } from '../../src/store/snapshot.js';
import { LocalStore } from '../../src/store/store.js';
import { broken, localRuntime } from '../support/local-runtime.js';
import { checkHashes } from '../support/store-model.js';

const folder = mkdtempSync(join(tmpdir(), 'tokaido-memory-'));
after(() => rmSync(folder, { recursive: true, force: true }));
let stores = 0;

interface Opened {
  readonly store: LocalStore;
  readonly path: string;
  nowMs: number;
}

/** A store of its own, or what an earlier one left at `path`. */
function open(databases: readonly string[], path = join(folder, String(stores++)), retainBytes = 2 ** 30): Opened {
  const opened = { path, nowMs: 1_000_000 };
  const engine = new TieredEngine(
    new LmdbEngine({ bootId: 'a boot', folder: path, mapSizeBytes: 2 ** 30, maxMaps: 64 }),
  );
  const store = new LocalStore({
    engine,
    runtime: localRuntime({ nowMs: () => opened.nowMs, nowNs: () => BigInt(opened.nowMs) * 1_000_000n }),
    log: silentLogger,
    sid: sid(1),
    databases: parseDatabases(databases),
    retention: { bytes: retainBytes, ageMs: 2 ** 40 },
    transaction: { bytes: 2 ** 25, keyBytes: 1024 },
    queue: { jobs: 10_000, commitChanges: 2000, commitBytes: 2 ** 20, commitIntervalMs: 0 },
    maxDatabases: 16,
    onBroken: broken,
  });
  return Object.assign(opened, { store });
}

function contents({ store }: Opened, database: string): [string, string, number][] {
  checkHashes(store);
  return [...store.scan(database, {})].map(({ key, record }) => [
    key.toString('latin1'),
    record.value.toString('latin1'),
    record.xtMs,
  ]);
}

async function put({ store }: Opened, database: string, key: string, value = key, xtMs = 0): Promise<void> {
  await store.write((transaction) => transaction.set(database, Buffer.from(key), Buffer.from(value), xtMs)).committed;
}

/** All rows of the databases in memory, as a saved image would hold them. */
function imageOf({ store }: Opened): MemoryImage {
  const source = new SnapshotSource(store.engine, ({ storage }) => storage === 'memory');
  const slices: { database: string; rows: Buffer }[] = [];
  for (let slice = source.next(100); slice !== undefined; slice = source.next(100)) {
    slices.push({ database: source.contents.databases[slice.database]?.name ?? '', rows: slice.rows });
  }
  source.close();
  return {
    next: source.nextNumber,
    slices: async function* () {
      yield* slices;
    },
  };
}

describe('databases in memory', () => {
  it('give the same answers as one on the disk, whatever is done to them (invariant 1)', async () => {
    const key = fc.string({ unit: fc.constantFrom('a', 'b', '\0'), maxLength: 3 });
    const step = fc.oneof(
      fc.record({ kind: fc.constant('set' as const), key, value: fc.string({ maxLength: 200 }), ttl: fc.nat(3) }),
      fc.record({ kind: fc.constant('remove' as const), key }),
      fc.record({ kind: fc.constant('clear' as const), key }),
      fc.record({ kind: fc.constant('wait' as const) }),
      fc.record({ kind: fc.constant('sweep' as const) }),
    );
    const databases = ['disk.kct', '%', ':', 'small.kch#opts=c', '%#opts=c'];
    const property = async (steps: readonly (typeof step extends fc.Arbitrary<infer S> ? S : never)[]) => {
      const opened = open(databases);
      const names = opened.store.databases().map(({ name }) => name);
      for (const one of steps) {
        if (one.kind === 'wait') opened.nowMs += 1000;
        else if (one.kind === 'sweep') await opened.store.sweep();
        else {
          const written = opened.store.write((transaction) => {
            for (const name of names) {
              const at = Buffer.from(one.key, 'latin1');
              if (one.kind === 'clear') transaction.clear(name, at);
              else if (one.kind === 'remove') transaction.remove(name, at);
              else transaction.set(name, at, Buffer.from(one.value), one.ttl === 0 ? 0 : opened.nowMs + one.ttl * 1000);
            }
          });
          await written.committed;
        }
      }
      const [first, ...others] = names.map((name) => [contents(opened, name), opened.store.count(name)]);
      for (const other of others) assert.deepEqual(other, first);
      await opened.store.close();
    };
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), property), { numRuns: 25 });
  });

  it('come back from the log alone when it reaches back to the beginning', async () => {
    const before = open(['%', 'disk']);
    for (let i = 0; i < 500; i++) await put(before, '%', `key-${i}`, `value-${i}`, i % 7 === 0 ? 2_000_000 : 0);
    await before.store.write((transaction) => transaction.clear('%', Buffer.from('key-1'))).committed;
    await put(before, 'disk', 'other');
    const was = contents(before, '%');
    await before.store.close();

    const again = open(['%', 'disk'], before.path);
    assert.deepEqual(await again.store.restore(undefined), []);
    assert.deepEqual(contents(again, '%'), was);
    assert.equal(again.store.count('%'), was.length);
    again.nowMs = 3_000_000;
    await again.store.sweep();
    assert.equal(again.store.count('%'), was.filter(([, , xtMs]) => xtMs === 0).length);
    await again.store.close();
  });

  it('come back from an image and the log after it when the log was cut', async () => {
    const before = open(['%'], undefined, 2000);
    for (let i = 0; i < 300; i++) await put(before, '%', `key-${i}`);
    const image = imageOf(before);
    await put(before, '%', 'late');
    await before.store.write((transaction) => transaction.remove('%', Buffer.from('key-0'))).committed;
    while (await before.store.sweep()) {
      // Cuts the log to its retention.
    }
    assert.ok(before.store.log.first > 1);
    const was = contents(before, '%');
    await before.store.close();

    const again = open(['%'], before.path);
    assert.deepEqual(await again.store.restore(image), []);
    assert.deepEqual(contents(again, '%'), was);
    assert.equal(again.store.count('%'), was.length);
    await again.store.close();
  });

  it('are reported lost, never half there, when neither image nor log reaches', async () => {
    const before = open(['%', 'disk'], undefined, 0);
    for (let i = 0; i < 300; i++) await put(before, '%', `key-${i}`);
    await put(before, 'disk', 'safe');
    while (await before.store.sweep()) {
      // Cuts the whole log.
    }
    await before.store.close();

    const again = open(['%', 'disk'], before.path);
    assert.deepEqual(await again.store.restore(undefined), ['%']);
    assert.deepEqual(contents(again, '%'), []);
    assert.equal(again.store.count('%'), 0);
    assert.equal(again.store.count('disk'), 1);
    await again.store.close();
  });

  it('have their tombstones again when nothing else was in them and the log was cut', async () => {
    const before = open(['%'], undefined, 200);
    for (let i = 0; i < 20; i++) {
      await put(before, '%', 'key', `${i}`);
      await before.store.write((transaction) => transaction.remove('%', Buffer.from('key'))).committed;
    }
    while (await before.store.sweep());
    assert.ok(before.store.log.first > 1 && before.store.log.first < before.store.log.next);
    await before.store.close();

    const again = open(['%'], before.path);
    assert.deepEqual(await again.store.restore(undefined), []);
    const rows = [...again.store.engine.range(again.store.engine.openMap('records-1'), {})];
    assert.deepEqual(
      rows.map(({ value }) => new StoredRecord(value).isTombstone),
      [true],
    );
    await again.store.close();
  });

  it('are reported lost when the log begins behind a snapshot: what came with that is not in it', async () => {
    const source = open(['default', ':']);
    for (const key of ['a', 'b']) await put(source, ':', key);
    const path = join(folder, String(stores++));
    const engine = new TieredEngine(
      new LmdbEngine({ bootId: 'a boot', folder: path, mapSizeBytes: 2 ** 30, maxMaps: 64 }),
    );
    const from = new SnapshotSource(source.store.engine);
    const loader = new SnapshotLoader(engine, from.contents, parseDatabases(['default', ':']));
    for (let slice = from.next(100); slice !== undefined; slice = from.next(100)) await loader.add(slice);
    await loader.finish(loader.rows);
    from.close();
    await engine.close();
    await source.store.close();
    const seeded = open(['default', ':'], path);
    await put(seeded, ':', 'c');
    assert.deepEqual(await seeded.store.restore(undefined), [':']);
    assert.deepEqual(contents(seeded, ':'), []);
    await seeded.store.close();
  });

  it('refuse to open where their records are not', async () => {
    const before = open(['x.kct']);
    await put(before, 'x.kct', 'key');
    await before.store.close();
    assert.throws(() => open(['x.kct#type=grass'], before.path), /x\.kct lies on the disk/);
  });

  it('forget what was used least recently when they are full', async () => {
    const cache = open(['*#capcnt=3', '*#capsiz=100']);
    const [byCount, bySize] = cache.store.databases().map(({ name }) => name) as [string, string];
    for (const key of ['a', 'b', 'c']) await put(cache, byCount, key);
    assert.ok(cache.store.get(byCount, Buffer.from('a')));
    await put(cache, byCount, 'd');
    await put(cache, byCount, 'e', 'e', 2_000_000);
    await cache.store.mark({ feed: 'barrier', position: 1n }).committed;
    assert.deepEqual(
      contents(cache, byCount).map(([key]) => key),
      ['a', 'd', 'e'],
    );
    assert.equal(cache.store.count(byCount), 3);
    for (let i = 0; i < 50; i++) await put(cache, bySize, `key-${i}`, 'x'.repeat(10));
    await cache.store.mark({ feed: 'barrier', position: 2n }).committed;
    const left = contents(cache, bySize);
    assert.ok(left.length >= 2 && left.length <= 5, `${left.length} records`);
    assert.ok(left.some(([key]) => key === 'key-49'));
    await cache.store.close();
  });

  it('are no fuller than their capacity when they come back from the log', async () => {
    const before = open(['*#capcnt=3']);
    const value = 'x'.repeat(20_000);
    for (let i = 0; i < 150; i++) await put(before, '*', `key-${i}`, value);
    await before.store.close();
    const restored = open(['*#capcnt=3'], before.path);
    assert.deepEqual(await restored.store.restore(undefined), []);
    const left = contents(restored, '*').map(([key]) => key);
    assert.ok(left.length <= 3 && left.includes('key-149'), left.join());
    assert.equal(restored.store.count('*'), left.length);
    await restored.store.close();
  });

  it('keep no expiration time with ktopts=p, in memory and on the disk', async () => {
    const opened = open([':#ktopts=p', 'casket.kct#ktopts=p']);
    for (const name of [':', 'casket.kct']) await put(opened, name, 'key', 'value', 1_000_001);
    opened.nowMs = 2_000_000;
    for (const name of [':', 'casket.kct']) assert.equal(opened.store.get(name, Buffer.from('key'))?.xtMs, 0);
    await opened.store.close();
  });

  it('take less room with opts=c, in memory and on the disk, and read the same', async () => {
    const opened = open(['plain.kct', 'small.kct#opts=c', ':', '*#opts=c']);
    const value = JSON.stringify(Array.from({ length: 60 }, (_, i) => ({ name: `row ${i}`, type: 'A', ttl: 300 })));
    const short = 'too short to gain anything';
    const stored = (database: string): number => {
      const source = new SnapshotSource(opened.store.engine, ({ name }) => name === database);
      const slice = source.next(2 ** 20);
      source.close();
      return slice?.rows.length ?? 0;
    };
    for (const name of ['plain.kct', 'small.kct', ':', '*']) {
      await put(opened, name, 'long', value);
      await put(opened, name, 'short', short);
      assert.deepEqual(contents(opened, name), [
        ['long', value, 0],
        ['short', short, 0],
      ]);
    }
    assert.ok(stored('small.kct') * 5 < stored('plain.kct'), `${stored('small.kct')} of ${stored('plain.kct')} bytes`);
    assert.equal(stored('*'), stored('small.kct'));
    assert.equal(stored(':'), stored('plain.kct'));
    await opened.store.close();
  });
});

describe('an image', () => {
  it('takes the place of the last one only when the log behind it is on the disk', async () => {
    const { store, path } = open(['*']);
    const [name = ''] = store.databases().map((database) => database.name);
    await store.write((transaction) => transaction.set(name, Buffer.from('key'), Buffer.from('value'), NEVER_EXPIRES))
      .committed;
    let flushed = false;
    const flush = store.engine.flush.bind(store.engine);
    store.engine.flush = async () => {
      assert.ok(!existsSync(imagePath(path)), 'the image waits');
      await flush();
      flushed = true;
    };
    await saveImage(store, path, false);
    assert.ok(flushed && existsSync(imagePath(path)));
    await store.close();
  });
});
