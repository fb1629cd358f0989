/** TLS to Postgres: who it is gets checked, in both ways that matter, and both kinds of connection use it. */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { FeedBench } from '../support/feed-bench.js';
import { TestPostgres } from '../support/postgres.js';

const MAPPING = { table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } } as const;

describe('TLS to Postgres', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-pg-tls-'));
  let postgres: TestPostgres;
  let bench: FeedBench;
  before(async () => {
    const nowMs = Date.now();
    for (const ca of ['ca', 'other']) await createCa({ folder: join(folder, ca), name: ca, days: 10, nowMs });
    const out = join(folder, 'server');
    // Not for 127.0.0.1.
    await issueCertificate({
      ca: join(folder, 'ca'),
      out,
      role: 'root',
      name: 'db',
      days: 2,
      dns: ['localhost'],
      ip: [],
      nowMs,
    });
    chmodSync(folder, 0o711);
    const key = join(folder, 'server.key');
    copyFileSync(join(out, 'node.key'), key);
    chmodSync(key, 0o600);
    // Postgres takes no key that others could read, and runs as nobody when root starts it.
    if (process.getuid?.() === 0) chownSync(key, 65534, 65534);
    copyFileSync(join(out, 'node.crt'), join(folder, 'server.crt'));
    chmodSync(join(folder, 'server.crt'), 0o644);
    postgres = await TestPostgres.start({
      settings: ['ssl=on', `ssl_cert_file=${join(folder, 'server.crt')}`, `ssl_key_file=${key}`],
    });
  });
  afterEach(async () => await bench.close());
  after(async () => {
    await postgres.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const connection = (host: string, ca: string): string => {
    const root = join(folder, ca, 'ca.crt');
    return `${bench.url.replace('127.0.0.1', host)}?sslmode=verify-full&sslrootcert=${encodeURIComponent(root)}`;
  };

  async function opened(): Promise<void> {
    bench = await FeedBench.open(postgres, {
      schema: 'CREATE TABLE kv (k text PRIMARY KEY, v text)',
      tables: [MAPPING],
    });
  }

  it('verify-full goes to the server of the right name and CA, with every connection', async () => {
    await opened();
    bench.start({ connection: connection('localhost', 'ca') });
    await bench.synced();
    await bench.sql.query(`INSERT INTO kv VALUES ('a', '1')`);
    await bench.synced();
    assert.deepEqual(bench.records(), { a: '1' });
    const { rows } = await bench.sql.query(
      `SELECT bool_and(s.ssl) AS all, count(*)::int AS connections FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
       WHERE a.application_name LIKE '%tokaido ${bench.slot}'`,
    );
    assert.deepEqual(rows, [{ all: true, connections: 2 }]);
  });

  it('verify-full refuses another CA, and another name', async () => {
    await opened();
    bench.start({ connection: connection('localhost', 'other') });
    await bench.failure(/cannot connect to Postgres at localhost.*(unable to|self-signed|certificate)/);
    await bench.stopFeed();
    bench.start({ connection: connection('127.0.0.1', 'ca') });
    await bench.failure(/cannot connect to Postgres at 127\.0\.0\.1.*(altnames|IP)/);
  });
});
