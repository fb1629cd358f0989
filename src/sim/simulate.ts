/**
 * One seed: a cluster, clients that write, a storm of faults, and then calm, in which everybody must become equal. After
 * every step the invariants are checked on whatever that step may have changed. The same seed does the same again.
 */
import { crc32 } from 'node:zlib';
import { messageOf } from '../base/errors.js';
import { type Logger, silentLogger } from '../base/logger.js';
import { type Epoch, type Position, sid } from '../base/types.js';
import { checkLog, dump } from './checks.js';
import { Client, Ledger } from './clients.js';
import { Dice } from './dice.js';
import { calm, strike } from './faults.js';
import { History, numberOf, Violation } from './history.js';
import { Network } from './network.js';
import { SimulatedNode, type World } from './node.js';
import { type Plan, planFrom } from './plan.js';
import { SCENARIOS } from './scenarios.js';
import { Scheduler, START_MS } from './scheduler.js';

/** How long a cluster may take to become equal once nothing disturbs it any more, ms of its time. */
const CALM_MS = 60_000;
/** Steps that a seed may take: beyond, something runs in circles. */
const MAX_STEPS = 200_000;
/** A log of this size and age has what a power cut may take. */
const KEEPS_ALL = { bytes: 4000, ageMs: 3_600_000 } as const;
/** Lines kept of what happened. */
const MAX_TRACE = 2000;

export interface Outcome {
  readonly seed: number;
  /** What broke, if anything did. */
  readonly violation: Violation | undefined;
  readonly trace: readonly string[];
  /** Of everything that happened: the same seed has the same one. */
  readonly checksum: number;
  readonly steps: number;
  readonly transactions: number;
  readonly acknowledged: number;
  /** Of the cluster's time, ms. */
  readonly virtualMs: number;
  readonly faults: number;
}

/** Hears of everything that happens, as it happens. */
export type Listen = (line: string) => void;

/**
 * Runs one seed, of the clusters that seeds make up, or of a scenario. With `listen` the nodes' own logs are heard, too; it
 * changes nothing else.
 */
export async function simulate(seed: number, listen?: Listen, scenario?: string): Promise<Outcome> {
  const simulation = new Simulation(seed, listen, scenario);
  const violation = await simulation.run();
  return simulation.outcome(violation);
}

