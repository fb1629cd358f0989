/** Large transactions: streamed before they commit, kept on the disk, and visible whole or not at all. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import type pg from 'pg';
import { Spill } from '../../src/feeds/postgres/spill.js';
import { FeedBench } from '../support/feed-bench.js';
import { eventually } from '../support/local-runtime.js';
import { editions, TestPostgres } from '../support/postgres.js';
import { randomFrom } from '../support/random.js';

const KV = 'CREATE TABLE kv (k text PRIMARY KEY, v text)';
const MAPPING = { table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } } as const;

describe('the spill', () => {
  it('gives back what was written and not rolled back, in order', async () => {
    const step = fc.oneof(
      { weight: 8, arbitrary: fc.tuple(fc.constant('write' as const), fc.nat(300_000)) },
      { weight: 3, arbitrary: fc.tuple(fc.constant('begin' as const), fc.constant(0)) },
      { weight: 2, arbitrary: fc.tuple(fc.constant('roll back' as const), fc.nat(3)) },
      { weight: 2, arbitrary: fc.tuple(fc.constant('release' as const), fc.constant(0)) },
    );
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-spill-'));
    try {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
          const failures: unknown[] = [];
          const spill = new Spill({
            folder,
            maxBytes: 2 ** 30,
            onWritten: () => undefined,
            onFail: (error) => failures.push(error),
          });
          // Each open subtransaction knows how much there was when it began; the transaction itself is the first.
          const open = [{ xid: 100, before: 0, released: [] as number[] }];
          const model: Buffer[] = [];
          let xids = 100;
          for (const [kind, number] of steps) {
            if (kind === 'write') {
              const message = Buffer.alloc(number, model.length + 1);
              spill.append(100, open.at(-1)?.xid as number, message);
              model.push(message);
            } else if (kind === 'begin') open.push({ xid: ++xids, before: model.length, released: [] });
            else if (open.length === 1) continue;
            else if (kind === 'release') {
              const inner = open.pop();
              if (inner !== undefined) open.at(-1)?.released.push(...inner.released, inner.xid);
            } else {
              const undone = open.splice(Math.max(1, open.length - 1 - number));
              // As Postgres does it: the inner ones first, those that were released into them too.
              for (const { xid, released } of [...undone].reverse()) {
                for (const inner of [...released, xid]) spill.rollBack(100, inner);
              }
              model.length = undone[0]?.before as number;
            }
          }
          const read: Buffer[] = [];
          for await (const messages of spill.read(100)) for (const message of messages) read.push(Buffer.from(message));
          assert.deepEqual(
            read.map(({ length }) => length),
            model.map(({ length }) => length),
          );
          assert.ok(read.every((message, at) => message.equals(model[at] as Buffer)));
          await spill.close();
          assert.deepEqual([failures, existsSync(folder) ? readdirSync(folder) : []], [[], []]);
        }),
        { numRuns: 60 },
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it('a release keeps what a roll back of what is around it removes', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-spill-'));
    const spill = new Spill({ folder, maxBytes: 1000, onWritten: () => undefined, onFail: assert.ifError });
    try {
      spill.append(1, 1, Buffer.from('kept'));
      spill.append(1, 3, Buffer.from('released into 2'));
      spill.append(1, 2, Buffer.from('of 2'));
      spill.rollBack(1, 3);
      spill.rollBack(1, 2);
      spill.append(1, 1, Buffer.from('last'));
      const read: string[] = [];
      for await (const messages of spill.read(1)) read.push(...messages.map(String));
      assert.deepEqual(read, ['kept', 'last']);
      assert.throws(() => spill.append(1, 1, Buffer.alloc(1000)), /more than 1000 bytes \(postgres.maxSpillBytes\)/);
    } finally {
      await spill.close();
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

for (const { name, options } of editions()) {
  describe(`large transactions of ${name}`, () => {
    let postgres: TestPostgres;
    let bench: FeedBench;
    const sessions: pg.Client[] = [];
    before(async () => {
      // Nearly every transaction of these tests is large then.
      postgres = await TestPostgres.start({ ...options, settings: ['logical_decoding_work_mem=64kB'] });
    });
    afterEach(async () => {
      await Promise.all(sessions.splice(0).map(async (session) => await session.end()));
      await bench.close();
    });
    after(async () => await postgres.stop());

    async function started(config: NonNullable<Parameters<FeedBench['start']>[0]> = {}): Promise<void> {
      bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING], config });
      bench.start();
      await bench.synced();
    }

    async function session(): Promise<pg.Client> {
      const client = await bench.connect();
      sessions.push(client);
      return client;
    }

    async function rows(): Promise<Record<string, string>> {
      const { rows } = await bench.sql.query<{ k: string; v: string }>('SELECT k, v FROM kv');
      return Object.fromEntries(rows.map(({ k, v }) => [k, v]));
    }

    const spilled = (): string[] => (existsSync(bench.spillFolder) ? readdirSync(bench.spillFolder) : []);

    it('are seen whole when they commit, and not before', async () => {
      await started();
      const other = await session();
      await other.query(`BEGIN; INSERT INTO kv SELECT 'a' || i, repeat('x', 100) FROM generate_series(1, 5000) i`);
      await eventually('it waits on the disk', () => bench.status.spillBytes > 100_000);
      await bench.sql.query(`INSERT INTO kv VALUES ('meanwhile', '1')`);
      await eventually('others pass it', () => bench.value('meanwhile') !== undefined);
      assert.deepEqual(Object.keys(bench.records()), ['meanwhile']);
      const seen = new Set<number>();
      const watch = bench.store.onCommit(() => seen.add(bench.store.count('default')));
      await other.query(`DELETE FROM kv WHERE k = 'a7'; COMMIT`);
      await bench.synced();
      watch();
      assert.deepEqual(
        [...seen].filter((count) => count > 1),
        [5000],
        'all at once',
      );
      assert.deepEqual(bench.records(), await rows());
      assert.equal(bench.status.spilledTransactions, 1);
      assert.equal(bench.status.spillBytes, 0);
      await eventually('its file is gone', () => spilled().length === 0);
    });

    it('that are rolled back, wholly or to a savepoint, leave nothing of what was undone', async () => {
      await started();
      const random = randomFrom(7);
      const clients = [await session(), await session(), await session()];
      await Promise.all(
        clients.map(async (client, who) => {
          for (let round = 0; round < 5; round++) {
            await client.query('BEGIN');
            const write = async (): Promise<void> => {
              const from = Math.floor(random() * 50);
              await client.query(
                `INSERT INTO kv SELECT $1 || i, $2 || repeat('y', 200) FROM generate_series($3::int, $3::int + 400) i
                 ON CONFLICT (k) DO UPDATE SET v = excluded.v`,
                [`${who}/`, `${round}/${random()}`, from],
              );
            };
            await write();
            for (let depth = 0; depth < 3; depth++) {
              await client.query(`SAVEPOINT s${depth}`);
              await write();
              if (random() < 0.3) await client.query(`RELEASE s${depth}`);
              else if (random() < 0.6) await client.query(`ROLLBACK TO s${depth}`);
            }
            await client.query(random() < 0.3 ? 'ROLLBACK' : 'COMMIT');
          }
        }),
      );
      await bench.synced();
      assert.deepEqual(bench.records(), await rows());
      assert.ok(bench.status.spilledTransactions > 0);
      assert.equal(bench.status.failures, 0);
      await eventually('no file is left', () => spilled().length === 0);
    });

    it('that were under way when the feed was stopped come whole with the next', async () => {
      await started();
      const other = await session();
      await other.query(`BEGIN; INSERT INTO kv SELECT 'a' || i, repeat('x', 100) FROM generate_series(1, 3000) i`);
      await eventually('it waits on the disk', () => bench.status.spillBytes > 100_000);
      await bench.stopFeed();
      assert.deepEqual(spilled(), [], 'a stopped feed keeps nothing');
      await other.query('DELETE FROM kv; COMMIT');
      await bench.sql.query(`INSERT INTO kv VALUES ('b', '1')`);
      bench.start();
      await bench.synced();
      assert.deepEqual(bench.records(), { b: '1' });
    });

    it('for which there is no room are kept by Postgres', async () => {
      await started({ maxSpillBytes: 200_000 });
      await bench.sql.query(`INSERT INTO kv SELECT 'a' || i, repeat('x', 100) FROM generate_series(1, 5000) i`);
      await bench.synced();
      await bench.failure(/Postgres has to keep large transactions.*more than 200000 bytes/);
      assert.deepEqual(bench.records(), await rows());
      assert.deepEqual([bench.status.failures, bench.status.spilledTransactions], [0, 0]);
    });

    it('beyond the limit become visible in parts, and are counted', async () => {
      await started({ maxTransactionChanges: 1000 });
      await bench.sql.query(`INSERT INTO kv SELECT 'a' || i, repeat('x', 100) FROM generate_series(1, 5000) i`);
      await bench.synced();
      assert.deepEqual(bench.records(), await rows());
      assert.deepEqual([bench.status.spilledTransactions, bench.status.cutTransactions], [1, 1]);
    });
  });
}

describe('memory', () => {
  it('does not grow with the size of a transaction', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const postgres = await TestPostgres.start({ settings: ['logical_decoding_work_mem=64kB'] });
    const config = { maxTransactionBytes: 2 ** 18, maxUnappliedBytes: 2 ** 18 };
    const bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING], config });
    try {
      bench.start();
      await bench.synced();
      const peak = async (megabytes: number): Promise<number> => {
        let most = 0;
        const timer = setInterval(() => {
          collect();
          const { heapUsed, external } = process.memoryUsage();
          most = Math.max(most, heapUsed + external);
        }, 200);
        await bench.sql.query(
          `INSERT INTO kv SELECT i, repeat('x', 1000) FROM generate_series(1, ${megabytes * 1000}) i`,
        );
        await bench.synced(60_000);
        clearInterval(timer);
        await bench.sql.query('TRUNCATE kv');
        return most;
      };
      const small = await peak(12);
      const large = await peak(96);
      const slope = (large - small) / 84e6;
      // Held, a byte would cost two of text and more of objects; some 25 MB come and go with the collector's moods.
      assert.ok(slope < 1, `${small} bytes for 12 MB, ${large} for 96 MB: ${slope} bytes for a byte`);
      assert.ok(bench.status.spilledTransactions >= 2 && bench.status.cutTransactions >= 2);
    } finally {
      await bench.close();
      await postgres.stop();
    }
  });
});
