/** What each frame of the replication protocol says; its bytes are in frames.ts. */

import type { OriginPosition, Position, Sid, VersionNs } from '../../base/types.js';
import type { FeedPosition } from '../../log/transaction.js';
import type { RangeHash } from '../../store/audit.js';
import type { Forgotten } from '../../store/forgotten.js';
import type { Proof } from '../../store/proof.js';
import type { KeyRange, RangeRows } from '../../store/repair.js';
import type { Packing } from './packing.js';

/** A node as it is known from reports. */
export interface TreeNode {
  readonly instanceId: string;
  /** Whom it follows. */
  readonly upstreamId: string;
  readonly name: string;
  readonly role: string;
  readonly position: Position;
  /** Age of its data by its own clock, ms; `undefined` before it knows. */
  readonly lagMs: number | undefined;
  /** Whether it equalled its root at its last comparison. */
  readonly equal: 'unknown' | 'equal' | 'differs';
  /** How long ago this was so. */
  readonly ageMs: number;
}

/** One node on the way to the root: its data directory's id (hex) and its name. */
export interface PathNode {
  readonly instanceId: string;
  readonly name: string;
}

/** A root that follows another, to exchange with it. */
export interface HelloOrigin {
  readonly sid: Sid;
  /** What its clock says, ms since 1970. */
  readonly timeMs: number;
  /** Server ids of roots whose place it has taken. */
  readonly replaces: readonly Sid[];
}

/** Behind so many rows of a snapshot, in its source's order. */
export interface SnapshotPlace {
  /** The source's name for that snapshot, 16 bytes in hex. */
  readonly id: string;
  readonly rows: number;
}

/** First frame of a follower. */
export interface Hello {
  readonly type: 'hello';
  readonly version: number;
  readonly clusterId: string;
  readonly self: PathNode;
  /** Whether the follower has data at all; without any it needs a snapshot, whatever the log still holds. */
  readonly seeded: boolean;
  /** Only asks what the upstream would answer: it does, and closes. */
  readonly isLook: boolean;
  readonly position: Position;
  /** Id of the scope whose data the follower has. */
  readonly scopeId: string;
  /** It understands a snapshot that says how far expirations count no more. One that is older does not. */
  readonly takesHorizon: boolean;
  /** How rows of a snapshot may be packed for it; the receiver's own preference is not in it. */
  readonly unpacks: readonly Packing[];
  /** It can go on with a snapshot that has a name. One that is older cannot. */
  readonly resumes: boolean;
  /** Of a root that exchanges: it understands what a source says it has forgotten. One that is older does not. */
  readonly takesForgotten?: boolean;
  /** Of a root that exchanges with this one. */
  readonly origin?: HelloOrigin | undefined;
  /** Opens the scope that its certificate hides (`pki/hidden-scope.ts`). */
  readonly scopeOpening?: Buffer | undefined;
  /** What it has of a snapshot that was broken off. */
  readonly unfinished?: SnapshotPlace | undefined;
}

/** Answer of an upstream that accepts. */
export interface Welcome {
  readonly type: 'welcome';
  readonly version: number;
  readonly clusterId: string;
  /** From the upstream itself to the root. */
  readonly path: readonly PathNode[];
  /** Where clients write: `host:port` of the root's client listener, or empty when it is not known. */
  readonly rootAddress: string;
  readonly position: Position;
  readonly next: 'log' | 'snapshot';
  /** What the upstream heard from the origins last. */
  readonly beats: readonly OriginBeat[];
  /** What this link carries, as `Scope` encodes it; empty for everything. */
  readonly scope: Buffer;
}

/** A polite end, by either side. */
export interface Refuse {
  readonly type: 'refuse';
  readonly code: string;
  readonly message: string;
}

/** Encoded transactions, as they stand in the log. */
export interface BatchFrame {
  readonly type: 'batch';
  readonly payload: Buffer;
}

/** What an origin said last: its position then, its clock then (ms since 1970), and how far its feeds were. */
export interface OriginBeat extends OriginPosition {
  readonly timeMs: number;
  /**
   * Positions of feeds before which nothing of the source is missing in this position. They may lie beyond those of the
   * transactions: what a source does elsewhere moves it, and changes nothing here.
   */
  readonly reached: readonly FeedPosition[];
}

export interface Heartbeat {
  readonly type: 'heartbeat';
  /** From the upstream itself to the root, as it is now: it may have changed its own upstream since it welcomed. */
  readonly path: readonly PathNode[];
  readonly origins: readonly OriginBeat[];
}

