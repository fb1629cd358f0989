/**
 * The follower's side of one link: greets an upstream, applies what it sends, and says how far it is. No sockets, no
 * clock.
 *
 * States: `greeting` (HELLO sent) -> `following` (batches go to the store) or `loading` (a snapshot goes to a fresh
 * store that nobody reads; when it is whole, the node swaps stores) -> `ended`.
 *
 * Back-pressure: bytes received and not yet applied are bounded by `unappliedBytes`; beyond it the link is paused, and
 * TCP tells the upstream. Whatever goes wrong ends the link with a reason; the node then connects anew, with its
 * position, which is always right because it is stored with the data.
 */
import { AssertionFailure, messageOf, TokaidoError, unreachable } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Position } from '../../base/types.js';
import { describePosition } from '../../log/position.js';
import { ApplyOrder } from '../../store/apply-order.js';
import type { Forgotten } from '../../store/forgotten.js';
import type { Comparison } from '../../store/proof.js';
import type { SnapshotContents } from '../../store/snapshot.js';
import type { LocalStore } from '../../store/store.js';
import { newsOf } from '../frames/exchange.js';
import { MAX_PATH } from '../frames/frame-parts.js';
import {
  type Audited,
  encodeFrame,
  type Frame,
  FrameDecoder,
  type Heartbeat,
  type PathNode,
  PROTOCOL_VERSION,
  type ProofFrame,
  type RangeRowsFrame,
  type Ranges,
  type Recall,
  type SnapshotBegin,
  type SnapshotPlace,
  type Welcome,
} from '../frames/frames.js';
import { unpacked } from '../frames/packing.js';
import type { TreeNode } from '../frames/tree.js';
import type { Peer, PeerLink } from '../link.js';
import { Scope } from '../scope.js';
import { progressOf, type SnapshotProgress } from '../snapshot-progress.js';
import { Audit, type AuditReport } from './audit.js';
import { goneOn, helloOf, type Introduced } from './hello.js';
import { UpstreamQuestions } from './upstream-questions.js';

/** Where a snapshot goes: a store in the making. */
export interface SnapshotTarget {
  /** Resolves with the number of rows. */
  add(slice: { readonly database: number; readonly rows: Buffer }): Promise<number>;
  /** Makes it the node's store, durably. */
  finish(rows: number): Promise<void>;
  /** The link is gone: keeps what was loaded, if another link can go on with it. */
  suspend(): Promise<void>;
  /** Throws away what was loaded. */
  discard(): Promise<void>;
}

/** What the node lends to the session. */
export interface UpstreamHost extends Introduced {
  readonly log: Logger;
  /** The upstream may not bring another scope than that of the data here: it is one that no configuration names. */
  readonly keepsScope?: boolean;
  /** Whether a node follows this one right now. */
  isFollower(instanceId: string): boolean;
  /**
   * `scope` names the part that the snapshot is, as `Scope` encodes it. `from`: where it begins; its rows up to there are
   * here already.
   */
  openSnapshot(contents: SnapshotContents, scope: Buffer, from: SnapshotPlace | undefined): Promise<SnapshotTarget>;
  /** Where a snapshot was broken off, while that can be gone on with. */
  unfinished?(): SnapshotPlace | undefined;
  /** Bytes received and not applied yet, at most. */
  readonly unappliedBytes: number;
  onWelcome(welcome: Welcome): void;
  onHeartbeat(heartbeat: Heartbeat): void;
  /** The upstream proves what it has; `store` stands right behind what it had sent until then. */
  onProof(store: LocalStore, proof: ProofFrame): Comparison | undefined;
  /** A database that differed was gone through. */
  onAudited(report: AuditReport): void;
  /** This node and all below it, at most `MAX_TREE_NODES`. */
  tree(): readonly TreeNode[];
  /** Calls `fn` in a later turn of the event loop. */
  soon(fn: () => void): void;
  /** The upstream asks for a new link in place of this one. */
  onRelink?(): void;
  /** The session is over (the link may still be closing). */
  onEnd(reason: string): void;
  /** A snapshot was loaded and became the node's store. */
  onLoaded(rows: number): void;
}

export type UpstreamState = 'greeting' | 'following' | 'loading' | 'ended';

