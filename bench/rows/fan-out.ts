/**
 * What a follower costs its relay: real sockets and TLS, a real relay behind a real root; the followers are links of this
 * process that take what they are sent and count it.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import { encodeFrame, FrameDecoder, PROTOCOL_VERSION } from '../../src/replication/frames/frames.js';
import { Scope } from '../../src/replication/scope.js';
import { Cluster, type ClusterNode } from '../../test/support/cluster.js';
import { processorSeconds, residentMb } from '../processes.js';
import type { Row } from '../row.js';

const FEW = 75;
const MANY = 300;
/** Slower than the relay could: batches that wait for each other would share what a batch costs. */
const PACE_MS = 20;
const VALUE = 'x'.repeat(100);
const CONNECTING_AT_ONCE = 20;
const LIMIT_MS = 60_000;

const pause = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

/** A link that follows, and holds nothing. */
class SimulatedFollower {
  readonly #socket: TLSSocket;
  readonly #decoder = new FrameDecoder();
  batches = 0;
  bytes = 0;
  isWelcome = false;
  problem: string | undefined;

  constructor(relay: ClusterNode, identity: { cert: string; key: string; ca: string }, clusterId: string) {
    this.#socket = connect({
      ...identity,
      host: '127.0.0.1',
      port: relay.replicationPort,
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['tokaido/1'],
      checkServerIdentity: () => undefined,
    });
    this.#socket.on('error', (error) => (this.problem ??= error.message));
    this.#socket.on('data', (chunk: Buffer) => this.#take(chunk));
    this.#socket.once('secureConnect', () => {
      const self = { instanceId: randomBytes(16).toString('hex'), name: 'simulated' };
      const hello = { type: 'hello', version: PROTOCOL_VERSION, clusterId, self, seeded: true, isLook: false } as const;
      this.#socket.write(
        encodeFrame({
          ...hello,
          takesHorizon: true,
          resumes: true,
          unpacks: [],
          position: [],
          scopeId: Scope.WHOLE.id,
        }),
      );
    });
  }

  #take(chunk: Buffer): void {
    this.bytes += chunk.length;
    for (const frame of this.#decoder.push(chunk)) {
      if (frame.type === 'batch') this.batches++;
      if (frame.type === 'refuse') this.problem ??= frame.message;
      if (frame.type !== 'welcome') continue;
      if (frame.next !== 'log') this.problem ??= 'the relay would send a snapshot';
      this.#decoder.allowLargeFrames();
      this.isWelcome = true;
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

async function until(what: string, isTrue: () => boolean): Promise<void> {
  for (const startMs = performance.now(); !isTrue(); await pause(10))
    if (performance.now() - startMs > LIMIT_MS) throw new Error(`${what}: not within ${LIMIT_MS} ms`);
}

interface Cost {
  /** Of the relay's processor, for each batch. */
  readonly microseconds: number;
  readonly residentMb: number;
}

class FanOut {
  readonly #root: ClusterNode;
  readonly #relay: ClusterNode;
  readonly #clusterId: string;
  readonly #identity: { cert: string; key: string; ca: string };

  constructor(root: ClusterNode, relay: ClusterNode, edge: ClusterNode, clusterId: string) {
    this.#root = root;
    this.#relay = relay;
    this.#clusterId = clusterId;
    const read = (name: string): string => readFileSync(join(edge.folder, name), 'utf8');
    this.#identity = { cert: read('node.crt'), key: read('node.key'), ca: read('ca.crt') };
  }

  /** What the relay spends on a batch while it has so many followers. */
  async cost(count: number, seconds: number): Promise<Cost> {
    const followers: SimulatedFollower[] = [];
    try {
      while (followers.length < count) {
        const size = Math.min(CONNECTING_AT_ONCE, count - followers.length);
        const more = Array.from(
          { length: size },
          () => new SimulatedFollower(this.#relay, this.#identity, this.#clusterId),
        );
        followers.push(...more);
        await until('followers are welcome', () =>
          more.every(({ isWelcome, problem }) => isWelcome || problem !== undefined),
        );
      }
      const broken = followers.find(({ problem }) => problem !== undefined);
      if (broken !== undefined) throw new Error(`a follower: ${broken.problem}`);
      return await this.#measure(followers, seconds);
    } finally {
      for (const follower of followers) follower.close();
      // Their links end at the relay, too, before anything else is measured.
      await pause(500);
    }
  }

  async #measure(followers: readonly SimulatedFollower[], seconds: number): Promise<Cost> {
    const pid = this.#relay.process?.pid as number;
    await this.#write(0.3 * seconds);
    await this.#settle(followers);
    const before = followers.map(({ batches }) => batches);
    const startSeconds = processorSeconds(pid);
    await this.#write(0.7 * seconds);
    await this.#settle(followers);
    const used = processorSeconds(pid) - startSeconds;
    const received = followers.map(({ batches }, index) => batches - (before[index] ?? 0));
    const batches = received[0] ?? 0;
    if (received.some((each) => each !== batches)) throw new Error('not every follower got every batch');
    return { microseconds: (used * 1e6) / batches, residentMb: residentMb(pid) };
  }

  /** At a steady pace: each write is a batch. */
  async #write(seconds: number): Promise<void> {
    const endMs = performance.now() + seconds * 1000;
    for (let i = 0; performance.now() < endMs; i++) {
      const nextMs = performance.now() + PACE_MS;
      const url = `http://127.0.0.1:${this.#root.clientPort}/k${i % 1000}`;
      const response = await fetch(url, { method: 'PUT', body: VALUE });
      await response.arrayBuffer();
      if (!response.ok) throw new Error(`a write was answered with ${response.status}`);
      await pause(Math.max(0, nextMs - performance.now()));
    }
  }

  async #settle(followers: readonly SimulatedFollower[]): Promise<void> {
    const most = (): number => Math.max(...followers.map(({ batches }) => batches));
    for (let last = -1; last !== most(); await pause(200)) last = most();
    await until('all followers have all', () => followers.every(({ batches }) => batches === most()));
  }
}

