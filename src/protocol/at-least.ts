/**
 * "Not older than": how a reader names the position of a feed that its answer must include, and how long it waits for
 * it. In a header or in the query of any HTTP request: `X-Tokaido-At-Least: 0/16B3748` and `X-Tokaido-Wait: 2s`, or
 * `?at-least=0/16B3748&wait=2s`. The position is what `pg_current_wal_lsn()` says behind the commit; that of another feed
 * stands behind its name (`lines:123456`). Pure.
 */
import { TokaidoError } from '../base/errors.js';
import type { HttpRequest } from './http.js';
import { decodePercent } from './percent.js';

/** Feeds that have positions a reader can know. */
export const POSITIONED_FEEDS = ['postgres', 'lines'] as const;
export type PositionedFeed = (typeof POSITIONED_FEEDS)[number];

export interface AtLeast {
  readonly feed: PositionedFeed;
  readonly position: bigint;
  readonly waitMs: number;
}

/** How long a reader waits that names no time, ms; and at most. */
export const DEFAULT_WAIT_MS = 1000;
export const MAX_WAIT_MS = 60_000;

const POSITION = /^(?:([a-z]{1,32}):)?(?:([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})|(\d{1,19}))$/;
const WAIT = /^(\d{1,8}(?:\.\d{1,3})?)(ms|s)?$/;

/** Errors: `MALFORMED`. */
export function parseFeedPosition(text: string): Pick<AtLeast, 'feed' | 'position'> {
  const [, name = 'postgres', high, low, decimal] = POSITION.exec(text) ?? [];
  const feed = POSITIONED_FEEDS.find((known) => known === name);
  const isLsn = high !== undefined && low !== undefined;
  if (feed === undefined || (feed === 'postgres' ? !isLsn : decimal === undefined)) {
    throw new TokaidoError('MALFORMED', `${JSON.stringify(text)} is not the position of a feed`, {
      hint: 'give an LSN as Postgres writes it (0/16B3748), or FEED:NUMBER',
    });
  }
  if (isLsn) return { feed, position: (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`) };
  return { feed, position: BigInt(decimal as string) };
}

/** A position as its source writes it. */
export function formatFeedPosition(feed: string, position: bigint): string {
  if (feed !== 'postgres') return String(position);
  return `${(position >> 32n).toString(16).toUpperCase()}/${(position & 0xffff_ffffn).toString(16).toUpperCase()}`;
}

/** `250`, `250ms` or `2s`; more than the most is the most. Errors: `MALFORMED`. */
export function parseWait(text: string): number {
  const [, amount, unit] = WAIT.exec(text) ?? [];
  if (amount === undefined) {
    throw new TokaidoError('MALFORMED', `${JSON.stringify(text)} is not a time to wait`, {
      hint: 'give milliseconds (250, 250ms) or seconds (2s)',
    });
  }
  return Math.min(MAX_WAIT_MS, Number(amount) * (unit === 's' ? 1000 : 1));
}

function inQuery(target: string, name: string): string | undefined {
  const query = target.indexOf('?');
  if (query < 0) return undefined;
  for (const pair of target.slice(query + 1).split('&')) {
    if (pair.startsWith(`${name}=`)) return decodePercent(pair.slice(name.length + 1)).toString('latin1');
  }
  return undefined;
}

/** What a request asks for; `undefined` when it takes what there is. Errors: `MALFORMED`. */
export function atLeastOf({ headers, target }: Pick<HttpRequest, 'headers' | 'target'>): AtLeast | undefined {
  const position = headers.get('x-tokaido-at-least') ?? inQuery(target, 'at-least');
  if (position === undefined) return undefined;
  const wait = headers.get('x-tokaido-wait') ?? inQuery(target, 'wait');
  return { ...parseFeedPosition(position), waitMs: wait === undefined ? DEFAULT_WAIT_MS : parseWait(wait) };
}
