/**
 * What a seed decides before anything runs: the shape of the cluster, its settings, and which faults it will suffer. Not
 * every run has every fault: a disturbance that always comes hides what only shows without it.
 */
import { configFrom } from '../node/config/load.js';
import type { NodeConfig } from '../node/config/schema.js';
import type { Dice } from './dice.js';
import type { Stage } from './scenarios.js';
import { type Part, withParts } from './scopes.js';

export const FAULTS = [
  'kill',
  'power',
  'power-all',
  'lose-tail',
  'stop',
  'wipe',
  'break',
  'break-copy',
  'cut',
  'cut-one-way',
  'slow-network',
  'slow-disk',
  'full-disk',
  'clock',
] as const;
export type Fault = (typeof FAULTS)[number];

export interface Plan {
  /** By name; the roots first. */
  readonly nodes: readonly NodeConfig[];
  /** What nodes have that do not have everything, by name. */
  readonly parts?: ReadonlyMap<string, readonly Part[]>;
  readonly faults: readonly Fault[];
  /** Average time between two faults, ms. */
  readonly faultPauseMs: number;
  /** How long faults go on, ms. */
  readonly stormMs: number;
  readonly clients: number;
  readonly clientPauseMs: number;
  readonly valueBytes: number;
  /** Happens in place of faults. */
  readonly script?: (stage: Stage) => void;
}

/** A database in memory. */
const MEMORY = ':';

/** Settings that bring a small cluster to its limits within seconds. */
export function settings(dice: Dice): NodeConfig {
  return configFrom({
    role: 'root',
    sid: 1,
    data: '/data',
    databases: ['default', 'other', ...(dice.chance(0.3) ? [MEMORY] : [])],
    replication: {
      scopes: 'all',
      heartbeatMs: 250,
      proofMs: 400,
      silenceMs: 1500,
      reconnectMinMs: 50,
      reconnectMaxMs: 1000,
      recoveryWaitMs: dice.pick([300, 3000]),
      clockLimitMs: 60_000,
      followerQueueBytes: dice.pick([1000, 64 * 1024]),
      ringBytes: dice.pick([200, 4000, 1024 * 1024]),
      unappliedBytes: dice.pick([500, 1024 * 1024]),
      snapshotCompression: dice.chance(0.5),
      snapshotResumeMs: dice.pick([0, 1000, 60_000]),
      snapshotInsteadFactor: 1,
      snapshotInsteadBytes: dice.pick([500, 1024 * 1024]),
    },
    store: {
      expiryIntervalMs: 300,
      commitIntervalMs: dice.pick([0, 0, 5]),
      commitChanges: dice.pick([3, 2000]),
    },
    log: { retainBytes: dice.pick([600, 4000, 1024 * 1024]), retainAgeMs: dice.pick([2000, 3_600_000]) },
  });
}

export function upstream(name: string): NodeConfig['upstreams'][number] {
  return { host: name, port: 1979, name };
}

/**
 * A root; two relays behind it that may turn to each other; sometimes one more behind these; and edges that know the
 * relays, and perhaps the root.
 */
function cluster(dice: Dice): NodeConfig[] {
  const root = { ...settings(dice), name: 'root' };
  const follower = { ...root, sid: undefined, durability: 'committed' as const };
  const lower = dice.chance(0.3) ? ['relay-3'] : [];
  const relays = ['relay-1', 'relay-2', ...lower].map((name, index) => {
    const others = ['relay-1', 'relay-2', ...lower].filter((other) => other !== name);
    const known = others.filter((other) => index === 2 || (other !== 'relay-3' && dice.chance(0.3)));
    const upstreams = [...(index < 2 || dice.chance(0.3) ? ['root'] : []), ...known].map(upstream);
    return { ...follower, name, role: 'relay' as const, upstreams };
  });
  const edges = Array.from({ length: dice.between(1, 3) }, (_, index) => {
    const order = dice.chance(0.5) ? ['relay-1', 'relay-2'] : ['relay-2', 'relay-1'];
    const upstreams = [...lower, ...order, ...(dice.chance(0.3) ? ['root'] : [])].map(upstream);
    const store = { ...root.store, flush: dice.chance(0.2) ? ('at-stop' as const) : ('commits' as const) };
    const listen = { ...root.listen, replication: false as const };
    return { ...follower, name: `edge-${index + 1}`, role: 'edge' as const, upstreams, store, listen };
  });
  return [root, ...relays, ...edges];
}

