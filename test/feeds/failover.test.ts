/** Fail-over of Postgres: a primary that is killed, a standby that is promoted, and a root that goes on there. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import type pg from 'pg';
import { TokaidoClient } from '../../src/client/client.js';
import type { PostgresFeedStatus } from '../../src/feeds/postgres/feed.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { TestPostgres } from '../support/postgres.js';

const MAPPING = { table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } } as const;
const ROWS = 5000;
/** The last one is for the primary alone: once promoted, it would wait for a standby that is not there. */
const KEEPS_SLOT = ['sync_replication_slots=on', 'hot_standby_feedback=on', 'synchronized_standby_slots='];

async function until(what: string, isSo: () => Promise<boolean>, limitMs = 30_000): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const version = await (async () => {
  const server = await TestPostgres.start();
  const sql = await server.connect();
  const { rows } = await sql.query<{ v: string }>(`SELECT current_setting('server_version_num') AS v`);
  await sql.end();
  await server.stop();
  return Number(rows[0]?.v);
})();

describe('fail-over of Postgres', { skip: version < 170_000 && 'Postgres keeps slots on standbys from 17 on' }, () => {
  const servers: TestPostgres[] = [];
  let cluster: Cluster;
  let root: ClusterNode;
  let client: TokaidoClient;
  afterEach(async () => {
    client.close();
    await cluster.close();
    for (const server of servers.splice(0)) await server.stop();
  });

  const feed = async (): Promise<PostgresFeedStatus> => (await cluster.status(root)).feed as PostgresFeedStatus;
  const textOf = async (key: string): Promise<string | undefined> => (await client.get(key))?.value.toString();

  /** A primary with rows, a standby, and a root that has the rows. */
  async function pair(
    standbySettings: readonly string[],
    primarySettings: readonly string[] = [],
  ): Promise<{ primary: TestPostgres; standby: TestPostgres; sql: pg.Client }> {
    const primary = await TestPostgres.start({ settings: ['wal_keep_size=256MB', ...primarySettings] });
    servers.push(primary);
    const sql = await primary.connect();
    await sql.query(`CREATE TABLE kv (k text PRIMARY KEY, v text);
      INSERT INTO kv SELECT 'k' || i, '0' FROM generate_series(1, ${ROWS}) i`);
    const standby = await primary.standby('standby', standbySettings);
    servers.push(standby);
    cluster = await Cluster.create();
    const postgres = {
      connection: primary.url,
      standbys: [standby.url],
      tables: [MAPPING],
      failover: true,
      statusMs: 100,
      heartbeatMs: 300,
    };
    root = await cluster.add({ name: 'root', role: 'root', config: { postgres } });
    client = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}` });
    cluster.start(root, { supervised: true });
    await cluster.ready(root);
    await until('the root has the rows', async () => (await feed()).state === 'streaming');
    return { primary, standby, sql };
  }

  /** Waits until the standby has a copy of the slot that outlives a promotion. */
  async function slotIsKept(standby: TestPostgres): Promise<void> {
    const there = await standby.connect();
    await until('the slot is kept', async () => {
      const { rows } = await there.query(
        `SELECT 1 FROM pg_replication_slots WHERE slot_name = 'tokaido' AND synced AND NOT temporary`,
      );
      return rows.length === 1;
    });
    await there.end();
  }

  async function equals(server: TestPostgres): Promise<void> {
    const there = await server.connect();
    const { rows: lsn } = await there.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
    await until('the root is there', async () => {
      const { state, copy } = await feed();
      return state === 'streaming' && copy === undefined;
    });
    await client.reach({ position: lsn[0]?.lsn as string, waitMs: 20_000 }, { database: 'default' });
    const { rows } = await there.query<{ k: string; v: string }>('SELECT k, v FROM kv ORDER BY k');
    await there.end();
    const values = await client.getMany(rows.map(({ k }) => ({ database: 0, key: k })));
    assert.deepEqual(
      values.map(String),
      rows.map(({ v }) => v),
    );
    assert.equal((await client.call('status')).rows.get('count')?.toString(), String(rows.length));
  }

  const copiedAgain = (): boolean => /copying everything again/.test(cluster.log(root));

  it('a standby that keeps the slot takes over: the root goes on there without a copy and without loss', async () => {
    const { primary, standby, sql } = await pair(KEEPS_SLOT, ['synchronized_standby_slots=standby']);
    await slotIsKept(standby);
    let committed = 0;
    const writing = (async () => {
      for (;;) {
        const next = committed + 1;
        try {
          await sql.query(`BEGIN; INSERT INTO kv VALUES ('n${next}', '${next}');
            UPDATE kv SET v = '${next}' WHERE k IN ('k1', 'k2'); COMMIT`);
        } catch {
          return;
        }
        committed = next;
      }
    })();
    await until('writes go through', async () => Number(await textOf('k1')) > 300);
    await primary.kill();
    await writing;
    const seen = Number(await textOf('k1'));
    await standby.promote();
    const there = await standby.connect();
    await there.query(`INSERT INTO kv VALUES ('after', 'the fail-over')`);
    const { rows } = await there.query<{ v: string }>(`SELECT v FROM kv WHERE k = 'k1'`);
    await there.end();
    await until('the root follows the new primary', async () => (await textOf('after')) !== undefined);
    await equals(standby);
    assert.equal(copiedAgain(), false, cluster.log(root));
    assert.ok(Number(rows[0]?.v) >= seen, 'nothing that readers had seen was lost');
    assert.ok(seen > 300 && committed >= seen - 1);
    assert.equal((await feed()).rowsCopied, ROWS);
    assert.equal((await feed()).source, `127.0.0.1:${standby.port}/postgres`);
    // The former primary comes back as if nothing had happened; nobody listens to it.
    await primary.restart();
    await cluster.kill(root);
    await cluster.ready(root);
    await until('the root streams', async () => (await feed()).state === 'streaming');
    assert.equal((await feed()).source, `127.0.0.1:${standby.port}/postgres`);
    assert.equal(copiedAgain(), false);
  });

  it('a standby without the slot takes over: everything is copied again by itself', async () => {
    const { primary, standby, sql } = await pair(['hot_standby_feedback=on']);
    await sql.query(`UPDATE kv SET v = '1' WHERE k = 'k1'`);
    const { rows } = await sql.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
    const there = await standby.connect();
    await until('the standby has it', async () => {
      const at = await there.query(`SELECT 1 WHERE pg_last_wal_replay_lsn() >= '${rows[0]?.lsn}'`);
      return at.rows.length === 1;
    });
    await primary.kill();
    await standby.promote();
    await there.query(`UPDATE kv SET v = '2' WHERE k = 'k1'; DELETE FROM kv WHERE k = 'k2'`);
    await there.end();
    await until('the root has seen it', async () => (await textOf('k1')) === '2' && (await textOf('k2')) === undefined);
    await equals(standby);
    assert.match(cluster.log(root), /the replication slot is gone: copying everything again/);
  });

  it('a standby that lacks what was applied already takes over: the root gives up what the new primary never had', async () => {
    const { primary, standby, sql } = await pair(KEEPS_SLOT);
    await slotIsKept(standby);
    // Nothing reaches the standby any more.
    await until('the standby is cut off', async () => {
      await sql.query(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'standby'`);
      return await sql.query(`SELECT pg_drop_replication_slot('standby')`).then(
        () => true,
        () => false,
      );
    });
    await sql.query(`INSERT INTO kv VALUES ('lost', 'x')`);
    await until('the root has it', async () => (await textOf('lost')) === 'x');
    await primary.kill();
    await standby.promote();
    await until('the root has given it up', async () => (await textOf('lost')) === undefined);
    await equals(standby);
    assert.match(cluster.log(root), /(is behind|without) what was applied from it.*: copying everything again/);
  });
});
