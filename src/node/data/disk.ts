/**
 * What a node's data lies on, as one small interface: the machine's disk in production (`machine-disk.ts`), one that
 * loses power, tears and refuses in the simulation (`sim/`). What it promises is what LMDB and a journalling file system
 * promise, no more.
 */
import type { LocalNumber } from '../../base/types.js';
import type { Engine } from '../../engine/engine.js';
import type { MemoryImage } from '../../store/restore.js';

export interface EngineOptions {
  /** See `LmdbOptions`. */
  readonly mapSizeBytes: number;
  readonly maxMaps: number;
  readonly flushesCommits: boolean;
  readonly onBroken: (error: unknown) => void;
}

export interface Disk {
  /** Identifies the boot of the machine: another one means that what was not flushed is gone. Empty when unknown. */
  readonly bootId: string;
  /**
   * Whether the engine of a folder opens at its last flushed state, as after a power cut, though the machine may have
   * stayed up: a flush of it failed.
   */
  rollsBack(folder: string): boolean;
  /** Creates a folder that is missing, for this node's eyes only. Errors: `STORAGE`. */
  createFolder(path: string): void;
  /** Marks a folder as used by this process. Errors: `STORAGE` when another process uses it. */
  lock(folder: string): void;
  unlock(folder: string): void;
  /** Names in a folder. */
  list(folder: string): readonly string[];
  /** Contents of a small file, or `undefined` when there is none. */
  read(path: string): string | undefined;
  /** Writes a file so that a crash leaves either the old or the new one; the new one is safe when this returns. */
  replace(path: string, text: string): void;
  /** Removes a folder with all that is in it, if it exists. */
  remove(path: string): void;
  /** A name is on the disk only once its folder is. */
  flushFolder(path: string): void;
  /** Opens the data file of a folder, or creates it. Errors: `STORAGE`. */
  openEngine(folder: string, options: EngineOptions): Engine;
  /** The image of the databases in memory that fits a log ending before `logNext`. Errors: `CORRUPT`, `STORAGE`. */
  openImage(folder: string, logNext: LocalNumber): Promise<MemoryImage | undefined>;
}
