/**
 * The part of a store that brings rows to the form they would be written in now, where the engine has several: sealed
 * with the current key, or not sealed any more. It goes through the records of all databases and then the log, a slice
 * at a time, each in a commit of its own among the others, and keeps on the disk how far it is. Rows are put as they
 * are: no versions, nothing in the log, no follower hears of it.
 *
 * What is written meanwhile has the new form already, so nothing behind the cursor is wrong, and one pass is enough.
 */
import type { Engine, MapId } from '../engine/engine.js';
import type { Draft, StoreMaps } from './draft.js';

/** Row of the meta map. */
const RESEALING_KEY = Buffer.from('resealing');
/** A slice holds the event loop for a few milliseconds: so many rows and bytes are looked at, so many rows put anew. */
const SLICE = { rows: 1000, wrong: 250, bytes: 512 * 1024 };

/** How far it is. */
export interface ResealProgress {
  /** What rows are brought to; another one begins a new pass. */
  readonly target: string;
  readonly looked: number;
  readonly written: number;
  /** Where it goes on; `undefined` when all is done. */
  readonly next: { readonly map: string; readonly after: string | undefined } | undefined;
}

/** A map with values, by its name in the engine. */
interface ValueMap {
  readonly name: string;
  readonly map: MapId;
}

/** Makes a change of the store's own, in a commit. */
type Change = (run: (draft: Draft) => void) => Promise<void>;

export class Resealing {
  readonly #engine: Engine;
  readonly #maps: StoreMaps;
  readonly #change: Change;
  #progress: ResealProgress | undefined;

  constructor(engine: Engine, maps: StoreMaps, change: Change) {
    this.#engine = engine;
    this.#maps = maps;
    this.#change = change;
    const row = engine.get(maps.meta, RESEALING_KEY);
    this.#progress = row === undefined ? undefined : (JSON.parse(row.toString()) as ResealProgress);
  }

  get progress(): ResealProgress | undefined {
    return this.#progress;
  }

  /** Does one slice. Returns whether more is to be done. Errors: those of the engine, nothing is skipped then. */
  async step(target: string): Promise<boolean> {
    const engine = this.#engine;
    const maps = this.#valueMaps();
    const now = this.#begun(target, maps);
    const at = now.next;
    if (at === undefined || engine.stale === undefined) return false;
    const index = Math.max(
      0,
      maps.findIndex(({ name }) => name === at.map),
    );
    const { map, name } = maps[index] as ValueMap;
    const after = at.after === undefined || name !== at.map ? undefined : Buffer.from(at.after, 'hex');
    const { keys, looked, last } = engine.stale(map, after, SLICE);
    const following = maps[index + 1]?.name;
    const next =
      last !== undefined
        ? { map: name, after: last.toString('hex') }
        : following === undefined
          ? undefined
          : { map: following, after: undefined };
    const progress = { target, looked: now.looked + looked, written: now.written + keys.length, next };
    // Looking alone costs no commit: after a crash it is done once more.
    if (keys.length > 0 || next === undefined) {
      await this.#change((draft) => {
        draft.putAgain(map, keys);
        draft.putMeta(RESEALING_KEY, Buffer.from(JSON.stringify(progress)));
      });
    }
    this.#progress = progress;
    return next !== undefined;
  }

  /** In the order to go through: the log last, so that what goes with its retention meanwhile needs nothing. */
  #valueMaps(): readonly ValueMap[] {
    const records = [...this.#maps.databases].map(([id, { records: map }]) => ({ name: `records-${id}`, map }));
    return [...records, { name: 'log', map: this.#maps.log }];
  }

  #begun(target: string, [first]: readonly ValueMap[]): ResealProgress {
    if (this.#progress?.target === target) return this.#progress;
    const next = first === undefined ? undefined : { map: first.name, after: undefined };
    return { target, looked: 0, written: 0, next };
  }
}
