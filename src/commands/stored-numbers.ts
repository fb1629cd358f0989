/**
 * Numbers as Kyoto Tycoon stores them in values: integers as 8 bytes, big-endian; fixed-point numbers as two such
 * integers, the whole part and the fraction in units of 10^-15.
 */

const INTEGER_BYTES = 8;
const FIXED_BYTES = 16;
/** No sum of the reference is the least integer: it says there that there is none. */
export const LEAST_INTEGER = -(2n ** 63n);
export const GREATEST_INTEGER = 2n ** 63n - 1n;
/** Fractions are counted in these parts of one. */
const UNIT = 10n ** 15n;

function fitsInteger(value: bigint): boolean {
  return value >= LEAST_INTEGER && value <= GREATEST_INTEGER;
}

/** Whether a counter may have this value. */
export function fitsCounter(value: bigint): boolean {
  return fitsInteger(value) && value !== LEAST_INTEGER;
}

export function encodeInteger(value: bigint): Buffer {
  const bytes = Buffer.allocUnsafe(INTEGER_BYTES);
  bytes.writeBigInt64BE(value);
  return bytes;
}

/** `undefined` when the value has another length. */
export function decodeInteger(value: Buffer): bigint | undefined {
  return value.length === INTEGER_BYTES ? value.readBigInt64BE() : undefined;
}

/**
 * The fraction of a number in units, cut off. The reference multiplies in 80-bit floating point, whose 64 bits of
 * mantissa sometimes round up where exact arithmetic would not: the same bytes need the same rounding.
 */
function fractionUnits(fraction: number): bigint {
  if (fraction === 0) return 0n;
  const bits = Buffer.allocUnsafe(8);
  bits.writeDoubleBE(Math.abs(fraction));
  const raw = bits.readBigUInt64BE();
  const exponent = raw >> 52n;
  const mantissa = (raw & (2n ** 52n - 1n)) | (exponent === 0n ? 0n : 2n ** 52n);
  // fraction = mantissa / 2^scale
  const scale = 1075n - (exponent === 0n ? 1n : exponent);
  const units = roundTo64Bits(mantissa * UNIT) >> scale;
  return fraction < 0 ? -units : units;
}

/** Keeps the 64 highest bits, rounding half to even. */
function roundTo64Bits(value: bigint): bigint {
  const extra = value.toString(2).length - 64;
  if (extra <= 0) return value;
  const shift = BigInt(extra);
  const kept = value >> shift;
  const rest = value - (kept << shift);
  const half = 1n << (shift - 1n);
  const up = rest > half || (rest === half && kept % 2n === 1n);
  return (up ? kept + 1n : kept) << shift;
}

/** A stored fixed-point number. Infinities are the largest and the smallest whole part. */
export class Fixed {
  static readonly ZERO = new Fixed(0n, 0n);

  readonly #whole: bigint;
  readonly #units: bigint;

  private constructor(whole: bigint, units: bigint) {
    this.#whole = whole;
    this.#units = units;
  }

  /** `undefined` for NaN and for what 64 bits cannot hold. */
  static of(value: number): Fixed | undefined {
    if (value === Number.POSITIVE_INFINITY) return new Fixed(GREATEST_INTEGER, 0n);
    if (value === Number.NEGATIVE_INFINITY) return new Fixed(LEAST_INTEGER, 0n);
    return Fixed.ZERO.plus(value);
  }

  /** `undefined` when the value has another length, or means NaN. */
  static decode(value: Buffer): Fixed | undefined {
    if (value.length !== FIXED_BYTES) return undefined;
    const whole = value.readBigInt64BE(0);
    const units = value.readBigInt64BE(8);
    return whole === LEAST_INTEGER && units === LEAST_INTEGER ? undefined : new Fixed(whole, units);
  }

  encode(): Buffer {
    const bytes = Buffer.allocUnsafe(FIXED_BYTES);
    bytes.writeBigInt64BE(this.#whole, 0);
    bytes.writeBigInt64BE(this.#units, 8);
    return bytes;
  }

  get isInfinite(): boolean {
    return this.#whole === GREATEST_INTEGER || this.#whole === LEAST_INTEGER;
  }

  get number(): number {
    if (this.#whole === GREATEST_INTEGER) return Number.POSITIVE_INFINITY;
    if (this.#whole === LEAST_INTEGER) return Number.NEGATIVE_INFINITY;
    return Number(this.#whole) + Number(this.#units) / Number(UNIT);
  }

  /** The sum with a finite number; `undefined` when it does not fit, or for NaN. */
  plus(value: number): Fixed | undefined {
    if (!Number.isFinite(value)) return undefined;
    const truncated = Math.trunc(value);
    const units = this.#units + fractionUnits(value - truncated);
    const carry = units >= UNIT;
    const whole = this.#whole + BigInt(truncated) + (carry ? 1n : 0n);
    if (whole >= GREATEST_INTEGER || whole <= LEAST_INTEGER || !fitsInteger(units)) return undefined;
    return new Fixed(whole, carry ? units - UNIT : units);
  }
}
