/**
 * A node's data directory: who it belongs to, which store in it is the current one, and whether the last run ended well.
 *
 *   node.json        cluster, instance id, current generation, boot id, clean flag (replaced atomically)
 *   lock             id and start time of the process that uses the directory
 *   store-000001/    one generation of the store; a loaded snapshot becomes the next generation
 *
 * A generation is current only once node.json says so, and node.json says so only after the generation is flushed: a
 * crash in the middle of a snapshot leaves the old store as it was, and a folder that the snapshot goes on in, or that is
 * removed.
 */
import { basename, join } from 'node:path';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Runtime } from '../../base/runtime.js';
import { type VersionNs, versionNs } from '../../base/types.js';
import { DAMAGED_HINT } from '../../engine/damaged-file.js';
import type { Disk } from './disk.js';

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
  /**
   * When the current store began with nothing here, ms since 1970; absent when it was loaded or brought along. An origin is
   * not to take data of an earlier time from its followers by mistake.
   */
  readonly begunEmptyMs?: number;
  /** Instance ids of followers seen: an origin that lost its tail asks these before it goes on. */
  readonly followers: readonly string[];
}

const MAX_KNOWN_FOLLOWERS = 1024;

const isStore = (name: string): boolean => /^store-\d{6}$/.test(name);

export interface DataDirectoryOptions {
  readonly folder: string;
  readonly disk: Disk;
  /** The cluster that the certificate names; `undefined` for a node that stands alone, which makes one up. */
  readonly clusterId: string | undefined;
  readonly runtime: Runtime;
  /** Whether this run flushes its commits (see `LmdbOptions`). */
  readonly flushesCommits: boolean;
}

export class DataDirectory {
  readonly #folder: string;
  readonly #disk: Disk;
  readonly #flushesCommits: boolean;
  #file: NodeFile;
  /**
   * A run may have lost commits that it had told others about: the machine went down without a clean close, or the disk
   * refused a flush, and no run since then got as far as `tailSettled`. (When only the process died, every commit is there.)
   */
  readonly tailMayBeLost: boolean;
  /** The last run ended without a clean close: what it committed may still be in the system's page cache only. */
  readonly wasUnclean: boolean;
  /** The machine went down (or a flush failed) while commits were not flushed: the data was thrown away, the node is to be seeded anew. */
  readonly wasDiscarded: boolean;
  /** Folder of a store in the making that an earlier run left, if its commits went to the disk in order. */
  readonly unfinishedStore: string | undefined;

  /** Errors: `STORAGE` when it cannot be used or another process uses it, `IDENTITY` when it is another cluster's. */
  constructor({ folder, disk, clusterId: wanted, runtime, flushesCommits }: DataDirectoryOptions) {
    this.#folder = folder;
    this.#disk = disk;
    disk.createFolder(folder);
    disk.lock(folder);
    const before = this.#read();
    this.#refuseLost(before);
    const clusterId = wanted ?? before?.clusterId ?? runtime.randomBytes(16).toString('hex');
    if (before !== undefined && before.clusterId !== clusterId) {
      disk.unlock(folder);
      throw new TokaidoError(
        'IDENTITY',
        `${folder} holds data of cluster ${before.clusterId}, the certificate is of ${clusterId}`,
        {
          hint: 'use the right certificate, or an empty data directory',
        },
      );
    }
    // The machine went down, or a flush failed: the engine opens without what it had not flushed.
    const goesBack =
      disk.bootId === '' ||
      before?.bootId !== disk.bootId ||
      disk.rollsBack(this.#generationFolder(before?.generation ?? 0));
    const cutOff = before !== undefined && before.generation > 0 && !before.clean && goesBack;
    this.tailMayBeLost = cutOff || before?.tailMayBeLost === true;
    const instanceId = before?.instanceId ?? runtime.randomBytes(16).toString('hex');
    this.wasDiscarded =
      before !== undefined && before.generation > 0 && !before.flushesCommits && !before.clean && goesBack;
    const generation = before === undefined || this.wasDiscarded ? 0 : before.generation;
    this.wasUnclean = generation > 0 && before?.clean === false;
    // Leftovers of a run that did not flush become trustworthy with the first flush of this one, not before.
    const unflushed = this.wasUnclean && before?.flushesCommits === false;
    this.#flushesCommits = flushesCommits;
    const followers = before?.followers ?? [];
    const begunEmpty = before?.begunEmptyMs === undefined ? {} : { begunEmptyMs: before.begunEmptyMs };
    this.#file = {
      format: 1,
      clusterId,
      instanceId,
      generation,
      bootId: disk.bootId,
      clean: false,
      flushesCommits: flushesCommits && !unflushed,
      tailMayBeLost: this.tailMayBeLost,
      ...begunEmpty,
      followers,
    };
    this.#write(this.#file);
    const next = this.#generationFolder(generation + 1);
    const isTrusted = flushesCommits && before?.flushesCommits === true;
    this.unfinishedStore = isTrusted && disk.list(folder).includes(basename(next)) ? next : undefined;
    this.#removeOthers();
  }

