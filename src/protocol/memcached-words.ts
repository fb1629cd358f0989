/** Words and numbers of a line of memcached's text protocol. Pure. */
const SPACE = 0x20;
const LARGEST_UNIQUE = 2n ** 64n - 1n;

/** Longest key, bytes: memcached's own limit. */
export const MAX_KEY_BYTES = 250;

/** Words of a line, as views. */
export function wordsOf(line: Buffer): Buffer[] {
  const words: Buffer[] = [];
  let start = 0;
  for (let at = 0; at <= line.length; at++) {
    if (at < line.length && line[at] !== SPACE) continue;
    if (at > start) words.push(line.subarray(start, at));
    start = at + 1;
  }
  return words;
}

/** A word as text, byte for character; empty when there is none. */
export function textOf(word: Buffer | undefined): string {
  return word?.toString('latin1') ?? '';
}

/** A whole number that JavaScript holds exactly, or `undefined`. */
export function integerOf(word: string): number | undefined {
  return /^-?\d{1,15}$/.test(word) ? Number(word) : undefined;
}

/** An unsigned number of 64 bit, or `undefined`. */
export function uniqueOf(word: string): bigint | undefined {
  if (!/^\d{1,20}$/.test(word)) return undefined;
  const value = BigInt(word);
  return value > LARGEST_UNIQUE ? undefined : value;
}

/** Flags of a client: 32 bit, unsigned. */
export function flagsOf(word: string): number | undefined {
  const value = lengthOf(word);
  return value === undefined || value > 0xffff_ffff ? undefined : value;
}

/** A length of data, or `undefined`. */
export function lengthOf(word: string): number | undefined {
  const value = integerOf(word);
  return value === undefined || value < 0 ? undefined : value;
}

export function isTooLong(key: Buffer): boolean {
  return key.length > MAX_KEY_BYTES;
}
