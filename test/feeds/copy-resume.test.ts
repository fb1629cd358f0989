/** A copy that was interrupted goes on inside the table where it was, and what changed or moved meanwhile is not lost. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { TokaidoClient } from '../../src/client/client.js';
import type { PostgresFeedStatus } from '../../src/feeds/postgres/feed.js';
import { Cluster } from '../support/cluster.js';
import { FeedBench } from '../support/feed-bench.js';
import { eventually } from '../support/local-runtime.js';
import { TestPostgres } from '../support/postgres.js';

const MAPPING = { table: 'public.kv', database: 'default', key: 'kv/{k}', value: { column: 'v' } } as const;
/** A page has 100 rows of these, more or less. */
const FILLING = `repeat('x', 30)`;
/**
 * Rows that two connections have under way: a range of 64 pages that each reads, and the one before, on its way to the
 * disk. As many may be done and wait for an earlier range.
 */
const UNDER_WAY = 2 * 2 * 64 * 110;

describe('a root that is killed while it copies a large table', () => {
  it('copies again only what was under way, over many kills, while writers write', async () => {
    const ROWS = 300_000;
    const postgres = await TestPostgres.start();
    const cluster = await Cluster.create();
    const sql = await postgres.connect();
    try {
      await sql.query(`CREATE TABLE kv (k int PRIMARY KEY, v text, n int DEFAULT 0);
        INSERT INTO kv SELECT i, i || ${FILLING} FROM generate_series(1, ${ROWS}) i; ANALYZE kv`);
      const feed = { connection: postgres.url, tables: [MAPPING], statusMs: 100, heartbeatMs: 500 };
      const root = await cluster.add({ name: 'root', role: 'root', config: { postgres: feed } });
      const status = async (): Promise<PostgresFeedStatus | undefined> => {
        return (await cluster.status(root).catch(() => undefined))?.feed as PostgresFeedStatus | undefined;
      };
      let isOver = false;
      const write = async (): Promise<void> => {
        for (let i = 1; !isOver; i++) {
          const k = 1 + ((i * 7919) % ROWS);
          await sql.query(`BEGIN; UPDATE kv SET v = 'u${i}', n = n + 1 WHERE k = ${k}; DELETE FROM kv WHERE k = ${k + 1};
            INSERT INTO kv VALUES (${ROWS + i}, 'new ${i}'); UPDATE kv SET k = -${i} WHERE k = ${k + 2}; COMMIT`);
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
      };
      const writing = write();
      const copied: number[] = [];
      for (let kill = 0; kill < 3; kill++) {
        cluster.start(root);
        await cluster.ready(root);
        const enough = ROWS / 4;
        let rows = 0;
        while (rows < enough) {
          rows = (await status())?.rowsCopied ?? 0;
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
        await cluster.kill(root);
        copied.push(rows);
      }
      cluster.start(root);
      await cluster.ready(root);
      const deadline = performance.now() + 60_000;
      let last = await status();
      while (last?.state !== 'streaming' || last.copy !== undefined || last.rowsCopied === 0) {
        assert.ok(performance.now() < deadline, cluster.log(root).slice(-2000));
        await new Promise((resolve) => setTimeout(resolve, 50));
        last = await status();
      }
      isOver = true;
      await writing;
      const before = copied.reduce((all, rows) => all + rows, 0);
      const again = last.rowsCopied + before - ROWS;
      assert.ok(before > ROWS / 2, `${copied.join(', ')} rows before the kills`);
      assert.ok(
        again < 3 * 2 * UNDER_WAY,
        `${again} of ${ROWS} rows were copied again (${copied.join(', ')}, then ${last.rowsCopied})`,
      );
      const client = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}` });
      const { rows } = await sql.query<{ k: string; v: string }>(`SELECT 'kv/' || k AS k, v FROM kv`);
      const { rows: lsn } = await sql.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
      await client.reach({ position: lsn[0]?.lsn as string, waitMs: 20_000 }, { database: 'default' });
      for (let at = 0; at < rows.length; at += 5000) {
        const part = rows.slice(at, at + 5000);
        const values = await client.getMany(part.map(({ k }) => ({ database: 0, key: k })));
        assert.deepEqual(
          values.map(String),
          part.map(({ v }) => v),
        );
      }
      assert.equal((await client.call('status')).rows.get('count')?.toString(), String(rows.length));
      client.close();
    } finally {
      await sql.end();
      await cluster.close();
      await postgres.stop();
    }
  });
});

describe('a copy that goes on', () => {
  const COUNT = 60_000;
  let postgres: TestPostgres;
  let bench: FeedBench;
  before(async () => {
    postgres = await TestPostgres.start();
  });
  afterEach(async () => await bench.close());
  after(async () => await postgres.stop());

  const schema = (
    filling: string = FILLING,
    more = '',
  ): string => `CREATE TABLE kv (k text PRIMARY KEY, v text, n int) ${more};
    INSERT INTO kv SELECT i::text, i || ${filling}, 0 FROM generate_series(1, ${COUNT}) i; ANALYZE kv`;

  const rows = async (table = 'kv'): Promise<Record<string, string>> => {
    const found = await bench.sql.query<{ k: string; v: string }>(
      `SELECT 'kv/' || k AS k, v FROM ${table} WHERE v IS NOT NULL ORDER BY ('kv/' || k) COLLATE "C"`,
    );
    return Object.fromEntries(found.rows.map(({ k, v }) => [k, v]));
  };

  /** Runs the feed until some pages are noted, and stops it in the middle of the table. */
  const interrupt = async (from = 0): Promise<void> => {
    bench.start();
    const noted = (): bigint => bench.store.feedPosition('postgres pages public.kv default kv/{k}') ?? 0n;
    await eventually('a part is copied', () => bench.status.rowsCopied > 0 && noted() > BigInt(from));
    await bench.stopFeed();
    assert.ok((bench.status.copy?.tablesDone ?? 1) === 0, 'it was interrupted in time');
    await bench.store.mark({ feed: 'test', position: 1n }).committed;
  };

  /** Makes the room of deleted rows free: not before the last reader of the interrupted copy has gone. */
  const vacuum = async (): Promise<void> => {
    const readers = `SELECT FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()`;
    await eventually('nobody reads any more', async () => (await bench.sql.query(readers)).rowCount === 0);
    await bench.sql.query('VACUUM kv');
  };

  const goesOn = (): boolean => bench.logged.some((line) => /going on with a copy/.test(line));

  it('rows that changed, moved, went and came while nobody copied are right', async () => {
    bench = await FeedBench.open(postgres, { schema: schema(), tables: [MAPPING] });
    await interrupt();
    // The deleted rows make room in the first pages, for rows that come from the last ones.
    await bench.sql.query(`DELETE FROM kv WHERE k::int <= 10000`);
    await vacuum();
    await bench.sql.query(
      `UPDATE kv SET n = 1 WHERE k::int > ${COUNT - 5000}; UPDATE kv SET v = 'changed' WHERE k::int % 7 = 0`,
    );
    await bench.sql.query(
      `UPDATE kv SET k = 'moved ' || k WHERE k::int % 100 = 1; INSERT INTO kv VALUES ('late', 'x', 0)`,
    );
    const moved = await bench.sql.query(`SELECT 1 FROM kv WHERE n = 1 AND ctid < '(100,0)'`);
    assert.ok((moved.rowCount ?? 0) > 0, 'rows moved to pages that were copied already');
    await interrupt(1);
    await bench.sql.query(`UPDATE kv SET v = v || '!' WHERE n = 1; DELETE FROM kv WHERE v LIKE '%77%'`);
    bench.start();
    await bench.synced();
    assert.ok(goesOn());
    assert.deepEqual(bench.records(), await rows());
  });

  it('large values that updates do not send are copied with the rows that moved, none is asked for alone', async () => {
    const big = `(SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 100) j)`;
    const count = 3000;
    const pages = `repeat('x', 700)`;
    const table = `CREATE TABLE kv (k text PRIMARY KEY, v text, n int, filling text); ALTER TABLE kv ALTER v SET STORAGE EXTERNAL, ALTER filling SET STORAGE PLAIN;
      INSERT INTO kv SELECT i::text, ${big}, 0, ${pages} FROM generate_series(1, ${count}) i; ANALYZE kv`;
    bench = await FeedBench.open(postgres, { schema: table, tables: [MAPPING] });
    await interrupt();
    await bench.sql.query(`DELETE FROM kv WHERE k::int <= 300`);
    await vacuum();
    for (let at = count - 100; at < count; at++) await bench.sql.query(`UPDATE kv SET n = 1 WHERE k = '${at + 1}'`);
    await bench.sql.query(
      `UPDATE kv SET k = 'm' || k WHERE k::int % 50 = 0; UPDATE kv SET n = 2 WHERE k::int % 11 = 0;
      DELETE FROM kv WHERE k::int % 22 = 0`.replaceAll('k::int %', `length(k) < 5 AND replace(k, 'm', '')::int %`),
    );
    const moved = await bench.sql.query(`SELECT 1 FROM kv WHERE n = 1 AND ctid < '(40,0)'`);
    assert.ok((moved.rowCount ?? 0) > 0, 'rows moved to pages that were copied already');
    bench.start();
    await bench.synced(30_000);
    assert.deepEqual(bench.records(), await rows());
    assert.ok(bench.status.askedRows <= 1, `${bench.status.askedRows} rows`);
    assert.ok(goesOn());
  });

  it('a table that was rewritten meanwhile begins anew', async () => {
    bench = await FeedBench.open(postgres, { schema: schema(), tables: [MAPPING] });
    await interrupt();
    await bench.sql.query(`DELETE FROM kv WHERE k::int % 2 = 0`);
    await bench.sql.query('VACUUM FULL kv');
    bench.start();
    await bench.synced();
    assert.equal(goesOn(), false);
    assert.equal(bench.status.rowsCopied, COUNT / 2);
    assert.deepEqual(bench.records(), await rows());
  });

  it('a second copy, over records that were there, removes those without a row all the same', async () => {
    bench = await FeedBench.open(postgres, { schema: schema(), tables: [MAPPING] });
    bench.start();
    await bench.synced();
    await bench.stopFeed();
    await bench.sql.query(`DELETE FROM kv WHERE k::int % 500 = 0; UPDATE kv SET v = 'new' WHERE k::int % 100 = 1`);
    await bench.dropSlot();
    await interrupt();
    await bench.sql.query(`DELETE FROM kv WHERE k::int % 500 = 3; INSERT INTO kv VALUES ('late', 'x', 0)`);
    bench.start();
    await bench.synced();
    assert.ok(goesOn());
    assert.ok(bench.status.rowsCopied < COUNT, `${bench.status.rowsCopied} rows`);
    assert.deepEqual(bench.records(), await rows());
  });

  it('all partitions of a table go on together', async () => {
    const partitions = Array.from({ length: 3 }, (_, i) => {
      return `CREATE TABLE kv${i} PARTITION OF kv FOR VALUES WITH (MODULUS 3, REMAINDER ${i})`;
    }).join('; ');
    const table = `CREATE TABLE kv (k text PRIMARY KEY, v text, n int) PARTITION BY HASH (k); ${partitions};
      INSERT INTO kv SELECT i::text, i || ${FILLING}, 0 FROM generate_series(1, ${COUNT}) i; ANALYZE kv`;
    bench = await FeedBench.open(postgres, { schema: table, tables: [MAPPING] });
    await interrupt();
    await bench.sql.query(
      `UPDATE kv SET v = 'changed' WHERE k::int % 50 = 0; UPDATE kv SET k = 'moved ' || k WHERE k::int % 50 = 1`,
    );
    bench.start();
    await bench.synced();
    assert.ok(goesOn());
    assert.ok(bench.status.rowsCopied < COUNT, `${bench.status.rowsCopied} rows`);
    assert.deepEqual(bench.records(), await rows());
  });

  it('a mapping that is changed, half copied and changed back is copied anew', async () => {
    bench = await FeedBench.open(postgres, { schema: schema(), tables: [MAPPING] });
    bench.start();
    await bench.synced();
    await bench.stopFeed();
    const other = { ...MAPPING, value: { column: 'n' } };
    bench.start({ tables: [other] });
    const noted = (): bigint => bench.store.feedPosition('postgres pages public.kv default kv/{k}') ?? 0n;
    await eventually('a part is copied', () => bench.value('kv/1')?.toString() === '0' && noted() > 0n);
    await bench.stopFeed();
    bench.start();
    await bench.synced();
    assert.deepEqual(bench.records(), await rows());
  });
});
