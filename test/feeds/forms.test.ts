/** Forms of mapping: MessagePack, rows that count as deleted, arrays as keys, intervals, functions of a module. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { loadFunctions } from '../../src/feeds/postgres/functions.js';
import { checkMappings, type TableMapping } from '../../src/feeds/postgres/mapping.js';
import { mapMembers, packMap, packValue } from '../../src/feeds/postgres/message-pack.js';
import { OID, type TypeCatalog } from '../../src/feeds/postgres/values.js';
import { FeedBench } from '../support/feed-bench.js';
import { editions, TestPostgres } from '../support/postgres.js';

const TEXT = 25;
const NUMERIC = 1700;
const INTS = 1007;
const TYPES: TypeCatalog = { domains: new Map(), arrays: new Map([[INTS, { element: OID.int4, delimiter: ',' }]]) };

/** A reader of MessagePack written for this test, from the specification. */
function unpack(bytes: Buffer): unknown {
  let at = 0;
  const take = (count: number): Buffer => {
    at += count;
    return bytes.subarray(at - count, at);
  };
  const number = (count: number): number => take(count).readUIntBE(0, count);
  const list = (count: number): unknown[] => Array.from({ length: count }, value);
  const map = (count: number): object => Object.fromEntries(Array.from({ length: count }, () => [value(), value()]));
  function value(): unknown {
    const tag = number(1);
    if (tag < 0x80) return BigInt(tag);
    if (tag < 0x90) return map(tag & 15);
    if (tag < 0xa0) return list(tag & 15);
    if (tag < 0xc0) return take(tag & 31).toString();
    if (tag >= 0xe0) return BigInt(tag - 0x100);
    switch (tag) {
      case 0xc0:
        return null;
      case 0xc2:
      case 0xc3:
        return tag === 0xc3;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return Buffer.from(take(number(2 ** (tag - 0xc4))));
      case 0xcb:
        return take(8).readDoubleBE();
      case 0xd2:
        return BigInt(take(4).readInt32BE());
      case 0xd3:
        return take(8).readBigInt64BE();
      case 0xd9:
      case 0xda:
      case 0xdb:
        return take(number(2 ** (tag - 0xd9))).toString();
      case 0xdc:
      case 0xdd:
        return list(number(2 ** (tag - 0xdc + 1)));
      case 0xde:
      case 0xdf:
        return map(number(2 ** (tag - 0xde + 1)));
      default:
        throw new Error(`tag ${tag}`);
    }
  }
  const read = value();
  assert.equal(at, bytes.length);
  return read;
}

describe('MessagePack', () => {
  it('has these bytes', () => {
    const members = new Map([
      ['a', packValue('7', OID.int4, TYPES)],
      ['b', packValue('{1,NULL,-200}', INTS, TYPES)],
      ['c', packValue('\\xff00', OID.bytea, TYPES)],
      ['d', packValue('0.10', NUMERIC, TYPES)],
      ['e', packValue(null, TEXT, TYPES)],
      ['f', packValue('t', OID.bool, TYPES)],
    ]);
    assert.equal(
      packMap(members).toString('hex'),
      '86a16107a1629301c0d2ffffff38a163c402ff00a164a4302e3130a165c0a166c3',
    );
  });

  it('any values are read back, and members are found in the bytes they were written in', () => {
    const value = fc.oneof(
      fc
        .bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
        .map((n) => [packValue(String(n), OID.int8, TYPES), n] as const),
      fc.string({ unit: 'grapheme', maxLength: 300 }).map((text) => [packValue(text, TEXT, TYPES), text] as const),
      fc.double().map((n) => [packValue(String(n), OID.float8, TYPES), Object.is(n, -0) ? 0 : n] as const),
      fc
        .uint8Array({ maxLength: 70_000, size: 'max' })
        .map(
          (bytes) =>
            [packValue(`\\x${Buffer.from(bytes).toString('hex')}`, OID.bytea, TYPES), Buffer.from(bytes)] as const,
        ),
      fc
        .array(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), { maxLength: 40 })
        .map((items) => [packValue(`{${items.join(',')}}`, INTS, TYPES), items.map(BigInt)] as const),
    );
    const name = fc
      .string({ minLength: 1, maxLength: 40 })
      .filter((text) => text !== '__proto__' && !/^\d+$/.test(text));
    fc.assert(
      fc.property(fc.uniqueArray(fc.tuple(name, value), { selector: ([text]) => text, maxLength: 30 }), (entries) => {
        const members = new Map(entries.map(([text, [bytes]]) => [text, bytes]));
        const packed = packMap(members);
        assert.deepEqual(unpack(packed), Object.fromEntries(entries.map(([text, [, raw]]) => [text, raw])));
        assert.deepEqual(mapMembers(packed), members);
      }),
      { numRuns: 100 },
    );
  });

  it('invariant 9: bytes that are no map of ours are none', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        const members = mapMembers(Buffer.from(bytes));
        assert.ok(members === undefined || members instanceof Map);
      }),
      { numRuns: 2000 },
    );
    assert.equal(mapMembers(Buffer.alloc(100, 0x91)), undefined, 'nested without end');
  });
});

