/**
 * Readers that wait until this node has reached a position of a feed, so that whoever wrote at the source reads what it
 * wrote, on any node. Each waits a bounded time, and there are only so many of them.
 */
import { TokaidoError } from '../base/errors.js';
import type { Runtime, Timer } from '../base/runtime.js';

/** Most readers that wait at a time. */
const MAX_WAITERS = 10_000;

/** What is waited for. `database` is the one that is read: a feed may still be copying another one. */
export interface WaitedFor {
  readonly feed: string;
  readonly database: string;
  readonly position: bigint;
}

/** How far this node is: a position, or why there is none that a reader could rely on. */
export type Reached = bigint | 'nothing' | 'copying';

export interface FeedWaitsOptions {
  readonly runtime: Pick<Runtime, 'after'>;
  reached(feed: string, database: string): Reached;
  /** A position in the form of its feed. */
  describe(feed: string, position: bigint): string;
  readonly maxWaiters?: number;
}

/** One reader that waits. */
export interface FeedWait {
  /** Errors: `TIMEOUT`, also when it was cancelled. */
  readonly done: Promise<void>;
  cancel(): void;
}

interface Waiter extends WaitedFor {
  end(error: TokaidoError | undefined): void;
}

export class FeedWaits {
  readonly #options: FeedWaitsOptions;
  /** By what they read, each list in the order of position: progress looks at the first only. */
  readonly #lists = new Map<string, Waiter[]>();
  #waiting = 0;
  #timeouts = 0;

  constructor(options: FeedWaitsOptions) {
    this.#options = options;
  }

  /** Readers that wait now; and those whose time was over. For metrics. */
  get waiting(): number {
    return this.#waiting;
  }

  get timeouts(): number {
    return this.#timeouts;
  }

  #isReached({ feed, database, position }: WaitedFor): boolean {
    const reached = this.#options.reached(feed, database);
    return typeof reached === 'bigint' && reached >= position;
  }

  /** `undefined` when this node is there already. Errors: `OVERLOADED`. */
  wait(wanted: WaitedFor, waitMs: number): FeedWait | undefined {
    if (this.#isReached(wanted)) return undefined;
    const { runtime, maxWaiters = MAX_WAITERS } = this.#options;
    if (this.#waiting >= maxWaiters) {
      throw new TokaidoError('OVERLOADED', `${maxWaiters} readers are waiting for a feed already`);
    }
    let timer: Timer | undefined;
    let settle: (error: TokaidoError | undefined) => void = () => undefined;
    const done = new Promise<void>((resolve, reject) => {
      settle = (error) => (error === undefined ? resolve() : reject(error));
    });
    const waiter: Waiter = {
      ...wanted,
      end: (error) => {
        if (!this.#remove(waiter)) return;
        timer?.cancel();
        settle(error);
      },
    };
    this.#add(waiter);
    timer = runtime.after(waitMs, () => {
      this.#timeouts++;
      waiter.end(this.#late(wanted, waitMs));
    });
    return { done, cancel: () => waiter.end(this.#late(wanted, waitMs)) };
  }

  #late({ feed, database, position }: WaitedFor, waitMs: number): TokaidoError {
    const { reached, describe } = this.#options;
    const now = reached(feed, database);
    const wanted = describe(feed, position);
    const hint =
      'ask again, wait longer (X-Tokaido-Wait), or read without a position; tokaido status says how the feed is';
    if (now === 'copying')
      return new TokaidoError('TIMEOUT', `tables of database ${database} are being copied from ${feed}`, { hint });
    const here = now === 'nothing' ? 'nothing' : describe(feed, now);
    return new TokaidoError('TIMEOUT', `this node has reached ${here} of ${feed}, not ${wanted}, in ${waitMs} ms`, {
      hint,
    });
  }

  #add(waiter: Waiter): void {
    const name = `${waiter.feed} ${waiter.database}`;
    const list = this.#lists.get(name) ?? [];
    let low = 0;
    for (let high = list.length; low < high; ) {
      const middle = (low + high) >> 1;
      if ((list[middle] as Waiter).position <= waiter.position) low = middle + 1;
      else high = middle;
    }
    list.splice(low, 0, waiter);
    this.#lists.set(name, list);
    this.#waiting++;
  }

  #remove(waiter: Waiter): boolean {
    const name = `${waiter.feed} ${waiter.database}`;
    const list = this.#lists.get(name);
    const at = list?.indexOf(waiter) ?? -1;
    if (list === undefined || at < 0) return false;
    list.splice(at, 1);
    if (list.length === 0) this.#lists.delete(name);
    this.#waiting--;
    return true;
  }

  /** This node may have reached more. Cheap when nobody waits. */
  advance(): void {
    for (const list of [...this.#lists.values()]) {
      for (let first = list[0]; first !== undefined && this.#isReached(first); first = list[0]) first.end(undefined);
    }
  }

  /** Ends all waits: the node stops. */
  close(): void {
    for (const list of [...this.#lists.values()]) {
      for (const waiter of [...list]) waiter.end(new TokaidoError('NOT_READY', 'this node is stopping'));
    }
  }
}
