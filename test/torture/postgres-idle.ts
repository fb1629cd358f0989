/** The Postgres feed while nothing that it feeds changes: its slot must not keep what others write. */
import { Cluster } from '../support/cluster.js';
import { TestPostgres } from '../support/postgres.js';
import { clock, type Torture, type TortureOptions, type TortureResult } from './torture.js';

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

/** 4 MB each time: more than 1 GB in ten minutes, and little load. */
const ROUND_MS = 2000;
/** WAL written behind the slot's back that may wait for the next heartbeat, bytes. */
const MOST_BEHIND = 64 * 2 ** 20;

export const postgresIdle: Torture = {
  name: 'postgres-idle',
  about: 'Writes WAL to a table that is not published while the published one stands still: the slot advances.',
  async run({ seconds, report, signal }: TortureOptions): Promise<TortureResult> {
    const server = await TestPostgres.start();
    const cluster = await Cluster.create();
    let looks = 0;
    let failed = 0;
    let most = 0;
    let writtenBytes = 0;
    try {
      const sql = await server.connect();
      await sql.query('CREATE TABLE kv (k text PRIMARY KEY, v text); CREATE TABLE other (t text)');
      const tables = [{ table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } }];
      const feed = { connection: server.url, tables, heartbeatMs: 1000, statusMs: 200 };
      const root = await cluster.add({ name: 'root', role: 'root', config: { postgres: feed } });
      cluster.start(root);
      await cluster.ready(root);
      const behind = async (): Promise<number> => {
        const { rows } = await sql.query<{ behind: string }>(
          'SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) AS behind FROM pg_replication_slots',
        );
        return Number(rows[0]?.behind ?? 0);
      };
      const goesOn = clock({ seconds, signal });
      do {
        await sql.query(`INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 4000)`);
        await sql.query('TRUNCATE other');
        writtenBytes += 4_000_000;
        const now = await behind();
        most = Math.max(most, now);
        looks++;
        if (now > MOST_BEHIND) {
          failed++;
          report.failure(`the slot is ${now} bytes behind after ${writtenBytes} bytes of other WAL`);
        }
        report.progress(`${writtenBytes} bytes`);
        await sleep(ROUND_MS);
      } while (goesOn());
      // Nobody writes any more: everything is confirmed, heartbeats apart.
      const deadline = performance.now() + 15_000;
      while ((await behind()) > 2 ** 20 && performance.now() < deadline) await sleep(100);
      const left = await behind();
      if (left > 2 ** 20) {
        failed++;
        report.failure(`the slot stays ${left} bytes behind`);
      }
      await sql.end();
    } finally {
      await cluster.close();
      await server.stop();
    }
    return { runs: looks, failed, writtenBytes, mostBehindBytes: most };
  },
};