class Simulation {
  readonly #seed: number;
  readonly #listen: Listen | undefined;
  readonly #dice: Dice;
  readonly #plan: Plan;
  readonly #scheduler = new Scheduler();
  readonly #ledger = new Ledger();
  readonly #history = new History(
    () => this.#scheduler.nowMs,
    (known) => this.#ledger.noted(known),
  );
  readonly #network: Network;
  readonly #nodes: readonly SimulatedNode[];
  readonly #trace: string[] = [];
  #checksum = 0;
  #latestMs = START_MS;
  #isStorming = true;
  #faults = 0;
  #problem: unknown;

  constructor(seed: number, listen: Listen | undefined, scenario: string | undefined) {
    this.#seed = seed;
    this.#listen = listen;
    this.#dice = new Dice(seed);
    const plan = scenario === undefined ? planFrom : SCENARIOS[scenario];
    if (plan === undefined) throw new Error(`no such scenario: ${scenario}`);
    this.#plan = plan(this.#dice.fork());
    this.#network = new Network(this.#scheduler, this.#dice.fork());
    const world: World = {
      scheduler: this.#scheduler,
      network: this.#network,
      history: this.#history,
      dice: this.#dice.fork(),
      latestMs: () => this.#latestMs,
      trace: (node, what) => this.#note(node, what),
      clocksAreRight: !this.#plan.faults.includes('clock'),
      hasOneRoot: this.#plan.nodes.filter(({ role }) => role === 'root').length === 1,
      log: (node) => this.#logOf(node),
      onRecovered: (root, epoch) => this.#onRecovered(root, epoch),
      onPowerCut: (node, flushed) => this.#onPowerCut(node, flushed),
    };
    const { nodes, parts } = this.#plan;
    this.#nodes = nodes.map((config) => {
      const name = config.name as string;
      return new SimulatedNode(name, config, world, parts?.get(name));
    });
  }

  get #root(): SimulatedNode {
    return this.#nodes[0] as SimulatedNode;
  }

  get #roots(): readonly SimulatedNode[] {
    return this.#nodes.filter(({ config }) => config.role === 'root');
  }

  #note(who: string, what: string): void {
    const line = `${this.#scheduler.nowMs.toFixed(3)} ${who} ${what}`;
    this.#checksum = crc32(line, this.#checksum);
    if (this.#trace.length < MAX_TRACE) this.#trace.push(line);
    this.#listen?.(line);
  }

  #logOf(node: string): Logger {
    const listen = this.#listen;
    if (listen === undefined) return silentLogger;
    const say = (fields: object, message: string): void => {
      listen(`${this.#scheduler.nowMs.toFixed(3)} ${node}: ${message} ${JSON.stringify(fields)}`);
    };
    const logger: Logger = { debug: say, info: say, warn: say, error: say, child: () => logger };
    return logger;
  }

  #onPowerCut({ config }: SimulatedNode, flushed: Position): void {
    if (config.sid !== undefined) this.#ledger.powerCut(sid(config.sid), flushed);
  }

  /** What followers that came back in time still have, their root has, too: unless their log had been cut (invariant 5). */
  #onRecovered(root: SimulatedNode, epoch: Epoch): void {
    const { retainBytes, retainAgeMs } = root.config.log;
    if (root.store === undefined || retainBytes < KEEPS_ALL.bytes || retainAgeMs < KEEPS_ALL.ageMs) return;
    const chain = root.store.position().flatMap((last) => this.#history.chain(last));
    const has = new Set(chain.map(({ number }) => number));
    // Who stands in an older epoch than the one that the root woke up in came too late long ago.
    for (const { name, state } of root.replica?.replication?.followers() ?? []) {
      if (['greeting', 'recalling', 'ended'].includes(state)) continue;
      const follower = this.#nodes.find((node) => node.name === name);
      // Another root may have it from a third since it connected; who has a part cannot give back the whole.
      if (follower?.config.role === 'root' || follower?.parts !== undefined) continue;
      const lost = follower?.store?.position().find((last) => {
        return last.sid === root.config.sid && last.epoch === epoch && !has.has(numberOf(last));
      });
      if (lost === undefined) continue;
      // What came to it with a snapshot is not in its log: nobody could give that back.
      const log = follower?.store?.log;
      const begins = log === undefined || log.first >= log.next ? undefined : log.batchAt(log.first)?.before;
      if (begins === undefined || begins.some((origin) => origin.sid === root.config.sid && !has.has(numberOf(origin))))
        continue;
      throw new Violation(5, `${name} came back with ${numberOf(lost)}, and the root goes on without it`);
    }
  }

  async run(): Promise<Violation | undefined> {
    // What nobody catches ends a real node.
    process.on('unhandledRejection', this.#onProblem);
    try {
      await this.#storm();
      await this.#settle();
      return undefined;
    } catch (error) {
      if (error instanceof Violation) return error;
      const violation = new Violation(0, `the simulation itself fails: ${messageOf(error)}`);
      violation.cause = error;
      return violation;
    } finally {
      process.off('unhandledRejection', this.#onProblem);
    }
  }

  outcome(violation: Violation | undefined): Outcome {
    if (violation !== undefined) this.#note('VIOLATION', violation.message);
    return {
      seed: this.#seed,
      violation,
      trace: this.#trace,
      checksum: this.#checksum,
      steps: this.#scheduler.steps,
      transactions: this.#history.size,
      acknowledged: this.#ledger.acknowledged,
      virtualMs: Math.round(this.#scheduler.nowMs),
      faults: this.#faults,
    };
  }

  readonly #onProblem = (problem: unknown): void => {
    this.#problem ??= problem;
  };

  async #storm(): Promise<void> {
    const { clients, stormMs } = this.#plan;
    for (const node of this.#nodes) node.start();
    const writers = Array.from({ length: clients }, (_, index) => this.#client(`c${index + 1}`, index));
    const { script } = this.#plan;
    if (script === undefined) this.#scheduleFault();
    else this.#play(script);
    await this.#runUntil(stormMs);
    for (const writer of writers) writer.stop();
  }

  #client(name: string, index: number): Client {
    return new Client({
      name,
      scheduler: this.#scheduler,
      dice: this.#dice.fork(),
      ledger: this.#ledger,
      durability: index % 2 === 0 ? 'flushed' : 'committed',
      root: this.#roots[index % this.#roots.length] as SimulatedNode,
      pauseMs: this.#plan.clientPauseMs,
      valueBytes: this.#plan.valueBytes,
      onProblem: this.#onProblem,
    });
  }

  #scheduleFault(dice = this.#dice.fork()): void {
    const { faults, faultPauseMs } = this.#plan;
    this.#scheduler.after(faultPauseMs * 2 * dice.roll(), () => {
      if (!this.#isStorming) return;
      this.#faults++;
      strike(dice.pick(faults), {
        scheduler: this.#scheduler,
        network: this.#network,
        nodes: this.#nodes,
        dice,
        isStorming: () => this.#isStorming,
        trace: (node, what) => this.#note(node, what),
        onProblem: this.#onProblem,
      });
      this.#scheduleFault(dice);
    });
  }

  #play(script: NonNullable<Plan['script']>): void {
    script({
      network: this.#network,
      dice: this.#dice.fork(),
      node: (name) => this.#nodes.find((node) => node.name === name) as SimulatedNode,
      trace: (node, what) => this.#note(node, what),
      at: (ms, run) => {
        this.#scheduler.after(ms, () => {
          try {
            run();
          } catch (error) {
            this.#onProblem(error);
          }
        });
      },
    });
  }

  /** Steps until `untilMs`, or until `done`; returns whether it came to that. */
  async #runUntil(untilMs: number, done: () => boolean = () => false): Promise<boolean> {
    while (await this.#scheduler.step(untilMs)) {
      this.#check();
      // An orderly stop that began in the storm may end in the calm.
      if (!this.#isStorming) for (const node of this.#nodes) node.start();
      if (done()) return true;
    }
    return false;
  }

  #check(): void {
    if (this.#scheduler.steps > MAX_STEPS) throw new Violation(0, `no end after ${MAX_STEPS} steps`);
    for (const node of this.#nodes) {
      this.#latestMs = Math.max(this.#latestMs, node.machine.nowMs);
      node.check();
    }
    // What a client noticed follows from what a node did, so that comes first.
    if (this.#problem !== undefined) throw this.#problem;
  }

  /** Nothing disturbs the cluster any more: it takes writes, and all become equal. */
  async #settle(): Promise<void> {
    this.#isStorming = false;
    this.#note('the storm', 'is over');
    const deadlineMs = this.#scheduler.nowMs + CALM_MS;
    calm({ network: this.#network, nodes: this.#nodes });
    const last = this.#client('last', 0);
    last.stop();
    let state: 'idle' | 'asked' | 'acknowledged' = 'idle';
    const isWritten = (): boolean => {
      if (state === 'idle') {
        state = 'asked';
        last.write((isAcknowledged) => {
          state = isAcknowledged ? 'acknowledged' : 'idle';
        });
      }
      return state === 'acknowledged';
    };
    const written = await this.#runUntil(deadlineMs, isWritten);
    if (!written) throw new Violation(10, `the root takes no writes ${CALM_MS} ms after the last fault`);
    if (!(await this.#runUntil(deadlineMs, () => this.#areTogether()))) {
      const at = this.#nodes.map((node) => node.describe());
      throw new Violation(10, `not all equal ${CALM_MS} ms after the last fault: ${at.join(', ')}`);
    }
    this.#compare();
  }

  #areTogether(): boolean {
    const at = this.#root.store?.position();
    return at !== undefined && this.#nodes.every((node) => node === this.#root || node.isEqualAt(at));
  }

  /** Invariants 2, 4, 5 and 11, over the whole run. */
  #compare(): void {
    const root = this.#root.store;
    if (root === undefined) throw new Violation(8, 'the root has no data');
    this.#checksum = crc32(dump(root, this.#latestMs), this.#checksum);
    for (const { name, store, parts } of this.#nodes) {
      if (store === undefined) throw new Violation(8, `${name} has no data`);
      checkLog(name, store, this.#history, parts);
      const [own, wanted] = [store, root].map((each) => dump(each, this.#latestMs, parts));
      if (own !== wanted) throw new Violation(4, `${name} differs from the root:\n${own}\n--- root\n${wanted}`);
    }
    this.#ledger.check(root.position().flatMap((last) => this.#history.chain(last)));
  }
}
