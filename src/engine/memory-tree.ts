/**
 * A B+ tree in memory whose versions are immutable: an editor copies the nodes it touches and shares the rest, so that a
 * version is a snapshot for as long as somebody holds it, a transaction that fails is forgotten by dropping its editor,
 * and readers never wait (invariants 1 and 6).
 *
 * What it costs. Keys are one-byte strings, which compare bytewise and fast. Small values lie packed in one buffer per
 * leaf, outside the garbage-collected heap; only a number per record says where. An edited leaf shares its buffer with
 * the version before it: bytes are appended and never overwritten, so older versions keep reading theirs. That holds
 * because versions form one line: an editor begins at the newest version, and there is one editor at a time.
 */

/** Most records of a leaf, and most children of an inner node. */
const MAX_WIDTH = 64;
/** A node with fewer is merged into a neighbour when both fit well into one. */
const MIN_WIDTH = MAX_WIDTH / 4;
const MERGED_WIDTH = (MAX_WIDTH * 3) / 4;
/** Values up to this size are packed, larger ones have a buffer of their own. */
const MAX_PACKED_BYTES = 1024;
/** A packed value is one small integer: where it begins, and its length in the low bits. */
const LENGTH_BITS = 11;
const LENGTH_MASK = (1 << LENGTH_BITS) - 1;
const MIN_LEAF_BYTES = 256;

type Place = number | Buffer;

class Leaf {
  owner: number;
  readonly keys: string[];
  readonly places: Place[];
  bytes: Buffer;
  used: number;

  constructor(owner: number, keys: string[], places: Place[], bytes: Buffer, used: number) {
    this.owner = owner;
    this.keys = keys;
    this.places = places;
    this.bytes = bytes;
    this.used = used;
  }

  value(index: number): Buffer {
    const place = this.places[index] as Place;
    if (typeof place !== 'number') return place;
    const start = place >>> LENGTH_BITS;
    return this.bytes.subarray(start, start + (place & LENGTH_MASK));
  }

  size(index: number): number {
    const place = this.places[index] as Place;
    return typeof place === 'number' ? place & LENGTH_MASK : place.length;
  }

  /** Takes a copy of `value` and says where it lies. */
  store(value: Buffer): Place {
    const { length } = value;
    if (length > MAX_PACKED_BYTES) return Buffer.from(value);
    if (this.used + length > this.bytes.length) this.#repack(length);
    const start = this.used;
    value.copy(this.bytes, start);
    this.used = start + length;
    return (start << LENGTH_BITS) | length;
  }

  /** Moves what is still referred to into a new buffer with room for `more` bytes and some to grow. */
  #repack(more: number): void {
    let live = 0;
    for (const place of this.places) if (typeof place === 'number') live += place & LENGTH_MASK;
    const bytes = Buffer.allocUnsafeSlow(Math.max(MIN_LEAF_BYTES, Math.ceil((live + more) * 1.4)));
    let used = 0;
    for (let i = 0; i < this.places.length; i++) {
      const place = this.places[i] as Place;
      if (typeof place !== 'number') continue;
      const start = place >>> LENGTH_BITS;
      const length = place & LENGTH_MASK;
      this.bytes.copy(bytes, used, start, start + length);
      this.places[i] = (used << LENGTH_BITS) | length;
      used += length;
    }
    this.bytes = bytes;
    this.used = used;
  }

  /** A leaf of its own with the records from `from` on. */
  tail(owner: number, from: number): Leaf {
    const leaf = new Leaf(owner, this.keys.slice(from), [], EMPTY, 0);
    for (let i = from; i < this.keys.length; i++) leaf.places.push(leaf.adopt(this, i));
    return leaf;
  }

  /** Takes over a value of another leaf. */
  adopt(other: Leaf, index: number): Place {
    const place = other.places[index] as Place;
    return typeof place === 'number' ? this.store(other.value(index)) : place;
  }
}

class Inner {
  owner: number;
  /** `keys[i]` is at or below every key under `children[i + 1]` and above every key under `children[i]`. */
  readonly keys: string[];
  readonly children: Node[];

  constructor(owner: number, keys: string[], children: Node[]) {
    this.owner = owner;
    this.keys = keys;
    this.children = children;
  }
}

type Node = Leaf | Inner;

const EMPTY = Buffer.alloc(0);
let owners = 0;

/** One immutable state of a tree. */
export interface TreeVersion {
  readonly root: unknown;
  /** Levels of inner nodes above the leaves. */
  readonly height: number;
  readonly records: number;
  /** Bytes of all keys and values. */
  readonly bytes: number;
}

export const EMPTY_TREE: TreeVersion = { root: new Leaf(0, [], [], EMPTY, 0), height: 0, records: 0, bytes: 0 };

