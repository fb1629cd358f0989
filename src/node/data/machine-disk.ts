/** The real machine's disk: files flushed and renamed, LMDB, locks that name a process. */
import { mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { codeOf, messageOf, TokaidoError } from '../../base/errors.js';
import type { LocalNumber } from '../../base/types.js';
import { flushFolder, replaceFile } from '../../disk/files.js';
import { isRunning } from '../../disk/processes.js';
import { Checkpoint } from '../../engine/checkpoint.js';
import type { Engine } from '../../engine/engine.js';
import { LmdbEngine } from '../../engine/lmdb.js';
import type { MemoryImage } from '../../store/restore.js';
import type { Disk, EngineOptions } from './disk.js';
import type { Encryption } from './encryption.js';
import { openImage } from './memory-image.js';

function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return '';
  }
}

/** Start time of a process in clock ticks since boot, so that a reused process id is not taken for the old process. */
function processStart(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

export class MachineDisk implements Disk {
  readonly bootId = bootId();
  /** TOKAIDO_ROLL_BACK=1 makes engines open at their last flushed state, exactly as after a power cut. */
  readonly #rollsBack = process.env.TOKAIDO_ROLL_BACK === '1';
  readonly #encryption: Encryption | undefined;

  constructor(encryption?: Encryption) {
    this.#encryption = encryption;
  }

  createFolder(path: string): void {
    try {
      mkdirSync(path, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw new TokaidoError('STORAGE', `cannot create the data directory ${path}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  lock(folder: string): void {
    const path = join(folder, 'lock');
    const [pid, start] = this.read(path)?.split(' ') ?? [];
    const owner = Number(pid);
    if (pid !== undefined && owner !== process.pid && isRunning(owner) && processStart(owner) === start) {
      throw new TokaidoError('STORAGE', `the data directory ${folder} is in use by process ${owner}`, {
        hint: 'stop that process, or give this node a directory of its own',
      });
    }
    const text = `${process.pid} ${processStart(process.pid) ?? ''}`;
    try {
      this.replace(path, text);
    } catch (error) {
      // On a full disk there is room for it where the last process had its own: reads go on there after a restart.
      if (pid === undefined) throw error;
      writeFileSync(path, text, { flag: 'r+' });
      truncateSync(path, text.length);
    }
  }

  unlock(folder: string): void {
    rmSync(join(folder, 'lock'), { force: true });
  }

  list(folder: string): readonly string[] {
    return readdirSync(folder);
  }

  read(path: string): string | undefined {
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  replace(path: string, text: string): void {
    try {
      replaceFile(path, text, { mode: 0o600 });
    } catch (error) {
      throw new TokaidoError('STORAGE', `cannot write ${path}: ${messageOf(error)}`, {
        hint: 'free space on its disk, or give its folder to the user of this process: the data is as it was',
        cause: error,
      });
    }
  }

  remove(path: string): void {
    rmSync(path, { recursive: true, force: true });
  }

  flushFolder(path: string): void {
    flushFolder(path);
  }

  openEngine(folder: string, options: EngineOptions): Engine {
    const engine = new LmdbEngine({ folder, bootId: this.#rollsBack ? '' : this.bootId, ...options });
    return this.#encryption?.engine(engine) ?? engine;
  }

  rollsBack(folder: string): boolean {
    return this.#rollsBack || Checkpoint.goesBack(folder, this.bootId);
  }

  async openImage(folder: string, logNext: LocalNumber): Promise<MemoryImage | undefined> {
    return await openImage(folder, logNext);
  }
}