  #read(): NodeFile | undefined {
    const path = join(this.#folder, 'node.json');
    try {
      const text = this.#disk.read(path);
      if (text === undefined) return undefined;
      const file = JSON.parse(text) as NodeFile;
      if (file.format !== 1)
        throw new TokaidoError('CORRUPT', `${path} has format ${String(file.format)}; this version knows 1`);
      return file;
    } catch (error) {
      if (error instanceof TokaidoError) throw error;
      throw new TokaidoError('CORRUPT', `cannot read ${path}: ${messageOf(error)}`, {
        hint: DAMAGED_HINT,
      });
    }
  }

  /** Part of the directory is gone: to begin with nothing would be to remove the rest, at a root from every node. */
  #refuseLost(before: NodeFile | undefined): void {
    const stores = this.#disk.list(this.#folder).filter(isStore);
    const current = basename(this.#generationFolder(before?.generation ?? 0));
    const what =
      before === undefined
        ? stores.length > 0 && 'has data, and no node.json that says whose'
        : before.generation > 0 && !stores.includes(current) && `lacks ${current}, which has its data`;
    if (what === false) return;
    this.#disk.unlock(this.#folder);
    throw new TokaidoError('CORRUPT', `the data directory ${this.#folder} ${what}`, { hint: DAMAGED_HINT });
  }

  /** What says so already is left alone: a node whose process died starts on a full disk, too. */
  #write(file: NodeFile): void {
    const path = join(this.#folder, 'node.json');
    const text = `${JSON.stringify(file, null, 2)}\n`;
    if (this.#disk.read(path) !== text) this.#disk.replace(path, text);
    this.#file = file;
  }

  #generationFolder(generation: number): string {
    return join(this.#folder, `store-${String(generation).padStart(6, '0')}`);
  }

  /** Removes generations that are neither the current one nor in the making. */
  #removeOthers(): void {
    const kept = [this.#generationFolder(this.#file.generation), this.unfinishedStore];
    for (const name of this.#disk.list(this.#folder)) {
      const path = join(this.#folder, name);
      if (isStore(name) && !kept.includes(path)) this.#disk.remove(path);
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
    this.removeNextStore();
    return this.#generationFolder(this.#file.generation + 1);
  }

  /** Nobody goes on with the store in the making; it must be closed. */
  removeNextStore(): void {
    this.#disk.remove(this.#generationFolder(this.#file.generation + 1));
  }

  /** The store in the making is whole and flushed: it is the current one from now on. */
  adoptNextStore(): void {
    this.#disk.flushFolder(this.#generationFolder(this.#file.generation + 1));
    const { begunEmptyMs: _, ...file } = this.#file;
    this.#write({ ...file, generation: file.generation + 1 });
  }

  /** The store in the making is an empty one, and is the current one from now on. */
  beginEmptyStore(nowMs: number): void {
    this.#write({ ...this.#file, generation: this.#file.generation + 1, begunEmptyMs: nowMs });
  }

  /** That the current store began with nothing is meant: from now on it counts as any other. */
  standByEmpty(): void {
    const { begunEmptyMs: _, ...file } = this.#file;
    this.#write(file);
  }

  /** When the current store began with nothing here; `undefined` when it was loaded or brought along. */
  get begunEmptyNs(): VersionNs | undefined {
    const { begunEmptyMs } = this.#file;
    return begunEmptyMs === undefined ? undefined : versionNs(BigInt(Math.trunc(begunEmptyMs)) * 1_000_000n);
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
    this.#disk.unlock(this.#folder);
  }
}
