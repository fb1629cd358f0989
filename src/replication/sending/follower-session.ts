/**
 * The upstream's side of one link: what one follower has, and what to send it next. No sockets and no clock; the
 * server hands in frames and moments and the session answers with frames on its link.
 *
 * States: `greeting` (until HELLO) -> `recalling` (only at an origin that lost its tail: the follower gives it back) ->
 * `waiting` (for its turn to get a snapshot) -> `copying` (snapshot under way) -> `following` (log) -> `ended`.
 *
 * Cost of a follower: one link queue of at most `queueBytes` (plus one batch) and this object. A slow follower fills its
 * queue, is then fed from the log on the disk at its own speed, and nobody else notices. In `following`, the common case
 * is that the follower is at the tip and the newest batch, encoded once for all, goes straight to its link.
 */
import { AssertionFailure, messageOf, TokaidoError, unreachable } from '../../base/errors.js';
import { isNone } from '../../base/keys.js';
import type { Logger } from '../../base/logger.js';
import { type LocalNumber, localNumber, type Position, type Sid } from '../../base/types.js';
import { changesBetween, describePosition, originOf, START } from '../../log/position.js';
import { ApplyOrder } from '../../store/apply-order.js';
import { aheadOfOrigin } from '../../store/numbering.js';
import { isOnlyOf, isReplacedBy, whyNoExchange } from '../frames/exchange.js';
import {
  type AuditFrame,
  encodeFrame,
  type Frame,
  FrameDecoder,
  type Hello,
  PROTOCOL_VERSION,
} from '../frames/frames.js';
import type { TreeNode } from '../frames/tree.js';
import type { Peer, PeerLink } from '../link.js';
import type { Scope } from '../scope.js';
import type { SnapshotProgress } from '../snapshot-progress.js';
import { FollowerAudit } from './follower-audit.js';
import { FollowerQuestions } from './follower-questions.js';
import { FollowerSnapshot } from './follower-snapshot.js';
import { aheadOf, type FoundFor, findFor, openedBy, whatComes, whyBehind, whyNot } from './greeting.js';
import type { RecentBatch, SessionHost } from './session-host.js';

/** About how much of the log is read in one turn of the event loop: some ms, also when its batches are tiny. */
const LOG_SLICE_BYTES = 256 * 1024;

export type FollowerState = 'greeting' | 'recalling' | 'waiting' | 'copying' | 'following' | 'ended';

export class FollowerSession {
  #peer: Peer;
  #scope: Scope;
  readonly #link: PeerLink;
  readonly #host: SessionHost;
  readonly #log: Logger;
  readonly #decoder = new FrameDecoder();
  #state: FollowerState = 'greeting';
  #hello: Hello | undefined;
  #next: LocalNumber = localNumber(0);
  readonly #snapshot: FollowerSnapshot;
  /** It shall hear of a new certificate here once it is welcome. */
  #isRelinkDue = false;
  /** The next slice of a snapshot or of the log, or step of an audit, has its turn already. */
  #isPumpDue = false;
  /** Waits until the follower was sent everything before `next`, and nothing else. */
  #proof: { readonly next: LocalNumber; readonly frame: Buffer } | undefined;
  readonly #audit: FollowerAudit;
  readonly #questions: FollowerQuestions;
  /** Origins that were asked for already. */
  readonly #recalled = new Set<Sid>();
  /** Of the batches that it gives back. */
  readonly #order = new ApplyOrder();
  #tree: readonly TreeNode[] = [];
  #treeMs = 0;
  #applied: Position = START;
  #flushed: Position = START;

