/**
 * Keeps what clients may cost within limits, for all client listeners of a node together: a connection that is in the
 * middle of a request, or does not take its answers, has to move on; one that is idle ends some day; and when all
 * together hold more memory than they may, the one that holds most is ended. An honest client that holds little never
 * notices what others do.
 *
 * It looks at every connection a few times a second. In between only those that hold much report it, so that a burst of
 * large answers cannot pass the limit, and all others pay nothing.
 */
import type { Socket } from 'node:net';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';

/** One connection, as its listener and the keeper see it. */
export interface Conversation {
  /**
   * Whether a request has begun and is not all there, or the client has to close after its last answer: what a slow
   * client would hold open for ever.
   */
  readonly isWaitingForRest: boolean;
  /** Whether a request is being worked on, or an answer is owed: such a connection is not idle. */
  readonly isWorking: boolean;
  /** About how many bytes of memory it holds for its client, beside what waits in the socket. */
  readonly heldBytes: number;
  /** Set by the keeper, and called by the connection whenever it holds `MUCH_BYTES` or more. */
  holdsMuch: () => void;
}

/** What clients may cost: `limits` of the configuration. */
export interface ClientLimits {
  /** A connection on which nothing happens for so long ends; 0 never. */
  readonly idleMs: number;
  /** How long a client may keep the node waiting in the middle of a request, or of taking an answer. */
  readonly patienceMs: number;
  /** A longer request or answer gets as much more time as it needs at this speed. */
  readonly slowestBytesPerSecond: number;
  /** Memory that all clients together may hold. */
  readonly clientBytes: number;
}

const LOOK_MS = 200;
/** A connection that holds more than this reports it. */
export const MUCH_BYTES = 64 * 1024;
/** What is left of the limit after room was made: making it costs a look at everybody. */
const LEFT = 0.75;
/** At most one line about cut connections in this time; the rest is counted with it. */
const LOG_MS = 1_000;

/** What was last seen of one connection. */
interface Watched {
  readonly socket: Socket;
  readonly conversation: Conversation;
  bytesRead: number;
  /** Bytes of answers that the client has taken. */
  bytesTaken: number;
  /** Since when there is a request that is not all there, and how much had been read then. */
  rest: { readonly sinceMs: number; readonly bytesRead: number } | undefined;
  /** When the client last took something, or had nothing to take. */
  takingMs: number;
  /** When anything last happened. */
  activeMs: number;
  /** What it is counted with. */
  heldBytes: number;
}

/** Why a connection is ended. */
export type Cut = 'idle' | 'slow-request' | 'slow-reader' | 'memory';

const WHY: Readonly<Record<Cut, string>> = {
  idle: 'nothing happened on it for limits.idleMs',
  'slow-request': 'a request was not all there in time (limits.patienceMs)',
  'slow-reader': 'it did not take its answers in time (limits.patienceMs)',
  memory: 'it held most of what all clients may hold (limits.clientBytes)',
};

export class ClientKeeper {
  readonly #limits: ClientLimits;
  readonly #runtime: Runtime;
  readonly #log: Logger;
  readonly #watched = new Set<Watched>();
  readonly #timer: Timer;
  #loggedMs = Number.NEGATIVE_INFINITY;
  #unlogged = 0;
  /** Bytes that all held together when it last looked. */
  heldBytes = 0;
  /** Connections ended, by reason; for metrics. */
  readonly cuts = new Map<Cut, number>([
    ['idle', 0],
    ['slow-request', 0],
    ['slow-reader', 0],
    ['memory', 0],
  ]);

  constructor(options: { readonly limits: ClientLimits; readonly runtime: Runtime; readonly log: Logger }) {
    this.#limits = options.limits;
    this.#runtime = options.runtime;
    this.#log = options.log;
    this.#timer = this.#runtime.every(LOOK_MS, () => this.#look());
  }

