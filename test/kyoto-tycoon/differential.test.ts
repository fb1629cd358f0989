/**
 * Random conversations with a real Kyoto Tycoon server and with a node, answer by answer. What is decided otherwise
 * (docs/operate/migrate.md) is not asked for. Needs `ktserver` on PATH.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { type ClientReply, encodeGetBulk, encodeRemoveBulk, encodeSetBulk, parseRows } from '../../src/client/wire.js';
import { RawClient, request, rpcRequest } from '../support/client-bench.js';
import { KtServer, withoutKtserver } from '../support/ktserver.js';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';

const DATABASES = [':', '%', 'casket.kct', '*', 'casket.kch'];
/** Those whose records have an order. */
const ORDERED = ['1', '2', '%', 'casket.kct'];
const CONNECTIONS = 2;
const WEEK = 7 * 24 * 3600;
const RUNS = Number(process.env.TOKAIDO_TEST_RUNS ?? 60);

/** One request, and what to look at in the answer. */
interface Step {
  readonly what: string;
  readonly bytes: Buffer;
  readonly isHead: boolean;
  readonly connection: number;
}

const key = fc.constantFrom(
  'a',
  'b',
  'ab',
  'abc',
  'b\0c',
  '',
  '\xff\xfe',
  't\tx',
  'n\ny',
  'a b',
  'a+b',
  'n',
  'a/b',
  '?#',
);
const value = fc.constantFrom(
  '',
  '1',
  'v',
  '\0\x01\xff',
  't\ty',
  'l\r\nx',
  'x'.repeat(500),
  '12345678',
  '\0'.repeat(16),
);
const counter = fc.constantFrom('1', '-1', '0', '5', '1.5', '-2.75', '1e3', 'inf', 'x', '', ' 7', '+3', '7x', '0.001');
const origin = fc.constantFrom('0', '10', '-3.5', 'set', 'try', 'inf', '-inf', '', 'x');
const count = fc.constantFrom('0', '1', '2', '-1', '1.5', 'x', '', '1e3', '9223372036854775807');
const regex = fc.constantFrom('a', '^a', '(a|n)$', '.*', 'a|b', '[[:alpha:]]', '^$', 'x{2,3}', '[^a]b', '(', '[');
const database = fc.constantFrom('0', '1', '2', '3', '4', ':', '%', 'casket.kct', '9', '-1', 'nosuch', '');

/** Expiration times far off: of a record that has expired the real server shows the key until it is collected. */
function expirations(nowSeconds: number): fc.Arbitrary<string> {
  const far = [String(WEEK), String(-nowSeconds - WEEK), '1099511627775', '1099511627776', '99999999999999'];
  return fc.constantFrom(...far, '604800.7', ' 604800', '9223372036854775807');
}

type Arguments = Record<string, fc.Arbitrary<string>>;

/** `names` are there most of the time, the others sometimes. */
function call(
  procedure: string,
  names: Arguments,
  others: Arguments = {},
): fc.Arbitrary<[string, Record<string, string>]> {
  const isOrdered = 'DB' in names;
  const sometimes = { ...(isOrdered ? {} : { DB: database }), SIGNAL: fc.constant('s'), ...others };
  const both = fc.tuple(
    fc.oneof(
      { weight: 20, arbitrary: fc.record(names) },
      { weight: 1, arbitrary: fc.record(names, { requiredKeys: isOrdered ? ['DB'] : [] }) },
    ),
    fc.record(sometimes, { requiredKeys: [] }),
  );
  return both.map(([some, more]) => [procedure, { ...some, ...more } as Record<string, string>]);
}

