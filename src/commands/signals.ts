/** Named signals: callers wait for a name until somebody signals it, or their time is over. */
import { TokaidoError } from '../base/errors.js';
import type { Runtime, Timer } from '../base/runtime.js';

/** Most callers that wait at a time, all names together. */
const MAX_WAITERS = 10_000;
/** Longest name, bytes. */
const MAX_NAME_BYTES = 1024;

/** One caller that waits. */
export interface Wait {
  /** Whether the signal came; false when the time was over, or the wait was cancelled. */
  readonly woken: Promise<boolean>;
  cancel(): void;
}

interface Waiter {
  end(woken: boolean): void;
}

export class Signals {
  readonly #runtime: Pick<Runtime, 'after'>;
  /** In the order of their coming. */
  readonly #waiters = new Map<string, Set<Waiter>>();
  #waiting = 0;

  constructor(runtime: Pick<Runtime, 'after'>) {
    this.#runtime = runtime;
  }

  /** How many wait, for metrics and tests. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Errors: `OVERLOADED`, `TOO_LARGE`. */
  wait(name: string, timeoutMs: number): Wait {
    if (name.length > MAX_NAME_BYTES) {
      throw new TokaidoError('TOO_LARGE', `a name of a signal of more than ${MAX_NAME_BYTES} bytes`);
    }
    if (this.#waiting >= MAX_WAITERS) {
      throw new TokaidoError('OVERLOADED', `${MAX_WAITERS} callers are waiting for signals already`);
    }
    let timer: Timer | undefined;
    let settle: (woken: boolean) => void = () => undefined;
    const woken = new Promise<boolean>((resolve) => {
      settle = resolve;
    });
    const waiters = this.#waiters.get(name) ?? new Set<Waiter>();
    const waiter: Waiter = {
      end: (came) => {
        if (!waiters.delete(waiter)) return;
        this.#waiting--;
        if (waiters.size === 0) this.#waiters.delete(name);
        timer?.cancel();
        settle(came);
      },
    };
    waiters.add(waiter);
    this.#waiters.set(name, waiters);
    this.#waiting++;
    timer = this.#runtime.after(timeoutMs, () => waiter.end(false));
    return { woken, cancel: () => waiter.end(false) };
  }

  /** Wakes the first that waits for `name`, or all; returns how many were waiting. */
  signal(name: string, all: boolean): number {
    const waiters = this.#waiters.get(name);
    if (waiters === undefined) return 0;
    const waiting = waiters.size;
    for (const waiter of [...waiters]) {
      waiter.end(true);
      if (!all) break;
    }
    return waiting;
  }
}
