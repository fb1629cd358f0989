/** The store's rules one by one: gaps, duplicates, expiry, housekeeping, limits (invariants 1, 2, 3). */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { TokaidoError } from '../../src/base/errors.js';
import { sid } from '../../src/base/types.js';
import { originOf } from '../../src/log/position.js';
import { decodeTransactions } from '../../src/log/transaction.js';
import { parseDatabase } from '../../src/store/database-spec.js';
import { type LocalStore, STATE_KEY } from '../../src/store/store.js';
import { bytes, clear, dump, encode, START_MS, StoreBench, set, transaction } from '../support/store-model.js';

let bench: StoreBench;
beforeEach(() => {
  bench = new StoreBench();
});
afterEach(async () => await bench.close());

const value = (store: LocalStore, key: string, database = 'default'): string | undefined => {
  return store.get(database, bytes(key))?.value.toString('latin1');
};
const put = async (store: LocalStore, key: string, text: string, xtMs = 0): Promise<void> => {
  await store.write((view) => view.set('default', bytes(key), bytes(text), xtMs)).committed;
};

/** Numbers in the log, by origin, as they stand. */
function logged(store: LocalStore): string[] {
  const all: string[] = [];
  for (let at = store.log.first; at < store.log.next; ) {
    const batch = store.log.batchAt(at);
    assert.ok(batch !== undefined);
    for (const { header } of decodeTransactions(Buffer.from(batch.payload)))
      all.push(`${header.sid}:${header.sequence}`);
    at = (batch.first + batch.count) as typeof at;
  }
  return all;
}

describe('commits', () => {
  it('a listener that throws is reported, and does not make failures of jobs that are committed', async () => {
    const thrown: unknown[] = [];
    const store = bench.store(1, { onBroken: (error) => thrown.push(error) });
    const heard: number[] = [];
    store.onCommit(() => {
      throw new Error('a bug');
    });
    store.onCommit(({ first }) => heard.push(first));
    await put(store, 'a', '1');
    await put(store, 'b', '2');
    assert.deepEqual([value(store, 'a'), value(store, 'b')], ['1', '2']);
    assert.deepEqual(thrown.map(String), ['Error: a bug', 'Error: a bug']);
    assert.deepEqual(heard, [1, 2]);
  });
});

