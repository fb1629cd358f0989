/**
 * A simulated machine's disk: small files that are replaced whole or not at all, and data files. What survives a crash
 * lives in `Storage`; a process sees it through a `SimulatedDisk` of its own.
 */
import { dirname } from 'node:path';
import type { Engine } from '../engine/engine.js';
import type { Disk, EngineOptions } from '../node/data/disk.js';
import type { Dice } from './dice.js';
import { DataFile, type DiskWeather, SimulatedEngine } from './engine.js';
import type { Crash, Process } from './machine.js';
import type { Scheduler } from './scheduler.js';

/** What lies on a machine's disk. */
export class Storage {
  readonly texts = new Map<string, string>();
  readonly files = new Map<string, DataFile>();
  readonly weather: DiskWeather = { commitMs: 1, flushMs: 10, full: false };
  readonly #dice: Dice;

  constructor(dice: Dice) {
    this.#dice = dice;
  }

  crashed(crash: Crash): void {
    for (const file of this.files.values()) {
      if (crash === 'power') file.powerCut(this.#dice);
      else file.killed(this.#dice);
    }
  }

  wipe(): void {
    this.texts.clear();
    this.files.clear();
  }
}

export class SimulatedDisk implements Disk {
  readonly #storage: Storage;
  readonly #process: Process;
  readonly #scheduler: Scheduler;
  readonly #dice: Dice;
  readonly #onCommit: () => void;

  /** `onCommit`: a data file has changed. */
  constructor(storage: Storage, process: Process, scheduler: Scheduler, dice: Dice, onCommit: () => void) {
    this.#storage = storage;
    this.#process = process;
    this.#scheduler = scheduler;
    this.#dice = dice;
    this.#onCommit = onCommit;
  }

  get bootId(): string {
    return this.#process.machine.bootId;
  }

  /** A flush never fails here. */
  rollsBack(): boolean {
    return false;
  }

  createFolder(): void {}
  lock(): void {}
  unlock(): void {}
  flushFolder(): void {}

  list(folder: string): readonly string[] {
    const inside = [...this.#storage.texts.keys(), ...this.#storage.files.keys()];
    return inside.filter((path) => dirname(path) === folder).map((path) => path.slice(folder.length + 1));
  }

  read(path: string): string | undefined {
    return this.#storage.texts.get(path);
  }

  replace(path: string, text: string): void {
    const wasAlive = this.#process.alive;
    // A crash in the middle leaves the old one or the new one.
    if (this.#process.effect() || (wasAlive && this.#dice.chance(0.5))) this.#storage.texts.set(path, text);
  }

  remove(path: string): void {
    if (!this.#process.effect()) return;
    this.#storage.texts.delete(path);
    this.#storage.files.delete(path);
  }

  openEngine(folder: string, options: EngineOptions): Engine {
    let file = this.#storage.files.get(folder);
    if (file === undefined) {
      file = new DataFile();
      if (this.#process.alive) this.#storage.files.set(folder, file);
    }
    const world = {
      scheduler: this.#scheduler,
      weather: this.#storage.weather,
      dice: this.#dice,
      onCommit: this.#onCommit,
    };
    return new SimulatedEngine(file, this.#process, world, options);
  }

  /** Databases in memory are not saved here. */
  async openImage(): Promise<undefined> {
    return undefined;
  }
}
