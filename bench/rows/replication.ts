/** Replication over mutual TLS between real processes, against Redis with the same certificates. */
import { connect } from 'node:net';
import { join } from 'node:path';
import { Cluster, type ClusterNode } from '../../test/support/cluster.js';
import { freePort } from '../../test/support/postgres.js';
import { load } from '../load/start.js';
import { startRedis } from '../peers/servers.js';
import type { Server } from '../processes.js';
import type { Contest, Row, Side, Stage } from '../row.js';

const MILLION = 1_000_000;
const VALUE_BYTES = 32;
const LIMIT_MS = 120_000;
/** Between two questions to a node that is being waited for. */
const POLL_MS = 10;

const pause = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

/** As the load leaves it: acknowledged when committed, and a log that holds all that the rows write. */
const ROOT = { durability: 'committed', log: { retainBytes: '2GiB' } };

export interface Pair {
  readonly cluster: Cluster;
  readonly root: ClusterNode;
  readonly edge: ClusterNode;
}

/** A root and an edge that follows it. `envOf` is asked for the environment of each, given the other's name. */
export async function startPair(
  stage: Stage,
  envOf: (cluster: Cluster, peer: string) => Record<string, string> = () => ({}),
): Promise<Pair> {
  const cluster = await Cluster.create();
  stage.onEnd(async () => await cluster.close());
  const root = await cluster.add({ name: 'root', role: 'root', config: ROOT, env: envOf(cluster, 'edge') });
  const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], env: envOf(cluster, 'root') });
  for (const node of [root, edge]) cluster.start(node);
  for (const node of [root, edge]) await cluster.ready(node);
  return { cluster, root, edge };
}

/** A primary and a replica that follows it over mutual TLS, with certificates of the pair's CA. */
async function startRedisPair(stage: Stage, { cluster, root, edge }: Pair): Promise<[Server, Server] | undefined> {
  const tls = ({ folder }: ClusterNode): string[] => [
    ...['--tls-cert-file', join(folder, 'node.crt'), '--tls-key-file', join(folder, 'node.key')],
    ...['--tls-ca-cert-file', join(cluster.folder, 'ca', 'ca.crt'), '--tls-replication', 'yes'],
  ];
  const tlsPort = await freePort();
  const output = ['--client-output-buffer-limit', 'replica 0 0 0', '--repl-backlog-size', '512mb'];
  const primary = await startRedis(stage, [...tls(root), '--tls-port', String(tlsPort), ...output]);
  if (primary === undefined) return undefined;
  const follow = ['--replicaof', `127.0.0.1 ${tlsPort}`, '--repl-diskless-sync-delay', '0'];
  const replica = await startRedis(stage, [...tls(edge), '--tls-port', String(await freePort()), ...follow]);
  if (replica === undefined) return undefined;
  await until('the replica follows', async () => (await redisInfo(replica.port, 'master_link_status')) === 'up');
  return [primary, replica];
}

async function until(what: string, isTrue: () => Promise<boolean>): Promise<void> {
  const startMs = performance.now();
  while (!(await isTrue())) {
    if (performance.now() - startMs > LIMIT_MS) throw new Error(`${what}: not within ${LIMIT_MS} ms`);
    await pause(POLL_MS);
  }
}

/** One field of what Redis says about its replication. */
async function redisInfo(port: number, field: string): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port });
  const text = await new Promise<string>((resolve, reject) => {
    let received = '';
    socket.on('data', (chunk) => {
      received += chunk.toString();
      if (received.endsWith('\r\n')) resolve(received);
    });
    socket.on('error', reject);
    socket.write('INFO replication\r\n');
  });
  socket.destroy();
  return new RegExp(`${field}:([^\r]*)`).exec(text)?.[1] ?? '';
}

function hopSide(name: string, protocol: 'rest' | 'redis', writePort: number, readPort: number): Side {
  return {
    name,
    measure: async (seconds) => {
      const { p50Ms, p99Ms } = await load<'hop'>({ kind: 'hop', protocol, writePort, readPort, seconds });
      return { p50: p50Ms, p99: p99Ms };
    },
  };
}

const oneHop: Row = {
  name: 'hop',
  about: 'from sending a write to the root until a follower over mutual TLS answers with it; nothing else goes on',
  figures: [
    { name: 'p50', unit: 'ms', better: 'lower', budget: 1 },
    { name: 'p99', unit: 'ms', better: 'lower', budget: 5 },
  ],
  open: async (stage): Promise<Contest> => {
    const pair = await startPair(stage);
    const redis = await startRedisPair(stage, pair);
    return {
      ours: hopSide('Tokaido', 'rest', pair.root.clientPort, pair.edge.clientPort),
      peer: redis && hopSide('Redis over TLS', 'redis', redis[0].port, redis[1].port),
    };
  },
};

