/** Nodes without sockets: stores on temporary folders, joined by links in memory that deliver in later turns. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../src/base/logger.js';
import type { Runtime } from '../../src/base/runtime.js';
import { type Sid, sid } from '../../src/base/types.js';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import type { AuditReport } from '../../src/replication/following/audit.js';
import { Equality } from '../../src/replication/following/equality.js';
import { UpstreamFollower } from '../../src/replication/following/upstream-follower.js';
import { type UpstreamHost, UpstreamSession } from '../../src/replication/following/upstream-session.js';
import type { PathNode } from '../../src/replication/frames/frames.js';
import { Heartbeats } from '../../src/replication/frames/heartbeats.js';
import { joinTrees, type TreeNode } from '../../src/replication/frames/tree.js';
import type { PeerLink } from '../../src/replication/link.js';
import { Scope } from '../../src/replication/scope.js';
import { ReplicationServer, type ReplicationServerOptions } from '../../src/replication/sending/server.js';
import { parseDatabase } from '../../src/store/database-spec.js';
import { SnapshotLoader } from '../../src/store/snapshot.js';
import { LocalStore } from '../../src/store/store.js';
import type { StoreOptions } from '../../src/store/store-options.js';
import { broken, localRuntime } from './local-runtime.js';

export const CLUSTER = '00112233445566778899aabbccddeeff';

/** One end of a link in memory. What is sent arrives at the other end in a later turn, in order. */
class MemoryLink implements PeerLink {
  other: { onData(chunk: Buffer): void; onClosed(reason: string): void } | undefined;
  #waiting: Buffer[] = [];
  #paused = false;
  #closed = false;
  queuedBytes = 0;
  /** Set by a test to hold everything back, as a slow network does. */
  stalled = false;
  readonly drained: (() => void)[] = [];

  send(chunks: readonly Buffer[]): void {
    for (const chunk of chunks) {
      this.#waiting.push(Buffer.from(chunk));
      this.queuedBytes += chunk.length;
    }
    setImmediate(() => this.deliver());
  }

  deliver(): void {
    while (!this.stalled && !this.#paused && !this.#closed) {
      const chunk = this.#waiting.shift();
      if (chunk === undefined) return;
      this.queuedBytes -= chunk.length;
      this.other?.onData(chunk);
      if (this.#waiting.length === 0) for (const drained of this.drained) drained();
    }
  }

  /** The receiver's pause acts on the sending end here. */
  setPaused(paused: boolean): void {
    this.#paused = paused;
    if (!paused) setImmediate(() => this.deliver());
  }

  peerEnd: MemoryLink | undefined;
  pause(): void {
    this.peerEnd?.setPaused(true);
  }
  resume(): void {
    this.peerEnd?.setPaused(false);
  }
  close(): void {
    setImmediate(() => this.destroy('closed'));
  }
  destroy(reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.other?.onClosed(reason);
    this.peerEnd?.destroy(reason);
  }
}

export interface TestNode {
  readonly name: string;
  readonly self: PathNode;
  store: LocalStore | undefined;
  server: ReplicationServer | undefined;
  readonly heartbeats: Heartbeats;
  readonly equality: Equality;
  readonly ends: string[];
  readonly reports: AuditReport[];
  readonly loaded: number[];
  upstreamPath: readonly PathNode[];
  /** Every byte that came from upstreams. */
  readonly received: Buffer[];
}

/** Builds nodes, links them, and removes everything at the end. */
export class TestCluster {
  readonly runtime: Runtime;
  readonly #folder = mkdtempSync(join(tmpdir(), 'tokaido-replication-'));
  readonly #nodes: TestNode[] = [];
  readonly #keepers: UpstreamFollower[] = [];
  #folders = 0;

  constructor(runtime: Runtime = localRuntime()) {
    this.runtime = runtime;
  }

