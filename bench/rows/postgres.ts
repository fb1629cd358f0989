/**
 * The Postgres feed: from a commit in Postgres until an edge answers with the row, the first copy, and many changes. The
 * peer of the first is the way without replication: the application tells the value with `pg_notify`, and a program that
 * listens writes it to the root.
 */
import type pg from 'pg';
import { TokaidoClient } from '../../src/client/client.js';
import { Cluster, type ClusterNode } from '../../test/support/cluster.js';
import { TestPostgres } from '../../test/support/postgres.js';
import type { Contest, Row, Side, Stage } from '../row.js';

const MILLION = 1_000_000;
const LIMIT_MS = 120_000;
/** Between two commits whose way is measured, so that nothing else goes on. */
const IDLE_MS = 20;
/** Row changes of one transaction, when there are many. */
const CHANGES = 20;
/** So many that they share the flushes of their commits: fewer wait for the disk most of the time. */
const WRITERS = 8;
/** Row changes that wait in Postgres while the root is away. */
const BACKLOG = 200_000;

const pause = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

interface Fed {
  readonly postgres: TestPostgres;
  readonly sql: pg.Client;
  readonly cluster: Cluster;
  readonly root: ClusterNode;
  readonly edge: ClusterNode;
}

/** A root that is fed, and an edge. Neither is started. */
async function prepare(stage: Stage, rows: number): Promise<Fed> {
  const postgres = await TestPostgres.start({ settings: ['max_wal_size=4GB'] });
  stage.onEnd(async () => await postgres.stop());
  const sql = await postgres.connect();
  stage.onEnd(async () => await sql.end());
  await sql.query('CREATE TABLE kv (k text PRIMARY KEY, v text)');
  await sql.query(`INSERT INTO kv SELECT 'key-' || i, md5(i::text) FROM generate_series(1, ${rows}) i`);
  await sql.query('VACUUM ANALYZE kv');
  const cluster = await Cluster.create();
  stage.onEnd(async () => await cluster.close());
  const tables = [{ table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } }];
  const feed = { connection: postgres.url, tables };
  const databases = ['default', 'notified'];
  const root = await cluster.add({ name: 'root', role: 'root', config: { databases, postgres: feed } });
  const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config: { databases } });
  return { postgres, sql, cluster, root, edge };
}

async function start({ cluster }: Fed, nodes: readonly ClusterNode[]): Promise<void> {
  for (const node of nodes) cluster.start(node);
  for (const node of nodes) await cluster.ready(node);
}

const clientOf = (node: ClusterNode): TokaidoClient => {
  return new TokaidoClient({ server: `127.0.0.1:${node.clientPort}`, timeoutMs: LIMIT_MS });
};

async function position(sql: pg.Client): Promise<string> {
  const { rows } = await sql.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
  return rows[0]?.lsn as string;
}

/** Waits until a node has all that Postgres has now, over copies and all. */
async function reached(client: TokaidoClient, sql: pg.Client): Promise<void> {
  const startMs = performance.now();
  const lsn = await position(sql);
  for (;;) {
    try {
      await client.reach({ position: lsn, waitMs: 5000 });
      return;
    } catch (error) {
      if (performance.now() - startMs > LIMIT_MS) throw error;
    }
  }
}

/** From the commit until the edge answers with the value: asked again and again, as whoever waits for it would see it. */
function waySide(
  name: string,
  edge: TokaidoClient,
  database: string,
  commit: (key: string, value: string) => Promise<void>,
): Side {
  let rounds = 0;
  return {
    name,
    measure: async (seconds) => {
      const ways: number[] = [];
      const endMs = performance.now() + seconds * 1000;
      for (let i = 0; performance.now() < endMs || ways.length < 10; i++) {
        await pause(IDLE_MS);
        const value = `${name} ${++rounds}`;
        const startMs = performance.now();
        await commit('way', value);
        while ((await edge.get('way', { database }))?.value.toString() !== value) {
          if (performance.now() - startMs > LIMIT_MS) throw new Error(`${name}: the edge never had it`);
        }
        // The first of a round warm up.
        if (i >= 3) ways.push(performance.now() - startMs);
      }
      ways.sort((a, b) => a - b);
      const at = (share: number): number => ways[Math.min(ways.length - 1, Math.floor(ways.length * share))] as number;
      return { p50: at(0.5), p99: at(0.99) };
    },
  };
}

