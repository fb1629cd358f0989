/**
 * Which keys of a cache were used least recently, exactly: a doubly linked list through slots, and the slot of each key.
 * Touching a key moves numbers only. The keys are spread over several maps, because one has a size limit and stops the
 * world longer the larger it is when it is rehashed.
 */

const SHARDS = 64;
const FIRST_SLOTS = 1024;
/** Slot 0 is the list's own: the one after it was used last, the one before it first. */
const LIST = 0;

export class Recency {
  readonly #slots: Map<string, number>[] = Array.from({ length: SHARDS }, () => new Map());
  #keys: (string | undefined)[] = [undefined];
  #older = new Uint32Array(FIRST_SLOTS);
  #newer = new Uint32Array(FIRST_SLOTS);
  #free: number[] = [];

  #shard(key: string): Map<string, number> {
    const { length } = key;
    // The last bytes of keys differ most.
    const hash = length === 0 ? 0 : key.charCodeAt(length - 1) + 31 * key.charCodeAt(length >>> 1);
    return this.#slots[hash % SHARDS] as Map<string, number>;
  }

  /** A key was used; it becomes known when it was not. */
  touch(key: string): void {
    const shard = this.#shard(key);
    let slot = shard.get(key);
    if (slot === undefined) {
      slot = this.#free.pop() ?? this.#keys.length;
      if (slot >= this.#older.length) this.#grow();
      this.#keys[slot] = key;
      shard.set(key, slot);
    } else {
      this.#unlink(slot);
    }
    const head = this.#older[LIST] as number;
    this.#older[slot] = head;
    this.#newer[head] = slot;
    this.#newer[slot] = LIST;
    this.#older[LIST] = slot;
  }

  forget(key: string): void {
    const shard = this.#shard(key);
    const slot = shard.get(key);
    if (slot === undefined) return;
    this.#unlink(slot);
    shard.delete(key);
    this.#keys[slot] = undefined;
    this.#free.push(slot);
  }

  clear(): void {
    for (const shard of this.#slots) shard.clear();
    this.#keys = [undefined];
    this.#free = [];
    this.#older = new Uint32Array(FIRST_SLOTS);
    this.#newer = new Uint32Array(FIRST_SLOTS);
  }

  /** Keys from the least recently used on. Not while keys are touched. */
  *oldest(): Generator<string> {
    for (let slot = this.#newer[LIST] as number; slot !== LIST; slot = this.#newer[slot] as number) {
      yield this.#keys[slot] as string;
    }
  }

  #unlink(slot: number): void {
    const older = this.#older[slot] as number;
    const newer = this.#newer[slot] as number;
    this.#newer[older] = newer;
    this.#older[newer] = older;
  }

  #grow(): void {
    const longer = (slots: Uint32Array<ArrayBuffer>): Uint32Array<ArrayBuffer> => {
      const grown = new Uint32Array(slots.length * 2);
      grown.set(slots);
      return grown;
    };
    this.#older = longer(this.#older);
    this.#newer = longer(this.#newer);
  }
}
