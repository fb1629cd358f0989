/**
 * The upstream side of a node: its followers. Listens to the store's commits, encodes each batch once, and gives it to
 * every session; keeps the newest frames in memory so that a follower that is a moment behind needs no disk.
 */
import { messageOf } from '../../base/errors.js';
import { isNone, type Keys } from '../../base/keys.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import {
  type Epoch,
  type LocalNumber,
  localNumber,
  type Position,
  type Sid,
  type VersionNs,
} from '../../base/types.js';
import type { LogBatch } from '../../log/update-log.js';
import type { PartName } from '../../store/part-hashes.js';
import type { DatabaseProof, Proof } from '../../store/proof.js';
import type { LocalStore } from '../../store/store.js';
import { type Exchange, isOnlyOf } from '../frames/exchange.js';
import { MAX_PATH } from '../frames/frame-parts.js';
import { encodeFrame, FRAME_HEADER_BYTES, type OriginBeat, type PathNode } from '../frames/frames.js';
import type { Heartbeats } from '../frames/heartbeats.js';
import { joinTrees, type TreeNode } from '../frames/tree.js';
import type { Peer, PeerLink } from '../link.js';
import { Scope } from '../scope.js';
import type { SnapshotProgress } from '../snapshot-progress.js';
import type { AuditSource } from './audit-source.js';
import type { CopyInstead } from './copy-cost.js';
import { FollowerSession, type FollowerState } from './follower-session.js';
import type { RecentBatch, SessionHost } from './session-host.js';
import { Snapshots } from './snapshots.js';

export interface ReplicationServerOptions {
  readonly store: LocalStore;
  readonly clusterId: string;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly heartbeats: Heartbeats;
  readonly heartbeatMs: number;
  /** Most bytes of encoded batches kept in memory. */
  readonly ringBytes: number;
  /** Bytes that may wait for one follower. */
  readonly queueBytes: number;
  /** How often an origin proves to its followers what it has. */
  readonly proofMs: number;
  /** Snapshots sent at the same time; more followers wait their turn. */
  readonly snapshots: number;
  /** A follower that takes nothing of its snapshot for so long loses its turn. */
  readonly stalledMs: number;
  /** Of one snapshot; no limit when absent. */
  readonly snapshotBytesPerSecond?: number | undefined;
  /** How long a snapshot that was broken off can be gone on with; never when absent. */
  readonly snapshotResumeMs?: number;
  /** Whether rows of snapshots are packed for followers that unpack them; they are when absent. */
  readonly packsSnapshots?: boolean;
  /** When a snapshot is better than a long log; never when absent. */
  readonly copyInstead?: CopyInstead;
  /** How far this origin's feeds are; see `OriginBeat`. */
  readonly reached?: () => OriginBeat['reached'];
  /** What a follower may see, `undefined` for nothing at all. */
  readonly scopeFor: (peer: Peer) => Scope | undefined;
  /** How this node exchanges with other roots; it does not when absent. */
  readonly exchange?: Exchange | undefined;
  /** When the store began with nothing here: followers that know this origin from before are refused. */
  readonly begunEmptyNs?: VersionNs | undefined;
  /** There is such a follower. */
  readonly onEmptied?: (reason: string) => void;
  path(): readonly PathNode[];
  rootAddress(): string;
  isRecovering(): boolean;
  /** A root says that it has replaced this one. */
  readonly onReplaced?: (by: string) => void;
  /** A connected follower (by instance) has nothing that this origin lacks. */
  onAccountedFor(instanceId: string): void;
  /** The answer to what a follower asks, if anybody may ask. */
  readonly ask?: SessionHost['ask'];
}

/** What status and metrics show of a follower. */
export interface FollowerStatus {
  readonly name: string;
  readonly role: string;
  readonly address: string;
  readonly state: FollowerState;
  readonly position: Position;
  readonly lagChanges: number;
  readonly queuedBytes: number;
  /** How far the snapshot is that it is being sent. */
  readonly copying: SnapshotProgress | undefined;
  readonly connectedMs: number;
  /** What it may see, for people. */
  readonly scope: string;
}

/** Between followers that are asked to open a new link: a handshake each, and other work in between. */
const RELINK_EVERY_MS = 10;

