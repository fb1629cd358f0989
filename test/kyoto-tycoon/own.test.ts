/** Kyoto Tycoon's replication between two of ours: one root serves it, another follows it, over real sockets. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { KyotoTycoonFeed } from '../../src/feeds/kyoto-tycoon/feed.js';
import { encodeFollowRequest, KT_ACCEPT, type KtEvent, KtStreamDecoder } from '../../src/protocol/kt-replication.js';
import { KtReplicationServer } from '../../src/replication/kyoto-tycoon/server.js';
import type { LocalStore } from '../../src/store/store.js';
import { ClientKeeper } from '../../src/transport/clients/keeper.js';
import { listenForKtFollowers } from '../../src/transport/kt-listener.js';
import type { StreamServer } from '../../src/transport/stream-server.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { StoreBench } from '../support/store-model.js';

const text = (value: string): Buffer => Buffer.from(value, 'latin1');

describe("Kyoto Tycoon's replication between two of ours", () => {
  const ends: (() => Promise<void> | void)[] = [];
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end();
  });

  /** A store with time as it is, so that versions are time stamps of today. */
  function store(sid: number, retainBytes = 2 ** 30): LocalStore {
    const bench = new StoreBench();
    bench.clock.ms = Date.now();
    ends.push(async () => await bench.close());
    return bench.store(sid, { retention: { bytes: retainBytes, ageMs: 10 ** 12 } });
  }

  async function serve(
    upstream: LocalStore,
    options: { allow?: string[]; silenceMs?: number; queueBytes?: number } = {},
  ): Promise<{ server: KtReplicationServer; listener: StreamServer }> {
    const runtime = localRuntime();
    const server = new KtReplicationServer({
      store: upstream,
      runtime,
      log: silentLogger,
      heartbeatMs: 20,
      silenceMs: options.silenceMs ?? 10_000,
      queueBytes: options.queueBytes ?? 2 ** 20,
      snapshots: 1,
    });
    const limits = { idleMs: 0, patienceMs: 30_000, slowestBytesPerSecond: 1, clientBytes: 2 ** 30 };
    const keeper = new ClientKeeper({ limits, runtime, log: silentLogger });
    ends.push(() => keeper.close());
    const listener = await listenForKtFollowers({
      host: '127.0.0.1',
      port: 0,
      tls: undefined,
      allow: options.allow ?? ['127.0.0.1'],
      runtime,
      log: silentLogger,
      maxConnections: 10,
      keeper,
      onLink: (address, link) => {
        const session = server.accept({ address, name: undefined }, link);
        return {
          get isGreeting() {
            return session.state === 'greeting';
          },
          onData: (chunk) => session.onData(chunk),
          onDrain: () => session.onDrain(),
          onClose: () => server.closed(session),
        };
      },
    });
    ends.push(async () => {
      server.close();
      await listener.close();
    });
    return { server, listener };
  }

  function follow(follower: LocalStore, port: number, sid: number): KyotoTycoonFeed {
    const feed = new KyotoTycoonFeed({
      config: {
        upstream: { host: '127.0.0.1', port },
        databases: ['default', 'other'],
        copy: false,
        silenceMs: 5_000,
        intervalMs: 0,
        keyBytes: 1024,
        maxTransactionBytes: 2 ** 20,
        maxTransactionChanges: 100,
        maxUnappliedBytes: 2 ** 20,
      },
      sid,
      runtime: localRuntime(),
      log: silentLogger,
    });
    feed.start(follower);
    ends.push(async () => await feed.stop());
    return feed;
  }

  const live = (of: LocalStore): string[] => {
    return ['default', 'other'].flatMap((database) =>
      [...of.scan(database, {})].map(
        ({ key, record }) => `${database} ${key.toString('latin1')}=${record.value.toString('latin1')} ${record.xtMs}`,
      ),
    );
  };

  async function equal(a: LocalStore, b: LocalStore): Promise<void> {
    await eventually('both have the same records', () => JSON.stringify(live(a)) === JSON.stringify(live(b)));
  }

  it('brings every change, transactions of many changes included, and says that it is caught up', async () => {
    const [upstream, follower] = [store(1), store(2)];
    const { listener, server } = await serve(upstream);
    const feed = follow(follower, listener.port, 2);
    const in60s = Math.ceil(Date.now() / 1000) * 1000 + 60_000;
    await upstream.write((transaction) => {
      for (let i = 0; i < 500; i++) transaction.set('default', text(`k${i}`), text(`v${i}`), i % 2 === 0 ? in60s : 0);
    }).committed;
    await upstream.write((transaction) => transaction.remove('default', text('k7'))).committed;
    await upstream.write((transaction) => transaction.set('other', text('x'), text(''), 0)).committed;
    await equal(upstream, follower);
    assert.equal(live(follower).length, 500);
    await upstream.write((transaction) => transaction.clear('other')).committed;
    await equal(upstream, follower);
    await eventually('it knows that it is caught up', () => (feed.status().lagMs ?? 10_000) < 1000);
    assert.deepEqual(
      server.followers().map(({ name, state, lagChanges }) => ({ name, state, lagChanges })),
      [{ name: 'sid 2', state: 'following', lagChanges: 0 }],
    );
  });

  it('never sends what the cluster keeps for itself, from the log or in a copy', async () => {
    for (const retainBytes of [2 ** 30, 1]) {
      const [upstream, follower] = [store(1, retainBytes), store(2)];
      await upstream.writeReserved((view) => view.set('.tokaido', text('crl/x'), text('secret'), 0)).committed;
      await upstream.write((view) => view.set('default', text('k'), text('v'), 0)).committed;
      await upstream.writeReserved((view) => view.set('.tokaido', text('crl/y'), text('secret'), 0)).committed;
      while (await upstream.sweep()) {
        // Until the log is cut as far as it may be.
      }
      const { listener } = await serve(upstream);
      const socket = connect(listener.port, '127.0.0.1');
      ends.push(() => void socket.destroy());
      const received: Buffer[] = [];
      socket.on('data', (chunk: Buffer) => received.push(chunk));
      socket.write(encodeFollowRequest({ timestampNs: 0n, sid: 9, onlySid: false }));
      follow(follower, listener.port, 2);
      await eventually('a follower has everything', () => live(follower).length === 1);
      await eventually('the record is sent', () => Buffer.concat(received).includes('v'));
      assert.ok(!Buffer.concat(received).includes('crl/') && !Buffer.concat(received).includes('secret'));
      assert.deepEqual([...follower.reserved('')], []);
    }
  });

  it('invariant 3: goes on at its time stamp after each of many lost connections, and applies nothing twice', async () => {
    const [upstream, follower] = [store(1), store(2)];
    let served = await serve(upstream);
    let feed = follow(follower, served.listener.port, 2);
    for (let round = 1; round <= 5; round++) {
      for (let i = 0; i < 40; i++) {
        // A counter: were a transaction applied twice out of order, it would go back.
        void upstream.write((transaction) => transaction.set('default', text('count'), text(`${round}.${i}`), 0));
      }
      await eventually('something arrived', () => follower.count('default') === 1);
      await feed.stop();
      served.server.close();
      served = await serve(upstream);
      feed = follow(follower, served.listener.port, 2);
      await equal(upstream, follower);
    }
    const transactions = follower.position().find(({ sid }) => sid === 2)?.sequence ?? 0;
    const own = upstream.position().find(({ sid }) => sid === 1)?.sequence ?? 0;
    assert.ok(transactions <= own, `${transactions} transactions of ${own}`);
  });

  it('follows another server from a time stamp on, then nobody, when it is told to', async () => {
    const [first, second, follower] = [store(1), store(3), store(2)];
    const write = async (to: LocalStore, key: string): Promise<void> => {
      await to.write((transaction) => transaction.set('default', text(key), text('1'), 0)).committed;
    };
    const has = (key: string): boolean => follower.get('default', text(key)) !== undefined;
    const one = await serve(first);
    const two = await serve(second);
    await write(second, 'too old');
    const timestampNs = second.position()[0]?.versionNs ?? 0n;
    await write(second, 'of the second');
    const feed = follow(follower, one.listener.port, 2);
    await write(first, 'of the first');
    await eventually('it follows the first', () => has('of the first'));

    feed.follow({ upstream: { host: '127.0.0.1', port: two.listener.port }, timestampNs, intervalMs: undefined });
    await eventually('it follows the second', () => has('of the second'));
    assert.equal(has('too old'), false);
    assert.equal(feed.status().source, `127.0.0.1:${two.listener.port}`);
    await write(first, 'of nobody');

    feed.follow({ upstream: undefined, timestampNs: undefined, intervalMs: undefined });
    await eventually('it follows nobody', () => two.server.followers().length === 0);
    await write(second, 'meanwhile');
    assert.deepEqual([feed.status().source, feed.status().failures], ['nobody', 0]);

    const again = { host: '127.0.0.1', port: two.listener.port };
    feed.follow({ upstream: again, timestampNs: undefined, intervalMs: undefined });
    await eventually('it goes on where it was', () => has('meanwhile'));
    assert.equal(has('of nobody'), false);
  });

  it('rests for each change as long as it is told, and no longer', async () => {
    const [upstream, follower] = [store(1), store(2)];
    const { listener } = await serve(upstream);
    const feed = follow(follower, listener.port, 2);
    const server = { host: '127.0.0.1', port: listener.port };
    const arrivalMs = async (first: string, changes: number): Promise<number> => {
      await upstream.write((transaction) => {
        for (let i = 0; i < changes; i++) transaction.set('default', text(`${first}${i}`), text('1'), 0);
      }).committed;
      await eventually('the changes are there', () => follower.get('default', text(`${first}0`)) !== undefined);
      const startMs = performance.now();
      await upstream.write((transaction) => transaction.set('default', text(`${first} last`), text('1'), 0)).committed;
      await eventually('so is the last', () => follower.get('default', text(`${first} last`)) !== undefined);
      return performance.now() - startMs;
    };
    await arrivalMs('before', 1);

    feed.follow({ upstream: server, timestampNs: undefined, intervalMs: 100 });
    await eventually('it follows again', () => feed.status().state === 'streaming');
    const restedMs = await arrivalMs('resting', 10);
    assert.equal(feed.following?.intervalMs, 100);
    assert.ok(restedMs > 700, `ten changes are a rest of a second, not ${restedMs} ms`);

    feed.follow({ upstream: server, timestampNs: undefined, intervalMs: 0 });
    await eventually('it follows without rest', () => feed.status().state === 'streaming');
    const freeMs = await arrivalMs('free', 10);
    assert.ok(freeMs < restedMs, `${freeMs} ms without rest, ${restedMs} with it`);
    assert.equal(feed.status().failures, 0);
  });

  /** A follower by hand. */
  async function raw(port: number, request: Parameters<typeof encodeFollowRequest>[0], answers = true) {
    const socket = connect({ host: '127.0.0.1', port });
    await once(socket, 'connect');
    ends.push(() => void socket.destroy());
    const events: KtEvent[] = [];
    const decoder = new KtStreamDecoder(2 ** 24);
    const state = { closed: false };
    socket.on('error', () => undefined);
    socket.on('close', () => {
      state.closed = true;
    });
    socket.on('data', (chunk: Buffer) => {
      for (const event of decoder.push(chunk)) {
        events.push(event);
        if (answers && event.kind === 'tick' && event.wantsAnswer) socket.write(KT_ACCEPT);
      }
    });
    socket.write(encodeFollowRequest(request));
    return { socket, events, state };
  }

  const keysOf = (events: readonly KtEvent[]): string[] => {
    return events.flatMap((event) =>
      event.kind === 'update' && event.change?.kind === 'set' ? [String(event.change.key)] : [],
    );
  };

  it('sends a follower nothing of its own server id, or nothing else when asked so', async () => {
    const upstream = store(1);
    const other = store(5);
    await upstream.write((transaction) => transaction.set('default', text('of 1'), text('1'), 0)).committed;
    await other.write((transaction) => transaction.set('default', text('of 5'), text('1'), 0)).committed;
    await upstream.apply((other.log.batchAt(other.log.first) as { payload: Buffer }).payload).committed;
    const { listener } = await serve(upstream);
    const without = await raw(listener.port, { timestampNs: 0n, sid: 5, onlySid: false });
    const only = await raw(listener.port, { timestampNs: 0n, sid: 5, onlySid: true });
    await eventually('both have all', () => without.events.length > 2 && only.events.length > 2);
    assert.deepEqual(keysOf(without.events), ['of 1']);
    assert.deepEqual(keysOf(only.events), ['of 5']);
  });

  it('sends a whole transaction again when a follower has only part of it', async () => {
    const upstream = store(1);
    await upstream.write((transaction) => {
      for (const key of ['a', 'b', 'c']) transaction.set('default', text(key), text('1'), 0);
    }).committed;
    const { listener } = await serve(upstream);
    const first = await raw(listener.port, { timestampNs: 0n, sid: 9, onlySid: false });
    await eventually('it has all', () => keysOf(first.events).length === 3);
    const stamps = first.events.flatMap((event) => (event.kind === 'update' ? [event.timestampNs] : []));
    const again = await raw(listener.port, { timestampNs: stamps[1] as bigint, sid: 9, onlySid: false });
    await eventually('it has all again', () => keysOf(again.events).length === 3);
    const behind = await raw(listener.port, { timestampNs: stamps[2] as bigint, sid: 9, onlySid: false });
    await eventually('it is told that it has all', () => behind.events.some(({ kind }) => kind === 'tick'));
    assert.deepEqual(keysOf(behind.events), []);
  });

  it('invariant 10: copies everything for a follower that the log no longer reaches, then goes on', async () => {
    const upstream = store(1, 1);
    await upstream.write((transaction) => transaction.set('default', text('old'), text('1'), 0)).committed;
    await upstream.write((transaction) => transaction.set('other', text('old too'), text('1'), 0)).committed;
    while (await upstream.sweep()) {
      // The log is cut down to nothing.
    }
    assert.equal(upstream.log.first, upstream.log.next);
    const { listener } = await serve(upstream);
    const { events } = await raw(listener.port, { timestampNs: 0n, sid: 1, onlySid: false });
    await eventually('it has the copy', () => keysOf(events).length === 2);
    assert.deepEqual(
      events.flatMap((event) => (event.kind === 'update' && event.change?.kind === 'clear' ? [event.database] : [])),
      [0, 1],
    );
    assert.ok(
      events.every((event) => event.kind !== 'update' || event.sid !== 1),
      'under another server id than its own',
    );
    await upstream.write((transaction) => transaction.set('default', text('new'), text('1'), 0)).committed;
    await eventually('a tick tells it that it has all', () => events.at(-1)?.kind === 'tick');
    assert.deepEqual(keysOf(events), ['old', 'old too'], 'sid 1 wrote the last one itself');
  });

  it('copies instead when a prefix was cleared, which the protocol cannot say', async () => {
    const [upstream, follower] = [store(1), store(2)];
    const { listener } = await serve(upstream);
    follow(follower, listener.port, 2);
    for (const key of ['a/1', 'a/2', 'b/1']) {
      await upstream.write((transaction) => transaction.set('default', text(key), text('1'), 0)).committed;
    }
    await equal(upstream, follower);
    await upstream.write((transaction) => transaction.clear('default', text('a/'))).committed;
    await upstream.write((transaction) => transaction.set('default', text('c/1'), text('1'), 0)).committed;
    await equal(upstream, follower);
    assert.equal(follower.count('default'), 2);
  });

  it('invariant 7: closes on an address that was not named', async () => {
    const { listener, server } = await serve(store(1), { allow: ['192.0.2.7'] });
    const { state } = await raw(listener.port, { timestampNs: 0n, sid: 9, onlySid: false });
    await eventually('it is closed', () => state.closed);
    assert.deepEqual(server.followers(), []);
  });

  it('invariant 9: ends on bytes that are no request, and on answers that are none', async () => {
    const { listener } = await serve(store(1));
    for (const bytes of ['GET / HTTP/1.1\r\n', `\xb1${'\0'.repeat(14)}what?`]) {
      const socket = connect({ host: '127.0.0.1', port: listener.port });
      ends.push(() => void socket.destroy());
      const closed = once(socket, 'close');
      socket.on('data', () => undefined);
      socket.write(Buffer.from(bytes, 'latin1'));
      await closed;
    }
  });

  it('holds no more than its queue for a follower that takes nothing, and cuts it off', async () => {
    const upstream = store(1);
    const { listener, server } = await serve(upstream, { silenceMs: 4000, queueBytes: 64 * 1024 });
    const { socket, state } = await raw(listener.port, { timestampNs: 0n, sid: 9, onlySid: false });
    socket.pause();
    await eventually('it is served', () => server.followers()[0]?.state === 'following');
    const write = async (): Promise<void> => {
      await upstream.write((transaction) => transaction.set('default', text('k'), Buffer.alloc(900_000), 0)).committed;
      await new Promise((resolve) => setTimeout(resolve, 2));
    };
    // First the buffers of the system fill up, which may be tens of MB.
    for (let i = 0; i < 100 && server.followers()[0]?.queuedBytes === 0; i++) await write();
    for (let i = 0; i < 20; i++) await write();
    const [slow] = server.followers();
    assert.ok(
      slow !== undefined && slow.queuedBytes > 0 && slow.queuedBytes < 2_000_000,
      `${slow?.queuedBytes} queued`,
    );
    assert.ok(slow.lagChanges >= 18, `${slow.lagChanges} behind`);
    await eventually('it is cut off', () => server.followers().length === 0);
    socket.resume();
    await eventually('it sees that', () => state.closed);
  });

  it('cuts off a follower that answers no tick', async () => {
    const { listener, server } = await serve(store(1), { silenceMs: 200 });
    const { state } = await raw(listener.port, { timestampNs: 0n, sid: 9, onlySid: false }, false);
    await eventually('it is cut off', () => state.closed);
    assert.deepEqual(server.followers(), []);
  });
});