function calls(xt: fc.Arbitrary<string>): fc.Arbitrary<[string, Record<string, string>]> {
  const DB = fc.constantFrom(...ORDERED);
  const CUR = fc.constantFrom('1', '1', '2', 'x', '-1');
  const step = fc.constant('');
  const keys = fc.uniqueArray(key, { maxLength: 5 });
  const bulk = (name: string, more: Arguments): fc.Arbitrary<[string, Record<string, string>]> =>
    fc
      .tuple(keys, value, call(name, {}, { ...more, atomic: step, ignored: value }))
      .map(([all, content, [, input]]) => [
        name,
        { ...Object.fromEntries(all.map((one) => [`_${one}`, content])), ...input },
      ]);
  return fc.oneof(
    ...['set', 'add', 'replace', 'append'].map((name) => call(name, { key, value }, { xt })),
    ...['increment', 'increment_double'].map((name) => call(name, { key, num: counter }, { orig: origin, xt })),
    call('cas', { key }, { oval: value, nval: value, xt }),
    ...['get', 'check', 'seize', 'remove'].map((name) => call(name, { key })),
    ...['remove_bulk', 'get_bulk'].map((name) => bulk(name, {})),
    bulk('set_bulk', { xt }),
    call('echo', { key, value }),
    call('match_prefix', { prefix: key, DB }, { max: count }),
    call('match_regex', { regex, DB }, { max: count }),
    call('match_similar', { origin: key, DB }, { range: count, max: count }),
    ...['cur_jump', 'cur_jump_back'].map((name) => call(name, { CUR, DB }, { key })),
    ...['cur_step', 'cur_step_back', 'cur_remove', 'cur_seize'].map((name) => call(name, { CUR, DB })),
    ...['cur_get_key', 'cur_get_value', 'cur_get'].map((name) => call(name, { CUR, DB }, { step })),
    call('cur_set_value', { CUR, DB, value }, { step, xt }),
    ...['void', 'vacuum', 'play_script', 'nosuch', 'synchronize'].map((name) => call(name, {})),
  );
}

const escaped = (text: string): string =>
  [...Buffer.from(text, 'latin1')].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');

/** The same call in one of the forms it can be sent in. */
function callSteps(xt: fc.Arbitrary<string>): fc.Arbitrary<Omit<Step, 'connection'>> {
  return fc.tuple(calls(xt), fc.constantFrom('table', 'query', 'form', 'columns')).map(([[name, input], form]) => {
    const pairs = Object.entries(input).map((pair) => pair.map(escaped));
    const text = pairs.map((pair) => pair.join('=')).join('&');
    const type = (is: string): Record<string, string> => ({ 'Content-Type': is });
    const wire = {
      table: () => rpcRequest(name, input),
      query: () => request('GET', `/rpc/${name}?${text}`),
      form: () => request('POST', `/rpc/${name}`, type('application/x-www-form-urlencoded'), text),
      columns: () => {
        const rows = pairs.map((pair) => `${pair.join('\t')}\n`).join('');
        return request('POST', `/rpc/${name}`, type('text/tab-separated-values; colenc=U'), rows);
      },
    }[form as 'table' | 'query' | 'form' | 'columns'];
    return { what: `${name} ${JSON.stringify(input)} as ${form}`, bytes: Buffer.from(wire(), 'latin1'), isHead: false };
  });
}

function restSteps(nowSeconds: number): fc.Arbitrary<Omit<Step, 'connection'>> {
  const xt = fc.constantFrom(
    String(nowSeconds + WEEK),
    '0x7fffffff',
    '+30d',
    'Sun, 06 Nov 2094 08:49:37 GMT',
    '2040-01-02T03:04:05Z',
    '2040-01-02T03:04:05+09:00',
    '99999999999999',
  );
  const headers = fc.record(
    { 'X-Kt-Mode': fc.constantFrom('set', 'add', 'replace', 'ADD', 'x'), 'X-Kt-Xt': xt },
    { requiredKeys: [] },
  );
  const path = fc
    .tuple(fc.option(database, { nil: undefined }), key)
    .map(([name, of]) => (name === undefined ? `/${escaped(of)}` : `/${name.replace('%', '%25')}/${escaped(of)}`));
  return fc
    .tuple(fc.constantFrom('GET', 'HEAD', 'PUT', 'PUT', 'DELETE'), path, headers, value)
    .map(([method, at, more, body]) => {
      const wire = method === 'PUT' ? request(method, at, more, body) : request(method, at);
      return {
        what: `${method} ${at} ${JSON.stringify(more)}`,
        bytes: Buffer.from(wire, 'latin1'),
        isHead: method === 'HEAD',
      };
    });
}

function binarySteps(): fc.Arbitrary<Omit<Step, 'connection'>> {
  const number = fc.constantFrom(0, 1, 2, 3, 4, 9, 65535);
  const entries = fc.array(fc.record({ database: number, key, value }), { maxLength: 5 });
  return fc.tuple(fc.constantFrom('set', 'remove', 'get'), number, entries).map(([name, into, all]) => {
    const refs = all.map((one) => ({ database: one.database, key: Buffer.from(one.key, 'latin1') }));
    const records = all.map((one) => [Buffer.from(one.key, 'latin1'), Buffer.from(one.value, 'latin1')] as const);
    const encode = {
      set: () => encodeSetBulk(records, into),
      remove: () => encodeRemoveBulk(refs),
      get: () => encodeGetBulk(refs),
    }[name as 'set' | 'remove' | 'get'];
    return { what: `binary ${name} into ${into}: ${JSON.stringify(all)}`, bytes: encode(), isHead: false };
  });
}

