/**
 * One running node: wires the layers together as the configuration says. The order of starting is the order of need
 * (identity, data, followers, upstream, clients, feed, admin) and stopping reverses it: first nobody may write any more,
 * last the store is flushed and closed, so that an exit that hangs or is killed costs nothing.
 */
import { hostname } from 'node:os';
import { AssertionFailure, assert, messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import { Commands } from '../commands/commands.js';
import { MessageQueues } from '../commands/message-queues.js';
import { Recaching } from '../commands/recaching.js';
import { Signals } from '../commands/signals.js';
import { Slices } from '../commands/slices.js';
import { KyotoTycoonFeed } from '../feeds/kyoto-tycoon/feed.js';
import { PostgresFeed } from '../feeds/postgres/feed.js';
import { readKey, readPublic } from '../pki/files.js';
import { loadNodeIdentity, type NodeIdentity } from '../pki/identity.js';
import type { Identity } from '../pki/names.js';
import { encodeFrame, type PathNode } from '../replication/frames.js';
import { Heartbeats } from '../replication/heartbeats.js';
import { ReplicationServer } from '../replication/server.js';
import { UpstreamFollower } from '../replication/upstream-follower.js';
import type { LocalStore } from '../store/store.js';
import { ClientKeeper } from '../transport/client-keeper.js';
import { type ClientListener, listenForClients } from '../transport/client-listener.js';
import { listenForMemcached } from '../transport/memcached-listener.js';
import type { ClientTls } from '../transport/stream-server.js';
import { connectToUpstream, type FollowerListener, listenForFollowers } from '../transport/tls-link.js';
import { type AdminServer, startAdmin } from './admin/admin.js';
import { MetricsRegistry } from './admin/metrics.js';
import type { ClientListenerConfig, NodeConfig } from './config/schema.js';
import { DataDirectory } from './data-directory.js';
import { ImageKeeper } from './image-keeper.js';
import { KtFollowers } from './kt-followers.js';
import { registerNodeMetrics } from './node-metrics.js';
import { nodeStatus } from './node-status.js';
import { Recovery } from './recovery.js';
import type { NodeStatus } from './status.js';
import { StoreHolder } from './store-holder.js';
import { loadTextDatabase } from './text-databases.js';

export interface NodeOptions {
  readonly log: Logger;
  readonly runtime: Runtime;
  /** Called once when the node cannot go on (an invariant broke). The caller stops the process. */
  readonly onFatal: (error: unknown) => void;
}

/** Milliseconds between two rounds of housekeeping when more is due. */
const SWEEP_AGAIN_MS = 10;

/** Milliseconds until a root whose disk refuses tries again to begin. */
const BEGIN_AGAIN_MS = 5000;

export class Node {
  readonly config: NodeConfig;
  /** Who this node is. */
  readonly self: Identity;
  /** How it proves that; a root that stands alone does not. */
  readonly credentials: NodeIdentity | undefined;
  readonly directory: DataDirectory;
  readonly stores: StoreHolder;
  readonly heartbeats = new Heartbeats();
  readonly recovery: Recovery;
  readonly metrics = new MetricsRegistry();
  readonly startedMs: number;
  readonly #options: NodeOptions;
  readonly #log: Logger;
  readonly #commands: Commands;
  readonly #signals: Signals;
  #path: readonly PathNode[] = [];
  #rootAddress = '';
  #replication: ReplicationServer | undefined;
  #followers: FollowerListener | undefined;
  #upstream: UpstreamFollower | undefined;
  readonly clientKeeper: ClientKeeper;
  readonly #clients: ClientListener[] = [];
  readonly #memcached: ClientListener[] = [];
  #admin: AdminServer | undefined;
  #feed: PostgresFeed | KyotoTycoonFeed | undefined;
  #ktFollowers: KtFollowers | undefined;
  #sweep: Timer | undefined;
  readonly #images: ImageKeeper;
  #stopping = false;

  /** Opens identity and data. Errors: `IDENTITY`, `STORAGE`, `CORRUPT`, `CONFIG`. */
  constructor(config: NodeConfig, options: NodeOptions) {
    const { runtime } = options;
    this.config = config;
    this.#options = options;
    this.startedMs = runtime.monotonicMs();
    this.credentials = openIdentity(config, runtime);
    const known = this.credentials?.identity;
    const flushesCommits = config.store.flush === 'commits';
    this.directory = new DataDirectory({ folder: config.data, clusterId: known?.clusterId, runtime, flushesCommits });
    const { clusterId } = this.directory;
    this.self = known ?? { clusterId, role: config.role, name: config.name ?? hostname() };
    this.#log = options.log.child({ node: this.self.name });
    if (this.directory.wasDiscarded) {
      this.#log.warn(
        {},
        'the machine went down while commits were not flushed (store.flush): data discarded, seeding anew',
      );
    }
    const { onFatal } = options;
    this.stores = new StoreHolder({ config, directory: this.directory, runtime, log: this.#log, onFatal });
    this.#images = new ImageKeeper({
      ...config.memory,
      runtime,
      log: this.#log,
      current: () => {
        const store = this.stores.current;
        const folder = this.directory.currentStore;
        return store === undefined || folder === undefined ? undefined : { store, folder };
      },
    });
    this.recovery = new Recovery(
      {
        directory: this.directory,
        waitMs: config.replication.recoveryWaitMs,
        runtime,
        log: this.#log,
        beginEpoch: async () => await this.stores.current?.beginEpoch(),
      },
      config.role === 'root',
    );
    this.#signals = new Signals(runtime);
    this.clientKeeper = new ClientKeeper({ limits: config.limits, runtime, log: this.#log });
    this.#commands = new Commands({
      store: () => this.stores.current,
      writeGate: () => this.#writeRefusal(),
      limits: config.limits,
      durability: config.durability,
    });
    const [clients] = config.listen.clients;
    if (config.role === 'root' && clients !== undefined) this.#rootAddress = `${clients.host}:${clients.port}`;
  }

  #writeRefusal(): TokaidoError | undefined {
    if (this.#stopping) return new TokaidoError('NOT_READY', 'this node is stopping');
    if (this.config.role === 'root') return this.recovery.refusal() ?? this.stores.refusal();
    const root = this.#path.at(-1);
    const where = root === undefined ? 'the root' : `the root ${root.name}`;
    const at = this.#rootAddress === '' ? '' : ` at ${this.#rootAddress}`;
    return new TokaidoError('READ_ONLY', `this node follows others and takes no writes: write to ${where}${at}`, {
      hint: `send writes to ${where}${at}`,
    });
  }

  async start(): Promise<void> {
    const { config } = this;
    await this.#flushLeftovers();
    for (const { name, withoutEffect } of config.databases) {
      if (withoutEffect.length > 0)
        this.#log.warn({ database: name, options: withoutEffect }, 'options of a database have no effect here');
    }
    await this.stores.restore();
    registerNodeMetrics(this);
    this.#serveFollowers();
    this.stores.onSwap(() => this.#serveFollowers());
    await this.#listenForFollowers();
    this.#ktFollowers = await KtFollowers.open(this, clientTlsOf, this.#log);
    this.#follow();
    // Clients may read while a root recovers; writes wait.
    await this.#listenForClients();
    if (config.listen.admin !== false) {
      this.#admin = await startAdmin({
        ...config.listen.admin,
        status: () => this.status(),
        ready: () => this.ready(),
        metrics: this.metrics,
        log: this.#log,
      });
    }
    this.#scheduleSweep(config.store.expiryIntervalMs);
    // A root that recovers is up and reachable meanwhile: its followers are what it waits for.
    this.#beginWriting().catch((error: unknown) => this.#options.onFatal(error));
  }

  /** What a root does before it takes writes. A disk that refuses is asked again: reads go on meanwhile. */
  async #beginWriting(): Promise<void> {
    while (!this.#stopping) {
      try {
        await this.recovery.complete();
        await this.stores.announceLost();
        break;
      } catch (error) {
        if (!(error instanceof TokaidoError) || error.code !== 'STORAGE') throw error;
        this.#log.error({ reason: error.message, hint: error.hint }, 'cannot take writes yet: trying again');
        await new Promise<void>((resolve) => this.#options.runtime.after(BEGIN_AGAIN_MS, resolve));
      }
    }
    await this.#loadTextDatabases();
    this.#startFeed();
  }

  /**
   * What a killed process committed is visible, and may be nowhere but in memory: before anyone (Postgres, say) is told
   * that this node has it, it goes to the disk.
   */
  async #flushLeftovers(): Promise<void> {
    if (!this.directory.wasUnclean || this.config.store.flush !== 'commits') return;
    await this.stores.current?.engine.flush();
    this.directory.leftoversFlushed();
  }

  /** (Re)starts the upstream side on the current store. Followers reconnect and compare positions. */
  #serveFollowers(): void {
    const store = this.stores.current;
    if (store === undefined || this.config.listen.replication === false) return;
    this.#replication?.close();
    const { config } = this;
    this.#replication = new ReplicationServer({
      store,
      clusterId: this.self.clusterId,
      runtime: this.#options.runtime,
      log: this.#log,
      heartbeats: this.heartbeats,
      heartbeatMs: config.replication.heartbeatMs,
      ringBytes: config.replication.ringBytes,
      queueBytes: config.replication.followerQueueBytes,
      snapshots: config.replication.snapshots,
      path: () => [this.#self(), ...this.#path],
      rootAddress: () => this.#rootAddress,
      isRecovering: () => this.recovery.active,
      onAccountedFor: (instanceId) => {
        if (config.role === 'root') this.recovery.accountedFor(instanceId);
      },
    });
  }

  #proof(): NodeIdentity {
    assert(this.credentials !== undefined, 'a node that replicates has an identity');
    return this.credentials;
  }

  #self(): PathNode {
    return { instanceId: this.directory.instanceId, name: this.self.name };
  }

  async #listenForFollowers(): Promise<void> {
    const { replication } = this.config.listen;
    if (replication === false) return;
    this.#followers = await listenForFollowers({
      ...replication,
      identity: () => this.#proof(),
      log: this.#log,
      runtime: this.#options.runtime,
      maxConnections: this.config.replication.maxFollowers,
      onLink: (link) => {
        const server = this.#replication;
        const peer = { name: link.peer.name, role: link.peer.role, address: link.peerAddress };
        if (server === undefined) {
          link.send([
            encodeFrame({
              type: 'refuse',
              code: 'NOT_READY',
              message: 'this node has no data yet: it is being seeded itself',
            }),
          ]);
          link.close();
          return { onData: () => undefined, onDrain: () => undefined, onClose: () => undefined };
        }
        const session = server.accept(peer, link);
        return {
          onData: (chunk) => session.onData(chunk),
          onDrain: () => session.pump(),
          onClose: () => server.closed(session),
        };
      },
    });
  }

  #follow(): void {
    const { config } = this;
    if (config.role === 'root') return;
    const { runtime } = this.#options;
    this.#upstream = new UpstreamFollower({
      upstreams: config.upstreams,
      backOff: { minMs: config.replication.reconnectMinMs, maxMs: config.replication.reconnectMaxMs },
      silenceMs: config.replication.silenceMs,
      runtime,
      log: this.#log,
      connect: async (upstream, attach) =>
        await connectToUpstream({
          host: upstream.host,
          port: upstream.port,
          expectedName: upstream.name,
          identity: () => this.#proof(),
          log: this.#log,
          runtime,
          onLink: (link) => attach({ name: link.peer.name, role: link.peer.role, address: link.peerAddress }, link),
        }),
      host: {
        log: this.#log,
        clusterId: this.self.clusterId,
        self: this.#self(),
        store: () => this.stores.current,
        openSnapshot: async (contents) => await this.stores.openSnapshot(contents),
        unappliedBytes: config.replication.unappliedBytes,
        onWelcome: (welcome) => {
          this.#path = welcome.path;
          this.#rootAddress = welcome.rootAddress;
        },
        onHeartbeat: ({ origins }) => {
          for (const beat of origins) this.heartbeats.hear(beat, this.stores.current?.position() ?? []);
          this.#replication?.beat();
        },
        onLoaded: (rows) => this.#log.info({ rows }, 'the snapshot is loaded: serving the new data'),
      },
    });
    this.#watchPosition();
  }

  /** Without followers of its own nobody else tells the heartbeats how far this node is. */
  #watchPosition(): void {
    const watch = (store: LocalStore | undefined): void => {
      store?.onCommit(() => this.heartbeats.reach(store.position()));
    };
    watch(this.stores.current);
    this.stores.onSwap((store) => {
      watch(store);
      this.heartbeats.reach(store.position());
    });
  }

  async #listenForClients(): Promise<void> {
    const { runtime, onFatal } = this.#options;
    const commands = this.#commands;
    const signals = this.#signals;
    const maxConnections = this.config.limits.connections;
    const shared = { commands, runtime, log: this.#log, maxConnections, keeper: this.clientKeeper, onFatal };
    const updateLog = () => this.#ktFollowers?.log();
    for (const listener of this.config.listen.clients) {
      const { host, port } = listener;
      this.#clients.push(
        await listenForClients({ ...shared, host, port, tls: clientTlsOf(listener), signals, updateLog }),
      );
    }
    const queues = new MessageQueues({ commands, signals, slices: new Slices(runtime), runtime });
    const recaching = new Recaching();
    for (const listener of this.config.listen.memcached) {
      const tls = clientTlsOf(listener);
      const { database } = listener;
      this.#memcached.push(await listenForMemcached({ ...shared, ...listener, database, tls, queues, recaching }));
    }
  }

  async #loadTextDatabases(): Promise<void> {
    const store = this.stores.current;
    if (store === undefined || this.config.role !== 'root') return;
    for (const spec of this.config.databases) {
      if (spec.textFile === undefined || this.#stopping) continue;
      try {
        const changed = await loadTextDatabase(store, spec, this.config.limits.valueBytes);
        this.#log.info({ database: spec.name, file: spec.textFile, changed }, 'loaded a text database');
      } catch (error) {
        this.#log.error({ database: spec.name, reason: messageOf(error) }, 'a text database stays as it was');
      }
    }
  }

  #startFeed(): void {
    const store = this.stores.current;
    if (store === undefined || this.#stopping) return;
    this.#feed = this.#makeFeed();
    this.#feed?.start(store);
  }

  #makeFeed(): PostgresFeed | KyotoTycoonFeed | undefined {
    const { postgres, kyotoTycoon, sid, limits } = this.config;
    const { runtime } = this.#options;
    if (postgres !== undefined) return new PostgresFeed({ config: postgres, runtime, log: this.#log });
    if (kyotoTycoon === undefined || sid === undefined) return undefined;
    const config = { ...kyotoTycoon, keyBytes: limits.keyBytes };
    return new KyotoTycoonFeed({ config, sid, runtime, log: this.#log });
  }

  #scheduleSweep(delayMs: number): void {
    if (this.#stopping) return;
    this.#sweep = this.#options.runtime.after(delayMs, () => {
      this.#sweepOnce().then(
        (more) => this.#scheduleSweep(more ? SWEEP_AGAIN_MS : this.config.store.expiryIntervalMs),
        (error: unknown) => {
          if (error instanceof AssertionFailure) this.#options.onFatal(error);
          else this.#log.error({ reason: messageOf(error) }, 'housekeeping failed; it will be tried again');
          this.#scheduleSweep(this.config.store.expiryIntervalMs);
        },
      );
    });
  }

  async #sweepOnce(): Promise<boolean> {
    const store = this.stores.current;
    if (store === undefined || !store.needsSweep()) return false;
    return await store.sweep();
  }

  /** Whether clients can read here now, and why not. */
  ready(): { ready: boolean; reason?: string } {
    if (this.#stopping) return { ready: false, reason: 'stopping' };
    if (this.stores.current === undefined)
      return { ready: false, reason: 'no data yet: waiting for a snapshot from an upstream' };
    return { ready: true };
  }

  status(): NodeStatus {
    return nodeStatus(this);
  }

  /** Where this node listens: `host:port` by listener. */
  addresses(): Readonly<Record<string, string>> {
    const { clients, memcached, replication, kyotoTycoon, admin } = this.config.listen;
    const at = (listener: { readonly host: string } | false, open: { readonly port: number } | undefined): string => {
      return listener === false || open === undefined ? 'off' : `${listener.host}:${open.port}`;
    };
    const all = (listeners: readonly Pick<ClientListenerConfig, 'host' | 'tls'>[], open: readonly ClientListener[]) => {
      const texts = open.map(({ port }, index) => {
        const { host, tls } = listeners[index] as ClientListenerConfig;
        return `${host}:${port}${tls === false ? '' : ' (TLS)'}`;
      });
      return texts.join(', ') || 'off';
    };
    return {
      clients: all(clients, this.#clients),
      memcached: all(memcached, this.#memcached),
      replication: at(replication, this.#followers),
      ...(kyotoTycoon === false ? {} : { kyotoTycoon: at(kyotoTycoon, this.#ktFollowers) }),
      admin: at(admin, this.#admin),
    };
  }

  get replication(): ReplicationServer | undefined {
    return this.#replication;
  }

  get upstream(): UpstreamFollower | undefined {
    return this.#upstream;
  }

  get feed(): PostgresFeed | KyotoTycoonFeed | undefined {
    return this.#feed;
  }

  /** Listeners for clients, whatever their protocol. */
  get clients(): readonly ClientListener[] {
    return [...this.#clients, ...this.#memcached];
  }

  get followerListener(): FollowerListener | undefined {
    return this.#followers;
  }

  /** Followers that are Kyoto Tycoon servers. */
  get ktFollowers(): KtFollowers | undefined {
    return this.#ktFollowers;
  }

  get runtime(): Runtime {
    return this.#options.runtime;
  }

  /** Ends links and listeners, flushes and closes the data. Safe to call once. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#sweep?.cancel();
    await this.#feed?.stop();
    await Promise.all(this.clients.map(async (listener) => await listener.close()));
    this.clientKeeper.close();
    this.#upstream?.stop();
    this.#replication?.close();
    await this.#followers?.close();
    await this.#ktFollowers?.close();
    await this.#images.stop();
    await this.stores.close();
    this.directory.closeCleanly();
    await this.#admin?.close();
    this.#log.info({}, 'stopped: all data is on the disk');
  }
}

/** Certificate and key of a node that replicates, checked against its configuration. Errors: `IDENTITY`, `CONFIG`. */
function openIdentity(config: NodeConfig, runtime: Runtime): NodeIdentity | undefined {
  if (config.identity === false) return undefined;
  const credentials = loadNodeIdentity(config.identity, runtime.nowMs());
  const { name, role } = credentials.identity;
  if (role !== config.role) {
    throw new TokaidoError('CONFIG', `the configuration says role ${config.role}, the certificate says ${role}`, {
      hint: 'issue a certificate for the role this node plays, or correct role',
    });
  }
  if (config.name !== undefined && config.name !== name) {
    throw new TokaidoError('CONFIG', `the configuration says name ${config.name}, the certificate says ${name}`);
  }
  return credentials;
}

/** Errors: `IDENTITY` when a file cannot be read, or a key can be read by others. */
function clientTlsOf({ tls }: Pick<ClientListenerConfig, 'tls'>): ClientTls | undefined {
  if (tls === false) return undefined;
  return {
    certificatePem: readPublic(tls.certificate, 'certificate of a client listener'),
    keyPem: readKey(tls.key, 'key of a client listener'),
    clientCaPem: tls.clientCa === undefined ? undefined : readPublic(tls.clientCa, 'CA certificate for clients'),
    names: tls.names,
  };
}

/** Opens and starts a node; resolves when its listeners are open. */
export async function startNode(config: NodeConfig, options: NodeOptions): Promise<Node> {
  const node = new Node(config, options);
  try {
    await node.start();
  } catch (error) {
    // What did open (other listeners, the link to the upstream) would keep the process alive, and half a node in it.
    await node.stop();
    throw error;
  }
  return node;
}
