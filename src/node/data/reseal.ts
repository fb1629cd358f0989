/** Writes every value of a data directory anew as its configuration says: with the current key, or without any. */
import type { Runtime } from '../../base/runtime.js';
import type { SealedEngine } from '../../engine/sealed.js';
import { decodeState } from '../../store/state.js';
import { STATE_KEY } from '../../store/store.js';
import type { NodeConfig } from '../config/schema.js';
import { DataDirectory } from './data-directory.js';
import type { Encryption } from './encryption.js';
import { MachineDisk } from './machine-disk.js';

/** Entries looked at by one transaction. */
const STEP_ENTRIES = 1000;

export interface Resealed {
  readonly looked: number;
  readonly written: number;
}

/** For a node that does not run. Errors: `STORAGE`, also while one does; `CORRUPT`. */
export async function reseal(
  config: NodeConfig,
  { encryption, runtime }: { readonly encryption: Encryption; readonly runtime: Runtime },
): Promise<Resealed> {
  const disk = new MachineDisk();
  const flushesCommits = config.store.flush === 'commits';
  const directory = new DataDirectory({ folder: config.data, disk, clusterId: undefined, runtime, flushesCommits });
  let engine: SealedEngine | undefined;
  try {
    const folder = directory.currentStore;
    if (folder === undefined) return { looked: 0, written: 0 };
    let failure: unknown;
    const below = disk.openEngine(folder, {
      mapSizeBytes: config.store.maxSizeBytes,
      maxMaps: config.limits.databases + 8,
      flushesCommits: true,
      onBroken: (error) => (failure = error),
    });
    engine = encryption.engine(below);
    const total = await resealMaps(engine, config);
    await engine.flush();
    if (failure !== undefined) throw failure;
    return total;
  } finally {
    await engine?.close();
    directory.closeCleanly();
  }
}

async function resealMaps(engine: SealedEngine, { databases }: NodeConfig): Promise<Resealed> {
  const row = engine.get(engine.openMap('meta'), STATE_KEY);
  const known = row === undefined ? [] : decodeState(Buffer.from(row)).databases;
  const maps = known
    .filter(({ storage }) => storage === 'disk')
    .map(({ id, name }) => {
      const sealed = databases.some((spec) => spec.name === name && spec.encrypted);
      return engine.openMap(`records-${id}`, { storage: 'disk', sealed });
    });
  let looked = 0;
  let written = 0;
  for (const map of [engine.openMap('log'), ...maps]) {
    let after: Buffer | undefined;
    do {
      const step = await engine.reseal(map, after, STEP_ENTRIES);
      looked += step.looked;
      written += step.written;
      after = step.last;
    } while (after !== undefined);
  }
  return { looked, written };
}
