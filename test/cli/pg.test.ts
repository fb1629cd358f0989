/** `tokaido pg` with a root, an edge and a Postgres: what it says before the feed runs, and what it finds afterwards. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type pg from 'pg';
import { TokaidoClient } from '../../src/client/client.js';
import { connectSql } from '../../src/feeds/postgres/connection.js';
import { verifyTable } from '../../src/feeds/postgres/verify.js';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { TestPostgres } from '../support/postgres.js';

describe('tokaido pg', () => {
  let postgres: TestPostgres;
  let cluster: Cluster;
  let sql: pg.Client;
  let root: ClusterNode;
  let edge: ClusterNode;
  let client: TokaidoClient;
  const table = { table: 'public.kv', database: 'kv', key: 'kv/{k}', value: { column: 'v' } };
  before(async () => {
    postgres = await TestPostgres.start();
    sql = await postgres.connect();
    await sql.query(
      `CREATE TABLE kv (k text PRIMARY KEY, v text, until timestamptz);
       INSERT INTO kv SELECT 'k' || i, 'v' || i FROM generate_series(1, 2500) i;
       UPDATE kv SET v = NULL WHERE k = 'k1'; UPDATE kv SET until = '2001-01-01' WHERE k = 'k2'; ANALYZE kv`,
    );
    cluster = await Cluster.create();
    root = await cluster.add({
      name: 'root',
      role: 'root',
      config: {
        databases: ['first', 'kv'],
        postgres: { connection: postgres.url, tables: [{ ...table, expires: { column: 'until' } }] },
      },
    });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config: { databases: ['first', 'kv'] } });
    client = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}` });
  });
  after(async () => {
    client.close();
    await sql.end();
    await cluster.close();
    await postgres.stop();
  });

  const run = async (command: string, ...flags: string[]) => {
    return await tokaido(['pg', command, '--config', join(root.folder, 'node.yaml'), ...flags]);
  };
  const verify = async (...flags: string[]) =>
    await run('verify', '--server', `127.0.0.1:${edge.clientPort}`, ...flags);

  it('check says what the feed would do, before there is anything', async () => {
    const checked = await run('check', '--samples', '2500');
    assert.deepEqual([checked.code, checked.err], [0, '']);
    const said = checked.out.toString();
    assert.match(
      said,
      /^public\.kv -> database kv, keys kv\/\{k\}\n {2}about 2500 rows; not published yet: k, v, until\n/,
    );
    assert.match(said, /\n {2}\(k=k3, v=v3, until=NULL\)\n {4}kv\/k3 = v3\n/);
    assert.match(said, /\n {2}\(k=k1, v=NULL, until=NULL\)\n {4}no record: there is no value\n/);
    assert.match(said, /kv\/k2 = v2, expires 2001-01-01T00:00:00\.000Z/);
    assert.equal((await sql.query('SELECT 1 FROM pg_publication')).rowCount, 0, 'and changes nothing');
  });

  it('check names everything that is wrong, and what mends it', async () => {
    const wrong = await cluster.add({
      name: 'wrong',
      role: 'root',
      config: {
        databases: ['a', 'b', 'c'],
        postgres: {
          connection: postgres.url,
          tables: [
            { ...table, database: 'a', value: { column: 'w' } },
            { ...table, database: 'b', table: 'public.none' },
            { ...table, database: 'c', key: '{v}' },
          ],
        },
      },
    });
    const config = join(wrong.folder, 'node.yaml');
    const { code, out } = await tokaido(['pg', 'check', '--config', config]);
    assert.equal(code, 1);
    const said = out.toString();
    assert.match(said, /PROBLEM: table public\.kv has no column w, which its mapping names/);
    assert.match(said, /PROBLEM: there is no table public\.none/);
    assert.match(said, /PROBLEM: the key of public\.kv uses v[^\n]*\n[^\n]*REPLICA IDENTITY FULL/);
    const { tables } = json(await tokaido(['pg', 'check', '--config', config, '--json'])) as unknown as {
      tables: { problems: unknown[] }[];
    };
    assert.deepEqual(
      tables.map(({ problems }) => problems.length),
      [1, 1, 1],
    );
  });

  it('check says which columns keep the stream from the binary form', async () => {
    await sql.query('CREATE TABLE coins (k text PRIMARY KEY, v money, n numeric)');
    const node = await cluster.add({
      name: 'binary',
      role: 'root',
      config: {
        databases: ['first', 'kv'],
        postgres: {
          connection: postgres.url,
          binary: true,
          tables: [table, { ...table, table: 'public.coins', database: 'first' }],
        },
      },
    });
    const { out } = await tokaido(['pg', 'check', '--config', join(node.folder, 'node.yaml')]);
    const lines = out
      .toString()
      .split('\n')
      .filter((line) => line.includes('as text'));
    assert.deepEqual(lines, ['  all values come as text: v would not be read in binary form (postgres.binary)']);
    await sql.query('DROP TABLE coins');
  });

  it('preview prints the first keys', async () => {
    const { code, out } = await run('preview', 'public.kv', '--limit', '4');
    assert.equal(code, 0);
    assert.match(out.toString(), /^(kv kv\/k\d+\n){3,4}$/);
    assert.equal((await run('preview', 'public.other')).code, 2);
  });

  it('verify finds nothing on an edge that is right, while rows change all the time', async () => {
    cluster.start(root);
    cluster.start(edge);
    await Promise.all([cluster.ready(root), cluster.ready(edge)]);
    const { rows } = await sql.query<{ lsn: string }>('SELECT pg_current_wal_lsn() AS lsn');
    await client.reach({ position: rows[0]?.lsn as string, waitMs: 20_000 }, { database: 'kv' });
    let isOver = false;
    const writing = (async () => {
      for (let i = 0; !isOver; i++)
        await sql.query(`UPDATE kv SET v = '${i}' WHERE k IN ('k7', 'k${100 + (i % 900)}')`);
    })();
    const { code, out, err } = await verify();
    isOver = true;
    await writing;
    assert.equal(err, '');
    assert.match(
      out.toString(),
      /^public\.kv -> kv at 0\/[0-9A-F]+: 2498 rows with a record, 0 missing, 0 different, 0 orphans\n$/,
    );
    assert.equal(code, 0);
  });

  it('verify asks for a thousand records at a time, and for no key twice when nothing differs', async () => {
    const edgeClient = new TokaidoClient({ server: `127.0.0.1:${edge.clientPort}` });
    const direct = await connectSql({ connection: postgres.url }, 'a test');
    let calls = 0;
    for (const name of ['call', 'getRecords'] as const) {
      const original = edgeClient[name].bind(edgeClient) as (...args: unknown[]) => unknown;
      const counted = (...args: unknown[]): unknown => {
        calls++;
        return original(...args);
      };
      Object.assign(edgeClient, { [name]: counted });
    }
    const mapping = { ...table, expires: { column: 'until' } };
    const { rows: publications } = await sql.query<{ pubname: string }>('SELECT pubname FROM pg_publication');
    const publication = publications[0]?.pubname as string;
    const report = await verifyTable({
      sql: direct,
      client: edgeClient,
      publication,
      mapping,
      nowMs: () => Date.now(),
    });
    edgeClient.close();
    await direct.end();
    assert.deepEqual([report.rows, report.missing, report.different, report.orphans], [2498, [], [], []]);
    assert.ok(calls <= 6, `${calls} calls for 2498 records`);
  });

  it('verify finds an expiration time that is not that of the row', async () => {
    const { rows } = await sql.query<{ k: string }>(
      `UPDATE kv SET until = '2040-01-01 00:00:00.7Z' WHERE k IN ('k8', 'k9') RETURNING k`,
    );
    assert.equal(rows.length, 2);
    assert.equal((await verify()).code, 0);
    const k8 = await client.get('kv/k8', { database: 'kv' });
    assert.equal(k8?.xtMs, Date.parse('2040-01-01T00:00:00Z'));
    await client.set('kv/k8', k8.value.toString(), { database: 'kv', xtMs: Date.parse('2041-01-01T00:00:00Z') });
    await client.set('kv/k9', k8.value.toString(), { database: 'kv' });
    const found = await verify('--json');
    assert.equal(found.code, 1);
    assert.deepEqual(json({ ...found, code: 0 }).different, ['kv/k8', 'kv/k9']);
    await sql.query(`UPDATE kv SET until = NULL WHERE k IN ('k8', 'k9')`);
    assert.equal((await verify()).code, 0);
  });

  it('verify lists what differs, removes orphans when asked, and copy mends the rest', async () => {
    await client.set('kv/k3', 'by hand', { database: 'kv' });
    await client.remove('kv/k4', { database: 'kv' });
    await client.set('kv/nobody', 'by hand', { database: 'kv' });
    const found = await verify('--json');
    assert.equal(found.code, 1);
    const { missing, different, orphans } = json({ ...found, code: 0 });
    assert.deepEqual([missing, different, orphans], [['kv/k4'], ['kv/k3'], ['kv/nobody']]);
    const text = await run('verify', '--server', `127.0.0.1:${root.clientPort}`, '--remove-orphans');
    assert.match(
      text.out.toString(),
      /1 missing, 1 different, 1 orphans\n {2}missing: kv\/k4\n {2}different: kv\/k3\n {2}orphans: kv\/nobody\n/,
    );
    assert.equal(await client.get('kv/nobody', { database: 'kv' }), undefined);
    await client.set('kv/nobody', 'again', { database: 'kv' });
    const admin = ['--admin', `127.0.0.1:${root.adminPort}`];
    assert.deepEqual(json(await tokaido(['pg', 'copy', 'public.kv', '--json', ...admin])), { tables: 1 });
    const deadline = performance.now() + 15_000;
    while ((await verify()).code !== 0) assert.ok(performance.now() < deadline, 'the copy mends it');
    const wrong = await tokaido(['pg', 'copy', 'public.none', ...admin]);
    assert.match(wrong.err, /table public\.none is not mapped\nhint: postgres\.tables has public\.kv/);
    const atEdge = await tokaido(['pg', 'copy', '--admin', `127.0.0.1:${edge.adminPort}`]);
    assert.match(atEdge.err, /no Postgres feed runs on this node/);
  });
});
