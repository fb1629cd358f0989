/** `tokaido verify` and `tokaido log`: two nodes compared by reading them; the update log listed and cut. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

describe('tokaido verify and log', () => {
  let cluster: Cluster;
  let one: ClusterNode;
  let other: ClusterNode;
  before(async () => {
    cluster = await Cluster.create();
    one = await cluster.add({ name: 'one', role: 'root' });
    other = await cluster.add({ name: 'other', role: 'root' });
    for (const node of [one, other]) cluster.start(node);
    await Promise.all([cluster.ready(one), cluster.ready(other)]);
  });
  after(async () => await cluster.close());

  async function put(node: ClusterNode, key: string, value: string): Promise<void> {
    const response = await fetch(`http://127.0.0.1:${node.clientPort}/${key}`, { method: 'PUT', body: value });
    assert.ok(response.ok, `${response.status}`);
  }

  const at = (node: ClusterNode): string => `127.0.0.1:${node.adminPort}`;

  it('finds a node equal to itself, and names what two nodes do not have in common', async () => {
    for (let i = 0; i < 20; i++) await put(one, `k${i}`, `v${i}`);
    const same = await tokaido(['verify', at(one), at(one)]);
    assert.deepEqual([same.code, same.out.toString().trim(), same.err], [0, 'equal', '']);
    // Another root: the same records by value have other versions. What it has not reached yet is no difference.
    await put(other, 'k3', 'v3');
    await put(other, 'only there', 'x');
    await put(one, 'news', 'x');
    const found = await tokaido(['verify', at(one), at(other), '--json']);
    assert.equal(found.code, 1);
    const { equal, differences } = json(found) as { equal: boolean; differences: { key: string; where: string }[] };
    assert.equal(equal, false);
    const lacking = Array.from({ length: 20 }, (_, i) => `only A k${i}`).filter((text) => text !== 'only A k3');
    assert.deepEqual(
      differences.map(({ key, where }) => `${where} ${key}`).sort(),
      ['differs k3', 'only B only there', ...lacking].sort(),
    );
    const people = await tokaido(['verify', at(one), at(other)]);
    assert.match(people.out.toString(), /^21 records differ\n(only A|differs): default "k/);
  });

  it('reads as slowly as it likes: a long answer leaves nothing behind in the node', async () => {
    const lines = Array.from({ length: 4000 }, (_, i) => `_${'long'.repeat(50)}${i}\tv\n`).join('');
    const headers = { 'content-type': 'text/tab-separated-values' };
    const rpc = `http://127.0.0.1:${one.clientPort}/rpc/set_bulk`;
    assert.ok((await fetch(rpc, { method: 'POST', headers, body: lines })).ok);
    assert.equal((await tokaido(['verify', at(one), at(other), '--json'])).code, 1);
    assert.doesNotMatch(cluster.log(one), /Warning/);
  });

  it('says which node it cannot reach', async () => {
    const { code, err } = await tokaido(['verify', at(one), '127.0.0.1:1']);
    assert.equal(code, 1);
    assert.match(err, /127\.0\.0\.1:1: /);
  });

  it('lists the update log and cuts it; what is left can still be listed', async () => {
    await put(one, 'logged', 'x'.repeat(100));
    const list = async () => {
      const text = await tokaido(['log', 'list', '--admin', at(one), '--limit', '10000', '--json']);
      return json(text) as unknown as { next: number; batches: { first: number; count: number; bytes: number }[] };
    };
    const before = await list();
    assert.equal(before.batches[0]?.first, 1);
    const last = before.batches.at(-1);
    assert.equal((last?.first ?? 0) + (last?.count ?? 0), before.next);
    const people = await tokaido(['log', 'list', '--admin', at(one), '--from', String(last?.first)]);
    assert.match(people.out.toString(), /^\d+ to \d+ {2}\d{4}-.*Z {2}\d+ bytes {2}after 1:\d+\nnext: \d+\n$/);
    const trimmed = json(await tokaido(['log', 'trim', '--keep-bytes', '150', '--admin', at(one), '--json']));
    assert.ok(Number(trimmed.first) > 1 && Number(trimmed.bytes) <= 150, JSON.stringify(trimmed));
    const { batches } = await list();
    assert.equal(batches[0]?.first, trimmed.first);
    const nothing = await tokaido(['log', 'trim', '--admin', at(one)]);
    assert.equal(nothing.code, 2);
    assert.match(nothing.err, /^error: give --keep-bytes or --keep-ms/);
    const wrong = await tokaido(['log', 'list', '--limit', '20000', '--admin', at(one)]);
    assert.deepEqual([wrong.code, /^error: limit: /.test(wrong.err)], [2, true], wrong.err);
  });
});