  openStore(ownSid: Sid | undefined, overrides: Partial<StoreOptions> = {}): LocalStore {
    return new LocalStore({ ...this.#options(this.newEngine(), ownSid), ...overrides });
  }

  newEngine(): LmdbEngine {
    const folder = join(this.#folder, `store-${++this.#folders}`);
    return new LmdbEngine({ bootId: 'a boot', folder, mapSizeBytes: 2 ** 32, maxMaps: 32 });
  }

  #options(engine: LmdbEngine, ownSid: Sid | undefined): StoreOptions {
    return {
      engine,
      runtime: this.runtime,
      log: silentLogger,
      sid: ownSid,
      databases: [parseDatabase('default')],
      retention: { bytes: 2 ** 30, ageMs: 3_600_000 },
      transaction: { bytes: 2 ** 24, keyBytes: 1024 },
      queue: { jobs: 100_000, commitChanges: 5000, commitBytes: 2 ** 22, commitIntervalMs: 0 },
      maxDatabases: 16,
      onBroken: broken,
    };
  }

  node(name: string, store: LocalStore | undefined): TestNode {
    const instanceId = Buffer.from(name.padEnd(16, '.')).toString('hex').slice(0, 32);
    const node: TestNode = {
      name,
      self: { instanceId, name },
      store,
      server: undefined,
      heartbeats: new Heartbeats(),
      equality: new Equality({
        log: silentLogger,
        runtime: this.runtime,
        onEqual: (proof) => node.server?.prove(proof),
      }),
      ends: [],
      reports: [],
      loaded: [],
      upstreamPath: [],
      received: [],
    };
    this.#nodes.push(node);
    return node;
  }

  root(name = 'root', overrides: Partial<StoreOptions> = {}): TestNode {
    return this.node(name, this.openStore(sid(1), overrides));
  }

  serve(node: TestNode, overrides: Partial<ReplicationServerOptions> = {}): ReplicationServer {
    const server = new ReplicationServer({
      store: node.store as LocalStore,
      clusterId: CLUSTER,
      runtime: this.runtime,
      log: silentLogger,
      heartbeats: node.heartbeats,
      heartbeatMs: 50,
      proofMs: 50,
      ringBytes: 1 << 20,
      queueBytes: 1 << 20,
      snapshots: 1,
      stalledMs: 60_000,
      path: () => [node.self, ...node.upstreamPath],
      rootAddress: () => '127.0.0.1:1978',
      isRecovering: () => false,
      scopeFor: () => Scope.WHOLE,
      onAccountedFor: () => undefined,
      ...overrides,
    });
    node.server = server;
    return server;
  }

  /** Lets `follower` follow `upstream`; returns both ends of the link. */
  follow(
    follower: TestNode,
    upstream: TestNode,
    clusterId = CLUSTER,
  ): { down: MemoryLink; up: MemoryLink; session: UpstreamSession } {
    const { up, down } = this.#link(follower, upstream);
    const session = new UpstreamSession({ name: upstream.name, role: 'root', address: 'memory' }, up, {
      ...this.#host(follower, clusterId),
      onEnd: (reason) => follower.ends.push(reason),
    });
    down.other = {
      onData: (chunk) => {
        follower.received.push(chunk);
        session.onData(chunk);
      },
      onClosed: (reason) => session.onClosed(reason),
    };
    return { down, up, session };
  }

  /** Two ends of a link, with the upstream's server at its own. */
  #link(follower: TestNode, upstream: TestNode): { up: MemoryLink; down: MemoryLink } {
    const up = new MemoryLink();
    const down = new MemoryLink();
    up.peerEnd = down;
    down.peerEnd = up;
    const server = upstream.server as ReplicationServer;
    const session = server.accept({ name: follower.name, role: 'edge', address: 'memory' }, down);
    down.drained.push(() => session.pump());
    up.other = { onData: (chunk) => session.onData(chunk), onClosed: () => server.closed(session) };
    return { up, down };
  }

  #host(follower: TestNode, clusterId: string): Omit<UpstreamHost, 'onEnd'> {
    return {
      log: silentLogger,
      clusterId,
      self: follower.self,
      store: () => follower.store,
      isFollower: (instanceId) => follower.server?.isFollower(instanceId) === true,
      openSnapshot: async (contents, scope) => {
        const engine = this.newEngine();
        const loader = new SnapshotLoader(engine, contents, [], scope);
        return {
          add: async (slice) => await loader.add(slice),
          finish: async (rows) => {
            await loader.finish(rows);
            const replaced = follower.store;
            follower.store = new LocalStore(this.#options(engine, undefined));
            await replaced?.close();
          },
          suspend: async () => await engine.close(),
          discard: async () => await engine.close(),
        };
      },
      unappliedBytes: 1 << 20,
      onWelcome: (welcome) => {
        follower.upstreamPath = welcome.path;
      },
      onHeartbeat: ({ path, origins }) => {
        follower.upstreamPath = path;
        for (const beat of origins) follower.heartbeats.hear(beat, follower.store?.position() ?? []);
      },
      onProof: (store, proof) => follower.equality.check(store, proof),
      onAudited: (report) => {
        follower.reports.push(report);
        follower.equality.audited(report);
      },
      tree: () => this.tree(follower),
      soon: (fn) => this.runtime.after(0, fn),
      onLoaded: (rows) => follower.loaded.push(rows),
    };
  }

  /** What a node knows of itself and of all below it. */
  tree(node: TestNode): TreeNode[] {
    const own: TreeNode = {
      ...node.self,
      upstreamId: node.upstreamPath[0]?.instanceId ?? '0'.repeat(32),
      role: 'edge',
      position: node.store?.position() ?? [],
      lagMs: node.heartbeats.lagMs(this.runtime.nowMs()),
      equal: 'unknown',
      ageMs: 0,
    };
    return joinTrees([[own], node.server?.tree() ?? []]);
  }

  /** Lets `follower` choose among upstreams by itself; it reaches those that `isReachable`. */
  keep(
    follower: TestNode,
    upstreams: readonly TestNode[],
    {
      isReachable,
      mayLink = () => true,
      discovered = [],
      silenceMs = 500,
      ...options
    }: {
      isReachable(name: string): boolean;
      mayLink?(name: string): boolean;
      /** Tiers of nodes that no configuration names. */
      discovered?: readonly (readonly TestNode[])[];
      staleMs: number;
      returnMs: number;
      silenceMs?: number;
      readCertificate?: () => void;
    },
  ): UpstreamFollower {
    const keeper = new UpstreamFollower({
      ...options,
      upstreams: upstreams.map(({ name }) => ({ host: name, port: 1, name })),
      discovered: () => {
        return discovered.map((tier) => tier.map(({ name }) => ({ host: name, port: 1, name, isDiscovered: true })));
      },
      backOff: { minMs: 1, maxMs: 20 },
      silenceMs,
      freshMs: () => follower.heartbeats.newestMs(),
      runtime: this.runtime,
      log: silentLogger,
      host: this.#host(follower, CLUSTER),
      connect: async ({ host }, attach) => {
        const upstream = [...upstreams, ...discovered.flat()].find(({ name }) => name === host);
        if (upstream === undefined || !isReachable(host) || !mayLink(host)) throw new Error(`cannot reach ${host}`);
        const { up, down } = this.#link(follower, upstream);
        const events = attach({ name: host, role: 'relay', address: 'memory' }, up);
        down.other = {
          onData: (chunk) => {
            // A network that is gone says nothing.
            if (isReachable(host)) events.onData(chunk);
          },
          onClosed: (reason) => events.onClose(reason),
        };
        await Promise.resolve();
      },
    });
    this.#keepers.push(keeper);
    return keeper;
  }

  async close(): Promise<void> {
    for (const keeper of this.#keepers) keeper.stop();
    for (const node of this.#nodes) node.server?.close();
    for (const node of this.#nodes) await node.store?.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Every live record of a store's default database, as text. */
export function contents(store: LocalStore | undefined): Record<string, string> {
  const all: Record<string, string> = {};
  for (const key of store?.keys('default', Buffer.alloc(0), undefined, 1_000_000) ?? []) {
    all[key.toString()] = store?.get('default', key)?.value.toString() ?? '';
  }
  return all;
}

export async function put(store: LocalStore, records: Record<string, string>): Promise<void> {
  await store.write((transaction) => {
    for (const [key, value] of Object.entries(records)) {
      transaction.set('default', Buffer.from(key), Buffer.from(value), 0);
    }
  }).committed;
}