function conversation(): fc.Arbitrary<Step[]> {
  const nowSeconds = Math.floor(Date.now() / 1000);
  const any = fc.oneof(
    { weight: 8, arbitrary: callSteps(expirations(nowSeconds)) },
    { weight: 2, arbitrary: restSteps(nowSeconds) },
    { weight: 1, arbitrary: binarySteps() },
  );
  const step = fc.tuple(any, fc.nat(CONNECTIONS - 1)).map(([what, connection]) => ({ ...what, connection }));
  return fc.array(step, { minLength: 1, maxLength: 40, size: 'max' });
}

/** What must be the same of an answer, and the expiration times in it, which two servers set a moment apart. */
function essence(reply: ClientReply, isHead: boolean): { says: unknown; xts: number[] } {
  if (reply.kind === 'records') {
    const sorted = reply.records
      .map((one) => ({ ...one, key: one.key.toString('latin1'), value: one.value.toString('latin1') }))
      .sort((a, b) => (`${a.database} ${a.key}` < `${b.database} ${b.key}` ? -1 : 1));
    return { says: sorted.map(({ xtMs, ...rest }) => rest), xts: sorted.map(({ xtMs }) => xtMs / 1000) };
  }
  if (reply.kind !== 'http') return { says: reply, xts: [] };
  const { status, headers, body } = reply;
  const type = headers.get('content-type');
  const head = { status, error: headers.get('x-kt-error') };
  if (type?.startsWith('text/tab') !== true) {
    const xt = Date.parse(headers.get('x-kt-xt') ?? '') / 1000;
    return { says: { ...head, body: isHead ? '' : body.toString('latin1') }, xts: Number.isNaN(xt) ? [] : [xt] };
  }
  const rows = [...parseRows(body, type)].map(([name, content]) => [name, content.toString('latin1')] as const);
  const xts = rows.filter(([name]) => name === 'xt').map(([, content]) => Number(content));
  return { says: { ...head, type, rows: rows.filter(([name]) => name !== 'xt').sort() }, xts };
}

describe('a random conversation', { skip: withoutKtserver }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-differential-'));
  let real: KtServer;
  let ours: ServedNode;
  let ports: readonly number[];

  before(async () => {
    real = await KtServer.start([], DATABASES);
    ports = [real.port, await freePort()];
    const flags = ['--data', 'data', '--port', String(ports[1]), '--admin', '0', '--durability', 'committed'];
    ours = await ServedNode.start([...flags, ...DATABASES.flatMap((name) => ['--db', name])], folder);
  });
  after(async () => {
    await ours.stop();
    await real.close();
    rmSync(folder, { recursive: true, force: true });
  });

  /** The same step on both, at the same moment. */
  async function compare(step: Step, pairs: readonly (readonly RawClient[])[]): Promise<void> {
    const clients = pairs[step.connection] as readonly RawClient[];
    for (const client of clients) client.send(step.bytes);
    const [theirs, mine] = await Promise.all(
      clients.map(async (client) => essence(await client.answer(step.isHead), step.isHead)),
    );
    assert.ok(theirs !== undefined && mine !== undefined);
    assert.deepEqual(mine.says, theirs.says, step.what);
    assert.equal(mine.xts.length, theirs.xts.length, step.what);
    for (const [at, xt] of theirs.xts.entries()) {
      const difference = Math.abs(xt - (mine.xts[at] as number));
      assert.ok(difference <= 2 || Number.isNaN(difference), `${step.what}: xt ${mine.xts[at]}, not ${xt}`);
    }
  }

  it('has the same answers from both, whatever procedure, form, protocol and database', async () => {
    await fc.assert(
      fc.asyncProperty(conversation(), async (steps) => {
        const pairs: RawClient[][] = [];
        for (let i = 0; i < CONNECTIONS; i++)
          pairs.push(await Promise.all(ports.map((port) => RawClient.connect(port))));
        try {
          for (const client of pairs[0] as RawClient[]) {
            for (const index of DATABASES.keys()) await client.rpc('clear', { DB: String(index) });
          }
          for (const step of steps) await compare(step, pairs);
        } finally {
          for (const client of pairs.flat()) client.close();
        }
      }),
      { numRuns: RUNS },
    );
  });
});
