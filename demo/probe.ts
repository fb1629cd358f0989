/**
 * A client at one edge: reads over an ordinary connection until it sees each change, and notes how long that took since
 * Postgres acknowledged it. It polls, a few milliseconds apart, so what it measures includes its own waiting.
 */
import { TokaidoClient } from '../src/client/client.js';
import type { Change } from './workload.js';

/** Time between an answer and the next question. */
const POLL_MS = 4;
/** Keys of one question. */
const MAX_KEYS = 200;

export interface Sample {
  readonly committedMs: number;
  readonly latencyMs: number;
}

export class EdgeProbe {
  readonly #client: TokaidoClient;
  /** Newest change of each key that was not seen here yet, by database. */
  readonly #pending: readonly Map<string, Change>[] = [new Map(), new Map()];
  readonly #onSample: (sample: Sample) => void;
  #stopped = false;
  #running: Promise<void> | undefined;
  /** Reads that failed. */
  errors = 0;

  constructor(clientPort: number, onSample: (sample: Sample) => void) {
    this.#client = new TokaidoClient({ server: `127.0.0.1:${clientPort}`, timeoutMs: 3000 });
    this.#onSample = onSample;
  }

  /** The newest change of a key takes the place of an older one that was not seen: nobody can see that any more. */
  expect(change: Change): void {
    const pending = this.#pending[change.database] as Map<string, Change>;
    const before = pending.get(change.key);
    if (before === undefined || before.version < change.version) pending.set(change.key, change);
  }

  start(): void {
    this.#running = this.#run();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      for (const database of this.#pending.keys()) await this.#poll(database);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  async #poll(database: number): Promise<void> {
    const pending = this.#pending[database] as Map<string, Change>;
    if (pending.size === 0) return;
    const asked = [...pending.values()].slice(0, MAX_KEYS);
    let found: Map<string, Buffer>;
    try {
      found = await this.#client.getBulk(asked.map(({ key }) => key), database);
    } catch {
      this.errors++;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return;
    }
    const nowMs = performance.now();
    for (const change of asked) {
      if (found.get(change.key)?.toString('utf8') !== change.value) continue;
      this.#onSample({ committedMs: change.committedMs, latencyMs: nowMs - change.committedMs });
      if (pending.get(change.key) === change) pending.delete(change.key);
    }
  }

  /** Changes not seen yet. */
  get missing(): number {
    return this.#pending.reduce((total, { size }) => total + size, 0);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    this.#client.close();
  }
}
