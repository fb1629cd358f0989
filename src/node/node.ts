/**
 * One running node: wires the layers together as the configuration says. The order of starting is the order of need
 * (identity, data, followers, upstream, clients, feed, admin) and stopping reverses it: first nobody may write any more,
 * last the store is flushed and closed, so that an exit that hangs or is killed costs nothing.
 */
import { hostname } from 'node:os';
import { join } from 'node:path';
import { assert, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime } from '../base/runtime.js';
import { sid } from '../base/types.js';
import { Commands } from '../commands/commands.js';
import { MessageQueues } from '../commands/message-queues.js';
import { Recaching } from '../commands/recaching.js';
import { Signals } from '../commands/signals.js';
import { Slices } from '../commands/slices.js';
import { KyotoTycoonFeed } from '../feeds/kyoto-tycoon/feed.js';
import { PostgresFeed } from '../feeds/postgres/feed.js';
import type { NodeIdentity } from '../pki/identity.js';
import type { Live } from '../pki/live.js';
import type { Identity } from '../pki/names.js';
import { isStatement } from '../pki/node-statement.js';
import type { AnnouncedNode } from '../replication/following/discovery.js';
import type { Equality } from '../replication/following/equality.js';
import type { Connect, UpstreamFollower } from '../replication/following/upstream-follower.js';
import { encodeFrame } from '../replication/frames/frames.js';
import type { Heartbeats } from '../replication/frames/heartbeats.js';
import type { TreeNode } from '../replication/frames/tree.js';
import type { ReplicationServer } from '../replication/sending/server.js';
import type { LocalStore } from '../store/store.js';
import { type Names, namesOf } from '../transport/addresses.js';
import { ClientKeeper } from '../transport/clients/keeper.js';
import { type ClientListener, listenForClients } from '../transport/clients/listener.js';
import { listenForMemcached } from '../transport/memcached/listener.js';
import type { KtUpstreamChange, NodeServices } from '../transport/rpc/session.js';
import { connectToUpstream, type FollowerListener, listenForFollowers } from '../transport/tls-link.js';
import { type AdminServer, startAdmin } from './admin/admin.js';
import { Digests } from './admin/digest.js';
import { listLog, trimLog } from './admin/log-control.js';
import { MetricsRegistry } from './admin/metrics.js';
import { type Announcements, signedAnnouncements } from './announcements.js';
import { AuditTrail } from './audit/trail.js';
import { NodeCertificates } from './certificates/certificates.js';
import { Enrollment } from './certificates/enrollment.js';
import { ExpiryWatch } from './certificates/expiry-watch.js';
import { acceptFollower } from './certificates/follower-scope.js';
import { PublishedLists } from './certificates/published-lists.js';
import { PublishedTrust } from './certificates/published-trust.js';
import { ClientPolicies, listenerAt } from './client-policies.js';
import type { ClientListenerConfig } from './config/listener-schema.js';
import { scopeRules } from './config/policy-schema.js';
import type { NodeConfig } from './config/schema.js';
import { BackupCommands } from './data/backup-commands.js';
import { DataDirectory } from './data/data-directory.js';
import { Encryption } from './data/encryption.js';
import { ImageKeeper } from './data/image-keeper.js';
import { MachineDisk } from './data/machine-disk.js';
import { Resealer } from './data/resealer.js';
import type { StoreHolder } from './data/store-holder.js';
import { loadTextDatabases } from './data/text-databases.js';
import { UnseenWrites } from './data/unseen-writes.js';
import { feedOf, type NodeFeed } from './feed.js';
import { KtFollowers } from './kt-followers.js';
import { Replica } from './replica.js';
import type { FeedProgress } from './status/feed-progress.js';
import { registerNodeMetrics } from './status/node-metrics.js';
import { nodeStatus } from './status/node-status.js';
import { StallWatch } from './status/stall-watch.js';
import type { NodeStatus } from './status/status.js';

export interface NodeOptions {
  readonly log: Logger;
  readonly runtime: Runtime;
  /** Called once when the node cannot go on (an invariant broke). The caller stops the process. */
  readonly onFatal: (error: unknown) => void;
}

