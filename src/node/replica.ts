/**
 * What holds data and replicates: the part of a node that knows neither sockets nor files. Links to peers, the disk and
 * the clock are handed in, so that a simulation runs whole clusters of exactly this (`sim/`). `node.ts` binds it to the
 * machine and puts clients, feeds and operation around it.
 */
import { AssertionFailure, messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import { type LocalNumber, sid } from '../base/types.js';
import type { Identity } from '../pki/names.js';
import { ClockWatch } from '../replication/following/clock-watch.js';
import { type AnnouncedNode, announcedIn, discoveredFor } from '../replication/following/discovery.js';
import { Equality } from '../replication/following/equality.js';
import { inOrder, type Tiers, type UpstreamAddress } from '../replication/following/upstream-choice.js';
import { type Connect, type LinkEvents, UpstreamFollower } from '../replication/following/upstream-follower.js';
import { newestBeat } from '../replication/following/upstream-look.js';
import type { UpstreamHost } from '../replication/following/upstream-session.js';
import type { Exchange } from '../replication/frames/exchange.js';
import { encodeFrame, type OriginBeat, type PathNode } from '../replication/frames/frames.js';
import { Heartbeats } from '../replication/frames/heartbeats.js';
import { joinTrees, type TreeNode } from '../replication/frames/tree.js';
import type { Peer, PeerLink } from '../replication/link.js';
import { Scope } from '../replication/scope.js';
import { ScopePolicy, type ScopeRules } from '../replication/scope-policy.js';
import { ReplicationServer } from '../replication/sending/server.js';
import type { Proof } from '../store/proof.js';
import { isReserved, NODE_KEYS } from '../store/reserved.js';
import { Settling } from '../store/settling.js';
import type { LocalStore } from '../store/store.js';
import type { FeedPosition } from '../store/types.js';
import { scopeRules } from './config/policy-schema.js';
import type { NodeConfig } from './config/schema.js';
import type { DataDirectory } from './data/data-directory.js';
import type { Disk } from './data/disk.js';
import { Recovery } from './data/recovery.js';
import { StoreHolder } from './data/store-holder.js';
import { FeedProgress } from './status/feed-progress.js';

export interface ReplicaOptions {
  readonly config: NodeConfig;
  readonly self: Identity;
  readonly directory: DataDirectory;
  readonly disk: Disk;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** Where clients write to this node, if it is a root: `host:port`, or empty. */
  readonly rootAddress: string;
  /** How far this node's own feed is, beyond the last transaction of it. */
  readonly feedReached?: () => FeedPosition | undefined;
  /** Opens links to upstreams. */
  readonly connect: Connect;
  /** Reads this node's certificate again at once, if it lies in files. */
  readonly readCertificate?: () => void;
  /** Opens the scope that this node's certificate hides, if it hides one. */
  readonly scopeOpening?: () => string | undefined;
  /** The answer to what a follower asks; nobody may ask when absent. */
  readonly answer?: (request: Buffer, from: string) => Promise<Buffer>;
  /** Called when the node cannot go on: an invariant broke, or only a restart mends the disk. */
  readonly onFatal: (error: unknown) => void;
}

/** The id of no node. */
const NOBODY = '0'.repeat(32);

/** Milliseconds between two rounds of housekeeping when more is due. */
const SWEEP_AGAIN_MS = 10;

/** A follower may be busy with its own disk for longer than an upstream may be silent. */
const STALLED_SILENCES = 6;

/** Milliseconds until a root whose disk refuses tries again to begin. */
const BEGIN_AGAIN_MS = 5000;

export class Replica {
  readonly stores: StoreHolder;
  readonly heartbeats = new Heartbeats();
  readonly equality: Equality;
  readonly recovery: Recovery;
  readonly progress: FeedProgress;
  readonly clock: ClockWatch;
  #newestBeatMs = 0;
  readonly #options: ReplicaOptions;
  #path: readonly PathNode[] = [];
  #rootAddress: string;
  #scopes: ScopePolicy;
  #replication: ReplicationServer | undefined;
  #upstream: UpstreamFollower | undefined;
  #peers: readonly UpstreamFollower[] = [];
  #emptied: TokaidoError | undefined;
  #isSaidEmptied = false;
  /** Somebody followed this root since its start, and had nothing from before it. */
  #isFollowed = false;
  /** The root that says it has taken the place of this one. */
  #replacedBy: string | undefined;
  #sweep: Timer | undefined;
  /** What the current store may forget, beside other roots. */
  #settling: { readonly store: LocalStore; readonly with: Settling } | undefined;
  #stopping = false;

  /** Errors: `STORAGE`, `CORRUPT`. */
  constructor(options: ReplicaOptions) {
    this.#options = options;
    this.#rootAddress = options.rootAddress;
    const { config, directory, disk, runtime, log, onFatal } = options;
    // A root proves what it has by itself; what another root proves is not for its followers.
    const onEqual = (proof: Proof): void => (config.role === 'root' ? undefined : this.#replication?.prove(proof));
    this.equality = new Equality({ runtime, log, onEqual });
    this.clock = new ClockWatch(({ aheadMs, originMs, nowMs }) => {
      const apart = `${Math.round(Math.abs(aheadMs) / 1000)} s`;
      const times = { originClock: new Date(originMs).toISOString(), ownClock: new Date(nowMs).toISOString() };
      const what = aheadMs < 0 ? `${apart} behind that of the origin` : `${apart} ahead, or all news is that late`;
      log.warn(times, `the clock here is ${what} (compare the clocks): lag and expirations are wrong by that`);
    });
    this.#scopes = new ScopePolicy(scopeRules(config));
    this.stores = new StoreHolder({ config, directory, disk, runtime, log, onFatal });
    this.progress = new FeedProgress({
      runtime,
      heartbeats: this.heartbeats,
      store: () => this.stores.current,
      own: options.feedReached ?? (() => undefined),
      beat: () => this.#replication?.beat(),
    });
    this.recovery = new Recovery(
      {
        directory,
        waitMs: config.replication.recoveryWaitMs,
        runtime,
        log,
        beginEpoch: async () => await this.stores.current?.beginEpoch(),
      },
      config.role === 'root',
    );
  }

  /** Brings the data back as the last run left it, and serves followers that are handed to `accept`. */
  async open(): Promise<void> {
    await this.#flushLeftovers();
    await this.stores.restore();
    this.#serveFollowers();
    this.stores.onSwap(() => this.#serveFollowers());
    if (this.stores.current !== undefined) this.progress.watch(this.stores.current);
    this.stores.onSwap((store) => this.progress.watch(store));
  }

  /**
   * What a killed process committed is visible, and may be nowhere but in memory: before anyone (Postgres, say) is told
   * that this node has it, it goes to the disk.
   */
  async #flushLeftovers(): Promise<void> {
    const { config, directory } = this.#options;
    if (!directory.wasUnclean || config.store.flush !== 'commits') return;
    await this.stores.current?.engine.flush();
    directory.leftoversFlushed();
  }

  /** (Re)starts the upstream side on the current store. Followers reconnect and compare positions. */
  #serveFollowers(): void {
    const store = this.stores.current;
    const { config, self, runtime, log, answer } = this.#options;
    const { begunEmptyNs } = this.#options.directory;
    if (store === undefined || config.listen.replication === false) return;
    this.#replication?.close();
    this.#replication = new ReplicationServer({
      store,
      clusterId: self.clusterId,
      runtime,
      log,
      heartbeats: this.heartbeats,
      heartbeatMs: config.replication.heartbeatMs,
      proofMs: config.replication.proofMs,
      ringBytes: config.replication.ringBytes,
      queueBytes: config.replication.followerQueueBytes,
      snapshots: config.replication.snapshots,
      stalledMs: config.replication.silenceMs * STALLED_SILENCES,
      snapshotBytesPerSecond: config.replication.snapshotBytesPerSecond,
      snapshotResumeMs: config.replication.snapshotResumeMs,
      packsSnapshots: config.replication.snapshotCompression,
      copyInstead: {
        factor: config.replication.snapshotInsteadFactor,
        leastBytes: config.replication.snapshotInsteadBytes,
      },
      reached: () => this.progress.forFollowers(),
      scopeFor: (peer) => (peer.role === 'root' ? Scope.WHOLE : this.#scopes.for(peer)),
      exchange: this.#exchange(),
      onReplaced: (by) => this.#onReplaced(by),
      path: () => [this.#self(), ...this.#path],
      rootAddress: () => this.#rootAddress,
      isRecovering: () => this.recovery.active,
      begunEmptyNs,
      onEmptied: (reason) => this.#onEmptied(reason),
      ...(answer === undefined ? {} : { ask: async (peer, request) => await answer(request, peer.name) }),
      onAccountedFor: (instanceId) => {
        if (config.role !== 'root') return;
        this.#isFollowed = true;
        this.#emptied = undefined;
        this.recovery.accountedFor(instanceId);
      },
    });
  }

  #self(): PathNode {
    return { instanceId: this.#options.directory.instanceId, name: this.#options.self.name };
  }

  /** A follower's link passed authentication. Returns who handles its events. */
  accept(peer: Peer, link: PeerLink): LinkEvents {
    const server = this.#replication;
    if (server === undefined)
      return turnAway(link, 'NOT_READY', 'this node has no data yet: it is being seeded itself');
    const session = server.accept(peer, link);
    return {
      onData: (chunk) => session.onData(chunk),
      onDrain: () => session.pump(),
      onClose: () => server.closed(session),
      onOutdated: () => session.askToRelink(),
    };
  }

  /** Whether the configuration names this root among those to exchange with, or lets any be one of them. */
  #isPeer(name: string): boolean {
    return this.#options.config.peers.some((peer) => peer.name === undefined || peer.name === name);
  }

  /**
   * A root that comes back after its place was taken must not go on as if nothing had happened: its readers would have
   * one truth, those of the other root another. Where it names the other as its peer, somebody has decided.
   */
  #onReplaced(by: string): void {
    const { config, log } = this.#options;
    if (config.peers.length > 0 || this.#replacedBy === by) return;
    this.#replacedBy = by;
    log.error(
      { by },
      'another root has taken the place of this one: it takes no writes any more (docs/operate/recover.md)',
    );
  }

  /** What a follower gets from here, for people. */
  scopeOf(peer: Peer): string {
    return String(this.#replication?.scopeFor(peer) ?? 'nothing');
  }

  /** Takes another policy of who may follow what; open links that it does not allow as they are end now. */
  setScopes(rules: ScopeRules): void {
    this.#scopes = new ScopePolicy(rules);
    this.#replication?.recheckScopes();
  }

  /**
   * This node's certificate is another one now: every link is opened anew, and the old one left when that works. So no
   * link rests on a certificate that was replaced, and a CA may be retired without one of them ending.
   */
  relink(): void {
    this.#upstream?.relink();
    for (const peer of this.#peers) peer.relink();
    this.#replication?.relink();
  }

  /** Keeps a link to an upstream from now on; a root keeps one to each root that it exchanges with. */
  follow(): void {
    const { config } = this.#options;
    if (config.role !== 'root') {
      const upstreams = inOrder(config.upstreams, config.region);
      const discovered = config.replication.discover ? () => this.#discovered() : undefined;
      this.#upstream = this.#followOne(upstreams, this.#upstreamHost(), discovered);
      return;
    }
    this.#peers = config.peers.map((peer) => this.#followOne([peer], this.#peerHost()));
  }

  /** Nodes that have announced where followers reach them, as far as it is known here. */
  announced(): AnnouncedNode[] {
    return announcedIn(this.stores.current?.reserved(NODE_KEYS) ?? []);
  }

  #discovered(): Tiers {
    const { config, self } = this.#options;
    const below = new Set(this.#replication?.tree().map(({ name }) => name));
    const seeker = { name: self.name, region: config.region, configured: config.upstreams, below };
    return discoveredFor(seeker, this.announced());
  }

  #followOne(
    upstreams: readonly UpstreamAddress[],
    host: Omit<UpstreamHost, 'onEnd'>,
    discovered?: () => Tiers,
  ): UpstreamFollower {
    const { config, runtime, log, connect, readCertificate } = this.#options;
    return new UpstreamFollower({
      upstreams,
      discovered,
      backOff: { minMs: config.replication.reconnectMinMs, maxMs: config.replication.reconnectMaxMs },
      silenceMs: config.replication.silenceMs,
      staleMs: config.replication.staleMs,
      returnMs: config.replication.returnMs,
      freshMs: () => this.heartbeats.newestMs(),
      runtime,
      log,
      connect,
      readCertificate,
      host,
    });
  }

  #upstreamHost(): Omit<UpstreamHost, 'onEnd'> {
    const { config, runtime, log, self } = this.#options;
    return {
      log,
      clusterId: self.clusterId,
      self: this.#self(),
      scopeOpening: () => {
        const opening = this.#options.scopeOpening?.();
        return opening === undefined ? undefined : Buffer.from(opening, 'latin1');
      },
      store: () => this.stores.current,
      isFollower: (instanceId) => this.#replication?.isFollower(instanceId) === true,
      openSnapshot: async (contents, scope, from) => await this.stores.openSnapshot(contents, scope, from),
      resumesSnapshots: this.stores.resumesSnapshots,
      unfinished: () => this.stores.unfinished,
      unappliedBytes: config.replication.unappliedBytes,
      onWelcome: (welcome) => {
        this.#path = welcome.path;
        this.#rootAddress = welcome.rootAddress;
      },
      onHeartbeat: ({ path, origins }) => {
        this.#path = path;
        this.heartbeats.keepOnly(origins);
        this.#hear(origins);
        this.#replication?.beat();
      },
      onProof: (store, proof) => this.equality.check(store, proof),
      onAudited: (report) => this.equality.audited(report),
      tree: () => this.tree(),
      soon: (fn) => runtime.after(0, fn),
      onLoaded: (rows) => log.info({ rows }, 'the snapshot is loaded: serving the new data'),
    };
  }

  #hear(beats: readonly OriginBeat[]): void {
    this.#watchClock(newestBeat(beats));
    for (const beat of beats) this.heartbeats.hear(beat, this.stores.current?.position() ?? []);
    this.progress.heard();
  }

  /**
   * A root that is followed in exchange is not above this one: who writes where, and the way to the root, stay as they
   * are. Its beats go on with the next own one, not at once: two roots that answered each other's would never stop.
   */
  #peerHost(): Omit<UpstreamHost, 'onEnd'> {
    const exchange = this.#exchange();
    return {
      ...this.#upstreamHost(),
      exchange,
      openSnapshot: async (contents, scope, from) => {
        const refusal = this.#emptied ?? this.recovery.refusal() ?? this.stores.refusal();
        if (refusal !== undefined) throw refusal;
        return await this.stores.openSnapshot(contents, scope, from);
      },
      onWelcome: (welcome) => {
        if (this.#options.config.standby) this.#rootAddress = welcome.rootAddress;
      },
      onHeartbeat: ({ origins }) => this.#hear(origins.filter(({ sid: origin }) => origin !== exchange?.sid)),
      // Found and told; whose records are right is for somebody to decide.
      onProof: (store, proof) => {
        this.equality.check(store, proof);
        return undefined;
      },
    };
  }

  #exchange(): Exchange | undefined {
    const { config, runtime } = this.#options;
    if (config.role !== 'root' || config.sid === undefined) return undefined;
    if (config.peers.length === 0 && config.replaces.length === 0) return undefined;
    return {
      sid: sid(config.sid),
      nowMs: () => runtime.nowMs(),
      clockLimitMs: config.replication.clockLimitMs,
      replaces: config.replaces.map(sid),
      isPeer: (name) => this.#isPeer(name),
    };
  }

  #watchClock(originMs: number): void {
    if (originMs <= this.#newestBeatMs) return;
    this.#newestBeatMs = originMs;
    const { runtime } = this.#options;
    this.clock.hear(originMs, runtime.nowMs(), runtime.monotonicMs());
  }

  /** This node and all below it, as far as they have reported. */
  tree(): TreeNode[] {
    const { config, self, runtime, directory } = this.#options;
    const { last } = this.equality;
    const own: TreeNode = {
      instanceId: directory.instanceId,
      upstreamId: this.#path[0]?.instanceId ?? NOBODY,
      name: self.name,
      role: self.role,
      position: this.stores.current?.position() ?? [],
      lagMs: config.role === 'root' ? 0 : this.heartbeats.lagMs(runtime.nowMs()),
      equal: last === undefined ? 'unknown' : last.differences.length === 0 ? 'equal' : 'differs',
      ageMs: 0,
    };
    return joinTrees([[own], this.#replication?.tree() ?? []]);
  }

  /** What a root does before it takes writes. A disk that refuses is asked again: reads go on meanwhile. */
  async beginWriting(): Promise<void> {
    const { log, runtime } = this.#options;
    while (!this.#stopping) {
      try {
        await this.recovery.complete();
        await this.stores.announceLost();
        return;
      } catch (error) {
        if (this.#stopping) return;
        if (!(error instanceof TokaidoError) || error.code !== 'STORAGE') throw error;
        log.error({ reason: error.message, hint: error.hint }, 'cannot take writes yet: trying again');
        await new Promise<void>((resolve) => runtime.after(BEGIN_AGAIN_MS, resolve));
      }
    }
  }

  /** Why this node takes no writes right now, or `undefined` when it does. */
  writeRefusal(): TokaidoError | undefined {
    if (this.#stopping) return new TokaidoError('NOT_READY', 'this node is stopping');
    if (this.#options.config.role === 'root')
      return this.#rootRefusal() ?? this.recovery.refusal() ?? this.stores.refusal();
    const root = this.#path.at(-1);
    const where = root === undefined ? 'the root' : `the root ${root.name}`;
    const at = this.#rootAddress === '' ? '' : ` at ${this.#rootAddress}`;
    return new TokaidoError('READ_ONLY', `this node follows others and takes no writes: write to ${where}${at}`, {
      hint: `send writes to ${where}${at}`,
    });
  }

  /**
   * Writes would be lost when the disk is mounted. But no follower that is stale, or lies, may stop those of a root that
   * others follow, or that has records.
   */
  #onEmptied(reason: string): void {
    if (this.#isFollowed || this.#isSaidEmptied) return;
    this.#isSaidEmptied = true;
    const hint = 'stop this root and mount its disk; where what is here is to replace everything: startsAnew: true';
    const store = this.stores.current;
    const hasRecords = store?.databases().some(({ name }) => !isReserved(name) && store.count(name) > 0) ?? false;
    if (!hasRecords) this.#emptied = new TokaidoError('NOT_READY', reason, { hint });
    const effect = hasRecords ? 'it refuses them' : 'it takes no writes';
    this.#options.log.error({ reason, hint }, `this root is empty where its followers are not: ${effect}`);
  }

  /** Why this root may not be what it seems: a follower knows it from before it began with nothing. */
  get emptied(): TokaidoError | undefined {
    return this.#emptied;
  }

  #rootRefusal(): TokaidoError | undefined {
    if (this.#emptied !== undefined) return this.#emptied;
    const by = this.#replacedBy;
    if (by !== undefined) {
      const hint = `write to ${by}; what only this root has is merged once they name each other under peers (docs/operate/recover.md)`;
      return new TokaidoError('READ_ONLY', `the root ${by} has taken the place of this one`, { hint });
    }
    if (!this.#options.config.standby) return undefined;
    const at = this.#rootAddress === '' ? '' : ` at ${this.#rootAddress}`;
    return new TokaidoError('READ_ONLY', `this root stands by and takes no writes: write to another root${at}`, {
      hint: '`tokaido promote` makes it take writes',
    });
  }

  /** Does the store's housekeeping from now on: expired records, the log's retention. */
  keepHouse(): void {
    this.#scheduleSweep(this.#options.config.store.expiryIntervalMs);
  }

  #scheduleSweep(delayMs: number): void {
    if (this.#stopping) return;
    const { runtime, config, log, onFatal } = this.#options;
    this.#sweep = runtime.after(delayMs, () => {
      this.#sweepOnce().then(
        (more) => this.#scheduleSweep(more ? SWEEP_AGAIN_MS : config.store.expiryIntervalMs),
        (error: unknown) => {
          if (error instanceof AssertionFailure) onFatal(error);
          else log.error({ reason: messageOf(error) }, 'housekeeping failed; it will be tried again');
          this.#scheduleSweep(config.store.expiryIntervalMs);
        },
      );
    });
  }

  async #sweepOnce(): Promise<boolean> {
    const store = this.stores.current;
    if (store === undefined) return false;
    const { config, runtime } = this.#options;
    const nowMs = runtime.nowMs();
    const upToMs = config.role === 'root' ? nowMs : Math.min(nowMs, this.equality.collectUpToMs ?? 0);
    const settled = this.#settled(store);
    return store.needsSweep(upToMs, settled) ? await store.sweep(upToMs, settled) : false;
  }

  /** Local number before which removals are settled with all other roots; `undefined` where there are none. */
  #settled(store: LocalStore): LocalNumber | undefined {
    const { peers } = this.#options.config;
    if (peers.length === 0) return undefined;
    if (this.#settling?.store !== store) this.#settling = { store, with: new Settling(peers.length) };
    const settling = this.#settling.with;
    settling.note(store.position(), store.log.next);
    for (const { name, flushed } of this.#replication?.rootsOnDisk() ?? []) {
      if (this.#isPeer(name)) settling.hear(name, flushed);
    }
    return settling.before(store.position());
  }

  get replication(): ReplicationServer | undefined {
    return this.#replication;
  }

  get upstream(): UpstreamFollower | undefined {
    return this.#upstream;
  }

  /** Links to the other roots, in the order of the configuration. */
  get peers(): readonly UpstreamFollower[] {
    return this.#peers;
  }

  /** From now on nothing new begins: writes are refused. */
  beginStopping(): void {
    this.#stopping = true;
    this.#sweep?.cancel();
    this.progress.close();
  }

  /** Ends all links in good order. */
  stopReplicating(): void {
    this.#upstream?.stop();
    for (const peer of this.#peers) peer.stop();
    this.#replication?.close();
  }

  /** Flushes and closes the data. */
  async close(): Promise<void> {
    await this.stores.close();
    this.#options.directory.closeCleanly();
  }
}

/** Says why, and closes. */
function turnAway(link: PeerLink, code: string, message: string): LinkEvents {
  link.send([encodeFrame({ type: 'refuse', code, message })]);
  link.close();
  return { onData: () => undefined, onDrain: () => undefined, onClose: () => undefined };
}