export class UpstreamSession {
  readonly peer: Peer;
  readonly #link: PeerLink;
  readonly #host: UpstreamHost;
  readonly #log: Logger;
  readonly #decoder = new FrameDecoder();
  #state: UpstreamState = 'greeting';
  /** The position that the upstream judged by. */
  readonly #told: Position;
  /** What this link carries. */
  #scope = Scope.WHOLE;
  #wasWelcome = false;
  #failedHere = false;
  #unapplied = 0;
  /** Of the batches of this link. */
  readonly #order = new ApplyOrder();
  #paused = false;
  #ackDue = false;
  #target: SnapshotTarget | undefined;
  #rows = 0;
  /** Rows that were here before this link. */
  #resumedAt = 0;
  /** What is loaded so far cannot be gone on with. */
  #isSpoilt = false;
  #expectedRows = 0;
  /** Position of the snapshot that comes. */
  #loadsTo: Position = [];
  /** What the source of the snapshot says it has forgotten. */
  #forgotten: Forgotten | undefined;
  /** The whole snapshot has arrived; what follows belongs behind it. */
  #snapshotSent = false;
  #audit: Audit | undefined;
  /** The tail of the chain of its frames. */
  #auditing: Promise<void> = Promise.resolve();
  /** Snapshot frames are written one after the other; this is the tail of that chain. */
  #loading: Promise<void> = Promise.resolve();
  readonly #questions = new UpstreamQuestions((question) => this.#send(question));

  constructor(peer: Peer, link: PeerLink, host: UpstreamHost) {
    this.peer = peer;
    this.#link = link;
    this.#host = host;
    this.#log = host.log.child({ upstream: peer.name, address: peer.address });
    const unfinished = host.unfinished?.();
    const hello = helloOf(host);
    this.#told = hello.position;
    this.#send({ ...hello, type: 'hello', isLook: false, ...(unfinished === undefined ? {} : { unfinished }) });
  }

  get state(): UpstreamState {
    return this.#state;
  }

  /** What was received is more than may wait to be applied: the link is told to wait. */
  get isPaused(): boolean {
    return this.#paused;
  }

  /** The link ended because this node could not store what came. */
  get failedHere(): boolean {
    return this.#failedHere;
  }

  /** The upstream accepted this node. */
  get wasWelcome(): boolean {
    return this.#wasWelcome;
  }

  /** Somebody waits for an answer over this link. */
  get isAsked(): boolean {
    return this.#questions.areOpen;
  }

  /** Rows loaded so far and rows announced, while a snapshot is under way. */
  get progress(): SnapshotProgress | undefined {
    return this.#state === 'loading' ? progressOf(this.#rows, this.#expectedRows, this.#resumedAt) : undefined;
  }

  onData(chunk: Buffer): void {
    if (this.#state === 'ended') return;
    try {
      for (const frame of this.#decoder.push(chunk)) {
        this.#onFrame(frame);
        if (this.#isOver()) return;
      }
    } catch (error) {
      if (error instanceof AssertionFailure) throw error;
      this.end(`the upstream broke the protocol: ${messageOf(error)}`);
    }
  }

  #isOver(): boolean {
    return this.#state === 'ended';
  }

  #onFrame(frame: Frame): void {
    switch (frame.type) {
      case 'welcome':
        this.#onWelcome(frame);
        return;
      case 'batch':
        this.#onBatch(frame.payload);
        return;
      case 'heartbeat':
        this.#checkPath(frame.path);
        this.#host.onHeartbeat(frame);
        return;
      case 'snapshotBegin':
        this.#onSnapshotBegin(frame);
        return;
      case 'forgotten':
        this.#expect('loading', 'forgotten');
        this.#forgotten = frame.forgotten;
        return;
      case 'snapshotRecords':
        this.#onSnapshotRecords(frame);
        return;
      case 'snapshotPacked': {
        const { database, packing, packed, bytes } = frame;
        this.#onSnapshotRecords({ database, rows: unpacked(packing, packed, bytes) });
        return;
      }
      case 'snapshotEnd':
        this.#onSnapshotEnd(frame.rows);
        return;
      case 'proof':
        this.#onProof(frame);
        return;
      case 'audited':
      case 'ranges':
      case 'rangeRows':
        this.#onAuditFrame(frame);
        return;
      case 'auditEnd':
        this.#log.warn({ reason: frame.reason }, 'the upstream ended the audit');
        this.#endAudit();
        return;
      case 'recall':
        this.#onRecall(frame);
        return;
      case 'answer':
        this.#questions.onAnswer(frame);
        return;
      case 'relink':
        this.#host.onRelink?.();
        return;
      case 'refuse':
        this.end(`refused by the upstream (${frame.code}): ${frame.message}`);
        return;
      case 'hello':
      case 'ack':
      case 'recalled':
      case 'audit':
      case 'descend':
      case 'ask':
      case 'report':
        throw new TokaidoError('REPLICATION', `an upstream may not send ${frame.type}`);
      default:
        unreachable(frame);
    }
  }

