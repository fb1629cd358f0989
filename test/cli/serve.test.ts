/** How `tokaido serve` ends, as a real process. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Cluster } from '../support/cluster.js';
import { repository } from '../support/postgres.js';

const LIMIT_MS = 15_000;

async function serve(config: string): Promise<{ code: number | null; output: string }> {
  const main = join(repository(), 'dist', 'src', 'cli', 'main.js');
  const child = spawn(process.execPath, [main, 'serve', '--config', config], { stdio: ['ignore', 'ignore', 'pipe'] });
  let output = '';
  child.stderr.on('data', (chunk) => (output += chunk));
  const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
  const [code] = (await once(child, 'close')) as [number | null];
  clearTimeout(timer);
  return { code, output };
}

describe('tokaido serve', () => {
  it('ends with its reason when a listener cannot open, whatever else is open already', async () => {
    const cluster = await Cluster.create();
    const taken = createServer();
    try {
      const root = await cluster.add({ name: 'root', role: 'root' });
      const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
      cluster.start(root);
      await cluster.ready(root);
      // The admin listener is the last to open: by then clients are served and the upstream is being followed.
      taken.listen(edge.adminPort, '127.0.0.1');
      await once(taken, 'listening');
      const { code, output } = await serve(join(edge.folder, 'node.yaml'));
      assert.equal(code, 1);
      assert.match(output, /cannot listen on 127\.0\.0\.1:\d+.*EADDRINUSE/);
    } finally {
      taken.close();
      await cluster.close();
    }
  });

  it('refuses a configuration that is wrong with exit code 2', async () => {
    const { code, output } = await serve('/nowhere/node.yaml');
    assert.equal(code, 2);
    assert.match(output, /cannot read the configuration/);
  });
});