describe('replicated transactions', () => {
  it('a gap is refused with REPLICATION and nothing of its batch is applied (invariant 2)', async () => {
    const store = bench.store(undefined);
    await store.apply(encode([transaction(1, 1, 1, [set('a', '1')])])).committed;
    const before = dump(store.engine);
    const gap = [transaction(1, 2, 2, [set('a', '2')]), transaction(1, 4, 4, [set('b', '4')])];
    const other = [transaction(5, 1, 3, [set('c', '5')]), transaction(1, 3, 3, [set('b', '3')])];
    await assert.rejects(store.apply(encode(gap)).committed, { code: 'REPLICATION', message: /4.* arrived after 2/ });
    await assert.rejects(store.apply(encode(other)).flushed, { code: 'REPLICATION', message: /something is missing/ });
    await assert.rejects(store.apply(encode([transaction(8, 2, 9, [set('d', '1')])])).committed, {
      code: 'REPLICATION',
    });
    assert.deepEqual(dump(store.engine), before);
    assert.deepEqual(logged(store), ['1:1']);
  });

  it('a gap fails alone: what waits for the same commit goes on (invariant 2)', async () => {
    const store = bench.store(2);
    const [before, gap, after] = [
      store.apply(encode([transaction(1, 1, 1, [set('a', '1')])])),
      store.apply(encode([transaction(1, 3, 3, [set('a', '3')])])),
      store.apply(encode([transaction(1, 2, 2, [set('a', '2')])])),
    ];
    await assert.rejects(gap.committed, { code: 'REPLICATION' });
    assert.deepEqual(await Promise.all([before.committed, after.committed]), [1, 1]);
    assert.equal(value(store, 'a'), '2');
    assert.deepEqual(logged(store), ['1:1', '1:2']);
  });

  it('a new epoch may not begin below what is known, nor an old one go on above it (invariant 2)', async () => {
    const store = bench.store(undefined);
    const known = [1, 2, 3].map((n) => transaction(1, n, n, [set('a', `${n}`)]));
    await store.apply(encode(known)).committed;
    const restarted = store.apply(encode([transaction(1, 3, 30, [set('a', 'other')], 2)]));
    await assert.rejects(restarted.committed, { code: 'REPLICATION', message: /began epoch 2 at 3/ });
    await store.apply(encode([transaction(1, 4, 40, [set('a', '4')], 2)])).committed;
    await assert.rejects(store.apply(encode([transaction(1, 5, 50, [set('a', '5')], 1)])).committed, {
      code: 'REPLICATION',
    });
    assert.equal(value(store, 'a'), '4');
  });

  it('applying twice changes nothing: no byte, no log entry, no count (invariant 3)', async () => {
    const store = bench.store(undefined);
    const batch = encode([
      transaction(1, 1, 1, [set('a', '1'), set('b', '1', START_MS + 5)]),
      transaction(1, 2, 2, [clear('a'), set('c', '2', 0, 'other')]),
    ]);
    assert.equal(await store.apply(batch).committed, 2);
    const [before, log] = [dump(store.engine), logged(store)];
    assert.equal(await store.apply(batch).committed, 0);
    assert.deepEqual(dump(store.engine), before);
    assert.deepEqual(logged(store), log);
  });

  it('what cannot be decoded or stored is refused and leaves nothing (invariant 9)', async () => {
    const store = bench.store(undefined);
    const good = encode([transaction(1, 1, 1, [set('a', '1')])]);
    assert.throws(() => store.apply(good.subarray(0, good.length - 1)), { code: 'CORRUPT' });
    assert.throws(() => store.apply(Buffer.concat([good, Buffer.of(1, 2, 3)])), { code: 'CORRUPT' });
    const long = encode([transaction(1, 1, 1, [set('a', '1'), set('x'.repeat(5000), '1')])]);
    await assert.rejects(store.apply(long).committed, { code: 'TOO_LARGE' });
    assert.equal(store.engine.get(store.engine.openMap('meta'), STATE_KEY), undefined);
    assert.equal(await store.apply(good).committed, 1);
  });
});

