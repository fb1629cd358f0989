/**
 * A data file that loses power, and the engine on it. It promises what LMDB promises and nothing more: a commit is
 * visible a moment before it is on the disk; flushes end in order; after a kill the file is at its newest commit, after
 * a power cut at some commit that is not older than the last one reported as flushed; never between two commits. (A torn
 * page is a commit whose flush did not end: LMDB opens at the one before.)
 */
import { assert, TokaidoError } from '../base/errors.js';
import type { Commit, Engine, Entry, MapId, Range, Reader, Snapshot, Writer } from '../engine/engine.js';
import { EMPTY_TREE, findInTree, TreeEditor, type TreeVersion } from '../engine/memory-tree.js';
import { treeEntries, treeKey } from '../engine/tiered.js';
import type { EngineOptions } from '../node/data/disk.js';
import type { Dice } from './dice.js';
import type { Process } from './machine.js';
import type { Scheduler } from './scheduler.js';

/** What lies in a file at one commit: maps by name. */
type Contents = ReadonlyMap<string, TreeVersion>;

/** How quick a disk is, ms, and whether it takes anything at all. */
export interface DiskWeather {
  commitMs: number;
  flushMs: number;
  full: boolean;
}

export class DataFile {
  /** Commits from the last one known to be on the disk to the newest. */
  #commits: Contents[] = [new Map()];
  /** Number of the first of them. */
  #first = 0;
  /** A commit under way: a crash decides whether it happened. */
  #pending: Contents | undefined;
  /** Commits are not flushed one by one: after a power cut the file is worth nothing. */
  isUnordered = false;
  isGarbage = false;

  get newest(): Contents {
    return this.#commits.at(-1) as Contents;
  }

  get newestNumber(): number {
    return this.#first + this.#commits.length - 1;
  }

  begin(contents: Contents): void {
    this.#pending = contents;
  }