const SNAPSHOT_SLICE_BYTES = 256 * 1024;

/**
 * A frame that stays for long, in memory of about its size: encoded, a small one lies in a large piece, and ten thousand
 * of them held ten times what `ringBytes` says.
 */
function kept(frame: Buffer): Buffer {
  if (frame.buffer.byteLength <= 2 * frame.length) return frame;
  const own = Buffer.allocUnsafeSlow(frame.length);
  frame.copy(own);
  return own;
}

/** A batch in the ring, as each scope sees it. Where nothing lies outside, that is the same frame. */
class Recent implements RecentBatch {
  readonly first: LocalNumber;
  readonly next: LocalNumber;
  readonly #whole: Buffer;
  /** By id of the scope. */
  readonly #parts = new Map<string, Buffer>();
  readonly #grew: (bytes: number) => void;
  bytes: number;

  /** `grew` hears of frames that are made later. */
  constructor({ first, count, payload }: LogBatch, grew: (bytes: number) => void) {
    this.first = first;
    this.next = localNumber(first + count);
    this.#whole = kept(encodeFrame({ type: 'batch', payload }));
    this.#grew = grew;
    this.bytes = this.#whole.length;
  }

  isOnlyOf(sid: Sid): boolean {
    return isOnlyOf(this.#whole.subarray(FRAME_HEADER_BYTES), sid);
  }

  frame(scope: Scope): Buffer {
    if (scope.isWhole) return this.#whole;
    const known = this.#parts.get(scope.id);
    if (known !== undefined) return known;
    const payload = this.#whole.subarray(FRAME_HEADER_BYTES);
    const seen = scope.filter(payload);
    if (seen === payload) {
      this.#parts.set(scope.id, this.#whole);
      return this.#whole;
    }
    const frame = kept(encodeFrame({ type: 'batch', payload: seen }));
    this.#parts.set(scope.id, frame);
    this.bytes += frame.length;
    this.#grew(frame.length);
    return frame;
  }
}

export class ReplicationServer {
  readonly #options: ReplicationServerOptions;
  readonly #sessions = new Map<FollowerSession, number>();
  /** When followers were sent a heartbeat last. */
  #beatMs = Number.NEGATIVE_INFINITY;
  #ring: Recent[] = [];
  #ringBytes = 0;
  #waiting: FollowerSession[] = [];
  /** Followers that a snapshot is sent to: how much they have taken, and since when it is no more. */
  readonly #copying = new Map<FollowerSession, { taken: number; sinceMs: number }>();
  readonly #snapshots: Snapshots;
  /** Whose follower this node is read for. */
  #auditing: FollowerSession | undefined;
  /** While a new epoch begins. */
  #epochBeginning: Promise<void> | undefined;
  readonly #timers: readonly Timer[];
  readonly #unsubscribe: () => void;
  readonly #host: SessionHost;
  #closed = false;

  constructor(options: ReplicationServerOptions) {
    this.#options = options;
    this.#snapshots = this.#makeSnapshots();
    this.#host = this.#makeHost();
    this.#unsubscribe = options.store.onCommit((batch) => this.#onBatch(batch));
    this.#timers = [
      options.runtime.every(options.heartbeatMs, () => {
        this.#beatIfSilent();
        this.#watchSnapshots();
      }),
      options.runtime.every(options.proofMs, () => {
        if (options.store.sid !== undefined) this.#proveOwn();
      }),
    ];
  }

