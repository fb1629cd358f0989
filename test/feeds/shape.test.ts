/**
 * Tables that change in shape while they are fed. Postgres streams nothing of that, so each case ends with the question
 * whether the records are what the table says now, for all its rows.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { jsonMembers } from '../../src/feeds/postgres/values.js';
import { type BenchOptions, FeedBench } from '../support/feed-bench.js';
import { eventually } from '../support/local-runtime.js';
import { editions, TestPostgres } from '../support/postgres.js';

const KV = 'CREATE TABLE kv (k text PRIMARY KEY, v text, n integer NOT NULL DEFAULT 0)';
const ROWS = `INSERT INTO kv SELECT 'k' || i, 'v' || i, i FROM generate_series(1, 20) i`;
const JSON_ROWS = { table: 'public.kv', database: 'default', key: 'kv/{k}', value: { json: 'all' as const } };
const VALUES = { table: 'public.kv', database: 'default', key: 'kv/{k}', value: { column: 'v' } };

for (const { name, options } of editions()) {
  describe(`tables that change in shape on ${name}`, () => {
    let postgres: TestPostgres;
    let bench: FeedBench;
    before(async () => {
      postgres = await TestPostgres.start(options);
    });
    afterEach(async () => await bench.close());
    after(async () => await postgres.stop());

    async function started(bench_: BenchOptions): Promise<void> {
      bench = await FeedBench.open(postgres, bench_);
      bench.start();
      await bench.synced();
    }

    /** Waits until the records equal what `query` says: rows of key and value. */
    async function equals(query: string, database = 'default'): Promise<void> {
      const { rows } = await bench.sql.query<string[]>({ text: query, rowMode: 'array' } as never);
      const wanted = Object.fromEntries(rows as unknown as [string, string][]);
      const same = (): boolean => {
        const found = bench.records(database);
        const keys = Object.keys(wanted);
        return keys.length === Object.keys(found).length && keys.every((key) => isSame(found[key], wanted[key]));
      };
      await eventually('the records equal the rows', same, 10_000).catch(() => {
        assert.deepEqual(bench.records(database), wanted, bench.logged.join('\n'));
      });
    }

    /** Texts, or the same JSON however it is spaced. */
    function isSame(a: string | undefined, b: string | undefined): boolean {
      if (a === b || a === undefined || b === undefined) return a === b;
      try {
        assert.deepEqual(JSON.parse(a), JSON.parse(b));
        return true;
      } catch {
        return false;
      }
    }

    const AS_JSON = `SELECT 'kv/' || k, to_jsonb(kv)::text FROM kv`;
    const AS_VALUES = `SELECT 'kv/' || k, v FROM kv`;

    const changes: readonly (readonly [string, string])[] = [
      ['a column added', 'ALTER TABLE kv ADD COLUMN extra text'],
      ['a column added with a default', `ALTER TABLE kv ADD COLUMN extra text NOT NULL DEFAULT 'x'`],
      ['a column dropped', 'ALTER TABLE kv DROP COLUMN n'],
      ['a column renamed', 'ALTER TABLE kv RENAME COLUMN n TO number'],
      ['a column of another type', 'ALTER TABLE kv ALTER COLUMN n TYPE text USING n || $$!$$'],
      [
        'a column of a type that is new',
        `CREATE TYPE mood AS ENUM ('sad', 'ok'); ALTER TABLE kv ADD m mood[] DEFAULT '{ok}'`,
      ],
      [
        'a column that goes and comes back with other values',
        `ALTER TABLE kv DROP COLUMN n; ALTER TABLE kv ADD COLUMN n integer NOT NULL DEFAULT 7`,
      ],
    ];
    for (const [what, statement] of changes) {
      it(`${what}: all rows have it, whether they change or not`, async () => {
        await started({ schema: `${KV}; ${ROWS}`, tables: [JSON_ROWS] });
        await bench.sql.query(statement);
        await equals(AS_JSON);
        await bench.sql.query(`UPDATE kv SET v = 'after' WHERE k < 'k15'; DELETE FROM kv WHERE k = 'k2'`);
        await equals(AS_JSON);
        assert.equal(bench.status.failures, 0, 'a change of shape is no failure');
      });
    }

    it('the shape changes in the midst of a transaction that also writes', async () => {
      await started({ schema: `${KV}; ${ROWS}`, tables: [JSON_ROWS] });
      await bench.sql.query(
        `BEGIN; INSERT INTO kv VALUES ('a', '1', 1); ALTER TABLE kv ADD COLUMN extra text DEFAULT 'x';
         INSERT INTO kv VALUES ('b', '2', 2, 'y'); ALTER TABLE kv DROP COLUMN n; UPDATE kv SET v = 'u' WHERE k = 'a'; COMMIT`,
      );
      await equals(AS_JSON);
    });

    it('the shape changes again and again while rows change, and while nobody is there to see it', async () => {
      await started({ schema: `${KV}; ${ROWS}`, tables: [JSON_ROWS] });
      for (let round = 0; round < 4; round++) {
        if (round === 2) await bench.stopFeed();
        await bench.sql.query(
          `UPDATE kv SET v = 'a${round}'; ALTER TABLE kv ADD COLUMN c${round} integer DEFAULT ${round}`,
        );
        await bench.sql.query(
          `UPDATE kv SET v = 'b${round}' WHERE k < 'k3'; INSERT INTO kv VALUES ('r${round}', 'x', 1)`,
        );
        await bench.sql.query(`DELETE FROM kv WHERE k = 'k${round + 1}'`);
      }
      bench.start();
      await bench.synced();
      await equals(AS_JSON);
    });

    it('a table that is dropped and made anew is copied anew', async () => {
      await started({ schema: `${KV}; ${ROWS}`, tables: [VALUES] });
      await bench.sql.query(`BEGIN; DROP TABLE kv; ${KV}; INSERT INTO kv VALUES ('new', '1'); COMMIT`);
      await equals(AS_VALUES);
      await bench.sql.query(`INSERT INTO kv VALUES ('newer', '2')`);
      await equals(AS_VALUES);
    });

    it('a table that was out of the publication for a while', async () => {
      await started({ schema: `${KV}; ${ROWS}`, tables: [VALUES] });
      await bench.stopFeed();
      await bench.sql.query(`ALTER PUBLICATION ${bench.slot} DROP TABLE kv; UPDATE kv SET v = 'unseen' WHERE k = 'k1'`);
      await bench.sql.query(`DELETE FROM kv WHERE k = 'k2'; ALTER PUBLICATION ${bench.slot} ADD TABLE kv`);
      bench.start();
      await equals(AS_VALUES);
    });

    it('a snapshot that is lost before its copy began is taken anew, and only that table is copied', async () => {
      await started({ schema: `${KV}; ${ROWS}; CREATE TABLE other (k text PRIMARY KEY)`, tables: [VALUES] });
      const killer = await bench.connect();
      // Each connection that copies, as soon as it is there, for a second.
      const killing = killer.query(`DO $$ BEGIN
        WHILE clock_timestamp() < now() + interval '1 second' LOOP
          PERFORM pg_stat_clear_snapshot();
          PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'copy of %' AND datname = current_database();
        END LOOP; END $$`);
      await bench.sql.query(`ALTER TABLE kv ADD COLUMN extra text DEFAULT 'x'`);
      await killing;
      await killer.end();
      await bench.failure(/trying again .*(terminat|does not exist|invalid snapshot|not queryable)/);
      await equals(AS_VALUES);
      await bench.synced();
      assert.equal(bench.logged.filter((line) => line.startsWith('slot made')).length, 1, bench.logged.join('\n'));
    });

    it('a publication that was dropped and made anew', async () => {
      await started({ schema: `${KV}; ${ROWS}`, tables: [VALUES] });
      await bench.stopFeed();
      await bench.sql.query(`INSERT INTO kv VALUES ('seen', '1'); DROP PUBLICATION ${bench.slot}`);
      await bench.sql.query(`UPDATE kv SET v = 'unseen' WHERE k = 'k1'`);
      await bench.sql.query(`CREATE PUBLICATION ${bench.slot} FOR TABLE kv`);
      await bench.sql.query(`INSERT INTO kv VALUES ('after', '1')`);
      bench.start();
      await bench.synced();
      await equals(AS_VALUES);
    });

    it('a replica identity that lacks a column of the key is refused by name, and made good when it is mended', async () => {
      const schema = `CREATE TABLE kv (k text PRIMARY KEY, v text, u integer UNIQUE NOT NULL); ALTER TABLE kv REPLICA IDENTITY FULL;
        INSERT INTO kv VALUES ('a', '1', 1), ('b', '2', 2)`;
      await started({ schema, tables: [VALUES] });
      await bench.sql.query(`ALTER TABLE kv REPLICA IDENTITY USING INDEX kv_u_key; DELETE FROM kv WHERE k = 'a'`);
      await bench.failure(/uses k, which Postgres does not send/);
      assert.deepEqual(Object.keys(bench.records()), ['kv/a', 'kv/b'], 'it goes on serving what it has');
      await bench.sql.query('ALTER TABLE kv REPLICA IDENTITY DEFAULT');
      await equals(AS_VALUES);
      await bench.sql.query(`DELETE FROM kv WHERE k = 'b'`);
      await equals(AS_VALUES);
    });

    it('partitions attached, detached, truncated and dropped', async () => {
      const schema = `CREATE TABLE kv (k text PRIMARY KEY, v text) PARTITION BY RANGE (k);
        CREATE TABLE kv1 PARTITION OF kv FOR VALUES FROM ('a') TO ('g'); CREATE TABLE kv2 PARTITION OF kv FOR VALUES FROM ('g') TO ('m');
        CREATE TABLE kv3 (k text PRIMARY KEY, v text); INSERT INTO kv VALUES ('a', '1'), ('h', '2'); INSERT INTO kv3 VALUES ('m', '3')`;
      await started({ schema, tables: [VALUES] });
      await equals(AS_VALUES);
      await bench.sql.query(`ALTER TABLE kv ATTACH PARTITION kv3 FOR VALUES FROM ('m') TO ('z')`);
      await equals(AS_VALUES);
      await bench.sql.query(`INSERT INTO kv VALUES ('n', '4'); UPDATE kv SET k = 'b' WHERE k = 'm'`);
      await equals(AS_VALUES);
      await bench.sql.query(`TRUNCATE kv1`);
      await equals(AS_VALUES);
      await bench.sql.query(`ALTER TABLE kv DETACH PARTITION kv2`);
      await equals(AS_VALUES);
      await bench.sql.query(`DROP TABLE kv3; INSERT INTO kv VALUES ('c', '5')`);
      await equals(AS_VALUES);
      assert.deepEqual(bench.records(), { 'kv/c': '5' });
    });

    it('a publication that sends partitions under their own names is refused with the SQL to run', async () => {
      const schema = `CREATE TABLE kv (k text PRIMARY KEY, v text) PARTITION BY RANGE (k);
        CREATE TABLE kv1 PARTITION OF kv FOR VALUES FROM ('a') TO ('z')`;
      bench = await FeedBench.open(postgres, { schema, tables: [VALUES] });
      await bench.sql.query(`CREATE PUBLICATION ${bench.slot} FOR TABLE kv`);
      bench.start();
      assert.match(
        await bench.failure(/under the names of its partitions/),
        /SET \(publish_via_partition_root = true\)/,
      );
      await bench.sql.query(`ALTER PUBLICATION ${bench.slot} SET (publish_via_partition_root = true)`);
      await bench.synced();
    });

    it('a partition with a replica identity of its own is refused with the SQL to run', async () => {
      const schema = `CREATE TABLE kv (k text, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k);
        CREATE TABLE kv1 PARTITION OF kv FOR VALUES FROM ('a') TO ('z'); ALTER TABLE kv REPLICA IDENTITY FULL`;
      bench = await FeedBench.open(postgres, { schema, tables: [VALUES] });
      bench.start();
      assert.match(
        await bench.failure(/partition kv1 .* has a replica identity of its own/),
        /kv1 REPLICA IDENTITY FULL/,
      );
      await bench.sql.query('ALTER TABLE kv1 REPLICA IDENTITY FULL');
      await bench.synced();
    });

    it('generated columns: a change of what they are made of arrives', async () => {
      const schema = `CREATE TABLE kv (k text PRIMARY KEY, v text, twice text GENERATED ALWAYS AS (v || v) STORED); INSERT INTO kv VALUES ('a', '1')`;
      await started({ schema, tables: [JSON_ROWS] });
      await bench.sql.query(`UPDATE kv SET v = '2'; INSERT INTO kv VALUES ('b', '3')`);
      await equals(`SELECT 'kv/' || k, jsonb_build_object('k', k, 'v', v)::text FROM kv`);
    });

    it('column lists and row filters of the publication hold for the copy and the stream', async (context) => {
      const schema = `CREATE TABLE kv (k text PRIMARY KEY, v text, n integer, secret text); ALTER TABLE kv REPLICA IDENTITY FULL;
        ALTER TABLE kv REPLICA IDENTITY DEFAULT; INSERT INTO kv SELECT 'k' || i, 'v' || i, i, 'hidden' FROM generate_series(1, 20) i`;
      const { rows } = await (async () => {
        bench = await FeedBench.open(postgres, { schema, tables: [JSON_ROWS] });
        return await bench.sql.query<{ v: string }>(`SELECT current_setting('server_version_num') AS v`);
      })();
      if (Number(rows[0]?.v) < 150_000) return context.skip('Postgres has both from 15 on');
      await bench.sql.query(`CREATE PUBLICATION ${bench.slot} FOR TABLE kv (k, v, n) WHERE (k < 'k5')`);
      bench.start();
      await bench.synced();
      const seen = (condition: string) =>
        `SELECT 'kv/' || k, jsonb_build_object('k', k, 'v', v, 'n', n)::text FROM kv WHERE ${condition}`;
      await equals(seen(`k < 'k5'`));
      await bench.sql.query(`UPDATE kv SET k = 'k9x' WHERE k = 'k1'; UPDATE kv SET k = 'k1x' WHERE k = 'k9'`);
      await bench.sql.query(
        `INSERT INTO kv VALUES ('k0', 'v', 1, 's'), ('k99', 'v', 1, 's'); DELETE FROM kv WHERE k = 'k2'`,
      );
      await bench.synced();
      await equals(seen(`k < 'k5'`));
      await bench.sql.query(`ALTER PUBLICATION ${bench.slot} SET TABLE kv (k, v, n) WHERE (k >= 'k5')`);
      await equals(seen(`k >= 'k5'`));
    });

    it('every built-in type reads the same from the copy and from the stream, in JSON and as a value', async () => {
      const types = await typesOf(postgres);
      assert.ok(types.length > 50, `${types.length} types`);
      const columns = types.map(({ type }, at) => `c${at} ${type}`).join(', ');
      const literals = types.map(({ sample, type }) => `${sample}::${type}`).join(', ');
      const schema = `CREATE TYPE mood AS ENUM ('so, so', 'ok'); CREATE TYPE pair AS (a integer, b text); CREATE DOMAIN money_like AS numeric(38, 9);
        CREATE TABLE kv (k text PRIMARY KEY, ${columns}, m mood, ms mood[], p pair, ps pair[], d money_like, ds money_like[]);
        INSERT INTO kv VALUES ('a', ${literals}, 'so, so', '{ok,"so, so",NULL}', '(1,"x,""y""")', array[row(1, 'a"b')::pair, NULL],
          12345678901234567890123456789.123456789, array[0.000000001, NULL]::money_like[])`;
      const value = types.map((_, at) => ({ ...VALUES, database: `c${at}`, value: { column: `c${at}` } }));
      const chosen = value.filter((_, at) => at % 10 === 0);
      const databases = ['default', ...chosen.map(({ database }) => database)];
      await started({ schema, tables: [JSON_ROWS, ...chosen], databases });
      const all = (): unknown[] => databases.map((database) => bench.records(database));
      const copied = all();
      const row = JSON.parse(bench.records()['kv/a'] as string) as Record<string, unknown>;
      assert.equal(row.d, '12345678901234567890123456789.123456789');
      assert.deepEqual(row.ds, ['0.000000001', null]);
      assert.deepEqual(row.ms, ['ok', 'so, so', null]);
      assert.deepEqual([row.p, row.ps], ['(1,"x,""y""")', ['(1,"a""b")', null]]);
      await bench.sql.query(`CREATE TEMP TABLE kept AS SELECT * FROM kv; DELETE FROM kv`);
      await bench.synced();
      assert.deepEqual(bench.records(), {});
      await bench.sql.query('INSERT INTO kv SELECT * FROM kept');
      await bench.synced();
      assert.deepEqual(all(), copied);
      const members = jsonMembers(bench.records()['kv/a'] as string) as Map<string, string>;
      for (const [at, { type }] of types.entries()) {
        const { rows } = await bench.sql.query<{ same: boolean }>(
          `SELECT $1::${type}::text = c${at}::text AS same FROM kv`,
          [textOf(members.get(`c${at}`) as string, type)],
        );
        assert.equal(rows[0]?.same, true, `Postgres reads back the ${type} ${members.get(`c${at}`)}`);
      }
    });
  });
}

