/**
 * The operations of the key-value store, each defined once, whatever protocol called it. A protocol's server parses
 * bytes into a call of one of these and renders the result or the `TokaidoError` in its own form.
 */
import { TokaidoError } from '../base/errors.js';
import type { VersionNs } from '../base/types.js';
import type { Database, Durability, Range, RecordView, Store, Written } from '../store/types.js';
import { OperationCounts } from './operation-counts.js';

/**
 * Longest key that any node stores, bytes; `limits.keyBytes` may be less. A longer one can be asked for, and is nowhere:
 * it must not reach an engine, which cannot even look for it.
 */
export const LONGEST_KEY_BYTES = 1900;

/** Records of a bulk call that are one transaction without being asked to. */
export const PART_RECORDS = 5_000;
/** Most records of a bulk call that is to be atomic. */
export const ATOMIC_RECORDS = 10_000;

export interface BulkOptions {
  /** All or nothing, however many. */
  readonly atomic?: boolean;
}

/** `set` stores whatever was there; `add` only a new record; `replace` only an existing one. */
export type SetMode = 'set' | 'add' | 'replace';

export interface KeyRef {
  readonly database: Database;
  readonly key: Buffer;
}

export interface RecordWrite extends KeyRef {
  readonly value: Buffer;
  /** Expiration time, ms since 1970, or `NEVER_EXPIRES`. */
  readonly xtMs: number;
}

export interface CommandLimits {
  /** Longest key accepted, in bytes. */
  readonly keyBytes: number;
  /** Largest value accepted, in bytes. */
  readonly valueBytes: number;
}

/** What an update does to the record it saw: a new content, nothing left, or nothing changed. */
export type Next = { readonly value: Buffer; readonly xtMs: number } | 'remove' | 'keep';

export interface Decision<T> {
  readonly next: Next;
  /** What the caller gets. */
  readonly result: T;
}

/** Why this node takes no writes right now, or `undefined` when it does. Asked before every write. */
export type WriteGate = () => TokaidoError | undefined;

export interface CommandsOptions {
  /** The current store, or `undefined` while the node has no data to serve. Swapped when a snapshot was loaded. */
  readonly store: () => Store | undefined;
  readonly writeGate: WriteGate;
  readonly limits: CommandLimits;
  /** What an acknowledgement of a write promises. */
  readonly durability: Durability;
}

/** Throws `TokaidoError`; never returns partial results. */
export class Commands {
  readonly #options: CommandsOptions;
  /** What was asked for since the start. */
  readonly counts: OperationCounts;

  constructor(options: CommandsOptions, counts = new OperationCounts()) {
    this.#options = options;
    this.counts = counts;
  }

  /** What these are made of, for others on the same store. */
  get options(): CommandsOptions {
    return this.#options;
  }

  get limits(): CommandLimits {
    return this.#options.limits;
  }

