/**
 * Clients that write to a root which may die at any moment, and remember what was acknowledged; and the comparison of
 * that history with what a node has in the end. A write without an answer may have happened or not: nothing is claimed
 * of it.
 */
import { TokaidoClient } from '../../src/client/client.js';
import type { Dice } from '../support/random.js';

const AGAIN_MS = 50;
const TIMEOUT_MS = 5_000;
const PAGE = 500;

/** What must be found in the end: a value, nothing, or at least this number. */
type Claim =
  | { readonly kind: 'value'; readonly value: string }
  | { readonly kind: 'gone' }
  | { readonly kind: 'at-least'; readonly number: number };

/** One writer after the other key of its own: sets, overwrites and removes. */
export class HistoryWriter {
  readonly #name: string;
  readonly #port: number;
  readonly #database: string;
  readonly #dice: Dice;
  readonly #claims = new Map<string, Claim>();
  #stopped = false;
  #running: Promise<void> = Promise.resolve();
  acknowledged = 0;
  unanswered = 0;

  constructor(name: string, port: number, database: string, dice: Dice) {
    this.#name = name;
    this.#port = port;
    this.#database = database;
    this.#dice = dice;
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<ReadonlyMap<string, Claim>> {
    this.#stopped = true;
    await this.#running;
    return this.#claims;
  }

  async #run(): Promise<void> {
    let client = this.#connect();
    for (let n = 0; !this.#stopped; n++) {
      try {
        await this.#step(client, n);
      } catch {
        this.unanswered++;
        client.close();
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
        client = this.#connect();
      }
    }
    client.close();
  }

  #connect(): TokaidoClient {
    return new TokaidoClient({ server: `127.0.0.1:${this.#port}`, timeoutMs: TIMEOUT_MS });
  }

  async #step(client: TokaidoClient, n: number): Promise<void> {
    const database = this.#database;
    const kind = this.#dice.roll();
    const counter = `${this.#name}-counter`;
    if (kind < 0.3) {
      await client.set(counter, String(n), { database });
      this.#claims.set(counter, { kind: 'at-least', number: n });
      this.acknowledged++;
      return;
    }
    const key = `${this.#name}-${n}`;
    const value = `value ${n} of ${this.#name}`;
    await client.set(key, value, { database });
    this.#claims.set(key, { kind: 'value', value });
    this.acknowledged++;
    if (kind < 0.8) return;
    // Until it is answered, nobody knows whether the record is there.
    this.#claims.delete(key);
    await client.remove(key, { database });
    this.#claims.set(key, { kind: 'gone' });
    this.acknowledged++;
  }
}

function holds(claim: Claim, found: string | undefined): boolean {
  switch (claim.kind) {
    case 'value':
      return found === claim.value;
    case 'gone':
      return found === undefined;
    case 'at-least':
      return Number(found ?? -1) >= claim.number;
  }
}

/** Keys whose claim does not hold on the node of this port. `database` is its number. */
export async function brokenClaims(
  port: number,
  database: number,
  claims: ReadonlyMap<string, Claim>,
): Promise<string[]> {
  const client = new TokaidoClient({ server: `127.0.0.1:${port}` });
  try {
    const keys = [...claims.keys()];
    const broken: string[] = [];
    for (let at = 0; at < keys.length; at += PAGE) {
      const page = keys.slice(at, at + PAGE);
      const found = await client.getBulk(page, database);
      broken.push(...page.filter((key) => !holds(claims.get(key) as Claim, found.get(key)?.toString())));
    }
    return broken;
  } finally {
    client.close();
  }
}
