/**
 * A simulated network between machines, with TCP's promises: bytes of one direction of one link arrive in order, cut
 * anywhere, or the link breaks. Links are independent of each other, so that what one overtakes another is reordered.
 * Directions between machines can be cut off (each alone: partitions may be asymmetric); what is under way then waits,
 * and when it has waited too long the link breaks.
 */

import type { Connect, LinkEvents } from '../replication/following/upstream-follower.js';
import type { Peer, PeerLink } from '../replication/link.js';
import type { Dice } from './dice.js';
import type { Crash, Process } from './machine.js';
import type { Scheduler } from './scheduler.js';

/** Bytes that the systems of both ends hold for a link, beyond which the sender's own queue grows. */
const WINDOW_BYTES = 16 * 1024;
/** Largest piece that arrives at once. */
const PIECE_BYTES = 4096;
/** A link whose peer says nothing more breaks within this time, ms: soon, or when the system gives up at last. */
const BREAK_MS = [3000, 20_000, 600_000] as const;
const CONNECT_TIMEOUT_MS = 3000;
const CLOSE_TIMEOUT_MS = 2000;

/** Who listens for followers. */
export interface Listener {
  readonly process: Process;
  readonly peer: Peer;
  accept(peer: Peer, link: PeerLink): LinkEvents;
}

/** How a network is at the moment. */
export interface NetworkWeather {
  /** Least time on the way, ms. */
  latencyMs: number;
  /** Up to so much more, ms. */
  jitterMs: number;
  bytesPerMs: number;
  /** After so long a link whose peer says nothing more breaks; soon or late when absent. */
  breakMs?: number | undefined;
}

export class Network {
  /** Bytes per millisecond of machines with a line slower than the weather. */
  readonly slow = new Map<string, number>();
  readonly weather: NetworkWeather = { latencyMs: 1, jitterMs: 1, bytesPerMs: 10_000 };
  readonly scheduler: Scheduler;
  readonly dice: Dice;
  readonly #listeners = new Map<string, Listener>();
  /** `from>to` of directions that are cut off. */
  readonly #cut = new Set<string>();
  readonly #links = new Set<Connection>();

  constructor(scheduler: Scheduler, dice: Dice) {
    this.scheduler = scheduler;
    this.dice = dice;
  }

  listen(name: string, listener: Listener): void {
    this.#listeners.set(name, listener);
  }

  bytesPerMs(...names: readonly string[]): number {
    return Math.min(this.weather.bytesPerMs, ...names.map((name) => this.slow.get(name) ?? Number.POSITIVE_INFINITY));
  }

  delayMs(): number {
    const { latencyMs, jitterMs } = this.weather;
    return latencyMs + jitterMs * this.dice.roll();
  }

  breakMs(): number {
    return this.weather.breakMs ?? this.dice.pick(BREAK_MS) * (0.1 + 0.9 * this.dice.roll());
  }

  isCut(from: string, to: string): boolean {
    return this.#cut.has(`${from}>${to}`);
  }

  /** Nothing gets from one machine to the other any more, until `heal`. */
  cut(from: string, to: string): void {
    this.#cut.add(`${from}>${to}`);
  }

