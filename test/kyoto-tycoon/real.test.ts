/** A real Kyoto Tycoon server as our follower, and as whom we follow. Needs `ktserver` on PATH. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { afterEach, describe, it } from 'node:test';
import { TokaidoClient } from '../../src/client/client.js';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { KtServer, withoutKtserver } from '../support/ktserver.js';

const DATABASES = ['casket.kct', ':'];

describe('with a real Kyoto Tycoon server', { skip: withoutKtserver }, () => {
  let cluster: Cluster;
  const servers: KtServer[] = [];
  const clients: TokaidoClient[] = [];

  afterEach(async () => {
    for (const client of clients.splice(0)) client.close();
    await cluster.close();
    for (const server of servers.splice(0)) await server.close();
  });

  async function startKt(parameters: readonly string[], databases: readonly string[]): Promise<KtServer> {
    const server = await KtServer.start(parameters, databases);
    servers.push(server);
    return server;
  }

  async function startRoot(config: Record<string, unknown>): Promise<{ node: ClusterNode; client: TokaidoClient }> {
    cluster = await Cluster.create();
    const node = await cluster.add({ name: 'root', role: 'root', config: { databases: DATABASES, ...config } });
    cluster.start(node);
    await cluster.ready(node);
    const client = new TokaidoClient({ server: `127.0.0.1:${node.clientPort}` });
    clients.push(client);
    return { node, client };
  }

  async function startUpstream(
    more: Record<string, unknown> = {},
  ): Promise<{ node: ClusterNode; client: TokaidoClient; port: number }> {
    cluster = await Cluster.create();
    const config = { databases: DATABASES, ...more };
    const node = await cluster.add({ name: 'root', role: 'root', kyotoTycoon: true, replicationPort: false, config });
    cluster.start(node);
    await cluster.ready(node);
    const client = new TokaidoClient({ server: `127.0.0.1:${node.clientPort}` });
    clients.push(client);
    return { node, client, port: node.kyotoTycoonPort };
  }

  async function until(client: TokaidoClient, database: number, key: string, value: string | undefined): Promise<void> {
    let found: string | undefined;
    for (const start = performance.now(); performance.now() - start < 15_000; ) {
      const [record] = await client.getMany([{ database, key }]);
      found = record?.toString('latin1');
      if (found === value) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.equal(found, value, `${key} in database ${database}`);
  }

  const following = (port: number): string[] => {
    return [
      '-mhost',
      '127.0.0.1',
      '-mport',
      String(port),
      '-rts',
      '{folder}/rts',
      '-sid',
      '9',
      '-ulog',
      '{folder}/ulog',
    ];
  };

  it('is followed by it: every kind of change, in the right database, over its restart', async () => {
    const { client, port, node } = await startUpstream();
    await client.setBulk(
      [
        ['before', '1'],
        ['gone', '1'],
      ],
      0,
    );
    await client.setBulk(
      [
        ['other', '1'],
        ['cleared', '1'],
      ],
      1,
    );
    const follower = await startKt(following(port), ['%', ':']);
    await until(follower.client, 0, 'before', '1');
    await until(follower.client, 1, 'other', '1');

    const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    const xtMs = 4_102_444_800_000;
    await client.setBulk(
      [
        [bytes, bytes],
        ['expires', 'later', xtMs],
      ],
      0,
    );
    await client.removeBulk(['gone'], 0);
    await client.call('clear', { DB: '1' });
    await client.setBulk([['last', '1']], 1);
    await until(follower.client, 1, 'last', '1');
    assert.deepEqual(await follower.client.getMany([{ database: 0, key: bytes }]), [bytes]);
    await until(follower.client, 0, 'gone', undefined);
    await until(follower.client, 1, 'cleared', undefined);
    const { rows } = await follower.client.call('get', { key: 'expires' });
    assert.equal(rows.get('xt')?.toString(), String(xtMs / 1000));

    // In good order: it stores its time stamp then. Its databases are in memory and empty afterwards.
    await follower.end();
    await client.setBulk([['while away', '1']], 0);
    await follower.run();
    await until(follower.client, 0, 'while away', '1');
    await until(follower.client, 0, 'before', undefined);
    const status = await cluster.status(node);
    assert.equal(status.followers[0]?.name, 'sid 9');
    assert.equal(status.followers[0]?.state, 'following');
  });

  it('is followed by it from a copy when the log does not reach back: no silent gap', async () => {
    const { client, port, node } = await startUpstream();
    const follower = await startKt(following(port), ['%', ':']);
    await client.setBulk([['stale', '1']], 0);
    await until(follower.client, 0, 'stale', '1');
    await follower.end();
    await cluster.stop(node);
    const { readFileSync, writeFileSync } = await import('node:fs');
    const path = `${node.folder}/node.yaml`;
    writeFileSync(path, `${readFileSync(path, 'utf8')}\nlog: { retainBytes: 1000 }\nstore: { expiryIntervalMs: 20 }\n`);
    cluster.start(node);
    await cluster.ready(node);
    await client.removeBulk(['stale'], 0);
    for (let i = 0; i < 30; i++) await client.setBulk([[`filler ${i}`, 'x'.repeat(200)]], 0);
    for (let first = 0; first < 20; first = (await cluster.status(node)).log?.first ?? 0) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await follower.run();
    await follower.client.setBulk([['stray', '1']], 0);
    await until(follower.client, 0, 'filler 29', 'x'.repeat(200));
    await until(follower.client, 0, 'filler 0', 'x'.repeat(200));
    await until(follower.client, 0, 'stale', undefined);
    assert.match(cluster.log(node), /too far behind for the log/);
  });

  it('follows it: a copy first, then every kind of change, exactly once over kills of both', async () => {
    const upstream = await startKt(['-ulog', '{folder}/ulog', '-sid', '7'], ['{folder}/a.kct', '{folder}/b.kch']);
    const xtMs = 4_102_444_800_000;
    const before = Array.from({ length: 1000 }, (_, i) => [`k${i}`, String(i), i === 3 ? xtMs : 0] as const);
    await upstream.client.setBulk(before, 0);
    await upstream.client.setBulk([['b', '1']], 1);
    const { node, client } = await startRoot({ kyotoTycoon: { upstream: `127.0.0.1:${upstream.port}` } });
    await until(client, 0, 'k999', '999');
    await until(client, 1, 'b', '1');
    assert.equal((await client.get('k3'))?.xtMs, xtMs);

    await upstream.client.call('append', { key: 'k1', value: '+' });
    await upstream.client.call('increment', { key: 'n', num: '5' });
    await upstream.client.removeBulk(['k2'], 0);
    await upstream.client.call('clear', { DB: '1' });
    await upstream.client.setBulk([['after', '1']], 1);
    await until(client, 1, 'after', '1');
    await until(client, 0, 'k1', '1+');
    await until(client, 0, 'n', '\0\0\0\0\0\0\0\x05');
    await until(client, 0, 'k2', undefined);
    await until(client, 1, 'b', undefined);

    let written = 0;
    const write = async (): Promise<void> => {
      for (let i = 0; i < 200; i++) await upstream.client.call('set', { key: 'count', value: String(++written) });
    };
    await write();
    await cluster.kill(node);
    await write();
    cluster.start(node);
    await cluster.ready(node);
    await upstream.end();
    await upstream.run();
    await write();
    await until(client, 0, 'count', String(written));
    await until(client, 0, 'k999', '999');
    const status = await cluster.status(node);
    const feed = status.feed as { state: string; recordsCopied: number; lagMs: number };
    assert.equal(feed.state, 'streaming');
    assert.equal(feed.recordsCopied, 0, 'nothing was copied again');
    assert.equal(cluster.log(node).match(/"msg":"copied all records"/g)?.length, 1);
  });

  it('copies again when the server cut its log before this node had it', async () => {
    const parameters = ['-ulog', '{folder}/ulog', '-ulim', '1000', '-sid', '7'];
    const upstream = await startKt(parameters, ['{folder}/a.kct']);
    const { node, client } = await startRoot({
      databases: ['casket.kct'],
      kyotoTycoon: { upstream: `127.0.0.1:${upstream.port}` },
    });
    await upstream.client.setBulk([['stale', '1']], 0);
    await until(client, 0, 'stale', '1');
    await cluster.stop(node);
    await upstream.client.removeBulk(['stale'], 0);
    // It begins a new file once what it wrote so far has reached the disk, a tenth of a second later.
    for (let i = 0; i < 40; i++) {
      await upstream.client.setBulk([[`k${i}`, 'x'.repeat(100)]], 0);
      if (i % 10 === 9) await new Promise((resolve) => setTimeout(resolve, 250));
    }
    await upstream.client.call('ulog_remove');
    cluster.start(node);
    await cluster.ready(node);
    await until(client, 0, 'k39', 'x'.repeat(100));
    await until(client, 0, 'k0', 'x'.repeat(100));
    await until(client, 0, 'stale', undefined);
    assert.match(cluster.log(node), /update log was cut before this node had it/);
  });

  it('takes a server over without a moment without writes: its followers come too', async () => {
    const old = await startKt(['-ulog', '{folder}/ulog', '-sid', '7'], ['%']);
    await old.client.setBulk([['before', '1']], 0);
    const follower = await startKt(
      [
        '-mhost',
        '127.0.0.1',
        '-mport',
        String(old.port),
        '-rts',
        '{folder}/rts',
        '-sid',
        '8',
        '-ulog',
        '{folder}/ulog',
      ],
      ['%'],
    );
    await until(follower.client, 0, 'before', '1');
    const { client, port } = await startUpstream({
      databases: ['casket.kct'],
      kyotoTycoon: { upstream: `127.0.0.1:${old.port}` },
    });
    await until(client, 0, 'before', '1');
    const { status } = await follower.client.call('tune_replication', {
      host: '127.0.0.1',
      port: String(port),
      ts: '0',
    });
    assert.equal(status, 200);
    await old.client.setBulk([['at the old one', '1']], 0);
    await until(follower.client, 0, 'at the old one', '1');
    await client.setBulk([['at the new one', '1']], 0);
    await until(follower.client, 0, 'at the new one', '1');
    const { rows } = await client.call('ulog_list');
    assert.match(rows.get('tokaido.ulog')?.toString() ?? '', /^\d+:\d{19}$/);
    assert.equal((await client.call('ulog_remove')).status, 200);
  });

  it('copies whole databases from it, to it, and through its own command', async () => {
    const server = await startKt([], ['{folder}/a.kct', ':']);
    const { node, client } = await startRoot({});
    const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    const xtMs = 4_102_444_800_000;
    await server.client.setBulk(
      [
        [all, all, xtMs],
        ['empty', ''],
      ],
      0,
    );
    await server.client.setBulk(
      Array.from({ length: 1000 }, (_, i) => [`k${i}`, `v${i}`] as const),
      0,
    );
    const ours = `127.0.0.1:${node.clientPort}`;
    const theirs = `127.0.0.1:${server.port}`;
    const imported = await tokaido(['import', '--from', theirs, '--server', ours, '--json']);
    assert.equal(json(imported).imported, 1002, imported.err);
    const texts = await Promise.all([theirs, ours].map(async (at) => (await tokaido(['export', '--server', at])).out));
    assert.deepEqual(String(texts[1]).split('\n').sort(), String(texts[0]).split('\n').sort());

    const back = await tokaido(['import', '--from', ours, '--server', theirs, '--database', '1', '--json']);
    assert.equal(json(back).imported, 1002, back.err);
    const again = (await tokaido(['export', '--server', theirs, '--database', '1'])).out.toString();
    assert.deepEqual(again.split('\n').sort(), String(texts[0]).split('\n').sort());

    const port = ['-host', '127.0.0.1', '-port', String(server.port)];
    const listed = spawnSync('ktremotemgr', ['list', ...port, '-pv', '-px', '-pt'], { encoding: 'latin1' });
    await client.call('clear', { DB: '0' });
    const taken = await tokaido(['import', '-', '--server', ours, '--encoding', 'hex', '--json'], {
      input: Buffer.from(listed.stdout, 'latin1'),
    });
    assert.equal(json(taken).imported, 1002, taken.err);
    assert.deepEqual((await tokaido(['export', '--server', ours])).out, texts[1]);
  });
});
