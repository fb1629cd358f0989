/** Sets of keys that policies speak of: all keys, or those that begin with one of some prefixes. */
import { afterPrefix, startsWith } from './bytes.js';

/** Prefixes are in order, and none begins with another: equal sets are equal lists. No prefix at all is no key. */
export type Keys = 'all' | readonly Buffer[];

export const NO_KEYS: Keys = [];

/** Keys that begin with one of these; an empty prefix stands for all keys. */
export function keysWith(prefixes: readonly Buffer[]): Keys {
  const least: Buffer[] = [];
  // What begins with the one before it in this order is covered by it.
  for (const prefix of [...prefixes].sort((a, b) => a.compare(b))) {
    if (prefix.length === 0) return 'all';
    const covering = least.at(-1);
    if (covering === undefined || !startsWith(prefix, covering)) least.push(prefix);
  }
  return least;
}

export function holds(keys: Keys, key: Buffer): boolean {
  if (keys === 'all') return true;
  // Of prefixes in order, none of which begins with another, only the last one that is not above the key can be its.
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((keys[middle] as Buffer).compare(key) <= 0) low = middle + 1;
    else high = middle;
  }
  const prefix = keys[low - 1];
  return prefix !== undefined && startsWith(key, prefix);
}

export function isNone(keys: Keys): boolean {
  return keys.length === 0;
}

/** What is in either. */
export function union(a: Keys, b: Keys): Keys {
  return a === 'all' || b === 'all' ? 'all' : keysWith([...a, ...b]);
}

/** What is in both. */
export function intersection(a: Keys, b: Keys): Keys {
  if (a === 'all') return b;
  if (b === 'all') return a;
  return keysWith([...a.filter((prefix) => holds(b, prefix)), ...b.filter((prefix) => holds(a, prefix))]);
}

/** The keys of the set that begin with `prefix`. */
export function within(keys: Keys, prefix: Buffer): Keys {
  return intersection(keys, keysWith([prefix]));
}

export function isSame(a: Keys, b: Keys): boolean {
  if (a === 'all' || b === 'all') return a === b;
  return a.length === b.length && a.every((prefix, index) => prefix.equals(b[index] as Buffer));
}

/** The ranges that the keys lie in, in order. */
export function rangesOf(keys: Keys): readonly { readonly start?: Buffer; readonly end?: Buffer }[] {
  if (keys === 'all') return [{}];
  return keys.map((prefix) => {
    const end = afterPrefix(prefix);
    return end === undefined ? { start: prefix } : { start: prefix, end };
  });
}
