/**
 * An engine with maps of both kinds: those on the disk belong to the engine below, those in memory are trees here. One
 * write transaction spans both: the trees' new versions are built beside the old ones and take their place when the
 * disk's part has committed; when it fails they are dropped. A reader can therefore see the disk's part of a commit a
 * moment (less than a millisecond) before the memory's part, never a part of either.
 *
 * Maps in memory are empty when the engine is opened. Bringing their contents back is the store's work
 * (`store/restore.ts`), because it needs the update log.
 */
import { assert, TokaidoError } from '../base/errors.js';
import type {
  Commit,
  Engine,
  Entry,
  MapId,
  MapOptions,
  Range,
  Snapshot,
  Stale,
  StaleLimits,
  Writer,
} from './engine.js';
import { EMPTY_TREE, findInTree, scanTree, TreeEditor, type TreeRange, type TreeVersion } from './memory-tree.js';
import { Recency } from './recency.js';

/** Longest key of a map in memory, in bytes. */
export const MAX_MEMORY_KEY_BYTES = 65_535;

/** A key as a tree has it. */
export function treeKey(key: Buffer): string {
  return key.toString('latin1');
}

function treeRange({ start, end, reverse }: Range): TreeRange {
  return {
    ...(start === undefined ? {} : { start: treeKey(start) }),
    ...(end === undefined ? {} : { end: treeKey(end) }),
    reverse: reverse === true,
  };
}

/** What a tree holds, as an engine shows it. */
export function* treeEntries(version: TreeVersion, range: Range): Generator<Entry> {
  let left = range.limit ?? Number.POSITIVE_INFINITY;
  if (left <= 0) return;
  for (const { key, value } of scanTree(version, treeRange(range))) {
    yield { key: Buffer.from(key, 'latin1'), value };
    if (--left === 0) return;
  }
}

/** A map in memory: its newest committed version, and the order of use when it is a cache. */
class MemoryMap {
  version: TreeVersion = EMPTY_TREE;
  readonly #maxRecords: number;
  readonly #maxBytes: number;
  readonly #recency: Recency | undefined;

  constructor({ maxRecords, maxBytes }: MapOptions) {
    this.#maxRecords = maxRecords ?? Number.POSITIVE_INFINITY;
    this.#maxBytes = maxBytes ?? Number.POSITIVE_INFINITY;
    this.#recency = maxRecords === undefined && maxBytes === undefined ? undefined : new Recency();
  }

  get(key: string): Buffer | undefined {
    const value = findInTree(this.version, key);
    if (value !== undefined) this.#recency?.touch(key);
    return value;
  }

