/** What an operator relies on at night: the slot is watched, kept moving, given up in time, and never believed blindly. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { parseLsn } from '../../src/feeds/postgres/pgoutput.js';
import type { Store } from '../../src/store/types.js';
import { FeedBench } from '../support/feed-bench.js';
import { eventually } from '../support/local-runtime.js';
import { TestPostgres } from '../support/postgres.js';

const KV = 'CREATE TABLE kv (k text PRIMARY KEY, v text)';
const MAPPING = { table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } } as const;

/** A store whose commits nobody hears of while `gate.closed`: a disk that stands still. */
function stalling(store: Store, gate: { closed: boolean }): Store {
  const held = async <T>(promise: Promise<T>): Promise<T> => {
    const value = await promise;
    while (gate.closed) await new Promise((resolve) => setTimeout(resolve, 20));
    return value;
  };
  return new Proxy(store, {
    get: (target, property) => {
      if (property === 'write') {
        const write: Store['write'] = (build, feed) => {
          const written = target.write(build, feed);
          return { committed: held(written.committed), flushed: held(written.flushed) };
        };
        return write;
      }
      const value: unknown = Reflect.get(target, property);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

describe('the Postgres feed in operation', () => {
  let postgres: TestPostgres;
  let bench: FeedBench;
  before(async () => {
    postgres = await TestPostgres.start({ settings: ['wal_sender_timeout=1500'] });
  });
  afterEach(async () => await bench.close());
  after(async () => await postgres.stop());

  async function started(config: NonNullable<Parameters<FeedBench['start']>[0]> = {}, store?: Store): Promise<void> {
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING], config });
    bench.start({}, store ?? bench.store);
    await bench.synced();
  }

  it('a store that stands still does not keep Postgres from hearing of us', async () => {
    const gate = { closed: false };
    bench = await FeedBench.open(postgres, { schema: KV, tables: [MAPPING], config: { maxUnappliedBytes: 100_000 } });
    bench.start({}, stalling(bench.store, gate));
    await bench.synced();
    gate.closed = true;
    for (let i = 0; i < 20; i++) await bench.sql.query(`INSERT INTO kv VALUES ('k${i}', repeat('x', 20000))`);
    const pid = async (): Promise<string | undefined> => {
      const { rows } = await bench.sql.query<{ pid: string; silent: string }>(
        `SELECT pid, extract(epoch FROM now() - reply_time) AS silent FROM pg_stat_replication WHERE application_name = $1`,
        [`tokaido ${bench.slot}`],
      );
      assert.ok(Number(rows[0]?.silent) < 1, `Postgres heard of us ${rows[0]?.silent} s ago`);
      return rows[0]?.pid;
    };
    const before = await pid();
    // Twice as long as Postgres waits for a sign of life.
    for (let i = 0; i < 12; i++) {
      await new Promise((resolve) => setTimeout(resolve, 250));
      assert.equal(await pid(), before, 'the same connection');
    }
    await bench.sql.query('CHECKPOINT');
    assert.ok((bench.status.lagMs ?? 0) > 2000, `the lag is seen: ${bench.status.lagMs} ms`);
    assert.ok(bench.status.lagBytes > 0 && (bench.status.retained?.retainedBytes ?? 0) > 0);
    assert.equal(bench.status.failures, 0);
    gate.closed = false;
    await bench.synced();
    await eventually('the lag is gone', () => (bench.status.lagMs ?? 1e9) < 1000);
    assert.equal(Object.keys(bench.records()).length, 20);
  });

  it('much WAL kept for the slot is warned of once, and the slot is dropped at the limit rather than fill the disk', async () => {
    const gate = { closed: false };
    const config = { slotWarnBytes: 200_000, slotDropBytes: 3_000_000, heartbeatMs: 100 };
    bench = await FeedBench.open(postgres, { schema: `${KV}; CREATE TABLE other (t text)`, tables: [MAPPING], config });
    bench.start({}, stalling(bench.store, gate));
    await bench.synced();
    gate.closed = true;
    await bench.sql.query(
      `INSERT INTO kv VALUES ('a', '1'); INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 800)`,
    );
    await bench.failure(/the slot keeps much WAL/);
    assert.equal(bench.status.droppedSlots, 0);
    await bench.sql.query(`INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 4000)`);
    await bench.failure(/the slot keeps more than slotDropBytes: dropping it/);
    await eventually('it was dropped', () => bench.status.droppedSlots === 1);
    gate.closed = false;
    await bench.failure(/the replication slot is gone: copying everything again/);
    await bench.sql.query(`INSERT INTO kv VALUES ('b', '2')`);
    await bench.synced();
    assert.deepEqual(bench.records(), { a: '1', b: '2' });
    assert.equal(bench.logged.filter((line) => line.startsWith('the slot keeps much WAL')).length, 1);
  });

  /** Postgres is idle before, or other tables are written: then the slot was moved without a change of ours. */
  for (const before of ['after a change of ours', 'after an idle time', 'after changes of other tables']) {
    it(`a slot that somebody made anew is not believed, ${before}: what it lacks is copied`, async () => {
      await started();
      await bench.sql.query(`INSERT INTO kv VALUES ('a', '1'), ('gone', '1')`);
      await bench.synced();
      if (before.endsWith('idle time')) await new Promise((resolve) => setTimeout(resolve, 1000));
      if (before.endsWith('other tables'))
        await bench.sql.query(`CREATE TABLE other AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)`);
      await bench.synced();
      await bench.stopFeed();
      await bench.dropSlot();
      // As little WAL as there can be between the two slots.
      await bench.sql.query(`BEGIN; INSERT INTO kv VALUES ('lost', '2'); DELETE FROM kv WHERE k = 'gone'; COMMIT`);
      await bench.sql.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [bench.slot]);
      await bench.sql.query(`INSERT INTO kv VALUES ('later', '3')`);
      bench.start();
      await bench.synced();
      await bench.failure(/is not the one we made/);
      assert.deepEqual(bench.records(), { a: '1', later: '3', lost: '2' });
    });
  }

  it('our own slot is believed after each restart, however far it was moved without changes of ours', async () => {
    await started();
    await bench.sql.query(`INSERT INTO kv VALUES ('a', '1'); CREATE TABLE other (t text)`);
    for (let round = 0; round < 4; round++) {
      await bench.sql.query(`INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 300)`);
      if (round > 0) await bench.synced();
      await bench.stopFeed();
      await bench.sql.query(`INSERT INTO kv VALUES ('r${round}', '1')`);
      bench.start();
    }
    await bench.synced();
    assert.equal(bench.logged.filter((line) => line.startsWith('slot made')).length, 1, bench.logged.join('\n'));
    assert.deepEqual(Object.keys(bench.records()), ['a', 'r0', 'r1', 'r2', 'r3']);
  });

  it('another Postgres at the same address is noticed, whatever its slot says', async () => {
    await started();
    await bench.sql.query(`INSERT INTO kv VALUES ('a', '1')`);
    await bench.synced();
    await bench.stopFeed();
    const other = await TestPostgres.start();
    const there = await FeedBench.open(other, { schema: `${KV}; INSERT INTO kv VALUES ('b', '2')`, tables: [MAPPING] });
    try {
      // As far as it can be taken for the old one: its WAL is ahead, its slot is not.
      await there.sql.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [bench.slot]);
      const ahead = parseLsn(bench.status.confirmedLsn);
      for (;;) {
        const { rows } = await there.sql.query<{ lsn: string }>('SELECT pg_switch_wal()::text AS lsn');
        if (parseLsn(rows[0]?.lsn ?? '') > ahead) break;
        await there.sql.query('INSERT INTO kv SELECT gen_random_uuid()::text, NULL; DELETE FROM kv WHERE v IS NULL');
      }
      bench.start({ connection: there.url });
      await bench.failure(/this is another Postgres than before/);
      await eventually('its rows are here', () => bench.value('b') !== undefined);
      await eventually('and only its rows', () => bench.value('a') === undefined);
      await bench.stopFeed();
    } finally {
      await there.close();
      await other.stop();
    }
  });

  it('confirming without changes is noted in the store once per status, however much WAL others write', async () => {
    await started();
    const [before, beganMs] = [bench.store.log.next, performance.now()];
    await bench.sql.query(`CREATE TABLE other (t text)`);
    for (let i = 0; i < 300; i++)
      await bench.sql.query(`INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 100)`);
    await bench.synced();
    const notes = bench.store.log.next - before;
    const most = (performance.now() - beganMs) / bench.config.statusMs + 3;
    assert.ok(notes >= 1 && notes <= most, `${notes} notes for 300 transactions, at most ${most}`);
  });
});
