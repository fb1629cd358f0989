/** What remote procedures need beside their arguments: the listener's shared parts, and the state of one connection. */
import { TokaidoError } from '../../base/errors.js';
import type { Commands } from '../../commands/commands.js';
import { Cursor } from '../../commands/cursors.js';
import type { FeedWait, FeedWaits } from '../../commands/feed-waits.js';
import type { Signals, Wait } from '../../commands/signals.js';
import type { Slices } from '../../commands/slices.js';
import type { AtLeast } from '../../protocol/at-least.js';
import type { Database } from '../../store/types.js';

/** Most cursors of one connection. */
const MAX_CURSORS = 256;

/** Another server to follow: what `tune_replication` is called with. */
export interface KtUpstreamChange {
  /** `undefined`: none any more. */
  readonly upstream: { readonly host: string; readonly port: number } | undefined;
  /** Where to go on, ns; `undefined`: at the change that is here already. */
  readonly timestampNs: bigint | undefined;
  /** Rest for each change, ms; `undefined`: as before. */
  readonly intervalMs: number | undefined;
}

/** The server that is followed: what `report` tells. */
export interface KtUpstreamReport {
  readonly host: string;
  readonly port: number;
  /** Of the last change that is here, ns. */
  readonly timestampNs: bigint;
  readonly intervalMs: number;
}

/** What remote procedures ask of the node behind the listener; what it does not have is absent. */
export interface NodeServices {
  /** The update log, when Kyoto Tycoon followers are served from it: its size, and the stamp of its newest change. */
  updateLog?(): { readonly bytes: number; readonly timestampNs: bigint } | undefined;
  /** Runs a program of the operator's on a copy of a database; whether it ended well. */
  runCommand?(database: Database, command: string): Promise<boolean>;
  /** Has the Kyoto Tycoon feed follow another server. Errors: `NOT_IMPLEMENTED`, `NOT_READY`. */
  follow?(change: KtUpstreamChange): void;
  /** Whom it follows. */
  following?(): KtUpstreamReport | undefined;
}

/** What all connections of a listener share. */
export interface RpcHost {
  readonly commands: Commands;
  readonly slices: Slices;
  readonly signals: Signals;
  readonly feedWaits: FeedWaits;
  nowMs(): number;
  /** Milliseconds since the listener was opened. */
  uptimeMs(): number;
  connections(): number;
  readonly services: NodeServices;
}

/** One connection's cursors and wait. */
export class RpcSession {
  readonly host: RpcHost;
  readonly #cursors = new Map<bigint, Cursor>();
  #wait: Wait | undefined;
  #feedWait: FeedWait | undefined;
  /** The client says no more. */
  #ended = false;
  #closed = false;

  constructor(host: RpcHost) {
    this.host = host;
  }

  /** Whether somebody still waits for answers. Bound: it is handed to whoever works in slices. */
  readonly isOpen = (): boolean => !this.#closed;

  /** The cursor of this number, made when it is new; it stays on the database it was made for. Errors: `OVERLOADED`. */
  cursor(id: bigint, database: () => Database): Cursor {
    const known = this.#cursors.get(id);
    if (known !== undefined) return known;
    if (this.#cursors.size >= MAX_CURSORS) {
      throw new TokaidoError('OVERLOADED', `this connection has ${MAX_CURSORS} cursors already`, {
        hint: 'delete the ones that are not needed any more with cur_delete',
      });
    }
    const { commands, slices } = this.host;
    const cursor = new Cursor(database(), { commands, slices, isWanted: this.isOpen });
    this.#cursors.set(id, cursor);
    return cursor;
  }

  /** Returns whether there was one. */
  deleteCursor(id: bigint): boolean {
    return this.#cursors.delete(id);
  }

  /** Whether the signal came in time. Errors: `OVERLOADED`, `TOO_LARGE`. */
  async waitFor(name: string, timeoutMs: number): Promise<boolean> {
    if (this.#ended) return false;
    const wait = this.host.signals.wait(name, timeoutMs);
    this.#wait = wait;
    try {
      return await wait.woken;
    } finally {
      this.#wait = undefined;
    }
  }

  /**
   * Waits until this node has what the client asks for; `undefined` when it has it already. Errors: `TIMEOUT`,
   * `OVERLOADED`, `NO_DATABASE`.
   */
  reach({ feed, position, waitMs }: AtLeast, database: string): Promise<void> | undefined {
    const { commands, feedWaits } = this.host;
    const { name } = commands.database(database === '' ? 0 : database);
    const wait = feedWaits.wait({ feed, position, database: name }, waitMs);
    if (wait === undefined) return undefined;
    this.#feedWait = wait;
    return wait.done.finally(() => {
      this.#feedWait = undefined;
    });
  }

  /** The client says no more: whoever waits for a signal is probably gone. So are the waits it asked for before that. */
  end(): void {
    this.#ended = true;
    this.#wait?.cancel();
  }

  close(): void {
    this.#closed = true;
    this.end();
    this.#feedWait?.cancel();
    this.#cursors.clear();
  }
}
