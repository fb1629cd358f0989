/** Batches of the update log in rows of the engine: what was appended is read back, however many origins there were. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { ByteWriter } from '../../src/base/bytes.js';
import { epoch, localNumber, type OriginPosition, sequence, sid, versionNs } from '../../src/base/types.js';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import { MAX_ORIGINS } from '../../src/log/position.js';
import { encodeTransaction } from '../../src/log/transaction.js';
import { UpdateLog } from '../../src/log/update-log.js';

const LARGE = 2 ** 50;

function positionOf(origins: number): OriginPosition[] {
  return Array.from({ length: origins }, (_, at) => {
    return { sid: sid(at + 1), epoch: epoch(LARGE + at), sequence: sequence(LARGE - at), versionNs: versionNs(7n) };
  });
}

function payloadOf(valueBytes: number): Buffer {
  const writer = new ByteWriter();
  encodeTransaction(writer, {
    sid: sid(1),
    epoch: epoch(1),
    sequence: sequence(1),
    versionNs: versionNs(1n),
    feed: undefined,
    changes: [{ kind: 'set', database: 'd', key: Buffer.from('k'), value: Buffer.alloc(valueBytes, 'v'), xtMs: 0 }],
  });
  return writer.take();
}

describe('the update log', () => {
  let folder: string;
  let engine: LmdbEngine;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-log-'));
    engine = new LmdbEngine({ folder, mapSizeBytes: 2 ** 26, maxMaps: 4, bootId: 'boot' });
  });
  afterEach(async () => {
    await engine.close();
    rmSync(folder, { recursive: true });
  });

  it('gives back each batch, with the position before it, of one origin and of as many as there may be', async () => {
    const map = engine.openMap('log');
    const log = new UpdateLog(engine, map, localNumber(1));
    const batches = [0, 1, 70, 75, 100, 120, 500, MAX_ORIGINS].flatMap((origins) => {
      return [0, 1500, 5000].map((valueBytes) => ({ before: positionOf(origins), payload: payloadOf(valueBytes) }));
    });
    for (const [index, { before, payload }] of batches.entries()) {
      const first = localNumber(index + 1);
      await engine.write((writer) => log.append(writer, { first, count: 1, timeMs: 1000 + index, before, payload }));
      log.committed(localNumber(index + 2));
    }
    const opened = new UpdateLog(engine, map, log.next);
    for (const [index, { before, payload }] of batches.entries()) {
      const batch = opened.batchAt(localNumber(index + 1));
      assert.deepEqual(batch?.before, before);
      assert.ok(batch.payload.equals(payload));
    }
    const left = await engine.write((writer) => opened.trim(writer, { bytes: 0, ageMs: 0 }, 1, 10_000, batches.length));
    assert.equal(left.result.first, opened.next);
    assert.deepEqual([...engine.range(map, {})], []);
  });

  it('reads batches on from any transaction, as many as asked for, and none past a damaged one', async () => {
    const map = engine.openMap('log');
    const log = new UpdateLog(engine, map, localNumber(1));
    const payloads = [10, 5000, 10, 3000, 10].map(payloadOf);
    for (const [index, payload] of payloads.entries()) {
      const batch = { first: localNumber(1 + 2 * index), count: 2, timeMs: 1, before: positionOf(1), payload };
      await engine.write((writer) => log.append(writer, batch));
      log.committed(localNumber(3 + 2 * index));
    }
    const firsts = (from: number, maxBytes: number) => log.read(localNumber(from), maxBytes).map(({ first }) => first);
    assert.deepEqual(firsts(1, LARGE), [1, 3, 5, 7, 9]);
    assert.deepEqual(firsts(4, LARGE), [3, 5, 7, 9]);
    assert.deepEqual(firsts(1, 1), [1]);
    assert.deepEqual(firsts(1, 6000), [1, 3]);
    assert.deepEqual(firsts(10, LARGE), [9]);
    assert.deepEqual(firsts(11, LARGE), []);
    assert.deepEqual(
      log.read(localNumber(1), LARGE).map(({ payload }) => payload.toString('hex')),
      payloads.map((payload) => payload.toString('hex')),
    );
    // The second row of the batch that begins with 7 is lost, as a damaged file would have it.
    const rows = [...engine.range(map, {})].filter(({ key }) => key.readUIntBE(3, 6) === 7);
    await engine.write((writer) => writer.remove(map, rows[1]?.key as Buffer));
    assert.throws(() => log.read(localNumber(1), LARGE), { code: 'CORRUPT', message: /batch 7 / });
    assert.deepEqual(firsts(1, 8000), [1, 3, 5]);
  });
});
