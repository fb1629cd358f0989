/**
 * A client at one edge: reads over an ordinary connection until it sees each change, and notes how long that took since
 * Postgres acknowledged it. It polls, a few milliseconds apart, so what it measures includes its own waiting.
 */
import { TokaidoClient } from '../src/client/client.js';
import type { Change } from './workload.js';

/** Least time between an answer and the next question. */
const POLL_MS = 4;
/** No change is looked for before this: every question costs the edge processor time that it shares with all others. */
const FIRST_LOOK_MS = 10;
/** A change that was not there is looked for again when it is older by this share: late ones would crowd out the rest. */
const LATER = 0.15;
/** Keys of one question. */
const MAX_KEYS = 200;

export interface Sample {
  readonly committedMs: number;
  readonly latencyMs: number;
}

export function keyOf({ database, key }: Pick<Change, 'database' | 'key'>): string {
  return `${database} ${key}`;
}

/** Whether what was read proves that `change` has arrived: its value, or that of a later change of the key. */
function proves(found: string | undefined, change: Change, newest: Change | undefined): boolean {
  if (found === change.value) return true;
  return newest !== undefined && newest.version > change.version && found === newest.value;
}

/** A change that was not seen yet, and when to look for it next, `performance.now()`. */
interface Awaited {
  readonly change: Change;
  lookMs: number;
}

export class EdgeProbe {
  readonly #client: TokaidoClient;
  /** The newest committed change of every key, sampled or not. */
  readonly #newest: ReadonlyMap<string, Change>;
  /** Newest change of each key that was not seen here yet. */
  readonly #pending = new Map<string, Awaited>();
  readonly #onSample: (sample: Sample) => void;
  #timer: NodeJS.Timeout | undefined;
  #asking: Promise<void> | undefined;
  #stopped = false;
  /** When reads failed, `performance.now()`; an edge that is down fails some twenty times a second. */
  readonly failedMs: number[] = [];

  /** Which of the sampled changes this probe looks for. */
  readonly turn: number;

  constructor(
    clientPort: number,
    turn: number,
    newest: ReadonlyMap<string, Change>,
    onSample: (sample: Sample) => void,
  ) {
    this.#newest = newest;
    this.#client = new TokaidoClient({ server: `127.0.0.1:${clientPort}`, timeoutMs: 3000 });
    this.turn = turn;
    this.#onSample = onSample;
  }

  expect(change: Change): void {
    const key = keyOf(change);
    const before = this.#pending.get(key)?.change;
    if (before !== undefined && before.version >= change.version) return;
    this.#pending.set(key, { change, lookMs: change.committedMs + FIRST_LOOK_MS });
    this.#arm();
  }

  /** Sleeps until something is due; while there is nothing to look for, nothing runs. */
  #arm(): void {
    if (this.#stopped || this.#timer !== undefined || this.#asking !== undefined || this.#pending.size === 0) return;
    let dueMs = Number.POSITIVE_INFINITY;
    for (const { lookMs } of this.#pending.values()) dueMs = Math.min(dueMs, lookMs);
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#asking = this.#poll().finally(() => {
          this.#asking = undefined;
          this.#arm();
        });
      },
      Math.max(POLL_MS, dueMs - performance.now()),
    );
  }

  async #poll(): Promise<void> {
    const startMs = performance.now();
    const asked: Awaited[] = [];
    for (const [key, awaited] of this.#pending) {
      const { expiresMs } = awaited.change;
      if (expiresMs !== undefined && expiresMs <= startMs) this.#pending.delete(key);
      else if (awaited.lookMs <= startMs && asked.length < MAX_KEYS) asked.push(awaited);
    }
    if (asked.length === 0) return;
    let found: (Buffer | undefined)[];
    try {
      found = await this.#client.getMany(asked.map(({ change }) => change));
    } catch {
      this.failedMs.push(performance.now());
      await new Promise((resolve) => setTimeout(resolve, 50));
      return;
    }
    const nowMs = performance.now();
    for (const [index, awaited] of asked.entries()) {
      const { change } = awaited;
      const key = keyOf(change);
      const ageMs = nowMs - change.committedMs;
      awaited.lookMs = nowMs + Math.max(POLL_MS, LATER * ageMs);
      if (!proves(found[index]?.toString('utf8'), change, this.#newest.get(key))) continue;
      this.#onSample({ committedMs: change.committedMs, latencyMs: ageMs });
      if (this.#pending.get(key) === awaited) this.#pending.delete(key);
    }
  }

  /** Changes not seen yet. */
  get missing(): number {
    return this.#pending.size;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#asking;
    this.#client.close();
  }
}
