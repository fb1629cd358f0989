/**
 * Records as messages in a queue: put at its end, taken at its head by one consumer, gone once that consumer says so.
 *
 * A message is an ordinary record; its key is the queue's name, a blank, and where it stands (time and number), so
 * queues share databases with everything else, are replicated, and survive as other records do. Taking a message only
 * claims it, in the memory of this node: the record stays until it is acknowledged, and is free again when its consumer
 * goes or the node stops. So each message is delivered at least once, and to one consumer at a time.
 *
 * Consumed messages leave tombstones at the head of a queue. A search therefore begins behind the message taken last
 * (`#heads`) and only now and then at the very beginning.
 */
import { afterKey } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import type { Runtime } from '../base/runtime.js';
import type { Database } from '../store/types.js';
import type { Commands } from './commands.js';
import type { RecordCopy } from './conditions.js';
import type { Signals, Wait } from './signals.js';
import type { Slices } from './slices.js';

/** Messages that one consumer may have taken and not acknowledged. */
export const MAX_CLAIMS = 1000;
/** A consumer that waits looks again after this time: what others wrote into the database signals nobody. */
const LOOK_AGAIN_MS = 1000;
/** Least time between two searches of a queue from its very beginning. */
const WHOLE_SEARCH_MS = 10_000;
/** Queues whose head is remembered. */
const MAX_HEADS = 10_000;
/** Rows looked at by one step of a search. */
const STEP_ROWS = 256;
/** Numbers within one millisecond. */
const NUMBERS = 10_000;
/** Tries to find a place of its own for a message. */
const MAX_TRIES = 4;

export interface MessageQueuesOptions {
  readonly signals: Signals;
  readonly slices: Slices;
  readonly runtime: Pick<Runtime, 'nowMs' | 'monotonicMs'>;
}

/** A queue by its database and name. */
export interface QueueRef {
  readonly database: Database;
  readonly name: Buffer;
}

interface Claim {
  readonly queue: string;
  readonly database: Database;
  readonly key: Buffer;
  readonly id: string;
}

interface Head {
  /** The message taken last. */
  readonly after: Buffer;
  readonly wholeMs: number;
}

/** Who puts and takes messages: one connection, say, with what it may do. Ended through `MessageQueues`. */
export class Consumer {
  readonly commands: Commands;
  readonly claims: Claim[] = [];
  wait: Wait | undefined;
  ended = false;

  constructor(commands: Commands) {
    this.commands = commands;
  }

  /** Ends a wait: nobody is there any more to take a message. */
  end(): void {
    this.ended = true;
    this.wait?.cancel();
  }
}

/** Sorts like numbers: fourteen digits of milliseconds, four of a number within them. */
function place(ms: number, number: number): Buffer {
  return Buffer.from(` ${String(ms).padStart(14, '0')} ${String(number).padStart(4, '0')}`, 'latin1');
}

function idOf(database: Database, key: Buffer): string {
  return `${database.name} ${key.toString('latin1')}`;
}

export class MessageQueues {
  readonly #options: MessageQueuesOptions;
  readonly #claimed = new Set<string>();
  readonly #heads = new Map<string, Head>();
  #lastMs = 0;
  #lastNumber = 0;

  constructor(options: MessageQueuesOptions) {
    this.#options = options;
  }

