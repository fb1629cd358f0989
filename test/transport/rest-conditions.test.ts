/** Conditional REST: entity tags are versions, and conditions hold atomically. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { ClientBench, type RawClient, request, type TableReply } from '../support/client-bench.js';

describe('REST conditions', () => {
  const server = new ClientBench();
  let client: RawClient;
  let version = 1n;
  before(async () => {
    await server.listen();
    client = await server.connect();
  });
  after(async () => await server.close());
  beforeEach(async () => {
    await server.commands.clear(server.commands.database(0));
  });

  const send = async (method: string, headers: Record<string, string> = {}, body = ''): Promise<TableReply> => {
    server.bench.clock.ns = version++;
    client.send(request(method, '/k', headers, body));
    return await client.http(method === 'HEAD');
  };
  const tag = async (): Promise<string> => (await send('HEAD')).headers.get('etag') as string;

  it('a tag is given to those who ask, changes with every change, and costs plain reads nothing', async () => {
    await send('PUT', {}, 'one');
    const first = await tag();
    assert.match(first, /^"[0-9a-f]+-1"$/);
    assert.equal((await send('GET')).headers.get('etag'), undefined);
    assert.equal((await send('GET', { 'If-None-Match': '""' })).headers.get('etag'), first);
    await send('PUT', {}, 'one');
    assert.notEqual(await tag(), first);
  });

  it('a read of what the client has answers 304 without a body', async () => {
    await send('PUT', {}, 'one');
    const current = await tag();
    for (const header of [current, `"x", ${current}`, `W/${current}`, '*']) {
      const reply = await send('GET', { 'If-None-Match': header });
      assert.deepEqual([reply.status, reply.headers.get('etag'), reply.body], [304, current, ''], header);
    }
    assert.equal((await send('GET', { 'If-Match': current })).body, 'one');
    assert.equal((await send('GET', { 'If-Match': '"x"' })).status, 412);
    assert.equal((await send('GET', { 'If-Match': `W/${current}` })).status, 412);
  });

  it('a change happens only over the version it names', async () => {
    await send('PUT', {}, 'one');
    const first = await tag();
    assert.equal((await send('PUT', { 'If-Match': first }, 'two')).status, 201);
    assert.equal((await send('PUT', { 'If-Match': first }, 'three')).status, 412);
    assert.equal((await send('DELETE', { 'If-Match': first })).status, 412);
    assert.equal((await send('GET')).body, 'two');
    assert.equal((await send('DELETE', { 'If-Match': await tag() })).status, 204);
    assert.equal((await send('GET')).status, 404);
  });

  it('a star means any record, or none', async () => {
    assert.equal((await send('PUT', { 'If-Match': '*' }, 'one')).status, 412);
    assert.equal((await send('PUT', { 'If-None-Match': '*' }, 'one')).status, 201);
    assert.equal((await send('PUT', { 'If-None-Match': '*' }, 'two')).status, 412);
    assert.equal((await send('PUT', { 'If-Match': '*' }, 'three')).status, 201);
    assert.equal((await send('GET')).body, 'three');
    assert.equal((await send('DELETE', { 'If-None-Match': '*' })).status, 412);
  });

  it('conditions that hold leave the mode its say', async () => {
    assert.equal((await send('PUT', { 'If-None-Match': '"x"', 'X-Kt-Mode': 'Replace' }, 'one')).status, 450);
    await send('PUT', {}, 'one');
    assert.equal((await send('PUT', { 'If-Match': '*', 'X-Kt-Mode': 'ADD' }, 'two')).status, 450);
    assert.equal((await send('GET', { 'If-Match': '*' })).body, 'one');
  });

  it('an absent record answers as absent, unless the condition asks for one', async () => {
    assert.equal((await send('GET', { 'If-None-Match': '"x"' })).status, 404);
    assert.equal((await send('GET', { 'If-Match': '"x"' })).status, 412);
    assert.equal((await send('DELETE', { 'If-None-Match': '"x"' })).status, 404);
  });

  it('of many clients that swap the same version exactly one succeeds', async () => {
    await send('PUT', {}, 'one');
    const headers = { 'If-Match': await tag() };
    const clients = await Promise.all(Array.from({ length: 8 }, async () => await server.connect()));
    const statuses = await Promise.all(
      clients.map(async (each, index) => {
        each.send(request('PUT', '/k', headers, `from ${index}`));
        return (await each.http()).status;
      }),
    );
    assert.deepEqual(statuses.sort(), [201, 412, 412, 412, 412, 412, 412, 412]);
  });
});
