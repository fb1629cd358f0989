/**
 * The followers of this node that are Kyoto Tycoon servers: wakes them after commits, beats for them, and lets only so
 * many copy at a time. They are told nothing of positions and prove nothing: who may connect is the listener's matter.
 */
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { LocalStore } from '../../store/store.js';
import type { PeerLink } from '../link.js';
import { Scope } from '../scope.js';
import type { FollowerStatus } from '../sending/server.js';
import { KtFollowerSession, type KtPeer, type KtSessionHost } from './follower-session.js';

export interface KtReplicationServerOptions {
  readonly store: LocalStore;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** How often a follower that has everything is told so, ms. */
  readonly heartbeatMs: number;
  readonly silenceMs: number;
  /** Bytes that may wait for one follower. */
  readonly queueBytes: number;
  /** Copies sent at the same time; more followers wait their turn. */
  readonly snapshots: number;
  /** What a follower may see; everything without it. */
  readonly scopeFor?: (peer: KtPeer) => Scope;
}

export class KtReplicationServer {
  readonly #options: KtReplicationServerOptions;
  readonly #sessions = new Map<KtFollowerSession, number>();
  readonly #host: KtSessionHost;
  readonly #timer: Timer;
  readonly #unsubscribe: () => void;
  #wake: Timer | undefined;

  constructor(options: KtReplicationServerOptions) {
    const { store, runtime, log, queueBytes, silenceMs, snapshots } = options;
    this.#options = options;
    this.#host = {
      store,
      log,
      queueBytes,
      silenceMs,
      nowMs: () => runtime.nowMs(),
      monotonicMs: () => runtime.monotonicMs(),
      soon: (fn) => {
        runtime.after(0, fn);
      },
      mayCopy: () => [...this.#sessions.keys()].filter(({ state }) => state === 'copying').length < snapshots,
    };
    this.#unsubscribe = store.onCommit(() => this.#wakeSoon());
    this.#timer = runtime.every(options.heartbeatMs, () => {
      for (const session of this.#sessions.keys()) session.beat();
    });
  }

  /** After the commit, never in it: the writer does not pay for these followers. */
  #wakeSoon(): void {
    if (this.#sessions.size === 0 || this.#wake !== undefined) return;
    this.#wake = this.#options.runtime.after(0, () => {
      this.#wake = undefined;
      for (const session of this.#sessions.keys()) session.pump();
    });
  }

  /** Somebody connected. The link's events go to the returned session. */
  accept(peer: KtPeer, link: PeerLink): KtFollowerSession {
    const scope = this.#options.scopeFor?.(peer) ?? Scope.WHOLE;
    const session = new KtFollowerSession(peer, link, scope, this.#host);
    this.#sessions.set(session, this.#options.runtime.monotonicMs());
    if (scope.isNothing) session.end();
    return session;
  }

  /** The policy changed: ends the links that carry something else than they should now. */
  recheckScopes(): void {
    for (const session of [...this.#sessions.keys()]) {
      if ((this.#options.scopeFor?.(session.peer) ?? Scope.WHOLE).id !== session.scope.id) session.end();
    }
  }

  /** The link of this session is gone. */
  closed(session: KtFollowerSession): void {
    this.#sessions.delete(session);
    session.onClosed();
  }

  followers(): Omit<FollowerStatus, 'position'>[] {
    const nowMs = this.#options.runtime.monotonicMs();
    return [...this.#sessions].map(([session, sinceMs]) => ({
      name: session.peer.name ?? (session.sid === undefined ? 'unknown' : `sid ${session.sid}`),
      role: 'kyoto-tycoon',
      address: session.address,
      state: session.state,
      lagChanges: session.lagChanges(),
      queuedBytes: session.queuedBytes,
      copying: undefined,
      connectedMs: nowMs - sinceMs,
      scope: String(session.scope),
    }));
  }

  /** Ends every session in good order. */
  close(): void {
    this.#timer.cancel();
    this.#wake?.cancel();
    this.#unsubscribe();
    for (const session of [...this.#sessions.keys()]) session.end();
  }
}
