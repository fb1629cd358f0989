/**
 * One node of a simulated cluster: the very `Replica` and `DataDirectory` that real nodes run, on a simulated machine.
 * It starts and stops, crashes and comes back, and shows after each step that it kept the invariants.
 */
import { AssertionFailure, messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Epoch, Position } from '../base/types.js';
import { isSamePosition } from '../log/position.js';
import { Announcements, ownAnnouncement, type Seals } from '../node/announcements.js';
import type { NodeConfig } from '../node/config/schema.js';
import { DataDirectory } from '../node/data/data-directory.js';
import { Replica } from '../node/replica.js';
import type { LocalStore } from '../store/store.js';
import { checkContents, checkLog, checkNotBehind, isAtLeast } from './checks.js';
import type { Dice } from './dice.js';
import { SimulatedDisk, Storage } from './disk.js';
import { type History, numberOf, Violation } from './history.js';
import { type Crash, Machine, type Process } from './machine.js';
import type { Network } from './network.js';
import { type Scheduler, START_MS } from './scheduler.js';
import type { Parts } from './scopes.js';

export const CLUSTER = '00112233445566778899aabbccddeeff';
const FOLDER = '/data';
/** In calm, data older than this is stale, ms. */
const FRESH_MS = 2000;

export interface World {
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly history: History;
  readonly dice: Dice;
  /** The latest any machine's clock ever was, ms. */
  latestMs(): number;
  trace(node: string, what: string): void;
  log(node: string): Logger;
  /** No clock is off in this run: what nodes say about the age of their data can be checked. */
  readonly clocksAreRight: boolean;
  readonly hasOneRoot: boolean;
  /** A root that may have lost its tail, and woke up in `epoch`, is about to take writes again. */
  onRecovered(root: SimulatedNode, epoch: Epoch): void;
  /** A node's machine lost its power; it had told that everything up to `flushed` is safe. */
  onPowerCut(node: SimulatedNode, flushed: Position): void;
}

/** One run of the node's process. */
interface Run {
  readonly process: Process;
  readonly replica: Replica;
  isStopping: boolean;
}

export class SimulatedNode {
  readonly name: string;
  readonly config: NodeConfig;
  /** What it may have. */
  readonly parts: Parts;
  readonly machine: Machine;
  readonly storage: Storage;
  readonly #world: World;
  #run: Run | undefined;
  /** The store whose commits are listened to. */
  #watched: LocalStore | undefined;
  /** Where this run has been. */
  #shown: Position = [];
  /** What the next start must find. */
  #kept: Position = [];
  /** What a power cut must not take back. */
  #flushed: Position = [];
  #isOpen = false;
  #hadData = false;
  #mayForget = false;
  #isDirty = false;
  /** The epoch that a root woke up in, while it recovers. */
  #recovering: Epoch | undefined;
  #problem: unknown;

  constructor(name: string, config: NodeConfig, world: World, parts?: Parts) {
    this.name = name;
    this.config = config;
    this.parts = parts;
    this.#world = world;
    this.storage = new Storage(world.dice.fork());
    this.machine = new Machine(name, world.scheduler, world.dice.fork(), (process, crash) => {
      this.#crashed(process, crash);
    });
  }

  get replica(): Replica | undefined {
    return this.#run?.replica;
  }

  get store(): LocalStore | undefined {
    return this.#run?.replica.stores.current;
  }

  get process(): Process | undefined {
    return this.#run?.process;
  }

  /** Its data is there and its listeners are open. */
  get isOpen(): boolean {
    return this.#run !== undefined && this.#isOpen;
  }

