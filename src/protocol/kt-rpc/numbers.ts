/** Numbers as Kyoto Tycoon's clients write and read them: lenient in, fixed form out. */

const INTEGER = /^[\0-\x20]*([+-]?)(\d*)/;
const DECIMAL = /^[\0-\x20]*([+-]?)(?:(inf)|(nan)|(\d*)(\.\d*)?(?:e([+-]?\d+))?)/i;

/** The integer at the beginning of a text, 0 when there is none, kept to 64 bits: what the reference reads. */
export function readInteger(text: string): bigint {
  const [, sign, digits = ''] = INTEGER.exec(text) ?? [];
  const magnitude = digits === '' ? 0n : BigInt.asIntN(64, BigInt(digits.slice(0, 40)));
  return sign === '-' ? BigInt.asIntN(64, -magnitude) : magnitude;
}

/** Likewise as a number: for limits, expiration times and counts, where precision beyond 2^53 means nothing. */
export function readCount(text: string): number {
  return Number(readInteger(text));
}

/** The decimal number at the beginning of a text (`inf` and `nan` included), 0 when there is none. */
export function readDecimal(text: string): number {
  const [, sign, infinite, nan, whole = '', fraction = '', exponent = ''] = DECIMAL.exec(text) ?? [];
  if (nan !== undefined) return Number.NaN;
  const magnitude =
    infinite === undefined ? Number(`0${whole}${fraction || '.'}0e${exponent || 0}`) : Number.POSITIVE_INFINITY;
  return sign === '-' ? -magnitude : magnitude;
}

/** Six decimals, `inf` and `-inf`: the form that C's `%f` gives. */
export function writeDecimal(value: number): string {
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  // toFixed turns to exponents at 1e21, where every number is whole.
  if (Math.abs(value) >= 1e21) return `${BigInt(value)}.000000`;
  const text = value.toFixed(6);
  const last = Number(text.at(-1));
  // Halfway between two (odd multiples of 1/128 only) C takes the even one, toFixed the larger.
  const isHalfway = Number.isInteger(value * 128) && (value * 128) % 2 !== 0;
  return isHalfway && last % 2 === 1 ? `${text.slice(0, -1)}${last - 1}` : text;
}
