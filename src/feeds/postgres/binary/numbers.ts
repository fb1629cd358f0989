/** Numbers in binary form, as texts: every digit of a numeric, the shortest of a float. Pure. */
import { TokaidoError } from '../../../base/errors.js';

/** A binary value that is not what its type should send: the text form has to be asked for. */
export class Undecodable extends TokaidoError {
  constructor(what: string) {
    super('FEED', `${what}, in binary form`);
  }
}

/** A whole number of 64 bits: exact as a number where that can be. */
export function int64(bytes: Buffer, at = 0): number | bigint {
  const high = bytes.readInt32BE(at);
  if (high >= -0x20_0000 && high < 0x20_0000) return high * 0x1_0000_0000 + bytes.readUInt32BE(at + 4);
  return bytes.readBigInt64BE(at);
}

const NUMERIC_NEGATIVE = 0x4000;
const NUMERIC_SPECIAL: Readonly<Record<number, string>> = { 49152: 'NaN', 53248: 'Infinity', 61440: '-Infinity' };
/** Decimal digits in one of a numeric's own. */
const GROUP = 4;

export function numeric(bytes: Buffer): string {
  const count = bytes.readUInt16BE(0);
  const weight = bytes.readInt16BE(2);
  const sign = bytes.readUInt16BE(4);
  const scale = bytes.readUInt16BE(6);
  const special = NUMERIC_SPECIAL[sign];
  if (special !== undefined) return special;
  const group = (index: number): string => {
    if (index < 0 || index >= count) return '0000';
    return String(bytes.readUInt16BE(8 + 2 * index)).padStart(GROUP, '0');
  };
  let whole = '';
  for (let index = 0; index <= weight; index++) whole += group(index);
  let fraction = '';
  for (let index = weight + 1; fraction.length < scale; index++) fraction += group(index);
  const text = whole.replace(/^0+/, '') || '0';
  const point = scale === 0 ? '' : `.${fraction.slice(0, scale)}`;
  return `${sign === NUMERIC_NEGATIVE ? '-' : ''}${text}${point}`;
}

/** Binary digits of a number, and its range of whole ones where a decimal can lie in the middle between two numbers. */
const [FLOAT8_BITS, FLOAT4_BITS] = [53, 24];
const MOST_MIDDLE = 1e41;
/** Bits of a 32-bit number are told by so many decimal digits at least, except of the smallest numbers. */
const [FLOAT4_DIGITS, FLOAT4_NORMAL] = [6, 2 ** -126];
/** A value ends here if this many digits more are zeros. */
const TIE_ZEROS = 20;
/** Texts from here up to there are the same in JavaScript. */
const [LEAST_PLAIN, MOST_PLAIN] = [1e-4, 1e15];

/**
 * Whether a decimal is exactly between `value` and the next number. JavaScript takes it when it would be read back as
 * `value`; Postgres does not rely on how others read it, and writes more digits.
 */
function isMiddle(decimal: string, value: number, bits: number): boolean {
  const size = Math.abs(value);
  if (size < 2 ** bits || size > MOST_MIDDLE) return false;
  const [digits = '', exponent = ''] = decimal.replace('-', '').split('e');
  const [whole = '', fraction = ''] = digits.split('.');
  const zeros = Number(exponent) - fraction.length;
  if (zeros < 0) return false;
  const off = BigInt(whole + fraction) * 10n ** BigInt(zeros) - BigInt(size);
  const length = BigInt(size).toString(2).length;
  const gap = 2n ** BigInt(length - bits);
  if (off >= 0n) return off * 2n === gap;
  // Below a power of two numbers are closer to each other.
  return -off * (size === 2 ** (length - 1) ? 4n : 2n) === gap;
}

/** As `d.ddde+x`, in the fewest digits that no other number is as near to. */
function shortest8(value: number): string {
  let text = value.toExponential();
  for (let digits = 0; isMiddle(text, value, FLOAT8_BITS) || Number(text) !== value; digits++)
    text = value.toExponential(digits);
  return text;
}

function shortest4(value: number): string {
  let text = '';
  let digits = Math.abs(value) < FLOAT4_NORMAL ? 0 : FLOAT4_DIGITS - 1;
  const isRight = (): boolean => Math.fround(Number(text)) === value && !isMiddle(text, value, FLOAT4_BITS);
  do {
    text = value.toExponential(digits++);
    // Numbers are closer to each other below a power of two: the decimal above may be right where the nearer is not.
    if (!isRight() && Math.abs(Number(text)) < Math.abs(value)) text = nextOf(text);
  } while (!isRight());
  const even = evenOf(text, value.toExponential(digits + TIE_ZEROS));
  return (Math.fround(Number(even)) === value ? even : text).replace(/\.?0*e/, 'e');
}

/** The decimal of this length that is larger by the least. */
function nextOf(text: string): string {
  const [digits = '', exponent = ''] = text.replace('.', '').split('e');
  const sign = digits.startsWith('-') ? '-' : '';
  const next = String(Number(digits.replace('-', '')) + 1);
  const power = Number(exponent) + next.length - digits.length + sign.length;
  return `${sign}${next[0]}${next.length > 1 ? '.' : ''}${next.slice(1)}e${power}`;
}

/** Where the value is exactly between two decimals of this length: the even one. JavaScript takes the larger. */
function evenOf(text: string, longer: string): string {
  const [digits = '', exponent = ''] = text.split('e');
  const last = Number(digits.at(-1));
  const rest = longer.split('e')[0]?.slice(digits.length);
  if (rest === undefined || !/^50*$/.test(rest) || last % 2 === 0) return text;
  return `${digits.slice(0, -1)}${last - 1}e${exponent}`;
}

/** As Postgres writes it. `widest`: most digits before a point. */
function written(value: number, shortest: (value: number) => string, widest: number): string {
  if (value === 0) return Object.is(value, -0) ? '-0' : '0';
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? 'Infinity' : '-Infinity';
  const [digits = '', exponent = ''] = shortest(value).split('e');
  const power = Number(exponent);
  if (power >= -4 && power < widest) return String(Number(`${digits}e${exponent}`));
  return `${digits}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`;
}

export function float8(value: number): string {
  const size = Math.abs(value);
  if (size >= LEAST_PLAIN && size < MOST_PLAIN) return String(value);
  return written(value, shortest8, 15);
}

export function float4(value: number): string {
  return written(value, shortest4, 6);
}
