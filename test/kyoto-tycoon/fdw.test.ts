/**
 * What kt_fdw, the foreign data wrapper of Postgres for Kyoto Tycoon, sends: the calls that its client library makes for
 * each SQL statement, on one connection, as in a build without its own transactions (`USE_TRANSACTIONS`).
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type RpcAnswer, TokaidoClient } from '../../src/client/client.js';
import { Cluster } from '../support/cluster.js';

/** Its "never", in seconds. */
const MAX_EXPIRY = '9223372036854775807';

describe('kt_fdw', () => {
  let cluster: Cluster;
  let client: TokaidoClient;
  let cursors = 0;
  before(async () => {
    cluster = await Cluster.create();
    const root = await cluster.add({ name: 'root', role: 'root' });
    cluster.start(root);
    await cluster.ready(root);
    client = new TokaidoClient({ server: `127.0.0.1:${root.clientPort}` });
  });
  after(async () => {
    client.close();
    await cluster.close();
  });

  const text = ({ rows }: RpcAnswer, name: string): string | undefined => rows.get(name)?.toString();

  /** SELECT of everything: the planner counts, then a cursor walks and steps, and is given back. */
  async function scan(): Promise<{ planned: string | undefined; rows: [string, string][] }> {
    const planned = text(await client.call('status'), 'count');
    const CUR = String(++cursors);
    const rows: [string, string][] = [];
    if ((await client.call('cur_jump', { CUR })).status === 200) {
      for (;;) {
        const row = await client.call('cur_get', { CUR, step: '' });
        if (row.status !== 200) {
          assert.equal(row.status, 450);
          break;
        }
        rows.push([text(row, 'key') as string, text(row, 'value') as string]);
      }
    }
    await client.call('cur_delete', { CUR });
    return { planned, rows };
  }

  it('INSERT adds, and fails on a key that is there', async () => {
    assert.deepEqual(await scan(), { planned: '0', rows: [] });
    for (const [key, value] of [
      ['a', '1'],
      ['b', 'ü 2'],
    ] as const)
      assert.equal((await client.call('add', { key, value, xt: MAX_EXPIRY })).status, 200);
    const twice = await client.call('add', { key: 'a', value: '3', xt: MAX_EXPIRY });
    assert.equal(twice.status, 450);
    assert.match(text(twice, 'ERROR') ?? '', /record duplication/);
  });

  it('SELECT walks all, or gets one when the key is given', async () => {
    assert.deepEqual(await scan(), {
      planned: '2',
      rows: [
        ['a', '1'],
        ['b', 'ü 2'],
      ],
    });
    assert.equal(text(await client.call('get', { key: 'b' }), 'value'), 'ü 2');
    assert.equal((await client.call('get', { key: 'none' })).status, 450);
  });

  it('UPDATE replaces, DELETE removes, and both fail on a key that is not there', async () => {
    assert.equal((await client.call('replace', { key: 'a', value: 'new', xt: MAX_EXPIRY })).status, 200);
    assert.equal((await client.call('replace', { key: 'none', value: 'x', xt: MAX_EXPIRY })).status, 450);
    assert.equal((await client.call('remove', { key: 'b' })).status, 200);
    assert.equal((await client.call('remove', { key: 'b' })).status, 450);
    assert.deepEqual((await scan()).rows, [['a', 'new']]);
  });

  it('transactions of its other build are refused, not half done', async () => {
    const begun = await client.call('play_script', { name: 'ktfdwbegintransaction' });
    assert.equal(begun.status, 501);
  });
});