describe('expiry and housekeeping', () => {
  it('an expired record is never returned, from the very millisecond on, and is collected in the background', async () => {
    const store = bench.store(1);
    await put(store, 'a', '1', START_MS + 10);
    await put(store, 'b', '1', START_MS + 20);
    await put(store, 'past', '1', START_MS - 1);
    assert.equal(value(store, 'past'), undefined);
    bench.clock.ms = START_MS + 9;
    assert.equal(value(store, 'a'), '1');
    bench.clock.ms = START_MS + 10;
    assert.equal(value(store, 'a'), undefined);
    assert.deepEqual(store.keys('default', bytes(''), undefined, 10).map(String), ['b']);
    assert.equal(await store.write((view) => view.get('default', bytes('a'))).committed, undefined);
    assert.equal(await store.write((view) => view.remove('default', bytes('a'))).committed, false);
    assert.equal(store.count('default'), 3);
    assert.equal(store.needsSweep(), true);
    await store.sweep();
    assert.equal(store.count('default'), 1);
    assert.equal(store.needsSweep(), false);
  });

  it('a record that got a new expiration time is collected at the new one only', async () => {
    const store = bench.store(1);
    await put(store, 'a', '1', START_MS + 10);
    await put(store, 'a', '2', START_MS + 30);
    await put(store, 'b', '1', START_MS + 10);
    await put(store, 'b', '2');
    await store.write((view) => view.set('other', bytes('c'), bytes('1'), START_MS + 10)).committed;
    await store.write((view) => view.clear('other')).committed;
    await store.write((view) => view.set('other', bytes('c'), bytes('2'), 0)).committed;
    bench.clock.ms = START_MS + 20;
    await store.sweep();
    assert.deepEqual([value(store, 'a'), value(store, 'b'), value(store, 'c', 'other')], ['2', '2', '2']);
    bench.clock.ms = START_MS + 31;
    await store.sweep();
    assert.deepEqual([store.count('default'), store.count('other')], [1, 1]);
  });

  it('collects more than one round holds, in rounds', async () => {
    const store = bench.store(1);
    await store.write((view) => {
      for (let i = 0; i < 2500; i++) view.set('default', bytes(`k${i}`), bytes('1'), START_MS + 1);
    }).committed;
    bench.clock.ms = START_MS + 2;
    const more: boolean[] = [];
    do more.push(await store.sweep());
    while (more.at(-1) === true && more.length < 10);
    assert.deepEqual(more, [true, true, false]);
    assert.equal(store.count('default'), 0);
  });

  it('tombstones and clears live as long as the log entries that made them', async () => {
    const store = bench.store(1, { retention: { bytes: 2 ** 30, ageMs: 100 } });
    bench.clock.ns = 1000n;
    await put(store, 'a', '1');
    await store.write((view) => view.remove('default', bytes('a'))).committed;
    await store.write((view) => view.clear('other', bytes('p'))).committed;
    bench.clock.ms += 100;
    assert.equal(store.needsSweep(), false);
    await store.sweep();
    const early = transaction(7, 1, 1, [set('a', 'old'), set('p1', 'old', 0, 'other')]);
    await store.apply(encode([early])).committed;
    assert.deepEqual([value(store, 'a'), value(store, 'p1', 'other')], [undefined, undefined]);
    bench.clock.ms += 1;
    assert.equal(store.needsSweep(), true);
    while (await store.sweep());
    assert.deepEqual(dump(store.engine).clears, []);
    assert.deepEqual(dump(store.engine)['records of default'], []);
    const late = transaction(7, 2, 2, [set('a', 'old'), set('p1', 'old', 0, 'other')]);
    await store.apply(encode([late])).committed;
    assert.deepEqual([value(store, 'a'), value(store, 'p1', 'other')], ['old', 'old']);
  });

  it('forgets all tombstones of a large trim without waiting for the next one', async () => {
    const store = bench.store(1, { retention: { bytes: 2 ** 30, ageMs: 100 } });
    await store.write((view) => {
      for (let i = 0; i < 3000; i++) view.set('default', bytes(`k${i}`), bytes('1'), 0);
    }).committed;
    await store.write((view) => {
      for (let i = 0; i < 3000; i++) view.remove('default', bytes(`k${i}`));
    }).committed;
    bench.clock.ms += 101;
    // As a node does it: a round only when there is need.
    for (let round = 0; store.needsSweep() && round < 20; round++) await store.sweep();
    assert.deepEqual(dump(store.engine)['records of default'], []);
  });

  it('two rounds in one commit trim once', async () => {
    const store = bench.store(1, { retention: { bytes: 0, ageMs: 2 ** 40 } });
    for (let i = 0; i < 5; i++) await put(store, `k${i}`, '1');
    const writing = put(store, 'last', '1');
    await Promise.all([writing, store.sweep(), store.sweep(), store.sweep()]);
    while (await store.sweep());
    assert.equal(store.log.first, store.log.next);
    assert.equal(value(store, 'k3'), '1');
    assert.equal(store.statistics().logBytes, 0);
  });
});