interface TypeSample {
  readonly type: string;
  /** SQL literal. */
  readonly sample: string;
}

/** Every base, range and multirange type that a column can have, with a value that Postgres accepts for it. */
async function typesOf(postgres: TestPostgres): Promise<TypeSample[]> {
  const sql = await postgres.connect();
  const { rows } = await sql.query<{ type: string; kind: string }>(
    `SELECT format_type(oid, NULL) AS type, typtype AS kind FROM pg_type
     WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'
       AND typname NOT LIKE 'reg%' ORDER BY oid`,
  );
  const found: TypeSample[] = [];
  for (const { type } of rows) {
    for (const sample of SAMPLES) {
      const literal = `'${sample}'`;
      const works = await sql.query(`SELECT ${literal}::${type}`).then(
        () => true,
        () => false,
      );
      if (!works) continue;
      const column = await sql
        .query(`CREATE TEMP TABLE probe (c ${type}); INSERT INTO probe VALUES (${literal}); DROP TABLE probe`)
        .then(
          () => true,
          () => false,
        );
      if (column) found.push({ type, sample: literal });
      break;
    }
  }
  await sql.end();
  return found;
}

/** Tried in order: the first that a type accepts is its value. */
const SAMPLES = [
  '9007199254740993',
  '-1.5e-7',
  '32767',
  '2026-11-23 21:00:00.123456+02',
  '21:00:00.5',
  '1 year 2 mons -3 days 04:05:06.7',
  '<a>b &amp; c</a>',
  '{"a": [1.0, "ü"]}',
  '(1.5,-2)',
  '((1,2),(3,4))',
  '<(1,2),3>',
  '{1,-2,3}',
  '[(1,2),(3,4)]',
  '2001:db8::1',
  '08:00:2b:01:02:03',
  '08:00:2b:01:02:03:04:05',
  '16B374D848',
  '[1,5)',
  '[2026-01-01,2026-02-01)',
  '{[1,5),[7,9)}',
  '{[2026-01-01,2026-02-01)}',
  '101',
  'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
  '(0,1)',
  '1 2 3',
  '10:20:10,14',
  'x',
  't',
  '$.a[*]',
] as const;

/** A member of the JSON object, back in the text that Postgres takes. */
function textOf(member: string, type: string): string {
  if (type === 'json' || type === 'jsonb' || !member.startsWith('"')) return member;
  const text = JSON.parse(member) as string;
  return type === 'bytea' ? `\\x${Buffer.from(text, 'base64').toString('hex')}` : text;
}
