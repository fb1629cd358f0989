/** A store against its model: any sequence of local writes, replicated batches, time, housekeeping and restarts. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { Change, Transaction } from '../../src/log/transaction.js';
import { decodeTransactions } from '../../src/log/transaction.js';
import type { LocalStore } from '../../src/store/store.js';
import type { StoreTransaction } from '../../src/store/types.js';
import {
  aChange,
  aHistory,
  bytes,
  DATABASES,
  encode,
  KEYS,
  PREFIXES,
  type StoreBench,
  StoreModel,
  withBench,
} from '../support/store-model.js';

const OWN_SID = 2;
const ORIGINS = [1, 3, 4];

type Action =
  | { readonly kind: 'write'; readonly changes: readonly Change[]; readonly throws: boolean }
  /** Several batches of one origin, from up to `again` transactions back: what was applied is skipped. */
  | { readonly kind: 'replicate'; readonly origin: number; readonly count: number; readonly again: number }
  | { readonly kind: 'pass'; readonly ms: number; readonly ns: number }
  | { readonly kind: 'sweep' }
  | { readonly kind: 'reopen' };

const anAction: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      changes: fc.array(aChange, { maxLength: 5 }),
      throws: fc.nat({ max: 5 }).map((n) => n === 0),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('replicate' as const),
      origin: fc.nat({ max: ORIGINS.length - 1 }),
      count: fc.integer({ min: 1, max: 4 }),
      again: fc.nat({ max: 3 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('pass' as const), ms: fc.nat({ max: 15 }), ns: fc.nat({ max: 12 }) }),
  },
  { weight: 2, arbitrary: fc.constant({ kind: 'sweep' as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'reopen' as const }) },
);

class Undone extends Error {}

/** The store and the model side by side. */
class Run {
  readonly #bench: StoreBench;
  readonly #histories: readonly Transaction[][];
  readonly #reached = ORIGINS.map(() => 0);
  readonly #folder: string;
  readonly #logged: Transaction[] = [];
  #model = new StoreModel();
  #highestNs = 0n;
  store: LocalStore;

  constructor(bench: StoreBench, histories: readonly Transaction[][]) {
    this.#bench = bench;
    this.#histories = histories;
    this.#folder = bench.newFolder();
    this.store = this.#open();
  }

