/** The operations of the key-value store on a real store: what each promises, refuses and leaves behind. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { TokaidoError } from '../../src/base/errors.js';
import {
  ATOMIC_RECORDS,
  Commands,
  type CommandsOptions,
  PART_RECORDS,
  type RecordWrite,
} from '../../src/commands/commands.js';
import type { LocalStore } from '../../src/store/store.js';
import type { Database, Written } from '../../src/store/types.js';
import { bytes, START_MS, StoreBench } from '../support/store-model.js';

describe('commands', () => {
  let bench: StoreBench;
  let store: LocalStore;
  let commands: Commands;
  let database: Database;

  const build = (overrides: Partial<CommandsOptions> = {}): Commands => {
    return new Commands({
      store: () => store,
      writeGate: () => undefined,
      limits: { keyBytes: 8, valueBytes: 100 },
      durability: 'committed',
      ...overrides,
    });
  };
  const record = (key: string, value: string, xtMs = 0): RecordWrite => {
    return { database, key: bytes(key), value: bytes(value), xtMs };
  };
  const value = (key: string): string | undefined => commands.get({ database, key: bytes(key) })?.value.toString();

  beforeEach(() => {
    bench = new StoreBench();
    store = bench.store(1);
    commands = build();
    database = commands.database('default');
  });
  afterEach(async () => await bench.close());

  it('set stores whatever was there, add only a new record, replace only an existing one', async () => {
    await assert.rejects(commands.set(record('a', '1'), 'replace'), { code: 'NO_RECORD' });
    await commands.set(record('a', '1'), 'add');
    await assert.rejects(commands.set(record('a', '2'), 'add'), { code: 'DUPLICATE_RECORD' });
    assert.equal(value('a'), '1');
    await commands.set(record('a', '3'), 'replace');
    await commands.set(record('a', '4'));
    assert.equal(value('a'), '4');
  });

  it('an expired record counts as none for every mode and for remove', async () => {
    await commands.set(record('a', '1', START_MS + 1));
    bench.clock.ms = START_MS + 1;
    assert.equal(value('a'), undefined);
    await assert.rejects(commands.set(record('a', '2'), 'replace'), { code: 'NO_RECORD' });
    await assert.rejects(commands.remove(record('a', '')), { code: 'NO_RECORD' });
    await commands.set(record('a', '2'), 'add');
    assert.equal(value('a'), '2');
  });

  it('of two adds of one key at the same time exactly one succeeds', async () => {
    const ended = await Promise.allSettled([1, 2, 3].map((n) => commands.set(record('a', `${n}`), 'add')));
    assert.deepEqual(
      ended.map(({ status }) => status),
      ['fulfilled', 'rejected', 'rejected'],
    );
    assert.equal(value('a'), '1');
  });

  it('bulk calls beyond a size are cut into transactions of so many; atomic ones are refused beyond theirs', async () => {
    const many = (count: number): RecordWrite[] => Array.from({ length: count }, (_, i) => record(`k${i}`, 'v'));
    const sequence = (): number => store.position()[0]?.sequence ?? 0;
    assert.equal(await commands.setBulk(many(PART_RECORDS)), PART_RECORDS);
    assert.equal(sequence(), 1);
    assert.equal(await commands.setBulk(many(PART_RECORDS + 1)), PART_RECORDS + 1);
    assert.equal(sequence(), 3);
    assert.equal(value(`k${PART_RECORDS}`), 'v');
    assert.equal(await commands.setBulk(many(PART_RECORDS + 1), { atomic: true }), PART_RECORDS + 1);
    assert.equal(sequence(), 4);
    await assert.rejects(commands.setBulk(many(ATOMIC_RECORDS + 1), { atomic: true }), { code: 'TOO_LARGE' });
    await assert.rejects(commands.removeBulk(many(ATOMIC_RECORDS + 1), { atomic: true }), { code: 'TOO_LARGE' });
    assert.equal(sequence(), 4);
    assert.equal(await commands.removeBulk(many(PART_RECORDS + 1)), PART_RECORDS + 1);
    assert.equal(sequence(), 6);
  });

  it('bulk calls are all or nothing, and count', async () => {
    assert.equal(await commands.setBulk([record('a', '1'), record('b', '2'), record('a', '3')]), 3);
    assert.deepEqual([value('a'), value('b')], ['3', '2']);
    const oneTooLarge = [record('a', 'new'), record('b', 'x'.repeat(101))];
    await assert.rejects(commands.setBulk(oneTooLarge), { code: 'TOO_LARGE' });
    assert.equal(value('a'), '3');
    assert.equal(await commands.removeBulk([record('a', ''), record('none', ''), record('a', '')]), 1);
    assert.deepEqual([value('a'), value('b')], [undefined, '2']);
  });

  it('an update sees the record, decides once, and leaves nothing when it throws', async () => {
    const count = () => {
      return commands.update({ database, key: bytes('n') }, (seen) => {
        const next = Number(seen?.value.toString() ?? '0') + 1;
        return { next: { value: bytes(`${next}`), xtMs: 0 }, result: next };
      });
    };
    assert.deepEqual(await Promise.all([count(), count(), count()]), [1, 2, 3]);
    const failing = commands.update({ database, key: bytes('n') }, () => {
      throw new TokaidoError('NO_RECORD', 'as a comparison that failed');
    });
    await assert.rejects(failing, { code: 'NO_RECORD' });
    await commands.update({ database, key: bytes('n') }, () => ({ next: 'keep', result: undefined }));
    assert.equal(value('n'), '3');
    await commands.update({ database, key: bytes('n') }, () => ({ next: 'remove', result: undefined }));
    assert.equal(value('n'), undefined);
  });

  it('keys and values are refused beyond their limits and stored at them', async () => {
    await commands.set(record('x'.repeat(8), 'y'.repeat(100)));
    await assert.rejects(commands.set(record('x'.repeat(9), '')), { code: 'TOO_LARGE', message: /limit of 8/ });
    await assert.rejects(commands.set(record('x', 'y'.repeat(101))), { code: 'TOO_LARGE', message: /limit of 100/ });
    const tooLarge = { value: Buffer.alloc(101), xtMs: 0 };
    const update = commands.update({ database, key: bytes('x') }, () => ({ next: tooLarge, result: 0 }));
    await assert.rejects(update, { code: 'TOO_LARGE' });
    assert.equal(commands.get({ database, key: Buffer.alloc(100_000) }), undefined);
  });

  it('databases are found by name and by number; others are NO_DATABASE', async () => {
    assert.deepEqual([commands.database(1).name, commands.database('1').name], ['other', 'other']);
    for (const none of ['missing', '7', 7, -1]) {
      assert.throws(() => commands.database(none), { code: 'NO_DATABASE' });
    }
    await commands.set(record('a', '1'));
    await commands.set({ ...record('a', '2'), database: commands.database('other') });
    await commands.clear(commands.database('other'));
    assert.equal(value('a'), '1');
    assert.deepEqual([commands.count(database), commands.count(commands.database('other'))], [1, 0]);
  });

  it('without data every operation is NOT_READY, with a hint', async () => {
    const empty = build({ store: () => undefined });
    assert.throws(() => empty.databases(), { code: 'NOT_READY' });
    assert.throws(() => empty.get(record('a', '')), { code: 'NOT_READY', hint: /another node/ });
    await assert.rejects(empty.set(record('a', '1')), { code: 'NOT_READY' });
  });

  it('a closed gate refuses every write with its reason, and no read', async () => {
    await commands.set(record('a', '1'));
    const closed = build({ writeGate: () => new TokaidoError('READ_ONLY', 'write to the root') });
    const writes = [
      closed.set(record('a', '2')),
      closed.setBulk([record('a', '2')]),
      closed.remove(record('a', '')),
      closed.removeBulk([record('a', '')]),
      closed.update(record('a', ''), () => ({ next: 'remove', result: 0 })),
      closed.clear(database),
    ];
    for (const write of writes) await assert.rejects(write, { code: 'READ_ONLY' });
    assert.equal(closed.get(record('a', ''))?.value.toString(), '1');
  });

  it('answers at the moment its durability names (invariant 5)', async () => {
    let flush = (): void => undefined;
    const flushing = new Promise<void>((resolve) => {
      flush = resolve;
    });
    const held = new Proxy(store, {
      get: (target, name) => {
        if (name !== 'write') return Reflect.get(target, name).bind(target);
        return (build: never): Written<unknown> => {
          const { committed } = target.write(build);
          return { committed, flushed: Promise.all([committed, flushing]).then(([result]) => result) };
        };
      },
    });
    await build({ store: () => held }).set(record('a', '1'));
    let answered = false;
    const waiting = build({ store: () => held, durability: 'flushed' })
      .set(record('a', '2'))
      .then(() => {
        answered = true;
      });
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual([value('a'), answered], ['2', false]);
    flush();
    await waiting;
  });
});
