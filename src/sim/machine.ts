/**
 * A simulated machine: a clock that may be wrong, a disk, and the one process that runs on it. Whatever the process does
 * to the world outside it (disk, network) passes through `effect`, so that a crash can be set to happen before any one
 * of them, in the middle of whatever the code is doing. A process that is dead has no effects and gets no events.
 */
import { createHash } from 'node:crypto';
import type { Runtime } from '../base/runtime.js';
import type { Dice } from './dice.js';
import { type Owner, type Scheduler, START_MS } from './scheduler.js';

/** How a process ends without being asked: `kill` spares what the system has cached, `power` does not. */
export type Crash = 'kill' | 'power';

export class Process implements Owner {
  readonly machine: Machine;
  readonly runtime: Runtime;
  alive = true;
  #armed: { crash: Crash; effectsLeft: number } | undefined;

  constructor(machine: Machine, scheduler: Scheduler, dice: Dice) {
    this.machine = machine;
    this.runtime = processRuntime(this, scheduler, dice);
  }

  /** Crashes before the effect after the next `effectsLeft`. */
  arm(crash: Crash, effectsLeft: number): void {
    this.#armed = { crash, effectsLeft };
  }

  disarm(): void {
    this.#armed = undefined;
  }

  /** Something is about to change outside the process. False: it does not happen, the process is dead. */
  effect(): boolean {
    if (!this.alive) return false;
    if (this.#armed === undefined || this.#armed.effectsLeft-- > 0) return true;
    this.machine.crash(this.#armed.crash);
    return false;
  }
}

export class Machine {
  readonly name: string;
  readonly #scheduler: Scheduler;
  readonly #dice: Dice;
  readonly #onCrash: (process: Process, crash: Crash) => void;
  process: Process | undefined;
  /** Added to its wall clock. */
  skewMs = 0;
  #boots = 1;

  constructor(name: string, scheduler: Scheduler, dice: Dice, onCrash: (process: Process, crash: Crash) => void) {
    this.name = name;
    this.#scheduler = scheduler;
    this.#dice = dice;
    this.#onCrash = onCrash;
  }

  get bootId(): string {
    return `boot-${this.#boots}`;
  }

  get nowMs(): number {
    return Math.floor(START_MS + this.#scheduler.nowMs + this.skewMs);
  }

  start(): Process {
    this.process = new Process(this, this.#scheduler, this.#dice.fork());
    return this.process;
  }

  /** The process is gone, and with the power what it had not flushed. */
  crash(crash: Crash): void {
    const { process } = this;
    if (process === undefined) return;
    this.process = undefined;
    process.alive = false;
    if (crash === 'power') this.#boots++;
    this.#onCrash(process, crash);
  }

  /** A crash that was set and did not come is called off. */
  disarm(): void {
    this.process?.disarm();
  }

  /** The process ended by itself, in good order. */
  ended(): void {
    if (this.process === undefined) return;
    this.process.alive = false;
    this.process = undefined;
  }
}

function processRuntime(process: Process, scheduler: Scheduler, dice: Dice): Runtime {
  const { machine } = process;
  return {
    nowMs: () => machine.nowMs,
    nowNs: () => BigInt(Math.floor((START_MS + scheduler.nowMs + machine.skewMs) * 1000)) * 1000n,
    monotonicMs: () => scheduler.nowMs,
    random: () => dice.roll(),
    randomBytes: (count) => {
      const bytes = createHash('sha512').update(`${dice.roll()}`).digest();
      return bytes.subarray(0, count);
    },
    after: (delayMs, fn) => scheduler.after(delayMs, fn, process),
    every: (intervalMs, fn) => {
      let timer = scheduler.after(intervalMs, turn, process);
      function turn(): void {
        timer = scheduler.after(intervalMs, turn, process);
        fn();
      }
      return { cancel: () => timer.cancel() };
    },
  };
}
