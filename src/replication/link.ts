/** What replication asks of a connection to a peer; `transport/` provides it over TLS, a simulation in memory. */
import type { Scope } from './scope.js';

export interface PeerLink {
  /** Queues bytes in order. */
  send(chunks: readonly Buffer[]): void;
  /** Bytes queued here and not yet handed to the kernel. */
  readonly queuedBytes: number;
  pause(): void;
  resume(): void;
  /** Sends what is queued, then closes. */
  close(): void;
  destroy(reason: string): void;
}

/** Who the peer proved to be. */
export interface Peer {
  readonly name: string;
  readonly role: string;
  readonly address: string;
  /** What its certificate lets it see at most; absent when that says nothing of it. */
  readonly scope?: Scope | undefined;
  /**
   * Where the certificate hides that: what the opening in the peer's HELLO tells, `undefined` when it does not open it.
   * Until then the peer sees nothing.
   */
  readonly openScope?: ((opening: Buffer | undefined) => Scope | undefined) | undefined;
}
