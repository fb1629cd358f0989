/** What can be wrong with the source: each is said with its name and what to do, and no password is ever logged. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { FeedBench } from '../support/feed-bench.js';
import { TestPostgres } from '../support/postgres.js';

const KV = 'CREATE TABLE kv (k text PRIMARY KEY, v text)';
const MAPPING = { table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } };
const SECRET = 'sesame-0pen';

describe('the Postgres feed says what is wrong', () => {
  let postgres: TestPostgres;
  let bench: FeedBench;
  let folder: string;
  before(async () => {
    postgres = await TestPostgres.start();
    folder = mkdtempSync(join(tmpdir(), 'tokaido-password-'));
  });
  afterEach(async () => {
    assert.ok(!bench.logged.join('\n').includes(SECRET), 'no password in the log');
    assert.ok(!bench.logged.join('\n').includes('secret'), 'no password in the log');
    assert.ok(!JSON.stringify(bench.status).includes('secret'), 'no password in the status');
    await bench.close();
  });
  after(async () => {
    rmSync(folder, { recursive: true });
    await postgres.stop();
  });

  const cases: readonly {
    readonly what: string;
    readonly schema?: string;
    readonly mapping?: Partial<Parameters<typeof FeedBench.open>[1]['tables'][number]>;
    readonly says: readonly RegExp[];
  }[] = [
    { what: 'a missing table', mapping: { table: 'public.kw' }, says: [/no table public\.kw/, /postgres\.tables/] },
    {
      what: 'a missing column',
      mapping: { value: { column: 'w' } },
      says: [/public\.kv has no column w/, /it has k, v/],
    },
    { what: 'a missing key column', mapping: { key: '{z}' }, says: [/uses z, which Postgres does not send/] },
    {
      what: 'a key that leaves out a part of the primary key',
      schema: 'CREATE TABLE kv (k text, l text, v text, PRIMARY KEY (k, l))',
      says: [/leaves out l of its primary key/, /REPLICA IDENTITY FULL/],
    },
    {
      what: 'REPLICA IDENTITY NOTHING',
      schema: `${KV}; ALTER TABLE kv REPLICA IDENTITY NOTHING`,
      says: [/identity is NOTHING/, /REPLICA IDENTITY FULL/],
    },
    { what: 'no primary key', schema: 'CREATE TABLE kv (k text, v text)', says: [/has no primary key/, /FULL/] },
    {
      what: 'an expiry column that is no time',
      mapping: { expires: { column: 'v' } },
      says: [/column v of table public\.kv is no time/, /timestamptz/],
    },
    {
      what: 'a generated column',
      schema: 'CREATE TABLE kv (k text PRIMARY KEY, w text, v text GENERATED ALWAYS AS (w) STORED)',
      says: [/no column v/, /generated columns are not replicated/],
    },
  ];
  for (const { what, schema = KV, mapping = {}, says } of cases) {
    it(what, async () => {
      bench = await FeedBench.open(postgres, { schema, tables: [{ ...MAPPING, ...mapping }] });
      bench.start();
      const line = await bench.failure(says[0] as RegExp);
      for (const pattern of says) assert.match(line, pattern);
      assert.match(line, /hint/);
    });
  }

  it('a publication that leaves out deletes', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    await bench.sql.query(`CREATE PUBLICATION ${bench.slot} FOR TABLE kv WITH (publish = 'insert')`);
    bench.start();
    assert.match(await bench.failure(/leaves out some kinds/), /ALTER PUBLICATION/);
  });

  it('a publication that is missing while create is off, with the SQL to run', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING], config: { create: false } });
    bench.start();
    assert.match(
      await bench.failure(/publication .* is missing/),
      /CREATE PUBLICATION .* FOR TABLE \\"public\\"\.\\"kv\\"/,
    );
    await bench.sql.query(`CREATE PUBLICATION ${bench.slot} FOR TABLE kv`);
    await bench.synced();
  });

  it('a slot of another plugin', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    await bench.sql.query(`SELECT pg_create_physical_replication_slot($1)`, [bench.slot]);
    bench.start();
    assert.match(await bench.failure(/belongs to another plugin/), /choose another postgres\.slot/);
  });

  const withPassword = (url: string, user: string, password: string): string =>
    url.replace('postgres:secret', `${user}:${password}`);

  it('a wrong password', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start({ connection: withPassword(bench.url, 'postgres', SECRET) });
    assert.match(await bench.failure(/password authentication failed/), /postgres\.passwordFile/);
  });

  it('no password at all', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start({ connection: bench.url.replace(':secret', '') });
    assert.match(await bench.failure(/cannot connect/), /asks for a password/);
  });

  it('a password file that is missing, that others can read, and one that is right', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    const file = join(folder, 'password');
    const connection = withPassword(bench.url, 'postgres', SECRET);
    bench.start({ connection, passwordFile: file });
    assert.match(await bench.failure(/cannot read the password file/), /ENOENT/);
    await bench.stopFeed();
    writeFileSync(file, 'secret\n', { mode: 0o644 });
    bench.start({ connection, passwordFile: file });
    assert.match(await bench.failure(/can be read by others/), /chmod 600/);
    await bench.stopFeed();
    rmSync(file);
    writeFileSync(file, 'secret\n', { mode: 0o600 });
    bench.start({ connection, passwordFile: file });
    await bench.synced();
  });

  it('a password command that fails, that is not there, that says nothing, and one that is right', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    const connection = withPassword(bench.url, 'postgres', SECRET);
    const node = (script: string): string[] => [process.execPath, '-e', script];
    for (const [passwordCommand, said] of [
      [node(`console.log('${SECRET}'); process.exit(7)`), /passwordCommand failed \(7\)/],
      [[join(folder, 'nothing')], /passwordCommand failed \(ENOENT\)/],
      [node(''), /passwordCommand printed nothing/],
    ] as const) {
      bench.start({ connection, passwordCommand });
      await bench.failure(said);
      await bench.stopFeed();
    }
    bench.start({ connection, passwordCommand: node(`console.log('secret')`) });
    await bench.synced();
    assert.ok(bench.logged.every((line) => !line.includes(SECRET)));
  });

  it('a slot for standbys is made where Postgres knows such, and refused by name where it does not', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    const { rows: version } = await bench.sql.query<{ v: string }>(`SELECT current_setting('server_version_num') AS v`);
    if (Number(version[0]?.v) < 170_000) {
      bench.start({ failover: true });
      assert.match(await bench.failure(/keeps no slots on standbys: 17 or later does/), /remove postgres\.failover/);
      assert.equal((await bench.sql.query('SELECT 1 FROM pg_replication_slots')).rowCount, 0);
      return;
    }
    const isKept = async (): Promise<unknown> => {
      const { rows } = await bench.sql.query<{ failover: boolean }>(
        'SELECT failover FROM pg_replication_slots WHERE slot_name = $1',
        [bench.slot],
      );
      return rows[0]?.failover;
    };
    bench.start();
    await bench.synced();
    assert.equal(await isKept(), false);
    await bench.stopFeed();
    // The slot that is there is made one.
    bench.start({ failover: true });
    await bench.synced();
    assert.equal(await isKept(), true);
    assert.ok(!bench.logged.some((line) => /copying everything again/.test(line)));
    await bench.stopFeed();
    await bench.dropSlot();
    bench.start({ failover: true });
    await bench.synced();
    assert.equal(await isKept(), true);
  });

  it('a standby is no source', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    const standby = await postgres.standby(`${bench.slot}_standby`);
    try {
      bench.start({ connection: bench.url.replace(`:${postgres.port}/`, `:${standby.port}/`) });
      assert.match(await bench.failure(/is a standby/), /name the primary in postgres\.connection/);
    } finally {
      await standby.stop();
      await bench.sql.query('SELECT pg_drop_replication_slot($1)', [`${bench.slot}_standby`]);
    }
  });

  it('a server that is not there, and a database that is not', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start({ connection: bench.url.replace(/127\.0\.0\.1:\d+/, 'localhost:1') });
    assert.match(await bench.failure(/localhost:1\/.*ECONNREFUSED/), /postgres\.connection/);
    await bench.stopFeed();
    bench.start({ connection: bench.url.replace(/[^/]*$/, 'nowhere') });
    assert.match(await bench.failure(/nowhere/), /check the database/);
  });

  it('a role without the right to read, then to replicate, then to publish; with them all it streams', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    const role = bench.slot;
    await bench.sql.query(`CREATE ROLE ${role} LOGIN PASSWORD '${SECRET}'`);
    bench.start({ connection: withPassword(bench.url, role, SECRET) });
    assert.match(await bench.failure(/may not read table public\.kv/), /GRANT SELECT ON/);
    await bench.sql.query(`GRANT SELECT ON kv TO ${role}`);
    assert.match(await bench.failure(/cannot prepare publication/), /have its owner run: CREATE PUBLICATION/);
    await bench.sql.query(`CREATE PUBLICATION ${role} FOR TABLE kv`);
    assert.match(
      await bench.failure(/permission denied to start WAL sender|must be superuser or replication/),
      /REPLICATION/,
    );
    await bench.sql.query(`ALTER ROLE ${role} REPLICATION`);
    await bench.synced();
    await bench.sql.query(`INSERT INTO kv VALUES ('a', '1')`);
    await bench.synced();
    assert.deepEqual(bench.records(), { a: '1' });
    await bench.stopFeed();
    await bench.sql.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  });

  it('a key beyond the limit stops the stream by name and loses nothing', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    await bench.stopFeed();
    await bench.sql.query(`INSERT INTO kv VALUES (repeat('k', 1025), 'x')`);
    // They arrive together, so that one commit could take them all.
    for (let i = 0; i < 50; i++) await bench.sql.query('INSERT INTO kv VALUES ($1, $1)', [`behind ${i}`]);
    bench.start();
    assert.match(await bench.failure(/a key of 1025 bytes/), /limits\.keyBytes/);
    assert.deepEqual(bench.records(), {});
  });
});

describe('a Postgres without logical replication', () => {
  it('is refused with the setting to change', async () => {
    const postgres = await TestPostgres.start({ settings: ['wal_level=replica'] });
    try {
      const bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
      bench.start();
      assert.match(await bench.failure(/wal_level = replica/), /ALTER SYSTEM SET wal_level = logical/);
      await bench.close();
    } finally {
      await postgres.stop();
    }
  });
});
