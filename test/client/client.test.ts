/** The client library against a real root and a real edge, and against servers that misbehave. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoClient, type TokaidoError } from '../../src/client/index.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';

const code = (wanted: string) => (error: unknown) => (error as TokaidoError).code === wanted;

describe('the client', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  let client: TokaidoClient;

  before(async () => {
    cluster = await Cluster.create();
    const config = { databases: ['one', 'two'], limits: { keyBytes: 100, valueBytes: 100_000 } };
    root = await cluster.add({ name: 'root', role: 'root', config });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config });
    cluster.start(root, { supervised: true });
    cluster.start(edge);
    await Promise.all([cluster.ready(root), cluster.ready(edge)]);
    client = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}` });
  });
  after(async () => {
    client.close();
    await cluster.close();
  });

  it('stores, reads and removes any bytes as key and value', async () => {
    const bytes = fc.uint8Array({ minLength: 1, maxLength: 100 }).map((array) => Buffer.from(array));
    await fc.assert(
      fc.asyncProperty(
        bytes,
        fc.uint8Array().map((array) => Buffer.from(array)),
        async (key, value) => {
          await client.set(key, value, { database: 'two' });
          assert.deepEqual((await client.get(key, { database: 'two' }))?.value, value);
          assert.equal(await client.remove(key, { database: 'two' }), true);
          assert.equal(await client.remove(key, { database: 'two' }), false);
          assert.equal(await client.get(key, { database: 'two' }), undefined);
        },
      ),
      { numRuns: 20 },
    );
  });

  it('bulk calls take keys of any bytes, and find them again under the keys that were given', async () => {
    const binary = [Buffer.of(0xff, 0xfe), Buffer.of(0xff, 0xfd), Buffer.of(0), Buffer.alloc(0)];
    const count = await client.setBulk(
      binary.map((key, index) => [key, Buffer.of(0xff, index)] as const),
      1,
    );
    assert.equal(count, 4);
    const absent = Buffer.of(0xff);
    const found = await client.getBulk([...binary, absent], 1);
    assert.equal(found.size, 4);
    for (const [index, key] of binary.entries()) assert.deepEqual(found.get(key), Buffer.of(0xff, index));
    await client.setBulk([['ü', 'text']], 1);
    assert.equal((await client.getBulk(['ü', 'none'], 1)).get('ü')?.toString(), 'text');
    assert.deepEqual(
      (
        await client.getMany([
          { database: 1, key: 'none' },
          { database: 1, key: 'ü' },
          { database: 0, key: 'ü' },
        ])
      ).map(String),
      ['undefined', 'text', 'undefined'],
    );
    assert.equal((await client.getBulk(['ü', 'ü', 'none', 'ü'], 1)).size, 1);
    assert.equal(await client.removeBulk([...binary, absent], 1), 4);
    await assert.rejects(client.getBulk(['a'], 65_536), code('MALFORMED'));
    await assert.rejects(client.setBulk([['a', 'b']], -1), code('MALFORMED'));
  });

  it('modes and expiration', async () => {
    await client.set('m', '1', { mode: 'add' });
    await assert.rejects(client.set('m', '2', { mode: 'add' }), code('DUPLICATE_RECORD'));
    await client.set('m', '3', { mode: 'replace' });
    await assert.rejects(client.set('none', '3', { mode: 'replace' }), code('NO_RECORD'));
    assert.equal((await client.get('m'))?.xtMs, undefined);
    const xtMs = Date.now() + 1500;
    await client.set('m', '4', { xtMs });
    const kept = (await client.get('m'))?.xtMs ?? 0;
    assert.ok(kept >= xtMs && kept < xtMs + 1000, 'seconds on the wire, never early');
  });

  it('errors carry their code and what to do', async () => {
    await assert.rejects(client.get('a', { database: 'none' }), code('NO_DATABASE'));
    await assert.rejects(client.set(Buffer.alloc(101), 'x'), code('TOO_LARGE'));
    await assert.rejects(client.set('a', Buffer.alloc(100_001)), code('TOO_LARGE'));
    const reader = new TokaidoClient({ server: `127.0.0.1:${edge.clientPort}` });
    await assert.rejects(reader.set('a', 'x'), (error: TokaidoError) => {
      return error.code === 'READ_ONLY' && (error.hint ?? '').includes(`root at 127.0.0.1:${root.clientPort}`);
    });
    await assert.rejects(reader.setBulk([['a', 'x']]), code('READ_ONLY'));
    reader.close();
    assert.equal(typeof (await client.set('a', 'x')), 'undefined', 'the connection is as good as before');
  });

  it('a thousand requests on one connection are answered each with its own answer', async () => {
    await client.setBulk(Array.from({ length: 1000 }, (_, i) => [`p${i}`, String(i)] as const));
    const answers = await Promise.all(
      Array.from({ length: 1000 }, async (_, i) => {
        if (i % 3 === 0) return (await client.getBulk([`p${i}`])).get(`p${i}`)?.toString();
        return (await client.get(i % 7 === 0 ? 'none' : `p${i}`))?.value.toString();
      }),
    );
    assert.deepEqual(
      answers,
      Array.from({ length: 1000 }, (_, i) => (i % 3 !== 0 && i % 7 === 0 ? undefined : String(i))),
    );
  });

  it('refuses more requests than its limit, by name', async () => {
    const small = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}`, maxRequests: 2 });
    const under = [small.get('a'), small.get('a')];
    await assert.rejects(small.get('a'), code('OVERLOADED'));
    await Promise.all(under);
    await small.get('a');
    small.close();
  });

  it('close with requests under way rejects them, and every later one', async () => {
    const other = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}` });
    const under = Promise.allSettled([other.get('a'), other.set('a', '1'), other.getBulk(['a'])]);
    other.close();
    for (const outcome of await under) {
      assert.equal(outcome.status === 'rejected' && (outcome.reason as TokaidoError).code, 'NETWORK');
    }
    await assert.rejects(other.get('a'), /the client is closed/);
    other.close();
  });

  it('reconnects by itself when the node was killed and came back', async () => {
    await client.set('durable', 'yes');
    await cluster.kill(root);
    await assert.rejects(client.get('durable'), code('NETWORK'));
    await cluster.ready(root);
    assert.equal((await client.get('durable'))?.value.toString(), 'yes');
  });

  it('wrong addresses are refused at once', () => {
    for (const server of ['host', ':1', 'host:', 'host:x', 'host:70000', '']) {
      assert.throws(() => new TokaidoClient({ server }), code('CONFIG'), server);
    }
  });
});

describe('a client of a server that misbehaves', () => {
  let server: Server;
  let client: TokaidoClient;

  async function serve(answer: (socket: Socket) => void, timeoutMs = 3000): Promise<void> {
    server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.on('data', () => answer(socket));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    client = new TokaidoClient({ server: `127.0.0.1:${(server.address() as AddressInfo).port}`, timeoutMs });
  }
  async function end(): Promise<void> {
    client.close();
    server.close();
    await once(server, 'close');
  }

  it('gives up a server that does not answer, with all that waits behind it', async () => {
    await serve(() => undefined, 100);
    const outcomes = await Promise.allSettled([client.get('a'), client.get('b')]);
    for (const outcome of outcomes) {
      assert.equal(outcome.status === 'rejected' && (outcome.reason as TokaidoError).code, 'TIMEOUT');
    }
    await end();
  });

  it('an answer that is cut off is an error, not half a value', async () => {
    await serve((socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'));
    await assert.rejects(client.get('a'), code('NETWORK'));
    await end();
  });

  it('an answer in pieces is put together', async () => {
    await serve((socket) => {
      const bytes = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole';
      for (const [index, character] of [...bytes].entries()) setTimeout(() => socket.write(character), index);
    });
    assert.equal((await client.get('a'))?.value.toString(), 'whole');
    await end();
  });

  it('what is neither HTTP nor binary, an unknown magic, and records nobody asked for are refused', async () => {
    const record = Buffer.concat([
      Buffer.from('ba000000010000000000010000000100000000000000ff', 'hex'),
      Buffer.from('zv'),
    ]);
    for (const bytes of [Buffer.from('SSH-2.0-x\r\n\r\n'), Buffer.of(0xb7, 0, 0, 0, 0), record]) {
      await serve((socket) => socket.write(bytes));
      await assert.rejects(client.getBulk(['a']), code('MALFORMED'));
      await end();
    }
  });

  it('nobody listens: the error says what to check', async () => {
    await serve(() => undefined);
    await end();
    const again = new TokaidoClient({ server: `127.0.0.1:${1}` });
    await assert.rejects(
      again.get('a'),
      (error: TokaidoError) => error.code === 'NETWORK' && /--server/.test(error.hint ?? ''),
    );
    again.close();
  });
});
