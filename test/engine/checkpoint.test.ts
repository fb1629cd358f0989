/** What a data file is after a power cut: as it was flushed last, whichever of its later pages reached the disk. */
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import fc from 'fast-check';
import { decodeHead, decodeSlot, encodeHead, encodeSlot, newestNumber } from '../../src/engine/checkpoint.js';
import type { Engine, MapId } from '../../src/engine/engine.js';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import { randomFrom } from '../support/random.js';

const PAGE_BYTES = 4096;
const HEAD_BYTES = 4096;
const OPTIONS = { mapSizeBytes: 2 ** 28, maxMaps: 8 };

describe('the bytes of a checkpoint', () => {
  it('are read as they were written', () => {
    fc.assert(
      fc.property(
        fc.nat(),
        fc.uint8Array({ minLength: 2 * PAGE_BYTES, maxLength: 2 * PAGE_BYTES }),
        (number, bytes) => {
          const pages = Buffer.from(bytes);
          assert.deepEqual(decodeSlot(encodeSlot({ number, pages })), { number, pages });
        },
      ),
      { numRuns: 50 },
    );
    assert.equal(decodeHead(encodeHead('0b7c5a1e-boot')), '0b7c5a1e-boot');
    assert.equal(decodeHead(encodeHead('')), '');
  });

  it('that are torn say nothing', () => {
    const slot = encodeSlot({ number: 7, pages: Buffer.alloc(2 * PAGE_BYTES, 3) });
    const head = encodeHead('boot');
    fc.assert(
      fc.property(fc.nat(slot.length - 1), fc.nat(head.length - 1), (inSlot, inHead) => {
        for (const [bytes, at] of [
          [slot, inSlot],
          [head, inHead],
        ] as const) {
          const torn = Buffer.from(bytes);
          torn.writeUInt8((torn.readUInt8(at) + 1) % 256, at);
          // The unused rest of a slot's own head is not covered.
          if (bytes === slot && at >= 20 && at < 32) continue;
          assert.equal(bytes === slot ? decodeSlot(torn) : decodeHead(torn), undefined);
        }
        assert.equal(decodeSlot(slot.subarray(0, inSlot)), undefined);
      }),
    );
  });
});