  heal(): void {
    this.#cut.clear();
    for (const link of this.#links) link.kick();
  }

  /** How a process reaches its upstreams. */
  connector(process: Process, peer: Peer): Connect {
    return async (upstream, attach) => {
      const { host } = upstream;
      const { name } = process.machine;
      const outcome = await new Promise<Listener | string>((resolve) => {
        const late = (what: string): void => {
          this.scheduler.after(CONNECT_TIMEOUT_MS, () => resolve(what), process);
        };
        if (!process.effect()) return;
        if (this.isCut(name, host) || this.isCut(host, name)) {
          late('no answer');
          return;
        }
        this.scheduler.after(
          3 * this.delayMs(),
          () => {
            const listener = this.#listeners.get(host);
            if (this.isCut(name, host) || this.isCut(host, name)) late('no answer');
            else if (listener?.process.alive !== true) resolve('connection refused');
            else resolve(listener);
          },
          process,
        );
      });
      if (typeof outcome === 'string') throw new Error(outcome);
      if (!process.alive) return;
      this.#links.add(new Connection(this, process, outcome, peer, attach, (link) => this.#links.delete(link)));
    };
  }

  /** Breaks a link, as a router that restarts does. Returns whether there was one. */
  breakOne(): boolean {
    if (this.#links.size === 0) return false;
    this.dice.pick([...this.#links]).reset();
    return true;
  }

  /** Breaks all links of a machine. */
  breakAllOf(name: string): void {
    for (const link of [...this.#links]) if (link.joins(name)) link.reset();
  }

  /** What a process's end means for its links. */
  crashed(process: Process, crash: Crash): void {
    for (const link of [...this.#links]) link.crashed(process, crash);
  }
}

/** Both ends of one link. */
class Connection {
  readonly network: Network;
  readonly #down: End;
  readonly #up: End;
  readonly #onGone: (link: Connection) => void;
  #isGone = false;

  constructor(
    network: Network,
    follower: Process,
    upstream: Listener,
    peer: Peer,
    attach: (peer: Peer, link: PeerLink) => LinkEvents,
    onGone: (link: Connection) => void,
  ) {
    this.network = network;
    this.#onGone = onGone;
    this.#down = new End(this, follower, upstream.process);
    this.#up = new End(this, upstream.process, follower);
    this.#down.events = attach(upstream.peer, this.#down);
    this.#up.events = upstream.accept(peer, this.#up);
    // Either may have crashed over its first words.
    for (const end of [this.#down, this.#up]) if (!end.process.alive) this.crashed(end.process, 'kill');
  }

  otherEnd(end: End): End {
    return end === this.#down ? this.#up : this.#down;
  }

  joins(name: string): boolean {
    return [this.#down, this.#up].some(({ process }) => process.machine.name === name);
  }

  kick(): void {
    for (const end of [this.#down, this.#up]) end.pump();
  }

  reset(): void {
    for (const end of [this.#down, this.#up]) end.lose('connection reset', this.network.delayMs());
  }

  crashed(process: Process, crash: Crash): void {
    for (const end of [this.#down, this.#up]) {
      if (end.process !== process) continue;
      const { dice } = this.network;
      const laterMs = crash === 'kill' ? this.network.delayMs() : this.network.breakMs();
      // What the system had taken may still go out after a kill.
      if (crash === 'power' || dice.chance(0.5)) end.dropQueue();
      for (const each of [end, this.otherEnd(end)]) {
        each.lose(crash === 'kill' ? 'connection reset' : 'no answer', laterMs);
      }
    }
  }

  endClosed(): void {
    if (this.#isGone || !this.#down.isClosed || !this.#up.isClosed) return;
    this.#isGone = true;
    this.#onGone(this);
  }
}

interface Piece {
  readonly bytes: Buffer;
  readonly dueMs: number;
}

/** One end: the sending half of one direction, and who handles what arrives. */
class End implements PeerLink {
  readonly process: Process;
  events: LinkEvents | undefined;
  isClosed = false;
  readonly #link: Connection;
  readonly #to: Process;
  #queue: Piece[] = [];
  #queuedBytes = 0;
  #lastDueMs = 0;
  #isEnding = false;
  #isPaused = false;
  #pumpAtMs: number | undefined;
  #stalledSinceMs: number | undefined;

  constructor(link: Connection, process: Process, to: Process) {
    this.#link = link;
    this.process = process;
    this.#to = to;
  }

  get #network(): Network {
    return this.#link.network;
  }

  get queuedBytes(): number {
    return Math.max(0, this.#queuedBytes - WINDOW_BYTES);
  }

  send(chunks: readonly Buffer[]): void {
    if (this.isClosed || this.#isEnding || !this.process.effect()) return;
    const { dice, scheduler } = this.#network;
    const bytesPerMs = this.#network.bytesPerMs(this.process.machine.name, this.#to.machine.name);
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.length; ) {
        const size = Math.min(chunk.length - at, dice.chance(0.2) ? 1 + dice.below(PIECE_BYTES) : PIECE_BYTES);
        this.#lastDueMs = Math.max(this.#lastDueMs, scheduler.nowMs + this.#network.delayMs()) + size / bytesPerMs;
        this.#queue.push({ bytes: Buffer.from(chunk.subarray(at, at + size)), dueMs: this.#lastDueMs });
        this.#queuedBytes += size;
        at += size;
      }
    }
    this.pump();
  }

  /** Sees to it that what is due is delivered. */
  pump(): void {
    const { scheduler } = this.#network;
    const dueMs = this.#queue[0]?.dueMs ?? (this.#isEnding ? this.#lastDueMs : undefined);
    if (dueMs === undefined || (this.#pumpAtMs !== undefined && this.#pumpAtMs >= scheduler.nowMs)) return;
    this.#pumpAtMs = Math.max(dueMs, scheduler.nowMs);
    scheduler.after(this.#pumpAtMs - scheduler.nowMs, () => this.#deliver());
  }

  #deliver(): void {
    this.#pumpAtMs = undefined;
    const other = this.#link.otherEnd(this);
    if (other.isClosed || !this.#to.alive) return;
    if (this.#network.isCut(this.process.machine.name, this.#to.machine.name)) {
      this.#stall();
      return;
    }
    this.#stalledSinceMs = undefined;
    if (other.#isPaused) return;
    const piece = this.#queue.shift();
    if (piece === undefined) {
      if (this.#isEnding) this.#finish(other);
      return;
    }
    const before = this.queuedBytes;
    this.#queuedBytes -= piece.bytes.length;
    other.events?.onData(piece.bytes);
    if (before > 0 && this.queuedBytes === 0) {
      this.#network.scheduler.after(0, () => this.isClosed || this.events?.onDrain(), this.process);
    }
    this.pump();
  }

  /** What cannot get through breaks the link in the end. */
  #stall(): void {
    const { scheduler } = this.#network;
    if (this.#stalledSinceMs !== undefined) return;
    const sinceMs = scheduler.nowMs;
    this.#stalledSinceMs = sinceMs;
    scheduler.after(this.#network.breakMs(), () => {
      if (this.#stalledSinceMs !== sinceMs) return;
      this.lose('no answer', 0);
      this.#link.otherEnd(this).lose('no answer', this.#network.breakMs());
    });
  }

  #finish(other: End): void {
    other.lose('the peer closed the link', 0);
    this.lose('closed by this node', this.#network.delayMs());
  }

  dropQueue(): void {
    this.#queue = [];
  }

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    this.#link.otherEnd(this).pump();
  }

  close(): void {
    if (this.isClosed || this.#isEnding || !this.process.effect()) return;
    this.#isEnding = true;
    this.#lastDueMs = Math.max(this.#lastDueMs, this.#network.scheduler.nowMs + this.#network.delayMs());
    this.pump();
    this.lose('closed by this node', CLOSE_TIMEOUT_MS);
    this.#link.otherEnd(this).lose('connection reset', CLOSE_TIMEOUT_MS + this.#network.delayMs());
  }

  destroy(reason: string): void {
    if (this.isClosed || !this.process.effect()) return;
    this.lose(reason, 0);
    this.#link.otherEnd(this).lose('connection reset', this.#network.delayMs());
  }

  /** This end's link is gone, `laterMs` from now, unless it is before. */
  lose(reason: string, laterMs: number): void {
    this.#network.scheduler.after(laterMs, () => {
      if (this.isClosed) return;
      this.isClosed = true;
      this.#queue = [];
      if (this.process.alive) this.events?.onClose(reason);
      this.#link.endClosed();
    });
  }
}