  start(): void {
    if (this.#run !== undefined) return;
    const { scheduler, network, dice } = this.#world;
    const { config, name } = this;
    const process = this.machine.start();
    const { runtime } = process;
    this.#world.trace(name, 'starts');
    const fatal = (error: unknown): void => {
      if (!process.alive) return;
      this.#problem ??= error;
    };
    const disk = new SimulatedDisk(this.storage, process, scheduler, dice.fork(), () => {
      this.#isDirty = true;
    });
    const directory = new DataDirectory({
      folder: FOLDER,
      disk,
      clusterId: CLUSTER,
      runtime,
      flushesCommits: config.store.flush === 'commits',
    });
    // Databases in memory are lost when neither image nor log has them: a follower is then seeded anew.
    this.#mayForget = config.role !== 'root' && config.databases.some(({ storage }) => storage === 'memory');
    if (directory.wasDiscarded || this.#mayForget) this.#promiseNothing();
    const peer = { name, role: config.role, address: name };
    const replica = new Replica({
      config,
      self: { clusterId: CLUSTER, role: config.role, name },
      directory,
      disk,
      runtime,
      log: this.#world.log(name),
      rootAddress: config.role === 'root' ? `${name}:1978` : '',
      connect: network.connector(process, peer),
      answer: async (request, from) => await answer(request, from),
      onFatal: fatal,
    });
    const announcements = new Announcements({
      own: ownAnnouncement(config),
      name,
      seals: sealsOf(name, config.role),
      store: () => replica.stores.current,
      writeRefusal: () => replica.writeRefusal(),
      ask: async (statement) => await answer(statement, name),
      runtime,
      log: this.#world.log(name),
    });
    const answer = async (request: Buffer, from: string): Promise<Buffer> => {
      if (config.role === 'root') return await announcements.answer(request, from);
      if (replica.upstream === undefined) throw new TokaidoError('NOT_READY', 'no upstream yet');
      return await replica.upstream.ask(request);
    };
    if (!process.alive) return;
    this.#run = { process, replica, isStopping: false };
    this.#shown = [];
    this.#isOpen = false;
    this.#recovering = undefined;
    const begin = async (): Promise<void> => {
      await replica.open();
      this.#opened();
      network.listen(name, { process, peer, accept: (other, link) => replica.accept(other, link) });
      replica.follow();
      replica.keepHouse();
      if (config.role === 'root') await replica.beginWriting();
    };
    begin().catch(fatal);
  }

  /** What the last run left is what it promised to leave, and its log is whole. */
  #opened(): void {
    this.#isOpen = true;
    this.#isDirty = true;
    this.#guard(() => {
      const { store } = this;
      if (store === undefined) {
        if (this.#hadData && !this.#mayForget)
          throw new Violation(8, `${this.name} had data before its restart and has none now`);
        this.#promiseNothing();
        return;
      }
      checkNotBehind(this.name, store.position(), this.#kept, 'and had safely reached');
    });
  }

  #promiseNothing(): void {
    this.#kept = [];
    this.#flushed = [];
    this.#shown = [];
    this.#hadData = false;
  }

