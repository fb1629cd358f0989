/**
 * Scenarios: clusters to which one certain thing happens, where seeds would seldom come to it. Each has its own moment of
 * truth, besides the invariants that hold in every run; the seed still decides all that the scenario leaves open.
 */
import { NEVER_EXPIRES } from '../base/types.js';
import type { NodeConfig } from '../node/config/schema.js';
import type { Dice } from './dice.js';
import { Violation } from './history.js';
import type { Network } from './network.js';
import type { SimulatedNode } from './node.js';
import { type Plan, settings, upstream, withDiscovery } from './plan.js';

/** What a script plays on. */
export interface Stage {
  readonly network: Network;
  readonly dice: Dice;
  node(name: string): SimulatedNode;
  /** Calls `run` so long after the start, ms. What it throws ends the run. */
  at(ms: number, run: () => void): void;
  trace(node: string, what: string): void;
}

/** A root with these followers, which know these upstreams in this order. */
function cluster(
  dice: Dice,
  followers: Readonly<Record<string, readonly string[]>>,
  replication: Partial<NodeConfig['replication']> = {},
): NodeConfig[] {
  const some = settings(dice);
  const log = { ...some.log, retainBytes: 1024 * 1024, retainAgeMs: 3_600_000 };
  const databases = some.databases.filter(({ storage }) => storage === 'disk');
  const root = { ...some, name: 'root', databases, log, replication: { ...some.replication, ...replication } };
  const others = Object.entries(followers).map(([name, upstreams]): NodeConfig => {
    const role = name.startsWith('relay') ? 'relay' : 'edge';
    return { ...root, sid: undefined, durability: 'committed', name, role, upstreams: upstreams.map(upstream) };
  });
  return [root, ...others];
}

/** Rows go two by two, slowly. */
const SLICES = { followerQueueBytes: 1000, unappliedBytes: 500, snapshotResumeMs: 60_000, snapshotCompression: false };
const SLOW_BYTES_PER_MS = 8;
const WRITERS = { faults: [], faultPauseMs: 1, clients: 2, clientPauseMs: 400, valueBytes: 2000 } as const;
const BULK = { rows: 50, bytes: 500, everyMs: 400 } as const;

/** Rows that make a snapshot last some seconds, and that are other ones from moment to moment. */
function fill({ node, at }: Stage, untilMs: number): void {
  const set = (index: number, ms: number): void => {
    const key = Buffer.from(`bulk-${String(index % BULK.rows).padStart(3, '0')}`);
    const value = Buffer.from(`${ms} `.padEnd(BULK.bytes, '.'));
    node('root').store?.write((transaction) => transaction.set('default', key, value, NEVER_EXPIRES));
  };
  at(500, () => {
    for (let index = 0; index < BULK.rows; index++) set(index, 0);
  });
  for (let ms = 1000, index = 0; ms < untilMs; ms += BULK.everyMs, index++) at(ms, () => set(index * 7, ms));
}

/** The links of an edge break again and again in the middle of its snapshot; once the edge itself is killed. */
function brokenCopies(dice: Dice): Plan {
  const nodes = cluster(dice, { 'relay-1': ['root'], 'edge-1': ['relay-1'] }, SLICES);
  const script = (stage: Stage): void => {
    const { network, node, at, trace } = stage;
    fill(stage, 5000);
    at(1500, () => {
      node('edge-1').wipe();
      network.slow.set('edge-1', SLOW_BYTES_PER_MS);
    });
    at(1520, () => node('edge-1').start());
    for (let ms = 2600; ms < 5000; ms += 600 + dice.below(500)) {
      at(ms, () => {
        trace('edge-1', 'loses its links');
        network.breakAllOf('edge-1');
      });
    }
    const killMs = 2500 + dice.below(1500);
    at(killMs, () => node('edge-1').machine.crash('kill'));
    at(killMs + 50, () => node('edge-1').start());
    at(8000, () => {
      const { resumed } = node('relay-1').replica?.replication?.resumption ?? { resumed: 0 };
      if (resumed === 0) throw new Violation(10, 'no snapshot that was broken off went on where it had stopped');
    });
  };
  return { ...WRITERS, nodes, stormMs: 8500, script };
}

/** An edge is broken off in the snapshot of one relay, then in that of another, and comes back to the first. */
function copiesOfTwo(dice: Dice): Plan {
  const relays = { 'relay-1': ['root'], 'relay-2': ['root'], 'edge-1': ['relay-1', 'relay-2'] };
  const nodes = cluster(dice, relays, SLICES);
  const script = (stage: Stage): void => {
    const { network, node, at } = stage;
    const loseSight = (relay: string): void => {
      network.cut('edge-1', relay);
      network.breakAllOf('edge-1');
    };
    fill(stage, 18_000);
    at(1500, () => {
      node('edge-1').wipe();
      network.slow.set('edge-1', SLOW_BYTES_PER_MS);
    });
    at(1520, () => node('edge-1').start());
    at(3000 + dice.below(800), () => loseSight('relay-1'));
    // Before it turns to the other one it tries the same again, for some seconds.
    at(11_500 + dice.below(800), () => {
      network.heal();
      loseSight('relay-2');
    });
  };
  return { ...WRITERS, nodes, stormMs: 25_000, script };
}