  /** Asks whoever knows, up to the root. Errors: `REPLICATION` when the link ends first, `OVERLOADED`, `NOT_READY`. */
  async ask(request: Buffer): Promise<Buffer> {
    if (this.#state !== 'following' && this.#state !== 'loading')
      throw new TokaidoError('NOT_READY', 'there is no link to an upstream to ask over');
    return await this.#questions.ask(request);
  }

  #onWelcome(welcome: Welcome): void {
    this.#expect('greeting', 'welcome');
    if (welcome.version !== PROTOCOL_VERSION) throw new TokaidoError('REPLICATION', `version ${welcome.version}`);
    if (welcome.clusterId !== this.#host.clusterId) {
      throw new TokaidoError(
        'REPLICATION',
        `the data of cluster ${welcome.clusterId} does not belong to ${this.#host.clusterId}`,
      );
    }
    this.#checkPath(welcome.path);
    this.#scope = Scope.decode(welcome.scope);
    const isScopeKept = this.#scope.id === helloOf(this.#host).scopeId;
    if (welcome.next === 'log' && !isScopeKept)
      throw new TokaidoError('REPLICATION', 'the log of another scope than that of the data here');
    if (this.#host.keepsScope === true && !isScopeKept) {
      this.end(
        `it would hand on another part of the data than is here (${this.#scope}), and no configuration names it`,
      );
      return;
    }
    this.#decoder.allowLargeFrames();
    this.#state = welcome.next === 'log' ? 'following' : 'loading';
    const scope = this.#scope.isWhole ? {} : { scope: String(this.#scope) };
    this.#log.info(
      { position: describePosition(welcome.position), next: welcome.next, ...scope },
      'connected to the upstream',
    );
    this.#wasWelcome = true;
    this.#host.onWelcome(welcome);
  }

  /** A node that finds itself on its own way to the root goes round in circles. */
  #checkPath(path: readonly PathNode[]): void {
    const { self, exchange } = this.#host;
    if (exchange !== undefined) {
      // Roots follow each other; who stands behind a root is not for them to know.
      if (path.length !== 1) throw new TokaidoError('REPLICATION', `${this.peer.name} is not a root`);
      if (path[0]?.instanceId === self.instanceId)
        throw new TokaidoError('REPLICATION', 'a root does not follow itself');
      return;
    }
    // Two nodes that turn to each other at the same moment know of no path yet that would tell them.
    const at = path.findIndex(({ instanceId }) => instanceId === self.instanceId || this.#host.isFollower(instanceId));
    if (at >= 0) {
      const drawn = [self, ...path.slice(0, at + 1)].map(({ name }) => name).join(' -> ');
      const end = path[at]?.instanceId === self.instanceId ? '' : ` -> ${self.name}`;
      throw new TokaidoError('REPLICATION', `a loop: ${drawn}${end}`);
    }
    if (path.length >= MAX_PATH) throw new TokaidoError('REPLICATION', 'too many nodes up to the root');
  }

  #expect(state: UpstreamState, what: string): void {
    if (this.#state !== state) throw new TokaidoError('REPLICATION', `${what} while ${this.#state}`);
  }

  /** The store to apply to; the upstream may only send log when it knows from the position that there is one. */
  #store(): LocalStore {
    const store = this.#host.store();
    if (store === undefined) throw new TokaidoError('REPLICATION', 'log sent to a node without data');
    return store;
  }

  #onBatch(payload: Buffer): void {
    this.#received(payload.length);
    if (this.#snapshotSent) {
      // The log goes on right behind the snapshot: it waits until the new store is there.
      this.#inOrder(async () => this.#apply(payload));
    } else {
      this.#expect('following', 'batch');
      this.#apply(payload);
    }
  }

  #apply(payload: Buffer): void {
    const { exchange } = this.#host;
    this.#store()
      .apply(exchange === undefined ? payload : newsOf(payload, exchange), this.#order)
      .committed.then(
        () => {
          this.#done(payload.length);
          this.#ackDue = true;
        },
        (error: unknown) => {
          this.#failedHere = true;
          this.end(`cannot apply what the upstream sent: ${messageOf(error)}`);
        },
      );
  }

  /** Looked at where it belongs: between the commit of what came before it and the next one. */
  #onProof(proof: ProofFrame): void {
    const compare = async (): Promise<void> => {
      const store = this.#store();
      const comparison = await store.between(() => this.#host.onProof(store, proof));
      const [difference] = comparison?.differences ?? [];
      if (difference !== undefined) this.#startAudit(store, difference.database);
    };
    if (this.#snapshotSent) {
      this.#inOrder(compare);
      return;
    }
    this.#expect('following', 'proof');
    compare().catch((error: unknown) => this.end(`cannot compare with the upstream: ${messageOf(error)}`));
  }

  #startAudit(store: LocalStore, database: string): void {
    if (this.#audit !== undefined || this.#state !== 'following') return;
    const host = {
      database,
      store,
      send: (frame: Frame): void => this.#send(frame),
      nextTurn: async (): Promise<void> => await new Promise((resolve) => this.#host.soon(resolve)),
      onDone: (report: AuditReport): void => {
        this.#audit = undefined;
        this.#host.onAudited(report);
      },
    };
    this.#audit = new Audit(host, store.proving.workedOffMs(database));
  }

  /** One frame after the other, each with all the turns of the event loop that it takes. */
  #onAuditFrame(frame: Audited | Ranges | RangeRowsFrame): void {
    const audit = this.#audit;
    // It ended, and the upstream has not heard of that yet.
    if (audit === undefined) return;
    const bytes = frame.type === 'rangeRows' ? frame.rows.length : 0;
    this.#received(bytes);
    // At once: what arrives behind it must not be applied before.
    const beginning = frame.type === 'audited' ? this.#store().between(() => audit.onAudited(frame)) : undefined;
    beginning?.catch(() => undefined);
    this.#auditing = this.#auditing.then(async () => {
      try {
        if (frame.type === 'audited') await beginning;
        else if (frame.type === 'ranges') await audit.onRanges(frame);
        else await audit.onRows(frame);
      } catch (error) {
        this.#log.warn({ reason: messageOf(error) }, 'cannot find out where this node differs: trying again later');
        if (!this.#isOver() && this.#audit === audit) this.#send({ type: 'auditEnd', reason: messageOf(error) });
        if (this.#audit === audit) this.#endAudit();
      }
      this.#done(bytes);
    });
  }

  #endAudit(): void {
    this.#audit?.close();
    this.#audit = undefined;
  }

  #received(bytes: number): void {
    this.#unapplied += bytes;
    if (this.#unapplied > this.#host.unappliedBytes && !this.#paused) {
      this.#paused = true;
      this.#link.pause();
    }
  }

  #done(bytes: number): void {
    this.#unapplied -= bytes;
    if (this.#paused && this.#unapplied <= this.#host.unappliedBytes / 2) {
      this.#paused = false;
      this.#link.resume();
    }
  }

  /**
   * Tells the upstream how far this node is, if that changed. Called now and then: acknowledgements are for status
   * and metrics, nothing waits for them, so one per batch would only cost both ends.
   */
  acknowledge(): void {
    const store = this.#host.store();
    if (!this.#ackDue || this.#state !== 'following' || store === undefined) return;
    this.#ackDue = false;
    this.#send({ type: 'ack', applied: store.position(), flushed: store.flushedPosition() });
  }

  /** Tells the upstream how this node is, and all below it. */
  report(): void {
    // Each root knows its own tree: trees that held each other would never forget a node.
    if (this.#state !== 'following' || this.#host.exchange !== undefined) return;
    this.#send({ type: 'report', nodes: this.#host.tree() });
  }

  #onSnapshotBegin({ from, ...contents }: SnapshotBegin): void {
    this.#expect('loading', 'snapshotBegin');
    this.#expectedRows = contents.databases.reduce((total, { records }) => total + records, 0);
    this.#resumedAt = from?.rows ?? 0;
    this.#rows = this.#resumedAt;
    const at = { records: this.#expectedRows, position: describePosition(contents.position) };
    if (this.#resumedAt > 0)
      this.#log.info({ ...at, row: this.#resumedAt }, 'going on with a snapshot where it stopped');
    else this.#log.info(at, 'loading a snapshot');
    this.#loadsTo = contents.position;
    this.#inOrder(async () => {
      if (this.#target !== undefined) throw new TokaidoError('REPLICATION', 'a second snapshot on one link');
      if (this.#endsIfBehind()) return;
      const { encoded } = this.#scope;
      this.#target = await this.#host.openSnapshot({ ...contents, forgotten: this.#forgotten }, encoded, from);
    });
  }

  #onSnapshotRecords(slice: { readonly database: number; readonly rows: Buffer }): void {
    this.#expect('loading', 'snapshotRecords');
    this.#received(slice.rows.length);
    this.#inOrder(async () => {
      this.#rows += await this.#opened().add(slice);
      this.#done(slice.rows.length);
    });
  }

  #onSnapshotEnd(rows: number): void {
    this.#expect('loading', 'snapshotEnd');
    this.#snapshotSent = true;
    this.#inOrder(async () => {
      if (this.#endsIfBehind()) return;
      await this.#opened().finish(rows);
      this.#target = undefined;
      this.#host.onLoaded(rows);
      // The link may have gone meanwhile: what was behind the snapshot comes again over the next one.
      if (this.#isOver()) return;
      this.#state = 'following';
      this.#ackDue = true;
    });
  }

  /**
   * Whether the data here went on while the upstream judged by what it was told (a commit of the link before was under
   * way, say), beyond its snapshot: that would take it back (invariant 8). A root keeps what only it has anyway.
   */
  #endsIfBehind(): boolean {
    const position = this.#host.store()?.position() ?? [];
    const ahead = this.#host.exchange === undefined ? goneOn(position, this.#told, this.#loadsTo) : undefined;
    if (ahead === undefined) return false;
    this.#isSpoilt = true;
    this.end(`the data here went on to ${describePosition([ahead])} while an older snapshot came`);
    return true;
  }

  #opened(): SnapshotTarget {
    if (this.#target === undefined) throw new TokaidoError('REPLICATION', 'snapshot rows before their beginning');
    return this.#target;
  }

  #inOrder(step: () => Promise<void>): void {
    this.#loading = this.#loading.then(async () => {
      if (this.#isOver()) return;
      try {
        await step();
      } catch (error) {
        this.#isSpoilt = true;
        this.#failedHere = true;
        this.end(`cannot load the snapshot: ${messageOf(error)}`);
      }
    });
  }

  /** The origin lost its tail: give back what we have of it. */
  #onRecall({ after }: Recall): void {
    this.#expect('greeting', 'recall');
    const store = this.#host.store();
    let transactions = 0;
    for (const payload of store?.log.transactionsAfter(after) ?? []) {
      this.#send({ type: 'batch', payload });
      transactions++;
    }
    this.#log.warn({ transactions, origin: after.sid }, 'gave transactions back to an origin that had lost them');
    this.#send({ type: 'recalled' });
  }

  #send(frame: Frame): void {
    this.#link.send([encodeFrame(frame)]);
  }

  /** Ends the link in good order. */
  end(reason: string): void {
    if (this.#state === 'ended') return;
    this.onClosed(reason);
    this.#link.close();
  }

  /** The link is gone; also called by `end`. A snapshot that is not whole waits for a link that goes on with it. */
  onClosed(reason: string): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    // What still waits to be applied comes again over the next link, which is told how far this node is.
    this.#order.break();
    this.#endAudit();
    this.#questions.end(reason);
    void this.#loading
      .then(() => (this.#isSpoilt ? this.#target?.discard() : this.#target?.suspend()))
      .catch((error: unknown) => this.#log.warn({ reason: messageOf(error) }, 'cannot put a partial snapshot aside'))
      .then(() => this.#host.onEnd(reason));
  }
}
