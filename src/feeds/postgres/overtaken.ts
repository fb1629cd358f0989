/**
 * What the stream changes of tables while they are copied. A copied row is as old as the snapshot, whatever the stream
 * wrote since is newer: the copy must not touch it. Asked and told inside the store's transactions only, whose order is
 * the one that counts.
 */
import { TokaidoError } from '../../base/errors.js';
import type { StoreTransaction } from '../../store/types.js';

/** Keys remembered for one copy; a stream that changes more has to wait until the copy is done. */
export const MAX_OVERTAKEN = 1_000_000;

/** The stream cannot go on before the tables under way are copied. */
export class CopyFirst extends TokaidoError {
  constructor(reason: string) {
    super('FEED', `the copy has to end before the stream goes on: ${reason}`);
  }
}

export class Overtaken {
  readonly #keys = new Map<string, Set<string>>();
  readonly #cleared: { readonly database: string; readonly prefix: Buffer }[] = [];
  readonly #limit: number;
  #count = 0;
  #isOver = false;

  constructor(limit = MAX_OVERTAKEN) {
    this.#limit = limit;
  }

  /**
   * The transaction, with what is changed through it remembered. Where records may be `stale`, of another shape than the
   * table has now, only those that were changed so are there to be read. Its methods throw `CopyFirst` beyond the limit.
   */
  watch(transaction: StoreTransaction, stale = false): StoreTransaction {
    return {
      get: (database, key) => {
        if (stale && !this.#isOver && !this.has(database, key)) return undefined;
        return transaction.get(database, key);
      },
      set: (database, key, value, xtMs) => {
        this.#note(database, key);
        transaction.set(database, key, value, xtMs);
      },
      remove: (database, key) => {
        this.#note(database, key);
        return transaction.remove(database, key);
      },
      clear: (database, prefix) => {
        if (!this.#isOver) this.#cleared.push({ database, prefix: prefix ?? Buffer.alloc(0) });
        transaction.clear(database, prefix);
      },
    };
  }

  /** The copy is done: nothing has to be remembered any more. */
  end(): void {
    this.#isOver = true;
    this.#keys.clear();
    this.#cleared.length = 0;
  }

  #note(database: string, key: Buffer): void {
    if (this.#isOver) return;
    let keys = this.#keys.get(database);
    if (keys === undefined) {
      keys = new Set();
      this.#keys.set(database, keys);
    }
    const before = keys.size;
    keys.add(key.toString('latin1'));
    this.#count += keys.size - before;
    if (this.#count > this.#limit) throw new CopyFirst(`more than ${this.#limit} keys changed meanwhile`);
  }

  /** Whether a copied row of this key would be older than what is there. */
  has(database: string, key: Buffer): boolean {
    if (this.#keys.get(database)?.has(key.toString('latin1')) === true) return true;
    return this.#cleared.some((clear) => {
      return clear.database === database && key.subarray(0, clear.prefix.length).equals(clear.prefix);
    });
  }
}
