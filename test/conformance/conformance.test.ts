/** What a real Kyoto Tycoon answered, replayed against a real node: no difference. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { repository } from '../support/postgres.js';

describe('recorded Kyoto Tycoon conversations', () => {
  let cluster: Cluster;
  let root: ClusterNode;

  before(async () => {
    cluster = await Cluster.create();
    root = await cluster.add({ name: 'root', role: 'root' });
    cluster.start(root);
    await cluster.ready(root);
  });
  after(async () => await cluster.close());

  const corpus = join(repository(), 'test', 'fixtures', 'kt-corpus');
  const scenarios = readdirSync(corpus).filter((name) => name.endsWith('.json'));

  it('are all there', () => assert.equal(scenarios.length, 8));

  for (const scenario of scenarios) {
    it(`${scenario} gets the same answers`, async () => {
      const child = spawn(process.execPath, [
        join(corpus, 'replay.mjs'),
        '--port',
        String(root.clientPort),
        join(corpus, scenario),
      ]);
      let output = '';
      child.stdout.on('data', (chunk) => (output += chunk));
      const [code] = (await once(child, 'exit')) as [number];
      assert.equal(code, 0, output);
    });
  }
});
