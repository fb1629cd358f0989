/** An authenticated connection to a peer: what transport offers and replication uses. */
import type { Identity } from '../pki/names.js';
import type { CertifiedScope } from '../pki/scope-names.js';

export interface Link {
  /** Who the peer proved to be. */
  readonly peer: Identity;
  /** What its certificate lets it follow at most. */
  readonly scope: CertifiedScope;
  readonly peerAddress: string;
  /** SHA-256 of its certificate, as people read it. */
  readonly fingerprint: string;
  /** Queues bytes in order. */
  send(chunks: readonly Buffer[]): void;
  /** Bytes queued here and not yet handed to the kernel. */
  readonly queuedBytes: number;
  pause(): void;
  resume(): void;
  /** Sends what is queued, then closes; gives up after a bounded wait. */
  close(): void;
  destroy(reason: string): void;
}

export interface LinkHandlers {
  onData(chunk: Buffer): void;
  /** The queue emptied after it had grown. */
  onDrain(): void;
  /** Exactly once. */
  onClose(reason: string): void;
  /**
   * The link rests on a certificate that this node has replaced, or on one whose CA does not count any more, and then it
   * ends in a moment. Time to open another one, with the certificates that both ends have by now.
   */
  onOutdated?(): void;
}
