/** What survives: processes killed at any moment, and when an acknowledgement may say that the disk has it. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { sid } from '../../src/base/types.js';
import { TokaidoClient } from '../../src/client/client.js';
import { originOf } from '../../src/log/position.js';
import type { LocalStore } from '../../src/store/store.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { openCrashStore } from '../support/crash-writer.js';
import { eventually } from '../support/local-runtime.js';
import { loggedTransactions } from '../support/store-log.js';
import { bytes, StoreModel } from '../support/store-model.js';
import { syncsBefore } from '../support/strace.js';

const WRITER = join(dirname(fileURLToPath(import.meta.url)), '..', 'support', 'crash-writer.js');
const KILLS = 6;

let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'tokaido-durability-'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

/** Runs the writer until `killMs` after its first acknowledgement; returns the last number it acknowledged. */
async function writeAndKill(mode: string, data: string, killMs: number): Promise<number> {
  const child: ChildProcess = spawn(process.execPath, [WRITER, mode, data], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout?.setEncoding('latin1').on('data', (text: string) => {
    if (said === '') setTimeout(() => child.kill('SIGKILL'), killMs);
    said += text;
  });
  await once(child, 'close');
  const [, last] = /ack (\d+)\n[^\n]*$/.exec(said) ?? [];
  assert.ok(last !== undefined, `the writer acknowledged something: ${said}`);
  return Number(last);
}

/** Every change in the log, played into the model; the numbers of each origin have no gap. */
function replay(store: LocalStore): { model: StoreModel; last: Map<number, number> } {
  const model = new StoreModel();
  const last = new Map<number, number>();
  for (const transaction of loggedTransactions(store)) {
    assert.equal(transaction.sequence, 1 + (last.get(transaction.sid) ?? 0));
    last.set(transaction.sid, transaction.sequence);
    model.add(transaction);
  }
  return { model, last };
}

/** Position, log and records tell the same story. */
function checkWhole(store: LocalStore, acknowledged: number): void {
  const { model, last } = replay(store);
  const value = (key: string): string | undefined => store.get('default', bytes(key))?.value.toString('latin1');
  for (const [origin, record] of [
    [1, 'local'],
    [7, 'replicated'],
  ] as const) {
    const position = originOf(store.position(), sid(origin))?.sequence;
    assert.equal(last.get(origin), position);
    assert.equal(value(record), `${position}`);
    assert.ok((position ?? 0) >= acknowledged, `${position} of origin ${origin}, ${acknowledged} acknowledged`);
  }
  for (const key of store.keys('default', bytes('key '), undefined, 100)) {
    const name = key.toString('latin1');
    assert.equal(value(name), model.get('default', name, 0)?.value);
  }
}

describe('a process killed in the middle of writing', () => {
  for (const mode of ['flushed', 'committed', 'at-stop']) {
    it(`finds position, log and records as one, and all it acknowledged: ${mode} (invariants 1, 3, 5)`, async () => {
      const data = join(folder, `killed-${mode}`);
      for (let kill = 0; kill < KILLS; kill++) {
        const killMs = Math.random() * 150;
        const acknowledged = await writeAndKill(mode, data, killMs);
        const store = openCrashStore(data, mode !== 'at-stop');
        try {
          checkWhole(store, acknowledged);
        } catch (error) {
          console.error(`kill ${kill}, ${killMs} ms after the first acknowledgement`);
          throw error;
        } finally {
          // As left by the crash: the next round must open that, not what a clean close made of it.
          await store.close();
        }
      }
    });
  }
});

describe('an acknowledgement (invariant 5)', () => {
  const ROUNDS = 25;
  const SYNC_US = 20_000;
  const traced = spawnSync('strace', ['-f', '-y', '-e', 'trace=fdatasync', 'true']).status === 0;
  const skip = traced ? false : 'strace cannot trace here';

  function trace(mode: string): { readonly acknowledged: number; readonly synced: number } {
    const file = join(folder, `trace-${mode}`);
    const calls = 'trace=openat,write,pwrite64,writev,pwritev,fsync,fdatasync,msync,sync_file_range';
    // Slow disk: every sync takes its time, so that whoever does not wait for it is found out.
    const slow = `inject=fsync,fdatasync:delay_enter=${SYNC_US}`;
    const command = [process.execPath, WRITER, mode, join(folder, `traced-${mode}`), String(ROUNDS)];
    execFileSync('strace', ['-f', '-y', '-e', calls, '-e', slow, '-o', file, ...command], { timeout: 30_000 });
    return syncsBefore(readFileSync(file, 'latin1'), 'data.mdb', /^ack \d+/);
  }

  it('of a flushed write comes after the sync of its data has returned, every time', { skip }, () => {
    assert.deepEqual(trace('flushed'), { acknowledged: ROUNDS, synced: ROUNDS });
  });

  it('of a committed write does not wait for the sync, though one is under way (the test above tells them apart)', {
    skip,
  }, () => {
    const { acknowledged, synced } = trace('committed');
    assert.equal(acknowledged, ROUNDS);
    // A sync may be quicker than the writer now and then.
    assert.ok(synced < ROUNDS / 2, `${synced} of ${acknowledged} were synced before`);
  });

  it('never comes when the sync fails: the writer gets STORAGE with the reason', { skip }, () => {
    // The sixth sync of a thread and all after it.
    const failing = ['-e', 'trace=fdatasync', '-e', 'inject=fdatasync:error=EIO:when=6+'];
    const command = [process.execPath, WRITER, 'flushed', join(folder, 'failing'), '1000'];
    const { status, stdout, stderr } = spawnSync('strace', ['-f', '-o', '/dev/null', ...failing, ...command], {
      encoding: 'latin1',
      timeout: 15_000,
    });
    assert.equal(status, 1);
    assert.match(stderr, /code: 'STORAGE'[\s\S]*i\/o error, fdatasync/);
    assert.ok(stdout.split('\n').length < 100, 'it ended with the first failure');
  });

  it('of a committed write without flushes waits for no sync', { skip }, () => {
    // One is of the opening: there must be something to go back to.
    assert.deepEqual(trace('at-stop'), { acknowledged: ROUNDS, synced: 1 });
  });
});

describe('a root killed at random while clients write (invariant 5)', () => {
  const WRITERS = 4;
  const ROUNDS = 4;
  let cluster: Cluster;
  let root: ClusterNode;
  /** Writes acknowledged since the start of the round. */
  let count = 0;

  before(async () => {
    cluster = await Cluster.create();
    root = await cluster.add({ name: 'root', role: 'root' });
  });
  after(async () => await cluster.close());

  /** Writes one record after the other until the server is gone; returns what was acknowledged. */
  async function writeUntilGone(name: string): Promise<string[]> {
    const client = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}`, timeoutMs: 10_000 });
    const acknowledged: string[] = [];
    try {
      for (let n = 0; n < 100_000; n++) {
        const key = `${name}-${n}`;
        if (n % 3 === 0)
          await client.setBulk([
            [key, key],
            [`${key}-twin`, key],
          ]);
        else await client.set(key, key);
        acknowledged.push(key, ...(n % 3 === 0 ? [`${key}-twin`] : []));
        count++;
      }
    } catch {
      // The kill. What was under way may or may not be there; only what was acknowledged must.
    } finally {
      client.close();
    }
    return acknowledged;
  }

  it('has every acknowledged write after each restart', async () => {
    const acknowledged: string[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      cluster.start(root);
      await cluster.ready(root);
      count = 0;
      const writing = Array.from({ length: WRITERS }, (_, i) => writeUntilGone(`${round}-${i}`));
      await eventually('the first writes are acknowledged', () => count >= WRITERS, 20_000);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 400));
      await cluster.kill(root);
      const fresh = (await Promise.all(writing)).flat();
      assert.ok(fresh.length > 0, 'writes were acknowledged before the kill');
      acknowledged.push(...fresh);
    }
    cluster.start(root);
    await cluster.ready(root);
    const client = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}` });
    try {
      const found = await client.getBulk(acknowledged);
      const lost = acknowledged.filter((key) => found.get(key)?.toString() !== key.replace('-twin', ''));
      assert.deepEqual(lost, []);
    } finally {
      client.close();
    }
  });
});
