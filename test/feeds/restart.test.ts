/** The feed over the deaths of its node and of Postgres: nothing lost, nothing applied twice, and an idle slot moves. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import type pg from 'pg';
import { TokaidoClient } from '../../src/client/client.js';
import { ReplicationConnection } from '../../src/feeds/postgres/connection.js';
import { parseLsn } from '../../src/feeds/postgres/pgoutput.js';
import { Cluster } from '../support/cluster.js';
import { openCrashStore } from '../support/crash-writer.js';
import { FeedBench } from '../support/feed-bench.js';
import { eventually } from '../support/local-runtime.js';
import { TestPostgres } from '../support/postgres.js';
import { loggedTransactions } from '../support/store-log.js';

const KV = 'CREATE TABLE kv (k text PRIMARY KEY, v text)';
const MAPPING = { table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } } as const;

describe('a node fed by Postgres that is killed again and again', () => {
  let postgres: TestPostgres;
  let cluster: Cluster;
  let sql: pg.Client;
  before(async () => {
    postgres = await TestPostgres.start();
    cluster = await Cluster.create();
    sql = await postgres.connect();
  });
  after(async () => {
    await sql.end();
    await cluster.close();
    await postgres.stop();
  });

  it('invariant 3: applies every transaction exactly once', async () => {
    await sql.query(KV);
    const node = await cluster.add({
      name: 'root',
      role: 'root',
      config: { postgres: { connection: postgres.url, tables: [MAPPING], statusMs: 100 } },
    });
    cluster.start(node, { supervised: true });
    await cluster.ready(node);
    const streams = async (): Promise<boolean> => {
      const status = await cluster.status(node).catch(() => undefined);
      return (status?.feed as { state?: string } | undefined)?.state === 'streaming';
    };
    const streaming = async (): Promise<void> => {
      const deadline = performance.now() + 15_000;
      while (!(await streams())) {
        assert.ok(performance.now() < deadline, `it streams\n${cluster.log(node).slice(-2000)}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    await streaming();
    const KILLS = 4;
    let transactions = 0;
    // One key of its own and one that all share.
    const write = async (count: number): Promise<void> => {
      for (const end = transactions + count; transactions < end; ) {
        const i = ++transactions;
        await sql.query(`BEGIN; INSERT INTO kv VALUES ('k${i}', '${i}'); INSERT INTO kv VALUES ('last', '${i}')
          ON CONFLICT (k) DO UPDATE SET v = excluded.v; COMMIT`);
      }
    };
    for (let kill = 0; kill < KILLS; kill++) {
      await write(200);
      await cluster.kill(node);
      await write(300);
      // Either in the midst of catching up, or a moment after it began.
      if (kill % 2 === 0) await streaming();
      else await cluster.ready(node);
    }
    const TRANSACTIONS = transactions;
    const client = new TokaidoClient({ server: `127.0.0.1:${node.clientPort}` });
    const deadline = performance.now() + 15_000;
    for (;;) {
      const last = await client.get('last').catch(() => undefined);
      if (last?.value.toString() === String(TRANSACTIONS)) break;
      assert.ok(performance.now() < deadline, `reached ${last?.value.toString()}\n${cluster.log(node).slice(-2000)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const keys = Array.from({ length: TRANSACTIONS }, (_, i) => `k${i + 1}`);
    const found = await client.getBulk(keys);
    client.close();
    assert.deepEqual(
      keys.filter((key) => found.get(key)?.toString() !== key.slice(1)),
      [],
    );
    assert.equal(node.starts, KILLS + 1);
    await cluster.stop(node);
    const store = openCrashStore(join(node.folder, 'data', 'store-000001'), false);
    const logged = [...loggedTransactions(store)].flatMap(({ changes }) => {
      return changes.flatMap((change) => {
        return change.kind === 'set' && change.key.equals(Buffer.from('last')) ? [change.value.toString()] : [];
      });
    });
    await store.close();
    assert.deepEqual(
      logged,
      Array.from({ length: TRANSACTIONS }, (_, i) => `${i + 1}`),
      'each once, in order',
    );
  });
});

describe('the Postgres feed over the years', () => {
  let postgres: TestPostgres;
  let bench: FeedBench;
  before(async () => {
    postgres = await TestPostgres.start();
  });
  afterEach(async () => await bench.close());
  after(async () => await postgres.stop());

  const confirmed = async (sql: pg.Client): Promise<bigint> => {
    const { rows } = await sql.query<{ lsn: string }>(
      'SELECT confirmed_flush_lsn AS lsn FROM pg_replication_slots WHERE slot_name = $1',
      [bench.slot],
    );
    return parseLsn(rows[0]?.lsn ?? '');
  };

  it('a slot without changes of its own moves while another table is written', async () => {
    const schema = `${KV}; CREATE TABLE other (i integer)`;
    bench = await FeedBench.open(postgres, { schema, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    const logged = [...loggedTransactions(bench.store)].length;
    for (let round = 0; round < 3; round++) {
      await bench.sql.query('INSERT INTO other SELECT generate_series(1, 1000)');
      const { rows } = await bench.sql.query<{ lsn: string }>('SELECT pg_current_wal_lsn() AS lsn');
      const wanted = parseLsn(rows[0]?.lsn ?? '');
      const deadline = performance.now() + 5000;
      while ((await confirmed(bench.sql)) < wanted) {
        assert.ok(performance.now() < deadline, 'the slot moves');
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
    const changes = [...loggedTransactions(bench.store)].slice(logged).flatMap((transaction) => transaction.changes);
    assert.deepEqual(changes, [], 'what was none of its own left no change in the log');
  });

  it('heartbeats move the slot when nobody writes, and the connection outlives the silence limit', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start({ heartbeatMs: 100 });
    await bench.synced();
    const before = await confirmed(bench.sql);
    const deadline = performance.now() + 5000;
    while ((await confirmed(bench.sql)) === before) {
      assert.ok(performance.now() < deadline, 'the slot moves');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await bench.stopFeed();
    bench.start({ heartbeatMs: 0, silenceMs: 600 });
    await bench.synced();
    await new Promise((resolve) => setTimeout(resolve, 2000));
    assert.ok(!bench.logged.some((line) => line.includes('said nothing')), bench.logged.join('\n'));
  });

  it('a restart of Postgres is survived; changes before and after arrive once', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start();
    await bench.sql.query(`INSERT INTO kv VALUES ('before', '1')`);
    await bench.synced();
    const logged = bench.store.log.next;
    const shown = new Set<string>();
    const watch = setInterval(() => shown.add(bench.status.confirmedLsn), 5);
    await postgres.restart();
    const sql = await bench.reconnect();
    await sql.query(`INSERT INTO kv VALUES ('after', '2')`);
    await eventually('the change after the restart arrives', () => bench.value('after') !== undefined, 10_000);
    clearInterval(watch);
    assert.ok(shown.size > 0 && !shown.has('0/0'), `while it is away the status says how far it was: ${[...shown]}`);
    await bench.synced();
    assert.deepEqual(bench.records(), { after: '2', before: '1' });
    assert.equal(bench.store.log.next - logged, 1);
    assert.equal(bench.status.lastError, undefined);
  });

  it('a connection that is killed in Postgres is made again', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    await bench.sql.query('SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1', [
      bench.slot,
    ]);
    await bench.sql.query(`INSERT INTO kv VALUES ('a', '1')`);
    await eventually('the change arrives', () => bench.value('a') !== undefined, 10_000);
  });

  it('a connection that works in between is made again at once, however often it is killed', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    const startMs = performance.now();
    for (let i = 1; i <= 8; i++) {
      await bench.sql.query('SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1', [
        bench.slot,
      ]);
      await bench.sql.query('INSERT INTO kv VALUES ($1, $2)', [`k${i}`, String(i)]);
      await eventually('the change arrives', () => bench.value(`k${i}`) !== undefined, 20_000);
    }
    // Waiting longer each time took 18 s at least.
    assert.ok(performance.now() - startMs < 15_000, `${performance.now() - startMs} ms`);
  });

  it('a second copy of the slot is not stolen from a program of another name', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    await bench.sql.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [bench.slot]);
    await bench.sql.query(`CREATE PUBLICATION ${bench.slot} FOR TABLE kv`);
    const other = await ReplicationConnection.open({ connection: bench.url }, 'somebody else');
    const streaming = other
      .stream(
        `START_REPLICATION SLOT "${bench.slot}" LOGICAL 0/0 (proto_version '1', publication_names '${bench.slot}')`,
        () => undefined,
      )
      .catch(() => undefined);
    bench.start();
    assert.match(await bench.failure(/is in use by somebody else/), /choose another postgres\.slot/);
    other.destroy();
    await streaming;
    await bench.synced();
  });

  it('a Postgres that stands still does not hold up the stop', async () => {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING] });
    bench.start();
    await bench.synced();
    const holder = await bench.reconnect();
    const { rows } = await holder.query<{ pid: number }>(
      `SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'sql of tokaido ' || $1 || '%' OR application_name = 'tokaido ' || $1`,
      [bench.slot],
    );
    assert.equal(rows.length, 2);
    for (const { pid } of rows) process.kill(pid, 'SIGSTOP');
    try {
      const startedMs = performance.now();
      await bench.stopFeed();
      assert.ok(performance.now() - startedMs < 4000);
      assert.equal(bench.status.state, 'stopped');
    } finally {
      for (const { pid } of rows) process.kill(pid, 'SIGCONT');
    }
  });
});