export interface Ack {
  readonly type: 'ack';
  /** Visible to readers of the follower. */
  readonly applied: Position;
  /** Safe from a power cut at the follower. */
  readonly flushed: Position;
}

/** What a snapshot consists of besides its records. */
export interface SnapshotBegin {
  readonly type: 'snapshotBegin';
  readonly position: Position;
  readonly lastVersionNs: VersionNs;
  readonly feeds: readonly FeedPosition[];
  readonly databases: readonly { readonly name: string; readonly records: number }[];
  /** Clears that keep older writes out; `database` is an index into `databases`. */
  readonly clears: readonly {
    readonly database: number;
    readonly prefix: Buffer;
    readonly versionNs: VersionNs;
    readonly sid: Sid;
  }[];
  /** See `SnapshotContents`. It is sent to those only who said that they take it. */
  readonly horizonMs?: number | undefined;
  /** Where it begins: its name, and rows that the follower has already. For those only who said that they resume. */
  readonly from?: SnapshotPlace | undefined;
}

/** Before `snapshotBegin`, for those only who said that they take it: see `Forgotten`. */
export interface ForgottenFrame {
  readonly type: 'forgotten';
  readonly forgotten: Forgotten;
}

/** Rows of one database in key order: stored keys and stored records, tombstones included. */
export interface SnapshotRecords {
  readonly type: 'snapshotRecords';
  readonly database: number;
  /** Sized key, sized record, repeated. */
  readonly rows: Buffer;
}

/** The same in fewer bytes; only for those who said that they unpack it. */
export interface SnapshotPacked {
  readonly type: 'snapshotPacked';
  readonly packing: Packing;
  readonly database: number;
  /** Of the rows, unpacked. */
  readonly bytes: number;
  readonly packed: Buffer;
}

export interface SnapshotEnd {
  readonly type: 'snapshotEnd';
  readonly rows: number;
}

/** An origin that lost its tail asks a follower for its own transactions after this one. */
export interface Recall {
  readonly type: 'recall';
  readonly after: OriginPosition;
}

/** The follower has sent all of them (as batches). */
export interface Recalled {
  readonly type: 'recalled';
}

/** What the origin says of its records at the position that this frame stands behind; the same for every follower. */
export interface ProofFrame extends Proof {
  readonly type: 'proof';
}

/** The follower differs in a database: it wants to know where. One at a time. */
export interface AuditFrame {
  readonly type: 'audit';
  readonly database: string;
  /** It has worked off expirations up to here, ms. */
  readonly horizonMs: number;
}

/** The upstream reads the database at `position`, which stands at this place among the batches. */
export interface Audited {
  readonly type: 'audited';
  readonly position: Position;
  /** Records that expire at this moment or before are left out at both ends. */
  readonly cutoffMs: number;
}

/** The follower asks for parts of these ranges, `rows` rows in each; for the rows themselves with 0. */
export interface Descend {
  readonly type: 'descend';
  readonly rows: number;
  readonly ranges: readonly KeyRange[];
}

/** Consecutive parts of what was asked for. */
export interface Ranges {
  readonly type: 'ranges';
  readonly parts: readonly RangeHash[];
  /** That was all that the last DESCEND asked for. */
  readonly isLast: boolean;
}

export interface RangeRowsFrame extends RangeRows {
  readonly type: 'rangeRows';
  readonly isLast: boolean;
}

/** Either side is done with it; a reason when it is not done in good order. */
export interface AuditEnd {
  readonly type: 'auditEnd';
  readonly reason: string;
}

/** A follower asks something of whoever knows, up to the root: today, to certify a key. */
export interface Ask {
  readonly type: 'ask';
  /** Comes back with the answer. */
  readonly id: number;
  readonly request: Buffer;
}

export interface Answer {
  readonly type: 'answer';
  readonly id: number;
  readonly answer: Buffer;
}

/** What the follower knows of itself and of all nodes below it; itself first. */
export interface Report {
  readonly type: 'report';
  readonly nodes: readonly TreeNode[];
}

/** The upstream has a new certificate: the follower shall open a new link, and leave this one when that works. */
export interface Relink {
  readonly type: 'relink';
}

export type Frame =
  | Hello
  | Welcome
  | Refuse
  | BatchFrame
  | Heartbeat
  | Ack
  | SnapshotBegin
  | ForgottenFrame
  | SnapshotRecords
  | SnapshotPacked
  | SnapshotEnd
  | Recall
  | Recalled
  | Ask
  | Answer
  | ProofFrame
  | AuditFrame
  | Audited
  | Descend
  | Ranges
  | RangeRowsFrame
  | AuditEnd
  | Report
  | Relink;
