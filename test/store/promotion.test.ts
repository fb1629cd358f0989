/** A follower's data that becomes the root's: what moving a data directory after the loss of a root's disk does. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { type Sid, sid } from '../../src/base/types.js';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import { parseDatabases } from '../../src/store/database-spec.js';
import { LocalStore } from '../../src/store/store.js';
import { broken, localRuntime } from '../support/local-runtime.js';
import { contents, put } from '../support/replication-pair.js';

describe("a follower's store opened with the root's server id", () => {
  let folder: string;
  const open: LocalStore[] = [];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-promotion-'));
  });
  afterEach(async () => {
    for (const store of open.splice(0)) await store.close();
    rmSync(folder, { recursive: true, force: true });
  });

  function openStore(name: string, ownSid: Sid | undefined): LocalStore {
    const store = new LocalStore({
      engine: new LmdbEngine({ bootId: 'a boot', folder: join(folder, name), mapSizeBytes: 2 ** 30, maxMaps: 16 }),
      runtime: localRuntime(),
      log: silentLogger,
      sid: ownSid,
      databases: parseDatabases(['default']),
      retention: { bytes: 2 ** 30, ageMs: 3_600_000 },
      transaction: { bytes: 2 ** 24, keyBytes: 1024 },
      queue: { jobs: 1000, commitChanges: 1000, commitBytes: 2 ** 20, commitIntervalMs: 0 },
      maxDatabases: 4,
      onBroken: broken,
    });
    open.push(store);
    return store;
  }

  /** Hands everything from one store's log to another, which skips what it has. */
  async function replicate(from: LocalStore, to: LocalStore): Promise<void> {
    for (let at = from.log.first; at < from.log.next; ) {
      const batch = from.log.batchAt(at);
      assert.ok(batch !== undefined);
      await to.apply(batch.payload).committed;
      at = (batch.first + batch.count) as typeof at;
    }
  }

  it('numbers on in the epoch that the root was in, so that other followers go on without a gap (invariant 2)', async () => {
    const root = openStore('root', sid(1));
    await root.beginEpoch();
    await put(root, { a: '1' });
    const relay = openStore('relay', undefined);
    const edge = openStore('edge', undefined);
    await replicate(root, relay);
    await replicate(root, edge);
    await relay.close();
    open.splice(open.indexOf(relay), 1);
    const promoted = openStore('relay', sid(1));
    assert.equal(promoted.epoch, 2);
    await put(promoted, { b: '2' });
    await replicate(promoted, edge);
    assert.deepEqual(contents(edge), { a: '1', b: '2' });
    assert.deepEqual(edge.position(), promoted.position());
  });
});
