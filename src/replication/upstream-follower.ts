/**
 * The follower side of a node: keeps a link to one of its upstreams, for ever. Connects, lets a session speak, and when
 * it ends tries the next upstream after a short, jittered wait. Silence for `silenceMs` counts as loss: upstreams send
 * heartbeats.
 */
import { messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import type { Peer, PeerLink } from './link.js';
import { type BackOff, type UpstreamAddress, UpstreamChoice } from './upstream-choice.js';
import { type UpstreamHost, UpstreamSession, type UpstreamState } from './upstream-session.js';

/** What the transport reports of an open link. */
export interface LinkEvents {
  onData(chunk: Buffer): void;
  onDrain(): void;
  /** Exactly once. */
  onClose(reason: string): void;
}

/** Opens an authenticated link. Rejects with the reason when the upstream cannot be reached or is not allowed. */
export type Connect = (upstream: UpstreamAddress, attach: (peer: Peer, link: PeerLink) => LinkEvents) => Promise<void>;

export interface UpstreamFollowerOptions {
  readonly upstreams: readonly UpstreamAddress[];
  readonly backOff: BackOff;
  /** An upstream that says nothing for this long is given up. */
  readonly silenceMs: number;
  readonly connect: Connect;
  readonly host: Omit<UpstreamHost, 'onEnd'>;
  readonly runtime: Runtime;
  readonly log: Logger;
}

/** What status shows. */
export interface UpstreamStatus {
  readonly address: string;
  readonly name: string | undefined;
  readonly state: UpstreamState | 'connecting' | 'waiting';
  /** Since when, on the runtime's monotonic clock. */
  readonly sinceMs: number;
  readonly lastError: string | undefined;
  readonly loading: { readonly rows: number; readonly of: number } | undefined;
}

/**
 * How often an upstream learns how far this node is, at most. There is no timer behind it: heartbeats arrive more often
 * than anybody looks, and each is an occasion.
 */
const ACK_MS = 250;

export class UpstreamFollower {
  readonly #options: UpstreamFollowerOptions;
  readonly #choice: UpstreamChoice;
  #session: UpstreamSession | undefined;
  #link: PeerLink | undefined;
  #upstream: UpstreamAddress;
  #phase: 'connecting' | 'waiting' | 'linked' = 'waiting';
  #sinceMs: number;
  #heardMs = 0;
  #lastError: string | undefined;
  #retry: Timer | undefined;
  readonly #watch: Timer;
  #ackedMs = Number.NEGATIVE_INFINITY;
  #stopped = false;

  constructor(options: UpstreamFollowerOptions) {
    this.#options = options;
    this.#choice = new UpstreamChoice(options.upstreams, options.backOff);
    this.#upstream = options.upstreams[0] as UpstreamAddress;
    this.#sinceMs = options.runtime.monotonicMs();
    this.#watch = options.runtime.every(Math.max(100, options.silenceMs / 4), () => this.#checkSilence());
    this.#schedule();
  }

  #schedule(): void {
    if (this.#stopped) return;
    const { upstream, delayMs } = this.#choice.next(() => this.#options.runtime.random());
    this.#enter('waiting');
    this.#retry = this.#options.runtime.after(delayMs, () => void this.#connect(upstream));
  }

  #enter(phase: 'connecting' | 'waiting' | 'linked'): void {
    this.#phase = phase;
    this.#sinceMs = this.#options.runtime.monotonicMs();
  }

  async #connect(upstream: UpstreamAddress): Promise<void> {
    this.#upstream = upstream;
    this.#enter('connecting');
    try {
      await this.#options.connect(upstream, (peer, link) => this.#attach(peer, link));
    } catch (error) {
      this.#lost(messageOf(error));
    }
  }

  #attach(peer: Peer, link: PeerLink): LinkEvents {
    this.#enter('linked');
    this.#heardMs = this.#options.runtime.monotonicMs();
    this.#link = link;
    const { host } = this.#options;
    const session: UpstreamSession = new UpstreamSession(peer, link, {
      ...host,
      onWelcome: (welcome) => {
        this.#choice.succeeded();
        this.#lastError = undefined;
        host.onWelcome(welcome);
      },
      onEnd: (reason) => this.#lost(reason),
    });
    this.#session = session;
    if (this.#stopped) session.end('this node is stopping');
    return {
      onData: (chunk) => {
        this.#heardMs = this.#options.runtime.monotonicMs();
        session.onData(chunk);
        if (this.#heardMs - this.#ackedMs >= ACK_MS) {
          this.#ackedMs = this.#heardMs;
          session.acknowledge();
        }
      },
      onDrain: () => undefined,
      onClose: (reason) => session.onClosed(reason),
    };
  }

  #lost(reason: string): void {
    this.#session = undefined;
    this.#link = undefined;
    if (this.#stopped) return;
    this.#lastError = reason;
    const { host, port } = this.#upstream;
    this.#options.log.warn({ upstream: `${host}:${port}`, reason }, 'no link to the upstream: trying again');
    this.#schedule();
  }

  #checkSilence(): void {
    if (this.#phase !== 'linked') return;
    const nowMs = this.#options.runtime.monotonicMs();
    // Nothing can be heard on a link that waits for our own disk.
    if (this.#session?.isPaused === true) this.#heardMs = nowMs;
    const silentMs = nowMs - this.#heardMs;
    if (silentMs < this.#options.silenceMs) return;
    this.#link?.destroy(`silent for ${Math.round(silentMs)} ms`);
  }

  /** Asks over the link. Errors: `NOT_READY` without one, and those of `UpstreamSession.ask`. */
  async ask(request: Buffer): Promise<Buffer> {
    if (this.#session === undefined) throw new TokaidoError('NOT_READY', 'there is no link to an upstream to ask over');
    return await this.#session.ask(request);
  }

  status(): UpstreamStatus {
    const { host, port, name } = this.#upstream;
    return {
      address: `${host}:${port}`,
      name: this.#session?.peer.name ?? name,
      state: this.#phase === 'linked' ? (this.#session?.state ?? 'ended') : this.#phase,
      sinceMs: this.#sinceMs,
      lastError: this.#lastError,
      loading: this.#session?.progress,
    };
  }

  stop(): void {
    this.#stopped = true;
    this.#retry?.cancel();
    this.#watch.cancel();
    this.#session?.end('this node is stopping');
  }
}
