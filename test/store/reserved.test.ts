/** The database that the cluster keeps for itself: it travels as others do, and nobody who asks by name finds it. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { parseDatabase } from '../../src/store/database-spec.js';
import { RESERVED_DATABASE } from '../../src/store/reserved.js';
import type { LocalStore } from '../../src/store/store.js';
import { bytes, encode, StoreBench, set, transaction } from '../support/store-model.js';

let bench: StoreBench;
beforeEach(() => {
  bench = new StoreBench();
});
afterEach(async () => await bench.close());

const kept = (store: LocalStore, prefix: string): string[] =>
  [...store.reserved(prefix)].map(({ key, record }) => `${key.toString('latin1')}=${record.value.toString('latin1')}`);

describe('the reserved database', () => {
  it('is made by its first write, and holds what the cluster keeps', async () => {
    const store = bench.store(1);
    assert.deepEqual(kept(store, 'crl/'), []);
    await store.writeReserved((view) => {
      view.set(RESERVED_DATABASE, bytes('crl/a'), bytes('1'), 0);
      view.set(RESERVED_DATABASE, bytes('token/b'), bytes('2'), 0);
    }).committed;
    assert.deepEqual(kept(store, 'crl/'), ['crl/a=1']);
    assert.deepEqual(kept(store, ''), ['crl/a=1', 'token/b=2']);
  });

  it('has no name and no number for clients, and takes no place among theirs', async () => {
    const store = bench.store(1, { maxDatabases: 3 });
    await store.writeReserved((view) => view.set(RESERVED_DATABASE, bytes('a'), bytes('1'), 0)).committed;
    const names = store.databases().map(({ name }) => name);
    assert.ok(!names.includes(RESERVED_DATABASE), names.join());
    assert.equal(store.database(RESERVED_DATABASE), undefined);
    const other = transaction(7, 1, 1, [{ ...set('k', 'v'), database: 'arrived' }]);
    await store.apply(encode([other])).committed;
    assert.deepEqual(
      store.databases().map(({ index }) => index),
      store.databases().map((_, index) => index),
    );
  });

  it('arrives by replication at a store that never wrote it', async () => {
    const store = bench.store(undefined);
    await store.apply(encode([transaction(1, 1, 1, [{ ...set('crl/a', '1'), database: RESERVED_DATABASE }])]))
      .committed;
    assert.deepEqual(kept(store, 'crl/'), ['crl/a=1']);
    assert.equal(store.database(RESERVED_DATABASE), undefined);
  });

  it('cannot be configured', () => {
    for (const name of [RESERVED_DATABASE, '.tokaido.kct', 'folder/.tokaido'])
      assert.throws(() => parseDatabase(name), { code: 'CONFIG', message: /are reserved/ });
  });
});
