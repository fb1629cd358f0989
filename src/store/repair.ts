/** What one node tells another of a range of keys to put it right, and what came of it. */
import type { Position } from '../base/types.js';
import { originOf } from '../log/position.js';
import type { StoredRecord } from './record.js';

/** Keys from `start` on, without `end`; to the last key when there is none. */
export interface KeyRange {
  readonly start: Buffer;
  readonly end: Buffer | undefined;
}

/** Rows as the engine has them: sized key, sized record, repeated; tombstones included. */
export interface RangeRows extends KeyRange {
  readonly rows: Buffer;
}

/** What is right in a range of keys, by another node that stands at `position`. */
export interface Repair extends RangeRows {
  readonly database: string;
  readonly position: Position;
  /** Records that expire at this moment or before are nobody's business any more. */
  readonly cutoffMs: number;
}

/** What a repair changed. */
export interface Repaired {
  readonly added: number;
  readonly replaced: number;
  readonly removed: number;
  /** The first few keys. */
  readonly keys: readonly Buffer[];
}

export const NOTHING_REPAIRED: Repaired = { added: 0, replaced: 0, removed: 0, keys: [] };
/** Keys that a report names, at most. */
const KEYS_NAMED = 10;

export function sumRepairs(a: Repaired, b: Repaired): Repaired {
  return {
    added: a.added + b.added,
    replaced: a.replaced + b.replaced,
    removed: a.removed + b.removed,
    keys: [...a.keys, ...b.keys].slice(0, KEYS_NAMED),
  };
}

/** Whether whoever stands at `position` must know this record's change. */
export function isCoveredBy(position: Position, { sid, versionNs }: StoredRecord): boolean {
  const origin = originOf(position, sid);
  return origin !== undefined && origin.versionNs >= versionNs;
}
