/** Remote procedures over real connections: cursors, signals, order, limits, and how connections end. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { encodeGetBulk, encodeSetBulk } from '../../src/client/wire.js';
import { PART_RECORDS } from '../../src/commands/commands.js';
import { ClientBench, type RawClient, request, rpcRequest } from '../support/client-bench.js';
import { eventually } from '../support/local-runtime.js';

describe('remote procedures', () => {
  let server: ClientBench;
  let client: RawClient;

  beforeEach(async () => {
    server = new ClientBench(['casket.kct', 'casket.kch', '+']);
    await server.listen();
    client = await server.connect();
  });
  afterEach(async () => await server.close());

  const call = async (
    procedure: string,
    input: Record<string, string> = {},
  ): Promise<[number, Record<string, string>]> => {
    const { status, rows } = await client.rpc(procedure, input);
    return [status, Object.fromEntries(rows)];
  };
  const fill = async (...keys: string[]): Promise<void> => {
    await client.rpc('set_bulk', Object.fromEntries(keys.map((key) => [`_${key}`, key.toUpperCase()])));
  };

  describe('cursors', () => {
    it('stand on the next record when theirs was removed, in the direction they came by', async () => {
      await fill('a', 'b', 'c', 'd');
      await call('cur_jump', { CUR: '1', key: 'b' });
      await call('cur_jump_back', { CUR: '2', key: 'c' });
      await call('remove', { key: 'b' });
      await call('remove', { key: 'c' });
      assert.deepEqual(await call('cur_get_key', { CUR: '1' }), [200, { key: 'd' }]);
      assert.deepEqual(await call('cur_get_key', { CUR: '2' }), [200, { key: 'a' }]);
    });

    it('move on with a call in the direction they came by, but forwards in a map', async () => {
      const walk = async (DB: string): Promise<string[]> => {
        await call('set_bulk', { DB, _a: '1', _b: '2', _c: '3' });
        const CUR = DB === '+' ? '1' : '2';
        await call('cur_jump_back', { DB, CUR });
        const seen: string[] = [];
        for (let status = 200; status === 200; ) {
          const [is, { key }] = await call('cur_get_key', { CUR, step: '' });
          status = is;
          if (key !== undefined) seen.push(key);
        }
        return seen;
      };
      assert.deepEqual(await walk('casket.kct'), ['c', 'b', 'a']);
      assert.deepEqual(await walk('+'), ['c']);
    });

    it('skip records that expire under them', async () => {
      await fill('a', 'c');
      await call('set', { key: 'b', value: 'B', xt: '5' });
      await call('cur_jump', { CUR: '1', key: 'b' });
      assert.deepEqual((await call('cur_get', { CUR: '1' }))[1], { key: 'b', value: 'B', xt: '1700000005' });
      server.bench.clock.ms += 5000;
      assert.deepEqual((await call('cur_get', { CUR: '1' }))[1], { key: 'c', value: 'C' });
    });

    it('walk a database from end to end and back', async () => {
      const keys = Array.from({ length: 40 }, (_, i) => `k${String(i).padStart(2, '0')}`);
      await fill(...keys);
      await call('cur_jump', { CUR: '1' });
      const there: string[] = [];
      for (;;) {
        const [status, { key }] = await call('cur_get_key', { CUR: '1', step: '' });
        if (status !== 200) break;
        there.push(key as string);
      }
      assert.deepEqual(there, keys);
      const back: string[] = [];
      for (let [status] = await call('cur_jump_back', { CUR: '1' }); status === 200; ) {
        back.push((await call('cur_get_key', { CUR: '1' }))[1].key as string);
        [status] = await call('cur_step_back', { CUR: '1' });
      }
      assert.deepEqual(back, keys.reverse());
    });

    it('change and take out what they stand on', async () => {
      await fill('a', 'b', 'c');
      await call('cur_jump', { CUR: '1' });
      assert.deepEqual(await call('cur_set_value', { CUR: '1', value: 'new', step: '' }), [200, {}]);
      assert.deepEqual(await call('cur_seize', { CUR: '1' }), [200, { key: 'b', value: 'B' }]);
      assert.deepEqual(await call('cur_remove', { CUR: '1' }), [200, {}]);
      assert.deepEqual((await call('cur_get', { CUR: '1' }))[0], 450);
      assert.deepEqual(await call('get', { key: 'a' }), [200, { value: 'new' }]);
      assert.deepEqual(await call('cur_set_value', { CUR: '1' }), [400, { ERROR: 'invalid parameters' }]);
    });

    it('belong to their connection and the database they were made on', async () => {
      await fill('a');
      await call('cur_jump', { CUR: '1' });
      const other = await server.connect();
      assert.equal((await other.rpc('cur_get', { CUR: '1' })).status, 450);
      assert.deepEqual(await call('cur_get', { CUR: '1', DB: 'nosuch' }), [200, { key: 'a', value: 'A' }]);
      assert.deepEqual(await call('cur_get', { CUR: '2', DB: 'nosuch' }), [400, { ERROR: 'no such cursor' }]);
    });

    it('find keys exactly and never walk back where order means nothing', async () => {
      const DB = 'casket.kch';
      await call('set_bulk', { DB, _a: '1', _c: '2' });
      assert.equal((await call('cur_jump', { DB, CUR: '1', key: 'b' }))[0], 450);
      assert.equal((await call('cur_jump', { DB, CUR: '1', key: 'c' }))[0], 200);
      const refused = [501, { ERROR: 'DB: 1: not implemented: not implemented' }];
      assert.deepEqual(await call('cur_jump_back', { CUR: '1' }), refused);
      assert.deepEqual(await call('cur_step_back', { CUR: '1' }), refused);
    });

    it('are bounded in number', async () => {
      for (let id = 0; id < 256; id++) client.send(rpcRequest('cur_jump', { CUR: String(id) }));
      for (let id = 0; id < 256; id++) await client.http();
      const { status, headers } = await client.rpc('cur_jump', { CUR: '256' });
      assert.deepEqual([status, headers.get('x-tokaido-error')], [503, 'OVERLOADED']);
      await client.rpc('cur_delete', { CUR: '0' });
      assert.equal((await client.rpc('cur_jump', { CUR: '256' })).status, 450);
    });
  });

  describe('signals', () => {
    it('wake one waiter, or all, and tell how many were waiting', async () => {
      const waiters = [await server.connect(), await server.connect(), await server.connect()];
      for (const [index, waiter] of waiters.entries()) {
        waiter.send(rpcRequest('set', { WAIT: 's', key: `w${index}`, value: 'woken' }));
        await eventually('it waits', () => server.signals.waiting === index + 1);
      }
      assert.deepEqual(await call('void', { SIGNAL: 's' }), [200, { SIGNALED: '3' }]);
      assert.equal((await (waiters[0] as RawClient).http()).status, 200);
      assert.deepEqual(await call('get', { key: 'w1' }), [450, { ERROR: 'DB: 7: no record: no record' }]);
      assert.deepEqual(await call('get', { key: 'nosuch', SIGNAL: 's', SIGNALBROAD: '' }), [
        450,
        { ERROR: 'DB: 7: no record: no record', SIGNALED: '2' },
      ]);
      for (const waiter of waiters.slice(1)) assert.equal((await waiter.http()).status, 200);
      assert.equal(server.signals.waiting, 0);
    });

    it('hold back what comes after them on the connection', async () => {
      client.send(rpcRequest('get', { WAIT: 's', key: 'k' }) + rpcRequest('set', { key: 'k', value: 'later' }));
      await eventually('it waits', () => server.signals.waiting === 1);
      await (await server.connect()).rpc('void', { SIGNAL: 's' });
      assert.equal((await client.http()).status, 450);
      assert.equal((await client.http()).status, 200);
    });

    it('are waited for no longer when the client has gone', async () => {
      client.send(rpcRequest('set', { WAIT: 's', key: 'k', value: 'v' }));
      await eventually('it waits', () => server.signals.waiting === 1);
      client.close();
      await eventually('nobody waits', () => server.signals.waiting === 0);
      const other = await server.connect();
      assert.deepEqual((await other.rpc('void', { SIGNAL: 's' })).rows, new Map([['SIGNALED', '0']]));
      assert.equal((await other.rpc('get', { key: 'k' })).status, 450);
    });

    it('that a client asked for before it said its last word are not waited for', async () => {
      const hasty = await server.connect(true);
      // The second one is reached only when the client has said its last word.
      const wait = rpcRequest('get', { WAIT: 's', key: 'k' });
      hasty.socket.end(rpcRequest('set', { key: 'k', value: 'v' }) + wait + wait);
      assert.equal((await hasty.http()).status, 200);
      for (let i = 0; i < 2; i++) assert.match((await hasty.http()).rows.get('ERROR') ?? '', /timed out/);
      await eventually('the server closes too', () => hasty.ended);
    });

    it('end by themselves after WAITTIME', async () => {
      const { status, rows } = await client.rpc('set', {
        WAIT: 's',
        WAITTIME: '0.01',
        key: 'k',
        value: 'v',
        SIGNAL: 't',
      });
      assert.deepEqual([status, [...rows]], [503, [['ERROR', 'the condition timed out']]]);
    });
  });

  describe('a pipeline', () => {
    it('of both protocols is answered in order, and reads what it wrote', async () => {
      const put = request('PUT', '/k', {}, 'one');
      const get = request('GET', '/k');
      client.send(put + get + rpcRequest('append', { key: 'k', value: '+two' }));
      client.send(encodeGetBulk([{ database: 0, key: Buffer.from('k') }]));
      client.send(rpcRequest('match_prefix', { prefix: 'k' }) + request('DELETE', '/k') + request('HEAD', '/k'));
      assert.equal((await client.http()).status, 201);
      assert.equal((await client.http()).body, 'one');
      assert.equal((await client.http()).status, 200);
      const bulk = await client.answer();
      assert.equal(bulk.kind === 'records' && bulk.records[0]?.value.toString(), 'one+two');
      assert.deepEqual(
        (await client.http()).rows,
        new Map([
          ['_k', '0'],
          ['num', '1'],
        ]),
      );
      assert.equal((await client.http()).status, 204);
      assert.equal((await client.http(true)).status, 404);
    });

    it('of writes shares commits', async () => {
      const before = server.store.statistics().commits;
      const calls = Array.from({ length: 200 }, () => rpcRequest('increment', { key: 'n', num: '1' }));
      client.send(calls.join(''));
      const sums: string[] = [];
      for (const _ of calls) sums.push((await client.http()).rows.get('num') ?? '');
      assert.deepEqual(
        sums,
        calls.map((_, index) => String(index + 1)),
      );
      assert.ok(server.store.statistics().commits - before < 50);
    });

    it('of a bulk write that is cut into parts and a later write of one of its keys ends with the later one', async () => {
      const keys = Array.from({ length: 2 * PART_RECORDS }, (_, i) => `k${i}`);
      const last = keys.at(-1) as string;
      const binary = encodeSetBulk(
        keys.map((key) => [Buffer.from(key), Buffer.from('bulk')]),
        0,
      );
      client.send(binary);
      client.send(rpcRequest('set', { key: last, value: 'later' }));
      client.send(rpcRequest('set_bulk', Object.fromEntries(keys.map((key) => [`_${key}`, 'bulk again']))));
      client.send(rpcRequest('set', { key: last, value: 'last' }) + rpcRequest('get', { key: last }));
      assert.deepEqual(await client.answer(), { kind: 'count', count: keys.length });
      for (let i = 0; i < 3; i++) assert.equal((await client.http()).status, 200);
      assert.equal((await client.http()).rows.get('value'), 'last');
    });

    it('goes on after a call that does not decode', async () => {
      const type = 'text/tab-separated-values; colenc=B';
      client.send(request('POST', '/rpc/echo', { 'Content-Type': type }, '!!!!\t????\n') + request('GET', '/rpc/void'));
      assert.equal((await client.http()).status, 400);
      assert.equal((await client.http()).status, 200);
    });
  });

  it('a client that closes its half early still gets its answers', async () => {
    const hasty = await server.connect(true);
    hasty.socket.end(request('PUT', '/k', {}, 'v') + request('GET', '/k') + rpcRequest('check', { key: 'k' }));
    assert.equal((await hasty.http()).status, 201);
    assert.equal((await hasty.http()).body, 'v');
    assert.equal((await hasty.http()).rows.get('vsiz'), '1');
    await eventually('the server closes too', () => hasty.ended);
  });

  it('a client that goes on sending after it was refused gets the answer, and costs no memory', async () => {
    const rude = await server.connect(true);
    rude.send(request('PUT', '/k', { 'Content-Length': '3' }, 'abc'));
    assert.equal((await rude.http()).status, 400);
    let closed = false;
    rude.socket.on('close', () => {
      closed = true;
    });
    const chunk = Buffer.alloc(1024 * 1024);
    const before = process.memoryUsage().arrayBuffers;
    for (let sent = 0; sent < 100 && !closed; sent++) {
      await new Promise<void>((resolve) => rude.socket.write(chunk, () => resolve()));
    }
    await eventually('the connection is cut', () => closed);
    assert.ok(process.memoryUsage().arrayBuffers - before < 40 * 1024 * 1024);
  });

  it('HEAD of a procedure has the length of its table and no body', async () => {
    client.send(request('HEAD', '/rpc/echo?a=b') + request('GET', '/rpc/void'));
    const head = await client.http(true);
    assert.deepEqual([head.status, head.headers.get('content-length')], [200, '4']);
    assert.equal((await client.http()).body, '');
  });

  it('a replication request of the reference is refused at its first byte', async () => {
    client.send(Buffer.of(0xb1));
    assert.deepEqual(await client.answer(), { kind: 'error' });
    await eventually('the connection ends', () => client.ended);
  });

  it('a script over the binary protocol is an error that the connection survives', async () => {
    const script = Buffer.concat([Buffer.of(0xb4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0), Buffer.from('name')]);
    client.send(Buffer.concat([script, Buffer.from(request('GET', '/rpc/void'))]));
    assert.deepEqual(await client.answer(), { kind: 'error' });
    assert.equal((await client.http()).status, 200);
  });

  it('counters overflow to an error and leave the record alone', async () => {
    await call('increment', { key: 'n', num: '9223372036854775807' });
    assert.equal((await call('increment', { key: 'n', num: '2' }))[0], 450);
    assert.deepEqual(await call('increment', { key: 'n', num: '0' }), [200, { num: '9223372036854775807' }]);
    assert.deepEqual(await call('increment_double', { key: 'd', num: 'inf' }), [200, { num: 'inf' }]);
    assert.deepEqual(await call('increment_double', { key: 'd', num: '-1' }), [200, { num: 'inf' }]);
    assert.equal((await call('increment_double', { key: 'd', num: 'nan', orig: 'set' }))[0], 450);
  });

  it('counters take the greatest and the least origin for set and try, and end above the least', async () => {
    const [least, greatest] = ['-9223372036854775808', '9223372036854775807'];
    assert.equal((await call('increment', { key: 'n', num: '1', orig: least }))[0], 450);
    assert.deepEqual(await call('increment', { key: 'n', num: '1', orig: greatest }), [200, { num: '1' }]);
    assert.deepEqual(await call('increment', { key: 'n', num: '5', orig: greatest }), [200, { num: '5' }]);
    assert.equal((await call('increment', { key: 'm', num: '-1', orig: '-9223372036854775807' }))[0], 450);
    assert.equal((await call('increment_double', { key: 'd', num: '1', orig: '-inf' }))[0], 450);
    assert.deepEqual(await call('increment_double', { key: 'd', num: '1', orig: 'inf' }), [200, { num: '1.000000' }]);
    assert.deepEqual(await call('increment_double', { key: 'd', num: '5', orig: 'inf' }), [200, { num: '5.000000' }]);
  });

  it('a synchronisation runs no program, whatever it is asked', async () => {
    assert.deepEqual(await call('synchronize', { command: 'backup' }), [
      500,
      { ERROR: 'DB: 8: logical inconsistency: postprocessing failed' },
    ]);
    assert.deepEqual(await call('synchronize', { hard: '' }), [200, {}]);
  });

  it('a client that says whom to follow is told that there is no such feed', async () => {
    assert.deepEqual(await call('tune_replication', { host: '127.0.0.1' }), [
      501,
      { ERROR: 'the RTS file is not set' },
    ]);
  });

  it('a vacuum collects what has expired', async () => {
    await call('set', { key: 'k', value: 'v', xt: '1' });
    server.bench.clock.ms += 2000;
    assert.equal((await call('status'))[1].count, '1');
    await call('vacuum');
    assert.equal((await call('status'))[1].count, '0');
  });

  it('a report counts what was asked for', async () => {
    await call('set', { key: 'k', value: 'v' });
    await call('add', { key: 'k', value: 'v' });
    await call('get', { key: 'k' });
    await call('get', { key: 'x' });
    await call('remove_bulk', { _k: '', _x: '' });
    const [, report] = await call('report');
    const counted = Object.entries(report).filter(([name]) => name.startsWith('cnt_') && name !== 'cnt_misc');
    assert.deepEqual(Object.fromEntries(counted), {
      cnt_get: '2',
      cnt_get_misses: '1',
      cnt_remove: '2',
      cnt_remove_misses: '1',
      cnt_script: '0',
      cnt_set: '2',
      cnt_set_misses: '1',
    });
    assert.equal(report.serv_conn_count, '1');
    assert.match(report.db_1 ?? '', /^count=0 size=\d+ path=casket\.kch$/);
  });

  it('a key that no engine could hold is nowhere, and harms nobody', async () => {
    const key = 'k'.repeat(20_000);
    client.send(
      rpcRequest('set', { key: 'a', value: '1' }) + rpcRequest('remove', { key }) + rpcRequest('get', { key }),
    );
    assert.equal((await client.http()).status, 200);
    assert.equal((await client.http()).status, 450);
    assert.equal((await client.http()).status, 450);
    assert.deepEqual(await call('remove_bulk', { [`_${key}`]: '', _a: '' }), [200, { num: '1' }]);
    assert.deepEqual(await call('match_prefix', { prefix: key }), [200, { num: '0' }]);
    assert.equal((await call('cur_jump', { CUR: '1', key }))[0], 413);
  });

  it('the keys of a prefix are listed page by page, each behind the last of the one before', async () => {
    const keys = Array.from({ length: 25 }, (_, i) => `p\xff${String.fromCharCode(0, i)}`);
    const others = ['o', 'p', 'q'];
    await client.rpc('set_bulk', Object.fromEntries([...keys, ...others].map((key) => [`_${key}`, 'v'])));
    const listed: string[] = [];
    for (let after = ''; ; after = listed.at(-1) as string) {
      const { rows } = await client.rpc('match_prefix', { prefix: 'p\xff', after, max: '10' });
      const page = [...rows.keys()].filter((name) => name !== 'num').map((name) => name.slice(1));
      listed.push(...page);
      if (page.length < 10) break;
    }
    assert.deepEqual(listed, keys);
    const behind = async (after: string) => (await client.rpc('match_prefix', { prefix: 'p', after })).rows.get('num');
    assert.equal(await behind(`p\xff\0\0${'\xff'.repeat(3000)}`), '24', 'behind a key that nobody can have');
    assert.equal(await behind('z'), '0');
    assert.equal(await behind('a'), '26', 'before the prefix');
    assert.equal(await behind('p'), '25');
  });

  it('a table of many rows is whole, and a bulk read of many keys too', async () => {
    const keys = Array.from({ length: 5000 }, (_, i) => `_k\t${i}`);
    await client.rpc('set_bulk', Object.fromEntries(keys.map((key) => [key, key.slice(1)])));
    const { rows } = await client.rpc('match_prefix', { prefix: 'k' });
    assert.deepEqual(new Set(rows.keys()), new Set([...keys, 'num']));
    const bulk = await client.rpc('get_bulk', Object.fromEntries(keys.map((key) => [key, ''])));
    assert.equal(bulk.rows.get('num'), '5000');
    assert.equal(bulk.rows.get('_k\t4999'), 'k\t4999');
    const atomic = await client.rpc('get_bulk', { atomic: '', ...Object.fromEntries(keys.map((key) => [key, ''])) });
    assert.equal(atomic.rows.get('num'), '5000');
  });
});
