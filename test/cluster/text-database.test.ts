/** A text file as a database of a root: loaded at start, made equal at the next, and replicated. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { TokaidoClient } from '../../src/client/index.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

describe('a text database', () => {
  let cluster: Cluster | undefined;
  afterEach(async () => await cluster?.close());

  /** Waits until `key` has this value (or none) on a node. */
  async function until(node: ClusterNode, key: string, expected: string | undefined): Promise<void> {
    const client = new TokaidoClient({ server: `127.0.0.1:${node.clientPort}` });
    let found: string | undefined;
    for (let i = 0; i < 200; i++) {
      found = (await client.get(key, { database: 'lines.kcx' }).catch(() => undefined))?.value.toString();
      if (found === expected) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    client.close();
    assert.equal(found, expected);
  }

  it('has each line under its offset, on every node, and follows the file at the next start', async () => {
    cluster = await Cluster.create();
    const file = join(cluster.folder, 'lines.kcx');
    writeFileSync(file, 'first\n\nthird\nlast without newline');
    const config = { databases: ['default', `${file}#ktopts=p`] };
    const root = await cluster.add({ name: 'root', role: 'root', config });
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
    for (const node of [root, edge]) cluster.start(node);
    for (const node of [root, edge]) await cluster.ready(node);
    await until(edge, '0000000000000000', 'first');
    await until(edge, '0000000000000006', '');
    await until(edge, '0000000000000007', 'third');
    await until(edge, '000000000000000D', 'last without newline');

    await cluster.stop(root);
    writeFileSync(file, 'other\nfirst\n');
    cluster.start(root);
    await cluster.ready(root);
    await until(edge, '0000000000000006', 'first');
    await until(edge, '0000000000000000', 'other');
    await until(edge, '0000000000000007', undefined);
    await until(edge, '000000000000000D', undefined);
  });
});
