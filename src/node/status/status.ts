/** What a node says about itself: the answer of /status and of `tokaido status --json`. */
import type { FollowerState } from '../../replication/sending/follower-session.js';
import type { SnapshotProgress } from '../../replication/snapshot-progress.js';
import type { Difference } from '../../store/proof.js';
import type { AnnouncementFacts } from '../announcements.js';

/** One origin's part of a position; the version as decimal text, because JSON numbers are too small for it. */
export interface StatusOrigin {
  readonly sid: number;
  readonly epoch: number;
  readonly sequence: number;
  readonly versionNs: string;
}

/** A node below this one. */
export interface StatusTreeNode {
  readonly instanceId: string;
  readonly upstreamId: string;
  readonly name: string;
  readonly role: string;
  readonly position: string;
  /** Age of its data by its own clock; `null` before it knows. */
  readonly lagMs: number | null;
  /** Transactions that it lacks of what this node has. */
  readonly lagChanges: number;
  /** About how many bytes these have in the log. */
  readonly lagBytes: number;
  readonly equal: 'unknown' | 'equal' | 'differs';
  /** How old this report is. */
  readonly ageMs: number;
}

/** A node that has announced where followers reach it. */
export interface StatusAnnounced {
  readonly name: string;
  readonly address: string;
  readonly region: string | undefined;
  readonly priority: number;
  /** When it said so, by its clock. */
  readonly at: string;
}

/** A link to a node that is followed. */
export interface StatusUpstream {
  readonly address: string;
  readonly name: string | undefined;
  /** No configuration names it: the cluster told of it. */
  readonly isDiscovered: boolean;
  readonly state: string;
  readonly sinceMs: number;
  readonly lastError: string | undefined;
  readonly loading: SnapshotProgress | undefined;
  /** What comes over the link: `all`, or databases and key prefixes; `undefined` while there is none. */
  readonly scope: string | undefined;
}

export interface NodeStatus {
  readonly name: string;
  readonly role: string;
  readonly clusterId: string;
  readonly instanceId: string;
  readonly version: string;
  readonly uptimeMs: number;
  readonly ready: boolean;
  readonly notReadyBecause: string | undefined;
  /** A root that waits for followers after an unclean shutdown. */
  readonly recovering: boolean;
  /** Why a root takes no writes: it recovers, stands by, or another one has taken its place. */
  readonly writesRefused: string | undefined;
  readonly position: readonly StatusOrigin[];
  /** Age of the data, ms; `null` before it is known. A root is never behind. */
  readonly lagMs: number | null;
  /** By how much the clock here is ahead of the origin's, or all news late; `undefined` before it is known. */
  readonly clockAheadMs: number | undefined;
  /** How this node compared with its upstream last, at the same position; absent before it did. */
  readonly equality:
    | {
        readonly agoMs: number;
        readonly position: string;
        readonly equal: number;
        readonly differences: readonly Difference[];
        readonly leftOut: readonly string[];
        readonly putOff: readonly string[];
        /** Records put right since the start. */
        readonly repairedRecords: number;
      }
    | undefined;
  readonly databases: readonly { readonly name: string; readonly index: number; readonly records: number }[];
  readonly log: { readonly first: number; readonly next: number; readonly bytes: number } | undefined;
  readonly store: { readonly sizeBytes: number; readonly queuedWrites: number; readonly commits: number } | undefined;
  readonly upstream: StatusUpstream | undefined;
  /** Nodes that have announced where followers reach them, as far as it is known here. */
  readonly announced: readonly StatusAnnounced[];
  /** What this node announces itself; `undefined` when it does not. */
  readonly announcement: AnnouncementFacts | undefined;
  /** The roots that this root exchanges with. */
  readonly peers: readonly StatusUpstream[];
  /** All nodes below this one, as they reported themselves. */
  readonly tree: readonly StatusTreeNode[];
  readonly followers: readonly {
    readonly name: string;
    readonly role: string;
    readonly address: string;
    readonly state: FollowerState;
    readonly lagChanges: number;
    readonly queuedBytes: number;
    /** How far the snapshot is that it is being sent. */
    readonly copying: SnapshotProgress | undefined;
    readonly connectedMs: number;
    /** What it may see: `all`, or databases and key prefixes. */
    readonly scope: string;
  }[];
  /** Of a node that replicates; a root that stands alone has none. */
  readonly certificate:
    | {
        readonly notAfter: string;
        readonly expiresInMs: number;
        readonly fingerprint: string;
        /** When the first of the CAs ends that it stands on. */
        readonly caNotAfter: string | undefined;
        /** Of a node that renews its certificate by itself. */
        readonly renewal:
          | { readonly due: string; readonly failures: number; readonly lastError: string | undefined }
          | undefined;
      }
    | undefined;
  /** Id of the key that new values are encrypted with on the disk; `undefined` without encryption. */
  readonly encryptionKey: string | undefined;
  /** Encrypting what is stored with that key, or as the configuration says, in the background. */
  readonly reseal:
    | {
        readonly state: 'running' | 'done';
        readonly looked: number;
        readonly written: number;
        /** Ids of older keys that may be removed now. */
        readonly notNeeded: readonly string[];
      }
    | undefined;
  /** The newest line of the audit log, to be noted elsewhere; `undefined` without one. */
  readonly audit: { readonly number: number; readonly hash: string } | undefined;
  /** How far this node is in each feed, as its source writes positions. */
  readonly reached: readonly { readonly feed: string; readonly position: string }[];
  /** Revocation lists that hold here; `nextUpdate` is the earliest promise among them. */
  readonly revocation:
    | { readonly lists: number; readonly revoked: number; readonly nextUpdate: string | undefined }
    | undefined;
  readonly feed: object | undefined;
}
