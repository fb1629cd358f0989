/**
 * Nodes that have a part: which node of a cluster sees what, as the model says it, and as the real nodes are told. The
 * model decides by itself what lies in a part; it does not ask the code that it checks.
 */
import type { NodeConfig } from '../node/config/schema.js';
import type { Dice } from './dice.js';

/** Databases by name, or `*` for all; keys that begin with one of the prefixes, or all without any. */
export interface Part {
  readonly databases: readonly string[];
  readonly prefixes: readonly string[];
}

/** What a node has; `undefined` for everything. */
export type Parts = readonly Part[] | undefined;

const EVERYTHING: readonly Part[] = [{ databases: ['*'], prefixes: [] }];

/** Some parts, each with one inside it. Clients write `key-N` and tokens, and clear `key` and `key-1`. */
const NESTED: readonly (readonly [readonly Part[], readonly Part[]])[] = [
  [[{ databases: ['*'], prefixes: ['key-1', 'key-2'] }], [{ databases: ['*'], prefixes: ['key-1'] }]],
  [
    [
      { databases: ['default'], prefixes: ['key-1', 'key-3', 'token'] },
      { databases: ['other'], prefixes: [] },
    ],
    [
      { databases: ['default'], prefixes: ['key-3'] },
      { databases: ['other'], prefixes: ['key-1', 'key-4'] },
    ],
  ],
  [[{ databases: ['default'], prefixes: [] }], [{ databases: ['default'], prefixes: ['key-7', 'token'] }]],
  [[{ databases: ['other', ':'], prefixes: [] }], [{ databases: ['other'], prefixes: [] }]],
];

/** Whether a node with these parts may have this key. Of what the cluster keeps for itself, all may know who is where. */
export function shows(parts: Parts, database: string, key: string): boolean {
  if (parts === undefined) return true;
  if (database === '.tokaido') return key.startsWith('nodes/');
  return parts.some(({ databases, prefixes }) => {
    if (!databases.includes('*') && !databases.includes(database)) return false;
    return prefixes.length === 0 || prefixes.some((prefix) => key.startsWith(prefix));
  });
}

/** A cluster in which some have a part, and who has which. */
export interface ScopedCluster {
  readonly nodes: readonly NodeConfig[];
  readonly parts: ReadonlyMap<string, readonly Part[]>;
}

/**
 * Relays and edges of a cluster that get a part each, never more than any upstream they know has: what they hold is then
 * the same whomever they follow. Two relays that may turn to each other have the same.
 */
export function withParts(nodes: readonly NodeConfig[], dice: Dice): ScopedCluster {
  const [outer, inner] = dice.pick(NESTED);
  const levels: readonly Parts[] = [undefined, outer, inner];
  const level = new Map<string, number>();
  const upper = dice.chance(0.3) ? 1 : 0;
  const followers = nodes.filter(({ role }) => role !== 'root');
  const last = followers.at(-1)?.name;
  for (const { name = '', role, upstreams } of followers) {
    const least = Math.max(upper, ...upstreams.map(({ host }) => level.get(host) ?? 0));
    const isUpper = role === 'relay' && upstreams.some(({ host }) => host.startsWith('root')) && name !== 'relay-3';
    if (isUpper) level.set(name, upper);
    else level.set(name, dice.between(name === last ? Math.max(1, least) : least, levels.length - 1));
  }
  const parts = new Map<string, readonly Part[]>();
  for (const [name, which] of level) {
    const given = levels[which];
    if (given !== undefined) parts.set(name, given);
  }
  const scopes = followers.flatMap(({ name = '' }) => {
    return (parts.get(name) ?? EVERYTHING).map(({ databases, prefixes }) => {
      return { names: [name], roles: [], databases: [...databases], prefixes: [...prefixes] };
    });
  });
  const told = nodes.map((config) => ({ ...config, replication: { ...config.replication, scopes } }));
  return { nodes: told, parts };
}
