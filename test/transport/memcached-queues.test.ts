/** Message queues through a memcached listener: order, waiting, one consumer for each message, and nothing lost. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { MAX_CLAIMS } from '../../src/commands/message-queues.js';
import { MemcachedBench, type MemcachedClient } from '../support/memcached-bench.js';

const TIMEOUT_MS = 300;
const message = (queue: string, text: string): string => `VALUE ${queue} 0 ${text.length}\r\n${text}\r\nEND\r\n`;
const put = (queue: string, text: string): string => `set ${queue} 0 0 ${text.length}\r\n${text}\r\n`;

describe('message queues', () => {
  let bench: MemcachedBench;
  let producer: MemcachedClient;
  let consumer: MemcachedClient;

  beforeEach(async () => {
    bench = new MemcachedBench(['%', 'casket.kct']);
    await bench.listen({ queue: true, queueTimeoutMs: TIMEOUT_MS });
    [producer, consumer] = [await bench.connect(), await bench.connect()];
  });
  afterEach(async () => await bench.close());

  const records = (): number => bench.server.commands.count(bench.server.commands.database(0));

  it('give messages in the order in which they were put, however fast', async () => {
    const texts = Array.from({ length: 300 }, (_, i) => `m${i}`);
    await producer.ask(texts.map((text) => put('q', text)).join(''));
    const answers = await consumer.ask('get q\r\ndelete q\r\n'.repeat(texts.length));
    assert.equal(answers, texts.map((text) => `${message('q', text)}DELETED\r\n`).join(''));
    assert.equal(records(), 0);
  });

  it('keep apart, also where one name begins with the other', async () => {
    await producer.ask(put('q', 'one') + put('qq', 'two'));
    assert.equal(await consumer.ask('get qq\r\nget q\r\n'), message('qq', 'two') + message('q', 'one'));
    assert.equal(await consumer.ask('delete qq\r\ndelete qq\r\ndelete q\r\n'), 'DELETED\r\nNOT_FOUND\r\nDELETED\r\n');
  });

  it('make a get wait for a message, and only so long', async () => {
    const start = performance.now();
    assert.equal(await consumer.ask('get q\r\n'), 'END\r\n');
    const waited = performance.now() - start;
    assert.ok(waited >= TIMEOUT_MS - 5 && waited < TIMEOUT_MS + 2000, `${waited}`);
    const got = consumer.ask('get q\r\n');
    await new Promise((resolve) => setTimeout(resolve, 50));
    const putMs = performance.now();
    await producer.ask(put('q', 'here'));
    assert.equal(await got, message('q', 'here'));
    assert.ok(performance.now() - putMs < TIMEOUT_MS - 50, 'the put wakes it');
  });

  it('wake one waiting consumer for each message', async () => {
    const consumers = await Promise.all(Array.from({ length: 5 }, async () => await bench.connect()));
    const got = consumers.map(async (each) => await each.ask('get q\r\n'));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await producer.ask(['a', 'b', 'c'].map((text) => put('q', text)).join(''));
    const answers = (await Promise.all(got)).sort();
    assert.deepEqual(answers, ['END\r\n', 'END\r\n', message('q', 'a'), message('q', 'b'), message('q', 'c')].sort());
  });

  it('give a message to one consumer at a time, also through another listener', async () => {
    await bench.listen({ queue: true, queueTimeoutMs: 20 });
    const other = await bench.connect(1);
    await producer.ask(put('q', 'one'));
    assert.equal(await consumer.ask('get q\r\n'), message('q', 'one'));
    assert.equal(await other.ask('get q\r\n'), 'END\r\n');
  });

  it('give a message to another when its consumer goes without deleting it, in its old place', async () => {
    await producer.ask(put('q', 'one') + put('q', 'two'));
    assert.equal(await consumer.ask('get q\r\n'), message('q', 'one'));
    assert.equal(records(), 2, 'what is not deleted stays in the database, and so survives a crash of the node');
    consumer.socket.destroy();
    const other = await bench.connect();
    const answers = await other.ask('get q\r\ndelete q\r\nget q\r\ndelete q\r\n');
    assert.equal(answers, `${message('q', 'one')}DELETED\r\n${message('q', 'two')}DELETED\r\n`);
  });

  it('find messages that others wrote into the database', async () => {
    const got = consumer.ask('get q\r\n');
    const { commands } = bench.server;
    const key = Buffer.from('q 01700000000000 0001');
    await commands.set({ database: commands.database(0), key, value: Buffer.from('x'), xtMs: 0 });
    assert.equal(await got, message('q', 'x'));
  });

  it('go on when a taken message expires or is removed by others', async () => {
    await producer.ask(put('q', 'one'));
    await consumer.ask('get q\r\n');
    await bench.server.commands.clear(bench.server.commands.database(0));
    assert.equal(await consumer.ask('delete q\r\ndelete q\r\n'), 'DELETED\r\nNOT_FOUND\r\n');
  });

  it('let a connection take so many without deleting, and no more', async () => {
    await producer.ask(put('q', 'm').repeat(MAX_CLAIMS / 2));
    await producer.ask(put('q', 'm').repeat(MAX_CLAIMS / 2 + 1));
    assert.equal(await consumer.ask('get q\r\n'.repeat(MAX_CLAIMS)), message('q', 'm').repeat(MAX_CLAIMS));
    assert.equal(
      await consumer.ask('get q\r\n'),
      `SERVER_ERROR ${MAX_CLAIMS} messages are taken and not deleted on this connection\r\n`,
    );
    assert.equal(await consumer.ask('delete q\r\nget q\r\n'), `DELETED\r\n${message('q', 'm')}`);
  });

  it('a client that only sent its end still hears that there is nothing', async () => {
    const half = await bench.connect(0, { allowHalfOpen: true });
    half.send('get q\r\n');
    await new Promise((resolve) => setTimeout(resolve, 50));
    half.socket.end();
    assert.equal(await half.rest(), 'END\r\n');
  });
});
