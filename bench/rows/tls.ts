/** What mutual TLS costs: a handshake, and replication with it and without. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ConnectionOptions, connect } from 'node:tls';
import { pathToFileURL } from 'node:url';
import { encodeFrame } from '../../src/replication/frames/frames.js';
import { Scope } from '../../src/replication/scope.js';
import { Cluster, cliPath } from '../../test/support/cluster.js';
import { freePort } from '../../test/support/postgres.js';
import { processorMs } from '../../test/support/process-facts.js';
import { startRedis } from '../peers/servers.js';
import type { Contest, Row, Side } from '../row.js';
import { catchUp, startPair } from './replication.js';

/** Handshakes that are under way at the same time. */
const AT_ONCE = 4;

/** One connection: the handshake of both ends, one question, one answer. */
async function visit(options: ConnectionOptions, question: Buffer): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', rejectUnauthorized: false, ...options });
    socket.on('error', reject);
    socket.on('secureConnect', () => socket.write(question));
    socket.once('data', () => {
      socket.destroy();
      resolve();
    });
  });
}

function handshakes(name: string, pid: number, options: ConnectionOptions, question: Buffer): Side {
  const measure = async (seconds: number): Promise<Record<string, number>> => {
    const endMs = performance.now() + seconds * 1000;
    const beforeMs = processorMs(pid);
    const times: number[] = [];
    const visitor = async (): Promise<void> => {
      while (performance.now() < endMs) {
        const startMs = performance.now();
        await visit(options, question);
        times.push(performance.now() - startMs);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, visitor));
    const spentMs = processorMs(pid) - beforeMs;
    times.sort((a, b) => a - b);
    const p50 = times[times.length >> 1] as number;
    return { rate: times.length / seconds, p50, 'processor time': spentMs / times.length };
  };
  return { name, measure };
}

const handshake: Row = {
  name: 'handshake',
  about: `${AT_ONCE} at a time: connect with mutual TLS, ask one thing, hear the answer; what one costs the server`,
  figures: [
    { name: 'rate', unit: 'handshakes/s', better: 'higher' },
    { name: 'p50', unit: 'ms', better: 'lower' },
    { name: 'processor time', unit: 'ms', better: 'lower' },
  ],
  open: async (stage): Promise<Contest> => {
    const cluster = await Cluster.create();
    stage.onEnd(async () => await cluster.close());
    const root = await cluster.add({ name: 'root', role: 'root' });
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
    cluster.start(root);
    await cluster.ready(root);
    const file = (folder: string, name: string): string => join(folder, name);
    const pem = (name: string): Buffer => readFileSync(file(edge.folder, name));
    const own = { cert: pem('node.crt'), key: pem('node.key'), ca: pem('ca.crt') };
    const { clusterId } = await cluster.status(root);
    const self = { instanceId: 'be'.repeat(16), name: 'edge' };
    const scopeId = Scope.WHOLE.id;
    const hello = { type: 'hello', version: 1, clusterId, self, seeded: false, position: [], scopeId } as const;
    // A look: the root answers what it would do, and ends.
    const look = encodeFrame({ ...hello, isLook: true, takesHorizon: true, resumes: true, unpacks: [] });
    const link = { ...own, port: root.replicationPort, ALPNProtocols: ['tokaido/1'] };
    const ours = handshakes('Tokaido', root.process?.pid as number, link, look);
    const tlsPort = await freePort();
    const redis = await startRedis(stage, [
      ...['--tls-port', String(tlsPort), '--tls-cert-file', file(root.folder, 'node.crt')],
      ...['--tls-key-file', file(root.folder, 'node.key'), '--tls-ca-cert-file', file(root.folder, 'ca.crt')],
    ]);
    const theirs = { ...own, port: tlsPort };
    const peer = redis && handshakes('Redis over TLS', redis.process.pid as number, theirs, Buffer.from('PING\r\n'));
    return { ours, peer };
  },
};

/** `--import` for the nodes of a pair whose links are plain. */
function plainLinks(cluster: Cluster, peer: string): Record<string, string> {
  const module = join(cliPath(), '..', '..', '..', 'bench', 'load', 'plain-links.js');
  return {
    NODE_OPTIONS: `--import=${pathToFileURL(module).href}`,
    BENCH_PEER: join(cluster.folder, peer, 'node.crt'),
  };
}

const cost: Row = {
  name: 'tls-cost',
  about: 'the row backlog, and the same nodes without TLS on their link (the bench takes it out; a node cannot)',
  figures: [{ name: '', unit: 'records/s', better: 'higher' }],
  open: async (stage): Promise<Contest> => {
    const withTls = await startPair(stage);
    const without = await startPair(stage, plainLinks);
    return {
      ours: { name: 'mutual TLS 1.3', measure: async () => await catchUp(withTls) },
      peer: { name: 'plain TCP', measure: async () => await catchUp(without) },
    };
  },
};

export const TLS_ROWS: readonly Row[] = [handshake, cost];
