/**
 * A process that writes to a store until it is killed: each round one local transaction and one replicated one of origin
 * 7, both with the same number. Says `ack N` on standard output once the promise its first argument names has come true.
 *
 *   node crash-writer.js flushed|committed|at-stop FOLDER [ROUNDS]
 *
 * `at-stop` writes without flushes, as `store.flush: at-stop` does.
 */
import { writeSync } from 'node:fs';
import { silentLogger } from '../../src/base/logger.js';
import { sid } from '../../src/base/types.js';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import { originOf } from '../../src/log/position.js';
import { parseDatabase } from '../../src/store/database-spec.js';
import { LocalStore } from '../../src/store/store.js';
import { broken, localRuntime } from './local-runtime.js';
import { bytes, encode, set, transaction } from './store-model.js';

/** Records that the rounds go over again and again. */
export const CRASH_KEYS = 20;
const PADDING = 'x'.repeat(300);

/** A store as the writer has it, on one of its folders. */
export function openCrashStore(folder: string, flushesCommits: boolean): LocalStore {
  return new LocalStore({
    engine: new LmdbEngine({ bootId: 'a boot', folder, mapSizeBytes: 2 ** 28, maxMaps: 12, flushesCommits }),
    runtime: localRuntime(),
    log: silentLogger,
    sid: sid(1),
    databases: [parseDatabase('default')],
    retention: { bytes: 2 ** 30, ageMs: 2 ** 40 },
    transaction: { bytes: 2 ** 20, keyBytes: 100 },
    queue: { jobs: 1000, commitChanges: 1000, commitBytes: 2 ** 20, commitIntervalMs: 0 },
    maxDatabases: 4,
    onBroken: broken,
  });
}

async function run(mode: string, folder: string, rounds: number): Promise<void> {
  const store = openCrashStore(folder, mode !== 'at-stop');
  const first = 1 + (originOf(store.position(), sid(1))?.sequence ?? 0);
  for (let n = first; n < first + rounds; n++) {
    const number = bytes(`${n}`);
    const local = store.write((view) => {
      view.set('default', bytes('local'), number, 0);
      view.set('default', bytes(`key ${n % CRASH_KEYS}`), bytes(`${n} ${PADDING}`), 0);
    });
    const other = transaction(7, n, n, [set('replicated', `${n}`)]);
    const replicated = store.apply(encode([other]));
    const moment = mode === 'flushed' ? 'flushed' : 'committed';
    await Promise.all([local[moment], replicated[moment]]);
    writeSync(1, `ack ${n}\n`);
  }
  await store.close();
}

const [, script, mode, folder, rounds = '1000000'] = process.argv;
if (script?.endsWith('crash-writer.js') === true && mode !== undefined && folder !== undefined) {
  await run(mode, folder, Number(rounds));
}
