/**
 * Upstreams that no configuration names: nodes that announce where followers reach them, as the root has recorded in the
 * reserved database, which every node has. What a record may say, and which of them a node tries, in which order. Pure.
 *
 * A record only says where a node may be found. Whoever answers there must prove by its certificate that it is the node
 * of that name, with a role that may be followed: a wrong address costs an attempt, and nothing else.
 */
import { createHash } from 'node:crypto';
import { NODE_KEYS } from '../../store/reserved.js';
import type { LiveEntry } from '../../store/types.js';
import { compareFor, type Tiers, type UpstreamAddress } from './upstream-choice.js';

/** Longest host name or address, in characters. */
export const MAX_HOST_CHARACTERS = 255;
/** Longest name of a region, in characters. */
export const MAX_REGION_CHARACTERS = 64;
/** Largest priority; lower ones are tried first. */
export const MAX_PRIORITY = 1000;

/** Where followers reach a node. */
export interface Announced {
  readonly host: string;
  readonly port: number;
  /** Where the node stands; in every region when absent. */
  readonly region?: string | undefined;
  /** 0 to `MAX_PRIORITY`. */
  readonly priority: number;
  /** When the node said so, by its clock, ms since 1970. */
  readonly atMs: number;
}

/** With the name that its certificate carries. */
export interface AnnouncedNode extends Announced {
  readonly name: string;
}

/** Key of a node's record. */
export function announcedKey(name: string): Buffer {
  return Buffer.from(`${NODE_KEYS}${name}`);
}

export function encodeAnnounced({ host, port, region, priority, atMs }: Announced): Buffer {
  return Buffer.from(JSON.stringify({ host, port, region, priority, atMs }));
}

const isText = (value: unknown, most: number): value is string => {
  return typeof value === 'string' && value.length > 0 && value.length <= most;
};
const isWhole = (value: unknown, least: number, most: number): value is number => {
  return Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
};

/** An address or a host name, not one of SRV records: that stands for many. People read it on terminals. */
const HOST = /^(?!_)[^\s\p{C}/[\]]+$/u;
const REGION = /^\P{C}+$/u;

/** `undefined` when the text is not what a node may announce. */
export function parseAnnounced(text: string): Announced | undefined {
  let values: Partial<Record<keyof Announced, unknown>> | null;
  try {
    values = JSON.parse(text) as typeof values;
  } catch {
    return undefined;
  }
  const { host, port, region, priority, atMs } = values ?? {};
  if (!isText(host, MAX_HOST_CHARACTERS) || !HOST.test(host) || !isWhole(port, 1, 65_535)) return undefined;
  const isRegion = isText(region, MAX_REGION_CHARACTERS) && REGION.test(region);
  if (!(region === undefined || isRegion)) return undefined;
  if (!isWhole(priority, 0, MAX_PRIORITY) || !isWhole(atMs, 0, Number.MAX_SAFE_INTEGER)) return undefined;
  return { host, port, ...(region === undefined ? {} : { region }), priority, atMs };
}

/** What is recorded; a record that does not parse is passed over. */
export function announcedIn(records: Iterable<LiveEntry>): AnnouncedNode[] {
  return [...records].flatMap(({ key, record }) => {
    const announced = parseAnnounced(record.value.toString());
    return announced === undefined ? [] : [{ ...announced, name: key.toString().slice(NODE_KEYS.length) }];
  });
}

/** Who looks for upstreams. */
export interface Seeker {
  readonly name: string;
  readonly region: string | undefined;
  /** These come first in any case, and are not discovered once more. */
  readonly configured: readonly UpstreamAddress[];
  /** Names of the nodes below the seeker: to follow one of them would be a loop. */
  readonly below: ReadonlySet<string>;
}

/** Different for each pair, the same at each look: followers of a dead relay spread over those that are left. */
function spread(seeker: string, node: string): string {
  return createHash('sha256').update(`${seeker} ${node}`).digest('hex');
}

/** Whom a node tries when no configured upstream is left: of its own region first, then by priority, then spread. */
export function discoveredFor(seeker: Seeker, nodes: readonly AnnouncedNode[]): Tiers {
  const { name: own, region, configured, below } = seeker;
  const isConfigured = ({ name, host, port }: UpstreamAddress): boolean => {
    return configured.some((known) => known.host === host && known.port === port && (known.name ?? name) === name);
  };
  const candidates = nodes
    .filter(({ name }) => name !== own && !below.has(name))
    .map(({ atMs: _, ...node }): UpstreamAddress => ({ ...node, isDiscovered: true }))
    .filter((upstream) => !isConfigured(upstream))
    .map((upstream) => ({ upstream, order: spread(own, upstream.name as string) }))
    .sort((a, b) => compareFor(region, a.upstream, b.upstream) || (a.order < b.order ? -1 : 1));
  const tiers: UpstreamAddress[][] = [];
  for (const { upstream } of candidates) {
    const last = tiers.at(-1);
    if (last?.[0] !== undefined && compareFor(region, last[0], upstream) === 0) last.push(upstream);
    else tiers.push([upstream]);
  }
  return tiers;
}
