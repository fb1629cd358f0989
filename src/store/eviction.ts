/** Caches, databases in memory with a cap: which are over it, and what they give up. */
import type { Engine } from '../engine/engine.js';
import type { DatabaseMaps } from './catalog.js';
import type { Draft } from './draft.js';

/** Records that one commit takes out of a cache, at most. */
const EVICTED_AT_ONCE = 10_000;

export function cachesOf(databases: Iterable<DatabaseMaps>): DatabaseMaps[] {
  return [...databases].filter(({ spec }) => spec.maxRecords !== undefined || spec.maxBytes !== undefined);
}

export function overCapacity(engine: Engine, caches: readonly DatabaseMaps[]): DatabaseMaps[] {
  return caches.filter(({ records }) => engine.overflow(records, 1).length > 0);
}

/** Has a commit take out what was used least recently, as far as these are over their capacity. */
export function evictFrom(engine: Engine, draft: Draft, caches: readonly DatabaseMaps[]): void {
  for (const { id, records } of caches) {
    for (const key of engine.overflow(records, EVICTED_AT_ONCE)) draft.evict(id, key);
  }
}
