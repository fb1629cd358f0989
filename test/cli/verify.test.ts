/** `tokaido verify`: two nodes compared by reading their records, while they run. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

describe('tokaido verify', () => {
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
    await put(other, 'only here', 'x');
    const found = await tokaido(['verify', at(one), at(other), '--json']);
    assert.equal(found.code, 1);
    const { equal, differences } = json(found) as { equal: boolean; differences: { key: string; where: string }[] };
    assert.equal(equal, false);
    assert.deepEqual(
      differences.map(({ key, where }) => `${where} ${key}`).sort(),
      [
        'differs k3',
        ...Array.from({ length: 20 }, (_, i) => `only A k${i}`).filter((text) => text !== 'only A k3'),
      ].sort(),
    );
    const people = await tokaido(['verify', at(one), at(other)]);
    assert.match(people.out.toString(), /^20 records differ\n(only A|differs): default "k/);
  });

  it('says which node it cannot reach', async () => {
    const { code, err } = await tokaido(['verify', at(one), '127.0.0.1:1']);
    assert.equal(code, 1);
    assert.match(err, /127\.0\.0\.1:1: /);
  });
});
