/**
 * The databases of one store: their names, numbers and kinds, and the engine maps behind them. A database is known by
 * its name everywhere, by its id inside the store (map names, index rows; never reused), and by its index to clients of
 * Kyoto Tycoon.
 */
import { TokaidoError } from '../base/errors.js';
import type { Engine, MapId } from '../engine/engine.js';
import { type DatabaseSpec, parseDatabase, type Storage } from './database-spec.js';
import { isReserved } from './reserved.js';
import { NOTHING } from './set-hash.js';
import type { DatabaseState } from './state.js';
import type { Database } from './types.js';

/** The two indexes of the databases of one kind of storage. */
export interface IndexMaps {
  readonly storage: Storage;
  /** Expiration index: xt (u48 ms), database id (u16), key. */
  readonly expiry: MapId;
  /** Tombstones by the local number that made them (u48), database id (u16), key; the value is the tombstone's stamp. */
  readonly graveyard: MapId;
}

/** Where a database lies. */
export interface DatabaseMaps {
  readonly id: number;
  readonly spec: DatabaseSpec;
  readonly records: MapId;
  readonly indexes: IndexMaps;
}

/** What is in memory is rebuilt at start; an index on the disk must not point into it, so each kind has its own. */
function openIndexes(engine: Engine, storage: Storage): IndexMaps {
  const suffix = storage === 'memory' ? '-memory' : '';
  return {
    storage,
    expiry: engine.openMap(`expiry${suffix}`, { storage }),
    graveyard: engine.openMap(`graveyard${suffix}`, { storage }),
  };
}

/** A database that is not configured here (it arrived by replication) lies on the disk. */
export function specFor(name: string, configured: readonly DatabaseSpec[]): DatabaseSpec {
  return configured.find((spec) => spec.name === name) ?? { ...parseDatabase('default'), name };
}

/** Opens or creates the maps of a database. Not inside a write transaction. */
export function openDatabase(engine: Engine, id: number, spec: DatabaseSpec): DatabaseMaps {
  const { storage, maxRecords, maxBytes, encrypted: sealed } = spec;
  const records = engine.openMap(`records-${id}`, { storage, maxRecords, maxBytes, sealed });
  return { id, spec, records, indexes: openIndexes(engine, storage) };
}

export interface CatalogOptions {
  readonly engine: Engine;
  /** Configured databases, in the order of Kyoto Tycoon's numbers. */
  readonly specs: readonly DatabaseSpec[];
  /** Most databases; more are refused. */
  readonly maxDatabases: number;
}

export class Catalog {
  readonly #options: CatalogOptions;
  readonly #byId = new Map<number, DatabaseMaps>();
  readonly #byName = new Map<string, DatabaseMaps>();
  #indexes: readonly IndexMaps[] = [];
  #databases: readonly Database[] = [];
  #named = new Map<string, Database>();

  constructor(options: CatalogOptions) {
    this.#options = options;
  }

  /**
   * In the order of their index: configured databases first, those that arrived by replication after them. The reserved
   * one is not among them, nor is it found by its name: what clients cannot find they cannot touch.
   */
  get databases(): readonly Database[] {
    return this.#databases;
  }

  get byId(): ReadonlyMap<number, DatabaseMaps> {
    return this.#byId;
  }

  /** Index maps of every kind of storage in use. */
  get indexes(): readonly IndexMaps[] {
    return this.#indexes;
  }

  database(name: string): Database | undefined {
    return this.#named.get(name);
  }

  has(name: string): boolean {
    return this.#byName.has(name);
  }

  /** Errors: `NO_DATABASE`. */
  maps(name: string): DatabaseMaps {
    const maps = this.#byName.get(name);
    if (maps === undefined) throw new TokaidoError('NO_DATABASE', `no such database: ${name}`);
    return maps;
  }

  /**
   * Opens databases that are not open yet; `onNew` hears of each that `known` does not have, as soon as it is open. All
   * are refused together when they are too many. Not inside a write.
   * Errors: `STORAGE` beyond the limit, `CONFIG` when a database changed its kind.
   */
  open(names: readonly string[], known: readonly DatabaseState[], onNew: (added: DatabaseState) => void): void {
    const missing = [...new Set(names)].filter((name) => !this.#byName.has(name));
    if (missing.length === 0) return;
    this.#checkRoom(missing);
    let nextId = 1 + Math.max(0, ...known.map(({ id }) => id));
    for (const name of missing) {
      const spec = specFor(name, this.#options.specs);
      const state = known.find((database) => database.name === name);
      if (state !== undefined) checkStorage(state, spec);
      const id = state?.id ?? nextId++;
      const maps = openDatabase(this.#options.engine, id, spec);
      this.#byId.set(id, maps);
      this.#byName.set(name, maps);
      if (state === undefined) onNew({ id, name, storage: spec.storage, records: 0, hash: NOTHING });
    }
    this.#indexes = [...new Map([...this.#byId.values()].map((maps) => [maps.indexes.expiry, maps.indexes])).values()];
    this.#number();
  }

  #checkRoom(missing: readonly string[]): void {
    const { maxDatabases } = this.#options;
    const open = [...this.#byName.keys()].filter((name) => !isReserved(name));
    const beyond = missing.filter((name) => !isReserved(name))[maxDatabases - open.length];
    if (beyond === undefined) return;
    throw new TokaidoError('STORAGE', `database ${beyond} would exceed the limit of ${maxDatabases}`, {
      hint: 'raise limits.databases in the configuration',
    });
  }

  #number(): void {
    const configured = this.#options.specs.map(({ name }) => name);
    const others = [...this.#byName.keys()].filter((name) => !configured.includes(name) && !isReserved(name));
    this.#databases = [...configured, ...others].map((name, index) => {
      return { name, index, spec: specFor(name, this.#options.specs) };
    });
    this.#named = new Map(this.#databases.map((database) => [database.name, database]));
  }
}

function checkStorage({ name, storage }: DatabaseState, spec: DatabaseSpec): void {
  if (storage === spec.storage) return;
  const where = { disk: 'on the disk', memory: 'in memory' };
  throw new TokaidoError(
    'CONFIG',
    `database ${name} lies ${where[storage]}; the configuration wants it ${where[spec.storage]}`,
    {
      hint: 'give the new one another name and copy the records, or, on a follower, remove the data directory: it is seeded anew',
    },
  );
}