  /** Errors: those of `Commands.set`. */
  async put({ database, name }: QueueRef, { value, xtMs }: RecordCopy, { commands }: Consumer): Promise<void> {
    const { signals } = this.#options;
    for (let tries = 1; ; tries++) {
      const key = Buffer.concat([name, this.#nextPlace()]);
      try {
        await commands.set({ database, key, value, xtMs }, 'add');
        break;
      } catch (error) {
        const isTaken = error instanceof TokaidoError && error.code === 'DUPLICATE_RECORD';
        if (!isTaken || tries === MAX_TRIES) throw error;
      }
    }
    signals.signal(signalOf(idOf(database, name)), false);
  }

  /** Places grow even when the clock is put back. */
  #nextPlace(): Buffer {
    const nowMs = Math.floor(this.#options.runtime.nowMs());
    if (nowMs > this.#lastMs) {
      this.#lastMs = nowMs;
      this.#lastNumber = 0;
    } else if (++this.#lastNumber === NUMBERS) {
      this.#lastMs++;
      this.#lastNumber = 0;
    }
    return place(this.#lastMs, this.#lastNumber);
  }

  /**
   * Claims the oldest message that nobody has claimed, waiting for one at most `timeoutMs`; `undefined` when none came.
   * Errors: `OVERLOADED`, and why this node takes no writes: a message taken there could not be acknowledged.
   */
  async take(ref: QueueRef, consumer: Consumer, timeoutMs: number): Promise<RecordCopy | undefined> {
    const { runtime, signals } = this.#options;
    const { commands } = consumer;
    const endMs = runtime.monotonicMs() + timeoutMs;
    for (;;) {
      commands.checkWritable();
      if (consumer.claims.length >= MAX_CLAIMS) {
        throw new TokaidoError('OVERLOADED', `${MAX_CLAIMS} messages are taken and not deleted on this connection`);
      }
      const search = this.#search(ref, consumer);
      // Without a pause between the search and the wait: a message put meanwhile would signal nobody.
      const found = search instanceof Promise ? await search : search;
      if (found !== 'none') return found;
      const leftMs = endMs - runtime.monotonicMs();
      if (leftMs <= 0 || consumer.ended) return undefined;
      consumer.wait = signals.wait(signalOf(idOf(ref.database, ref.name)), Math.min(leftMs, LOOK_AGAIN_MS));
      await consumer.wait.woken;
      consumer.wait = undefined;
    }
  }

  #search({ database, name }: QueueRef, consumer: Consumer): RecordCopy | 'none' | Promise<RecordCopy | 'none'> {
    const { slices, runtime } = this.#options;
    const { commands } = consumer;
    const queue = idOf(database, name);
    const first = Buffer.concat([name, Buffer.from(' ')]);
    const end = Buffer.concat([name, Buffer.from('!')]);
    const head = this.#heads.get(queue);
    const nowMs = runtime.monotonicMs();
    const isWhole = head === undefined || nowMs - head.wholeMs >= WHOLE_SEARCH_MS;
    let start = isWhole ? first : afterKey(head.after);
    if (isWhole && head !== undefined) this.#remember(queue, { ...head, wholeMs: nowMs });
    return slices.run<RecordCopy | 'none'>(
      () => {
        let found: RecordCopy | undefined;
        const range = { start, end, limit: STEP_ROWS };
        const last = commands.visit(database, range, (key, { value, xtMs }) => {
          const id = idOf(database, key);
          if (this.#claimed.has(id)) return true;
          found = { value: Buffer.from(value), xtMs };
          const claim = { queue, database, key: Buffer.from(key), id };
          this.#claimed.add(id);
          consumer.claims.push(claim);
          this.#remember(queue, { after: claim.key, wholeMs: isWhole ? nowMs : head.wholeMs });
          return false;
        });
        if (found !== undefined) return found;
        if (last === undefined) return 'none';
        start = afterKey(last);
        return undefined;
      },
      () => !consumer.ended,
    );
  }

  #remember(queue: string, head: Head): void {
    if (this.#heads.size >= MAX_HEADS && !this.#heads.has(queue)) {
      const [oldest] = this.#heads.keys();
      this.#heads.delete(oldest as string);
    }
    this.#heads.set(queue, head);
  }

  /** Removes the oldest message that `consumer` took of this queue; false when it has none. */
  async acknowledge({ database, name }: QueueRef, consumer: Consumer): Promise<boolean> {
    const queue = idOf(database, name);
    const at = consumer.claims.findIndex((claim) => claim.queue === queue);
    if (at < 0) return false;
    const [claim] = consumer.claims.splice(at, 1) as [Claim];
    try {
      await consumer.commands.remove(claim);
    } catch (error) {
      // It expired meanwhile, or somebody removed it: either way it is done.
      if (!(error instanceof TokaidoError) || error.code !== 'NO_RECORD') {
        if (consumer.ended) this.#free(claim);
        else consumer.claims.splice(at, 0, claim);
        throw error;
      }
    }
    this.#claimed.delete(claim.id);
    return true;
  }

  /** The consumer is gone: what it took and did not acknowledge is free again. */
  release(consumer: Consumer): void {
    consumer.end();
    for (const claim of consumer.claims.splice(0)) this.#free(claim);
  }

  #free({ id, queue }: Claim): void {
    this.#claimed.delete(id);
    this.#heads.delete(queue);
    this.#options.signals.signal(signalOf(queue), false);
  }
}

/** No name of a client's signal begins so by chance. */
function signalOf(queue: string): string {
  return `\0queue ${queue}`;
}
