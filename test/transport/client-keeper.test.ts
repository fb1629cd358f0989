/** What a client may cost: time in the middle of a request, time to take an answer, idleness, memory. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import type { ClientLimits } from '../../src/transport/clients/keeper.js';
import { ClientBench, type RawClient, request } from '../support/client-bench.js';
import { eventually, localRuntime } from '../support/local-runtime.js';

const MB = 2 ** 20;

describe('a client that costs too much', () => {
  let server: ClientBench;
  const dripping: NodeJS.Timeout[] = [];

  async function listen(limits: Partial<ClientLimits>): Promise<void> {
    const { monotonicMs, after, every } = localRuntime();
    server = new ClientBench(['casket.kct'], { monotonicMs, after, every }, limits);
    await server.listen();
  }
  afterEach(async () => {
    for (const timer of dripping) clearInterval(timer);
    await server.close();
  });

  /** Sends a byte now and then, as a client does who wants to be kept. */
  function drip(client: RawClient, byte: string): void {
    dripping.push(setInterval(() => client.send(byte), 20));
  }

  const closed = async (client: RawClient): Promise<void> =>
    await eventually('the server ends the connection', () => client.socket.destroyed || client.ended);
  const cuts = (): Record<string, number> => Object.fromEntries(server.keeper.cuts);

  it('with a head that never ends is cut, however steadily it drips', async () => {
    await listen({ patienceMs: 300 });
    const slow = await server.connect();
    slow.send('GET / HTTP/1.1\r\nX: ');
    drip(slow, 'x');
    await closed(slow);
    assert.equal(cuts()['slow-request'], 1);
  });

  it('with a body that never ends is cut likewise, over HTTP and the binary protocol', async () => {
    await listen({ patienceMs: 300 });
    const http = await server.connect();
    http.send(`PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n`);
    drip(http, 'x');
    const binary = await server.connect();
    binary.send(Buffer.from([0xb8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]));
    drip(binary, '\0');
    await Promise.all([closed(http), closed(binary)]);
    assert.equal(cuts()['slow-request'], 2);
  });

  it('with a long body that comes at a fair speed is not cut', async () => {
    await listen({ patienceMs: 200, slowestBytesPerSecond: 10_000 });
    const fair = await server.connect();
    const body = 'x'.repeat(60_000);
    fair.send(`PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n`);
    for (let at = 0; at < body.length; at += 6000) {
      fair.send(body.slice(at, at + 6000));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal((await fair.http()).status, 201);
    assert.equal(cuts()['slow-request'], 0);
  });

  it('which never takes its answers is cut, and the answers are not read ahead of it', async () => {
    await listen({ patienceMs: 300, slowestBytesPerSecond: 100 * MB });
    const writer = await server.connect();
    writer.send(request('PUT', '/k', {}, 'v'.repeat(MB / 2)));
    assert.equal((await writer.http()).status, 201);
    const deaf = await server.connect();
    deaf.socket.pause();
    deaf.send(request('GET', '/k').repeat(2000));
    await eventually('answers wait', () => server.keeper.heldBytes > MB);
    assert.ok(server.keeper.heldBytes < 10 * MB, `${server.keeper.heldBytes} bytes are held`);
    await eventually('it is cut', () => cuts()['slow-reader'] === 1);
    await eventually('nothing is held', () => server.keeper.heldBytes === 0);
  });

  it('which is idle for too long is closed; one that waits for a signal is not idle', async () => {
    await listen({ idleMs: 400 });
    const idle = await server.connect();
    const waiting = await server.connect();
    waiting.send('GET /rpc/void?WAIT=s&WAITTIME=1 HTTP/1.1\r\nHost: x\r\n\r\n');
    await closed(idle);
    assert.equal((await waiting.http()).status, 503);
    assert.equal(cuts().idle, 1);
  });

  it('in memory is cut when all clients together hold more than they may, the one that holds most first', async () => {
    await listen({ clientBytes: 4 * MB });
    const small = await server.connect();
    small.send('PUT /small HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab');
    const large = await server.connect();
    const head = Buffer.alloc(27);
    head[0] = 0xb8;
    head.writeUInt32BE(1, 5);
    head.writeUInt32BE(64 * MB, 15);
    large.send(head);
    for (let sent = 0; sent < 16 && !large.socket.destroyed; sent++) large.send(Buffer.alloc(MB));
    await eventually('it is cut', () => cuts().memory === 1);
    small.send('cde');
    assert.equal((await small.http()).status, 201);
  });

  it('by many records is counted by them, not by their bytes alone', async () => {
    await listen({ clientBytes: 4 * MB });
    const many = await server.connect();
    const head = Buffer.from([0xba, 0, 0, 0, 0, 0, 0, 0, 0]);
    head.writeUInt32BE(100_000, 5);
    many.send(Buffer.concat([head, Buffer.alloc(6 * 50_000)]));
    await eventually('it is cut', () => cuts().memory === 1);
  });
});
