/** What a node costs by being there: memory and start-up. */
import { spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { Cluster, cliPath } from '../../test/support/cluster.js';
import { freePort } from '../../test/support/postgres.js';
import { startKyotoTycoon, startOurs, startRedis } from '../peers/servers.js';
import { listening, onPath, residentMb, type Server, stop } from '../processes.js';
import type { Row, Side, Stage } from '../row.js';
import { fill } from './clients.js';

const MILLION = 1_000_000;
const VALUE_BYTES = 32;

const pid = (server: Server): number => server.process.pid as number;

/** Lets a process finish what it does behind its answers. */
async function calmDown(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 2000));
}

function memorySide(name: string, server: Server): Side {
  return { name, measure: async () => ({ '': residentMb(pid(server)) }) };
}

const million: Row = {
  name: 'memory-million',
  about: 'resident memory with 1 M records of 43 bytes in a database on disk; Redis holds them in memory',
  figures: [{ name: '', unit: 'MB', better: 'lower', budget: 400 }],
  rounds: 1,
  open: async (stage) => {
    const ours = await startOurs(stage, 'casket.kct');
    await fill(ours, 'bulk-set', MILLION, VALUE_BYTES);
    const theirs = await startRedis(stage);
    if (theirs !== undefined) await fill(theirs, 'redis-set', MILLION, VALUE_BYTES);
    await calmDown();
    const peer = theirs === undefined ? undefined : memorySide('Redis', theirs);
    return { ours: memorySide('Tokaido', ours), peer };
  },
};

const idle: Row = {
  name: 'memory-idle',
  about: 'resident memory of a root that stands alone and has no records, two seconds after its start',
  figures: [{ name: '', unit: 'MB', better: 'lower', budget: 150 }],
  rounds: 1,
  open: async (stage) => {
    const ours = await startOurs(stage, 'casket.kct');
    const theirs = await startKyotoTycoon(stage, 'casket.kct');
    await calmDown();
    const peer = theirs === undefined ? undefined : memorySide('Kyoto Tycoon', theirs);
    return { ours: memorySide('Tokaido', ours), peer };
  },
};

const idleEdge: Row = {
  name: 'memory-idle-edge',
  about: 'resident memory of an edge that follows a root over mutual TLS and has no records',
  figures: [{ name: '', unit: 'MB', better: 'lower', budget: 120 }],
  rounds: 1,
  open: async (stage) => {
    const cluster = await Cluster.create();
    stage.onEnd(async () => await cluster.close());
    const root = await cluster.add({ name: 'root', role: 'root' });
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
    for (const node of [root, edge]) cluster.start(node);
    for (const node of [root, edge]) await cluster.ready(node);
    await calmDown();
    return {
      ours: { name: 'Tokaido', measure: async () => ({ '': residentMb(edge.process?.pid as number) }) },
      peer: undefined,
    };
  },
};

/** From the start of the process until its client port takes connections. */
function startSide(
  name: string,
  program: string,
  parameters: (port: number, folder: string) => readonly string[],
  stage: Stage,
): Side {
  return {
    name,
    measure: async () => {
      const [port, folder] = [await freePort(), mkdtempSync(join(stage.folder, 'start-'))];
      const startMs = performance.now();
      const child = spawn(program, parameters(port, folder), { stdio: 'ignore' });
      try {
        await listening(child, port, () => '');
        return { '': performance.now() - startMs };
      } finally {
        await stop(child);
      }
    },
  };
}

const startUp: Row = {
  name: 'start-up',
  about: 'from the start of the process until the client port takes connections, no records',
  figures: [{ name: '', unit: 'ms', better: 'lower' }],
  rounds: 5,
  open: async (stage) => {
    const ours = startSide(
      'Tokaido',
      process.execPath,
      (port, folder) => [
        cliPath(),
        'serve',
        '--data',
        folder,
        '--port',
        String(port),
        '--admin',
        '0',
        '--log-level',
        'error',
      ],
      stage,
    );
    const kt = onPath('ktserver');
    const theirs = (port: number, folder: string): string[] => {
      return ['-host', '127.0.0.1', '-port', String(port), '-le', join(folder, 'casket.kct')];
    };
    return { ours, peer: kt === undefined ? undefined : startSide('Kyoto Tycoon', kt, theirs, stage) };
  },
};

export const NODE_ROWS: readonly Row[] = [million, idle, idleEdge, startUp];
