/** One node of ours, and the peers that are on PATH, each with its data in the row's folder. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { cliPath } from '../../test/support/cluster.js';
import { freePort } from '../../test/support/postgres.js';
import { onPath, type Server, startServer } from '../processes.js';
import type { Stage } from '../row.js';

/** Kinds of databases that rows compare, in the expressions that both servers understand. */
export const DATABASES = { memory: ':', tree: '%', disk: 'casket.kct' } as const;
export type DatabaseKind = keyof typeof DATABASES;

let folders = 0;

function subfolder(stage: Stage, name: string): string {
  const folder = join(stage.folder, `${name}-${++folders}`);
  mkdirSync(folder);
  return folder;
}

/**
 * A root that stands alone. It acknowledges what is committed, before it is on the disk, as every peer does by default;
 * it keeps the update log that followers would read.
 */
export async function startOurs(stage: Stage, database: string, flags: readonly string[] = []): Promise<Server> {
  const port = await freePort();
  const own = ['--host', '127.0.0.1', '--port', String(port), '--admin', '0', '--log-level', 'warn'];
  const data = ['--data', subfolder(stage, 'ours'), '--db', database, '--durability', 'committed'];
  return await startServer(stage, process.execPath, [cliPath(), 'serve', ...own, ...data, ...flags], port);
}

/** A real Kyoto Tycoon, if it is there: without an update log, which is when it is fastest. */
export async function startKyotoTycoon(stage: Stage, database: string): Promise<Server | undefined> {
  const program = onPath('ktserver');
  if (program === undefined) return undefined;
  const port = await freePort();
  const expression = /^[:%*+-]/.test(database) ? database : join(subfolder(stage, 'kt'), database);
  return await startServer(stage, program, ['-host', '127.0.0.1', '-port', String(port), '-le', expression], port);
}

/** memcached as Debian starts it, with room for all records, if it is there. */
export async function startMemcached(stage: Stage): Promise<Server | undefined> {
  const program = onPath('memcached');
  if (program === undefined) return undefined;
  const port = await freePort();
  // It refuses to run as root unless it is told so.
  const user = process.getuid?.() === 0 ? ['-u', 'root'] : [];
  const own = ['-l', '127.0.0.1', '-p', String(port), '-U', '0', '-m', '256'];
  return await startServer(stage, program, [...own, ...user], port);
}

/** Redis without persistence, if it is there. */
export async function startRedis(stage: Stage, flags: readonly string[] = []): Promise<Server | undefined> {
  const program = onPath('redis-server');
  if (program === undefined) return undefined;
  const port = await freePort();
  const own = ['--bind', '127.0.0.1', '--port', String(port), '--dir', subfolder(stage, 'redis')];
  return await startServer(stage, program, [...own, '--save', '', '--appendonly', 'no', ...flags], port);
}
