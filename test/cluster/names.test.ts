/**
 * Upstreams by DNS names, with real processes and a real DNS server: of several addresses each is tried, a name may move
 * while a node runs, SRV records name hosts and ports, and a name that stands for nothing is named.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { parse, stringify } from 'yaml';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { DnsServer } from '../support/dns-server.js';
import { eventually } from '../support/local-runtime.js';
import { freePort } from '../support/postgres.js';

/** On a busy machine a process takes seconds to start. */
const SOON_MS = 30_000;
/** Nothing listens there. */
const DEAD = '127.0.0.9';

describe('an edge whose upstream is a name', () => {
  let cluster: Cluster;
  let dns: DnsServer;
  let root: ClusterNode;
  let relays: readonly [ClusterNode, ClusterNode];
  let edge: ClusterNode;
  let port: number;

  function configure(node: ClusterNode, change: (settings: Record<string, Record<string, unknown>>) => void): void {
    const path = join(node.folder, 'node.yaml');
    const settings = parse(readFileSync(path, 'utf8')) as Record<string, Record<string, unknown>>;
    change(settings);
    writeFileSync(path, stringify(settings));
  }

  async function relayAt(name: string, host: string): Promise<ClusterNode> {
    const relay = await cluster.add({ name, role: 'relay', upstreams: [root], replicationPort: port });
    configure(relay, ({ listen }) => Object.assign(listen as object, { replication: { host, port } }));
    return relay;
  }

  async function edgeAt(name: string, address: string): Promise<ClusterNode> {
    const replication = { dns: [dns.address], reconnectMinMs: 50, reconnectMaxMs: 200 };
    return await cluster.add({ name, role: 'edge', config: { upstreams: [{ address }], replication } });
  }

  const say = (addresses: readonly string[]): void => {
    dns.zone = { ...dns.zone, addresses: { ...dns.zone.addresses, 'relays.test': addresses } };
  };
  const upstreamOf = async (node: ClusterNode) => (await cluster.status(node)).upstream;
  const follows = (name: string) => async () => {
    const upstream = await upstreamOf(edge);
    return upstream?.name === name && upstream.state === 'following';
  };

  before(async () => {
    cluster = await Cluster.create();
    dns = await DnsServer.open({ addresses: { 'relays.test': [DEAD, '127.0.0.2'], 'second.test': ['127.0.0.3'] } });
    port = await freePort();
    root = await cluster.add({ name: 'root', role: 'root' });
    relays = [await relayAt('relay-1', '127.0.0.2'), await relayAt('relay-2', '127.0.0.3')];
    edge = await edgeAt('edge', `relays.test:${port}`);
    for (const node of [root, ...relays, edge]) cluster.start(node);
    for (const node of [root, ...relays, edge]) await cluster.ready(node);
  });
  after(async () => {
    await cluster.close();
    await dns.close();
  });

  it('with a dead and a living address reaches the living one', async () => {
    await eventually('the first relay is followed', follows('relay-1'), SOON_MS);
    assert.equal((await upstreamOf(edge))?.address, `relays.test:${port}`);
  });

  it('goes where the name has moved, with its position', async () => {
    say(['127.0.0.3']);
    await cluster.kill(relays[0]);
    await eventually('the second relay is followed', follows('relay-2'), SOON_MS);
    assert.equal(cluster.log(edge).split('the snapshot is loaded').length - 1, 1);
  });

  it('says which name stands for nothing, asks again with back-off, and goes on when it is back', async () => {
    dns.zone = { addresses: { 'second.test': ['127.0.0.3'] } };
    await cluster.kill(relays[1]);
    const said = 'there is no such name as relays.test';
    await eventually('it says so', async () => (await upstreamOf(edge))?.lastError === said, SOON_MS);
    const [before, startMs] = [dns.asked, performance.now()];
    await new Promise((resolve) => setTimeout(resolve, 1000));
    // Two questions (A, AAAA) for each attempt, and an attempt each 100 to 200 ms.
    const most = (2 * (performance.now() - startMs)) / 100 + 4;
    assert.ok(dns.asked > before && dns.asked - before <= most, `${dns.asked - before} questions`);
    cluster.start(relays[1]);
    say(['127.0.0.3']);
    await eventually('the second relay is followed', follows('relay-2'), SOON_MS);
  });

  it('of SRV records reaches the host and port that they name', async () => {
    dns.zone = {
      ...dns.zone,
      services: {
        '_tokaido._tcp.test': [
          { name: 'relays.gone.test', port: 1, priority: 0, weight: 0 },
          { name: 'second.test', port, priority: 1, weight: 0 },
        ],
      },
    };
    const other = await edgeAt('edge-2', '_tokaido._tcp.test');
    cluster.start(other);
    await cluster.ready(other);
    const upstream = await upstreamOf(other);
    assert.deepEqual([upstream?.name, upstream?.address], ['relay-2', '_tokaido._tcp.test']);
  });
});