export class Node {
  readonly config: NodeConfig;
  /** Who this node is. */
  readonly self: Identity;
  readonly certificates: NodeCertificates;
  readonly directory: DataDirectory;
  readonly #replica: Replica;
  readonly metrics = new MetricsRegistry();
  readonly startedMs: number;
  readonly #options: NodeOptions;
  readonly #log: Logger;
  readonly #commands: Commands;
  readonly #signals: Signals;
  readonly #names: Names;
  #followers: FollowerListener | undefined;
  readonly clientKeeper: ClientKeeper;
  readonly clientPolicies: ClientPolicies;
  readonly audit: AuditTrail;
  readonly encryption: Encryption | undefined;
  resealer: Resealer | undefined;
  readonly #clients: ClientListener[] = [];
  readonly #memcached: ClientListener[] = [];
  #admin: AdminServer | undefined;
  #feed: NodeFeed | undefined;
  #ktFollowers: KtFollowers | undefined;
  #publishedLists: PublishedLists | undefined;
  #publishedTrust: PublishedTrust | undefined;
  #expiries: ExpiryWatch | undefined;
  readonly enrollment: Enrollment;
  readonly announcements: Announcements;
  readonly #images: ImageKeeper;
  readonly #unseen: UnseenWrites;
  readonly #stalls: StallWatch;
  readonly #backups: BackupCommands | undefined;
  #stopping = false;

