/**
 * An engine whose maps may be sealed: what is put into them is encrypted before the engine below sees it, and decrypted
 * where it is read, so that nothing above knows of it and nothing below has it. Keys of entries stay as they are: they
 * are what the engine orders by.
 *
 * Values that were stored before a map was sealed, or with another key, are read all the same; they are sealed with the
 * current key when they are written the next time. `stale` finds them for who writes them anew bit by bit; `reseal` is
 * for an engine that nobody else uses.
 */
import { type Cipher, sealedBy } from './cipher.js';
import type {
  Commit,
  Engine,
  Entry,
  MapId,
  MapOptions,
  Range,
  Reader,
  Snapshot,
  Stale,
  StaleLimits,
  Writer,
} from './engine.js';

/** Bytes of values that one step of `reseal` looks at, about. */
const STEP_BYTES = 16 * 1024 * 1024;

export interface SealedEngineOptions {
  /** Asked for each value: keys may change. */
  readonly cipher: () => Cipher;
  /** Maps that are sealed although nobody opens them so. */
  isAlwaysSealed(name: string): boolean;
}

export class SealedEngine implements Engine {
  readonly #below: Engine;
  readonly #options: SealedEngineOptions;
  /** By map: its name, which its values are bound to, and whether what is put there is sealed. */
  readonly #maps: { name: Buffer; sealed: boolean }[] = [];

  /** Takes the engine below over: closing this one closes it. */
  constructor(below: Engine, options: SealedEngineOptions) {
    this.#below = below;
    this.#options = options;
  }

  get flushesCommits(): boolean {
    return this.#below.flushesCommits;
  }

  openMap(name: string, options: MapOptions = { storage: 'disk' }): MapId {
    const map = this.#below.openMap(name, options);
    const sealed = options.sealed === true || this.#options.isAlwaysSealed(name);
    const known = this.#maps[map];
    if (known === undefined) this.#maps[map] = { name: Buffer.from(`${name}\0`), sealed };
    else known.sealed ||= sealed;
    return map;
  }

  #place(map: MapId, key: Buffer): Buffer {
    return Buffer.concat([(this.#maps[map] as { name: Buffer }).name, key]);
  }

  #open(map: MapId, key: Buffer, value: Buffer): Buffer {
    // Most values of most nodes are not: that costs four bytes to see.
    return sealedBy(value) === undefined ? value : this.#options.cipher().open(value, this.#place(map, key));
  }

  #get(below: Reader, map: MapId, key: Buffer): Buffer | undefined {
    const value = below.get(map, key);
    return value === undefined ? undefined : this.#open(map, key, value);
  }

  *#range(below: Reader, map: MapId, range: Range): Iterable<Entry> {
    for (const { key, value } of below.range(map, range)) yield { key, value: this.#open(map, key, value) };
  }

  get(map: MapId, key: Buffer): Buffer | undefined {
    return this.#get(this.#below, map, key);
  }

  range(map: MapId, range: Range): Iterable<Entry> {
    return this.#range(this.#below, map, range);
  }

  overflow(map: MapId, limit: number): Buffer[] {
    return this.#below.overflow(map, limit);
  }

  async write<T>(fn: (writer: Writer) => T): Promise<Commit<T>> {
    return await this.#below.write((below) => fn(this.#writer(below)));
  }

  #writer(below: Writer): Writer {
    return {
      get: (map, key) => this.#get(below, map, key),
      range: (map, range) => this.#range(below, map, range),
      put: (map, key, value) => {
        const isSealed = this.#maps[map]?.sealed === true;
        below.put(map, key, isSealed ? this.#options.cipher().seal(value, this.#place(map, key)) : value);
      },
      remove: (map, key) => below.remove(map, key),
      clear: (map) => below.clear(map),
    };
  }

  /**
   * Writes values of a map anew that are not as they should be: sealed with the current key, or not sealed where the map
   * is not. Looks at `limit` entries behind `after`, or fewer when they are large. Returns how many it wrote, and where to go on.
   */
  async reseal(
    map: MapId,
    after: Buffer | undefined,
    limit: number,
  ): Promise<{ readonly looked: number; readonly written: number; readonly last: Buffer | undefined }> {
    const cipher = this.#options.cipher();
    const wanted = this.#wanted(map);
    const { result } = await this.#below.write((below) => {
      const wrong: { readonly key: Buffer; readonly value: Buffer }[] = [];
      let looked = 0;
      let bytes = 0;
      let last: Buffer | undefined;
      for (const { key, value } of below.range(map, { ...behind(after), limit })) {
        looked++;
        if (sealedBy(value) !== wanted) wrong.push({ key: Buffer.from(key), value: Buffer.from(value) });
        bytes += value.length;
        if (bytes < STEP_BYTES && looked < limit) continue;
        last = Buffer.from(key);
        break;
      }
      for (const { key, value } of wrong) {
        const place = this.#place(map, key);
        const opened = cipher.open(value, place);
        below.put(map, key, wanted === undefined ? opened : cipher.seal(opened, place));
      }
      return { looked, written: wrong.length, last };
    });
    return result;
  }

  stale(map: MapId, after: Buffer | undefined, { rows, wrong, bytes }: StaleLimits): Stale {
    const wanted = this.#wanted(map);
    const keys: Buffer[] = [];
    let looked = 0;
    let size = 0;
    for (const { key, value } of this.#below.range(map, { ...behind(after), limit: rows })) {
      looked++;
      size += value.length;
      if (sealedBy(value) !== wanted) keys.push(Buffer.from(key));
      if (looked === rows || keys.length === wrong || size >= bytes) return { keys, looked, last: Buffer.from(key) };
    }
    return { keys, looked, last: undefined };
  }

  /** The key that values of a map are to be sealed with, if any. */
  #wanted(map: MapId): string | undefined {
    return this.#maps[map]?.sealed === true ? this.#options.cipher().currentId : undefined;
  }

  snapshot(): Snapshot {
    const below = this.#below.snapshot();
    return {
      get: (map, key) => this.#get(below, map, key),
      range: (map, range) => this.#range(below, map, range),
      close: () => below.close(),
    };
  }

  async flush(): Promise<void> {
    await this.#below.flush();
  }

  sizeBytes(): number {
    return this.#below.sizeBytes();
  }

  usedBytes(map?: MapId): number {
    return this.#below.usedBytes(map);
  }

  async close(): Promise<void> {
    await this.#below.close();
  }
}

function behind(after: Buffer | undefined): Range {
  return after === undefined ? {} : { start: Buffer.concat([after, Buffer.of(0)]) };
}
