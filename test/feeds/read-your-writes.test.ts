/** Who commits in Postgres reads it back on an edge behind a relay, with Postgres's own LSN as the token. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type pg from 'pg';
import { TokaidoClient } from '../../src/client/client.js';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { TestPostgres } from '../support/postgres.js';

const FAR = 'FF/0';

describe('reading your own writes', () => {
  let postgres: TestPostgres;
  let cluster: Cluster;
  let sql: pg.Client;
  let relay: ClusterNode;
  let edge: ClusterNode;
  let client: TokaidoClient;
  before(async () => {
    postgres = await TestPostgres.start();
    sql = await postgres.connect();
    await sql.query(`CREATE TABLE kv (k text PRIMARY KEY, v text); CREATE TABLE other (t text)`);
    cluster = await Cluster.create();
    const tables = [{ table: 'public.kv', database: 'kv', key: '{k}', value: { column: 'v' } }];
    // Beats so rare that none comes in time: what moves must be told at once.
    const config = { databases: ['kv', 'mine'], replication: { heartbeatMs: 5000 } };
    const root = await cluster.add({
      name: 'root',
      role: 'root',
      config: { ...config, postgres: { connection: postgres.url, tables, heartbeatMs: '1h' } },
    });
    relay = await cluster.add({ name: 'relay', role: 'relay', upstreams: [root], config });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [relay], config });
    for (const node of [root, relay, edge]) cluster.start(node);
    await Promise.all([root, relay, edge].map(async (node) => await cluster.ready(node)));
    client = new TokaidoClient({ server: `127.0.0.1:${edge.clientPort}`, timeoutMs: 10_000 });
    await client.reach({ position: await lsn(), waitMs: 20_000 }, { database: 'kv' });
  });
  after(async () => {
    client.close();
    await sql.end();
    await cluster.close();
    await postgres.stop();
  });

  async function lsn(): Promise<string> {
    const { rows } = await sql.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
    return rows[0]?.lsn as string;
  }

  const ask = async (path: string, headers: Record<string, string> = {}): Promise<Response> => {
    return await fetch(`http://127.0.0.1:${edge.clientPort}${path}`, { headers });
  };

  it('each commit is read on the edge at once, and so is its removal', async () => {
    for (let i = 0; i < 50; i++) {
      await sql.query(
        i % 5 === 4 ? `DELETE FROM kv` : `INSERT INTO kv VALUES ('a', '${i}') ON CONFLICT (k) DO UPDATE SET v = '${i}'`,
      );
      const found = await client.get('a', { database: 'kv', atLeast: { position: await lsn(), waitMs: 10_000 } });
      assert.equal(found?.value.toString(), i % 5 === 4 ? undefined : String(i));
    }
  });

  it('a position of a commit that changed no mapped table is reached, too', async () => {
    for (let i = 0; i < 5; i++) {
      await sql.query(`INSERT INTO other VALUES ('x')`);
      const startedMs = performance.now();
      await client.reach({ position: await lsn(), waitMs: 20_000 });
      assert.ok(performance.now() - startedMs < 4000, 'without a regular beat');
    }
  });

  it('an edge that is behind waits, and says how far it is when the time is over', async () => {
    await sql.query(`INSERT INTO kv VALUES ('late', '1')`);
    await client.reach({ position: await lsn(), waitMs: 10_000 });
    relay.process?.kill('SIGSTOP');
    try {
      await sql.query(`UPDATE kv SET v = '2' WHERE k = 'late'`);
      const position = await lsn();
      const late = await ask(`/kv/late?at-least=${position}&wait=200ms`);
      assert.equal(late.status, 503);
      assert.equal(late.headers.get('x-tokaido-error'), 'TIMEOUT');
      const [said, reached] =
        /this node has reached (\S+) of postgres, not \S+, in 200 ms/.exec(await late.text()) ?? [];
      assert.ok(said !== undefined && reached !== position);
      assert.equal(await (await ask('/kv/late')).text(), '1', 'without a position it serves what it has');
      const waiting = ask('/kv/late', { 'X-Tokaido-At-Least': position, 'X-Tokaido-Wait': '20s' });
      const pipelined = Promise.all([
        client.get('late', { database: 'kv', atLeast: { position, waitMs: 20_000 } }),
        client.get('late', { database: 'kv' }),
      ]);
      relay.process?.kill('SIGCONT');
      assert.equal(await (await waiting).text(), '2');
      const values = (await pipelined).map((record) => record?.value.toString());
      assert.deepEqual(values, ['2', '2'], 'a read behind one that waits is not older');
    } finally {
      relay.process?.kill('SIGCONT');
    }
  });

  it('remote procedures, the command line and errors', async () => {
    await sql.query(`INSERT INTO kv VALUES ('r', 'rpc')`);
    const position = await lsn();
    const call = await ask(`/rpc/get?DB=kv&key=r&at-least=${position}&wait=10s`);
    assert.equal(await call.text(), 'value\trpc\n');
    const place = ['--database', 'kv', '--server', `127.0.0.1:${edge.clientPort}`];
    assert.deepEqual(json(await tokaido(['get', 'r', '--at-least', position, '--wait', '10s', '--json', ...place])), {
      key: 'r',
      value: 'rpc',
    });
    const late = await tokaido(['get', 'r', '--at-least', FAR, '--wait', '10ms', ...place]);
    assert.equal(late.code, 1);
    assert.match(late.err, /this node has reached 0\/[0-9A-F]+ of postgres, not FF\/0/);
    assert.equal((await ask(`/rpc/get?DB=kv&key=r&at-least=${FAR}&wait=1ms`)).status, 503);
    assert.equal((await ask('/kv/r?at-least=nonsense')).status, 400);
    assert.equal((await ask(`/nowhere/r?at-least=${position}`)).status, 400);
    await assert.rejects(client.reach({ position: FAR, waitMs: 1 }), { code: 'TIMEOUT' });
    const { reached } = await cluster.status(edge);
    assert.equal(reached[0]?.feed, 'postgres');
  });
});
