/** Values that many settings share: sizes, durations, counts, addresses. */
import { isIP } from 'node:net';
import { z } from 'zod';

/** In bytes. */
export const SIZE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};
/** In milliseconds. */
export const TIME_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

interface Bounds {
  readonly least: number;
  readonly most: number;
}

/** A number, or a text with one of the units. */
export function quantity(units: Readonly<Record<string, number>>, example: string, { least, most }: Bounds) {
  const names = Object.keys(units).join('|');
  const form = new RegExp(`^(\\d+(?:\\.\\d+)?) ?(${names})$`);
  return z.union([z.number(), z.string()]).transform((value, context) => {
    const [, amount, unit] = typeof value === 'number' ? ['', value, undefined] : (form.exec(value) ?? []);
    const total = Math.round(Number(amount) * (unit === undefined ? 1 : (units[unit] as number)));
    if (amount === undefined) {
      const known = Object.keys(units).join(', ');
      context.addIssue({
        code: 'custom',
        message: `must be a number or a text such as ${example} (units ${known}), not ${JSON.stringify(value)}`,
      });
      return z.NEVER;
    }
    if (total < least || total > most) {
      context.addIssue({ code: 'custom', message: `must be from ${least} to ${most}, not ${JSON.stringify(value)}` });
      return z.NEVER;
    }
    return total;
  });
}

/** Beyond this a timer of Node fires at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** Bytes; what a number still counts exactly. */
export const LARGEST_SIZE = 2 ** 50;

/** Bytes: a number, or a text with a unit (`64MiB`). */
export const size = (fallback: string) =>
  quantity(SIZE_UNITS, '64MiB', { least: 1, most: LARGEST_SIZE }).prefault(fallback);
/** Milliseconds: a number, or a text with a unit (`30s`). */
export const duration = (fallback: string, { least = 1, most = LONGEST_TIMER_MS }: Partial<Bounds> = {}) =>
  quantity(TIME_UNITS, '30s', { least, most }).prefault(fallback);
/** A switch that is on by default. */
export const on = z.boolean().default(true);
/** A whole number from 1 on. */
export const count = (fallback: number) => z.number().int().positive().default(fallback);

function isPort(port: number): boolean {
  return port >= 1 && port <= 65_535;
}

const ADDRESS = /^(\[[0-9a-fA-F:]+\]|[^:[\]]+):\d{1,5}$/;
const SERVICE = /^_[A-Za-z0-9-]+\._tcp(\.[A-Za-z0-9-]+)+$/;

function parted(text: string): { readonly host: string; readonly port: number } {
  const at = text.lastIndexOf(':');
  return { host: text.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(text.slice(at + 1)) };
}

/** HOST:PORT; an IPv6 address in brackets. */
export const address = z
  .string()
  .regex(ADDRESS, 'must be HOST:PORT')
  .refine((text) => isPort(parted(text).port), 'must have a port from 1 to 65535')
  .transform(parted);

/** As `address`, or a name whose SRV records say hosts and ports: `_tokaido._tcp.example.com`; its port is 0. */
export const addressOrService = z
  .string()
  .refine((text) => ADDRESS.test(text) || SERVICE.test(text), 'must be HOST:PORT, or a name as _tokaido._tcp.DOMAIN')
  .refine((text) => !ADDRESS.test(text) || isPort(parted(text).port), 'must have a port from 1 to 65535')
  .transform((text) => (SERVICE.test(text) ? { host: text, port: 0 } : parted(text)));

/** A DNS server: ADDRESS or ADDRESS:PORT, an IPv6 address with a port in brackets. */
export const dnsServer = z.string().refine((text) => {
  if (isIP(text) !== 0) return true;
  return ADDRESS.test(text) && isIP(parted(text).host) !== 0 && isPort(parted(text).port);
}, 'must be the address of a DNS server, with a port if it is not 53: 10.0.0.53, 127.0.0.1:8600, "[fd00::53]:53"');
