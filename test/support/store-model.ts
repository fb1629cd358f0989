/**
 * Stores for model-based tests: a clock that only the test moves, stores on temporary folders, generated transactions,
 * what a store holds byte for byte, and the model that says what it must hold: of all changes that concern a key, the
 * one with the highest (version, sid) counts, whatever the order in which they arrived.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { ByteWriter } from '../../src/base/bytes.js';
import { silentLogger } from '../../src/base/logger.js';
import type { Runtime } from '../../src/base/runtime.js';
import { epoch, NEVER_EXPIRES, type Sid, sequence, sid, versionNs } from '../../src/base/types.js';
import type { Engine } from '../../src/engine/engine.js';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import { type Change, encodeTransaction, type Transaction } from '../../src/log/transaction.js';
import { parseDatabase } from '../../src/store/database-spec.js';
import { type Horizon, horizonOf, isBeyond } from '../../src/store/proof.js';
import { StoredRecord } from '../../src/store/record.js';
import { hashText, NOTHING, RecordHasher } from '../../src/store/set-hash.js';
import { SnapshotLoader, SnapshotSource } from '../../src/store/snapshot.js';
import { type DatabaseState, decodeState } from '../../src/store/state.js';
import { LocalStore, STATE_KEY } from '../../src/store/store.js';
import type { StoreOptions } from '../../src/store/store-options.js';
import { broken, localRuntime } from './local-runtime.js';

export const DATABASES = ['default', 'other'] as const;
/** Few and similar, so that changes meet. */
export const KEYS = ['', 'a', 'ab', 'abc', 'b', '\xff', '\xffa'] as const;
export const PREFIXES = ['', 'a', 'ab', 'b', '\xff'] as const;
/** Where the test clock starts, ms. Expirations are drawn around it. */
export const START_MS = 1000;

export const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');

/** Time that passes only when the test says so. */
export class TestClock {
  ms = START_MS;
  ns = 1n;
  readonly runtime: Runtime = localRuntime({ nowMs: () => this.ms, nowNs: () => this.ns });
}

/** Opens stores on folders of its own and removes everything at the end. */
export class StoreBench {
  readonly clock = new TestClock();
  readonly #folder = mkdtempSync(join(tmpdir(), 'tokaido-store-'));
  readonly #open = new Set<LocalStore>();
  #folders = 0;

