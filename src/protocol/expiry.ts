/** Kyoto Tycoon's expiration times: seconds on the wire, ms since 1970 inside. */
import { NEVER_EXPIRES } from '../base/types.js';

/** Kyoto Tycoon keeps 40 bits of seconds; all of them set means "never". */
const NEVER_SECONDS = 2 ** 40 - 1;
const LONGEST_MS = 2 ** 48 - 1;

/** From seconds as clients send them: positive is from now on, negative is absolute, 2^40 - 1 and beyond is never. */
export function xtFromSeconds(seconds: number, nowMs: number): number {
  if (seconds >= NEVER_SECONDS) return NEVER_EXPIRES;
  const absoluteMs = seconds < 0 ? -seconds * 1000 : Math.floor(nowMs / 1000) * 1000 + seconds * 1000;
  // 0 would mean never: the earliest time that is still a time is 1 ms.
  return absoluteMs > LONGEST_MS ? NEVER_EXPIRES : Math.max(1, absoluteMs);
}

/** The seconds that clients receive. */
export function secondsFromXt(xtMs: number): number {
  return xtMs === NEVER_EXPIRES ? NEVER_SECONDS : Math.min(Math.floor(xtMs / 1000), NEVER_SECONDS);
}

/** From a header: seconds since 1970, or a date (RFC 1123, W3C). What does not parse never expires, as in the reference. */
export function xtFromDate(text: string): number {
  if (/^-?\d{1,15}$/.test(text)) return xtFromSeconds(-Math.abs(Number(text)), 0);
  const ms = Date.parse(text);
  return Number.isNaN(ms) || ms <= 0 ? NEVER_EXPIRES : Math.min(ms, LONGEST_MS);
}

export function dateFromXt(xtMs: number): string {
  return new Date(Math.floor(xtMs / 1000) * 1000).toUTCString();
}