/** An edge vanishes without a word in the middle of its snapshot, and another one waits for its turn. */
function vanishedCopy(dice: Dice): Plan {
  const nodes = cluster(dice, { 'edge-1': ['root'], 'edge-2': ['root'] }, { ...SLICES, silenceMs: 1000 });
  const script = (stage: Stage): void => {
    const { network, node, at } = stage;
    fill(stage, 1400);
    at(1500, () => {
      for (const name of ['edge-1', 'edge-2']) node(name).wipe();
      network.slow.set('edge-1', SLOW_BYTES_PER_MS);
      network.weather.breakMs = 600_000;
    });
    at(1520, () => node('edge-1').start());
    at(1900, () => node('edge-1').machine.crash('power'));
    at(2000, () => node('edge-2').start());
    at(30_000, () => {
      if (node('edge-2').store === undefined)
        throw new Violation(10, 'edge-2 has no data: the follower before it vanished, and has its turn still');
      network.weather.breakMs = undefined;
    });
  };
  return { ...WRITERS, nodes, stormMs: 31_000, script };
}

/** The root dies, and two relays turn to each other in the same moment. */
function turnToEachOther(dice: Dice): Plan {
  const nodes = cluster(dice, { 'relay-1': ['relay-2', 'root'], 'relay-2': ['relay-1', 'root'] });
  const script = ({ network, node, at }: Stage): void => {
    at(1000, () => {
      // What one says is on its way for longer than the other takes to ask.
      Object.assign(network.weather, { latencyMs: 300, jitterMs: 1 });
      node('root').machine.crash('kill');
    });
    at(6000, () => {
      network.weather.latencyMs = 1;
      node('root').start();
    });
    at(18_000, () => {
      for (const name of ['relay-1', 'relay-2']) {
        const lagMs = node(name).replica?.heartbeats.lagMs(node(name).machine.nowMs) ?? Number.POSITIVE_INFINITY;
        if (lagMs > 5000) throw new Violation(10, `${name} is ${lagMs} ms behind a root that is there: a loop`);
      }
    });
  };
  return { ...WRITERS, nodes, stormMs: 19_000, script };
}

/** The only configured upstream of two edges is gone for them, and other relays live that have announced themselves. */
function lostUpstream(dice: Dice): Plan {
  const followers = {
    ...{ 'relay-1': ['root'], 'relay-2': ['root'], 'relay-3': ['root'] },
    ...{ 'edge-1': ['relay-1'], 'edge-2': ['relay-1'] },
  };
  // No log is so long here that a copy would be cheaper.
  const nodes = withDiscovery(cluster(dice, followers, { snapshotInsteadBytes: 1024 * 1024 }));
  const how = dice.pick(['killed', 'cut-off', 'without-root'] as const);
  const edges = ['edge-1', 'edge-2'] as const;
  const script = ({ network, node, at, trace }: Stage): void => {
    const stores = new Map<string, unknown>();
    const cut = (one: string, other: string): void => {
      network.cut(one, other);
      network.cut(other, one);
    };
    at(4000, () => {
      trace('relay-1', how);
      for (const name of edges) stores.set(name, node(name).store);
      if (how === 'killed') node('relay-1').machine.crash('kill');
      if (how === 'cut-off') for (const name of edges) cut(name, 'relay-1');
      if (how === 'without-root') cut('root', 'relay-1');
    });
    at(24_000, () => {
      for (const name of how === 'without-root' ? [...edges, 'relay-1'] : edges) {
        const lagMs = node(name).replica?.heartbeats.lagMs(node(name).machine.nowMs) ?? Number.POSITIVE_INFINITY;
        if (lagMs > 5000)
          throw new Violation(10, `${name} is ${lagMs} ms behind, and there are living relays that it was told of`);
        if (stores.has(name) && node(name).store !== stores.get(name))
          throw new Violation(10, `${name} went on with a snapshot under another relay`);
      }
    });
  };
  return { ...WRITERS, nodes, stormMs: 25_000, script };
}

/** Two roots are apart for longer than their logs, while both take writes; in one case of two one of them is killed over it. */
function rootsApart(dice: Dice): Plan {
  const [first, ...followers] = cluster(dice, { 'relay-1': ['root', 'root-2'], 'edge-1': ['relay-1', 'root-2'] });
  const { log } = first as NodeConfig;
  const roots = ['root', 'root-2'].map((name, index): NodeConfig => {
    const peers = [upstream(index === 0 ? 'root-2' : 'root')];
    const replication = { ...(first as NodeConfig).replication, snapshotResumeMs: 0 };
    return { ...(first as NodeConfig), name, sid: index + 1, peers, replication, log: { ...log, retainBytes: 500 } };
  });
  const script = ({ network, node, at, trace }: Stage): void => {
    at(1500, () => {
      for (const [from, to] of [
        ['root', 'root-2'],
        ['root-2', 'root'],
      ] as const)
        network.cut(from, to);
      network.breakAllOf('root-2');
      trace('root-2', 'is cut off from the other root');
    });
    at(5000, () => network.heal());
    if (dice.chance(0.5)) {
      const victim = dice.pick(['root', 'root-2']);
      const killMs = 5000 + dice.below(1200);
      at(killMs, () => node(victim).machine.crash('kill'));
      at(killMs + 200, () => node(victim).start());
    }
    at(14_000, () => {
      const merged = roots.reduce((sum, { name = '' }) => sum + (node(name).replica?.stores.merged ?? 0), 0);
      if (merged === 0) throw new Violation(10, 'no root merged what it has with what the other has');
    });
  };
  const writers = { clients: 2, clientPauseMs: 60, valueBytes: 60 };
  return { ...WRITERS, ...writers, nodes: [...roots, ...followers], stormMs: 14_500, script };
}

/** By name. */
export const SCENARIOS: Readonly<Record<string, (dice: Dice) => Plan>> = {
  'broken-copies': brokenCopies,
  'copies-of-two': copiesOfTwo,
  'vanished-copy': vanishedCopy,
  'turn-to-each-other': turnToEachOther,
  'lost-upstream': lostUpstream,
  'roots-apart': rootsApart,
};
