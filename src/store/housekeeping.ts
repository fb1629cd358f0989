/** What of a store's housekeeping is due, found without a write, and which removals it may forget. */
import { type LocalNumber, localNumber } from '../base/types.js';
import type { Engine } from '../engine/engine.js';
import type { Retention, UpdateLog } from '../log/update-log.js';
import type { IndexMaps } from './catalog.js';
import type { StoreState } from './state.js';

/** Nobody else has to see a removal before it may be forgotten. */
export const EVERYTHING_SETTLED: LocalNumber = localNumber(2 ** 48 - 1);
/** The state row has all marks of clears and is written in every commit: beyond this many, none outlives the log. */
const MOST_CLEARS = 1000;

/** The sizes of one round of housekeeping: small, because a commit holds the event loop. */
export const SWEEP = { rows: 1000, batches: 64 } as const;

/** What a store keeps, and for how long. */
export interface Household {
  readonly engine: Engine;
  readonly indexes: readonly IndexMaps[];
  readonly log: UpdateLog;
  readonly state: StoreState;
  readonly retention: Retention;
  /** Removals beyond the log take so many bytes at most, settled or not; unbounded when absent. */
  readonly removalBytes: number | undefined;
}

/**
 * Of removals that the log has lost, it being cut to `first`, those before this number may be forgotten: all that are
 * settled. Beyond the limits the others, too: whoever has not seen them cannot merge any more, and is told so.
 */
export function forgettable(household: Household, first: LocalNumber, settled: LocalNumber): LocalNumber {
  if (first <= settled) return first;
  const { engine, indexes, state, removalBytes = Number.POSITIVE_INFINITY } = household;
  const bytes = indexes.reduce((sum, { graveyard }) => sum + engine.usedBytes(graveyard), 0);
  return bytes > removalBytes || state.clears.length > MOST_CLEARS ? first : settled;
}

/** Whether something has expired at `upToMs` or before, a removal may be forgotten, or the log be cut. */
export function isSweepDue(household: Household, upToMs: number, nowMs: number, settled: LocalNumber): boolean {
  const { engine, indexes, log, state, retention } = household;
  for (const { expiry } of indexes) {
    for (const { key } of engine.range(expiry, { limit: 1 })) if (key.readUIntBE(0, 6) <= upToMs) return true;
  }
  // Tombstones of what was trimmed go in rounds, too.
  const before = forgettable(household, log.first, settled);
  for (const { graveyard } of indexes) {
    for (const { key } of engine.range(graveyard, { limit: 1 })) if (key.readUIntBE(0, 6) < before) return true;
  }
  if (log.first >= log.next) return false;
  return state.logBytes > retention.bytes || nowMs - log.timeOf(log.first) > retention.ageMs;
}
