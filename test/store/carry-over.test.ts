/** A root that takes a snapshot of another root keeps what only it has. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { describePosition } from '../../src/log/position.js';
import { CarryOver, whyNotCarried } from '../../src/store/carry-over.js';
import type { LocalStore } from '../../src/store/store.js';
import { contents } from '../support/replication-pair.js';
import { bytes, encode, remove, StoreBench, set, transaction } from '../support/store-model.js';

describe('what a root keeps beside a snapshot of another root', () => {
  let bench: StoreBench;
  beforeEach(() => {
    bench = new StoreBench();
  });
  afterEach(async () => await bench.close());

  const carryOver = async (from: LocalStore, to: LocalStore): Promise<number> => await new CarryOver(from, to).run();
  const at = (store: LocalStore): string => describePosition(store.position());
  const shown = (store: LocalStore) => ({ position: store.position(), forgotten: store.known.forgotten });

  async function storeOf(own: number, ...transactions: readonly ReturnType<typeof transaction>[]): Promise<LocalStore> {
    const store = bench.store(own);
    for (const one of transactions) await store.apply(encode([one])).committed;
    return store;
  }

  it('is its own transactions and those it has of others, by version (invariants 2 and 4)', async () => {
    const ours = await storeOf(
      1,
      transaction(1, 1, 10, [set('a', 'one'), set('b', 'one')]),
      transaction(3, 1, 15, [set('c', 'three')]),
      transaction(1, 2, 30, [set('a', 'one again'), remove('d')]),
    );
    const theirs = await storeOf(
      1,
      transaction(1, 1, 10, [set('a', 'one'), set('b', 'one')]),
      transaction(2, 1, 20, [set('a', 'two'), set('b', 'two'), set('d', 'two')]),
    );
    assert.equal(whyNotCarried(ours, shown(theirs)), undefined);
    assert.equal(await carryOver(ours, theirs), 2);
    assert.equal(at(theirs), '1:2 2:1 3:1');
    assert.deepEqual(contents(theirs), { a: 'one again', b: 'two', c: 'three' });
    // Nothing comes twice.
    assert.equal(await carryOver(ours, theirs), 0);
  });

  it('is not what another origin counts in a later epoch: that is over', async () => {
    const ours = await storeOf(1, transaction(2, 1, 10, [set('a', 'lost')]), transaction(1, 1, 20, [set('b', 'kept')]));
    const theirs = await storeOf(1, transaction(2, 1, 30, [set('a', 'later')], 2));
    await carryOver(ours, theirs);
    assert.equal(at(theirs), '1:1 2@2:1');
    assert.deepEqual(contents(theirs), { a: 'later', b: 'kept' });
  });

  it('is everything of an origin that goes on here, in a later epoch than the snapshot knows: it is refused then', async () => {
    // Seed 123112 of the simulation: origin 2 gave up its second epoch for a third, behind what is here, meanwhile.
    const ours = await storeOf(
      1,
      transaction(2, 1, 10, [set('a', 'first')]),
      transaction(2, 2, 20, [set('b', 'first')]),
    );
    const theirs = await storeOf(1, transaction(2, 1, 30, [set('a', 'second')], 2));
    const carry = new CarryOver(ours, theirs);
    assert.equal(await carry.run(), 0);
    await ours.apply(encode([transaction(2, 3, 40, [set('c', 'third')], 3)])).committed;
    await assert.rejects(carry.run(), { code: 'REPLICATION', message: /origin 2 gave up what was loaded/ });
  });

  it('is also what came meanwhile of an origin that goes on from what was loaded', async () => {
    // Seed 131104 of the simulation: two roots loaded each other's data, and one lost what the other said then.
    const ours = await storeOf(2, transaction(1, 1, 10, [set('a', 'first')]));
    const theirs = await storeOf(2, transaction(1, 1, 20, [set('a', 'second')], 2));
    const carry = new CarryOver(ours, theirs);
    await carry.run();
    await ours.apply(encode([transaction(1, 2, 30, [set('b', 'second')], 2)])).committed;
    assert.equal(await carry.run(), 1);
    assert.equal(at(theirs), '1@2:2');
    assert.deepEqual(contents(theirs), { a: 'second', b: 'second' });
  });

  it('makes it refuse a snapshot that would cost it something', async () => {
    const ours = await storeOf(1, transaction(1, 1, 10, [set('a', '1')]), transaction(1, 2, 20, [set('b', '2')]));
    const lost = await storeOf(2, transaction(1, 1, 10, [set('a', '1')]), transaction(1, 2, 15, [set('c', 'other')]));
    assert.match(whyNotCarried(ours, shown(lost)) ?? '', /has lost or never had/);
    await ours.trimLog({ bytes: 0, ageMs: 0 });
    assert.match(whyNotCarried(ours, { position: [] }) ?? '', /does not reach back/);
    await assert.rejects(carryOver(ours, lost), { code: 'REPLICATION' });
  });

  it('makes a root that lost its data refuse a snapshot with its own numbers: others may have more of them (invariant 2)', async () => {
    const emptied = await storeOf(1, transaction(2, 1, 11, [set('b', '2')]));
    const theirs = await storeOf(2, transaction(1, 1, 10, [set('a', '1')]), transaction(2, 1, 11, [set('b', '2')]));
    assert.match(whyNotCarried(emptied, shown(theirs)) ?? '', /transactions of this root that this root lost/);
    // What it made since has a number that meant something else.
    const since = await storeOf(1, transaction(1, 1, 30, [set('a', 'since')]));
    const more = await storeOf(2, transaction(1, 1, 10, [set('a', '1')]), transaction(1, 2, 12, [set('b', '2')]));
    assert.match(whyNotCarried(since, shown(more)) ?? '', /transactions of this root that this root lost/);
  });

  it('is numbered anew when both lost what the other kept, by the one with the higher server id (invariant 2)', async () => {
    const early = [transaction(1, 1, 10, [set('a', '1')]), transaction(2, 1, 11, [set('b', '2')])];
    const [lostOfOne, lostOfTwo] = [
      transaction(1, 2, 20, [set('c', 'lost')]),
      transaction(2, 2, 21, [set('d', 'lost')]),
    ];
    const one = await storeOf(1, ...early, lostOfTwo, transaction(1, 2, 30, [set('e', 'one since')], 2));
    const two = await storeOf(2, ...early, lostOfOne, transaction(2, 2, 31, [set('d', 'two since')], 2));
    assert.match(whyNotCarried(one, shown(two)) ?? '', /has lost or never had/);
    assert.equal(whyNotCarried(two, shown(one)), undefined);
    const loaded = await storeOf(2, ...early, lostOfTwo, transaction(1, 2, 30, [set('e', 'one since')], 2));
    assert.equal(await carryOver(two, loaded), 1);
    assert.equal(at(loaded), '1@2:2 2@3:3');
    assert.equal(loaded.epoch, 3);
    assert.deepEqual(contents(loaded), { a: '1', b: '2', d: 'two since', e: 'one since' });
  });

  it('is whole: writes wait for a moment, and none is lost', async () => {
    const ours = bench.store(1);
    const queued = Array.from(
      { length: 50 },
      (_, i) => ours.write((t) => t.set('default', bytes(`k${i}`), bytes('v'), 0)).committed,
    );
    const paused = ours.pause();
    assert.throws(() => ours.write((t) => t.set('default', bytes('late'), bytes('v'), 0)), { code: 'NOT_READY' });
    await paused;
    await Promise.all(queued);
    const theirs = bench.store(1);
    await carryOver(ours, theirs);
    assert.equal(Object.keys(contents(theirs)).length, 50);
    ours.resume();
    await ours.write((t) => t.set('default', bytes('late'), bytes('v'), 0)).committed;
  });
});