/**
 * The same cluster with more roots, which all take writes and exchange them. Relays and edges know some of them. Their
 * logs last as long as the run, those of the roots only where they are to come `apart`: a root remembers what was removed
 * for the others, beyond its log; a follower does not.
 */
function withRoots([first, ...followers]: readonly NodeConfig[], dice: Dice, apart: boolean): NodeConfig[] {
  const names = ['root', 'root-2', ...(dice.chance(0.3) ? ['root-3'] : [])];
  const { removalBytes } = (first as NodeConfig).log;
  const log = { removalBytes, retainBytes: 1024 * 1024, retainAgeMs: 3_600_000 };
  const short = { removalBytes, retainBytes: dice.pick([300, 1000, 4000]), retainAgeMs: dice.pick([300, 3_600_000]) };
  const roots = names.map((name, index): NodeConfig => {
    const peers = names.filter((other) => other !== name).map(upstream);
    return { ...(first as NodeConfig), name, sid: index + 1, peers, log: apart ? short : log };
  });
  const others = followers.map((config): NodeConfig => {
    const upstreams = config.upstreams.flatMap((known) => {
      if (known.host !== 'root') return [known];
      const order = dice.chance(0.5) ? names : [...names].reverse();
      return order.filter((_, index) => index === 0 || dice.chance(0.5)).map(upstream);
    });
    return { ...config, upstreams, log };
  });
  return [...roots, ...others];
}

/** The same cluster whose relays announce themselves, and whose edges are told of one upstream only. */
export function withDiscovery(nodes: readonly NodeConfig[]): NodeConfig[] {
  return nodes.map((config): NodeConfig => {
    const { role, replication, upstreams } = config;
    if (role === 'root') return config;
    const announce = { address: { host: config.name as string, port: 1979 }, priority: 0 };
    const isEdge = role === 'edge';
    return {
      ...config,
      upstreams: isEdge ? upstreams.slice(0, 1) : upstreams,
      replication: { ...replication, discover: true, ...(isEdge ? {} : { announce }) },
    };
  });
}

export function planFrom(dice: Dice): Plan {
  const plan = rootedPlan(dice);
  return dice.chance(0.3) ? { ...plan, ...withParts(plan.nodes, dice.fork()) } : plan;
}

function rootedPlan(dice: Dice): Plan {
  const chosen = FAULTS.filter(() => dice.chance(0.4));
  const plan = withMoreRoots(onePlan(dice, chosen), dice);
  return dice.chance(0.2) ? { ...plan, nodes: withDiscovery(plan.nodes) } : plan;
}

function withMoreRoots(plan: Plan, dice: Dice): Plan {
  if (!dice.chance(0.3)) return plan;
  // What roots lose that others kept brings them to each other's snapshots.
  const faults = dice.chance(0.5) ? [...new Set([...plan.faults, 'lose-tail' as const])] : plan.faults;
  const apart = dice.chance(0.4);
  return { ...plan, faults: apart ? forApart(faults) : faults, nodes: withRoots(plan.nodes, dice.fork(), apart) };
}

/**
 * Roots that neither log brings together are joined record by record, unless one of them began another epoch meanwhile:
 * these lose no power. The network comes between them in any case.
 */
function forApart(faults: readonly Fault[]): Fault[] {
  const others = faults.filter((fault) => !['power', 'power-all', 'lose-tail'].includes(fault));
  return [...new Set([...others, 'cut', 'cut-one-way'] as const)];
}

function onePlan(dice: Dice, chosen: readonly Fault[]): Plan {
  return {
    nodes: cluster(dice.fork()),
    faults: chosen.length === 0 ? [dice.pick(FAULTS)] : chosen,
    faultPauseMs: dice.pick([50, 150, 400]),
    stormMs: dice.between(500, 3000),
    clients: dice.between(1, 3),
    clientPauseMs: dice.pick([10, 40, 150]),
    valueBytes: dice.pick([20, 20, 2000]),
  };
}
