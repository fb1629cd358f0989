/** The story's two tables and a writer that changes them at a steady rate. */
import type pg from 'pg';
import { randomFrom } from '../test/support/random.js';

export const SCHEMA = `
CREATE TABLE dns_records (zone text, name text, type text, data text NOT NULL, PRIMARY KEY (zone, name, type));
CREATE TABLE session_ticket_keys (id integer PRIMARY KEY, key bytea NOT NULL, expires_at timestamptz NOT NULL);
`;

/** How the tables become records; a part of the root's configuration. */
export const TABLES = [
  { table: 'public.dns_records', database: 'dns', key: '{zone}/{name}/{type}', value: { column: 'data' } },
  {
    table: 'public.session_ticket_keys',
    database: 'tickets',
    key: '{id}',
    value: { column: 'key' },
    expires: { column: 'expires_at' },
  },
];
export const DATABASES = ['dns', 'tickets'];

/** One committed change: where it can be seen, and what is to be seen. */
export interface Change {
  /** Kyoto Tycoon's number of the database. */
  readonly database: number;
  readonly key: string;
  /** The new value, or `undefined` when the row is gone. */
  readonly value: string | undefined;
  /** Order of the commits of one key. */
  readonly version: number;
  /** When Postgres acknowledged the commit, `performance.now()` of this process. */
  readonly committedMs: number;
  /** From then on it may have expired, on the same clock; `undefined`: not while this runs. */
  readonly expiresMs: number | undefined;
}

/** What is known before the commit. */
type PlannedChange = Omit<Change, 'committedMs' | 'expiresMs'> & { readonly livesMs?: number };

/** One statement, and what it makes readable. */
interface Step {
  /** Of the prepared statement. */
  readonly name: string;
  readonly sql: string;
  readonly parameters: unknown[];
  readonly change: PlannedChange;
}

const DNS_KEYS = 3000;
const TICKET_KEYS = 200;
/** Changes of one transaction, most. */
const BATCH = 4;

/** Commits row changes at `rate` per second over several connections, each with rows of its own. */
export class Workload {
  readonly #clients: readonly pg.Client[];
  readonly #rate: number;
  readonly #random: () => number;
  readonly #onCommit: (changes: readonly Change[]) => void;
  #version = 0;
  #stopped = false;
  #running: Promise<void>[] = [];
  /** Row changes committed. */
  rowChanges = 0;

  constructor(
    clients: readonly pg.Client[],
    rate: number,
    seed: number,
    onCommit: (changes: readonly Change[]) => void,
  ) {
    this.#clients = clients;
    this.#rate = rate;
    this.#random = randomFrom(seed);
    this.#onCommit = onCommit;
  }

  start(): void {
    this.#running = this.#clients.map(async (client, index) => await this.#run(client, index));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running);
  }

  async #run(client: pg.Client, index: number): Promise<void> {
    const perChangeMs = (1000 * this.#clients.length) / this.#rate;
    let dueMs = performance.now() + this.#random() * perChangeMs;
    while (!this.#stopped) {
      const waitMs = dueMs - performance.now();
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
      const count = 1 + Math.floor(this.#random() * BATCH);
      await this.#transaction(client, index, count);
      dueMs = Math.max(dueMs + count * perChangeMs, performance.now() - 200);
    }
  }

  async #transaction(client: pg.Client, index: number, count: number): Promise<void> {
    const planned = new Map<string, Step>();
    for (let i = 0; i < count; i++) {
      const step = this.#random() < 0.9 ? this.#dns(index) : this.#ticket(index);
      planned.set(`${step.change.database} ${step.change.key}`, step);
    }
    const steps = [...planned.values()];
    const plannedMs = performance.now();
    await client.query('BEGIN');
    for (const { name, sql, parameters } of steps) await client.query({ name, text: sql, values: parameters });
    await client.query('COMMIT');
    const committedMs = performance.now();
    this.rowChanges += steps.length;
    this.#onCommit(
      steps.map(({ change: { livesMs, ...change } }) => {
        return { ...change, committedMs, expiresMs: livesMs === undefined ? undefined : plannedMs + livesMs };
      }),
    );
  }

  /** A row that belongs to this connection alone, so that its commits have one order. */
  #pick(index: number, count: number): number {
    const mine = Math.floor(count / this.#clients.length);
    return index + this.#clients.length * Math.floor(this.#random() * mine);
  }

  #dns(index: number): Step {
    const number = this.#pick(index, DNS_KEYS);
    const row = [`zone${number % 50}.example`, `host${number}`, 'A'] as const;
    const version = ++this.#version;
    const key = row.join('/');
    if (this.#random() < 0.1) {
      const sql = 'DELETE FROM dns_records WHERE zone = $1 AND name = $2 AND type = $3';
      const change = { database: 0, key, value: undefined, version };
      return { name: 'dns-delete', sql, parameters: [...row], change };
    }
    const value = `192.0.2.${number % 256} v${version}`;
    const sql =
      'INSERT INTO dns_records VALUES ($1, $2, $3, $4) ON CONFLICT (zone, name, type) DO UPDATE SET data = excluded.data';
    return { name: 'dns-set', sql, parameters: [...row, value], change: { database: 0, key, value, version } };
  }

  #ticket(index: number): Step {
    const id = this.#pick(index, TICKET_KEYS);
    const version = ++this.#version;
    // Not a real key: the version, so that a reader can tell which change it sees.
    const value = `ticket-key-${id}-v${version}`;
    // Some expire while the demonstration runs.
    const seconds = this.#random() < 0.3 ? 6 : 3600;
    const sql = `INSERT INTO session_ticket_keys VALUES ($1, $2, now() + make_interval(secs => $3))
                 ON CONFLICT (id) DO UPDATE SET key = excluded.key, expires_at = excluded.expires_at`;
    return {
      name: 'ticket-set',
      sql,
      parameters: [id, Buffer.from(value), seconds],
      change: { database: 1, key: String(id), value, version, ...(seconds < 60 ? { livesMs: seconds * 1000 } : {}) },
    };
  }
}