/** Index of the first key that is not below `key`. */
function lowerBound(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] as string) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Index of the child under which `key` belongs: the number of separators that are not above it. */
function childIndex(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] as string) <= key) low = middle + 1;
    else high = middle;
  }
  return low;
}

function leafFor(root: Node, height: number, key: string): Leaf {
  let node = root;
  for (let level = height; level > 0; level--) {
    const inner = node as Inner;
    node = inner.children[childIndex(inner.keys, key)] as Node;
  }
  return node as Leaf;
}

function find(root: Node, height: number, key: string): Buffer | undefined {
  const leaf = leafFor(root, height, key);
  const index = lowerBound(leaf.keys, key);
  return leaf.keys[index] === key ? leaf.value(index) : undefined;
}

/** The value as a view that stays valid. */
export function findInTree(version: TreeVersion, key: string): Buffer | undefined {
  return find(version.root as Node, version.height, key);
}

/** Part of a tree: `start` is included, `end` is not. */
export interface TreeRange {
  readonly start?: string;
  readonly end?: string;
  /** From the last key of the range to the first. */
  readonly reverse?: boolean;
}

export interface TreeEntry {
  readonly key: string;
  /** A view that stays valid. */
  readonly value: Buffer;
}

/** Records of a range in key order. */
export function scanTree(version: TreeVersion, range: TreeRange): Generator<TreeEntry> {
  return range.reverse === true ? backward(version, range) : forward(version, range);
}

function* forward(version: TreeVersion, { start = '', end }: TreeRange): Generator<TreeEntry> {
  const path = new Path(version, start);
  let index = lowerBound(path.leaf.keys, start);
  for (;;) {
    const { leaf } = path;
    for (; index < leaf.keys.length; index++) {
      const key = leaf.keys[index] as string;
      if (end !== undefined && key >= end) return;
      yield { key, value: leaf.value(index) };
    }
    if (!path.move(1)) return;
    index = 0;
  }
}

function* backward(version: TreeVersion, { start = '', end }: TreeRange): Generator<TreeEntry> {
  const path = new Path(version, end);
  let index = (end === undefined ? path.leaf.keys.length : lowerBound(path.leaf.keys, end)) - 1;
  for (;;) {
    const { leaf } = path;
    for (; index >= 0; index--) {
      const key = leaf.keys[index] as string;
      if (key < start) return;
      yield { key, value: leaf.value(index) };
    }
    if (!path.move(-1)) return;
    index = path.leaf.keys.length - 1;
  }
}

/** Where a scan stands: the inner nodes above the current leaf, and which child of each it is under. */
class Path {
  readonly #nodes: Inner[] = [];
  readonly #indexes: number[] = [];
  leaf: Leaf;

  /** At the leaf of `key`, or at the last one. */
  constructor(version: TreeVersion, key: string | undefined) {
    let node = version.root as Node;
    for (let level = version.height; level > 0; level--) {
      const inner = node as Inner;
      const index = key === undefined ? inner.children.length - 1 : childIndex(inner.keys, key);
      this.#nodes.push(inner);
      this.#indexes.push(index);
      node = inner.children[index] as Node;
    }
    this.leaf = node as Leaf;
  }

