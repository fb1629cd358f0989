/**
 * Whether this node equals its upstream (invariant 11), as far as it was compared: what is done with a proof that came,
 * counts for metrics, the last result for status, and the log line that an operator is meant to see.
 */
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import type { Position } from '../../base/types.js';
import { describePosition, isSamePosition } from '../../log/position.js';
import type { Comparison, DatabaseProof, Difference, Proof } from '../../store/proof.js';
import type { LocalStore } from '../../store/store.js';
import type { AuditReport } from './audit.js';

/** The last comparison. */
export interface LastComparison extends Comparison {
  readonly position: Position;
  /** On the runtime's monotonic clock. */
  readonly atMs: number;
}

export interface EqualityOptions {
  readonly log: Logger;
  readonly runtime: Runtime;
  /** This node stands where the proof says and equals it: what was compared may be told to followers, at once. */
  onEqual(proof: Proof): void;
}

export class Equality {
  readonly #options: EqualityOptions;
  #last: LastComparison | undefined;
  #comparisons = 0;
  #failures = 0;
  #repairedRecords = 0;
  #collectUpToMs: number | undefined;

  constructor(options: EqualityOptions) {
    this.#options = options;
  }

  /** A proof came; `store` stands between two commits, right behind what had been sent before the proof. */
  check(store: LocalStore, proof: Proof): Comparison | undefined {
    if (!isSamePosition(store.position(), proof.position)) return undefined;
    this.#collectUpToMs = workedOff(proof.databases) ?? this.#collectUpToMs;
    const comparison = store.proving.compare(proof);
    this.#record(proof.position, comparison);
    if (comparison.differences.length > 0) return comparison;
    const untold = [...comparison.leftOut, ...comparison.putOff];
    const databases = proof.databases.map((database) => {
      return untold.includes(database.name) ? { ...database, proven: undefined } : database;
    });
    this.#options.onEqual({ ...proof, databases });
    return comparison;
  }

  #record(position: Position, comparison: Comparison): void {
    const { log, runtime } = this.#options;
    const before = this.#last?.differences ?? [];
    const isNew = ({ database }: Difference): boolean => !before.some((known) => known.database === database);
    const differences = comparison.differences.filter(isNew);
    this.#comparisons++;
    if (comparison.differences.length > 0) this.#failures++;
    this.#last = { ...comparison, position, atMs: runtime.monotonicMs() };
    const at = describePosition(position);
    if (differences.length > 0)
      log.error({ position: at, differences }, 'this node does not equal its upstream at the same position');
    else if (before.length > 0 && comparison.differences.length === 0)
      log.info({ position: at }, 'this node equals its upstream again');
  }

  /** What differed was looked for. */
  audited({ database, position, repaired, recounted }: AuditReport): void {
    const { added, replaced, removed, keys } = repaired;
    const records = added + replaced + removed;
    this.#repairedRecords += records;
    const at = { database, position: describePosition(position) };
    if (records > 0) {
      const some = keys.map((key) => key.toString('latin1'));
      this.#options.log.error({ ...at, added, replaced, removed, keys: some }, 'records were put right');
    } else if (recounted) this.#options.log.error(at, 'only the running hash of this node was wrong: corrected');
    else this.#options.log.warn(at, 'no record differs: the upstream has to correct its running hash');
  }

  /** Records put right since the start. */
  get repairedRecords(): number {
    return this.#repairedRecords;
  }

  get last(): LastComparison | undefined {
    return this.#last;
  }

  /** Comparisons made. */
  get comparisons(): number {
    return this.#comparisons;
  }

  /** Of these, how many found a difference. */
  get failures(): number {
    return this.#failures;
  }

  /**
   * A follower collects expired records no further than the root has, ms since 1970: beyond that it could not compare,
   * and a clock of its own that is ahead could not be undone. Readers see expirations by this node's clock all the same.
   */
  get collectUpToMs(): number | undefined {
    return this.#collectUpToMs;
  }
}

/** Every expiration at this moment or before has been worked off where the proof comes from. */
function workedOff(databases: readonly DatabaseProof[]): number | undefined {
  const horizons = databases.flatMap(({ proven }) => (proven === undefined ? [] : [proven.horizon]));
  if (horizons.length === 0) return undefined;
  return Math.min(...horizons.map(({ xtMs, key }) => (key === undefined ? xtMs : xtMs - 1)));
}
