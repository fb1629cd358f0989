/** What the server of followers lends to the session of each. */
import type { Logger } from '../../base/logger.js';
import type { Epoch, LocalNumber, Sid, VersionNs } from '../../base/types.js';
import type { LocalStore } from '../../store/store.js';
import type { Exchange } from '../frames/exchange.js';
import type { OriginBeat, PathNode } from '../frames/frames.js';
import type { Peer } from '../link.js';
import type { Scope } from '../scope.js';
import type { AuditSource } from './audit-source.js';
import type { CopyInstead } from './copy-cost.js';
import type { FollowerSession } from './follower-session.js';
import type { Snapshots } from './snapshots.js';

/** Newest log, encoded once for each scope that followers have. */
export interface RecentBatch {
  readonly first: LocalNumber;
  /** Number of the first transaction behind it. */
  readonly next: LocalNumber;
  frame(scope: Scope): Buffer;
  /** Whether it has nothing but what this origin made. */
  isOnlyOf(sid: Sid): boolean;
}

/** The server, as a session sees it. */
export interface SessionHost {
  readonly store: LocalStore;
  readonly clusterId: string;
  /** When the store of this origin began with nothing here, where that matters. */
  readonly begunEmptyNs: VersionNs | undefined;
  readonly log: Logger;
  /** A follower knows this origin from before that. */
  onEmptied(reason: string): void;
  /** How this node exchanges with other roots, if it is one that does. */
  readonly exchange: Exchange | undefined;
  /** A root says that it has replaced this one. */
  onReplaced(by: string): void;
  /** From this node to the root. */
  path(): readonly PathNode[];
  rootAddress(): string;
  /** What this node hands on to a follower. */
  scopeFor(peer: Peer): Scope;
  /** What the origins said last, as a scope may know it. */
  beats(scope: Scope): readonly OriginBeat[];
  /** Bytes that may wait in one link's queue before the session stops feeding it. */
  readonly queueBytes: number;
  readonly snapshots: Snapshots;
  readonly copyInstead: CopyInstead | undefined;
  /** A recent batch, if it is still in memory. */
  recentBatch(first: LocalNumber): RecentBatch | undefined;
  /** Whether this origin may have lost its tail and is taking it back right now. */
  isRecovering(): boolean;
  /** A follower knows more of this origin than it does, too late to take it back. Resolves when an epoch has begun; not
   * always one beyond `known`, the epoch that the follower knows: look again. */
  tailLost(known: Epoch): Promise<void>;
  /** This follower has nothing (more) to give that a recovering origin lacks. */
  accountedFor(session: FollowerSession): void;
  /** Calls `fn` in a later turn of the event loop, after `delayMs`. */
  after(delayMs: number, fn: () => void): void;
  /** Asks for the right to run a snapshot; `start` is called when it is this session's turn. */
  requestSnapshot(session: FollowerSession): void;
  snapshotDone(session: FollowerSession): void;
  /** A follower that waits for a snapshot or takes one has come over a new link: what the others wait for is over. */
  supersede(session: FollowerSession): void;
  /** Whether an audit may begin now; `auditDone` follows. */
  beginAudit(session: FollowerSession): boolean;
  auditDone(session: FollowerSession, audit: AuditSource): void;
  nowMs(): number;
  /** The answer to what a follower asks. */
  ask(peer: Peer, request: Buffer): Promise<Buffer>;
  monotonicMs(): number;
}