const fanOut: Row = {
  name: 'fan-out',
  about: `what one batch and one follower cost a relay with ${MANY} followers; growth is the cost per follower against that with ${FEW}`,
  figures: [
    { name: 'processor per follower and batch', unit: 'us', better: 'lower' },
    { name: 'processor per batch', unit: 'us', better: 'lower' },
    { name: 'memory per follower', unit: 'kB', better: 'lower' },
    { name: 'growth', unit: 'x', better: 'lower', budget: 1.2 },
  ],
  rounds: 1,
  open: async (stage) => {
    const cluster = await Cluster.create();
    stage.onEnd(async () => await cluster.close());
    const root = await cluster.add({ name: 'root', role: 'root', config: { durability: 'committed' } });
    const relay = await cluster.add({ name: 'relay', role: 'relay', upstreams: [root] });
    // Only its certificate is used.
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [relay] });
    for (const node of [root, relay]) cluster.start(node);
    for (const node of [root, relay]) await cluster.ready(node);
    const { clusterId } = await cluster.status(relay);
    const contest = new FanOut(root, relay, edge, clusterId);
    const measure = async (seconds: number): Promise<Record<string, number>> => {
      const none = await contest.cost(1, seconds);
      const few = await contest.cost(FEW, seconds);
      const many = await contest.cost(MANY, seconds);
      // What a batch costs without followers is not theirs.
      const each = (cost: Cost, count: number): number => (cost.microseconds - none.microseconds) / (count - 1);
      return {
        'processor per follower and batch': each(many, MANY),
        'processor per batch': many.microseconds,
        'memory per follower': ((many.residentMb - none.residentMb) * 1024) / (MANY - 1),
        growth: each(many, MANY) / each(few, FEW),
      };
    };
    return { ours: { name: 'Tokaido', measure }, peer: undefined };
  },
};

export const FAN_OUT_ROWS: readonly Row[] = [fanOut];