async function sequenceOf({ cluster }: Pair, node: ClusterNode): Promise<number> {
  return (await cluster.status(node)).position[0]?.sequence ?? 0;
}

async function writeMillion(port: number): Promise<number> {
  const job = { kind: 'drive', exchange: 'bulk-set', connections: 2, depth: 1, until: 'all' } as const;
  const { seconds } = await load<'drive'>({ ...job, port, records: MILLION, valueBytes: VALUE_BYTES });
  return seconds;
}

/** The follower stands still while a million records are written; how fast it then catches up. */
export async function catchUp(pair: Pair): Promise<Record<string, number>> {
  const follower = pair.edge.process?.pid as number;
  process.kill(follower, 'SIGSTOP');
  try {
    await writeMillion(pair.root.clientPort);
  } finally {
    process.kill(follower, 'SIGCONT');
  }
  const startMs = performance.now();
  const wanted = await sequenceOf(pair, pair.root);
  await until('the follower catches up', async () => (await sequenceOf(pair, pair.edge)) >= wanted);
  return { '': MILLION / ((performance.now() - startMs) / 1000) };
}

const backlog: Row = {
  name: 'backlog',
  about: 'a follower that was stopped while 1 M records were written catches up over mutual TLS',
  figures: [{ name: '', unit: 'records/s', better: 'higher', budget: 250_000 }],
  open: async (stage) => {
    const pair = await startPair(stage);
    return { ours: { name: 'Tokaido', measure: async () => await catchUp(pair) }, peer: undefined };
  },
};

const through: Row = {
  name: 'write-through',
  about: '1 M records written at the root as fast as it takes them, until the follower over mutual TLS has them all',
  figures: [{ name: '', unit: 'records/s', better: 'higher' }],
  open: async (stage) => {
    const pair = await startPair(stage);
    const redis = await startRedisPair(stage, pair);
    const ours = async (): Promise<Record<string, number>> => {
      const startMs = performance.now();
      await writeMillion(pair.root.clientPort);
      const wanted = await sequenceOf(pair, pair.root);
      await until('the follower has all', async () => (await sequenceOf(pair, pair.edge)) >= wanted);
      return { '': MILLION / ((performance.now() - startMs) / 1000) };
    };
    if (redis === undefined) return { ours: { name: 'Tokaido', measure: ours }, peer: undefined };
    const [primary, replica] = redis;
    const theirs = async (): Promise<Record<string, number>> => {
      const startMs = performance.now();
      const job = { kind: 'drive', exchange: 'redis-set', connections: 2, depth: 100, until: 'all' } as const;
      await load<'drive'>({ ...job, port: primary.port, records: MILLION, valueBytes: VALUE_BYTES });
      const wanted = Number(await redisInfo(primary.port, 'master_repl_offset'));
      const reached = async (): Promise<number> => Number(await redisInfo(replica.port, 'slave_repl_offset'));
      await until('the replica has all', async () => (await reached()) >= wanted);
      return { '': MILLION / ((performance.now() - startMs) / 1000) };
    };
    return { ours: { name: 'Tokaido', measure: ours }, peer: { name: 'Redis over TLS', measure: theirs } };
  },
};

const READERS = {
  kind: 'drive',
  exchange: 'rest-get',
  connections: 4,
  depth: 1,
  valueBytes: 0,
  records: MILLION,
} as const;

const bootstrap: Row = {
  name: 'bootstrap',
  about:
    'a new edge gets 1 M records by snapshot, from the start of its process until it serves; reads at the root meanwhile',
  figures: [
    { name: 'time', unit: 's', better: 'lower', budget: 5 },
    { name: 'read p99 idle', unit: 'ms', better: 'lower' },
    { name: 'read p99 meanwhile', unit: 'ms', better: 'lower' },
  ],
  open: async (stage) => {
    const cluster = await Cluster.create();
    stage.onEnd(async () => await cluster.close());
    const root = await cluster.add({ name: 'root', role: 'root', config: ROOT });
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
    cluster.start(root);
    await cluster.ready(root);
    await writeMillion(root.clientPort);
    const measure = async (seconds: number): Promise<Record<string, number>> => {
      const idle = await load<'drive'>({ ...READERS, port: root.clientPort, until: { seconds } });
      const reading = load<'drive'>({ ...READERS, port: root.clientPort, until: { seconds: 4 } });
      const startMs = performance.now();
      cluster.start(edge);
      await cluster.ready(edge, LIMIT_MS);
      const time = (performance.now() - startMs) / 1000;
      const { p99Ms } = await reading;
      await cluster.stop(edge);
      cluster.wipe(edge);
      return { time, 'read p99 idle': idle.p99Ms, 'read p99 meanwhile': p99Ms };
    };
    return { ours: { name: 'Tokaido', measure }, peer: undefined };
  },
};

export const REPLICATION_ROWS: readonly Row[] = [oneHop, backlog, through, bootstrap];
