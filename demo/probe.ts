/**
 * A client at one edge: reads over an ordinary connection until it sees each change, and notes how long that took since
 * Postgres acknowledged it. It polls, a few milliseconds apart, so what it measures includes its own waiting.
 */
import { TokaidoClient } from '../src/client/client.js';
import type { Change } from './workload.js';

/** Time between an answer and the next question. */
const POLL_MS = 4;
/** No change is looked for before this: every question costs the edge processor time that it shares with all others. */
const FIRST_LOOK_MS = 10;
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

export class EdgeProbe {
  readonly #client: TokaidoClient;
  /** The newest committed change of every key, sampled or not. */
  readonly #newest: ReadonlyMap<string, Change>;
  /** Newest change of each key that was not seen here yet. */
  readonly #pending = new Map<string, Change>();
  readonly #onSample: (sample: Sample) => void;
  #stopped = false;
  #running: Promise<void> | undefined;
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
    const before = this.#pending.get(key);
    if (before === undefined || before.version < change.version) this.#pending.set(key, change);
  }

  start(): void {
    this.#running = this.#run();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      await this.#poll();
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  async #poll(): Promise<void> {
    const dueMs = performance.now() - FIRST_LOOK_MS;
    const asked: Change[] = [];
    for (const [key, change] of this.#pending) {
      if (change.expiresMs !== undefined && change.expiresMs <= performance.now()) this.#pending.delete(key);
      else if (change.committedMs <= dueMs && asked.length < MAX_KEYS) asked.push(change);
    }
    if (asked.length === 0) return;
    let found: (Buffer | undefined)[];
    try {
      found = await this.#client.getMany(asked);
    } catch {
      this.failedMs.push(performance.now());
      await new Promise((resolve) => setTimeout(resolve, 50));
      return;
    }
    const nowMs = performance.now();
    for (const [index, change] of asked.entries()) {
      const key = keyOf(change);
      if (!proves(found[index]?.toString('utf8'), change, this.#newest.get(key))) continue;
      this.#onSample({ committedMs: change.committedMs, latencyMs: nowMs - change.committedMs });
      if (this.#pending.get(key) === change) this.#pending.delete(key);
    }
  }

  /** Changes not seen yet. */
  get missing(): number {
    return this.#pending.size;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    this.#client.close();
  }
}