  #store(): Store {
    const store = this.#options.store();
    if (store === undefined) {
      throw new TokaidoError('NOT_READY', 'this node has no data yet: it is being seeded from its upstream', {
        hint: 'try another node, or wait until /ready on the admin listener answers 200',
      });
    }
    return store;
  }

  #writable(): Store {
    const store = this.#store();
    const refusal = this.#options.writeGate();
    if (refusal !== undefined) throw refusal;
    return store;
  }

  /** For what is of no use where nothing can be written. Errors: why this node takes no writes now. */
  checkWritable(): void {
    this.#writable();
  }

  /**
   * For what concerns a whole database, or with none the whole server, and is no operation here. Errors: `FORBIDDEN` for
   * who may not administer it.
   */
  checkAdmin(_database?: Database): void {
    // Whoever has these commands may do everything: see `RestrictedCommands`.
  }

  async #acknowledged<T>(written: Written<T>): Promise<T> {
    return this.#options.durability === 'flushed' ? await written.flushed : await written.committed;
  }

  /** Errors: `TOO_LARGE`. */
  checkKey(key: Buffer): void {
    if (key.length > this.#options.limits.keyBytes) {
      throw new TokaidoError(
        'TOO_LARGE',
        `a key of ${key.length} bytes exceeds the limit of ${this.#options.limits.keyBytes}`,
        {
          hint: 'shorten the key; the limit is limits.keyBytes in the configuration',
        },
      );
    }
  }

  #checkRecord(record: RecordWrite): void {
    this.checkKey(record.key);
    if (record.value.length > this.#options.limits.valueBytes) {
      throw new TokaidoError(
        'TOO_LARGE',
        `a value of ${record.value.length} bytes exceeds the limit of ${this.#options.limits.valueBytes}`,
        {
          hint: 'split the value, or raise limits.valueBytes in the configuration of every node',
        },
      );
    }
  }

  /** Databases in the order of Kyoto Tycoon's numbers. */
  databases(): readonly Database[] {
    return this.#store().databases();
  }

  /** By name, else by number as Kyoto Tycoon's clients do. Errors: `NO_DATABASE`. */
  database(nameOrIndex: string | number): Database {
    const databases = this.#store().databases();
    const found =
      typeof nameOrIndex === 'number'
        ? databases[nameOrIndex]
        : (this.#store().database(nameOrIndex) ??
          (/^\d{1,5}$/.test(nameOrIndex) ? databases[Number(nameOrIndex)] : undefined));
    if (found === undefined) throw new TokaidoError('NO_DATABASE', 'no such database');
    return found;
  }

  /** `undefined` when there is no live record. The view is valid until the next call. */
  get({ database, key }: KeyRef): RecordView | undefined {
    const store = this.#store();
    const record = key.length > LONGEST_KEY_BYTES ? undefined : store.get(database.name, key);
    this.counts.get++;
    if (record === undefined) this.counts.getMisses++;
    return record;
  }

  /** Errors: `DUPLICATE_RECORD` for `add`, `NO_RECORD` for `replace`. Resolves when the durability is reached. */
  async set(record: RecordWrite, mode: SetMode = 'set'): Promise<void> {
    this.#checkRecord(record);
    const { database, key, value, xtMs } = record;
    const written = this.#writable().write((transaction) => {
      if (mode !== 'set') {
        const exists = transaction.get(database.name, key) !== undefined;
        if (mode === 'add' && exists) throw new TokaidoError('DUPLICATE_RECORD', 'record duplication');
        if (mode === 'replace' && !exists) throw new TokaidoError('NO_RECORD', 'no record');
      }
      transaction.set(database.name, key, value, xtMs);
    });
    await this.counts.ofSet(1, this.#acknowledged(written));
  }

  /**
   * All or nothing, as one transaction, up to `PART_RECORDS`. More are cut into transactions of so many, one after the
   * other, because one of a million would keep every reader waiting for seconds; whoever needs them whole asks for
   * `atomic`, which refuses more than `ATOMIC_RECORDS`. Returns the number of records stored. Errors: `TOO_LARGE`.
   */
  async setBulk(records: readonly RecordWrite[], { atomic = false }: BulkOptions = {}): Promise<number> {
    for (const record of records) this.#checkRecord(record);
    const stored = this.#inParts(records, atomic, (part) => {
      return this.#writable().write((transaction) => {
        for (const { database, key, value, xtMs } of part) transaction.set(database.name, key, value, xtMs);
        return part.length;
      });
    });
    return await this.counts.ofSet(records.length, stored);
  }

  /** The sum of what the parts return. An earlier part is visible before a later one begins, and flushed before it is. */
  async #inParts<T>(
    items: readonly T[],
    atomic: boolean,
    write: (part: readonly T[]) => Written<number>,
  ): Promise<number> {
    if (atomic && items.length > ATOMIC_RECORDS) {
      throw new TokaidoError('TOO_LARGE', `${items.length} records in one atomic call exceed ${ATOMIC_RECORDS}`, {
        hint: 'send fewer records in one call, or leave atomic out',
      });
    }
    const size = atomic ? ATOMIC_RECORDS : PART_RECORDS;
    let done = 0;
    for (let at = 0; ; at += size) {
      const written = write(items.slice(at, at + size));
      if (at + size >= items.length) return done + (await this.#acknowledged(written));
      // Nobody waits for the flush of this part by itself.
      written.flushed.catch(() => undefined);
      done += await written.committed;
    }
  }

  /**
   * One atomic read-modify-write, on which every conditional operation is built. `decide` sees the live record, a view
   * that is valid during the call (copy what the result keeps), and the version that a new content gets; when it throws,
   * nothing happened.
   */
  async update<T>(
    { database, key }: KeyRef,
    decide: (record: RecordView | undefined, versionNs: VersionNs) => Decision<T>,
  ): Promise<T> {
    this.checkKey(key);
    const written = this.#writable().write((transaction, versionNs) => {
      const { next, result } = decide(transaction.get(database.name, key), versionNs);
      if (next === 'remove') {
        transaction.remove(database.name, key);
      } else if (next !== 'keep') {
        this.#checkRecord({ database, key, ...next });
        transaction.set(database.name, key, next.value, next.xtMs);
      }
      return result;
    });
    return await this.counts.ofSet(1, this.#acknowledged(written));
  }

  /** Live records of a range in key order, piece by piece, for cursors and matching. See `Store.visit`. */
  visit(database: Database, range: Range, visit: (key: Buffer, record: RecordView) => boolean): Buffer | undefined {
    return this.#store().visit(database.name, range, visit);
  }

  /** Number of records, expired ones that were not collected yet included. */
  count(database: Database): number {
    return this.#store().count(database.name);
  }

  /** Errors: `NO_RECORD`. */
  async remove({ database, key }: KeyRef): Promise<void> {
    const written = this.#writable().write((transaction) => {
      if (key.length > LONGEST_KEY_BYTES || !transaction.remove(database.name, key))
        throw new TokaidoError('NO_RECORD', 'no record');
      return 1;
    });
    await this.counts.ofRemove(1, this.#acknowledged(written));
  }

  /** In parts as `setBulk`. Returns how many records were there. Errors: `TOO_LARGE`. */
  async removeBulk(keys: readonly KeyRef[], { atomic = false }: BulkOptions = {}): Promise<number> {
    const removed = this.#inParts(keys, atomic, (part) => {
      return this.#writable().write((transaction) => {
        let there = 0;
        for (const { database, key } of part) {
          if (key.length <= LONGEST_KEY_BYTES && transaction.remove(database.name, key)) there++;
        }
        return there;
      });
    });
    return await this.counts.ofRemove(keys.length, removed);
  }

  /** Removes every record of a database, as one transaction. */
  async clear(database: Database): Promise<void> {
    this.counts.misc++;
    await this.#acknowledged(this.#writable().write((transaction) => transaction.clear(database.name)));
  }

  /** Collects what has expired and can be forgotten, at most `rounds` rounds of housekeeping. */
  async vacuum(rounds: number): Promise<void> {
    this.counts.misc++;
    for (let round = 0; round < rounds && (await this.#store().sweep()); round++) {
      // Each round is one short commit.
    }
  }

  /** Resolves when everything acknowledged so far is on the disk. */
  async flush(): Promise<void> {
    this.counts.misc++;
    await this.#store().flush();
  }

  /** Bytes that all databases together occupy on the disk. */
  sizeBytes(): number {
    return this.#store().sizeBytes();
  }
}