  constructor(peer: Peer, link: PeerLink, scope: Scope, host: SessionHost) {
    this.#peer = peer;
    this.#scope = scope;
    this.#link = link;
    this.#host = host;
    this.#log = host.log.child({ follower: peer.name, address: peer.address });
    this.#questions = new FollowerQuestions({
      answer: async (request) => await host.ask(this.#peer, request),
      send: (answer) => {
        if (this.#state !== 'ended') this.#send(answer);
      },
      log: this.#log,
    });
    this.#snapshot = new FollowerSnapshot({
      snapshots: host.snapshots,
      send: (frame) => this.#send(frame),
      done: () => host.snapshotDone(this),
    });
    this.#audit = new FollowerAudit({
      store: host.store,
      nowMs: () => host.nowMs(),
      send: (frame) => this.#send(frame),
      begin: () => host.beginAudit(this),
      done: (audit) => host.auditDone(this, audit),
    });
  }

  get state(): FollowerState {
    return this.#state;
  }

  get peer(): Peer {
    return this.#peer;
  }

  /** What this link may carry. */
  get scope(): Scope {
    return this.#scope;
  }

  /** What the follower said it has applied. */
  get applied(): Position {
    return this.#applied;
  }

  /** What the follower said is safe on its disk. */
  get flushed(): Position {
    return this.#flushed;
  }

  /** Of the snapshot that this follower is being sent. */
  get copying(): SnapshotProgress | undefined {
    return this.#snapshot.progress;
  }

  get queuedBytes(): number {
    return this.#link.queuedBytes;
  }

  get instanceId(): string | undefined {
    return this.#hello?.self.instanceId;
  }

  /** A follower is who its certificate says, whatever it reports. */
  #onReport([self, ...below]: readonly TreeNode[]): void {
    const hello = this.#hello;
    if (self === undefined || hello === undefined) return;
    const { name, role } = this.peer;
    this.#tree = [{ ...self, instanceId: hello.self.instanceId, name, role }, ...below];
    this.#treeMs = this.#host.monotonicMs();
  }

  /** The follower and all nodes below it, as they were reported. */
  tree(): TreeNode[] {
    const ageMs = this.#host.monotonicMs() - this.#treeMs;
    return this.#tree.map((node) => ({ ...node, ageMs: node.ageMs + ageMs }));
  }

  /** Transactions that the follower has not acknowledged; a root has what it made itself, and acknowledges none of it. */
  lagChanges(): number {
    const own = this.#hello?.origin?.sid;
    const ours = this.#host.store.position();
    return changesBetween(this.#applied, own === undefined ? ours : ours.filter(({ sid }) => sid !== own));
  }

  /** Bytes from the follower. Whatever is wrong with them ends this link and nothing else. */
  onData(chunk: Buffer): void {
    if (this.#state === 'ended') return;
    try {
      for (const frame of this.#decoder.push(chunk)) this.#onFrame(frame);
    } catch (error) {
      if (error instanceof AssertionFailure) throw error;
      this.#log.warn({ reason: messageOf(error) }, 'a follower broke the protocol: link closed');
      this.#refuse('PROTOCOL', messageOf(error));
    }
  }

  #onFrame(frame: Frame): void {
    switch (frame.type) {
      case 'hello':
        this.#onHello(frame);
        return;
      case 'ack':
        this.#applied = frame.applied;
        this.#flushed = frame.flushed;
        this.#snapshot.acknowledged();
        return;
      case 'batch':
        this.#onRecalledBatch(frame.payload);
        return;
      case 'recalled':
        this.#onRecalled();
        return;
      case 'report':
        this.#onReport(frame.nodes);
        return;
      case 'audit':
        this.#onAudit(frame);
        return;
      case 'descend':
        this.#audit.ask(frame);
        this.pump();
        return;
      case 'ask':
        if (this.#state === 'greeting') throw new TokaidoError('REPLICATION', 'ASK before HELLO');
        this.#questions.ask(frame);
        return;
      case 'auditEnd':
        this.#audit.close();
        return;
      case 'refuse':
        this.#log.info({ code: frame.code, reason: frame.message }, 'the follower ended the link');
        this.end();
        return;
      case 'welcome':
      case 'heartbeat':
      case 'snapshotBegin':
      case 'forgotten':
      case 'snapshotRecords':
      case 'snapshotPacked':
      case 'snapshotEnd':
      case 'recall':
      case 'proof':
      case 'audited':
      case 'ranges':
      case 'rangeRows':
      case 'answer':
      case 'relink':
        throw new TokaidoError('REPLICATION', `a follower may not send ${frame.type}`);
      default:
        unreachable(frame);
    }
  }

  #onHello(hello: Hello): void {
    if (this.#state !== 'greeting') throw new TokaidoError('REPLICATION', 'a second HELLO on one link');
    const opened = openedBy(hello, this.#peer);
    if ('code' in opened) {
      this.endForPolicy(opened.message);
      return;
    }
    if (opened.peer !== this.#peer) {
      this.#peer = opened.peer;
      this.#scope = this.#host.scopeFor(opened.peer);
      if (this.endIfNothing()) return;
    }
    const name = this.#host.path()[0]?.name ?? 'this node';
    const refusal = whyNot(hello, this.scope, this.#host) ?? whyNoExchange(hello, this.peer, this.#host.exchange, name);
    if (isReplacedBy(hello, this.peer, this.#host.store)) this.#host.onReplaced(this.peer.name);
    if (refusal !== undefined) {
      this.#log.warn({ code: refusal.code, reason: refusal.message }, 'follower refused');
      if (refusal.code === 'EMPTIED') this.#host.onEmptied(refusal.message);
      this.#refuse(refusal.code, refusal.message);
      return;
    }
    if (hello.isLook) {
      const found = this.#find(hello);
      if (!this.#refuseIfBehind(hello, found)) this.#sendWelcome(found);
      this.end();
      return;
    }
    this.#hello = hello;
    this.#host.supersede(this);
    this.#snapshot.greeted(`${this.peer.name} ${hello.self.instanceId}`, hello);
    this.#applied = hello.position;
    this.#decoder.allowLargeFrames();
    const own = this.#host.store.ownPosition();
    const ahead = aheadOfOrigin(this.#host.store, hello.position);
    if (ahead === undefined) {
      this.#host.accountedFor(this);
      this.#welcomeWithAll(hello);
    } else if (this.#host.isRecovering() && !this.#hasWhole(hello)) {
      // What it has of a transaction may be less than the whole. Others may have that: this one asks again later.
      this.#refuse('NOT_READY', 'this root takes back what it lost from followers that have everything');
    } else if (this.#host.isRecovering()) {
      this.#state = 'recalling';
      this.#log.warn({ have: own?.sequence ?? 0, follower: ahead.sequence }, 'taking back transactions this root lost');
      this.#send({ type: 'recall', after: own ?? { ...ahead, sequence: 0 as never, versionNs: 0n as never } });
    } else {
      this.#welcomeInNewEpoch(hello);
    }
  }

  /** First comes back what a root that this one replaced had told this follower, and perhaps nobody else. */
  #welcomeWithAll(hello: Hello): void {
    const { store, exchange } = this.#host;
    const rest = (exchange?.replaces ?? []).filter((sid) => !this.#recalled.has(sid));
    const [lacking] = this.#hasWhole(hello) ? aheadOf(hello.position, store.position(), rest) : [];
    if (lacking === undefined) {
      this.#welcome(hello);
      return;
    }
    this.#recalled.add(lacking.sid);
    this.#state = 'recalling';
    this.#log.warn({ follower: describePosition([lacking]) }, 'taking what only this follower has of a replaced root');
    const start = { ...lacking, sequence: 0 as never, versionNs: 0n as never };
    this.#send({ type: 'recall', after: originOf(store.position(), lacking.sid) ?? start });
  }

  /** Only who may see everything, and has it, can give anything back. */
  #hasWhole({ scopeId }: Hello): boolean {
    return this.scope.isWhole && scopeId === this.scope.id;
  }

  /** Too late to take anything back: numbering must not continue where a follower already counts differently. */
  #welcomeInNewEpoch(hello: Hello): void {
    this.#outnumber(hello.position).then(
      () => {
        this.#host.accountedFor(this);
        this.#welcomeWithAll(hello);
      },
      (error: unknown) => this.#refuse('EPOCH', `cannot begin a new epoch: ${messageOf(error)}`),
    );
  }

  /** Begins epochs until this follower is ahead in none: one, or one more when another follower's was under way. */
  async #outnumber(position: Position): Promise<void> {
    for (;;) {
      const ahead = aheadOfOrigin(this.#host.store, position);
      if (ahead === undefined) return;
      await this.#host.tailLost(ahead.epoch);
    }
  }

  #onRecalledBatch(payload: Buffer): void {
    if (this.#state !== 'recalling') throw new TokaidoError('REPLICATION', 'a follower may not send data');
    this.#host.store.apply(payload, this.#order).flushed.catch((error: unknown) => {
      this.#log.error({ reason: messageOf(error) }, 'what the follower gave back could not be applied');
      this.#refuse('RECALL', messageOf(error));
    });
  }

  #onRecalled(): void {
    if (this.#state !== 'recalling') throw new TokaidoError('REPLICATION', 'RECALLED without a recall');
    // An empty job behind the batches: when it is done, they are.
    void this.#host.store.apply(Buffer.alloc(0), this.#order).flushed.then(
      () => this.#afterRecall(),
      () => this.end(),
    );
  }

  #afterRecall(): void {
    const { store } = this.#host;
    const hello = this.#hello as Hello;
    this.#log.info({ position: describePosition(store.position()) }, 'took back what the follower had kept');
    if (aheadOfOrigin(store, hello.position) === undefined) {
      this.#welcomeInNewEpoch(hello);
      return;
    }
    // Its log does not reach back far enough to give everything. One that has not come yet may have the rest.
    this.#host.accountedFor(this);
    if (this.#host.isRecovering())
      this.#refuse('NOT_READY', 'this root goes on taking back what it lost: this follower could not give all of it');
    else this.#welcomeInNewEpoch(hello);
  }

  #find(hello: Hello): FoundFor {
    return findFor(hello, this.scope, this.#host);
  }

  #refuseIfBehind(hello: Hello, found: FoundFor): boolean {
    const refusal = whyBehind(hello, found, this.#host);
    if (refusal !== undefined) this.#refuse(refusal.code, refusal.message);
    return refusal !== undefined;
  }

  #sendWelcome(found: FoundFor): void {
    this.#send({
      type: 'welcome',
      version: PROTOCOL_VERSION,
      clusterId: this.#host.clusterId,
      path: this.#host.path(),
      rootAddress: this.#host.rootAddress(),
      position: this.#host.store.position(),
      next: found.kind === 'from' ? 'log' : 'snapshot',
      scope: this.scope.encoded,
      beats: this.#host.beats(this.scope),
    });
  }

  #welcome(hello: Hello): void {
    if (this.#state === 'ended') return;
    const isSame = hello.scopeId === this.scope.id;
    if (hello.seeded && !isSame)
      this.#log.info({ scope: String(this.scope) }, 'the scope of this follower is another now');
    const found = this.#find(hello);
    if (this.#refuseIfBehind(hello, found)) return;
    this.#sendWelcome(found);
    if (this.#isRelinkDue) this.#send({ type: 'relink' });
    this.#logStart(found, hello.position);
    if (found.kind === 'from') {
      this.#follow(found.first);
    } else {
      this.#state = 'waiting';
      this.#host.requestSnapshot(this);
    }
  }

  #logStart(found: FoundFor, position: Position): void {
    const at = {
      position: describePosition(position),
      ours: describePosition(this.#host.store.position()),
      ...(this.scope.isWhole ? {} : { scope: String(this.scope) }),
    };
    const { level, text } = whatComes(found, position);
    this.#log[level](at, `follower connected: ${text}`);
  }

  #follow(from: LocalNumber): void {
    this.#state = 'following';
    this.#next = from;
    this.pump();
  }

  /** A commit made a new batch. */
  onBatch(batch: RecentBatch): void {
    if (this.#state !== 'following' || this.#next !== batch.first || this.#isFull() || this.#audit.isFirst(this.#next))
      return;
    this.#sendProof();
    if (!this.#isEcho((origin) => batch.isOnlyOf(origin))) this.#link.send([batch.frame(this.scope)]);
    this.#next = batch.next;
  }

  /** What another root made itself is not told to it. */
  #isEcho(isOnlyOf: (origin: Sid) => boolean): boolean {
    const origin = this.#hello?.origin;
    return origin !== undefined && isOnlyOf(origin.sid);
  }

  #isFull(): boolean {
    return this.#link.queuedBytes >= this.#host.queueBytes;
  }

  /** Sends what the link has room for: called when it drained and when a follower is behind. */
  pump(): void {
    try {
      if (this.#state === 'copying') this.#pumpSnapshot();
      if (this.#state === 'following') {
        this.#pumpLog();
        if (!this.#isPumpDue && !this.#isFull() && this.#audit.step(this.#next)) this.#pumpLater(0);
      }
    } catch (error) {
      if (error instanceof AssertionFailure) throw error;
      this.#log.error({ reason: messageOf(error) }, 'cannot read what the follower needs: link closed');
      this.#refuse('SOURCE', messageOf(error));
    }
  }

  /** A proof for the position before `next`. One that still waits goes first: a follower far behind gets there, too. */
  offerProof(next: LocalNumber, frame: (scope: Scope) => Buffer): void {
    if (this.#state !== 'following') return;
    this.#proof ??= { next, frame: frame(this.scope) };
    this.pump();
  }

  /** A proof means something at one place of the log only. */
  #sendProof(): void {
    if (this.#proof === undefined || this.#next < this.#proof.next) return;
    if (this.#next === this.#proof.next) this.#link.send([this.#proof.frame]);
    this.#proof = undefined;
  }

  #onAudit(frame: AuditFrame): void {
    const { database } = frame;
    if (this.#state !== 'following') throw new TokaidoError('REPLICATION', `an audit while ${this.#state}`);
    const keys = this.scope.keysOf(database);
    if (isNone(keys)) {
      this.#send({ type: 'auditEnd', reason: 'nothing of that database is in the scope of this follower' });
    } else if (this.#audit.begin(frame, keys)) {
      this.#log.warn({ database }, 'the follower does not equal this node: it is being told where');
      this.pump();
    }
  }

  #pumpLater(delayMs: number): void {
    this.#isPumpDue = true;
    this.#host.after(delayMs, () => {
      this.#isPumpDue = false;
      this.pump();
    });
  }

  #pumpLog(): void {
    const { log } = this.#host.store;
    while (!this.#isFull()) {
      this.#sendProof();
      if (this.#next >= log.next || this.#audit.isFirst(this.#next)) return;
      const recent = this.#host.recentBatch(this.#next);
      if (recent !== undefined) {
        if (!this.#isEcho((origin) => recent.isOnlyOf(origin))) this.#link.send([recent.frame(this.scope)]);
        this.#next = recent.next;
        continue;
      }
      if (this.#next < log.first) {
        // Retention overtook a slow follower: it starts again, with a snapshot.
        this.#refuse('TOO_SLOW', 'the log no longer reaches back to this position; connect again for a snapshot');
        return;
      }
      // One slice a call: whoever takes all as fast as it comes would have the event loop for itself.
      if (this.#isPumpDue) return;
      for (const batch of log.read(this.#next, LOG_SLICE_BYTES)) {
        this.#sendProof();
        if (this.#audit.isFirst(this.#next)) return;
        if (!this.#isEcho((origin) => isOnlyOf(batch.payload, origin)))
          this.#send({ type: 'batch', payload: this.scope.filter(batch.payload) });
        this.#next = localNumber(batch.first + batch.count);
      }
      if (this.#next < log.next) this.#pumpLater(0);
    }
  }

  /** It is this session's turn to copy. */
  startSnapshot(): void {
    if (this.#state !== 'waiting') {
      this.#host.snapshotDone(this);
      return;
    }
    this.#state = 'copying';
    const rows = this.#snapshot.begin(this.scope, this.#hello as Hello);
    if (rows > 0) this.#log.info({ rows }, 'going on with the snapshot of this follower where it stopped');
    this.pump();
  }

  /** One slice a call, so that reads and other followers get their turn in between. */
  #pumpSnapshot(): void {
    if (this.#isFull() || !this.#snapshot.isUnderWay || this.#isPumpDue) return;
    const waitMs = this.#snapshot.step();
    if (waitMs !== undefined) {
      this.#pumpLater(waitMs);
      return;
    }
    const { rows, position } = this.#snapshot.finish();
    this.#log.info({ rows, position: describePosition(position) }, 'snapshot sent');
    const found = this.#host.store.log.find(position, this.#host.store.position());
    this.#snapshot.end(found.kind === 'from');
    if (found.kind === 'from') this.#follow(found.first);
    else this.#refuse('TOO_SLOW', 'the log no longer reaches back to the snapshot; connect again');
  }

  /** Bytes of the snapshot under way that the link has taken. */
  get snapshotTaken(): number {
    return this.#snapshot.bytes - this.#link.queuedBytes;
  }

  /** The follower takes nothing of its snapshot any more, and others wait for theirs. */
  giveUpSnapshot(forMs: number): void {
    this.#log.warn(
      { forMs, rows: this.#snapshot.progress?.rows },
      'a follower takes nothing of its snapshot: link closed',
    );
    this.#refuse('STALLED', `nothing of the snapshot was taken for ${Math.round(forMs)} ms; connect again`);
  }

  /** `frame` is encoded once for each scope. */
  sendBeat(frame: (scope: Scope) => Buffer): void {
    if (this.#state === 'greeting' || this.#state === 'ended') return;
    if (!this.#isFull()) this.#link.send([frame(this.scope)]);
    this.#audit.beat();
  }

  /** A follower that may see nothing is told so. */
  endIfNothing(): boolean {
    if (!this.scope.isNothing) return false;
    const { name } = this.peer;
    this.endForPolicy(`the policy of this node lets ${name} follow nothing that is here (replication.scopes)`);
    return true;
  }

  /** The policy gives this follower nothing, or something else than when it connected. */
  endForPolicy(message: string): void {
    this.#log.warn({ reason: message }, 'follower refused by the policy');
    this.#snapshot.end(false);
    this.#refuse('SCOPE', message);
  }

  /** This node has a new certificate: the link shall not rest on the old one for longer than it must. */
  askToRelink(): void {
    this.#isRelinkDue = this.#state === 'greeting';
    if (this.#state !== 'greeting' && this.#state !== 'ended') this.#send({ type: 'relink' });
  }

  #send(frame: Frame): void {
    this.#link.send([encodeFrame(frame)]);
  }

  #refuse(code: string, message: string): void {
    if (this.#state === 'ended') return;
    this.#send({ type: 'refuse', code, message });
    this.end();
  }

  /** Closes the link in good order. */
  end(): void {
    if (this.#state === 'ended') return;
    this.onClosed();
    this.#link.close();
  }

  /** The link is gone. */
  onClosed(): void {
    this.#state = 'ended';
    this.#snapshot.end(true);
    this.#audit.close();
  }
}
