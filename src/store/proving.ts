/**
 * The part of a store that proves and repairs equality (invariant 11): what it says of itself, how it compares, and what
 * it changes when something is found to be wrong.
 */
import type { Draft } from './draft.js';
import type { PartHashes } from './part-hashes.js';
import {
  type Comparison,
  compare,
  type Horizon,
  horizonOf,
  horizonTowards,
  type Proof,
  prove,
  type StoreView,
} from './proof.js';
import type { Repair, Repaired } from './repair.js';
import type { SetHash } from './set-hash.js';

export interface ProvingOptions {
  view(): StoreView;
  readonly parts: PartHashes;
  nowMs(): number;
  /** Makes a change of the store's own, in a commit. */
  change<T>(run: (draft: Draft) => T): Promise<T>;
}

export class Proving {
  readonly #options: ProvingOptions;

  constructor(options: ProvingOptions) {
    this.#options = options;
  }

  /** What this store says of its records; to be asked `between` commits. */
  prove(): Proof {
    return prove(this.#options.view(), this.#options.nowMs());
  }

  /** Compares this store with what another says of the same position, which must be this one's (see `between`). */
  compare(theirs: Proof): Comparison {
    return compare(this.#options.view(), theirs);
  }

  /** Hashes of parts of databases, for followers that have no more. */
  get parts(): PartHashes {
    return this.#options.parts;
  }

  /** How far expirations of a database have been worked off, towards what they are elsewhere; see `horizonTowards`. */
  horizonTowards(database: string, there: Horizon): Horizon {
    return horizonTowards(this.#options.view(), database, there);
  }

  /** Expirations of a database that have been worked off reach to this moment at most, ms. */
  workedOffMs(database: string): number {
    const { databases, horizons } = this.#options.view().state;
    const state = databases.find(({ name }) => name === database);
    return state === undefined ? 0 : horizonOf(horizons[state.storage], state.id).xtMs;
  }

  /** Puts a range of keys right; see `Draft.repair`. */
  async repair(repair: Repair): Promise<Repaired> {
    return await this.#options.change((draft) => draft.repair(repair));
  }

  /** Takes a miscount off the running hash of a database. */
  async correctHash(database: string, miscount: SetHash): Promise<void> {
    await this.#options.change((draft) => draft.correctHash(database, miscount));
  }
}
