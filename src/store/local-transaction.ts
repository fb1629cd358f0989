/**
 * A local transaction while its `build` runs: it reads through its own writes, and nothing reaches the engine until it
 * has ended well. That is what makes a failing transaction traceless inside a group commit.
 */
import { TokaidoError } from '../base/errors.js';
import { NEVER_EXPIRES, type Sid, type VersionNs } from '../base/types.js';
import { type Change, changeBytes, MAX_XT_MS } from '../log/transaction.js';
import type { Draft } from './draft.js';
import type { RecordView, StoreTransaction } from './types.js';

/** Bounds of one transaction. */
export interface TransactionLimits {
  /** Most bytes of keys and values (and a few more per change). */
  readonly bytes: number;
  /** Longest key, in bytes. */
  readonly keyBytes: number;
}

interface Author {
  readonly sid: Sid;
  readonly versionNs: VersionNs;
  readonly nowMs: number;
}

/** What holds for one transaction. */
interface Bounds extends TransactionLimits {
  /** The data file has reached its size. */
  readonly mayOnlyRemove: boolean;
}

export class LocalTransaction implements StoreTransaction {
  readonly changes: Change[] = [];
  readonly #draft: Draft;
  readonly #author: Author;
  readonly #limits: Bounds;
  /** Last set or remove of each key, by database and key bytes. */
  readonly #written = new Map<string, Map<string, RecordView | undefined>>();
  /** How many of `changes` are in `#written`: it costs every write, and only who reads in a transaction needs it. */
  #indexed = 0;
  /** Clears so far, in order; what was written before one is forgotten with it. */
  readonly #cleared: { database: string; prefix: Buffer }[] = [];
  #bytes = 0;

  constructor(draft: Draft, author: Author, limits: Bounds) {
    this.#draft = draft;
    this.#author = author;
    this.#limits = limits;
  }

  get(database: string, key: Buffer): RecordView | undefined {
    this.#draft.requireDatabase(database);
    this.#index();
    const written = this.#written.get(database);
    const name = key.toString('latin1');
    if (written?.has(name) === true) {
      const view = written.get(name);
      return view === undefined || !this.#isLive(view.xtMs) ? undefined : view;
    }
    const cleared = this.#cleared.some((clear) => {
      return clear.database === database && key.subarray(0, clear.prefix.length).equals(clear.prefix);
    });
    return cleared ? undefined : this.#draft.live(database, key);
  }

  #isLive(xtMs: number): boolean {
    return xtMs === NEVER_EXPIRES || xtMs > this.#author.nowMs;
  }

  set(database: string, key: Buffer, value: Buffer, xtMs: number): void {
    this.#draft.requireDatabase(database);
    this.#checkKey(key);
    if (this.#limits.mayOnlyRemove) {
      throw new TokaidoError('STORAGE', 'the data has reached its size limit: only removing is possible', {
        hint: 'raise store.maxSizeBytes in the configuration, or remove records',
      });
    }
    const xt = this.#draft.expiryFor(database, Math.min(Math.max(0, Math.floor(xtMs)), MAX_XT_MS));
    this.#record({ kind: 'set', database, key, value, xtMs: xt });
  }

  remove(database: string, key: Buffer): boolean {
    if (this.get(database, key) === undefined) return false;
    this.#record({ kind: 'remove', database, key });
    return true;
  }

  clear(database: string, prefix: Buffer = Buffer.alloc(0)): void {
    this.#draft.requireDatabase(database);
    this.#checkKey(prefix);
    this.#record({ kind: 'clear', database, prefix });
  }

  /** Brings `#written` and `#cleared` up to the changes made so far. */
  #index(): void {
    for (; this.#indexed < this.changes.length; this.#indexed++) {
      const change = this.changes[this.#indexed] as Change;
      if (change.kind === 'clear') this.#forget(change);
      else this.#remember(change.database, change.key, change.kind === 'set' ? this.#viewOf(change) : undefined);
    }
  }

  #viewOf({ value, xtMs }: Extract<Change, { kind: 'set' }>): RecordView {
    const { sid, versionNs } = this.#author;
    return { value, xtMs, sid, versionNs };
  }

  #forget({ database, prefix }: { readonly database: string; readonly prefix: Buffer }): void {
    const written = this.#written.get(database);
    const start = prefix.toString('latin1');
    for (const name of written?.keys() ?? []) if (name.startsWith(start)) written?.delete(name);
    this.#cleared.push({ database, prefix });
  }

  #remember(database: string, key: Buffer, view: RecordView | undefined): void {
    let written = this.#written.get(database);
    if (written === undefined) {
      written = new Map();
      this.#written.set(database, written);
    }
    written.set(key.toString('latin1'), view);
  }

  #checkKey(key: Buffer): void {
    if (key.length <= this.#limits.keyBytes) return;
    throw new TokaidoError('TOO_LARGE', `a key of ${key.length} bytes exceeds the limit of ${this.#limits.keyBytes}`, {
      hint: 'shorten the key; the limit is limits.keyBytes in the configuration',
    });
  }

  #record(change: Change): void {
    this.#bytes += changeBytes(change);
    if (this.#bytes > this.#limits.bytes) {
      throw new TokaidoError('TOO_LARGE', `a transaction of more than ${this.#limits.bytes} bytes`, {
        hint: 'split it into smaller ones; the limit is limits.transactionBytes in the configuration',
      });
    }
    this.changes.push(change);
  }
}