const way: Row = {
  name: 'pg-way',
  about:
    'from sending a transaction to Postgres until an edge behind the root answers with its row; nothing else goes on',
  figures: [
    { name: 'p50', unit: 'ms', better: 'lower', budget: 10 },
    { name: 'p99', unit: 'ms', better: 'lower', budget: 50 },
  ],
  open: async (stage): Promise<Contest> => {
    const fed = await prepare(stage, 1);
    const { postgres, sql, root, edge } = fed;
    await start(fed, [root, edge]);
    const [reader, writer] = [clientOf(edge), clientOf(root)];
    for (const client of [reader, writer]) stage.onEnd(() => client.close());
    await reached(reader, sql);
    const listener = await postgres.connect();
    stage.onEnd(async () => await listener.end());
    await listener.query('LISTEN kv');
    listener.on('notification', ({ payload = '' }) => {
      const [key = '', value = ''] = payload.split('\t');
      writer.set(key, value, { database: 'notified' }).catch(() => undefined);
    });
    const upsert = 'INSERT INTO kv VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v';
    return {
      ours: waySide('logical replication', reader, 'default', async (key, value) => {
        await sql.query(upsert, [key, value]);
      }),
      peer: waySide('pg_notify', reader, 'notified', async (key, value) => {
        await sql.query('BEGIN');
        await sql.query(upsert, [key, value]);
        await sql.query('SELECT pg_notify($1, $2)', ['kv', `${key}\t${value}`]);
        await sql.query('COMMIT');
      }),
    };
  },
};

const copy: Row = {
  name: 'pg-copy',
  about: 'the first copy of a table of 1 M rows into an empty root, from its start',
  figures: [{ name: '', unit: 'rows/s', better: 'higher', budget: 100_000 }],
  rounds: 1,
  open: async (stage) => {
    const fed = await prepare(stage, MILLION);
    const measure = async (): Promise<{ '': number }> => {
      await start(fed, [fed.root]);
      const startMs = performance.now();
      const client = clientOf(fed.root);
      await reached(client, fed.sql);
      client.close();
      return { '': (MILLION / (performance.now() - startMs)) * 1000 };
    };
    return { ours: { name: 'Tokaido', measure }, peer: undefined };
  },
};

/** Sessions that change rows; each change is a transaction's share of `CHANGES`. */
async function openWriters({ postgres }: Fed, stage: Stage, rows: number): Promise<readonly pg.Client[]> {
  const writers: pg.Client[] = [];
  for (let i = 0; i < WRITERS; i++) {
    const writer = await postgres.connect();
    stage.onEnd(async () => await writer.end());
    await writer.query(
      `PREPARE change(int) AS UPDATE kv SET v = md5(random()::text)
       WHERE k IN (SELECT 'key-' || (1 + (i * 7919 + $1) % ${rows}) FROM generate_series(1, ${CHANGES}) i)`,
    );
    writers.push(writer);
  }
  return writers;
}

const changes: Row = {
  name: 'pg-changes',
  about: `updates of ${CHANGES} rows a transaction by ${WRITERS} sessions, until the root has all of them`,
  figures: [{ name: '', unit: 'row changes/s', better: 'higher', budget: 20_000 }],
  open: async (stage) => {
    const rows = 100_000;
    const fed = await prepare(stage, rows);
    await start(fed, [fed.root]);
    const client = clientOf(fed.root);
    stage.onEnd(() => client.close());
    await reached(client, fed.sql);
    const writers = await openWriters(fed, stage, rows);
    const measure = async (seconds: number): Promise<{ '': number }> => {
      const startMs = performance.now();
      let transactions = 0;
      const write = async (writer: pg.Client, at: number): Promise<void> => {
        for (let i = at; performance.now() - startMs < seconds * 1000; i += 31) {
          await writer.query(`EXECUTE change(${i % rows})`);
          transactions++;
        }
      };
      await Promise.all(writers.map(async (writer, at) => await write(writer, at * 12_500)));
      await reached(client, fed.sql);
      return { '': ((transactions * CHANGES) / (performance.now() - startMs)) * 1000 };
    };
    return { ours: { name: 'Tokaido', measure }, peer: undefined };
  },
};

const backlog: Row = {
  name: 'pg-backlog',
  about: `${BACKLOG} row changes, ${CHANGES} a transaction, made while the root was away, from its return until it has all`,
  figures: [{ name: '', unit: 'row changes/s', better: 'higher', budget: 20_000 }],
  open: async (stage) => {
    const rows = 100_000;
    const fed = await prepare(stage, rows);
    const client = clientOf(fed.root);
    stage.onEnd(() => client.close());
    await start(fed, [fed.root]);
    await reached(client, fed.sql);
    const writers = await openWriters(fed, stage, rows);
    const measure = async (): Promise<{ '': number }> => {
      await fed.cluster.kill(fed.root);
      let left = BACKLOG / CHANGES;
      await Promise.all(
        writers.map(async (writer) => {
          while (left-- > 0) await writer.query(`EXECUTE change(${(left * 31) % rows})`);
        }),
      );
      await start(fed, [fed.root]);
      const startMs = performance.now();
      await reached(client, fed.sql);
      return { '': (BACKLOG / (performance.now() - startMs)) * 1000 };
    };
    return { ours: { name: 'Tokaido', measure }, peer: undefined };
  },
};

export const POSTGRES_ROWS: readonly Row[] = [way, copy, changes, backlog];
