/**
 * One connection that follows a Kyoto Tycoon server: asks for everything after a time stamp, answers its ticks, and
 * hands on what it says, chunk by chunk.
 */
import { connect, type Socket } from 'node:net';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Runtime } from '../../base/runtime.js';
import {
  encodeFollowRequest,
  KT_ACCEPT,
  type KtEvent,
  type KtFollowRequest,
  KtStreamDecoder,
} from '../../protocol/kt-replication.js';

export interface KtConnectionOptions {
  readonly host: string;
  readonly port: number;
  readonly runtime: Runtime;
  /** A server that says nothing for this long is given up, ms. */
  readonly silenceMs: number;
  /** Largest message. */
  readonly messageBytes: number;
  /** All events of one chunk of bytes. A throw ends the connection with that error. */
  onEvents(events: readonly KtEvent[]): void;
}

/** Why nothing is read for now. */
export type PauseReason = 'pressure' | 'rest';

export class KtConnection {
  readonly #socket: Socket;
  readonly #paused = new Set<PauseReason>();
  /** Rejects when the connection is over, with the reason. */
  readonly ended: Promise<never>;
  #fail: (error: unknown) => void = () => undefined;

  constructor(request: KtFollowRequest, options: KtConnectionOptions) {
    const { host, port, runtime, silenceMs, messageBytes } = options;
    const socket = connect({ host, port, noDelay: true });
    this.#socket = socket;
    this.ended = new Promise<never>((_, reject) => {
      this.#fail = reject;
    });
    // Whoever made the connection hears of its end when it asks.
    this.ended.catch(() => undefined);
    const decoder = new KtStreamDecoder(messageBytes);
    let heardMs = runtime.monotonicMs();
    const watch = runtime.every(Math.max(100, silenceMs / 4), () => {
      if (this.#paused.size > 0) heardMs = runtime.monotonicMs();
      if (runtime.monotonicMs() - heardMs > silenceMs)
        this.end(new TokaidoError('FEED', `${host}:${port} said nothing for ${silenceMs} ms`));
    });
    socket.on('connect', () => socket.write(encodeFollowRequest(request)));
    socket.on('data', (chunk: Buffer) => {
      heardMs = runtime.monotonicMs();
      try {
        const events = [...decoder.push(chunk)];
        for (const event of events) if (event.kind === 'tick' && event.wantsAnswer) socket.write(KT_ACCEPT);
        options.onEvents(events);
      } catch (error) {
        this.end(error);
      }
    });
    socket.on('error', (error) => this.end(new TokaidoError('FEED', `${host}:${port}: ${messageOf(error)}`)));
    socket.on('close', () => {
      watch.cancel();
      this.end(new TokaidoError('FEED', `${host}:${port} closed the connection`));
    });
  }

  /** Stops reading, and starts again when no reason is left: the server waits meanwhile. */
  pause(reason: PauseReason, isPaused: boolean): void {
    const wasPaused = this.#paused.size > 0;
    if (isPaused) this.#paused.add(reason);
    else this.#paused.delete(reason);
    if (wasPaused === this.#paused.size > 0) return;
    if (isPaused) this.#socket.pause();
    else this.#socket.resume();
  }

  end(reason: unknown): void {
    this.#fail(reason);
    this.#socket.destroy();
  }
}