describe('a data file after a power cut', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-checkpoint-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const dataFile = (of: string): string => join(folder, of, 'data.mdb');

  function contents(engine: Engine, map: MapId): Map<string, string> {
    return new Map([...engine.range(map, {})].map(({ key, value }) => [key.toString(), value.toString()]));
  }

  /** The file as the disk may hold it: every page that was flushed, and of those written since any. */
  function torn(flushed: Buffer, now: Buffer, random: () => number): Buffer {
    const disk = Buffer.alloc(Math.max(flushed.length, now.length));
    flushed.copy(disk);
    const share = random();
    for (let at = 0; at < now.length; at += PAGE_BYTES) {
      if (random() < share) now.copy(disk, at, at, at + PAGE_BYTES);
    }
    return disk.subarray(0, random() < 0.5 ? disk.length : Math.max(flushed.length, PAGE_BYTES));
  }

  /** What the file and its records were at a commit. */
  type State = { readonly model: ReadonlyMap<string, string>; readonly image: Buffer };

  /** What a run begins with: what has to be there, and what was noted last. */
  type From = { readonly model: ReadonlyMap<string, string>; readonly noted: State };

  function noted(name: string): number {
    const file = readFileSync(join(folder, name, 'checkpoint'));
    const slotBytes = (file.length - HEAD_BYTES) / 2;
    const slots = [0, 1].map((index) => decodeSlot(file.subarray(HEAD_BYTES + index * slotBytes)));
    return Math.max(...slots.map((slot) => slot?.number ?? -1));
  }

  /** One run of a process on a file: commits, and cuts in between that further runs go on from, each on a copy. */
  async function run(name: string, bootId: string, commits: number, random: () => number, from?: From): Promise<void> {
    const states = new Map<number, State>(from === undefined ? [] : [[noted(name), from.noted]]);
    const model = new Map(from?.model);
    const engine = new LmdbEngine({ ...OPTIONS, folder: join(folder, name), bootId });
    const remember = (): void => {
      const image = readFileSync(dataFile(name));
      states.set(newestNumber(image.subarray(0, 2 * PAGE_BYTES)), { model: new Map(model), image });
    };
    remember();
    const map = engine.openMap('records');
    assert.deepEqual(contents(engine, map), model, `${name} opens as it was`);
    remember();
    for (let commit = 0; commit < commits; commit++) {
      await engine.write((writer) => {
        for (let change = Math.floor(random() * 20); change >= 0; change--) {
          const key = `key ${Math.floor(random() * 200)}`;
          if (random() < 0.3) {
            model.delete(key);
            writer.remove(map, Buffer.from(key));
          } else {
            const value = `${commit} ${'x'.repeat(Math.floor(random() ** 4 * 9000))}`;
            model.set(key, value);
            writer.put(map, Buffer.from(key), Buffer.from(value));
          }
        }
      });
      remember();
      if (random() < 0.1) await engine.flush();
      const last = noted(name);
      for (const number of states.keys()) if (number < last) states.delete(number);
      if (commits < 4 || random() > 0.1) continue;
      const next = `${name}.${commit}`;
      mkdirSync(join(folder, next));
      // The flush goes on on another thread: what is copied first is what counts.
      copyFileSync(join(folder, name, 'checkpoint'), join(folder, next, 'checkpoint'));
      const isKill = random() < 0.3;
      const now = readFileSync(dataFile(name));
      const state = states.get(noted(next));
      assert.ok(state !== undefined, 'a checkpoint names a commit that was made');
      writeFileSync(dataFile(next), isKill ? now : torn(state.image, now, random));
      const after = { model: isKill ? model : state.model, noted: state };
      await run(next, isKill ? bootId : `${bootId}+`, Math.floor(commits / 2), random, after);
      rmSync(join(folder, next), { recursive: true });
    }
    await engine.close();
  }

  it('opens as it was flushed last, whichever pages came after, however often (invariants 1, 3 and 5)', async () => {
    for (let seed = 1; seed <= 3; seed++) await run(`run-${seed}`, 'boot', 30, randomFrom(seed));
  });

  it('keeps everything when only the process was killed', async () => {
    const options = { ...OPTIONS, folder: join(folder, 'data'), bootId: 'this boot', flushesCommits: false };
    const engine = new LmdbEngine(options);
    const map = engine.openMap('records');
    await engine.write((writer) => writer.put(map, Buffer.from('key'), Buffer.from('value')));
    mkdirSync(join(folder, 'killed'));
    for (const name of ['data.mdb', 'checkpoint'])
      copyFileSync(join(folder, 'data', name), join(folder, 'killed', name));
    const after = new LmdbEngine({ ...options, folder: join(folder, 'killed') });
    assert.equal(after.get(after.openMap('records'), Buffer.from('key'))?.toString(), 'value');
    await after.close();
    await engine.close();
  });

  it('that is an older copy put there by hand opens as that copy', async () => {
    const options = { ...OPTIONS, folder: join(folder, 'data'), bootId: 'first boot' };
    const write = async (value: string, bootId: string): Promise<string | undefined> => {
      const engine = new LmdbEngine({ ...options, bootId });
      const map = engine.openMap('records');
      const before = engine.get(map, Buffer.from('key'))?.toString();
      await engine.write((writer) => writer.put(map, Buffer.from('key'), Buffer.from(value)));
      await engine.close();
      return before;
    };
    await write('old', 'first boot');
    copyFileSync(dataFile('data'), join(folder, 'older.mdb'));
    await write('new', 'first boot');
    copyFileSync(join(folder, 'older.mdb'), dataFile('data'));
    assert.equal(await write('newest', 'second boot'), 'old');
  });
});
