/**
 * A machine between root and relay, and between relay and edge, that changes, repeats and records bytes: the link drops,
 * nothing of it is applied, and once it lets go the link comes back by itself. The same between clients and a node:
 * test/transport/client-middle.test.ts.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import type { NodeStatus } from '../../src/node/status/status.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { eventually } from '../support/local-runtime.js';
import { Middle } from '../support/middle.js';

/** A link that was tampered with ends within this, in which a link on which all is quiet would stay. */
const DROP_MS = 5_000;
const SOON_MS = 15_000;
/** Nothing but what the test writes crosses a link: what is changed is that. */
const QUIET = { heartbeatMs: 60_000, proofMs: 60_000, silenceMs: 300_000, reconnectMinMs: 20, reconnectMaxMs: 100 };
/** Of a record on the wire: its type, version, length, its body, and where the tag lies that ends a short one. */
const PLACES = [0, 1, 2, 3, 4, 5, 12, 30, 60];
/** A length that is a little wrong is waited for: here it is one that no record may have. */
const maskAt = (place: number): number => (place === 3 ? 0x80 : 1 << (place % 8));
/** Of a handshake: random, key share, certificate, proof. */
const HANDSHAKE = [20, 100, 300, 600];

describe('bytes between nodes', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  const pairs: { name: string; up: ClusterNode; down: ClusterNode; middle: Middle }[] = [];
  let written = 0;

  const add = async (up: ClusterNode, name: string, role: 'relay' | 'edge'): Promise<ClusterNode> => {
    const middle = new Middle(up.replicationPort);
    await middle.listen();
    const upstreams = [{ address: `127.0.0.1:${middle.port}`, name: up.name }];
    const down = await cluster.add({ name, role, config: { upstreams, replication: QUIET } });
    pairs.push({ name: `${up.name} and ${name}`, up, down, middle });
    return down;
  };
  const get = async ({ clientPort }: ClusterNode, key: string): Promise<string | undefined> => {
    const reply = await fetch(`http://127.0.0.1:${clientPort}/${key}`);
    return reply.ok ? await reply.text() : undefined;
  };
  const put = async (key: string, body: string): Promise<void> => {
    const reply = await fetch(`http://127.0.0.1:${root.clientPort}/${key}`, { method: 'PUT', body });
    assert.equal(reply.status, 201);
  };
  /** Everybody follows, and has a record that was written just now. */
  const settled = async (): Promise<void> => {
    const key = `settled-${++written}`;
    await put(key, 'yes');
    for (const { down } of pairs)
      await eventually(`${down.name} follows`, async () => (await get(down, key)) === 'yes', SOON_MS);
  };
  const sequence = ({ position }: NodeStatus): number => position[0]?.sequence ?? 0;

  /** Writes until the link has dropped; returns the keys. */
  async function writeUntilDropped(middle: Middle, before: number, what: string): Promise<string[]> {
    const keys: string[] = [];
    const start = performance.now();
    while (middle.dropped === before) {
      assert.ok(performance.now() - start < DROP_MS, `${what}: the link stays`);
      const key = `tampered-${++written}`;
      keys.push(key);
      await put(key, 'whole');
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return keys;
  }

  before(async () => {
    cluster = await Cluster.create();
    root = await cluster.add({ name: 'root', role: 'root', config: { replication: QUIET } });
    const relay = await add(root, 'relay', 'relay');
    await add(relay, 'edge', 'edge');
    for (const node of [root, ...pairs.map(({ down }) => down)]) {
      cluster.start(node);
      await cluster.ready(node);
    }
    await settled();
  });
  after(async () => {
    for (const { middle } of pairs) await middle.close();
    await cluster.close();
  });

  for (const [index, name] of ['root and relay', 'relay and edge'].entries()) {
    it(`${name}: one byte changed on its way down ends the link, and nothing that came with it or after it is applied`, async () => {
      const { middle, down } = pairs[index] as (typeof pairs)[number];
      for (const place of PLACES) {
        const before = await cluster.status(down);
        const [altered, dropped] = [middle.altered, middle.dropped];
        middle.isShut = true;
        middle.alter(place, maskAt(place), true);
        const keys = await writeUntilDropped(middle, dropped, `byte ${place}`);
        assert.equal(middle.altered, altered + 1);
        for (const key of keys) assert.equal(await get(down, key), undefined, `byte ${place}: ${key} was applied`);
        assert.equal(sequence(await cluster.status(down)), sequence(before), `byte ${place}`);
        middle.isShut = false;
        await settled();
        for (const key of keys) assert.equal(await get(down, key), 'whole', 'it came over the next link');
      }
    });

    it(`${name}: one byte changed on its way up ends the link, and the upstream goes on as it was`, async () => {
      const { middle, up } = pairs[index] as (typeof pairs)[number];
      for (const place of PLACES) {
        const dropped = middle.dropped;
        middle.isShut = true;
        middle.alter(place, maskAt(place), false);
        // Each write has the follower say how far it is.
        await writeUntilDropped(middle, dropped, `byte ${place}`);
        await eventually('nobody follows', async () => (await cluster.status(up)).followers.length === 0, DROP_MS);
        middle.isShut = false;
        await settled();
      }
    });

    for (const direction of ['up', 'down'] as const) {
      it(`${name}: with one byte of a handshake changed on its way ${direction} there is no link`, async () => {
        const { middle, up, down } = pairs[index] as (typeof pairs)[number];
        for (const place of HANDSHAKE) {
          const [altered, dropped] = [middle.altered, middle.dropped];
          const before = sequence(await cluster.status(down));
          middle.cut();
          middle.alter(place, 4, direction === 'down');
          await eventually(
            `byte ${place} ends it`,
            () => middle.altered > altered && middle.dropped > dropped,
            DROP_MS,
          );
          assert.equal(sequence(await cluster.status(down)), before);
          await settled();
          assert.equal((await cluster.status(up)).followers.length, 1);
        }
      });

      it(`${name}: what is sent twice on its way ${direction} ends the link, and counts once`, async () => {
        const { middle, down } = pairs[index] as (typeof pairs)[number];
        const count = async (): Promise<void> => {
          const url = `http://127.0.0.1:${root.clientPort}/rpc/increment?key=counter-${index}-${direction}&num=1`;
          assert.equal((await fetch(url, { method: 'POST' })).status, 200);
        };
        const dropped = middle.dropped;
        middle.repeat(direction);
        let counted = 0;
        const start = performance.now();
        while (middle.dropped === dropped) {
          assert.ok(performance.now() - start < DROP_MS, 'the link stays');
          await count();
          counted++;
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
        await settled();
        const reply = await fetch(`http://127.0.0.1:${down.clientPort}/counter-${index}-${direction}`);
        assert.equal(Buffer.from(await reply.arrayBuffer()).readBigInt64BE(), BigInt(counted));
      });
    }

    it(`${name}: a follower's conversation that is played again opens nothing, at either node`, async () => {
      const { middle, up, down } = pairs[index] as (typeof pairs)[number];
      const before = await cluster.status(down);
      for (const said of middle.recorded) {
        for (const { replicationPort } of [up, root]) {
          const socket = connect(replicationPort, '127.0.0.1');
          socket.on('error', () => undefined);
          let told = 0;
          socket.on('data', (chunk: Buffer) => (told += chunk.length));
          socket.write(Buffer.concat(said));
          setTimeout(() => socket.end(), 200).unref();
          await once(socket, 'close');
          // What a server says in a handshake, which it begins anew: records of it, and an alert.
          assert.ok(told < 16_384);
        }
      }
      const { followers } = await cluster.status(up);
      assert.deepEqual(
        followers.map((follower) => follower.name),
        [down.name],
      );
      assert.equal(sequence(await cluster.status(down)), sequence(before));
      await settled();
    });
  }
});
