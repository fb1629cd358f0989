/**
 * Proof of equality (invariant 11): what a store says of its records at one position, and how another store that stands
 * at exactly that position compares. Tombstones are not part of it: how long they are kept is each node's own affair.
 *
 * Expirations. Nodes collect expired records at their own time, so a hash of what happens to lie there would differ
 * between equal nodes. Each database therefore names its horizon: expirations up to it do not count, collected or not.
 * Who stands behind the other's horizon takes what lies between off its own hash before it compares.
 *
 * Left out, because no equality is promised for them: caches (each node evicts on its own) and databases whose records
 * never expire here while they may elsewhere (`persistent`).
 */
import { EMPTY } from '../base/bytes.js';
import { NEVER_EXPIRES, type Position } from '../base/types.js';
import type { Reader } from '../engine/engine.js';
import type { DatabaseMaps } from './catalog.js';
import type { DatabaseSpec } from './database-spec.js';
import type { StoreMaps } from './draft.js';
import { indexKey, isBehind, parseIndexKey } from './index-rows.js';
import { StoredRecord } from './record.js';
import { isSameHash, NOTHING, type SetHash } from './set-hash.js';
import type { DatabaseState, StoreState } from './state.js';

/** Expirations before `xtMs` do not count; those at it neither, as far as `key` or, without one, all of them. */
export interface Horizon {
  readonly xtMs: number;
  readonly key: Buffer | undefined;
}

/** What is said of one database. */
export interface DatabaseProof {
  readonly name: string;
  readonly records: number;
  /** `undefined` where no equality is promised. */
  readonly proven: { readonly hash: SetHash; readonly horizon: Horizon } | undefined;
}

export interface Proof {
  readonly position: Position;
  readonly databases: readonly DatabaseProof[];
}

/** A database that is not what it is elsewhere at the same position. */
export interface Difference {
  readonly database: string;
  readonly records: number;
  readonly recordsThere: number;
}

/** What a comparison found. */
export interface Comparison {
  readonly equal: number;
  readonly differences: readonly Difference[];
  /** Databases that no equality is promised for. */
  readonly leftOut: readonly string[];
  /** Databases that cannot be compared this time: too many expirations are still to be worked off. */
  readonly putOff: readonly string[];
}

/** Expirations looked at to bring a hash to another horizon, at most. */
const MOST_EXPIRATIONS = 5000;

export function isPromised({ maxRecords, maxBytes, persistent }: DatabaseSpec): boolean {
  return maxRecords === undefined && maxBytes === undefined && !persistent;
}

/** The horizon of one database, from the store's row of its expiration index. */
export function horizonOf(row: Buffer, databaseId: number): Horizon {
  if (row.length === 0) return { xtMs: 0, key: undefined };
  const { number, databaseId: atDatabase, key } = parseIndexKey(row);
  if (atDatabase === databaseId) return { xtMs: number, key: Buffer.from(key) };
  return { xtMs: atDatabase > databaseId ? number : number - 1, key: undefined };
}

function compareHorizons(a: Horizon, b: Horizon): number {
  if (a.xtMs !== b.xtMs) return a.xtMs - b.xtMs;
  if (a.key === undefined || b.key === undefined) return (a.key === undefined ? 1 : 0) - (b.key === undefined ? 1 : 0);
  return a.key.compare(b.key);
}

/** Whether a record that expires at `xtMs` counts. */
export function isBeyond({ xtMs: reached, key: reachedKey }: Horizon, xtMs: number, key: Buffer): boolean {
  if (xtMs === NEVER_EXPIRES || xtMs > reached) return true;
  return xtMs === reached && reachedKey !== undefined && key.compare(reachedKey) > 0;
}

/**
 * How far expirations of a database have been worked off, as far as another store has: further than the last one that was
 * due here, where none is due any more. Without that, a store seeded from here, which takes the furthest of all databases
 * for each, could not compare those that nothing expires in.
 */
