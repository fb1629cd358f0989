/**
 * Clients that write to the root, and the ledger of what they were told: which writes were acknowledged, with which
 * promise, and which were refused. Each write carries a token, so that it can be found again wherever it went.
 */
import { messageOf, TokaidoError } from '../base/errors.js';
import { type Durability, NEVER_EXPIRES, type Position, type Sid } from '../base/types.js';
import type { StoreTransaction } from '../store/types.js';
import { covers } from './checks.js';
import type { Dice } from './dice.js';
import { type Known, Violation } from './history.js';
import type { SimulatedNode } from './node.js';
import type { Scheduler } from './scheduler.js';

/** Few, so that writes meet. */
const KEYS = 16;
const TOKEN_KEY = 'token';

interface Ack {
  readonly token: string;
  readonly durability: Durability;
  isExcused: boolean;
  isSafe: boolean;
}

export class Ledger {
  readonly #numbers = new Map<string, Known>();
  /** Every number that a write had. */
  readonly #all = new Map<string, readonly string[]>();
  readonly #acks: Ack[] = [];
  readonly #refused = new Set<string>();

  get acknowledged(): number {
    return this.#acks.length;
  }

  /** A transaction exists. */
  noted(known: Known): void {
    for (const change of known.changes) {
      if (change.kind !== 'set' || !change.key.toString().startsWith(TOKEN_KEY)) continue;
      const token = change.value.toString();
      const twin = this.#numbers.get(token);
      if (twin !== undefined && !isNumberedAnew(twin, known))
        throw new Violation(2, `one write became ${twin.number} and ${known.number}`);
      this.#all.set(token, [...(this.#all.get(token) ?? []), known.number]);
      if (this.#refused.has(token)) throw new Violation(1, `write ${token} was refused and became ${known.number}`);
      this.#numbers.set(token, known);
    }
  }

  acknowledge(token: string, durability: Durability): void {
    if (!this.#numbers.has(token)) throw new Violation(5, `write ${token} was acknowledged and is nowhere`);
    this.#acks.push({ token, durability, isExcused: false, isSafe: false });
  }

  refuse(token: string): void {
    const known = this.#numbers.get(token);
    if (known !== undefined) throw new Violation(1, `write ${token} was refused and is ${known.number}`);
    this.#refused.add(token);
  }

  /** The power took what was only committed at this root: that is what `committed` means. */
  powerCut(at: Sid, flushed: Position): void {
    for (const ack of this.#acks) {
      if (ack.durability === 'flushed' || ack.isSafe) continue;
      const { sid, epoch, sequence } = (this.#numbers.get(ack.token) as Known).origin;
      if (sid !== at) continue;
      if (covers(flushed, sid, epoch, sequence)) ack.isSafe = true;
      else ack.isExcused = true;
    }
  }

  /** Invariant 5: the history that all agreed on has every acknowledged write. */
  check(chain: readonly Known[]): void {
    const numbers = new Set(chain.map(({ number }) => number));
    for (const { token, durability, isExcused } of this.#acks) {
      const known = this.#numbers.get(token) as Known;
      if (isExcused || this.#all.get(token)?.some((number) => numbers.has(number)) === true) continue;
      throw new Violation(5, `write ${token} (${known.number}) was acknowledged as ${durability} and is lost`);
    }
  }
}

/** A root that yields to another one numbers what it made anew, in a later epoch and with the version it had. */
function isNumberedAnew(before: Known, { origin }: Known): boolean {
  return (
    origin.sid === before.origin.sid &&
    origin.epoch > before.origin.epoch &&
    origin.versionNs >= before.origin.versionNs
  );
}

export interface ClientOptions {
  readonly name: string;
  readonly scheduler: Scheduler;
  readonly dice: Dice;
  readonly ledger: Ledger;
  readonly durability: Durability;
  /** Where to write. */
  readonly root: SimulatedNode;
  /** Average time between two writes, ms. */
  readonly pauseMs: number;
  /** Longest value. */
  readonly valueBytes: number;
  readonly onProblem: (problem: unknown) => void;
}

export class Client {
  readonly #options: ClientOptions;
  #writes = 0;
  #stopped = false;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#schedule();
  }

  #schedule(): void {
    const { scheduler, dice, pauseMs } = this.#options;
    scheduler.after(pauseMs * 2 * dice.roll(), () => {
      if (this.#stopped) return;
      this.write();
      this.#schedule();
    });
  }

  /** One write, if the root takes any now. `onEnd` hears whether it was acknowledged, unless the root dies over it. */
  write(onEnd: (isAcknowledged: boolean) => void = () => undefined): void {
    const { root, ledger, durability, name, onProblem } = this.#options;
    const { replica, store, process } = root;
    if (!root.isOpen || store === undefined || replica?.writeRefusal() !== undefined || process?.alive !== true) {
      onEnd(false);
      return;
    }
    const token = `${name}-${++this.#writes}`;
    try {
      const written = store.write(this.#build(token));
      const answer = durability === 'flushed' ? written.flushed : written.committed;
      answer
        .then(
          () => {
            if (!process.alive) return;
            ledger.acknowledge(token, durability);
            onEnd(true);
          },
          (error: unknown) => {
            if (!(error instanceof TokaidoError)) throw error;
            if (!process.alive) return;
            ledger.refuse(token);
            onEnd(false);
          },
        )
        .catch(onProblem);
    } catch (error) {
      if (error instanceof TokaidoError && ['NOT_READY', 'OVERLOADED'].includes(error.code)) onEnd(false);
      else onProblem(new Violation(0, `a write fails: ${messageOf(error)}`));
    }
  }

  #build(token: string): (transaction: StoreTransaction) => void {
    const { dice, name, root, valueBytes } = this.#options;
    const steps: ((transaction: StoreTransaction) => void)[] = [];
    for (let left = dice.below(4); left > 0; left--) {
      const database = dice.pick(root.config.databases).name;
      const key = Buffer.from(`key-${dice.below(KEYS)}`);
      const kind = dice.roll();
      if (kind < 0.65) {
        const value = Buffer.from(`${token} `.padEnd(dice.below(valueBytes), '.'));
        const xtMs = dice.chance(0.2) ? root.machine.nowMs + dice.below(4000) : NEVER_EXPIRES;
        steps.push((transaction) => transaction.set(database, key, value, xtMs));
      } else if (kind < 0.95) {
        steps.push((transaction) => void transaction.remove(database, key));
      } else {
        const prefix = Buffer.from(dice.chance(0.5) ? 'key-1' : 'key');
        steps.push((transaction) => transaction.clear(database, prefix));
      }
    }
    return (transaction) => {
      for (const step of steps) step(transaction);
      transaction.set('default', Buffer.from(`${TOKEN_KEY}-${name}`), Buffer.from(token), NEVER_EXPIRES);
    };
  }

  stop(): void {
    this.#stopped = true;
  }
}