  commit(): number {
    assert(this.#pending !== undefined, 'a commit was begun');
    this.#commits.push(this.#pending);
    this.#pending = undefined;
    return this.newestNumber;
  }

  flushed(number: number): void {
    const done = Math.max(0, number - this.#first);
    this.#commits.splice(0, done);
    this.#first += done;
  }

  killed(dice: Dice): void {
    if (this.#pending !== undefined && dice.chance(0.5)) this.commit();
    this.#pending = undefined;
  }

  powerCut(dice: Dice): void {
    this.killed(dice);
    if (this.isUnordered && this.#commits.length > 1) this.isGarbage = true;
    this.#commits.length = 1 + dice.below(this.#commits.length);
    this.flushed(this.newestNumber);
  }
}

/** The engine of one process on one file. */
export class SimulatedEngine implements Engine {
  readonly flushesCommits: boolean;
  readonly #file: DataFile;
  readonly #process: Process;
  readonly #scheduler: Scheduler;
  readonly #weather: DiskWeather;
  readonly #dice: Dice;
  readonly #onCommit: () => void;
  readonly #names: string[] = [];
  #writing = false;
  #closed = false;
  /** When the last flush so far will have ended. */
  #flushedMs = 0;
  /** Resolves then. */
  #flush: Promise<void> = Promise.resolve();

  constructor(
    file: DataFile,
    process: Process,
    world: {
      readonly scheduler: Scheduler;
      readonly weather: DiskWeather;
      readonly dice: Dice;
      readonly onCommit: () => void;
    },
    options: EngineOptions,
  ) {
    this.#file = file;
    this.#process = process;
    this.#scheduler = world.scheduler;
    this.#weather = world.weather;
    this.#dice = world.dice;
    this.#onCommit = world.onCommit;
    this.flushesCommits = options.flushesCommits;
    assert(!file.isGarbage, 'a data file that a power cut spoiled is thrown away');
    file.isUnordered = !options.flushesCommits;
  }

  openMap(name: string): MapId {
    const known = this.#names.indexOf(name);
    if (known >= 0) return known as MapId;
    this.#names.push(name);
    return (this.#names.length - 1) as MapId;
  }

  overflow(): Buffer[] {
    return [];
  }

  get(map: MapId, key: Buffer): Buffer | undefined {
    return this.#reader(this.#file.newest).get(map, key);
  }

  range(map: MapId, range: Range): Iterable<Entry> {
    return this.#reader(this.#file.newest).range(map, range);
  }

  #reader(contents: Contents): Reader {
    const tree = (map: MapId): TreeVersion => contents.get(this.#names[map] as string) ?? EMPTY_TREE;
    return {
      get: (map, key) => findInTree(tree(map), treeKey(key)),
      range: (map, range) => treeEntries(tree(map), range),
    };
  }

  async write<T>(fn: (writer: Writer) => T): Promise<Commit<T>> {
    assert(!this.#writing && !this.#closed, 'one write transaction at a time, on an open engine');
    this.#writing = true;
    try {
      await this.#wait(this.#weather.commitMs * this.#dice.roll());
      const edits = new Map<string, TreeEditor>();
      const result = fn(this.#writer(edits));
      if (edits.size === 0) return { result, flushed: this.#flush };
      if (this.#weather.full) throw new TokaidoError('STORAGE', 'the simulated disk is full; nothing was written');
      const contents = new Map(this.#file.newest);
      for (const [name, editor] of edits) contents.set(name, editor.version());
      this.#file.begin(contents);
      await this.#wait(this.#weather.commitMs * this.#dice.roll());
      const number = this.#file.commit();
      this.#onCommit();
      return { result, flushed: this.flushesCommits ? this.#flushTo(number) : Promise.resolve() };
    } finally {
      this.#writing = false;
    }
  }

  /** Time passes and then something happens outside the process; never, once it is dead. */
  async #wait(delayMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#scheduler.after(
        delayMs,
        () => {
          if (this.#process.effect()) resolve();
        },
        this.#process,
      );
    });
  }

  #flushTo(number: number): Promise<void> {
    const { nowMs } = this.#scheduler;
    this.#flushedMs = Math.max(this.#flushedMs, nowMs + this.#weather.flushMs * (0.5 + this.#dice.roll()));
    this.#flush = this.#wait(this.#flushedMs - nowMs).then(async () => {
      this.#file.flushed(number);
      // On the disk, and not reported yet.
      await this.#wait(this.#dice.roll());
    });
    return this.#flush;
  }

  #writer(edits: Map<string, TreeEditor>): Writer {
    const current = this.#reader(this.#file.newest);
    const name = (map: MapId): string => this.#names[map] as string;
    const edit = (map: MapId): TreeEditor => {
      let editor = edits.get(name(map));
      if (editor === undefined) {
        editor = new TreeEditor(this.#file.newest.get(name(map)) ?? EMPTY_TREE);
        edits.set(name(map), editor);
      }
      return editor;
    };
    return {
      get: (map, key) => {
        const editor = edits.get(name(map));
        return editor === undefined ? current.get(map, key) : editor.get(treeKey(key));
      },
      range: (map, range) => {
        const editor = edits.get(name(map));
        return editor === undefined ? current.range(map, range) : treeEntries(editor.version(), range);
      },
      put: (map, key, value) => edit(map).put(treeKey(key), value),
      remove: (map, key) => edit(map).remove(treeKey(key)),
      clear: (map) => edit(map).clear(),
    };
  }

  snapshot(): Snapshot {
    return { ...this.#reader(this.#file.newest), close: () => undefined };
  }

  async flush(): Promise<void> {
    await this.#flushTo(this.#file.newestNumber);
  }

  sizeBytes(): number {
    let total = 0;
    for (const { bytes } of this.#file.newest.values()) total += bytes;
    return total;
  }

  usedBytes(map?: MapId): number {
    return map === undefined ? this.sizeBytes() : (this.#file.newest.get(this.#names[map] as string)?.bytes ?? 0);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.flush();
  }
}
