/** Waits until nodes of a real cluster stand at one position, and has `tokaido verify` compare their records. */
import assert from 'node:assert/strict';
import { tokaido } from './cli.js';
import type { Cluster, ClusterNode } from './cluster.js';

const LIMIT_MS = 60_000;

export async function becomeEqual(cluster: Cluster, nodes: readonly ClusterNode[]): Promise<void> {
  const startMs = performance.now();
  const positionOf = async (node: ClusterNode): Promise<string> =>
    JSON.stringify((await cluster.status(node)).position);
  for (;;) {
    // One that is about to start does not answer yet.
    const at = await Promise.all(nodes.map(async (node) => await positionOf(node).catch(String)));
    if (at.every((position) => position === at[0])) break;
    assert.ok(performance.now() - startMs < LIMIT_MS, `not at one position: ${at.join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const [first, ...others] = nodes.map((node) => `127.0.0.1:${node.adminPort}`);
  for (const other of others) {
    const { code, out, err } = await tokaido(['verify', first as string, other]);
    assert.equal(code, 0, `${out.toString()}${err}`);
  }
}