for (const { name, options } of editions()) {
  describe(`forms of mapping on ${name}`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-forms-'));
    let postgres: TestPostgres;
    let bench: FeedBench;
    before(async () => {
      postgres = await TestPostgres.start(options);
    });
    afterEach(async () => await bench.close());
    after(async () => {
      rmSync(folder, { recursive: true, force: true });
      await postgres.stop();
    });

    async function started(schema: string, mapping: Omit<TableMapping, 'table' | 'database'>): Promise<void> {
      const tables = await loadFunctions([{ table: 'public.t', database: 'default', ...mapping }]);
      bench = await FeedBench.open(postgres, { schema, tables });
      bench.start();
      await bench.synced();
    }

    /** What is there must be the same when all of it is copied anew. */
    async function alsoCopied(): Promise<Record<string, string>> {
      await bench.synced();
      const streamed = bench.records();
      await bench.stopFeed();
      await bench.dropSlot();
      const { next } = bench.store.log;
      bench.start();
      await bench.synced();
      assert.deepEqual(bench.records(), streamed);
      assert.ok(bench.store.log.next - next < 20, 'nothing is written again');
      return streamed;
    }

    it('a row that counts as deleted has no record, until it no longer does', async () => {
      await started(
        `CREATE TABLE t (k text PRIMARY KEY, v text, deleted_at timestamptz, gone boolean);
         INSERT INTO t VALUES ('a', '1', NULL), ('b', '2', now())`,
        { key: '{k}', value: { column: 'v' }, deleted: { column: 'deleted_at' } },
      );
      const { sql } = bench;
      assert.deepEqual(bench.records(), { a: '1' });
      await sql.query(`UPDATE t SET deleted_at = now() WHERE k = 'a'; UPDATE t SET deleted_at = NULL WHERE k = 'b'`);
      await sql.query(
        `INSERT INTO t VALUES ('c', '3', 'infinity'), ('d', '4', NULL); UPDATE t SET k = 'e', deleted_at = now() WHERE k = 'd'`,
      );
      await bench.synced();
      assert.deepEqual(bench.records(), { b: '2' });
      await sql.query(`DELETE FROM t WHERE k = 'e'; UPDATE t SET k = 'f', deleted_at = NULL WHERE k = 'a'`);
      assert.deepEqual(await alsoCopied(), { b: '2', f: '1' });
      assert.equal(bench.status.skippedRows, 0);
    });

    it('a row has a record for each element of an array', async () => {
      await started(
        `CREATE TABLE t (id int PRIMARY KEY, hosts text[], v text); ALTER TABLE t REPLICA IDENTITY FULL;
         INSERT INTO t VALUES (1, '{a,"b c",a,NULL}', '1')`,
        { key: 'host/{hosts}', each: 'hosts', value: { column: 'v' } },
      );
      const { sql } = bench;
      assert.deepEqual(bench.records(), { 'host/a': '1', 'host/b c': '1' });
      await sql.query(
        `UPDATE t SET hosts = '{a,d}', v = '2'; INSERT INTO t VALUES (2, '{}', 'x'), (3, NULL, 'y'), (4, '{{e,f},{g,h}}', 'z')`,
      );
      await bench.synced();
      const nested = { 'host/e': 'z', 'host/f': 'z', 'host/g': 'z', 'host/h': 'z' };
      assert.deepEqual(bench.records(), { 'host/a': '2', 'host/d': '2', ...nested });
      await sql.query(`DELETE FROM t WHERE id = 4; UPDATE t SET hosts = array_append(hosts, 'i') WHERE id = 1`);
      assert.deepEqual(await alsoCopied(), { 'host/a': '2', 'host/d': '2', 'host/i': '2' });
    });

    it('an array whose old elements would not be sent is refused', async () => {
      const mapping = { key: 'host/{hosts}', each: 'hosts', value: { column: 'v' } };
      bench = await FeedBench.open(postgres, {
        schema: 'CREATE TABLE t (id int PRIMARY KEY, hosts text[], v text)',
        tables: [{ table: 'public.t', database: 'default', ...mapping }],
      });
      bench.start();
      assert.match(await bench.failure(/uses hosts/), /REPLICA IDENTITY FULL/);
      const without = { table: 'public.t', database: 'default', ...mapping, key: '{id}' };
      assert.throws(() => checkMappings([without]), /does not name hosts/);
    });

    it('expires so long after a column', async () => {
      await started('CREATE TABLE t (k text PRIMARY KEY, v text, made timestamptz)', {
        key: '{k}',
        value: { column: 'v' },
        expires: { column: 'made', after: 3_600_000 },
      });
      await bench.sql.query(
        `INSERT INTO t VALUES ('old', '1', now() - interval '61 min'), ('new', '2', '2100-01-01'), ('ever', '3', NULL)`,
      );
      await bench.synced();
      assert.deepEqual(bench.records(), { new: '2', ever: '3' });
      assert.equal(bench.store.get('default', Buffer.from('new'))?.xtMs, Date.UTC(2100, 0, 1, 1));
      assert.equal(bench.store.get('default', Buffer.from('ever'))?.xtMs, 0);
    });

    it('MessagePack keeps large values that were not sent', async () => {
      await started('CREATE TABLE t (k text PRIMARY KEY, n bigint, d numeric, big text)', {
        key: '{k}',
        value: { msgpack: 'all' },
      });
      await bench.sql.query(
        `INSERT INTO t VALUES ('a', 9007199254740993, 1.10, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i))`,
      );
      await bench.sql.query(`UPDATE t SET n = -1`);
      await alsoCopied();
      const { big, ...row } = unpack(bench.value('a') as Buffer) as Record<string, unknown>;
      assert.deepEqual(row, { k: 'a', n: -1n, d: '1.10' });
      assert.equal((big as string).length, 12_800);
      assert.equal(bench.status.askedRows, 0);
    });

    it('a function of a module makes values, and one that fails stops the feed by name', async () => {
      const module = join(folder, `map-${options.installation === undefined ? 'a' : 'b'}.mjs`);
      writeFileSync(
        module,
        `export const upper = ({ v, b }) => {
           if (v === 'bad') throw new Error('no such thing');
           return v === null ? null : b === null ? v.toUpperCase() : Buffer.concat([b, Buffer.from(v)]);
         }`,
      );
      await started('CREATE TABLE t (k text PRIMARY KEY, v text, b bytea)', {
        key: '{k}',
        value: { module, function: 'upper' },
      });
      await bench.sql.query(`INSERT INTO t VALUES ('a', 'x', NULL), ('b', NULL, NULL), ('c', 'y', '\\x4142')`);
      assert.deepEqual(await alsoCopied(), { a: 'X', c: 'ABy' });
      await bench.sql.query(`UPDATE t SET v = 'bad' WHERE k = 'a'`);
      await bench.failure(/the function of table public\.t failed: no such thing/);
      await assert.rejects(
        loadFunctions([{ table: 'public.t', database: 'x', key: '{k}', value: { module, function: 'lower' } }]),
        /exports no function lower/,
      );
      await assert.rejects(
        loadFunctions([
          { table: 'public.t', database: 'x', key: '{k}', value: { module: `${module}x`, function: 'f' } },
        ]),
        /cannot load the module/,
      );
    });
  });
}