  #guard(check: () => void): void {
    try {
      check();
    } catch (error) {
      this.#problem ??= error;
    }
  }

  #crashed(process: Process, crash: Crash): void {
    this.#world.trace(this.name, crash === 'kill' ? 'is killed' : 'loses power');
    const store = this.#run?.process === process ? this.store : undefined;
    // Before it was open, a process had flushed nothing and promised nothing.
    if (store !== undefined && this.#isOpen && store.engine.flushesCommits) this.#flushed = store.flushedPosition();
    if (crash === 'power') this.#kept = this.#flushed;
    else if (this.#watched !== undefined) this.#kept = this.#shown;
    if (crash === 'power') this.#world.onPowerCut(this, this.#flushed);
    this.storage.crashed(crash);
    this.#world.network.crashed(process, crash);
    this.#run = undefined;
    this.#watched = undefined;
  }

  /** An orderly stop; nothing may be lost by it. */
  async stop(): Promise<void> {
    const run = this.#run;
    if (run === undefined || run.isStopping || !this.#isOpen) return;
    run.isStopping = true;
    this.#world.trace(this.name, 'stops');
    const { replica, process } = run;
    replica.beginStopping();
    replica.stopReplicating();
    await replica.close();
    if (!process.alive) return;
    this.#kept = this.#shown;
    this.#flushed = this.#shown;
    this.#run = undefined;
    this.#watched = undefined;
    this.machine.ended();
    this.#world.network.crashed(process, 'kill');
  }

  /** The machine is replaced by an empty one. */
  wipe(): void {
    this.machine.crash('power');
    this.storage.wipe();
    this.#promiseNothing();
    this.#world.trace(this.name, 'is replaced by an empty machine');
  }

  /** Looks at everything that may have changed since the last step. Errors: `Violation`, and what broke the node. */
  check(): void {
    const { history } = this.#world;
    if (this.#problem !== undefined) throw this.#asViolation(this.#problem);
    const { store } = this;
    if (store === undefined) {
      if (this.isOpen && this.#hadData) throw new Violation(8, `${this.name} serves nothing, and had data`);
      return;
    }
    if (store !== this.#watched) this.#watch(store);
    this.#checkClaims();
    this.#watchRecovery(store);
    if (!this.#isDirty) return;
    this.#isDirty = false;
    this.#hadData = true;
    const isRestored = this.#isOpen && this.replica?.stores.refusal() === undefined;
    const { parts } = this;
    checkContents(this.name, store, history, { latestMs: this.#world.latestMs(), withMemory: isRestored, parts });
    const position = store.position();
    checkNotBehind(this.name, position, this.#shown, 'and had shown');
    this.#shown = position;
  }

  #watchRecovery(store: LocalStore): void {
    if (this.replica?.recovery.isWaiting === true) {
      this.#recovering ??= store.epoch;
    } else if (this.#recovering !== undefined) {
      const epoch = this.#recovering;
      this.#recovering = undefined;
      this.#world.onRecovered(this, epoch);
    }
  }

  /** Invariants 8 and 11: what a node says about itself is true. */
  #checkClaims(): void {
    const { replica, store } = this;
    if (replica === undefined || store === undefined) return;
    const [difference] = replica.equality.last?.differences ?? [];
    const { clocksAreRight, hasOneRoot } = this.#world;
    // Two roots whose clocks differ collect what expires at two times, and a snapshot does not say how far its source was:
    // who moves from the tree of one to that of the other may miss a record that is only about to expire there.
    if (difference !== undefined && (hasOneRoot || clocksAreRight)) {
      throw new Violation(11, `${this.name} finds that its database ${difference.database} is not its upstream's`);
    }
    const lagMs = replica.heartbeats.lagMs(this.machine.nowMs);
    // A root is not behind itself, and with several nobody knows of those that he has not heard of yet.
    const isTold = this.config.role !== 'root' && this.#world.hasOneRoot;
    if (lagMs === undefined || !this.#world.clocksAreRight || !isTold) return;
    const last = this.#world.history.lastBefore(this.machine.nowMs - START_MS - lagMs);
    if (last === undefined || isAtLeast(store.position(), [last.origin])) return;
    throw new Violation(8, `${this.name} says it lags ${lagMs} ms and lacks ${last.number}, which is older`);
  }

  /** Stands at this position, has compared itself there, its part with all that is in it, and hears that it is fresh. */
  isEqualAt(position: Position): boolean {
    const { replica, store } = this;
    if (replica === undefined || store === undefined || !isSamePosition(store.position(), position)) return false;
    const lagMs = replica.heartbeats.lagMs(this.machine.nowMs);
    const { last } = replica.equality;
    if (lagMs === undefined || Math.abs(lagMs) >= FRESH_MS || last === undefined) return false;
    const isCompared = this.parts === undefined || last.leftOut.length + last.putOff.length === 0;
    return isCompared && isSamePosition(last.position, position);
  }

  /** Where it stands, for people. */
  describe(): string {
    const lagMs = this.replica?.heartbeats.lagMs(this.machine.nowMs);
    const last = this.replica?.equality.last;
    const at = (position: Position | undefined): string => position?.map(numberOf).join(' ') ?? 'nothing';
    const without = [...(last?.leftOut ?? []), ...(last?.putOff ?? [])].map((name) => ` without ${name}`).join('');
    return `${this.name} at ${at(this.store?.position())}, compared at ${at(last?.position)}${without}, lag ${lagMs} ms`;
  }

  #watch(store: LocalStore): void {
    this.#watched = store;
    if (this.config.role === 'root') this.#world.history.lost(store.position());
    store.onCommit((batch) => this.#guard(() => void this.#world.history.see(this.name, batch, this.parts)));
    // A commit may have been the step in which the store appeared.
    checkLog(this.name, store, this.#world.history, this.parts);
    this.#isDirty = true;
  }

  #asViolation(problem: unknown): unknown {
    if (problem instanceof Violation) return problem;
    const kind = problem instanceof AssertionFailure ? 'asserts' : 'cannot go on';
    const error = new Violation(0, `${this.name} ${kind}: ${messageOf(problem)}`);
    error.cause = problem;
    return error;
  }
}

/** Nobody forges anything here: what is tried is how announcements travel and what they are good for. */
function sealsOf(name: string, role: string): Seals {
  return {
    seal: async (text) => await Promise.resolve(Buffer.from(JSON.stringify({ text, signer: { name, role } }))),
    open: (statement) => JSON.parse(statement.toString()) as ReturnType<Seals['open']>,
  };
}