describe('limits', () => {
  it('a full queue refuses with OVERLOADED, and takes again when it has room', async () => {
    const store = bench.store(1, { queue: { jobs: 3, commitChanges: 1, commitBytes: 2 ** 20, commitIntervalMs: 0 } });
    const accepted = [1, 2, 3].map((n) => put(store, 'a', `${n}`));
    assert.throws(() => store.write(() => undefined), { code: 'OVERLOADED', message: /3 writes are waiting/ });
    assert.throws(() => store.apply(encode([])), { code: 'OVERLOADED' });
    await Promise.all(accepted);
    await put(store, 'a', '4');
    assert.equal(value(store, 'a'), '4');
  });

  it('a commit takes no more than its limits of changes and bytes, and at least one transaction', async () => {
    const store = bench.store(1, { queue: { jobs: 99, commitChanges: 2, commitBytes: 300, commitIntervalMs: 0 } });
    const sizes: number[] = [];
    store.onCommit(({ count }) => sizes.push(count));
    await Promise.all([1, 2, 3, 4, 5].map((n) => put(store, 'a', `${n}`)));
    await Promise.all([1, 2, 3].map(() => put(store, 'a', 'x'.repeat(1000))));
    assert.ok(sizes.every((count) => count <= 2));
    assert.deepEqual(sizes.slice(-3), [1, 1, 1]);
    assert.equal(store.statistics().queued, 0);
  });

  it('keys and transactions beyond their limits are TOO_LARGE and leave nothing; at the limit they are stored', async () => {
    const store = bench.store(1, { transaction: { bytes: 2000, keyBytes: 10 } });
    const write = (key: string, size: number) => put(store, key, 'v'.repeat(size));
    await write('0123456789', 2000 - 10 - 20);
    assert.equal(value(store, '0123456789')?.length, 1970);
    await assert.rejects(write('0123456789', 1971), { code: 'TOO_LARGE', message: /more than 2000 bytes/ });
    await assert.rejects(write('0123456789a', 1), { code: 'TOO_LARGE', message: /11 bytes exceeds the limit of 10/ });
    const tooLongPrefix = store.write((view) => view.clear('default', bytes('0123456789a')));
    await assert.rejects(tooLongPrefix.committed, { code: 'TOO_LARGE' });
    assert.deepEqual(logged(store), ['1:1']);
  });

  it('databases beyond the limit are refused; the others of the same batch then get maps of their own', async () => {
    const [disk] = [parseDatabase('default')];
    const store = bench.store(undefined, { databases: [disk], maxDatabases: 3 });
    const into = (...names: string[]) => names.map((name) => set('k', `in ${name}`, 0, name));
    const three = encode([transaction(1, 1, 1, into('two', 'three', 'four'))]);
    await assert.rejects(store.apply(three).committed, { code: 'STORAGE', message: /limit of 3/ });
    await store.apply(encode([transaction(1, 1, 1, into('two'))])).committed;
    await store.apply(encode([transaction(1, 2, 2, into('three'))])).committed;
    await assert.rejects(store.apply(encode([transaction(1, 3, 3, into('four'))])).committed, { code: 'STORAGE' });
    assert.deepEqual(
      store.databases().map(({ name }) => name),
      ['default', 'two', 'three'],
    );
    assert.deepEqual([value(store, 'k', 'two'), value(store, 'k', 'three')], ['in two', 'in three']);
    assert.equal(originOf(store.position(), sid(1))?.sequence, 2);
  });

  it('a store without a server id takes no local writes, an unknown database is NO_DATABASE, a closed one NOT_READY', async () => {
    const follower = bench.store(undefined);
    assert.throws(() => follower.write(() => undefined), { code: 'READ_ONLY' });
    assert.throws(() => follower.get('missing', bytes('a')), { code: 'NO_DATABASE' });
    const store = bench.store(1);
    const unknown = store.write((view) => view.set('missing', bytes('a'), bytes('1'), 0));
    await assert.rejects(unknown.committed, { code: 'NO_DATABASE' });
    const last = put(store, 'a', '1');
    const closing = bench.closeStore(store);
    assert.throws(() => store.write(() => undefined), { code: 'NOT_READY' });
    await Promise.all([last, closing]);
  });

  it('a transaction that throws after writing leaves no trace, and no number is lost (invariants 1, 2)', async () => {
    const store = bench.store(1);
    const writes = [1, 2, 3, 4].map((n) => {
      return store.write((view) => {
        view.set('default', bytes(`k${n}`), bytes('1'), 0);
        if (n % 2 === 0) throw new TokaidoError('DUPLICATE_RECORD', 'as a command does');
      });
    });
    const ended = await Promise.allSettled(writes.map(({ flushed }) => flushed));
    assert.deepEqual(
      ended.map(({ status }) => status),
      ['fulfilled', 'rejected', 'fulfilled', 'rejected'],
    );
    assert.deepEqual(logged(store), ['1:1', '1:2']);
    assert.deepEqual(store.keys('default', bytes(''), undefined, 9).map(String), ['k1', 'k3']);
  });
});
