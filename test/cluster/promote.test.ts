/** The root is lost, a relay takes its place in one command, and the old root comes back with what only it had. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { parse, stringify } from 'yaml';
import { issueCertificate } from '../../src/pki/ca/ca.js';
import { BadNetwork, FAIR } from '../support/bad-network.js';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const LIMIT_MS = 40_000;
const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

describe('tokaido promote', () => {
  let cluster: Cluster;
  let network: BadNetwork;
  let old: ClusterNode;
  let relay: ClusterNode;
  let edges: ClusterNode[];

  before(async () => {
    cluster = await Cluster.create();
    const replication = { silenceMs: 1500, reconnectMaxMs: 300, proofMs: 500 };
    old = await cluster.add({ name: 'root-1', role: 'root', config: { replication } });
    network = await BadNetwork.before(old.replicationPort);
    const through = { ...old, replicationPort: network.port };
    const config = { replication: { ...replication, discover: true } };
    relay = await cluster.add({ name: 'relay', role: 'relay', upstreams: [through], config });
    edges = [
      await cluster.add({ name: 'edge-1', role: 'edge', upstreams: [relay, through], config: { replication } }),
      // It sees more of the root than the relay does.
      await cluster.add({ name: 'edge-2', role: 'edge', upstreams: [old, relay], config: { replication } }),
    ];
    for (const node of [old, relay, ...edges]) cluster.start(node);
    for (const node of [old, relay, ...edges]) await cluster.ready(node);
    await issueCertificate({
      ca: join(cluster.folder, 'ca'),
      out: join(cluster.folder, 'for-the-relay'),
      role: 'root',
      name: 'relay',
      days: 30,
      dns: [],
      ip: [],
      nowMs: Date.now(),
    });
  });
  after(async () => {
    await cluster.close();
    await network.close();
  });

  const put = async (node: ClusterNode, key: string, value: string): Promise<Response> =>
    await fetch(`http://127.0.0.1:${node.clientPort}/${key}`, { method: 'PUT', body: value });

  const read = async (node: ClusterNode, key: string): Promise<string | undefined> => {
    const response = await fetch(`http://127.0.0.1:${node.clientPort}/${key}`).catch(() => undefined);
    const text = await response?.text();
    return response?.ok === true ? text : undefined;
  };

  async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const startMs = performance.now();
    while (!(await holds().catch(() => false))) {
      assert.ok(performance.now() - startMs < LIMIT_MS, `not in time: ${what}`);
      await sleep(50);
    }
  }

  const promote = async (...more: readonly string[]): Promise<ReturnType<typeof tokaido>> =>
    await tokaido(['promote', '--config', join(relay.folder, 'node.yaml'), ...more]);

  it('needs a certificate of role root, and changes nothing without one', async () => {
    const path = join(relay.folder, 'node.yaml');
    const text = readFileSync(path, 'utf8');
    const without = await promote();
    assert.equal(without.code, 2);
    assert.match(without.err, /--sid, --certificate and --key/);
    const own = ['--certificate', join(relay.folder, 'node.crt'), '--key', join(relay.folder, 'node.key')];
    const refused = await promote('--sid', '2', ...own);
    assert.equal(refused.code, 1);
    assert.match(refused.err, /is of role relay/);
    assert.equal(readFileSync(path, 'utf8'), text);
  });

  it('makes the relay the root in one command, with what the followers of the old root had seen', async () => {
    assert.ok((await put(old, 'seen', 'by all')).ok);
    await until('all have it', async () => (await read(edges[0] as ClusterNode, 'seen')) === 'by all');
    network.weather = { delayMs: 0, isCut: true };
    await put(old, 'seen-by-one', 'edge-2');
    await until('one edge has it', async () => (await read(edges[1] as ClusterNode, 'seen-by-one')) === 'edge-2');
    await cluster.stop(edges[1] as ClusterNode);
    await put(old, 'unseen', 'by anybody');
    await put(old, 'both', 'old');
    await cluster.kill(old);
    const { code, err, out } = await promote(
      ...['--sid', '2', '--peer', `root-1@127.0.0.1:${old.replicationPort}`],
      ...['--certificate', join(cluster.folder, 'for-the-relay', 'node.crt')],
      ...['--key', join(cluster.folder, 'for-the-relay', 'node.key')],
    );
    assert.equal(code, 0, `${out.toString()}${err}${cluster.log(relay).slice(-2000)}`);
    assert.ok((await put(relay, 'both', 'new')).ok);
    await until('the edge has it', async () => (await read(edges[0] as ClusterNode, 'both')) === 'new');
    cluster.start(edges[1] as ClusterNode);
    await until('the root has what only the edge had', async () => (await read(relay, 'seen-by-one')) === 'edge-2');
    await until('and so has the other edge', async () => {
      return (await read(edges[0] as ClusterNode, 'seen-by-one')) === 'edge-2';
    });
    await until('nobody counts the lag of a root that is gone', async () => {
      const lags = await Promise.all(edges.map(async (edge) => (await cluster.status(edge)).lagMs));
      return lags.every((lagMs) => lagMs !== null && lagMs < 1500);
    });
  });

  it('keeps the old root from writing when it comes back as if nothing had happened', async () => {
    network.weather = FAIR;
    cluster.start(old);
    await cluster.ready(old);
    await until('it is told', async () => {
      const response = await put(old, 'split', 'brain');
      return !response.ok && /relay has taken the place of this one/.test(await response.text());
    });
    assert.equal(await read(old, 'unseen'), 'by anybody');
    const status = await tokaido(['status', '--admin', `127.0.0.1:${old.adminPort}`]);
    assert.match(status.out.toString(), /^writes +REFUSED: the root relay has taken the place of this one$/m);
  });

  it('merges what only the old root had once it follows, and lists it', async () => {
    await cluster.stop(old);
    const path = join(old.folder, 'node.yaml');
    const settings = parse(readFileSync(path, 'utf8')) as object;
    const peers = [{ address: `127.0.0.1:${relay.replicationPort}`, name: 'relay' }];
    writeFileSync(path, stringify({ ...settings, peers, standby: true }));
    cluster.start(old);
    await cluster.ready(old);
    const all = [old, relay, ...edges];
    await until('all have what was unseen', async () => {
      return (await Promise.all(all.map(async (node) => await read(node, 'unseen')))).every((v) => v === 'by anybody');
    });
    // Written later, so it stays.
    await until('the newer write stays', async () => {
      return (await Promise.all(all.map(async (node) => await read(node, 'both')))).every((v) => v === 'new');
    });
    const refused = await put(old, 'x', 'y');
    assert.match(await refused.text(), /stands by/);
    const listed = json(await tokaido(['unseen', '--config', join(relay.folder, 'node.yaml'), '--json'])) as {
      writes: { key: string; origin: number; holds: boolean }[];
    };
    const about = (key: string): object[] =>
      listed.writes.filter((write) => write.key === key).map(({ origin, holds }) => ({ origin, holds }));
    assert.deepEqual(about('unseen'), [{ origin: 1, holds: true }]);
    assert.deepEqual(about('both'), [{ origin: 1, holds: false }]);
    await until('all stand at one position', async () => {
      const at = await Promise.all(all.map(async (node) => JSON.stringify((await cluster.status(node)).position)));
      return at.every((position) => position === at[0]);
    });
    await until('neither root counts what the other one made itself', async () => {
      const followers = [...(await cluster.status(old)).followers, ...(await cluster.status(relay)).followers];
      return followers.length > 1 && followers.every(({ lagChanges }) => lagChanges === 0);
    });
    for (const node of [relay, ...edges]) {
      const same = await tokaido(['verify', `127.0.0.1:${old.adminPort}`, `127.0.0.1:${node.adminPort}`]);
      assert.equal(same.code, 0, same.out.toString());
    }
  });

  it('makes the old root take writes again in one command', async () => {
    const { code, err } = await tokaido(['promote', '--config', join(old.folder, 'node.yaml')]);
    assert.equal(code, 0, err);
    await until('it takes writes', async () => (await put(old, 'again', 'yes')).ok);
    await until('the others have it', async () => (await read(edges[0] as ClusterNode, 'again')) === 'yes');
  });
});
