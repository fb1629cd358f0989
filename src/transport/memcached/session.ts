/** What memcached's commands need beside their arguments: the listener's shared parts, its options, and one connection. */
import type { Commands } from '../../commands/commands.js';
import { Consumer, type MessageQueues } from '../../commands/message-queues.js';
import type { Recaching } from '../../commands/recaching.js';
import type { Slices } from '../../commands/slices.js';
import type { Database } from '../../store/types.js';

/** How a memcached listener behaves: the options of Kyoto Tycoon's plug-in. */
export interface MemcachedOptions {
  /** Name or number of the database; the first when absent. */
  readonly database: string | undefined;
  /** Clients' flags are kept, in the last four bytes of the stored value. */
  readonly flags: boolean;
  /** `set`, `get` and `delete` work on message queues. */
  readonly queue: boolean;
  /** How long a get waits for a message, ms. */
  readonly queueTimeoutMs: number;
  /** Nothing is changed through this listener. */
  readonly readOnly: boolean;
}

/** What was asked for through one listener. */
export class MemcachedCounts {
  get = 0;
  getMisses = 0;
  set = 0;
  setMisses = 0;
  delete = 0;
  deleteMisses = 0;
  incr = 0;
  incrMisses = 0;
  decr = 0;
  decrMisses = 0;
  touch = 0;
  touchMisses = 0;
  flush = 0;
}

/** What all connections of a memcached listener share. */
export interface MemcachedHost {
  readonly commands: Commands;
  readonly slices: Slices;
  readonly queues: MessageQueues;
  readonly recaching: Recaching;
  readonly options: MemcachedOptions;
  readonly limits: { readonly connections: number };
  /** Counts since the start, or since a client said `stats reset`. */
  readonly counts: MemcachedCounts;
  nowMs(): number;
  uptimeMs(): number;
  connections(): number;
  /** Empties the database later; a later order replaces an earlier one. */
  flushLater(delayMs: number): void;
}

export class MemcachedSession {
  readonly host: MemcachedHost;
  readonly consumer: Consumer;
  #closed = false;

  constructor(host: MemcachedHost) {
    this.host = host;
    this.consumer = new Consumer(host.commands);
  }

  /** Whether somebody still waits for answers. Bound: it is handed to whoever works in slices. */
  readonly isOpen = (): boolean => !this.#closed;

  /** The listener's database. Errors: `NO_DATABASE`, `NOT_READY`. */
  database(): Database {
    return this.host.commands.database(this.host.options.database ?? 0);
  }

  close(): void {
    this.#closed = true;
    this.host.queues.release(this.consumer);
  }
}
