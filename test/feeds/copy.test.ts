/** The initial copy: consistent while writers write, and made again when the slot is lost. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import pg from 'pg';
import { pageRanges } from '../../src/feeds/postgres/copy.js';
import { FeedBench } from '../support/feed-bench.js';
import { eventually } from '../support/local-runtime.js';
import { TestPostgres } from '../support/postgres.js';

const KV = 'CREATE TABLE kv (k text PRIMARY KEY, v text)';
const MAPPING = { table: 'public.kv', database: 'default', key: 'kv/{k}', value: { column: 'v' } } as const;

describe('the initial copy', () => {
  let postgres: TestPostgres;
  let bench: FeedBench;
  before(async () => {
    postgres = await TestPostgres.start();
  });
  afterEach(async () => await bench.close());
  after(async () => await postgres.stop());

  async function rows(): Promise<Record<string, string>> {
    const found = await bench.sql.query<{ k: string; v: string }>(
      `SELECT 'kv/' || k AS k, v FROM kv ORDER BY k COLLATE "C"`,
    );
    return Object.fromEntries(found.rows.map(({ k, v }) => [k, v]));
  }

  it('loses nothing and repeats nothing while writers write', async () => {
    const schema = `${KV}; INSERT INTO kv SELECT i::text, '0' FROM generate_series(1, 20000) i`;
    bench = await FeedBench.open(postgres, { schema, tables: [MAPPING] });
    let stopped = false;
    let committed = 0;
    const writer = async (id: number): Promise<void> => {
      const client = new pg.Client({ connectionString: bench.url });
      await client.connect();
      for (let round = 0; !stopped; round++) {
        const key = String(1 + ((round * 37 + id * 5000) % 20_000));
        await client.query(`BEGIN; UPDATE kv SET v = 'w${id}-${round}' WHERE k = '${key}'`);
        if (round % 5 === 0) await client.query(`DELETE FROM kv WHERE k = '${Number(key) + 1}'`);
        if (round % 7 === 0) await client.query(`INSERT INTO kv VALUES ('new-${id}-${round}', 'x')`);
        await client.query(round % 11 === 0 ? 'ROLLBACK' : 'COMMIT');
        committed++;
      }
      await client.end();
    };
    const writers = [writer(0), writer(1)];
    await eventually('the writers are under way', () => committed > 50);
    bench.start();
    await eventually('the copy is over', () => bench.status.state === 'streaming', 15_000);
    const atEnd = committed;
    await eventually('the writers go on', () => committed > atEnd + 100);
    stopped = true;
    await Promise.all(writers);
    await bench.synced();
    assert.deepEqual(bench.records(), await rows());
    assert.equal(bench.status.rowsCopied >= 20_000 - committed, true);
  });

  it('a thousand rows that are together larger than a transaction may be are copied', async () => {
    const schema = `${KV}; INSERT INTO kv SELECT i::text, i || repeat('x', 40000) FROM generate_series(1, 1000) i`;
    bench = await FeedBench.open(postgres, { schema, tables: [MAPPING] });
    bench.start();
    await eventually('the copy is over', () => bench.status.state === 'streaming', 30_000);
    assert.equal(bench.status.lastError, undefined);
    assert.deepEqual(bench.records(), await rows());
  });

  it('a row that the store refuses ends the copy with the reason, and it is whole once the row is gone', async () => {
    const schema = `${KV}; INSERT INTO kv SELECT i::text, 'v' FROM generate_series(1, 5000) i; INSERT INTO kv VALUES (repeat('k', 1500), 'v')`;
    bench = await FeedBench.open(postgres, { schema, tables: [MAPPING] });
    bench.start();
    await eventually('the reason is said', () => /a key of 15\d\d bytes/.test(bench.status.lastError ?? ''), 15_000);
    await bench.sql.query('DELETE FROM kv WHERE length(k) > 100');
    await eventually('the copy is over', () => bench.status.state === 'streaming', 30_000);
    await bench.synced();
    assert.deepEqual(bench.records(), await rows());
  });

  it('a slot dropped while the node was down: everything is copied again, records without a row are removed', async () => {
    const schema = `${KV}; INSERT INTO kv SELECT i::text, 'old' FROM generate_series(1, 3000) i`;
    bench = await FeedBench.open(postgres, { schema, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    await bench.store.write((transaction) => transaction.set('default', Buffer.from('by hand'), Buffer.from('x'), 0))
      .committed;
    await bench.stopFeed();
    await bench.sql.query(`DELETE FROM kv WHERE k::int % 3 = 0; UPDATE kv SET v = 'new' WHERE k = '1'`);
    await bench.dropSlot();
    const before = bench.store.log.next;
    bench.start();
    await bench.synced();
    await bench.failure(/slot is gone: copying everything again/);
    assert.deepEqual(bench.records(), { 'by hand': 'x', ...(await rows()) });
    assert.ok(bench.store.log.next - before < 20, 'what had not changed was not written again');
    await bench.sql.query(`UPDATE kv SET v = 'streamed' WHERE k = '2'`);
    await bench.synced();
    assert.equal(bench.value('kv/2')?.toString(), 'streamed');
  });

  it('a second copy that is interrupted is made a third time, and misses nothing', async () => {
    const schema = `${KV}; INSERT INTO kv SELECT i::text, 'old' FROM generate_series(1, 30000) i`;
    bench = await FeedBench.open(postgres, { schema, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    await bench.stopFeed();
    await bench.sql.query(`DELETE FROM kv WHERE k::int <= 100; UPDATE kv SET v = 'new' WHERE k::int > 29900`);
    await bench.dropSlot();
    bench.start();
    await eventually('the copy is under way', () => bench.status.state === 'copying' && bench.status.rowsCopied > 0);
    await bench.stopFeed();
    assert.ok(bench.status.rowsCopied < 29_900, 'it was interrupted in time');
    assert.equal(bench.store.feedPosition('postgres copying default'), 1n, 'readers cannot rely on positions');
    bench.start();
    await bench.synced();
    await eventually('they can again', () => bench.store.feedPosition('postgres copying default') === 0n);
    assert.deepEqual(bench.records(), await rows());
  });

  it('a slot that was left by an earlier life is replaced when the store is empty', async () => {
    bench = await FeedBench.open(postgres, { schema: `${KV}; INSERT INTO kv VALUES ('a', '1')`, tables: [MAPPING] });
    await bench.sql.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [bench.slot]);
    await bench.sql.query(`UPDATE kv SET v = '2'`);
    bench.start();
    await bench.synced();
    assert.deepEqual(bench.records(), { 'kv/a': '2' });
    assert.equal(bench.status.changes, 0);
  });

  it('WAL that Postgres gave up is noticed, and everything is copied again', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    await bench.stopFeed();
    await bench.sql.query(`ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'; `);
    await bench.sql.query('SELECT pg_reload_conf()');
    try {
      await bench.sql.query(`INSERT INTO kv VALUES ('a', '1')`);
      for (let i = 0; i < 4; i++)
        await bench.sql.query('SELECT pg_switch_wal()').then(() => bench.sql.query(`UPDATE kv SET v = v || 'x'`));
      await bench.sql.query('CHECKPOINT');
      const status = await bench.sql.query<{ s: string }>(
        'SELECT wal_status AS s FROM pg_replication_slots WHERE slot_name = $1',
        [bench.slot],
      );
      assert.equal(status.rows[0]?.s, 'lost');
      bench.start();
      await bench.synced();
      await bench.failure(/gave up the WAL/);
      assert.deepEqual(bench.records(), await rows());
    } finally {
      await bench.sql.query('ALTER SYSTEM RESET max_slot_wal_keep_size');
      await bench.sql.query('SELECT pg_reload_conf()');
    }
  });

  for (const value of ['small', 'large'] as const) {
    it(`a table that is added later is copied beside the stream, ${value} values that change meanwhile included`, async () => {
      const big = `(SELECT string_agg(md5(i::text || 'big'), '') FROM generate_series(1, 100) i)`;
      const filling = value === 'small' ? `'0'` : `'0' || ${big}`;
      const count = value === 'small' ? 20_000 : 1_000;
      const schema = `${KV}; CREATE TABLE late (k text PRIMARY KEY, v text, n integer DEFAULT 0); INSERT INTO kv VALUES ('a', '1');
        INSERT INTO late SELECT i::text, ${filling}, 0 FROM generate_series(1, ${count}) i`;
      bench = await FeedBench.open(postgres, { schema, tables: [MAPPING] });
      bench.start();
      await bench.synced();
      await bench.stopFeed();
      let stopped = false;
      const writer = async (id: number): Promise<void> => {
        const client = new pg.Client({ connectionString: bench.url });
        await client.connect();
        for (let round = 0; !stopped; round++) {
          const key = 1 + ((round * 37 + id * 500) % count);
          await client.query(`UPDATE late SET n = n + 1 WHERE k = '${key}'`);
          if (round % 5 === 0) await client.query(`DELETE FROM late WHERE k = '${key + 1}'`);
          if (round % 7 === 0) await client.query(`UPDATE late SET k = 'moved-${id}-${round}' WHERE k = '${key + 2}'`);
          if (round % 3 === 0)
            await client.query(`INSERT INTO late VALUES ('${key + 1}', 'new', ${round}) ON CONFLICT DO NOTHING`);
          if (round % 4 === 0) await client.query(`UPDATE kv SET v = '${id}-${round}'`);
        }
        await client.end();
      };
      const writers = Promise.all([writer(1), writer(2)]);
      const late = { table: 'public.late', database: 'default', key: 'late/{k}', value: { json: 'all' as const } };
      const copied = bench.status.rowsCopied;
      bench.start({ tables: [MAPPING, late] });
      await eventually('the new table is copied', () =>
        bench.logged.some((line) => /table copied .*public\.late/.test(line)),
      );
      await new Promise((resolve) => setTimeout(resolve, 200));
      stopped = true;
      await writers;
      await bench.synced();
      const found = await bench.sql.query<{ k: string; v: string }>(
        `SELECT 'late/' || k AS k, json_build_object('k', k, 'v', v, 'n', n)::text AS v FROM late`,
      );
      const wanted = Object.fromEntries(found.rows.map(({ k, v }) => [k, JSON.parse(v) as unknown]));
      const records = Object.entries(bench.records()).filter(([key]) => key.startsWith('late/'));
      assert.deepEqual(Object.fromEntries(records.map(([key, text]) => [key, JSON.parse(text) as unknown])), wanted);
      assert.equal(
        bench.logged.filter((line) => /table copied .*public\.kv/.test(line)).length,
        copied,
        'the other was left alone',
      );
      assert.equal(bench.status.failures, 0);
    });
  }

  it('a large value that is not sent is not taken from a record of the mapping before', async () => {
    const schema = `CREATE TABLE kv (k int PRIMARY KEY, v text, w text, n int);
      ALTER TABLE kv ALTER v SET STORAGE EXTERNAL, ALTER w SET STORAGE EXTERNAL;
      INSERT INTO kv SELECT i, 'v' || repeat('a', 3000), 'w' || repeat('b', 3000), 0 FROM generate_series(1, 4000) i`;
    bench = await FeedBench.open(postgres, { schema, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    await bench.stopFeed();
    bench.start({ tables: [{ ...MAPPING, value: { column: 'w' } }] });
    await eventually('it copies', () => (bench.status.copy?.rows ?? 0) > 0);
    await bench.sql.query('UPDATE kv SET n = 1 WHERE k > 2000');
    await bench.synced(30_000);
    const values = Object.values(bench.records());
    assert.equal(values.length, 4000);
    assert.equal(values.filter((value) => !value.startsWith('w')).length, 0, bench.logged.join('\n'));
  });

  it('a copy that was interrupted goes on with the tables that are left', async () => {
    const schema = `${KV}; CREATE TABLE more (k text PRIMARY KEY, v text); INSERT INTO kv VALUES ('a', '1');
      INSERT INTO more SELECT i::text, i FROM generate_series(1, 30000) i`;
    const more = { table: 'public.more', database: 'default', key: 'more/{k}', value: { column: 'v' } };
    bench = await FeedBench.open(postgres, { schema, tables: [MAPPING, more] });
    bench.start();
    await eventually('the first table is copied', () => bench.status.copy?.tablesDone === 1);
    await bench.stopFeed();
    await bench.sql.query(`UPDATE kv SET v = '2'; DELETE FROM more WHERE k::int <= 100`);
    bench.start();
    await bench.synced();
    assert.equal(bench.logged.filter((line) => /table copied .*public\.kv/.test(line)).length, 1);
    assert.equal(Object.keys(bench.records()).length, 29_901);
    assert.equal(bench.value('kv/a')?.toString(), '2');
  });

  it('ranges cover every page once, and the last has no end', () => {
    assert.deepEqual(pageRanges(0, 0, 4), [{ from: 0, to: undefined, endPage: 0 }]);
    assert.deepEqual(pageRanges(0, 4, 4), [{ from: 0, to: undefined, endPage: 4 }]);
    const later = [
      { from: 4, to: 8, endPage: 8 },
      { from: 8, to: undefined, endPage: 9 },
    ];
    assert.deepEqual(pageRanges(0, 9, 4), [{ from: 0, to: 4, endPage: 4 }, ...later]);
    assert.deepEqual(pageRanges(4, 9, 4), later);
    assert.deepEqual(pageRanges(9, 9, 4), [{ from: 9, to: undefined, endPage: 9 }]);
    assert.deepEqual(pageRanges(9, 3, 4), [{ from: 9, to: undefined, endPage: 9 }]);
  });
});
