/**
 * The queue in front of the one writer: bounded, in order, group-committing. While a commit runs, what arrives waits
 * here and goes into the next one. A job's own failure rejects that job; a failed commit rejects every job it held.
 */
import { TokaidoError } from '../base/errors.js';
import type { Runtime } from '../base/runtime.js';
import type { Written } from './types.js';

export interface QueueLimits {
  /** Most jobs that may wait; more are refused with `OVERLOADED`. */
  readonly jobs: number;
  /** A commit takes no further job once it has applied this many changes: it holds the event loop meanwhile. */
  readonly commitChanges: number;
  /** Likewise for bytes logged. */
  readonly commitBytes: number;
  /**
   * Least time between two commits, ms. 0 commits as soon as possible; on a machine with many nodes a few ms save
   * processor time. The first change after a pause never waits.
   */
  readonly commitIntervalMs: number;
}

/** How one job ended. */
export type Outcome = { readonly value: unknown } | { readonly error: unknown };

/** What the committer sees: it peeks at the head and takes jobs until it has enough. */
export interface QueueHead<J> {
  peek(): J | undefined;
  /** Runs the head job through `run`, remembers its outcome, and moves on. A throw fails the whole commit. */
  take(run: (job: J) => Outcome): void;
  isEnough(changes: number, bytes: number): boolean;
}

/** Performs one commit; resolves when it is visible. `flushed` resolves when it is on the disk. */
export type Committer<J> = (head: QueueHead<J>) => Promise<{ readonly flushed: Promise<void> }>;

/** One queued job and the two promises its caller may hold. */
class Pending<J, T> implements Written<T> {
  readonly job: J;
  readonly committed: Promise<T>;
  outcome: Outcome | undefined;
  #resolve!: (value: T) => void;
  #reject!: (error: unknown) => void;
  #flush: Promise<void> | undefined;

  constructor(job: J) {
    this.job = job;
    this.committed = new Promise<T>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** Made only when asked for: a promise nobody holds must not reject unheard. */
  get flushed(): Promise<T> {
    return this.committed.then(async (value) => {
      await this.#flush;
      return value;
    });
  }

  settle(outcome: Outcome, flush: Promise<void> | undefined): void {
    this.#flush = flush;
    if ('error' in outcome) this.#reject(outcome.error);
    else this.#resolve(outcome.value as T);
  }
}

export class CommitQueue<J> {
  readonly #limits: QueueLimits;
  readonly #runtime: Runtime;
  readonly #commit: Committer<J>;
  #waiting: Pending<J, unknown>[] = [];
  #running: Promise<void> | undefined;
  #lastCommitMs = Number.NEGATIVE_INFINITY;
  #closing = false;
  #paused = false;
  #commits = 0;

  constructor(limits: QueueLimits, runtime: Runtime, commit: Committer<J>) {
    this.#limits = limits;
    this.#runtime = runtime;
    this.#commit = commit;
  }

  /** Jobs waiting. */
  get queued(): number {
    return this.#waiting.length;
  }

  /** Commits made since the start. */
  get commits(): number {
    return this.#commits;
  }

  /** Errors (thrown at once): `OVERLOADED`, `NOT_READY` while closing. */
  add<T>(job: J): Written<T> {
    if (this.#closing) throw new TokaidoError('NOT_READY', 'the store is closing and takes no more writes');
    if (this.#paused) throw new TokaidoError('NOT_READY', 'the data is being put together with that of another root');
    if (this.#waiting.length >= this.#limits.jobs) {
      throw new TokaidoError('OVERLOADED', `${this.#waiting.length} writes are waiting for the disk already`, {
        hint: 'slow down and try again; the limit is limits.queuedWrites in the configuration',
      });
    }
    const pending = new Pending<J, T>(job);
    this.#waiting.push(pending as Pending<J, unknown>);
    this.#running ??= this.#run();
    return pending;
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      await this.#pace();
      await this.#commitOnce();
    }
    this.#running = undefined;
  }

  async #pace(): Promise<void> {
    const dueMs = this.#lastCommitMs + this.#limits.commitIntervalMs - this.#runtime.monotonicMs();
    if (dueMs >= 1 && !this.#closing) await new Promise<void>((resolve) => this.#runtime.after(dueMs, resolve));
    this.#lastCommitMs = this.#runtime.monotonicMs();
  }

  async #commitOnce(): Promise<void> {
    const taken: Pending<J, unknown>[] = [];
    const head: QueueHead<J> = {
      peek: () => this.#waiting[taken.length]?.job,
      take: (run) => {
        const pending = this.#waiting[taken.length] as Pending<J, unknown>;
        taken.push(pending);
        pending.outcome = run(pending.job);
      },
      isEnough: (changes, bytes) => changes >= this.#limits.commitChanges || bytes >= this.#limits.commitBytes,
    };
    try {
      const { flushed } = await this.#commit(head);
      this.#commits++;
      this.#forget(taken.length);
      for (const pending of taken) pending.settle(pending.outcome as Outcome, flushed);
    } catch (error) {
      // Nothing of this commit happened. If it failed before it took anything, the head job is what it failed on.
      const failed = Math.max(1, taken.length);
      const rejected = this.#waiting.slice(0, failed);
      this.#forget(failed);
      for (const pending of rejected) pending.settle({ error }, undefined);
    }
  }

  #forget(count: number): void {
    this.#waiting = this.#waiting.slice(count);
  }

  /** Refuses new jobs until `resume`; resolves when all accepted ones have been committed or rejected. */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#running;
  }

  resume(): void {
    this.#paused = false;
  }

  /** Refuses new jobs and resolves when all accepted ones have been committed or rejected. */
  async close(): Promise<void> {
    this.#closing = true;
    await this.#running;
  }
}
