/**
 * The upstream side of a node: its followers. Listens to the store's commits, encodes each batch once, and gives it to
 * every session; keeps the newest frames in memory so that a follower that is a moment behind needs no disk.
 */
import { messageOf } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import { type Epoch, type LocalNumber, localNumber, type Position } from '../base/types.js';
import type { LogBatch } from '../log/update-log.js';
import type { Proof } from '../store/proof.js';
import type { LocalStore } from '../store/store.js';
import { FollowerSession, type FollowerState, type SessionHost } from './follower-session.js';
import { encodeFrame, type OriginBeat, type PathNode } from './frames.js';
import type { Heartbeats } from './heartbeats.js';
import type { Peer, PeerLink } from './link.js';

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
  /** How far this origin's feeds are; see `OriginBeat`. */
  readonly reached?: () => OriginBeat['reached'];
  path(): readonly PathNode[];
  rootAddress(): string;
  isRecovering(): boolean;
  /** A connected follower (by instance) has nothing that this origin lacks. */
  onAccountedFor(instanceId: string): void;
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
  readonly connectedMs: number;
}

const SNAPSHOT_SLICE_BYTES = 256 * 1024;

interface Recent {
  readonly first: LocalNumber;
  readonly next: LocalNumber;
  readonly frame: Buffer;
}

export class ReplicationServer {
  readonly #options: ReplicationServerOptions;
  readonly #sessions = new Map<FollowerSession, number>();
  /** When followers were sent a heartbeat last. */
  #beatMs = Number.NEGATIVE_INFINITY;
  #ring: Recent[] = [];
  #ringBytes = 0;
  #waiting: FollowerSession[] = [];
  readonly #copying = new Set<FollowerSession>();
  /** While a new epoch begins. */
  #epochBeginning: Promise<void> | undefined;
  readonly #timers: readonly Timer[];
  readonly #unsubscribe: () => void;
  readonly #host: SessionHost;
  #closed = false;

  constructor(options: ReplicationServerOptions) {
    this.#options = options;
    this.#host = this.#makeHost();
    this.#unsubscribe = options.store.onCommit((batch) => this.#onBatch(batch));
    this.#timers = [
      options.runtime.every(options.heartbeatMs, () => this.#beatIfSilent()),
      options.runtime.every(options.proofMs, () => {
        if (options.store.sid !== undefined) this.#proveOwn();
      }),
    ];
  }

  #makeHost(): SessionHost {
    const { store, clusterId, log, queueBytes, path, rootAddress, isRecovering } = this.#options;
    return {
      store,
      clusterId,
      log,
      queueBytes,
      snapshotSliceBytes: SNAPSHOT_SLICE_BYTES,
      path,
      rootAddress,
      isRecovering,
      recentFrame: (first) => this.#recentFrame(first),
      tailLost: async (known) => await this.#beginEpoch(known),
      accountedFor: (session) => {
        if (session.instanceId !== undefined) this.#options.onAccountedFor(session.instanceId);
      },
      soon: (fn) => {
        this.#options.runtime.after(0, fn);
      },
      requestSnapshot: (session) => {
        this.#waiting.push(session);
        this.#startSnapshots();
      },
      snapshotDone: (session) => {
        this.#copying.delete(session);
        this.#startSnapshots();
      },
    };
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
    const session = new FollowerSession(peer, link, this.#host);
    this.#sessions.set(session, this.#options.runtime.monotonicMs());
    return session;
  }

  /** The link of this session is gone. */
  closed(session: FollowerSession): void {
    this.#sessions.delete(session);
    this.#waiting = this.#waiting.filter((other) => other !== session);
    session.onClosed();
  }

  #startSnapshots(): void {
    while (this.#copying.size < this.#options.snapshots) {
      const session = this.#waiting.shift();
      if (session === undefined) return;
      this.#copying.add(session);
      session.startSnapshot();
    }
  }

  #onBatch(batch: LogBatch): void {
    const frame = encodeFrame({ type: 'batch', payload: batch.payload });
    this.#remember({ first: batch.first, next: localNumber(batch.first + batch.count), frame });
    this.#options.heartbeats.reach(this.#options.store.position());
    for (const session of this.#sessions.keys()) session.onBatch(batch, frame);
  }

  #remember(recent: Recent): void {
    this.#ring.push(recent);
    this.#ringBytes += recent.frame.length;
    let drop = 0;
    while (this.#ringBytes > this.#options.ringBytes && drop < this.#ring.length - 1) {
      this.#ringBytes -= (this.#ring[drop] as Recent).frame.length;
      drop++;
    }
    if (drop > 0) this.#ring = this.#ring.slice(drop);
  }

  /** By bisection: the ring is ordered. Only an exact start fits; in between, the log serves. */
  #recentFrame(first: LocalNumber): Recent | undefined {
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
    const frame = encodeFrame({ type: 'heartbeat', origins: heartbeats.latest() });
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
    const frame = encodeFrame({ type: 'proof', position: proof.position, databases: proof.databases });
    const { next } = this.#options.store.log;
    for (const session of this.#sessions.keys()) session.offerProof(next, frame);
  }

  /** Between two commits, too: what lies in the engine and what the store says of it are of one moment there. */
  #proveOwn(): void {
    const { store, log } = this.#options;
    if (this.#closed || this.#sessions.size === 0) return;
    store
      .between(() => this.prove(store.prove()))
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
      connectedMs: nowMs - sinceMs,
    }));
  }

  /** Ends every session in good order. */
  close(): void {
    this.#closed = true;
    for (const timer of this.#timers) timer.cancel();
    this.#unsubscribe();
    for (const session of [...this.#sessions.keys()]) session.end();
  }
}