  #open(): LocalStore {
    const store = this.#bench.store(OWN_SID, { engine: this.#bench.engine(this.#folder) });
    store.onCommit(({ payload }) => {
      for (const { header, changes } of decodeTransactions(Buffer.from(payload))) {
        if (header.sid === OWN_SID) this.#logged.push({ ...header, changes });
      }
    });
    return store;
  }

  async do(action: Action): Promise<void> {
    const { clock } = this.#bench;
    if (action.kind === 'write') await this.#write(action.changes, action.throws);
    else if (action.kind === 'replicate') await this.#replicate(action);
    else if (action.kind === 'sweep') while (await this.store.sweep());
    else if (action.kind === 'pass') {
      clock.ms += action.ms;
      clock.ns += BigInt(action.ns);
    } else {
      await this.#bench.closeStore(this.store);
      this.store = this.#open();
    }
    this.#compare(action.kind === 'sweep');
  }

  /** A local write logs what it did (a remove of nothing is nothing), and its version is above all that was seen. */
  async #write(changes: readonly Change[], throws: boolean): Promise<void> {
    const before = this.#logged.length;
    const expected: Change[] = [];
    const writing = this.store.write((transaction) => {
      for (const change of changes) if (this.#perform(transaction, change, expected)) expected.push(change);
      if (throws) throw new Undone();
    }).committed;
    if (throws) return await assert.rejects(writing, Undone);
    await writing;
    const [logged, ...more] = this.#logged.slice(before);
    assert.deepEqual(more, []);
    assert.deepEqual(logged?.changes ?? [], expected);
    if (logged === undefined) return;
    assert.ok(logged.versionNs > this.#highestNs, 'a local version is above every other');
    this.#saw(logged);
  }

  /** Does one change and checks what the transaction shows before and after; returns whether it has to be logged. */
  #perform(view: StoreTransaction, change: Change, earlier: readonly Change[]): boolean {
    const here = new StoreModel();
    const last = (this.#logged.at(-1) ?? { sid: OWN_SID, sequence: 0, epoch: 1, feed: undefined }) as Transaction;
    const look = (changes: readonly Change[], key: Buffer): string | undefined => {
      here.add({ ...last, versionNs: 1n as never, changes });
      const seen = here.get(change.database, key.toString('latin1'), this.#bench.clock.ms)?.value;
      const touched = changes.some((done) => {
        if (done.database !== change.database) return false;
        return done.kind === 'clear' ? key.subarray(0, done.prefix.length).equals(done.prefix) : done.key.equals(key);
      });
      const outside = this.#model.get(change.database, key.toString('latin1'), this.#bench.clock.ms)?.value;
      return touched ? seen : outside;
    };
    if (change.kind === 'clear') {
      view.clear(change.database, change.prefix);
      return true;
    }
    const seen = look(earlier, change.key);
    assert.equal(view.get(change.database, change.key)?.value.toString('latin1'), seen);
    if (change.kind === 'remove') {
      assert.equal(view.remove(change.database, change.key), seen !== undefined);
      return seen !== undefined;
    }
    view.set(change.database, change.key, change.value, change.xtMs);
    return true;
  }

  async #replicate({ origin, count, again }: Extract<Action, { kind: 'replicate' }>): Promise<void> {
    const history = this.#histories[origin] as Transaction[];
    const reached = this.#reached[origin] as number;
    const to = Math.min(history.length, reached + count);
    const batch = history.slice(Math.max(0, reached - again), to);
    const fresh = history.slice(reached, to);
    assert.equal(await this.store.apply(encode(batch)).committed, fresh.length);
    this.#reached[origin] = to;
    for (const each of fresh) this.#saw(each);
  }

  #saw(transaction: Transaction): void {
    this.#model.add(transaction);
    if (transaction.versionNs > this.#highestNs) this.#highestNs = transaction.versionNs;
  }

  #compare(swept: boolean): void {
    const nowMs = this.#bench.clock.ms;
    for (const database of DATABASES) {
      for (const key of KEYS) {
        const found = this.store.get(database, bytes(key));
        const record = found && { value: found.value.toString('latin1'), xtMs: found.xtMs };
        assert.deepEqual(record, this.#model.get(database, key, nowMs), `${database} ${JSON.stringify(key)}`);
      }
      const live = this.#model.keys(database, nowMs);
      const keys = (prefix: string, after: string | undefined, limit: number): string[] => {
        const found = this.store.keys(database, bytes(prefix), after === undefined ? undefined : bytes(after), limit);
        return found.map((key) => key.toString('latin1'));
      };
      for (const prefix of PREFIXES) {
        const below = live.filter((key) => key.startsWith(prefix));
        assert.deepEqual(keys(prefix, undefined, 100), below);
        assert.deepEqual(keys(prefix, undefined, 1), below.slice(0, 1));
        assert.deepEqual(
          keys(prefix, 'a', 100),
          below.filter((key) => bytes(key).compare(bytes('a')) > 0),
        );
        assert.deepEqual(keys(prefix, undefined, 0), []);
      }
      if (swept) assert.equal(this.store.count(database), live.length);
      else assert.ok(this.store.count(database) >= live.length);
    }
  }
}

describe('a store', () => {
  it('equals its model after any writes, replicated batches, time, sweeps and restarts (invariants 1, 3, 4)', async () => {
    const histories = fc.tuple(...ORIGINS.map(aHistory));
    const actions = fc.array(anAction, { maxLength: 25, size: 'max' });
    await fc.assert(
      fc.asyncProperty(histories, actions, async (written, todo) => {
        await withBench(async (bench) => {
          const run = new Run(bench, written);
          for (const action of todo) await run.do(action);
        });
      }),
      { numRuns: 150 },
    );
  });
});