export function horizonTowards({ reader, maps, state }: StoreView, database: string, there: Horizon): Horizon {
  const known = state.databases.find(({ name }) => name === database);
  if (known === undefined) return { xtMs: 0, key: undefined };
  const here = horizonOf(state.horizons[known.storage], known.id);
  if (compareHorizons(here, there) >= 0) return here;
  const { expiry } = (maps.databases.get(known.id) as DatabaseMaps).indexes;
  const [first] = reader.range(expiry, { limit: 1 });
  return first === undefined || parseIndexKey(first.key).number > there.xtMs ? there : here;
}

/** A store between two commits. */
export interface StoreView {
  readonly reader: Reader;
  readonly maps: StoreMaps;
  readonly state: StoreState;
}

/** What the store says of itself at `nowMs`. */
export function prove({ reader, maps, state }: StoreView, nowMs: number): Proof {
  const { position } = state;
  const horizons = { ...state.horizons };
  // Where nothing is due, everything up to now is worked off: no commit was needed to say so. A clock that was set back
  // takes nothing back: what was worked off does not count any more.
  const upToNow = indexKey(nowMs + 1, 0, EMPTY);
  for (const { expiry, storage } of maps.indexes) {
    const [first] = reader.range(expiry, { limit: 1 });
    const isDone = first === undefined || parseIndexKey(first.key).number > nowMs;
    if (isDone && upToNow.compare(horizons[storage]) > 0) horizons[storage] = upToNow;
  }
  const databases = state.databases.map(({ id, name, records, hash }) => {
    const { spec } = maps.databases.get(id) as DatabaseMaps;
    const proven = isPromised(spec) ? { hash, horizon: horizonOf(horizons[spec.storage], id) } : undefined;
    return { name, records, proven };
  });
  return { position, databases };
}

/** Compares with what another store said of the same position. */
export function compare(view: StoreView, theirs: Proof): Comparison {
  const differences: Difference[] = [];
  const leftOut: string[] = [];
  const putOff: string[] = [];
  let equal = 0;
  const here = new Map(view.state.databases.map((database) => [database.name, database]));
  const missing = [...here.keys()].filter((name) => !theirs.databases.some((database) => database.name === name));
  const nothing = missing.map((name) => ({ name, records: 0, proven: { hash: NOTHING, horizon: undefined } }));
  for (const { name, records, proven } of [...theirs.databases, ...nothing]) {
    const ours = here.get(name);
    const spec = ours === undefined ? undefined : view.maps.databases.get(ours.id)?.spec;
    const hash = ours === undefined ? NOTHING : hashAt(view, ours, proven?.horizon);
    if (proven === undefined || (spec !== undefined && !isPromised(spec))) leftOut.push(name);
    else if (hash === undefined) putOff.push(name);
    else if (isSameHash(hash, proven.hash)) equal++;
    else differences.push({ database: name, records: ours?.records ?? 0, recordsThere: records });
  }
  return { equal, differences, leftOut, putOff };
}

/** The hash that this store would have at the horizon `there`; `undefined` when it is beyond it or too far behind. */
function hashAt(view: StoreView, { id, hash }: DatabaseState, there: Horizon | undefined): SetHash | undefined {
  if (there === undefined) return hash;
  const { indexes, records, spec } = view.maps.databases.get(id) as DatabaseMaps;
  const row = view.state.horizons[spec.storage];
  const here = horizonOf(row, id);
  const order = compareHorizons(here, there);
  if (order === 0) return hash;
  if (order > 0) return undefined;
  const moved = Int32Array.from(hash);
  const range = { start: indexKey(here.xtMs, 0, EMPTY), end: indexKey(there.xtMs + 1, 0, EMPTY) };
  let looked = 0;
  for (const { key: indexRow } of view.reader.range(indexes.expiry, range)) {
    if (++looked > MOST_EXPIRATIONS) return undefined;
    const { number: xtMs, databaseId, key } = parseIndexKey(indexRow);
    if (databaseId !== id || isBeyond(there, xtMs, key) || !isBehind(row, xtMs, id, key)) continue;
    const raw = view.reader.get(records, key);
    const record = raw === undefined ? undefined : new StoredRecord(raw);
    if (record === undefined || record.isTombstone || record.xtMs !== xtMs) continue;
    view.maps.hasher.count(moved, -1, key, record);
  }
  return moved;
}
