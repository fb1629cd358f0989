/** Kyoto Tycoon's expiration times: seconds on the wire, ms since 1970 inside. */
import { NEVER_EXPIRES } from '../base/types.js';

/** Kyoto Tycoon keeps 40 bits of seconds; all of them set means "never". */
const NEVER_SECONDS = 2 ** 40 - 1;
const LONGEST_MS = 2 ** 48 - 1;

/**
 * From seconds as clients send them: positive is from now on, negative is absolute, 2^40 - 1 and beyond is never. Exact
 * to the millisecond: whole seconds, as the reference counts them, would let a record of one second live for less.
 */
export function xtFromSeconds(seconds: number, nowMs: number): number {
  if (seconds >= NEVER_SECONDS) return NEVER_EXPIRES;
  const absoluteMs = seconds < 0 ? -seconds * 1000 : Math.floor(nowMs) + seconds * 1000;
  // 0 would mean never: the earliest time that is still a time is 1 ms.
  return absoluteMs > LONGEST_MS ? NEVER_EXPIRES : Math.max(1, absoluteMs);
}

/** The seconds that clients receive. */
export function secondsFromXt(xtMs: number): number {
  return xtMs === NEVER_EXPIRES ? NEVER_SECONDS : Math.min(Math.floor(xtMs / 1000), NEVER_SECONDS);
}

const NUMBER = /^(?:0x([0-9a-f]{1,12})|-?(\d{1,15})[ \t]*([smhd]?))$/i;
const UNIT_SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };
const NUMERIC_DATE =
  /^(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T ](\d{1,2})(?::(\d{1,2})(?::(\d{1,2}))?)?(?:\.\d*)?(?:Z|([+-])(\d\d):(\d\d))?)?$/i;
const NAMED_DATE =
  /^(?:[a-z]{3,9}, *)?(\d{1,2})[ -]([a-z]{3})[ -](\d{4})(?: +(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?)?(?: *(?:GMT|UTC|Z|([+-])(\d\d):?(\d\d)))?$/i;
const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];

/**
 * From a header: seconds since 1970 (decimal, hexadecimal after `0x`, or with a unit: `s`, `m`, `h`, `d`), or a date
 * (RFC 1123, W3C, `YYYY/MM/DD hh:mm:ss`), UTC unless it says otherwise. What does not parse never expires, as in the
 * reference.
 */
export function xtFromDate(header: string): number {
  const text = header.trim();
  const [number, hexadecimal, decimal, unit] = NUMBER.exec(text) ?? [];
  if (number !== undefined) {
    const amount = hexadecimal === undefined ? Number(decimal) : Number.parseInt(hexadecimal, 16);
    return absolute(amount * (UNIT_SECONDS[unit?.toLowerCase() || 's'] as number));
  }
  const [date, year, month, ...rest] = NUMERIC_DATE.exec(text) ?? [];
  if (date !== undefined) return absolute(secondsOf(Number(year), Number(month) - 1, rest));
  const [named, day, name, namedYear, ...time] = NAMED_DATE.exec(text) ?? [];
  if (named === undefined) return NEVER_EXPIRES;
  const index = MONTHS.indexOf((name as string).toLowerCase());
  return index < 0 ? NEVER_EXPIRES : absolute(secondsOf(Number(namedYear), index, [day, ...time]));
}

/** From day, hour, minute, second, sign and amount of the offset; absent parts are 0. */
function secondsOf(year: number, month: number, parts: readonly (string | undefined)[]): number {
  const [day, hour, minute, second, sign, offsetHours, offsetMinutes] = parts;
  const local = Date.UTC(year, month, Number(day), Number(hour ?? 0), Number(minute ?? 0), Number(second ?? 0)) / 1000;
  const offset = Number(offsetHours ?? 0) * 3600 + Number(offsetMinutes ?? 0) * 60;
  return sign === '-' ? local + offset : local - offset;
}

/** Times up to 1970 and those too far away to keep never expire. */
function absolute(seconds: number): number {
  return seconds > 0 && seconds < NEVER_SECONDS && seconds * 1000 <= LONGEST_MS ? seconds * 1000 : NEVER_EXPIRES;
}

export function dateFromXt(xtMs: number): string {
  return new Date(Math.floor(xtMs / 1000) * 1000).toUTCString();
}
