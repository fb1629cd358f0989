/** The command line with a root, an edge and a Postgres: real processes, their output, and their exit codes. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { TestPostgres } from '../support/postgres.js';

describe('tokaido with a cluster', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  let atRoot: string[];
  let atEdge: string[];
  before(async () => {
    cluster = await Cluster.create();
    const config = { databases: ['one', 'two'] };
    root = await cluster.add({ name: 'root', role: 'root', config });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config });
    cluster.start(root);
    cluster.start(edge);
    await Promise.all([cluster.ready(root), cluster.ready(edge)]);
    atRoot = ['--server', `127.0.0.1:${root.clientPort}`];
    atEdge = ['--server', `127.0.0.1:${edge.clientPort}`];
  });
  after(async () => await cluster.close());

  it('set, get and remove: values on standard output, 3 for no record', async () => {
    assert.deepEqual(json(await tokaido(['set', 'a/b', 'v', '--json', ...atRoot])), { key: 'a/b', stored: true });
    const plain = await tokaido(['get', 'a/b', ...atRoot]);
    assert.deepEqual([plain.code, plain.out.toString(), plain.err], [0, 'v', '']);
    assert.deepEqual(json(await tokaido(['get', 'a/b', '--json', ...atRoot])), { key: 'a/b', value: 'v' });
    const other = await tokaido(['get', 'a/b', '--database', 'two', ...atRoot]);
    assert.equal(other.code, 3);
    assert.match(other.err, /error: no record "a\/b"/);
    assert.equal((await tokaido(['get', 'a/b', '--database', 'three', ...atRoot])).code, 1);
    assert.deepEqual(json(await tokaido(['remove', 'a/b', '--json', ...atRoot])), { key: 'a/b', removed: true });
    const gone = await tokaido(['remove', 'a/b', '--json', ...atRoot]);
    assert.equal(gone.code, 3);
    assert.equal((JSON.parse(gone.err) as { error: { code: string } }).error.code, 'NO_RECORD');
  });

  it('binary values go in by standard input and out by standard output', async () => {
    const value = Buffer.from(Array.from({ length: 70_000 }, (_, i) => (i * 7) % 256));
    assert.equal((await tokaido(['set', 'bin', '-', ...atRoot], { input: value })).code, 0);
    assert.deepEqual((await tokaido(['get', 'bin', ...atRoot])).out, value);
    assert.equal(json(await tokaido(['get', 'bin', '--json', ...atRoot])).valueBase64, value.toString('base64'));
    const file = join(cluster.folder, 'value');
    writeFileSync(file, value.subarray(1));
    assert.equal((await tokaido(['set', 'bin', '--file', file, ...atRoot])).code, 0);
    assert.deepEqual((await tokaido(['get', 'bin', ...atRoot])).out, value.subarray(1));
  });

  it('--add, --replace, --ttl and --expires', async () => {
    assert.equal((await tokaido(['set', 'x', '1', '--replace', ...atRoot])).code, 3);
    assert.equal((await tokaido(['set', 'x', '1', '--add', ...atRoot])).code, 0);
    const twice = await tokaido(['set', 'x', '2', '--add', ...atRoot]);
    assert.equal(twice.code, 1);
    assert.match(twice.err, /error: .*record/);
    await tokaido(['set', 'x', '1', '--expires', '2100-01-01T00:00:00Z', ...atRoot]);
    assert.equal(json(await tokaido(['get', 'x', '--json', ...atRoot])).expires, '2100-01-01T00:00:00.000Z');
    const beforeMs = Date.now();
    await tokaido(['set', 'x', '1', '--ttl', '2h', ...atRoot]);
    const expires = Date.parse(json(await tokaido(['get', 'x', '--json', ...atRoot])).expires as string);
    assert.ok(expires >= beforeMs + 7_200_000 && expires < Date.now() + 7_201_000);
  });

  it('a write at an edge is refused and names the root', async () => {
    const refused = await tokaido(['set', 'a', 'b', ...atEdge]);
    assert.equal(refused.code, 1);
    assert.match(
      refused.err,
      new RegExp(`takes no writes.*root at 127\\.0\\.0\\.1:${root.clientPort}\nhint: send writes to`),
    );
    assert.equal((await tokaido(['remove', 'a', ...atEdge])).code, 1);
  });

  it('a server that is not there is named, with what to check', async () => {
    for (const command of [
      ['get', 'a'],
      ['set', 'a', 'b'],
      ['remove', 'a'],
    ]) {
      const { code, err } = await tokaido([...command, '--server', '127.0.0.1:1']);
      assert.equal(code, 1);
      assert.match(err, /127\.0\.0\.1:1: .*ECONNREFUSED.*\nhint: check that the node runs, and that --server/);
    }
    const { code, err } = await tokaido(['status', '--admin', '127.0.0.1:1']);
    assert.equal(code, 1);
    assert.match(
      err,
      /no status from the admin listener 127\.0\.0\.1:1: .+\nhint: check that the node runs and that --admin/,
    );
    const wrong = await tokaido(['status', '--admin', `127.0.0.1:${root.clientPort}`]);
    assert.equal(wrong.code, 1);
    assert.match(wrong.err, /not the admin listener/);
  });

  it('status for people and for programs', async () => {
    const people = (await tokaido(['status', '--admin', `127.0.0.1:${edge.adminPort}`])).out.toString();
    assert.match(people, /^node +edge \(edge\), cluster [0-9a-f]{32}, version /);
    assert.match(people, /\nupstream +root at 127\.0\.0\.1:\d+: following/);
    assert.match(people, /\ndatabase 1 +two: 0 records/);
    const status = json(await tokaido(['status', '--json', '--admin', `127.0.0.1:${root.adminPort}`]));
    const shape = [
      'certificate',
      'clusterId',
      'databases',
      'followers',
      'instanceId',
      'lagMs',
      'log',
      'name',
      'position',
      'ready',
      'recovering',
      'role',
      'store',
      'uptimeMs',
      'version',
    ];
    assert.deepEqual(
      shape.filter((key) => !(key in status)),
      [],
    );
    const [follower] = status.followers as Record<string, unknown>[];
    assert.deepEqual(Object.keys(follower ?? {}).sort(), [
      'address',
      'connectedMs',
      'lagChanges',
      'name',
      'queuedBytes',
      'role',
      'scope',
      'state',
    ]);
  });
});

describe('tokaido status of a node that was not restarted after an upgrade', () => {
  it('shows what that node says', async () => {
    const cluster = await Cluster.create();
    const node = await cluster.add({ name: 'root', role: 'root' });
    cluster.start(node);
    await cluster.ready(node);
    const { announced, writesRefused, ...older } = await cluster.status(node);
    const server = createServer((_, response) => response.end(JSON.stringify(older))).listen(0, '127.0.0.1');
    try {
      await once(server, 'listening');
      const { port } = server.address() as AddressInfo;
      const { code, out, err } = await tokaido(['status', '--admin', `127.0.0.1:${port}`]);
      assert.deepEqual([code, err], [0, '']);
      assert.match(out.toString(), /^node +root \(root\)/);
      assert.deepEqual([announced, writesRefused], [[], undefined]);
    } finally {
      server.close();
      await cluster.close();
    }
  });
});

describe('tokaido pg setup', () => {
  it('makes the publication once, says so, and names what is wrong without the password', async () => {
    const postgres = await TestPostgres.start();
    const cluster = await Cluster.create();
    try {
      const sql = await postgres.connect();
      await sql.query('CREATE TABLE kv (k text PRIMARY KEY, v text)');
      const table = { table: 'public.kv', database: 'default', key: '{k}', value: { column: 'v' } };
      const at = async (name: string, section: object): Promise<string[]> => {
        const node = await cluster.add({
          name,
          role: 'root',
          config: { postgres: { connection: postgres.url, tables: [table], ...section } },
        });
        return ['pg', 'setup', '--config', join(node.folder, 'node.yaml')];
      };
      const command = await at('good', {});
      const first = await tokaido([...command, '--json']);
      assert.deepEqual(json(first), {
        statements: ['CREATE PUBLICATION "tokaido" FOR TABLE "public"."kv" WITH (publish_via_partition_root = true)'],
        publication: 'tokaido',
        slot: 'tokaido',
        slotExists: false,
      });
      const second = await tokaido(command);
      assert.equal(second.code, 0);
      assert.equal(
        second.out.toString(),
        'publication tokaido is ready; slot tokaido will be made at the first start\n',
      );
      const { rows } = await sql.query('SELECT 1 FROM pg_publication_tables WHERE pubname = $1', ['tokaido']);
      assert.equal(rows.length, 1);
      await sql.end();
      const missing = await tokaido(await at('missing', { tables: [{ ...table, table: 'public.none' }] }));
      assert.equal(missing.code, 1);
      assert.match(missing.err, /error: there is no table public\.none\nhint: /);
      const denied = await tokaido(await at('denied', { connection: postgres.url.replace('secret', 'wr0ng') }));
      assert.equal(denied.code, 1);
      assert.match(denied.err, /password authentication failed[^\n]*\nhint: check the user/);
      assert.doesNotMatch(denied.err, /wr0ng/);
    } finally {
      await cluster.close();
      await postgres.stop();
    }
  });
});