  /** Opens identity and data. Errors: `IDENTITY`, `STORAGE`, `CORRUPT`, `CONFIG`. */
  constructor(config: NodeConfig, options: NodeOptions) {
    const { runtime } = options;
    this.config = config;
    this.#names = namesOf(config.replication.dns);
    this.#options = options;
    this.startedMs = runtime.monotonicMs();
    this.certificates = new NodeCertificates({ config, runtime, log: options.log });
    const known = this.certificates.identity?.current.identity;
    const flushesCommits = config.store.flush === 'commits';
    if (config.encryption !== false) this.encryption = new Encryption(config.encryption, { runtime, log: options.log });
    const disk = new MachineDisk(this.encryption);
    this.directory = new DataDirectory({
      folder: config.data,
      disk,
      clusterId: known?.clusterId,
      runtime,
      flushesCommits,
    });
    this.audit = new AuditTrail(config, { runtime, log: options.log });
    const { clusterId } = this.directory;
    this.self = known ?? { clusterId, role: config.role, name: config.name ?? hostname() };
    this.#log = options.log.child({ node: this.self.name });
    if (this.directory.wasDiscarded) {
      this.#log.warn(
        {},
        'the machine went down while commits were not flushed (store.flush): data discarded, seeding anew',
      );
    }
    const [clients] = config.listen.clients;
    this.#replica = new Replica({
      config,
      self: this.self,
      directory: this.directory,
      disk,
      runtime,
      log: this.#log,
      rootAddress: config.role === 'root' && clients !== undefined ? `${clients.host}:${clients.port}` : '',
      feedReached: () => (this.#feed instanceof PostgresFeed ? this.#feed.reached : undefined),
      connect: this.#connect,
      readCertificate: () => this.certificates.reload(),
      scopeOpening: () => this.certificates.identity?.current.scopeOpening,
      answer: async (request, from) => await this.#answer(request, from),
      onFatal: options.onFatal,
    });
    this.announcements = signedAnnouncements({
      config,
      certificates: this.certificates,
      store: () => this.stores.current,
      writeRefusal: () => this.#replica.writeRefusal(),
      peers: () => this.peers,
      ask: async (statement) => await this.#answer(statement, 'this node'),
      runtime,
      log: this.#log,
    });
    this.enrollment = new Enrollment({
      config,
      certificates: this.certificates,
      store: () => this.stores.current,
      writeRefusal: () => this.#replica.writeRefusal(),
      askUpstream: async (request) => await this.#askUpstream(request),
      runtime,
      log: this.#log,
      audit: this.audit,
    });
    this.#unseen = new UnseenWrites({ folder: config.data, replaces: config.replaces.map(sid), log: this.#log });
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
    const { commands, timeLimitMs } = config.backup;
    if (commands !== undefined) {
      const scratch = join(config.data, 'backup');
      this.#backups = new BackupCommands({ commands, timeLimitMs, scratch, runtime, log: this.#log });
    }
    this.#stalls = new StallWatch({ runtime, log: this.#log });
    this.#signals = new Signals(runtime);
    this.clientKeeper = new ClientKeeper({ limits: config.limits, runtime, log: this.#log });
    this.clientPolicies = new ClientPolicies({ runtime, log: this.#log, audit: this.audit });
    this.#commands = new Commands({
      store: () => this.stores.current,
      writeGate: () => this.#replica.writeRefusal(),
      limits: config.limits,
      durability: config.durability,
    });
  }

  async start(): Promise<void> {
    const { config, audit } = this;
    const { identity } = this.certificates;
    audit.started(this.self.name, config, identity?.current);
    let fingerprint = identity?.current.fingerprint;
    identity?.onChange(() => {
      audit.identityChanged(identity.current, this.certificates.revocation());
      if (identity.current.fingerprint !== fingerprint) this.#replica.relink();
      fingerprint = identity.current.fingerprint;
    });
    for (const { name, withoutEffect } of config.databases) {
      if (withoutEffect.length > 0)
        this.#log.warn({ database: name, options: withoutEffect }, 'options of a database have no effect here');
    }
    await this.#replica.open();
    registerNodeMetrics(this, this.#stalls);
    // Before anybody is let in: who was revoked stays out from the first moment.
    const published = {
      certificates: this.certificates,
      store: () => this.stores.current,
      writeRefusal: () => this.#replica.writeRefusal(),
      runtime: this.#options.runtime,
      log: this.#log,
    };
    this.#publishedLists = new PublishedLists(published);
    this.#expiries = new ExpiryWatch({ ...published, renews: this.enrollment.renewal() !== undefined });
    if (config.identity !== false)
      this.#publishedTrust = new PublishedTrust({ ...published, audit, caFile: config.identity.ca });
    const { current } = this.stores;
    if (current !== undefined) this.#unseen.watch(current);
    this.stores.onSwap((store) => this.#unseen.watch(store));
    await this.#listenForFollowers();
    this.#ktFollowers = await KtFollowers.open(this, this.#log);
    this.#replica.follow();
    // Clients may read while a root recovers; writes wait.
    await this.#listenForClients();
    if (config.listen.admin !== false) {
      const digests = new Digests(() => this.stores.current, this.#options.runtime);
      this.#admin = await startAdmin({
        ...config.listen.admin,
        status: () => this.status(),
        ready: () => this.ready(),
        listLog: (query) => listLog(this.#data(), query),
        trimLog: async (query) => {
          const trimmed = await trimLog(this.#data(), query);
          this.#log.warn(trimmed, 'the update log was cut by hand');
          return trimmed;
        },
        digest: (request) => digests.digest(request),
        copyAgain: (table) => {
          if (this.#feed instanceof PostgresFeed) return this.#feed.copyAgain(table);
          throw new TokaidoError('NOT_READY', 'no Postgres feed runs on this node', { hint: 'ask the root' });
        },
        takes: {
          '/crl': async (text) => (await this.#publishedLists?.take(text)) ?? {},
          '/trust': async (text) => (await this.#publishedTrust?.take(text)) ?? {},
          '/tokens': async (text) => await this.enrollment.takeToken(text),
        },
        tokens: () => this.enrollment.tokens(),
        metrics: this.metrics,
        log: this.#log,
      });
    }
    this.#replica.keepHouse();
    const { encryption, stores } = this;
    if (encryption !== undefined)
      this.resealer = new Resealer({ encryption, stores, runtime: this.#options.runtime, log: this.#log });
    // A root that recovers is up and reachable meanwhile: its followers are what it waits for.
    this.#beginWriting().catch((error: unknown) => this.#options.onFatal(error));
  }

  async #beginWriting(): Promise<void> {
    await this.#replica.beginWriting();
    const { config, stores } = this;
    if (stores.current !== undefined && config.role === 'root' && !config.standby)
      await loadTextDatabases(stores.current, config, this.#log, () => !this.#stopping);
    this.#startFeed();
    // Seeded by another root, a root has another store: its feed goes on there, from the position in it.
    this.stores.onSwap(() => {
      void this.#restartFeed().catch((error: unknown) => this.#options.onFatal(error));
    });
  }

  async #restartFeed(): Promise<void> {
    const before = this.#feed;
    this.#feed = undefined;
    await before?.stop();
    this.#startFeed();
  }

  #proof(): Live<NodeIdentity> {
    const { identity } = this.certificates;
    assert(identity !== undefined, 'a node that replicates has an identity');
    return identity;
  }

  /**
   * Reads certificates, keys (of encryption, too), CA bundles, revocation lists and tokens again at once. With another configuration: takes
   * its policies (scopes of followers, rules of client listeners), and nothing else of it.
   */
  reload(config?: NodeConfig): void {
    this.certificates.reload();
    this.clientPolicies.reload();
    this.encryption?.reload();
    if (config === undefined) return;
    this.clientPolicies.adopt(config);
    this.#replica.setScopes(scopeRules(config));
    this.#ktFollowers?.adopt(config);
    this.audit.policiesChanged(config);
    this.#log.info({}, 'the policies of the configuration hold from now on; other settings take a restart');
  }

  /** The answer to what a follower asks, or this node itself; from upstreams, for what is for the root to answer. */
  async #answer(request: Buffer, from: string): Promise<Buffer> {
    const isToRecord = this.config.role === 'root' && isStatement(request);
    return await (isToRecord ? this.announcements : this.enrollment).answer(request, from);
  }

  async #askUpstream(request: Buffer): Promise<Buffer> {
    if (this.upstream === undefined) throw new TokaidoError('NOT_READY', 'this node has no upstream yet');
    return await this.upstream.ask(request);
  }

  async #listenForFollowers(): Promise<void> {
    const { replication } = this.config.listen;
    if (replication === false) return;
    if (this.config.replication.scopes === 'certificates')
      this.#log.info({}, 'only nodes whose certificates name a scope may follow this one (replication.scopes)');
    this.#followers = await listenForFollowers({
      ...replication,
      identity: this.#proof(),
      log: this.#log,
      runtime: this.#options.runtime,
      maxConnections: this.config.replication.maxFollowers,
      audit: this.audit,
      farewell: (message) => encodeFrame({ type: 'refuse', code: 'IDENTITY', message }),
      onJoin: (socket) => this.enrollment.door.serve(socket),
      onLink: (link) => acceptFollower(link, { replica: this.#replica, audit: this.audit }),
    });
  }

  readonly #connect: Connect = async (upstream, attach) => {
    await connectToUpstream({
      host: upstream.host,
      port: upstream.port,
      expectedName: upstream.name,
      identity: this.#proof(),
      log: this.#log,
      runtime: this.#options.runtime,
      audit: this.audit,
      names: this.#names,
      onLink: (link) => {
        const peer = { name: link.peer.name, role: link.peer.role, address: link.peerAddress };
        return this.audit.linked('upstream', link, attach(peer, link));
      },
    });
  };

  async #listenForClients(): Promise<void> {
    const { runtime, onFatal } = this.#options;
    const commands = this.#commands;
    const signals = this.#signals;
    const feedWaits = this.progress.waits;
    const maxConnections = this.config.limits.connections;
    const shared = {
      commands,
      runtime,
      log: this.#log,
      maxConnections,
      keeper: this.clientKeeper,
      audit: this.audit,
      onFatal,
    };
    const services = this.#services();
    for (const listener of this.config.listen.clients) {
      const { host, port } = listener;
      const at = listenerAt('clients', listener);
      const tls = this.certificates.clientTls(listener);
      this.audit.watchClientCa(at, tls);
      const own = { host, port, tls, policy: this.clientPolicies.of(at, listener) };
      this.#clients.push(await listenForClients({ ...shared, ...own, signals, feedWaits, services }));
    }
    const queues = new MessageQueues({ signals, slices: new Slices(runtime), runtime });
    const recaching = new Recaching();
    for (const listener of this.config.listen.memcached) {
      const tls = this.certificates.clientTls(listener);
      const { database } = listener;
      const at = listenerAt('memcached', listener);
      this.audit.watchClientCa(at, tls);
      const own = { ...listener, database, tls, policy: this.clientPolicies.of(at, listener) };
      this.#memcached.push(await listenForMemcached({ ...shared, ...own, queues, recaching }));
    }
  }

  /** What remote procedures may ask of this node. */
  #services(): NodeServices {
    const { kyotoTycoon } = this.config;
    const backups = this.#backups;
    return {
      updateLog: () => this.#ktFollowers?.log(),
      ...(kyotoTycoon === undefined
        ? {}
        : {
            follow: (change) => this.#followKyotoTycoon(change),
            following: () => (this.#feed instanceof KyotoTycoonFeed ? this.#feed.following : undefined),
          }),
      ...(backups === undefined
        ? {}
        : {
            runCommand: async ({ name }, command) => {
              const store = this.stores.current;
              return store !== undefined && (await backups.run(store, name, command));
            },
          }),
    };
  }

  #followKyotoTycoon(change: KtUpstreamChange): void {
    if (this.config.kyotoTycoon?.tunable !== true)
      throw new TokaidoError('NOT_IMPLEMENTED', 'kyotoTycoon.tunable does not let clients say who is followed');
    if (!(this.#feed instanceof KyotoTycoonFeed))
      throw new TokaidoError('NOT_READY', 'this root does not follow anybody yet');
    this.#feed.follow(change);
  }

  #startFeed(): void {
    const store = this.stores.current;
    if (store === undefined || this.#stopping || this.config.standby) return;
    const { runtime } = this.#options;
    this.#feed = feedOf(this.config, { runtime, log: this.#log, onReached: () => this.progress.ownMoved() });
    this.#feed?.start(store);
  }

  /** Errors: `NOT_READY`. */
  #data(): LocalStore {
    const store = this.stores.current;
    if (store === undefined) throw new TokaidoError('NOT_READY', 'this node has no data yet');
    return store;
  }

  /** Whether clients can read here now, and why not. */
  ready(): { ready: boolean; reason?: string } {
    if (this.#stopping) return { ready: false, reason: 'stopping' };
    if (this.stores.current === undefined)
      return { ready: false, reason: 'no data yet: waiting for a snapshot from an upstream' };
    const { emptied } = this.#replica;
    if (emptied !== undefined) return { ready: false, reason: emptied.message };
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
    return this.#replica.replication;
  }

  get upstream(): UpstreamFollower | undefined {
    return this.#replica.upstream;
  }

  /** Links to the other roots. */
  get peers(): readonly UpstreamFollower[] {
    return this.#replica.peers;
  }

  get stores(): StoreHolder {
    return this.#replica.stores;
  }

  get progress(): FeedProgress {
    return this.#replica.progress;
  }

  /** This node and all below it. */
  tree(): TreeNode[] {
    return this.#replica.tree();
  }

  /** Nodes that have announced where followers reach them. */
  announced(): AnnouncedNode[] {
    return this.#replica.announced();
  }

  get equality(): Equality {
    return this.#replica.equality;
  }

  get heartbeats(): Heartbeats {
    return this.#replica.heartbeats;
  }

  /** What of this node holds data and replicates. */
  get replica(): Replica {
    return this.#replica;
  }

  get feed(): NodeFeed | undefined {
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
    this.#replica.beginStopping();
    this.#publishedLists?.close();
    this.#unseen.close();
    this.#stalls.close();
    this.#publishedTrust?.close();
    this.#expiries?.close();
    this.resealer?.close();
    this.enrollment.close();
    this.announcements.close();
    this.certificates.close();
    await this.#feed?.stop();
    await Promise.all(this.clients.map(async (listener) => await listener.close()));
    this.clientKeeper.close();
    this.clientPolicies.close();
    this.#replica.stopReplicating();
    await this.#followers?.close();
    await this.#ktFollowers?.close();
    await this.#backups?.stop();
    await this.#images.stop();
    await this.#replica.close();
    await this.#admin?.close();
    this.encryption?.close();
    this.audit.close();
    this.#log.info({}, 'stopped: all data is on the disk');
  }
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