  /** Keeps an eye on a connection until it closes. */
  watch(socket: Socket, conversation: Conversation): void {
    const nowMs = this.#runtime.monotonicMs();
    const watched: Watched = {
      socket,
      conversation,
      bytesRead: 0,
      bytesTaken: 0,
      rest: undefined,
      takingMs: nowMs,
      activeMs: nowMs,
      heldBytes: 0,
    };
    conversation.holdsMuch = () => this.#count(watched);
    this.#watched.add(watched);
    socket.on('close', () => this.#watched.delete(watched));
  }

  close(): void {
    this.#timer.cancel();
  }

  #look(): void {
    const nowMs = this.#runtime.monotonicMs();
    let total = 0;
    for (const watched of this.#watched) {
      const cut = this.#verdict(watched, nowMs);
      if (cut !== undefined) {
        this.#cut(watched, cut);
        continue;
      }
      watched.heldBytes = held(watched);
      total += watched.heldBytes;
    }
    this.heldBytes = total;
    this.#makeRoom();
  }

  #count(watched: Watched): void {
    if (!this.#watched.has(watched)) return;
    const heldBytes = held(watched);
    this.heldBytes += heldBytes - watched.heldBytes;
    watched.heldBytes = heldBytes;
    this.#makeRoom();
  }

  #verdict(watched: Watched, nowMs: number): Cut | undefined {
    const { socket, conversation } = watched;
    const unsent = socket.writableLength;
    const taken = socket.bytesWritten - unsent;
    const took = taken !== watched.bytesTaken;
    if (took || socket.bytesRead !== watched.bytesRead || conversation.isWorking) watched.activeMs = nowMs;
    if (took || unsent === 0) watched.takingMs = nowMs;
    watched.bytesTaken = taken;
    watched.bytesRead = socket.bytesRead;
    if (nowMs - watched.takingMs > this.#allowedMs(unsent)) return 'slow-reader';
    if (!conversation.isWaitingForRest) {
      watched.rest = undefined;
    } else {
      watched.rest ??= { sinceMs: nowMs, bytesRead: socket.bytesRead };
      const received = socket.bytesRead - watched.rest.bytesRead;
      if (nowMs - watched.rest.sinceMs > this.#allowedMs(received)) return 'slow-request';
    }
    const { idleMs } = this.#limits;
    return idleMs > 0 && nowMs - watched.activeMs > idleMs ? 'idle' : undefined;
  }

  #allowedMs(bytes: number): number {
    const { patienceMs, slowestBytesPerSecond } = this.#limits;
    return patienceMs + (bytes * 1000) / slowestBytesPerSecond;
  }

  /** When all together hold too much, ends the connections that hold most. */
  #makeRoom(): void {
    const { clientBytes } = this.#limits;
    if (this.heldBytes <= clientBytes) return;
    const largest = [...this.#watched].sort((a, b) => b.heldBytes - a.heldBytes);
    for (const watched of largest) {
      if (this.heldBytes <= clientBytes * LEFT) return;
      this.heldBytes -= watched.heldBytes;
      this.#cut(watched, 'memory');
    }
  }

  #cut(watched: Watched, cut: Cut): void {
    const { socket } = watched;
    this.#watched.delete(watched);
    this.cuts.set(cut, (this.cuts.get(cut) ?? 0) + 1);
    this.#tell(socket, cut, watched.heldBytes);
    socket.destroy();
  }

  #tell(socket: Socket, cut: Cut, heldBytes: number): void {
    const fields = { address: socket.remoteAddress, reason: cut, heldBytes };
    if (cut === 'idle') {
      this.#log.debug(fields, `client connection ended: ${WHY.idle}`);
      return;
    }
    const nowMs = this.#runtime.monotonicMs();
    if (nowMs - this.#loggedMs < LOG_MS) {
      this.#unlogged++;
      return;
    }
    this.#loggedMs = nowMs;
    this.#log.warn({ ...fields, unlogged: this.#unlogged }, `client connection ended: ${WHY[cut]}`);
    this.#unlogged = 0;
  }
}

function held({ socket, conversation }: Watched): number {
  return conversation.heldBytes + socket.writableLength;
}