  #makeSnapshots(): Snapshots {
    const { store, runtime, log, queueBytes, snapshotResumeMs, snapshotBytesPerSecond, packsSnapshots } = this.#options;
    const pace = {
      // A slice beyond what may wait would be more than may wait.
      sliceBytes: Math.min(SNAPSHOT_SLICE_BYTES, queueBytes),
      bytesPerSecond: snapshotBytesPerSecond,
      packs: packsSnapshots ?? true,
      monotonicMs: () => runtime.monotonicMs(),
    };
    return new Snapshots({ store, runtime, log, pace, resumeMs: snapshotResumeMs ?? 0 });
  }

  #makeHost(): SessionHost {
    const { store, clusterId, log, queueBytes, exchange, path, rootAddress, isRecovering } = this.#options;
    return {
      store,
      clusterId,
      log,
      queueBytes,
      snapshots: this.#snapshots,
      copyInstead: this.#options.copyInstead,
      exchange,
      onReplaced: this.#options.onReplaced ?? (() => undefined),
      begunEmptyNs: this.#options.begunEmptyNs,
      onEmptied: this.#options.onEmptied ?? (() => undefined),
      path,
      rootAddress,
      isRecovering,
      scopeFor: (peer) => this.scopeFor(peer),
      beats: (scope) => beatsFor(scope, this.#options.heartbeats.latest()),
      recentBatch: (first) => this.#recentBatch(first),
      tailLost: async (known) => await this.#beginEpoch(known),
      accountedFor: (session) => {
        if (session.instanceId !== undefined) this.#options.onAccountedFor(session.instanceId);
      },
      ask: this.#options.ask ?? (async () => await Promise.reject(new Error('nobody answers here'))),
      after: (delayMs, fn) => {
        this.#options.runtime.after(delayMs, fn);
      },
      requestSnapshot: (session) => {
        this.#waiting.push(session);
        this.#startSnapshots();
      },
      beginAudit: (session) => {
        if (this.#auditing !== undefined) return false;
        this.#auditing = session;
        return true;
      },
      auditDone: (session, audit) => {
        if (this.#auditing === session) this.#auditing = undefined;
        this.#correct(audit);
      },
      nowMs: () => this.#options.runtime.nowMs(),
      monotonicMs: () => this.#options.runtime.monotonicMs(),
      snapshotDone: (session) => {
        this.#copying.delete(session);
        this.#startSnapshots();
      },
      supersede: (session) => this.#supersede(session),
    };
  }

  /**
   * Whoever reads all records for an audit finds out whether the own running hash is right. One of a part is counted anew
   * whenever a follower did not equal it.
   */
  #correct({ database, keys, miscount }: AuditSource): void {
    const { store, log } = this.#options;
    if (keys !== 'all') store.proving.parts.forget({ database, keys });
    if (miscount === undefined) return;
    log.error({ database }, "this node's running hash was wrong, its records are not concerned: corrected");
    store.proving.correctHash(database, miscount).catch((error: unknown) => {
      log.warn({ reason: messageOf(error) }, 'cannot correct the running hash');
    });
  }

  /** One for all followers that show it at the same time: each compares again afterwards. */
  async #beginEpoch(known: Epoch): Promise<void> {
    const { store, log } = this.#options;
    if (this.#epochBeginning === undefined) {
      log.error({}, 'a follower is ahead of this root: its tail was lost; beginning a new epoch of its numbering');
      this.#epochBeginning = store.beginEpoch(known).finally(() => {
        this.#epochBeginning = undefined;
      });
    }
    await this.#epochBeginning;
  }

  /** A peer passed authentication: speak with it. The link's events go to the returned session. */
  accept(peer: Peer, link: PeerLink): FollowerSession {
    const scope = this.scopeFor(peer);
    const session = new FollowerSession(peer, link, scope, this.#host);
    this.#sessions.set(session, this.#options.runtime.monotonicMs());
    // What the peer's certificate hides is known with its HELLO.
    if (peer.openScope === undefined) session.endIfNothing();
    return session;
  }

  /** Of what the policy gives this follower, what this node holds itself. An origin holds everything. */
  scopeFor(peer: Peer): Scope {
    const { store, scopeFor } = this.#options;
    const held = store.sid === undefined ? Scope.decode(store.scope) : Scope.WHOLE;
    return (scopeFor(peer) ?? Scope.NOTHING).intersect(held);
  }

  /** The policy changed: ends the links that it no longer allows as they are. Who may follow still, connects again. */
  recheckScopes(): void {
    for (const session of [...this.#sessions.keys()]) {
      if (session.state === 'ended' || this.scopeFor(session.peer).id === session.scope.id) continue;
      session.endForPolicy(`the policy of this node lets ${session.peer.name} follow something else now`);
    }
  }

  /** This node has a new certificate: has every follower open a new link, one after the other, before it leaves the old. */
  relink(): void {
    [...this.#sessions.keys()].forEach((session, index) => {
      this.#options.runtime.after(index * RELINK_EVERY_MS, () => session.askToRelink());
    });
  }

  /** The link of this session is gone. */
  closed(session: FollowerSession): void {
    this.#sessions.delete(session);
    this.#waiting = this.#waiting.filter((other) => other !== session);
    session.onClosed();
    if (this.#sessions.size === 0) this.#options.store.proving.parts.want([]);
  }

  /** Whether a node follows this one right now. */
  isFollower(instanceId: string): boolean {
    return [...this.#sessions.keys()].some((session) => session.instanceId === instanceId);
  }

  /** A link that broke without a word would hold the turn, and the snapshot that its follower has come back for. */
  #supersede(session: FollowerSession): void {
    for (const other of [...this.#sessions.keys()]) {
      const isOf = other.instanceId === session.instanceId && other.peer.name === session.peer.name;
      if (other === session || !isOf || (other.state !== 'waiting' && other.state !== 'copying')) continue;
      this.#options.log.info({ follower: session.peer.name }, 'a follower has come over a new link: the old one ends');
      other.end();
    }
  }

  #startSnapshots(): void {
    while (this.#copying.size < this.#options.snapshots) {
      const session = this.#waiting.shift();
      if (session === undefined) return;
      this.#copying.set(session, { taken: 0, sinceMs: this.#options.runtime.monotonicMs() });
      session.startSnapshot();
    }
  }

  #onBatch(batch: LogBatch): void {
    const recent = new Recent(batch, (bytes) => {
      this.#ringBytes += bytes;
    });
    this.#remember(recent);
    this.#options.heartbeats.reach(this.#options.store.position());
    for (const session of this.#sessions.keys()) session.onBatch(recent);
  }

  #remember(recent: Recent): void {
    this.#ring.push(recent);
    this.#ringBytes += recent.bytes;
    let drop = 0;
    while (this.#ringBytes > this.#options.ringBytes && drop < this.#ring.length - 1) {
      this.#ringBytes -= (this.#ring[drop] as Recent).bytes;
      drop++;
    }
    if (drop > 0) this.#ring = this.#ring.slice(drop);
  }

  /** By bisection: the ring is ordered. Only an exact start fits; in between, the log serves. */
  #recentBatch(first: LocalNumber): Recent | undefined {
    let low = 0;
    let high = this.#ring.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const recent = this.#ring[middle] as Recent;
      if (recent.first === first) return recent;
      if (recent.first < first) low = middle + 1;
      else high = middle - 1;
    }
    return undefined;
  }

  /** A follower that vanished in the middle of its snapshot must not hold up the others until the system gives it up. */
  #watchSnapshots(): void {
    const nowMs = this.#options.runtime.monotonicMs();
    for (const [session, progress] of [...this.#copying]) {
      const { snapshotTaken } = session;
      if (snapshotTaken > progress.taken) {
        progress.taken = snapshotTaken;
        progress.sinceMs = nowMs;
      } else if (nowMs - progress.sinceMs > this.#options.stalledMs) {
        session.giveUpSnapshot(nowMs - progress.sinceMs);
      }
    }
  }

  /** A beat that came from above was handed on at once; a second one would only wake every follower again. */
  #beatIfSilent(): void {
    if (this.#options.runtime.monotonicMs() - this.#beatMs >= this.#options.heartbeatMs * 0.9) this.beat();
  }

  /** Tells every follower what the origins said last: at once when news came from above, else on the timer. */
  beat(): void {
    if (this.#closed) return;
    this.#beatMs = this.#options.runtime.monotonicMs();
    const { store, heartbeats, runtime, reached = () => [] } = this.#options;
    const { sid } = store;
    if (sid !== undefined) {
      const own = store.ownPosition() ?? { sid, epoch: store.epoch, sequence: 0 as never, versionNs: 0n as never };
      heartbeats.hear({ ...own, timeMs: runtime.nowMs(), reached: reached() }, store.position());
    }
    const latest = heartbeats.latest();
    const path = this.#options.path().slice(0, MAX_PATH);
    const frame = oncePerScope((scope) => {
      return encodeFrame({ type: 'heartbeat', path, origins: beatsFor(scope, latest) });
    });
    for (const session of this.#sessions.keys()) {
      session.sendBeat(frame);
      session.pump();
    }
  }

  /**
   * Tells every follower what this node has at its position. An origin does so on a timer. A relay hands on its
   * upstream's proof, between two commits, when it has just been found to hold here: who differs must not lead others
   * astray.
   */
  prove(proof: Proof): void {
    if (this.#closed || this.#sessions.size === 0) return;
    const { store } = this.#options;
    store.proving.parts.want(this.#partsOf(proof.databases));
    const partOf = (database: DatabaseProof, keys: Keys): DatabaseProof => this.#proofOfPart(database, keys);
    const frame = oncePerScope((scope) => {
      const databases = scope.seenProofs(proof.databases, partOf);
      return encodeFrame({ type: 'proof', position: proof.position, databases });
    });
    const { next } = store.log;
    for (const session of this.#sessions.keys()) session.offerProof(next, frame);
  }

  /** Parts of these databases that followers have. */
  #partsOf(databases: readonly DatabaseProof[]): PartName[] {
    const scopes = new Map([...this.#sessions.keys()].map(({ scope }) => [scope.id, scope]));
    const parts = [...scopes.values()].flatMap((scope) => {
      return databases.map(({ name }) => ({ database: name, keys: scope.keysOf(name) }));
    });
    return parts.filter(({ keys }) => keys !== 'all' && !isNone(keys));
  }

  /** Of a part that is not counted yet, and of one of a database that is not proven itself, nothing is said. */
  #proofOfPart({ name, proven }: DatabaseProof, keys: Keys): DatabaseProof {
    const { proving, sid } = this.#options.store;
    const part = proven === undefined ? undefined : proving.parts.find({ database: name, keys });
    if (proven === undefined || part === undefined) return { name, records: 0, proven: undefined };
    // The part is what this node has: a relay may have worked off fewer expirations than the origin of the proof.
    const horizon = sid === undefined ? proving.horizonTowards(name, proven.horizon) : proven.horizon;
    return { name, records: part.records, proven: { hash: part.hash, horizon } };
  }

  /** Between two commits, too: what lies in the engine and what the store says of it are of one moment there. */
  #proveOwn(): void {
    const { store, log } = this.#options;
    if (this.#closed || this.#sessions.size === 0) return;
    store
      .between(() => this.prove(store.proving.prove()))
      .catch((error: unknown) => log.debug({ reason: messageOf(error) }, 'no proof for followers this time'));
  }

  followers(): FollowerStatus[] {
    const nowMs = this.#options.runtime.monotonicMs();
    return [...this.#sessions].map(([session, sinceMs]) => ({
      ...session.peer,
      state: session.state,
      position: session.applied,
      lagChanges: session.lagChanges(),
      queuedBytes: session.queuedBytes,
      copying: session.copying,
      connectedMs: nowMs - sinceMs,
      scope: String(session.scope),
    }));
  }

  /** Roots that follow this one and have said what they have on their disks. */
  rootsOnDisk(): readonly { readonly name: string; readonly flushed: Position }[] {
    const roots = [...this.#sessions.keys()].filter(({ peer, state }) => peer.role === 'root' && state === 'following');
    return roots.map(({ peer, flushed }) => ({ name: peer.name, flushed })).filter(({ flushed }) => flushed.length > 0);
  }

  /** Snapshots that followers went on with, and those that wait for it. */
  get resumption(): { readonly resumed: number; readonly kept: number } {
    const { resumed, kept } = this.#snapshots;
    return { resumed, kept };
  }

  /** All nodes below this one. */
  tree(): TreeNode[] {
    return joinTrees([...this.#sessions.keys()].map((session) => session.tree()));
  }

  /** Ends every session in good order. */
  close(): void {
    this.#closed = true;
    for (const timer of this.#timers) timer.cancel();
    this.#unsubscribe();
    this.#snapshots.close();
    for (const session of [...this.#sessions.keys()]) session.end();
  }
}

function beatsFor(scope: Scope, beats: readonly OriginBeat[]): OriginBeat[] {
  return beats.map((beat) => ({ ...beat, reached: scope.seenFeeds(beat.reached) }));
}

function oncePerScope(make: (scope: Scope) => Buffer): (scope: Scope) => Buffer {
  const frames = new Map<string, Buffer>();
  return (scope) => {
    const frame = frames.get(scope.id) ?? make(scope);
    frames.set(scope.id, frame);
    return frame;
  };
}