  /** To the next leaf (1) or the one before (-1); false at the end. */
  move(step: 1 | -1): boolean {
    let level = this.#nodes.length - 1;
    while (level >= 0) {
      const index = (this.#indexes[level] as number) + step;
      if (index >= 0 && index < (this.#nodes[level] as Inner).children.length) break;
      level--;
    }
    if (level < 0) return false;
    this.#indexes[level] = (this.#indexes[level] as number) + step;
    for (let below = level + 1; below < this.#nodes.length; below++) {
      const parent = this.#nodes[below - 1] as Inner;
      const inner = parent.children[this.#indexes[below - 1] as number] as Inner;
      this.#nodes[below] = inner;
      this.#indexes[below] = step === 1 ? 0 : inner.children.length - 1;
    }
    const last = this.#nodes.length - 1;
    this.leaf = (this.#nodes[last] as Inner).children[this.#indexes[last] as number] as Leaf;
    return true;
  }
}

/** The next version in the making. Sees its own changes. */
export class TreeEditor {
  #root: Node;
  #height: number;
  #records: number;
  #bytes: number;
  #owner = ++owners;

  /** `version` must be the newest one of its tree. */
  constructor(version: TreeVersion) {
    this.#root = version.root as Node;
    this.#height = version.height;
    this.#records = version.records;
    this.#bytes = version.bytes;
  }

  /** What has been built so far. The editor may go on: it copies again what this version holds. */
  version(): TreeVersion {
    this.#owner = ++owners;
    return { root: this.#root, height: this.#height, records: this.#records, bytes: this.#bytes };
  }

  get(key: string): Buffer | undefined {
    return find(this.#root, this.#height, key);
  }

  clear(): void {
    this.#root = EMPTY_TREE.root as Node;
    this.#height = 0;
    this.#records = 0;
    this.#bytes = 0;
  }

  /** Takes a copy of `value`. */
  put(key: string, value: Buffer): void {
    this.#root = this.#own(this.#root);
    const right = this.#put(this.#root, this.#height, key, value);
    if (right === undefined) return;
    this.#root = new Inner(this.#owner, [right.key], [this.#root, right.node]);
    this.#height++;
  }

  /** Returns whether the key was there. */
  remove(key: string): boolean {
    if (this.get(key) === undefined) return false;
    this.#root = this.#own(this.#root);
    this.#remove(this.#root, this.#height, key);
    while (this.#height > 0 && (this.#root as Inner).children.length === 1) {
      this.#root = (this.#root as Inner).children[0] as Node;
      this.#height--;
    }
    return true;
  }

  #own(node: Node): Node {
    if (node.owner === this.#owner) return node;
    if (node instanceof Leaf) {
      return new Leaf(this.#owner, node.keys.slice(), node.places.slice(), node.bytes, node.used);
    }
    return new Inner(this.#owner, node.keys.slice(), node.children.slice());
  }

  #ownChild(parent: Inner, index: number): Node {
    const child = this.#own(parent.children[index] as Node);
    parent.children[index] = child;
    return child;
  }

  /** Puts below an owned node; a node that became too wide hands back its right half and the key it begins at. */
  #put(node: Node, height: number, key: string, value: Buffer): { key: string; node: Node } | undefined {
    if (height === 0) return this.#putIntoLeaf(node as Leaf, key, value);
    const inner = node as Inner;
    const index = childIndex(inner.keys, key);
    const right = this.#put(this.#ownChild(inner, index), height - 1, key, value);
    if (right === undefined) return undefined;
    inner.keys.splice(index, 0, right.key);
    inner.children.splice(index + 1, 0, right.node);
    if (inner.children.length <= MAX_WIDTH) return undefined;
    // Ascending keys leave full nodes behind; any others split in the middle.
    const from = index + 2 === inner.children.length ? inner.children.length - 1 : inner.children.length >>> 1;
    const children = inner.children.splice(from);
    const keys = inner.keys.splice(from);
    return { key: inner.keys.pop() as string, node: new Inner(this.#owner, keys, children) };
  }

  #putIntoLeaf(leaf: Leaf, key: string, value: Buffer): { key: string; node: Node } | undefined {
    const index = lowerBound(leaf.keys, key);
    if (leaf.keys[index] === key) {
      this.#bytes += value.length - leaf.size(index);
      // What the old value took is free to be packed away.
      leaf.places[index] = 0;
      leaf.places[index] = leaf.store(value);
      return undefined;
    }
    this.#records++;
    this.#bytes += key.length + value.length;
    const place = leaf.store(value);
    leaf.keys.splice(index, 0, key);
    leaf.places.splice(index, 0, place);
    if (leaf.keys.length <= MAX_WIDTH) return undefined;
    const from = index === leaf.keys.length - 1 ? index : leaf.keys.length >>> 1;
    const right = leaf.tail(this.#owner, from);
    leaf.keys.length = from;
    leaf.places.length = from;
    return { key: right.keys[0] as string, node: right };
  }

  /** Removes a key that is there, below an owned node. */
  #remove(node: Node, height: number, key: string): void {
    if (height === 0) {
      const leaf = node as Leaf;
      const index = lowerBound(leaf.keys, key);
      this.#records--;
      this.#bytes -= key.length + leaf.size(index);
      leaf.keys.splice(index, 1);
      leaf.places.splice(index, 1);
      return;
    }
    const inner = node as Inner;
    const index = childIndex(inner.keys, key);
    const child = this.#ownChild(inner, index);
    this.#remove(child, height - 1, key);
    if (width(child) < MIN_WIDTH && inner.children.length > 1) this.#merge(inner, index === 0 ? 0 : index - 1);
  }

  /** Joins two neighbours when one node has room for both, or when one of them is empty. */
  #merge(parent: Inner, index: number): void {
    const left = parent.children[index] as Node;
    const right = parent.children[index + 1] as Node;
    if (width(left) + width(right) > MERGED_WIDTH && width(left) > 0 && width(right) > 0) return;
    const into = this.#ownChild(parent, index);
    if (into instanceof Leaf) {
      const from = right as Leaf;
      for (let i = 0; i < from.keys.length; i++) {
        const place = into.adopt(from, i);
        into.keys.push(from.keys[i] as string);
        into.places.push(place);
      }
    } else {
      const from = right as Inner;
      into.keys.push(parent.keys[index] as string, ...from.keys);
      into.children.push(...from.children);
    }
    parent.keys.splice(index, 1);
    parent.children.splice(index + 1, 1);
  }
}

function width(node: Node): number {
  return node instanceof Leaf ? node.keys.length : node.children.length;
}