  newFolder(): string {
    return join(this.#folder, `${++this.#folders}`);
  }

  /** Without flushes: these tests are about contents, and an fsync per commit would only make them slow. */
  engine(folder = this.newFolder()): LmdbEngine {
    return new LmdbEngine({ bootId: 'a boot', folder, mapSizeBytes: 2 ** 28, maxMaps: 24, flushesCommits: false });
  }

  store(ownSid: number | undefined, overrides: Partial<StoreOptions> = {}): LocalStore {
    const store = new LocalStore({
      engine: overrides.engine ?? this.engine(),
      runtime: this.clock.runtime,
      log: silentLogger,
      sid: ownSid === undefined ? undefined : sid(ownSid),
      databases: DATABASES.map((name) => parseDatabase(name)),
      retention: { bytes: 2 ** 30, ageMs: 2 ** 40 },
      transaction: { bytes: 2 ** 20, keyBytes: 1024 },
      queue: { jobs: 1000, commitChanges: 2000, commitBytes: 2 ** 20, commitIntervalMs: 0 },
      maxDatabases: 16,
      onBroken: broken,
      ...overrides,
    });
    this.#open.add(store);
    return store;
  }

  /** A store with a copy of what `source` has, as a follower gets it; `sliceBytes` small enough to need many slices. */
  async seeded(source: LocalStore, ownSid?: number, sliceBytes = 40): Promise<LocalStore> {
    const engine = this.engine();
    const from = new SnapshotSource(source.engine);
    try {
      const loader = new SnapshotLoader(engine, from.contents, []);
      for (let slice = from.next(sliceBytes); slice !== undefined; slice = from.next(sliceBytes))
        await loader.add(slice);
      await loader.finish(loader.rows);
    } finally {
      from.close();
    }
    return this.store(ownSid, { engine });
  }

  async closeStore(store: LocalStore): Promise<void> {
    this.#open.delete(store);
    await store.close();
  }

  async close(): Promise<void> {
    for (const store of [...this.#open]) await this.closeStore(store);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Runs `test` with a bench that is gone afterwards. */
export async function withBench<T>(test: (bench: StoreBench) => Promise<T>): Promise<T> {
  const bench = new StoreBench();
  try {
    return await test(bench);
  } finally {
    await bench.close();
  }
}

export function encode(transactions: readonly Transaction[]): Buffer {
  const writer = new ByteWriter();
  for (const transaction of transactions) encodeTransaction(writer, transaction);
  return writer.take();
}

/** A transaction of an origin, numbered and stamped by hand. */
export function transaction(
  of: number,
  number: number,
  ns: number,
  changes: readonly Change[],
  inEpoch = 1,
): Transaction {
  return {
    sid: sid(of) as Sid,
    epoch: epoch(inEpoch),
    sequence: sequence(number),
    versionNs: versionNs(BigInt(ns)),
    feed: undefined,
    changes,
  };
}

export const set = (key: string, value: string, xtMs: number = NEVER_EXPIRES, database = 'default'): Change => {
  return { kind: 'set', database, key: bytes(key), value: bytes(value), xtMs };
};
export const remove = (key: string, database = 'default'): Change => ({ kind: 'remove', database, key: bytes(key) });
export const clear = (prefix = '', database = 'default'): Change => ({
  kind: 'clear',
  database,
  prefix: bytes(prefix),
});

const aDatabase = fc.constantFrom(...DATABASES);
const aKey = fc.constantFrom(...KEYS);
/** Never, just before and just after the clock's start, and later. */
export const anXt = fc.oneof(fc.constant(NEVER_EXPIRES), fc.integer({ min: START_MS - 2, max: START_MS + 40 }));

export const aChange: fc.Arbitrary<Change> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(aKey, fc.string({ maxLength: 4 }), anXt, aDatabase).map((args) => set(...args)),
  },
  { weight: 3, arbitrary: fc.tuple(aKey, aDatabase).map((args) => remove(...args)) },
  { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...PREFIXES), aDatabase).map((args) => clear(...args)) },
);

/** What one origin wrote, in its order: versions grow by small steps, so that those of several origins collide. */
export function aHistory(of: number): fc.Arbitrary<Transaction[]> {
  const step = fc.record({ ns: fc.integer({ min: 1, max: 4 }), changes: fc.array(aChange, { maxLength: 4 }) });
  return fc.array(step, { maxLength: 10 }).map((steps) => {
    let ns = 0;
    return steps.map((each, i) => {
      ns += each.ns;
      return transaction(of, i + 1, ns, each.changes);
    });
  });
}

/** The hash of what lies in a database, as far as it counts. */
function recount(engine: Engine, { id, storage }: DatabaseState, horizon: Horizon): string {
  const sum = Int32Array.from(NOTHING);
  const hasher = new RecordHasher();
  for (const { key, value } of engine.range(engine.openMap(`records-${id}`, { storage }), {})) {
    const record = new StoredRecord(Buffer.from(value));
    if (!record.isTombstone && isBeyond(horizon, record.xtMs, key)) hasher.count(sum, 1, key, record);
  }
  return hashText(sum);
}

/** The hash that a store has of each database must be that of the records which lie there (invariant 11). */
export function checkHashes(store: LocalStore): void {
  const row = store.engine.get(store.engine.openMap('meta'), STATE_KEY);
  const databases = row === undefined ? [] : decodeState(Buffer.from(row)).databases;
  for (const { name, proven } of store.proving.prove().databases) {
    const state = databases.find((database) => database.name === name);
    if (state === undefined || proven === undefined) continue;
    assert.equal(hashText(proven.hash), recount(store.engine, state, proven.horizon), `the hash of ${name}`);
  }
}

/** Stored rows by database, clears and positions: equal texts are equal stores. Local numbers are each node's own. */
export function dump(engine: Engine): Record<string, readonly string[]> {
  const row = engine.get(engine.openMap('meta'), STATE_KEY);
  if (row === undefined) return {};
  const state = decodeState(Buffer.from(row));
  for (const database of state.databases) {
    const { id, name, storage, hash } = database;
    const counted = recount(engine, database, horizonOf(state.horizons[storage], id));
    assert.equal(hashText(hash), counted, `the hash of ${name}`);
  }
  const nameOf = (id: number): string => state.databases.find((database) => database.id === id)?.name ?? `? ${id}`;
  const all: Record<string, readonly string[]> = {
    position: state.position.map((origin) => `${origin.sid}@${origin.epoch}:${origin.sequence} ${origin.versionNs}`),
    counts: state.databases.map(({ name, records }) => `${name} ${records}`).sort(),
    clears: state.clears
      .map((mark) => `${nameOf(mark.databaseId)} ${mark.prefix.toString('hex')} ${mark.versionNs} ${mark.sid}`)
      .sort(),
  };
  for (const { id, name } of state.databases) {
    const rows: string[] = [];
    for (const { key, value } of engine.range(engine.openMap(`records-${id}`), {})) {
      rows.push(`${key.toString('hex')} = ${value.toString('hex')}`);
    }
    all[`records of ${name}`] = rows;
  }
  return all;
}

/** A record as the model has it. */
export interface ModelRecord {
  readonly value: string;
  readonly xtMs: number;
}

/** Every change ever made, by whom and when; what a key holds follows from that alone. */
export class StoreModel {
  readonly #changes: { readonly change: Change; readonly ns: bigint; readonly sid: number; readonly order: number }[] =
    [];

  add({ changes, versionNs: ns, sid: of }: Transaction): void {
    for (const change of changes) this.#changes.push({ change, ns, sid: of, order: this.#changes.length });
  }

  /** The deciding change of a key: the highest version, then sid, then the last of one transaction. */
  get(database: string, key: string, nowMs: number): ModelRecord | undefined {
    const concerning = this.#changes.filter(({ change }) => {
      if (change.database !== database) return false;
      return change.kind === 'clear'
        ? key.startsWith(change.prefix.toString('latin1'))
        : change.key.toString('latin1') === key;
    });
    concerning.sort((a, b) => (a.ns === b.ns ? a.sid - b.sid || a.order - b.order : a.ns < b.ns ? -1 : 1));
    const last = concerning.at(-1)?.change;
    if (last?.kind !== 'set') return undefined;
    if (last.xtMs !== NEVER_EXPIRES && last.xtMs <= nowMs) return undefined;
    return { value: last.value.toString('latin1'), xtMs: last.xtMs };
  }

  /** Keys of live records in order. */
  keys(database: string, nowMs: number): string[] {
    return KEYS.filter((key) => this.get(database, key, nowMs) !== undefined).sort((a, b) =>
      bytes(a).compare(bytes(b)),
    );
  }
}
