/**
 * Discovery through the topology, with real processes: an edge that knows one relay, and loses it, goes on under another
 * one that has announced itself, with its position; and nobody can announce in another node's name.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { loadNodeIdentity, type NodeIdentity } from '../../src/pki/identity.js';
import { LiveValue } from '../../src/pki/live.js';
import { encodeStatement } from '../../src/pki/node-statement.js';
import { encodeAnnounced } from '../../src/replication/following/discovery.js';
import { encodeFrame, FrameDecoder, PROTOCOL_VERSION } from '../../src/replication/frames/frames.js';
import { Scope } from '../../src/replication/scope.js';
import { connectToUpstream } from '../../src/transport/tls-link.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { freePort } from '../support/postgres.js';

const RETURN_MS = 1500;
/** On a busy machine a process takes seconds to start. */
const SOON_MS = 30_000;

describe('an edge that knows one relay of several', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let relays: readonly ClusterNode[];
  let edge: ClusterNode;

  const quick = { reconnectMinMs: 20, reconnectMaxMs: 200, returnMs: RETURN_MS };

  /** The first that is tried after a loss hands on less than the edge has; the edge sees a part of the data itself. */
  async function relayOf(index: number, prefix: string, priority: number): Promise<ClusterNode> {
    const port = await freePort();
    const replication = {
      ...quick,
      announce: { address: `127.0.0.1:${port}`, priority },
      scopes: [{ names: ['edge', 'relay-*'], databases: ['default'], prefixes: [prefix] }],
    };
    return await cluster.add({
      name: `relay-${index}`,
      role: 'relay',
      upstreams: [root],
      replicationPort: port,
      config: { replication },
    });
  }

  before(async () => {
    cluster = await Cluster.create();
    root = await cluster.add({ name: 'root', role: 'root' });
    relays = [await relayOf(1, 'a/', 0), await relayOf(2, 'a/', 1), await relayOf(3, 'a/less/', 0)];
    edge = await cluster.add({
      name: 'edge',
      role: 'edge',
      upstreams: [relays[0] as ClusterNode],
      config: { replication: { ...quick, discover: true } },
    });
    for (const node of [root, ...relays, edge]) cluster.start(node);
    for (const node of [root, ...relays, edge]) await cluster.ready(node);
  });
  after(async () => await cluster.close());

  const put = async (key: string, value: string): Promise<void> => {
    const at = `http://127.0.0.1:${root.clientPort}/${encodeURIComponent(key)}`;
    assert.ok((await fetch(at, { method: 'PUT', body: value })).ok);
  };
  const get = async (key: string): Promise<string> => {
    return await (await fetch(`http://127.0.0.1:${edge.clientPort}/${encodeURIComponent(key)}`)).text();
  };
  const snapshots = (): number => cluster.log(edge).split('the snapshot is loaded').length - 1;
  const upstreamOf = async (node: ClusterNode) => (await cluster.status(node)).upstream;
  const announcedAt = async (node: ClusterNode): Promise<string[]> => {
    return (await cluster.status(node)).announced.map(({ name }) => name);
  };
  const follows = (name: string) => async () => {
    const upstream = await upstreamOf(edge);
    return upstream?.name === name && upstream.state === 'following';
  };

  it('hears of all that announce themselves, although it sees a part of the data only', async () => {
    const names = ['relay-1', 'relay-2', 'relay-3'];
    for (const node of [root, edge])
      await eventually('all are announced', async () => (await announcedAt(node)).join() === names.join(), SOON_MS);
    for (const relay of relays)
      await eventually('it knows', async () => (await cluster.status(relay)).announcement?.isKnown === true, SOON_MS);
    assert.equal((await upstreamOf(edge))?.isDiscovered, false);
    await put('a/1', '1');
    await eventually('the edge has it', async () => (await get('a/1')) === '1');
  });

  it('goes on under another that hands on the same, with its position, when its own is killed', async () => {
    const before = snapshots();
    await cluster.kill(relays[0] as ClusterNode);
    await put('a/2', '2');
    await eventually('another relay is followed', follows('relay-2'), SOON_MS);
    await eventually('the edge has what came since', async () => (await get('a/2')) === '2');
    assert.equal((await upstreamOf(edge))?.isDiscovered, true);
    assert.equal(snapshots(), before, 'no snapshot');
    assert.match(cluster.log(edge), /it would hand on another part of the data than is here/);
    assert.match(cluster.log(edge), /no configured upstream serves this node: following one that the cluster told of/);
    const metrics = await (await fetch(`http://127.0.0.1:${edge.adminPort}/metrics`)).text();
    assert.match(metrics, /^tokaido_upstream_discovered 1$/m);
    assert.match(metrics, /^tokaido_announced_nodes 3$/m);
  });

  it('returns to its own when that is back for a while', async () => {
    const before = snapshots();
    cluster.start(relays[0] as ClusterNode);
    await eventually('its own is followed', follows('relay-1'), RETURN_MS + SOON_MS);
    assert.equal((await upstreamOf(edge))?.isDiscovered, false);
    await put('a/3', '3');
    await eventually('the edge has it', async () => (await get('a/3')) === '3');
    assert.equal(snapshots(), before, 'no snapshot');
  });

  /** What the root answers, through a relay, to what somebody says who has this certificate. */
  async function asked(from: NodeIdentity, statement: Buffer): Promise<string> {
    const { clusterId, name } = from.identity;
    const decoder = new FrameDecoder();
    decoder.allowLargeFrames();
    return await new Promise<string>((resolve, reject) => {
      connectToUpstream({
        host: '127.0.0.1',
        port: (relays[1] as ClusterNode).replicationPort,
        expectedName: 'relay-2',
        identity: new LiveValue(from),
        log: silentLogger,
        runtime: localRuntime(),
        onLink: (link) => {
          const hello = { version: PROTOCOL_VERSION, clusterId, self: { instanceId: 'ab'.repeat(16), name } };
          const rest = { seeded: false, isLook: false, position: [], scopeId: Scope.WHOLE.id, takesHorizon: true };
          link.send([
            encodeFrame({ type: 'hello', ...hello, ...rest, resumes: false, unpacks: [] }),
            encodeFrame({ type: 'ask', id: 1, request: statement }),
          ]);
          return {
            onData: (chunk) => {
              for (const frame of decoder.push(chunk)) {
                if (frame.type !== 'answer' && frame.type !== 'refuse') continue;
                link.close();
                resolve(frame.type === 'answer' ? frame.answer.toString() : `${frame.code}: ${frame.message}`);
              }
            },
            onDrain: () => undefined,
            onClose: reject,
          };
        },
      }).catch(reject);
    });
  }

  it('is told of nobody by a relay that speaks in the name of another', async () => {
    const [rogue, victim] = relays.slice(1) as [ClusterNode, ClusterNode];
    const files = (node: ClusterNode) => {
      const [certificate, key, ca] = ['node.crt', 'node.key', 'ca.crt'].map((file) => join(node.folder, file));
      return { certificate, key, ca } as Parameters<typeof loadNodeIdentity>[0];
    };
    const [own, its] = [rogue, victim].map((node) => loadNodeIdentity(files(node), Date.now())) as [
      NodeIdentity,
      NodeIdentity,
    ];
    const dead = { host: '127.0.0.1', port: 9, priority: 0, atMs: Date.now() };
    const text = (name: string) => JSON.stringify({ name, announced: encodeAnnounced(dead).toString() });
    const signed = await encodeStatement(text('relay-3'), own);
    assert.match(await asked(own, signed), /relay-2 announces an address for relay-3/);
    const forged = await encodeStatement(text('relay-3'), { ...its, keyPem: own.keyPem });
    assert.match(await asked(own, forged), /in the name of relay-3 is not signed by it/);
    const address = (await cluster.status(edge)).announced.find(({ name }) => name === 'relay-3')?.address;
    assert.equal(address, `127.0.0.1:${victim.replicationPort}`);
    // In its own name it may speak, through whomever.
    const right = encodeAnnounced({ ...dead, port: rogue.replicationPort, priority: 1, atMs: Date.now() }).toString();
    const itself = JSON.stringify({ name: 'relay-2', announced: right });
    assert.equal(await asked(own, await encodeStatement(itself, own)), '{}');
  });
});
