/**
 * A node's data as it was at a moment: a copy of a data directory, and on top of it the update log of another one that
 * goes on from there, up to a time or a position. Nothing runs meanwhile, and neither the copy nor the log is changed.
 *
 * Each origin is cut by itself: at its first transaction made after the time, or numbered beyond the position. Its
 * versions grow, so everything behind that is left out, too; with one origin the result is exactly what was there.
 */
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import { type LocalNumber, localNumber, type OriginPosition, type Position, type Sid } from '../../base/types.js';
import type { Engine } from '../../engine/engine.js';
import { describePosition } from '../../log/position.js';
import { transactionSpans } from '../../log/transaction.js';
import { UpdateLog } from '../../log/update-log.js';
import { decodeState } from '../../store/state.js';
import { type LocalStore, STATE_KEY } from '../../store/store.js';
import type { NodeConfig } from '../config/schema.js';
import { DataDirectory } from './data-directory.js';
import { Encryption } from './encryption.js';
import { MachineDisk } from './machine-disk.js';
import { StoreHolder } from './store-holder.js';

/** Where to stop. */
export type Until =
  | { readonly kind: 'time'; readonly timeMs: number }
  /** The last transaction of each origin; of origins that are not named, none. */
  | { readonly kind: 'position'; readonly last: ReadonlyMap<Sid, number> }
  | { readonly kind: 'end' };

export interface PointInTime {
  /** The configuration of the node that the data is for: it goes to its data directory, which must be empty. */
  readonly config: NodeConfig;
  /** A copy of a data directory. */
  readonly backup: string;
  /** A data directory, of a node that does not run, whose log goes on where the copy ends. */
  readonly log: string;
  readonly until: Until;
  readonly runtime: Runtime;
  readonly logger: Logger;
}

export interface Recovered {
  /** As in status and `log list`. */
  readonly position: string;
  readonly transactions: number;
  /** Transactions of the log that were left out. */
  readonly leftOut: number;
  /** Databases in memory that neither has on the disk. */
  readonly lost: readonly string[];
}

/**
 * Errors: `CONFIG` (also when the copy was made after that moment), `STORAGE`, `REPLICATION` when the log does not go on
 * where the copy ends, `CORRUPT`. The data directory is empty again then.
 */
export async function recoverTo(options: PointInTime): Promise<Recovered> {
  const { config, backup, log, runtime, logger } = options;
  const { data } = config;
  if (existsSync(data) && readdirSync(data).length > 0) {
    throw new TokaidoError('STORAGE', `the data directory ${data} is not empty`, {
      hint: 'move what is there away: nothing is overwritten',
    });
  }
  const encryption =
    config.encryption === false ? undefined : new Encryption(config.encryption, { runtime, log: logger });
  const disk = new MachineDisk(encryption);
  const { clusterId } = nodeFile(backup);
  if (nodeFile(log).clusterId !== clusterId)
    throw new TokaidoError('CONFIG', `${backup} and ${log} are of different clusters`);
  const from = generationOf(backup);
  const logFolder = generationOf(log);
  // It gets an id of its own: the directory that was copied may still be somewhere.
  const directory = new DataDirectory({ folder: data, disk, clusterId, runtime, flushesCommits: true });
  cpSync(from, directory.nextStore(), { recursive: true, filter: (path) => !basename(path).endsWith('-lock') });
  directory.adoptNextStore();
  const broken = (error: unknown): void => logger.error({ reason: String(error) }, 'the disk failed');
  const holder = new StoreHolder({
    config: { ...config, role: 'edge' },
    directory,
    disk,
    runtime,
    log: logger,
    onFatal: broken,
  });
  const mapSizeBytes = config.store.maxSizeBytes;
  const engine = disk.openEngine(logFolder, { mapSizeBytes, maxMaps: 16, flushesCommits: false, onBroken: broken });
  let isDone = false;
  try {
    const store = holder.current as LocalStore;
    refuseLaterCopy(store.position(), options.until);
    const lost = await store.restore(undefined);
    const replayed = await replay(store, engine, options.until);
    await store.flush();
    isDone = true;
    return { ...replayed, position: describePosition(store.position()), lost };
  } finally {
    await holder.close();
    await engine.close();
    directory.closeCleanly();
    encryption?.close();
    if (!isDone) for (const name of readdirSync(data)) rmSync(join(data, name), { recursive: true });
  }
}

