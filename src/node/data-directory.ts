/**
 * A node's data directory: who it belongs to, which store in it is the current one, and whether the last run ended well.
 *
 *   node.json        cluster, instance id, current generation, boot id, clean flag (replaced atomically)
 *   lock             id and start time of the process that uses the directory
 *   store-000001/    one generation of the store; a loaded snapshot becomes the next generation
 *
 * A generation is current only once node.json says so, and node.json says so only after the generation is flushed: a
 * crash in the middle of a snapshot leaves a folder that the next start removes, and the old store as it was.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { codeOf, messageOf, TokaidoError } from '../base/errors.js';
import type { Runtime } from '../base/runtime.js';

interface NodeFile {
  readonly format: 1;
  readonly clusterId: string;
  /** Random, made with the directory: tells nodes apart even when they share a name. */
  readonly instanceId: string;
  /** Number of the current store's folder; 0 when the node never had data. */
  readonly generation: number;
  /** Identifies the boot of the machine during which the directory was last opened; empty when unknown. */
  readonly bootId: string;
  /** The last run flushed and closed everything. */
  readonly clean: boolean;
  /** All commits so far went to the disk in order; without that, data that went through a power cut is worth nothing. */
  readonly flushesCommits: boolean;
  /** An origin may have lost its tail and has not settled that yet: a restart in the middle must not forget it. */
  readonly tailMayBeLost: boolean;
  /** Instance ids of followers seen: an origin that lost its tail asks these before it goes on. */
  readonly followers: readonly string[];
}

const MAX_KNOWN_FOLLOWERS = 1024;

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

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === 'EPERM';
  }
}

