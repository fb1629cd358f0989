/** What happens to a cluster: each fault, once, somewhere. */
import type { Dice } from './dice.js';
import type { Crash } from './machine.js';
import type { Network } from './network.js';
import type { SimulatedNode } from './node.js';
import type { Fault } from './plan.js';
import type { Scheduler } from './scheduler.js';

export interface Faultable {
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly nodes: readonly SimulatedNode[];
  readonly dice: Dice;
  /** Whether faults still last as long as they are meant to. */
  isStorming(): boolean;
  trace(node: string, what: string): void;
  onProblem(problem: unknown): void;
}

const QUIET = { latencyMs: 1, jitterMs: 1, bytesPerMs: 10_000 } as const;
const GOOD_DISK = { commitMs: 1, flushMs: 10, full: false } as const;
/** A crash that was set comes within so many effects. */
const ARMED_EFFECTS = 12;
/** How long a root sends what it is going to lose, ms. */
const TAIL_MS = 300;
/** A follower that copies slowly has its links broken so often, ms apart on average. */
const BREAKS = { count: 8, everyMs: 150, bytesPerMs: 20 } as const;
/** Furthest a clock is off, ms. */
const MAX_SKEW_MS = 5000;

export function strike(fault: Fault, on: Faultable): void {
  const { dice, network, nodes, trace } = on;
  const node = dice.pick(nodes);
  switch (fault) {
    case 'kill':
    case 'power':
      crash(node, fault, on);
      return;
    case 'power-all':
      for (const each of nodes) crash(each, 'power', on);
      return;
    case 'lose-tail':
      loseTail(on);
      return;
    case 'stop':
      if (isSpared(node)) return;
      node.stop().catch(on.onProblem);
      restartLater(node, on);
      return;
    case 'wipe':
      if (node.config.role === 'root') return;
      node.wipe();
      restartLater(node, on);
      return;
    case 'break':
      if (network.breakOne()) trace('network', 'a link breaks');
      return;
    case 'break-copy':
      breakCopy(node, on);
      return;
    case 'cut':
    case 'cut-one-way':
      cut(node, fault === 'cut', on);
      return;
    case 'slow-network':
      network.weather.latencyMs = dice.pick([1, 20, 150]);
      network.weather.jitterMs = dice.pick([1, 50]);
      network.weather.bytesPerMs = dice.pick([1, 20, 10_000]);
      trace('network', JSON.stringify(network.weather));
      after(on, 500 + 2000 * dice.roll(), () => Object.assign(network.weather, QUIET));
      return;
    case 'slow-disk':
      node.storage.weather.flushMs = dice.pick([50, 500, 3000]);
      node.storage.weather.commitMs = dice.pick([1, 20]);
      trace(node.name, `has a slow disk: ${JSON.stringify(node.storage.weather)}`);
      after(on, 500 + 3000 * dice.roll(), () => Object.assign(node.storage.weather, GOOD_DISK));
      return;
    case 'full-disk':
      node.storage.weather.full = true;
      trace(node.name, 'has a full disk');
      after(on, 200 + 1500 * dice.roll(), () => Object.assign(node.storage.weather, GOOD_DISK));
      return;
    case 'clock':
      node.machine.skewMs = Math.floor((2 * dice.roll() - 1) * dice.pick([50, MAX_SKEW_MS]));
      trace(node.name, `has its clock off by ${node.machine.skewMs} ms`);
      return;
    default:
      throw new Error(`no such fault: ${String(fault satisfies never)}`);
  }
}

/**
 * A root whose databases in memory are lost has less than its position says until it could announce that; so do those
 * who copy from it meanwhile. The model knows nothing of this, so that such a root runs on.
 */
function isSpared({ config }: SimulatedNode): boolean {
  return config.role === 'root' && config.databases.some(({ storage }) => storage === 'memory');
}

/** At once, or over one of the next things that the process does. */
function crash(node: SimulatedNode, kind: Crash, on: Faultable): void {
  const { process } = node.machine;
  if (process === undefined || isSpared(node)) return;
  if (on.dice.chance(0.3)) node.machine.crash(kind);
  else process.arm(kind, on.dice.below(ARMED_EFFECTS));
  restartLater(node, on);
}

/** The root sends for a while what its disk does not have yet, and then loses its power. */
function loseTail(on: Faultable): void {
  const root = on.dice.pick(on.nodes.filter(({ config }) => config.role === 'root'));
  if (isSpared(root)) return;
  root.storage.weather.flushMs = TAIL_MS * 2;
  after(on, TAIL_MS, () => {
    Object.assign(root.storage.weather, GOOD_DISK);
    root.machine.crash('power');
    restartLater(root, on);
  });
}

/** An empty machine copies everything over a slow line, and its links break again and again. */
function breakCopy(node: SimulatedNode, on: Faultable): void {
  const { network, dice, trace } = on;
  if (node.config.role === 'root') return;
  node.wipe();
  network.slow.set(node.name, BREAKS.bytesPerMs);
  after(on, 20, () => node.start());
  let atMs = 20;
  for (let left = BREAKS.count; left > 0; left--) {
    atMs += 2 * BREAKS.everyMs * dice.roll();
    after(on, atMs, () => {
      trace(node.name, 'has its links broken');
      network.breakAllOf(node.name);
    });
  }
  after(on, atMs, () => network.slow.delete(node.name));
}

function restartLater(node: SimulatedNode, on: Faultable): void {
  const delayMs = on.dice.chance(0.3) ? 20 : 3000 * on.dice.roll();
  after(on, 5 + delayMs, () => node.start());
}

function cut(node: SimulatedNode, bothWays: boolean, on: Faultable): void {
  const { dice, network, nodes, trace } = on;
  const others = dice.chance(0.5) ? nodes : [dice.pick(nodes)];
  for (const other of others) {
    if (other === node) continue;
    const outwards = dice.chance(0.5);
    if (bothWays || outwards) network.cut(node.name, other.name);
    if (bothWays || !outwards) network.cut(other.name, node.name);
    trace(node.name, `is cut off from ${other.name}${bothWays ? '' : outwards ? ' outwards' : ' inwards'}`);
  }
  after(on, 200 + 4000 * dice.roll(), () => network.heal());
}

function after(on: Faultable, delayMs: number, run: () => void): void {
  on.scheduler.after(delayMs, () => {
    if (on.isStorming()) run();
  });
}

/** Everything is well again. */
export function calm({ network, nodes }: Pick<Faultable, 'network' | 'nodes'>): void {
  network.heal();
  network.slow.clear();
  Object.assign(network.weather, QUIET);
  for (const node of nodes) {
    Object.assign(node.storage.weather, GOOD_DISK);
    node.machine.disarm();
    node.machine.skewMs = 0;
    node.start();
  }
}