/** Nothing is taken out of a copy: one that has what came after the moment would bring the mistake back. */
function refuseLaterCopy(copy: Position, until: Until): void {
  const later = copy.find((origin) => {
    return until.kind === 'position' ? until.last.has(origin.sid) && isBehind(origin, until) : isBehind(origin, until);
  });
  if (later === undefined) return;
  const made = new Date(Number(later.versionNs / 1_000_000n)).toISOString();
  throw new TokaidoError(
    'CONFIG',
    `the copy was made after that moment: it is at ${describePosition(copy)}, with a change of ${made}`,
    { hint: 'take an older copy; nothing is taken out of one' },
  );
}

async function replay(
  store: LocalStore,
  engine: Engine,
  until: Until,
): Promise<{ transactions: number; leftOut: number }> {
  const row = engine.get(engine.openMap('meta'), STATE_KEY);
  if (row === undefined) throw new TokaidoError('STORAGE', 'the data directory with the log has no data');
  const { position, next } = decodeState(Buffer.from(row));
  const log = new UpdateLog(engine, engine.openMap('log'), next);
  const found = log.find(store.position(), position);
  if (found.kind !== 'from') {
    const [copy, has] = [describePosition(store.position()), describePosition(position)];
    const why = found.kind === 'too-old' ? 'does not reach back to it' : 'is of another history';
    throw new TokaidoError('REPLICATION', `the copy is at ${copy}; the log, which ends at ${has}, ${why}`, {
      hint: 'take a newer copy, or the log of a node that keeps more (log.retainBytes, log.retainAgeMs)',
    });
  }
  const cut = new Set<Sid>();
  let transactions = 0;
  let leftOut = 0;
  for (let at: LocalNumber = found.first; ; ) {
    const batch = log.batchAt(at);
    if (batch === undefined) return { transactions, leftOut };
    const kept: Buffer[] = [];
    for (const { header, start, end } of transactionSpans(batch.payload)) {
      if (isBehind(header, until)) cut.add(header.sid);
      if (cut.has(header.sid)) leftOut++;
      else kept.push(batch.payload.subarray(start, end));
    }
    if (kept.length > 0) transactions += await store.apply(Buffer.concat(kept)).committed;
    at = localNumber(batch.first + batch.count);
  }
}

function isBehind({ sid, sequence, versionNs }: OriginPosition, until: Until): boolean {
  switch (until.kind) {
    case 'time':
      return versionNs > BigInt(until.timeMs) * 1_000_000n;
    case 'position':
      return sequence > (until.last.get(sid) ?? 0);
    case 'end':
      return false;
    default:
      throw new Error(`no such end: ${String(until satisfies never)}`);
  }
}

interface NodeFile {
  readonly clusterId: string;
  readonly generation: number;
}

function nodeFile(folder: string): NodeFile {
  const path = join(folder, 'node.json');
  if (!existsSync(path)) throw new TokaidoError('STORAGE', `${folder} is no data directory: it has no node.json`);
  return JSON.parse(readFileSync(path, 'utf8')) as NodeFile;
}

/** The folder of the current store. Errors: `STORAGE` when a process uses the directory, or there is no data. */
function generationOf(folder: string): string {
  const lock = join(folder, 'lock');
  const [pid] = existsSync(lock) ? readFileSync(lock, 'utf8').split(' ') : [];
  if (pid !== undefined && existsSync(`/proc/${pid}`)) {
    throw new TokaidoError('STORAGE', `${folder} is in use by process ${pid}`, {
      hint: 'stop it, or copy what it stopped with',
    });
  }
  const { generation } = nodeFile(folder);
  const store = join(folder, `store-${String(generation).padStart(6, '0')}`);
  if (generation === 0 || !existsSync(store)) throw new TokaidoError('STORAGE', `${folder} has no data`);
  return store;
}
