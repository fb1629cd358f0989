/**
 * Tables that are copied while others stream and somebody's transaction stays open: Postgres makes no replication slot
 * then, and no snapshot of ours may wait for one either.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import type pg from 'pg';
import { FeedBench } from '../support/feed-bench.js';
import { eventually } from '../support/local-runtime.js';
import { editions, TestPostgres } from '../support/postgres.js';

const SCHEMA = `CREATE TABLE kv (k text PRIMARY KEY, v text); INSERT INTO kv VALUES ('a', '1');
  CREATE TABLE late (k text PRIMARY KEY, v text); INSERT INTO late SELECT i, 'old' FROM generate_series(1, 3000) i;
  CREATE TABLE unmapped (t text)`;
const KV = { table: 'public.kv', database: 'default', key: 'kv/{k}', value: { column: 'v' } } as const;
const LATE = { table: 'public.late', database: 'default', key: 'late/{k}', value: { column: 'v' } } as const;

for (const { name, options } of editions()) {
  describe(`a copy beside the stream while a transaction is open, on ${name}`, () => {
    let postgres: TestPostgres;
    let bench: FeedBench;
    let long: pg.Client;
    before(async () => {
      postgres = await TestPostgres.start(options);
    });
    afterEach(async () => {
      await long.end();
      await bench.close();
    });
    after(async () => await postgres.stop());

    /** A feed that streams `tables`, and a session of somebody else. */
    async function started(tables: readonly (typeof KV | typeof LATE)[]): Promise<void> {
      bench = await FeedBench.open(postgres, { schema: SCHEMA, tables });
      bench.start();
      await bench.synced();
      long = await bench.connect();
    }

    /** Commits wait for a standby that never comes while `run` goes on. */
    async function whileCommitsWait(run: () => Promise<void>): Promise<void> {
      const set = async (change: string): Promise<void> => {
        await bench.sql.query(`ALTER SYSTEM ${change}`);
        await bench.sql.query('SELECT pg_reload_conf()');
      };
      await bench.sql.query('SET synchronous_commit TO local');
      await set(`SET synchronous_standby_names = 'nobody'`);
      try {
        const names = `SELECT 1 WHERE current_setting('synchronous_standby_names') <> ''`;
        await eventually('commits wait', async () => (await bench.sql.query(names)).rowCount === 1);
        await run();
      } finally {
        await set('RESET synchronous_standby_names');
      }
    }

    /** Waits until the records of a table are its rows as they are now. */
    async function equals(table: 'kv' | 'late'): Promise<void> {
      const { rows } = await bench.sql.query<{ k: string; v: string }>(`SELECT '${table}/' || k AS k, v FROM ${table}`);
      const wanted = new Map(rows.map(({ k, v }) => [k, v]));
      const found = (): [string, string][] =>
        Object.entries(bench.records()).filter(([key]) => key.startsWith(`${table}/`));
      const isSame = (): boolean => found().length === wanted.size && found().every(([k, v]) => wanted.get(k) === v);
      await eventually(`the records of ${table} are its rows`, isSame, 10_000).catch(() => {
        assert.deepEqual(new Map(found()), wanted, bench.logged.join('\n'));
      });
    }

    const isCopied = (table: string): boolean =>
      bench.logged.some((line) => line.startsWith(`table copied {"table":"${table}"`));

    it('a table that is added is copied at once, and exact whatever the transaction does then', async () => {
      await started([KV]);
      await long.query(`BEGIN; INSERT INTO unmapped VALUES ('open')`);
      await bench.stopFeed();
      await bench.sql.query(`UPDATE kv SET v = '2'; UPDATE late SET v = 'before' WHERE k < '2'`);
      bench.start({ tables: [KV, LATE] });
      await equals('kv');
      await bench.sql.query(`INSERT INTO late VALUES ('meanwhile', '1'); DELETE FROM late WHERE k > '29'`);
      await equals('late');
      await eventually('the copy is over while the transaction is open', () => isCopied('public.late'));
      await long.query(`INSERT INTO late VALUES ('long', '1'); UPDATE late SET v = 'long' WHERE k LIKE '1%'`);
      await bench.sql.query(`UPDATE late SET v = 'short' WHERE k LIKE '20%'`);
      await equals('late');
      await long.query('COMMIT');
      await bench.synced();
      await equals('late');
      assert.equal(bench.status.failures, 0, bench.logged.join('\n'));
    });

    it('a table that changes in shape is copied at once', async () => {
      await started([KV, LATE]);
      await long.query(`BEGIN; INSERT INTO unmapped VALUES ('open'); UPDATE kv SET v = 'unseen'`);
      await bench.sql.query(
        `ALTER TABLE late ADD COLUMN extra int DEFAULT 1; UPDATE late SET v = 'new' WHERE k < '15'`,
      );
      await eventually(
        'it is copied',
        () => bench.logged.filter((line) => /table copied .*late/.test(line)).length === 2,
      );
      await bench.sql.query(`INSERT INTO kv VALUES ('b', '1'); DELETE FROM late WHERE k > '25'`);
      await equals('late');
      await equals('kv');
      await long.query(`INSERT INTO late VALUES ('long', '1', 2); COMMIT`);
      await bench.synced();
      await equals('late');
      await equals('kv');
      assert.equal(bench.status.failures, 0, bench.logged.join('\n'));
    });

    it('only a table that the transaction wrote to before it was published waits, and says for whom', async () => {
      await started([KV]);
      await long.query(
        `BEGIN; UPDATE late SET v = 'unpublished' WHERE k LIKE '1%'; INSERT INTO late VALUES ('early', '1')`,
      );
      const { rows } = await long.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      await bench.stopFeed();
      bench.start({ tables: [KV, LATE] });
      await bench.sql.query(`UPDATE kv SET v = '2'; UPDATE late SET v = 'other' WHERE k LIKE '2%'`);
      await equals('kv');
      await bench.failure(
        new RegExp(`waits for transactions that wrote.*"transactions":1.*"pid":${rows[0]?.pid},"since":"2`),
      );
      assert.equal(bench.status.copy?.waitsFor, 1);
      await bench.sql.query(`INSERT INTO kv VALUES ('b', '1'); DELETE FROM late WHERE k LIKE '30%'`);
      await equals('kv');
      assert.equal(isCopied('public.late'), false);
      await long.query(`INSERT INTO late VALUES ('later', '1')`);
      await long.query('COMMIT');
      await bench.synced();
      await equals('late');
      assert.equal(bench.status.failures, 0, bench.logged.join('\n'));
    });

    it('a commit that came with the stream before Postgres shows it is not undone by a copy', async () => {
      await started([KV, LATE]);
      const another = await bench.connect();
      const commits: Promise<unknown>[] = [];
      await whileCommitsWait(async () => {
        commits.push(long.query(`UPDATE late SET v = 'sent' WHERE k = '1'`));
        await eventually('the stream has it', () => bench.value('late/1')?.toString() === 'sent');
        const { rows } = await bench.sql.query<{ v: string }>(`SELECT v FROM late WHERE k = '1'`);
        assert.equal(rows[0]?.v, 'old', 'and Postgres does not show it');
        bench.copyAgain('public.late');
        await eventually('the copy waits', () => bench.status.copy?.waitsFor === 1);
        // What comes while it waits is left to the copy as well.
        commits.push(another.query(`UPDATE late SET v = 'sent' WHERE k = '2'`));
        await bench.sql.query(`UPDATE kv SET v = 'goes on'`);
        await equals('kv');
      });
      await Promise.all(commits);
      await another.end();
      await bench.synced();
      await equals('late');
      assert.equal(bench.value('late/1')?.toString(), 'sent');
      assert.equal(bench.status.failures, 0, bench.logged.join('\n'));
    });

    it('a feed that restarts before it has come to the moment of its copy, or without a change behind it, is exact', async () => {
      await started([KV]);
      await bench.stopFeed();
      await bench.sql.query(`UPDATE late SET v = 'x' WHERE k < '2'`);
      bench.start({ tables: [KV, LATE] });
      await bench.synced();
      const copies = (): number => bench.logged.filter((line) => /table copied .*late/.test(line)).length;
      assert.equal(copies(), 1);
      await bench.stopFeed();
      bench.start({ tables: [KV, LATE] });
      await bench.synced();
      assert.equal(copies(), 1, 'nothing changed: nothing is copied again');
      await bench.stopFeed();
      // A store that lost the position of the stream behind the copy: as if the process had ended before.
      await bench.store.mark({ feed: 'postgres', position: (bench.store.feedPosition('postgres') ?? 0n) - 1n })
        .committed;
      bench.start({ tables: [KV, LATE] });
      await bench.synced();
      assert.equal(copies(), 2);
      await equals('late');
    });

    it('the first copy has to wait for it, and says so', async () => {
      bench = await FeedBench.open(postgres, { schema: SCHEMA, tables: [KV] });
      long = await bench.connect();
      await long.query(`BEGIN; INSERT INTO unmapped VALUES ('open')`);
      const { rows } = await long.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      bench.start();
      await bench.failure(new RegExp(`the slot waits until .*"oldest":.*"pid":${rows[0]?.pid}`));
      assert.equal(bench.status.copy?.waitsFor, 1);
      await long.query('COMMIT');
      await bench.synced();
      await equals('kv');
    });
  });
}