/** A name is on the disk only once its folder is. Windows knows no such call, and needs none. */
function flushFolder(folder: string): void {
  if (process.platform === 'win32') return;
  const handle = openSync(folder, 'r');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

/** Writes a file so that a crash leaves either the old or the new one; the new one is on the disk when this returns. */
function replaceFile(path: string, text: string): void {
  const temporary = `${path}.new`;
  const file = openSync(temporary, 'w', 0o600);
  try {
    writeSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
  flushFolder(dirname(path));
}

export interface DataDirectoryOptions {
  readonly folder: string;
  /** The cluster that the certificate names; `undefined` for a node that stands alone, which makes one up. */
  readonly clusterId: string | undefined;
  readonly runtime: Runtime;
  /** Whether this run flushes its commits (see `LmdbOptions`). */
  readonly flushesCommits: boolean;
}

export class DataDirectory {
  readonly #folder: string;
  readonly #flushesCommits: boolean;
  #file: NodeFile;
  /**
   * A run may have lost commits that it had told others about: the machine went down without a clean close, and no run
   * since then got as far as `tailSettled`. (When only the process died, every commit is there.)
   */
  readonly tailMayBeLost: boolean;
  /** The last run ended without a clean close: what it committed may still be in the system's page cache only. */
  readonly wasUnclean: boolean;
  /** The machine went down while commits were not flushed: the data was thrown away, the node is to be seeded anew. */
  readonly wasDiscarded: boolean;

  /** Errors: `STORAGE` when it cannot be used or another process uses it, `IDENTITY` when it is another cluster's. */
  constructor({ folder, clusterId: wanted, runtime, flushesCommits }: DataDirectoryOptions) {
    this.#folder = folder;
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw new TokaidoError('STORAGE', `cannot create the data directory ${folder}: ${messageOf(error)}`, {
        cause: error,
      });
    }
    this.#takeLock();
    const before = this.#read();
    const clusterId = wanted ?? before?.clusterId ?? runtime.randomBytes(16).toString('hex');
    if (before !== undefined && before.clusterId !== clusterId) {
      this.#releaseLock();
      throw new TokaidoError(
        'IDENTITY',
        `${folder} holds data of cluster ${before.clusterId}, the certificate is of ${clusterId}`,
        {
          hint: 'use the right certificate, or an empty data directory',
        },
      );
    }
    const boot = bootId();
    const rebooted = boot === '' || before?.bootId !== boot;
    // LMDB_RESTORE=safe makes the engine open at the last flushed state, exactly as after a power cut.
    const rolledBack = process.env.LMDB_RESTORE === 'safe';
    const cutOff = before !== undefined && before.generation > 0 && !before.clean && (rebooted || rolledBack);
    this.tailMayBeLost = cutOff || before?.tailMayBeLost === true;
    const instanceId = before?.instanceId ?? runtime.randomBytes(16).toString('hex');
    this.wasDiscarded =
      before !== undefined && before.generation > 0 && !before.flushesCommits && !before.clean && rebooted;
    const generation = before === undefined || this.wasDiscarded ? 0 : before.generation;
    this.wasUnclean = generation > 0 && before?.clean === false;
    // Leftovers of a run that did not flush become trustworthy with the first flush of this one, not before.
    const unflushed = this.wasUnclean && before?.flushesCommits === false;
    this.#flushesCommits = flushesCommits;
    const followers = before?.followers ?? [];
    this.#file = {
      format: 1,
      clusterId,
      instanceId,
      generation,
      bootId: boot,
      clean: false,
      flushesCommits: flushesCommits && !unflushed,
      tailMayBeLost: this.tailMayBeLost,
      followers,
    };
    this.#write(this.#file);
    this.#removeOthers();
  }

  #takeLock(): void {
    const path = join(this.#folder, 'lock');
    try {
      const [pid, start] = readFileSync(path, 'utf8').split(' ');
      const owner = Number(pid);
      if (owner !== process.pid && isRunning(owner) && processStart(owner) === start) {
        throw new TokaidoError('STORAGE', `the data directory ${this.#folder} is in use by process ${owner}`, {
          hint: 'stop that process, or give this node a directory of its own',
        });
      }
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error;
    }
    replaceFile(path, `${process.pid} ${processStart(process.pid) ?? ''}`);
  }

  #releaseLock(): void {
    rmSync(join(this.#folder, 'lock'), { force: true });
  }

  #read(): NodeFile | undefined {
    const path = join(this.#folder, 'node.json');
    try {
      const file = JSON.parse(readFileSync(path, 'utf8')) as NodeFile;
      if (file.format !== 1)
        throw new TokaidoError('CORRUPT', `${path} has format ${String(file.format)}; this version knows 1`);
      return file;
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      if (error instanceof TokaidoError) throw error;
      throw new TokaidoError('CORRUPT', `cannot read ${path}: ${messageOf(error)}`, {
        hint: 'a follower may be started with an empty data directory: it rebuilds itself from its upstream',
      });
    }
  }

  #write(file: NodeFile): void {
    replaceFile(join(this.#folder, 'node.json'), `${JSON.stringify(file, null, 2)}\n`);
    this.#file = file;
  }

  #generationFolder(generation: number): string {
    return join(this.#folder, `store-${String(generation).padStart(6, '0')}`);
  }

  /** Removes generations that are not the current one. */
  #removeOthers(): void {
    const current = this.#generationFolder(this.#file.generation);
    for (const name of readdirSync(this.#folder)) {
      const path = join(this.#folder, name);
      if (/^store-\d{6}$/.test(name) && path !== current) rmSync(path, { recursive: true, force: true });
    }
  }

  get clusterId(): string {
    return this.#file.clusterId;
  }

  get instanceId(): string {
    return this.#file.instanceId;
  }

  get knownFollowers(): readonly string[] {
    return this.#file.followers;
  }

  rememberFollower(instanceId: string): void {
    const { followers } = this.#file;
    if (followers.includes(instanceId)) return;
    this.#write({ ...this.#file, followers: [...followers, instanceId].slice(-MAX_KNOWN_FOLLOWERS) });
  }

  forgetFollowers(instanceIds: readonly string[]): void {
    const followers = this.#file.followers.filter((known) => !instanceIds.includes(known));
    if (followers.length !== this.#file.followers.length) this.#write({ ...this.#file, followers });
  }

  /** Folder of the current store, or `undefined` when the node never had data. */
  get currentStore(): string | undefined {
    return this.#file.generation === 0 ? undefined : this.#generationFolder(this.#file.generation);
  }

  /** Folder for a store in the making. */
  nextStore(): string {
    const folder = this.#generationFolder(this.#file.generation + 1);
    rmSync(folder, { recursive: true, force: true });
    return folder;
  }

  /** The store in the making is whole and flushed: it is the current one from now on. */
  adoptNextStore(): void {
    const folder = this.#generationFolder(this.#file.generation + 1);
    if (existsSync(folder)) flushFolder(folder);
    this.#write({ ...this.#file, generation: this.#file.generation + 1 });
  }

  /** Removes stores that were replaced; they must be closed. */
  removeReplaced(): void {
    this.#removeOthers();
  }

  /** Nothing is missing any more, or a new epoch has begun. */
  tailSettled(): void {
    if (this.#file.tailMayBeLost) this.#write({ ...this.#file, tailMayBeLost: false });
  }

  /** What an unclean last run left behind is on the disk now. */
  leftoversFlushed(): void {
    const { flushesCommits } = this.#file;
    if (flushesCommits !== this.#flushesCommits) this.#write({ ...this.#file, flushesCommits: this.#flushesCommits });
  }

  /** The store is flushed and closed. */
  closeCleanly(): void {
    this.#write({ ...this.#file, clean: true });
    this.#releaseLock();
  }
}
