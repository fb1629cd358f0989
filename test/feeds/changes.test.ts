/** Row changes in a real Postgres, and what they do to the records. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { type BenchOptions, FeedBench } from '../support/feed-bench.js';
import { eventually } from '../support/local-runtime.js';
import { TestPostgres } from '../support/postgres.js';

const KV = 'CREATE TABLE kv (k text PRIMARY KEY, v text, n integer NOT NULL DEFAULT 0)';
const MAPPING = { table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } } as const;
/** Larger than what Postgres keeps in the row, and does not compress well: it is sent only when it changes. */
const BIG = `(SELECT string_agg(md5(i::text || 'big'), '') FROM generate_series(1, 400) i)`;

describe('the Postgres feed', () => {
  let postgres: TestPostgres;
  let bench: FeedBench | undefined;
  before(async () => {
    postgres = await TestPostgres.start();
  });
  afterEach(async () => {
    await bench?.close();
    bench = undefined;
  });
  after(async () => await postgres.stop());

  async function started(options: BenchOptions): Promise<FeedBench> {
    bench = await FeedBench.open(postgres, options);
    bench.start();
    await bench.synced();
    return bench;
  }

  it('carries inserts, updates, key changes and deletes', async () => {
    const feed = await started({ schema: KV, tables: [MAPPING] });
    const { sql } = feed;
    await sql.query(`INSERT INTO kv VALUES ('a', '1'), ('b', '2'), ('c', '3'), ('', 'empty key')`);
    await sql.query(`UPDATE kv SET v = '1b' WHERE k = 'a'`);
    await sql.query(`UPDATE kv SET k = 'moved' WHERE k = 'b'`);
    await sql.query(`DELETE FROM kv WHERE k = 'c'`);
    await feed.synced();
    assert.deepEqual(feed.records(), { '': 'empty key', a: '1b', moved: '2' });
  });

  it('small transactions that arrive together share one of the store, each seen whole', async () => {
    const feed = await started({ schema: KV, tables: [MAPPING] });
    const before = feed.store.ownPosition()?.sequence ?? 0;
    await feed.stopFeed();
    const seen = new Set<string>();
    feed.store.onCommit(() => seen.add(`${feed.value('left')} ${feed.value('right')}`));
    for (let i = 1; i <= 300; i++) {
      await feed.sql.query(`BEGIN; INSERT INTO kv VALUES ('left', '${i}') ON CONFLICT (k) DO UPDATE SET v = excluded.v;
        INSERT INTO kv VALUES ('right', '${i}') ON CONFLICT (k) DO UPDATE SET v = excluded.v; COMMIT`);
    }
    feed.start();
    await feed.synced();
    assert.deepEqual(feed.records(), { left: '300', right: '300' });
    for (const pair of seen) assert.match(pair, /^(\S+) \1$/);
    const used = (feed.store.ownPosition()?.sequence ?? 0) - before;
    assert.ok(used < 150, `${used} transactions`);
    assert.equal(feed.status.transactions, 300);
  });

  it('two rows that exchange their keys in one transaction exchange their records', async () => {
    const feed = await started({ schema: KV, tables: [MAPPING] });
    await feed.sql.query(`INSERT INTO kv VALUES ('a', 'A' || ${BIG}), ('b', 'B' || ${BIG})`);
    await feed.sql.query(
      `BEGIN; UPDATE kv SET k = 't' WHERE k = 'a'; UPDATE kv SET k = 'a' WHERE k = 'b'; UPDATE kv SET k = 'b' WHERE k = 't'; COMMIT`,
    );
    await feed.synced();
    assert.equal(feed.value('a')?.toString('utf8', 0, 1), 'B');
    assert.equal(feed.value('b')?.toString('utf8', 0, 1), 'A');
    assert.equal(Object.keys(feed.records()).length, 2);
  });

  it('a value that becomes NULL is a record removed; a key column that is NULL is a row without a record', async () => {
    const schema = 'CREATE TABLE kv (k text, v text); ALTER TABLE kv REPLICA IDENTITY FULL';
    const feed = await started({ schema, tables: [MAPPING] });
    await feed.sql.query(`INSERT INTO kv VALUES ('a', '1'), ('b', NULL), (NULL, '3'), ('d', '4'), (NULL, NULL)`);
    await feed.sql.query(`UPDATE kv SET v = NULL WHERE k = 'a'`);
    await feed.sql.query(`UPDATE kv SET k = NULL WHERE k = 'd'`);
    await feed.synced();
    assert.deepEqual(feed.records(), {});
    assert.equal(feed.status.skippedRows, 3);
    await feed.sql.query(`UPDATE kv SET k = 'c' WHERE v = '3'; UPDATE kv SET v = '5' WHERE k = 'b'`);
    await feed.synced();
    assert.deepEqual(feed.records(), { b: '5', c: '3' });
  });

  it('keys may hold any characters, and bytes from a bytea column', async () => {
    const schema = `${KV}; CREATE TABLE raw (id bytea PRIMARY KEY, v bytea)`;
    const raw = { table: 'public.raw', database: 'raw', key: 'raw:{id}', value: { column: 'v' } };
    const feed = await started({ schema, tables: [{ ...MAPPING, key: 'kv:{k}' }, raw], databases: ['default', 'raw'] });
    const odd = 'ü/%20 "x"\t\n{k}\\🚄';
    await feed.sql.query('INSERT INTO kv VALUES ($1, $1)', [odd]);
    const bytes = Buffer.from([0, 255, 123, 0, 10]);
    await feed.sql.query('INSERT INTO raw VALUES ($1, $1)', [bytes]);
    await feed.synced();
    assert.equal(feed.value(`kv:${odd}`)?.toString('utf8'), odd);
    assert.deepEqual(feed.value(Buffer.concat([Buffer.from('raw:'), bytes]), 'raw'), bytes);
  });

  it('a truncate empties its tables only, several at once and by cascade', async () => {
    const schema = `CREATE TABLE a (k text PRIMARY KEY, v text); CREATE TABLE b (k text PRIMARY KEY REFERENCES a, v text);
      CREATE TABLE c (k text PRIMARY KEY, v text);
      INSERT INTO a VALUES ('1', 'a'); INSERT INTO b VALUES ('1', 'b'); INSERT INTO c VALUES ('1', 'c')`;
    const table = (name: string) => ({ ...MAPPING, table: `public.${name}`, key: `${name}/{k}` });
    const feed = await started({ schema, tables: [table('a'), table('b'), table('c')] });
    assert.deepEqual(feed.records(), { 'a/1': 'a', 'b/1': 'b', 'c/1': 'c' });
    await feed.sql.query('TRUNCATE a CASCADE');
    await feed.synced();
    assert.deepEqual(feed.records(), { 'c/1': 'c' });
    await feed.sql.query(`INSERT INTO a VALUES ('2', 'a2')`);
    await feed.sql.query(`BEGIN; TRUNCATE a, b, c; INSERT INTO c VALUES ('3', 'c3'); COMMIT`);
    await feed.synced();
    assert.deepEqual(feed.records(), { 'c/3': 'c3' });
  });

  for (const identity of ['DEFAULT', 'FULL'] as const) {
    it(`large values that an update does not send are kept (replica identity ${identity})`, async () => {
      const schema = `CREATE TABLE big (k text PRIMARY KEY, v text, j jsonb, n bigint); ALTER TABLE big REPLICA IDENTITY ${identity}`;
      const tables = [
        { table: 'public.big', database: 'default', key: '{k}', value: { column: 'v' } },
        { table: 'public.big', database: 'json', key: '{k}', value: { json: 'all' as const } },
      ];
      const feed = await started({ schema, tables, databases: ['default', 'json'] });
      const number = '12345678901234567890.5';
      const j = `jsonb_build_object('n', ${number}::numeric, 'text', ${BIG})`;
      await feed.sql.query(`INSERT INTO big VALUES ('a', ${BIG}, ${j}, 1)`);
      await feed.sql.query(`UPDATE big SET n = 2`);
      await feed.sql.query(`UPDATE big SET k = 'b', n = 3`);
      await feed.synced();
      const { rows } = await feed.sql.query<{ v: string; j: { text: string } }>('SELECT v, j FROM big');
      assert.deepEqual(feed.records(), { b: rows[0]?.v });
      const text = feed.value('b', 'json')?.toString('utf8') as string;
      const row = JSON.parse(text) as { k: string; v: string; j: { text: string }; n: number };
      assert.deepEqual(Object.keys(row), ['k', 'v', 'j', 'n']);
      assert.equal(row.v, rows[0]?.v);
      assert.equal(row.j.text, rows[0]?.j.text);
      assert.equal(row.n, 3);
      assert.ok(text.includes(`"n": ${number}`), 'no digit of a number inside json is lost');
      assert.equal(feed.value('a', 'json'), undefined);
      assert.equal(feed.status.skippedRows, 0);
    });
  }

  it('records expire when their column says, never for NULL and infinity', async () => {
    const schema = 'CREATE TABLE kv (k text PRIMARY KEY, v text, e timestamptz)';
    const feed = await started({ schema, tables: [{ ...MAPPING, expires: { column: 'e' } }] });
    await feed.sql.query(`INSERT INTO kv VALUES ('null', '1', NULL), ('infinity', '1', 'infinity'), ('past', '1', now() - interval '1 s'),
      ('-infinity', '1', '-infinity'), ('old', '1', '1969-01-01'), ('bc', '1', '0044-03-15 BC'), ('far', '1', '12026-01-01'),
      ('2100', '1', '2100-01-01 00:00:00.5+02'), ('soon', '1', now() + interval '1500 ms')`);
    await feed.synced();
    assert.deepEqual(Object.keys(feed.records()), ['2100', 'far', 'infinity', 'null', 'soon']);
    const xt = (key: string) => feed.store.get('default', Buffer.from(key))?.xtMs;
    assert.equal(xt('2100'), Date.parse('2099-12-31T22:00:00.5Z'));
    assert.equal(xt('null'), 0);
    assert.equal(xt('infinity'), 0);
    await eventually('the record expires', () => feed.value('soon') === undefined, 3000);
    await feed.sql.query(`UPDATE kv SET e = now() + interval '1 h' WHERE k IN ('past', 'soon')`);
    await feed.synced();
    assert.deepEqual(Object.keys(feed.records()), ['2100', 'far', 'infinity', 'null', 'past', 'soon']);
  });

  it('a record that had expired comes back whole when only its expiry changes, large value included', async () => {
    const schema = 'CREATE TABLE kv (k text PRIMARY KEY, v text, e timestamptz)';
    const feed = await started({ schema, tables: [{ ...MAPPING, expires: { column: 'e' } }] });
    await feed.sql.query(
      `INSERT INTO kv SELECT i::text, i || ${BIG}, now() - interval '1 h' FROM generate_series(1, 20) i`,
    );
    await feed.synced();
    assert.deepEqual(feed.records(), {});
    const logged = feed.store.log.next;
    await feed.sql.query(`UPDATE kv SET e = now() + interval '1 h' WHERE k::int <= 10`);
    await feed.sql.query(`BEGIN; UPDATE kv SET e = NULL WHERE k = '11'; DELETE FROM kv WHERE k = '11'; COMMIT`);
    await feed.synced();
    const { rows } = await feed.sql.query<{ k: string; v: string }>('SELECT k, v FROM kv WHERE k::int <= 10');
    assert.deepEqual(feed.records(), Object.fromEntries(rows.map(({ k, v }) => [k, v])));
    assert.equal(feed.store.log.next - logged, 1, 'the first transaction once, the second not at all');
    assert.equal(feed.status.lastError, undefined);
  });

  it('a row as JSON loses nothing, and reads the same from the copy and from the stream', async () => {
    const schema = `CREATE DOMAIN whole AS integer; CREATE DOMAIN bytes AS bytea; CREATE TYPE mood AS ENUM ('fine', 'so, so');
      CREATE TABLE t (id whole PRIMARY KEY, b boolean, i2 smallint, i8 bigint, num numeric, f float8, j json, jb jsonb,
        ts timestamptz, d date, raw bytes, ints integer[], texts text[], nested integer[][], moods mood[], js jsonb[],
        twice integer GENERATED ALWAYS AS (id * 2) STORED);
      INSERT INTO t VALUES (1, true, -3, 9007199254740993, 123456789012345678901234567890.123456789, 1e-7,
        '{"big": 12345678901234567890, "x": 1.0}', '{"n": 0.10000000000000000001}', '2026-11-23 21:00:00.5+02', '2026-11-23',
        '\\x00ff', '{1,NULL,3}', '{"a,b","q\\"uo\\\\te",NULL,"NULL",""}', '{{1,2},{3,4}}', '{fine,"so, so"}',
        array['{"k": [1]}']::jsonb[]), (2, NULL, NULL, 5, 'NaN', 'Infinity', NULL, NULL, 'infinity', NULL, NULL, '{}', NULL, NULL, NULL, NULL)`;
    const all = { table: 'public.t', database: 'default', key: '{id}', value: { json: 'all' as const } };
    const some = { table: 'public.t', database: 'some', key: '{id}', value: { json: ['f', 'id'] } };
    const raw = { table: 'public.t', database: 'raw', key: '{id}', value: { column: 'raw' } };
    const feed = await started({ schema, tables: [all, some, raw], databases: ['default', 'some', 'raw'] });
    const copied = feed.records();
    assert.deepEqual(JSON.parse(copied['1'] as string), {
      id: 1,
      b: true,
      i2: -3,
      i8: '9007199254740993',
      num: '123456789012345678901234567890.123456789',
      f: 1e-7,
      j: { big: Number('12345678901234567890'), x: 1 },
      jb: { n: 0.1 },
      ts: '2026-11-23T19:00:00.5Z',
      d: '2026-11-23',
      raw: 'AP8=',
      ints: [1, null, 3],
      texts: ['a,b', 'q"uo\\te', null, 'NULL', ''],
      nested: [
        [1, 2],
        [3, 4],
      ],
      moods: ['fine', 'so, so'],
      js: [{ k: [1] }],
    });
    assert.ok(copied['1']?.includes('12345678901234567890'), 'json numbers keep their digits');
    assert.ok(copied['1']?.includes('0.10000000000000000001'));
    const second = JSON.parse(copied['2'] as string) as Record<string, unknown>;
    assert.deepEqual(
      [second.i8, second.num, second.f, second.ts, second.b, second.ints],
      [5, 'NaN', 'Infinity', 'infinity', null, []],
    );
    assert.equal(feed.records('some')['1'], '{"f":1e-07,"id":1}');
    assert.deepEqual(feed.value('1', 'raw'), Buffer.from([0, 255]));
    // The same rows again, now through the stream.
    await feed.sql.query(
      'CREATE TEMP TABLE kept AS SELECT * FROM t; ALTER TABLE kept DROP COLUMN twice; DELETE FROM t',
    );
    await feed.synced();
    assert.deepEqual(feed.records(), {});
    await feed.sql.query('INSERT INTO t SELECT * FROM kept');
    await feed.synced();
    assert.deepEqual(feed.records(), copied);
    assert.deepEqual(feed.value('1', 'raw'), Buffer.from([0, 255]));
  });

  it('invariant 12: a transaction becomes visible whole', async () => {
    const feed = await started({ schema: KV, tables: [MAPPING] });
    await feed.sql.query(`INSERT INTO kv SELECT 'k' || i, '0' FROM generate_series(1, 50) i`);
    await feed.synced();
    let torn = 0;
    let looks = 0;
    const stopWatching = feed.store.onCommit(() => {
      looks++;
      if (new Set(Object.values(feed.records())).size !== 1) torn++;
    });
    for (let round = 1; round <= 40; round++) {
      await feed.sql.query('BEGIN');
      await feed.sql.query(`UPDATE kv SET v = '${round}' WHERE k < 'k3'`);
      await feed.sql.query(`UPDATE kv SET v = '${round}' WHERE k >= 'k3'`);
      await feed.sql.query('COMMIT');
    }
    await feed.synced();
    stopWatching();
    assert.equal(torn, 0);
    assert.ok(looks >= 5, `${looks} commits were looked at`);
    assert.equal(feed.value('k1')?.toString(), '40');
  });

  it('aborted transactions and savepoints leave nothing', async () => {
    const feed = await started({ schema: KV, tables: [MAPPING] });
    await feed.sql.query(`BEGIN; INSERT INTO kv VALUES ('aborted', '1'); ROLLBACK`);
    await feed.sql.query(
      `BEGIN; INSERT INTO kv VALUES ('a', '1'); SAVEPOINT s; INSERT INTO kv VALUES ('undone', '1'); UPDATE kv SET v = '2' WHERE k = 'a';
       ROLLBACK TO s; INSERT INTO kv VALUES ('b', '1'); RELEASE s; COMMIT`,
    );
    await feed.synced();
    assert.deepEqual(feed.records(), { a: '1', b: '1' });
    assert.equal(feed.status.changes, 2);
  });

  it('a transaction at the limit stays whole; one beyond it is cut, and that is said', async () => {
    const config = { maxTransactionChanges: 100 };
    const feed = await started({ schema: KV, tables: [MAPPING], config });
    const before = feed.store.log.next;
    await feed.sql.query(`INSERT INTO kv SELECT 'a' || i, 'x' FROM generate_series(1, 100) i`);
    await feed.synced();
    assert.equal(feed.status.cutTransactions, 0);
    assert.ok(feed.store.log.next > before);
    await feed.sql.query(`INSERT INTO kv SELECT 'b' || i, 'x' FROM generate_series(1, 250) i`);
    await feed.synced();
    assert.equal(feed.status.cutTransactions, 1);
    assert.equal(Object.keys(feed.records()).length, 350);
    assert.equal(feed.logged.filter((line) => line.includes('exceeds the limits')).length, 1);
  });

  it('rows of a partitioned table come under its own name, moves between partitions included', async () => {
    const schema = `CREATE TABLE kv (k text PRIMARY KEY, v text) PARTITION BY RANGE (k);
      CREATE TABLE kv1 PARTITION OF kv FOR VALUES FROM ('a') TO ('m'); CREATE TABLE kv2 PARTITION OF kv FOR VALUES FROM ('m') TO ('z');
      INSERT INTO kv VALUES ('a', '1')`;
    const feed = await started({ schema, tables: [MAPPING] });
    await feed.sql.query(`INSERT INTO kv VALUES ('b', '2'); UPDATE kv SET k = 'n' WHERE k = 'b'`);
    await feed.synced();
    assert.deepEqual(feed.records(), { a: '1', n: '2' });
  });
});
