/** Dates, times and intervals in binary form, as texts: ISO, in UTC, intervals as ISO 8601. Pure. */
import { int64 } from './numbers.js';

const DAY_US = 86_400_000_000;
const HOUR_US = 3_600_000_000;
const MINUTE_US = 60_000_000;
const SECOND_US = 1_000_000;
/** From 0000-03-01, where the years of the reckoning below begin, to 2000-01-01, where those of Postgres do. */
const EPOCH_DAYS = 730_425;
const ERA_DAYS = 146_097;
const [INT32_MOST, INT32_LEAST] = [0x7fff_ffff, -0x8000_0000];
const [INT64_MOST, INT64_LEAST] = [2n ** 63n - 1n, -(2n ** 63n)];

function two(value: number): string {
  return value < 10 ? `0${value}` : String(value);
}

/** A day as `2000-01-01`, and what stands behind the time. Days of the Gregorian calendar, before its time too. */
function calendar(days: number): { readonly day: string; readonly era: string } {
  const since = days + EPOCH_DAYS;
  const era = Math.floor(since / ERA_DAYS);
  const dayOfEra = since - era * ERA_DAYS;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  // Months from March on, so that the leap day is a year's last.
  const shifted = Math.floor((5 * dayOfYear + 2) / 153);
  const dayOfMonth = dayOfYear - Math.floor((153 * shifted + 2) / 5) + 1;
  const month = shifted < 10 ? shifted + 3 : shifted - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  // There is no year 0: 1 BC comes before 1.
  const shown = year > 0 ? year : 1 - year;
  return {
    day: `${String(shown).padStart(4, '0')}-${two(month)}-${two(dayOfMonth)}`,
    era: year > 0 ? '' : ' BC',
  };
}

/** `.5`, or nothing. */
function fraction(micros: number): string {
  return micros === 0 ? '' : `.${String(micros).padStart(6, '0').replace(/0+$/, '')}`;
}

function clock(micros: number): string {
  const hours = Math.floor(micros / HOUR_US);
  const minutes = Math.floor((micros % HOUR_US) / MINUTE_US);
  const seconds = Math.floor((micros % MINUTE_US) / SECOND_US);
  return `${two(hours)}:${two(minutes)}:${two(seconds)}${fraction(micros % SECOND_US)}`;
}

export function date(bytes: Buffer): string {
  const days = bytes.readInt32BE(0);
  if (days === INT32_MOST) return 'infinity';
  if (days === INT32_LEAST) return '-infinity';
  const { day, era } = calendar(days);
  return day + era;
}

export function time(bytes: Buffer): string {
  return clock(Number(int64(bytes)));
}

function stamp(bytes: Buffer, zone: string): string {
  const micros = int64(bytes);
  let days: number;
  let rest: number;
  if (typeof micros === 'number') {
    days = Math.floor(micros / DAY_US);
    rest = micros - days * DAY_US;
  } else {
    if (micros === INT64_MOST) return 'infinity';
    if (micros === INT64_LEAST) return '-infinity';
    const inDay = ((micros % BigInt(DAY_US)) + BigInt(DAY_US)) % BigInt(DAY_US);
    days = Number((micros - inDay) / BigInt(DAY_US));
    rest = Number(inDay);
  }
  const { day, era } = calendar(days);
  return `${day} ${clock(rest)}${zone}${era}`;
}

export function timestamp(bytes: Buffer): string {
  return stamp(bytes, '');
}

export function timestampTz(bytes: Buffer): string {
  return stamp(bytes, '+00');
}

/** The zone counts to the west. */
export function timeTz(bytes: Buffer): string {
  const west = bytes.readInt32BE(8);
  const size = Math.abs(west);
  const [hours, minutes, seconds] = [Math.floor(size / 3600), Math.floor(size / 60) % 60, size % 60];
  const tail = seconds !== 0 ? `:${two(minutes)}:${two(seconds)}` : minutes !== 0 ? `:${two(minutes)}` : '';
  return `${time(bytes)}${west <= 0 ? '+' : '-'}${two(hours)}${tail}`;
}

export function interval(bytes: Buffer): string {
  const micros = bytes.readBigInt64BE(0);
  const days = bytes.readInt32BE(8);
  const months = bytes.readInt32BE(12);
  if (micros === INT64_MOST && days === INT32_MOST && months === INT32_MOST) return 'infinity';
  if (micros === INT64_LEAST && days === INT32_LEAST && months === INT32_LEAST) return '-infinity';
  const part = (value: number | bigint, unit: string): string => (Number(value) === 0 ? '' : `${value}${unit}`);
  const day = part(Math.trunc(months / 12), 'Y') + part(months % 12, 'M') + part(days, 'D');
  const seconds = micros % BigInt(MINUTE_US);
  const size = Number(seconds < 0n ? -seconds : seconds);
  const second = `${seconds < 0n ? '-' : ''}${Math.floor(size / SECOND_US)}${fraction(size % SECOND_US)}S`;
  const inDay =
    part(micros / BigInt(HOUR_US), 'H') +
    part((micros % BigInt(HOUR_US)) / BigInt(MINUTE_US), 'M') +
    (size === 0 ? '' : second);
  if (day === '' && inDay === '') return 'PT0S';
  return `P${day}${inDay === '' ? '' : 'T'}${inDay}`;
}
