/**
 * Running hashes of parts of databases: of the keys that followers with a scope have (invariant 11 for them). As the hash
 * of a whole database is kept with every commit, so are these, but in memory only: whoever wants one has it counted once,
 * in small steps beside the commits, and then it goes along. Sums make that simple: what a snapshot holds, and every
 * change since, in any order.
 */
import { afterKey } from '../base/bytes.js';
import { assert } from '../base/errors.js';
import { holds, isSame, type Keys, rangesOf } from '../base/keys.js';
import type { Engine, Range } from '../engine/engine.js';
import type { DatabaseMaps } from './catalog.js';
import { isCounted } from './index-rows.js';
import { StoredRecord } from './record.js';
import { addHash, NOTHING, type RecordHasher, type SetHash } from './set-hash.js';

/** Each costs a little with every change of its database; what is wanted beyond is not known. */
const MOST_PARTS = 64;
/** Rows counted in one step: about a millisecond. */
const STEP_ROWS = 2048;

/** A part of a database, by name. */
export interface PartName {
  readonly database: string;
  readonly keys: Keys;
}

/** What a part holds that counts. */
export interface PartHash {
  hash: SetHash;
  records: number;
}

interface Part extends PartName, PartHash {
  readonly databaseId: number;
  /** `counting` until all that was there at first is counted, too. */
  state: 'counting' | 'counted' | 'gone';
}

export interface PartHashesHost {
  readonly engine: Engine;
  readonly hasher: RecordHasher;
  /** A database as it is between two commits, with how far expirations are worked off. */
  find(database: string): { readonly maps: DatabaseMaps; readonly horizon: Buffer } | undefined;
  /** Calls `fn` in a later turn of the event loop. */
  soon(fn: () => void): void;
}

export class PartHashes {
  readonly #host: PartHashesHost;
  #parts: readonly Part[] = [];

  constructor(host: PartHashesHost) {
    this.#host = host;
  }

  /** Keeps these and no others from now on; to be called between two commits. */
  want(wanted: readonly PartName[]): void {
    const names = wanted.slice(0, MOST_PARTS);
    const isWanted = (part: Part): boolean => names.some((name) => isOf(part, name));
    for (const part of this.#parts) if (!isWanted(part)) part.state = 'gone';
    this.#parts = this.#parts.filter(isWanted);
    for (const name of names) if (!this.#parts.some((part) => isOf(part, name))) this.#begin(name);
  }

  /** What a part holds after the newest commit; `undefined` while that is not known. */
  find(name: PartName): PartHash | undefined {
    const part = this.#parts.find((each) => isOf(each, name));
    return part?.state === 'counted' ? part : undefined;
  }

  /** Counts a part anew when it is wanted the next time: somebody has found its hash to be wrong, perhaps. */
  forget(name: PartName): void {
    for (const part of this.#parts) if (isOf(part, name)) part.state = 'gone';
    this.#parts = this.#parts.filter(({ state }) => state !== 'gone');
  }

  #begin(name: PartName): void {
    const found = this.#host.find(name.database);
    if (found === undefined) return;
    const { maps, horizon } = found;
    const part: Part = { ...name, databaseId: maps.id, hash: Int32Array.from(NOTHING), records: 0, state: 'counting' };
    this.#parts = [...this.#parts, part];
    const snapshot = this.#host.engine.snapshot();
    const left: Range[] = [...rangesOf(name.keys)];
    const step = (): void => {
      const range = left[0];
      if (part.state !== 'counting' || range === undefined) {
        if (part.state === 'counting') part.state = 'counted';
        snapshot.close();
        return;
      }
      let last: Buffer | undefined;
      let looked = 0;
      for (const { key, value } of snapshot.range(maps.records, { ...range, limit: STEP_ROWS })) {
        looked++;
        last = Buffer.from(key);
        const record = new StoredRecord(value);
        if (record.isTombstone || !isCounted(horizon, record.xtMs, maps.id, key)) continue;
        this.#host.hasher.count(part.hash, 1, key, record);
        part.records++;
      }
      if (looked < STEP_ROWS || last === undefined) left.shift();
      else left[0] = { ...range, start: afterKey(last) };
      this.#host.soon(step);
    };
    this.#host.soon(step);
  }

  /** What a commit is going to change. */
  changes(): PartChanges {
    return new PartChanges(this.#host.hasher, this.#parts);
  }

  close(): void {
    this.want([]);
  }
}

function isOf(part: PartName, { database, keys }: PartName): boolean {
  return part.database === database && isSame(part.keys, keys);
}

/** What one commit changes of all parts; nothing has happened until it is applied. */
export class PartChanges {
  readonly #hasher: RecordHasher;
  readonly #parts: readonly Part[];
  readonly #changed = new Map<Part, PartHash & { isCleared: boolean }>();

  constructor(hasher: RecordHasher, parts: readonly Part[]) {
    this.#hasher = hasher;
    this.#parts = parts;
  }

  #of(part: Part): PartHash & { isCleared: boolean } {
    let changed = this.#changed.get(part);
    if (changed === undefined) {
      changed = { hash: Int32Array.from(NOTHING), records: 0, isCleared: false };
      this.#changed.set(part, changed);
    }
    return changed;
  }

  /** A record that counts comes (1) or goes (-1). */
  count(databaseId: number, sign: 1 | -1, key: Buffer, record: StoredRecord): void {
    for (const part of this.#parts) {
      if (part.databaseId !== databaseId || !holds(part.keys, key)) continue;
      const changed = this.#of(part);
      this.#hasher.count(changed.hash, sign, key, record);
      changed.records += sign;
    }
  }

  /** Nothing is left of the database. */
  clear(databaseId: number): void {
    for (const part of this.#parts) {
      if (part.databaseId !== databaseId) continue;
      this.#changed.set(part, { hash: Int32Array.from(NOTHING), records: 0, isCleared: true });
    }
  }

  /** The commit has happened. */
  apply(): void {
    for (const [part, { hash, records, isCleared }] of this.#changed) {
      if (part.state === 'gone') continue;
      if (isCleared) {
        // What was not counted yet is gone as well.
        Object.assign(part, { hash: Int32Array.from(NOTHING), records: 0, state: 'counted' });
      }
      addHash(part.hash, hash, 1);
      part.records += records;
      assert(part.state === 'counting' || part.records >= 0, 'a part does not lose more records than it has');
    }
  }
}