  commit({ editor, journal }: Edit): void {
    this.version = editor.version();
    if (this.#recency === undefined) return;
    for (const step of journal) {
      if (step.kind === 'clear') this.#recency.clear();
      else if (step.kind === 'put') this.#recency.touch(step.key);
      else this.#recency.forget(step.key);
    }
  }

  get isCache(): boolean {
    return this.#recency !== undefined;
  }

  /** The least recently used keys that have to go for the rest to fit, at most `limit`. */
  overflow(limit: number): Buffer[] {
    let { records, bytes } = this.version;
    const keys: Buffer[] = [];
    if (records <= this.#maxRecords && bytes <= this.#maxBytes) return keys;
    for (const key of this.#recency?.oldest() ?? []) {
      if ((records <= this.#maxRecords && bytes <= this.#maxBytes) || keys.length >= limit) break;
      keys.push(Buffer.from(key, 'latin1'));
      records--;
      bytes -= key.length + (findInTree(this.version, key)?.length ?? 0);
    }
    return keys;
  }
}

type Step = { readonly kind: 'put' | 'remove'; readonly key: string } | { readonly kind: 'clear' };

/** What a transaction did to one map in memory. */
interface Edit {
  readonly editor: TreeEditor;
  /** Steps in order, of caches only. */
  readonly journal: Step[];
}

type Slot = { readonly disk: MapId } | { readonly memory: MemoryMap };

export class TieredEngine implements Engine {
  readonly #disk: Engine;
  readonly #slots: Slot[] = [];
  readonly #names: string[] = [];

  /** Takes the engine below over: closing this one closes it. */
  constructor(disk: Engine) {
    this.#disk = disk;
  }

  get flushesCommits(): boolean {
    return this.#disk.flushesCommits;
  }

  openMap(name: string, options: MapOptions = { storage: 'disk' }): MapId {
    const known = this.#names.indexOf(name);
    if (known >= 0) return known as MapId;
    this.#slots.push(
      options.storage === 'memory' ? { memory: new MemoryMap(options) } : { disk: this.#disk.openMap(name, options) },
    );
    this.#names.push(name);
    return (this.#names.length - 1) as MapId;
  }

  #slot(map: MapId): Slot {
    const slot = this.#slots[map];
    assert(slot !== undefined, 'the map is open');
    return slot;
  }

  get(map: MapId, key: Buffer): Buffer | undefined {
    const slot = this.#slot(map);
    return 'disk' in slot ? this.#disk.get(slot.disk, key) : slot.memory.get(treeKey(key));
  }

  range(map: MapId, range: Range): Iterable<Entry> {
    const slot = this.#slot(map);
    return 'disk' in slot ? this.#disk.range(slot.disk, range) : treeEntries(slot.memory.version, range);
  }

  overflow(map: MapId, limit: number): Buffer[] {
    const slot = this.#slot(map);
    return 'disk' in slot ? [] : slot.memory.overflow(limit);
  }

  async write<T>(fn: (writer: Writer) => T): Promise<Commit<T>> {
    const edits = new Map<MemoryMap, Edit>();
    const commit = await this.#disk.write((writer) => fn(this.#writer(writer, edits)));
    for (const [memory, edit] of edits) memory.commit(edit);
    return commit;
  }

  #writer(disk: Writer, edits: Map<MemoryMap, Edit>): Writer {
    const edit = (memory: MemoryMap): Edit => {
      let found = edits.get(memory);
      if (found === undefined) {
        found = { editor: new TreeEditor(memory.version), journal: [] };
        edits.set(memory, found);
      }
      return found;
    };
    return {
      get: (map, key) => {
        const slot = this.#slot(map);
        if ('disk' in slot) return disk.get(slot.disk, key);
        const editor = edits.get(slot.memory)?.editor;
        return editor === undefined ? findInTree(slot.memory.version, treeKey(key)) : editor.get(treeKey(key));
      },
      range: (map, range) => {
        const slot = this.#slot(map);
        if ('disk' in slot) return disk.range(slot.disk, range);
        const editor = edits.get(slot.memory)?.editor;
        return treeEntries(editor === undefined ? slot.memory.version : editor.version(), range);
      },
      put: (map, key, value) => {
        const slot = this.#slot(map);
        if ('disk' in slot) return disk.put(slot.disk, key, value);
        if (key.length > MAX_MEMORY_KEY_BYTES) {
          throw new TokaidoError('TOO_LARGE', `a key of ${key.length} bytes exceeds ${MAX_MEMORY_KEY_BYTES}`);
        }
        const name = treeKey(key);
        const { editor, journal } = edit(slot.memory);
        editor.put(name, value);
        if (slot.memory.isCache) journal.push({ kind: 'put', key: name });
      },
      remove: (map, key) => {
        const slot = this.#slot(map);
        if ('disk' in slot) return disk.remove(slot.disk, key);
        const name = treeKey(key);
        const { editor, journal } = edit(slot.memory);
        if (slot.memory.isCache) journal.push({ kind: 'remove', key: name });
        return editor.remove(name);
      },
      clear: (map) => {
        const slot = this.#slot(map);
        if ('disk' in slot) return disk.clear(slot.disk);
        const { editor, journal } = edit(slot.memory);
        editor.clear();
        if (slot.memory.isCache) journal.push({ kind: 'clear' });
      },
    };
  }

  snapshot(): Snapshot {
    const disk = this.#disk.snapshot();
    const versions = this.#slots.map((slot) => ('memory' in slot ? slot.memory.version : undefined));
    const at = (map: MapId): { disk: MapId } | { version: TreeVersion } => {
      const slot = this.#slot(map);
      return 'disk' in slot ? slot : { version: versions[map] ?? EMPTY_TREE };
    };
    return {
      get: (map, key) => {
        const where = at(map);
        return 'disk' in where ? disk.get(where.disk, key) : findInTree(where.version, treeKey(key));
      },
      range: (map, range) => {
        const where = at(map);
        return 'disk' in where ? disk.range(where.disk, range) : treeEntries(where.version, range);
      },
      close: () => disk.close(),
    };
  }

  /** What is in memory is not stored. */
  stale(map: MapId, after: Buffer | undefined, limits: StaleLimits): Stale {
    const slot = this.#slot(map);
    const none = { keys: [], looked: 0, last: undefined };
    return 'disk' in slot ? (this.#disk.stale?.(slot.disk, after, limits) ?? none) : none;
  }

  async flush(): Promise<void> {
    await this.#disk.flush();
  }

  sizeBytes(): number {
    let bytes = this.#disk.sizeBytes();
    for (const slot of this.#slots) if ('memory' in slot) bytes += slot.memory.version.bytes;
    return bytes;
  }

  usedBytes(map?: MapId): number {
    if (map === undefined) return this.#disk.usedBytes();
    const slot = this.#slot(map);
    return 'disk' in slot ? this.#disk.usedBytes(slot.disk) : slot.memory.version.bytes;
  }

  async close(): Promise<void> {
    await this.#disk.close();
  }
}
