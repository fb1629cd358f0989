/** Values in binary form: each built-in type against what a real Postgres writes as text, then whole rows through the feed. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import fc from 'fast-check';
import type pg from 'pg';
import { type BinaryTypes, loadBinaryTypes } from '../../src/feeds/postgres/binary/types.js';
import { connectSql } from '../../src/feeds/postgres/connection.js';
import { FeedBench } from '../support/feed-bench.js';
import { editions, TestPostgres } from '../support/postgres.js';

/** Built-in types that are read as text: names of objects, money by the server's locale, what no table may have. */
const AS_TEXT = new Set(
  'money regclass regcollation regconfig regdatabase regdictionary regnamespace regoper regoperator regproc regprocedure regrole regtype'.split(
    ' ',
  ),
);

type Texts = fc.Arbitrary<string>;

const text = fc
  .oneof(
    fc.string({ unit: 'grapheme', maxLength: 12 }),
    fc.constantFrom('', 'NULL', 'null', ' ', 'a b', '"', '\\', "'", '{}', '(,)', '[a,b]', 'a"b\\c', '\t\n', 'é', ';'),
  )
  .map((value) => value.replaceAll('\0', ''));
const int = (bits: number): Texts =>
  fc.bigInt({ min: -(2n ** BigInt(bits - 1)), max: 2n ** BigInt(bits - 1) - 1n }).map(String);
const natural = (bits: number): Texts => fc.bigInt({ min: 0n, max: 2n ** BigInt(bits) - 1n }).map(String);
const double: Texts = fc.oneof(
  // Any bits, and what sits at the edges of the exponents.
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((bits) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(bits);
    return String(bytes.readDoubleBE(0));
  }),
  fc.integer({ min: -1074, max: 1023 }).map((power) => String(2 ** power)),
  fc.tuple(fc.integer({ min: -999, max: 999 }), fc.integer({ min: -30, max: 30 })).map(([n, power]) => `${n}e${power}`),
  fc.constantFrom('0', '-0', '1e23', '9007199254740993', '5e-324', '1e15', '999999999999999', '1e-4', '0.00001'),
);
const single: Texts = fc.oneof(
  fc.integer({ min: 0, max: 0xffff_ffff }).map((bits) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(bits);
    return String(bytes.readFloatBE(0));
  }),
  fc.integer({ min: -149, max: 127 }).map((power) => String(2 ** power)),
  fc
    .tuple(fc.integer({ min: -999, max: 999 }), fc.integer({ min: -12, max: 12 }))
    .map(([n, power]) => String(Math.fround(Number(`${n}e${power}`)))),
  fc.constantFrom('0', '-0', '1e6', '999999', '1234567', '1e-4', '0.00001', '1e-45'),
);
const digits = (most: number): Texts => fc.stringMatching(new RegExp(`^[0-9]{1,${most}}$`));
const numeric: Texts = fc.oneof(
  fc.tuple(fc.constantFrom('', '-'), digits(40), digits(30)).map(([sign, a, b]) => `${sign}${a}.${b}`),
  fc.tuple(digits(9), fc.integer({ min: -60, max: 60 })).map(([n, power]) => `${n}e${power}`),
  fc.constantFrom('0', '0.0000', '-0.00001', 'NaN', 'Infinity', '-Infinity', '10000', '100000000', '1e1000'),
);
const instant = (zone: string): Texts =>
  fc.oneof(
    fc
      .tuple(
        fc.integer({ min: 1, max: 200_000 }),
        fc.integer({ min: 0, max: 366 * 86_400 }),
        fc.integer({ min: 0, max: 999_999 }),
      )
      .map(([year, second, micros]) => {
        const at = new Date(Date.UTC(2000, 0, 1) + second * 1000).toISOString();
        const isLeap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
        const day = at.startsWith('-02-29', 4) && !isLeap ? '-02-28' : at.slice(4, 10);
        return `${String(year).padStart(4, '0')}${day} ${at.slice(11, 19)}.${String(micros).padStart(6, '0')}${zone}`;
      }),
    fc.constantFrom(
      'infinity',
      '-infinity',
      `0001-01-01 00:00:00${zone} BC`,
      `4713-02-01 00:00:00.000001${zone} BC`,
      `0005-02-29 23:59:59.999999${zone} BC`,
      `2000-01-01 00:00:00${zone}`,
      `1999-12-31 23:59:59.9${zone}`,
      `1900-03-01 00:00:00${zone}`,
    ),
  );
const day = instant('').map((value) => value.replace(/ [\d:.]+/, ''));
const clock: Texts = fc.oneof(
  fc.integer({ min: 0, max: 86_399_999_999 }).map((micros) => {
    const at = new Date(Math.floor(micros / 1000)).toISOString().slice(11, 23);
    return `${at}${String(micros % 1000).padStart(3, '0')}`;
  }),
  fc.constantFrom('00:00', '24:00:00', '12:30:00.5'),
);
const span: Texts = fc.oneof(
  fc
    .tuple(
      fc.integer({ min: -3000, max: 3000 }),
      fc.integer({ min: -400, max: 400 }),
      fc.integer({ min: -9e12, max: 9e12 }),
    )
    .map(([months, days, micros]) => `${months} months ${days} days ${micros} microseconds`),
  fc.constantFrom(
    '0',
    '-1 second',
    '0.5 second',
    '-0.5 second',
    '1 year -1 day',
    '-00:00:00.000001',
    '178000000 years',
  ),
);
const byte = fc.integer({ min: 0, max: 255 });
const hex = (count: number): Texts => fc.stringMatching(new RegExp(`^[0-9a-f]{${count}}$`));
const mac = (count: number): Texts =>
  fc.array(byte, { minLength: count, maxLength: count }).map((bytes) =>
    Buffer.from(bytes)
      .toString('hex')
      .replace(/..(?!$)/g, '$&:'),
  );
const words = fc.array(fc.oneof(fc.constant('0'), fc.constantFrom('1', 'ffff', 'a', 'db8'), hex(4)), {
  minLength: 8,
  maxLength: 8,
});
const address: Texts = fc.oneof(
  fc.array(byte, { minLength: 4, maxLength: 4 }).map((bytes) => bytes.join('.')),
  words.map((list) => list.join(':')),
  fc.constantFrom('::', '::1', '::ffff:1.2.3.4', '::1.2.3.4', '1::'),
);
const prefixed = address.chain((value) =>
  fc.integer({ min: 0, max: value.includes(':') ? 128 : 32 }).map((bits) => `${value}/${bits}`),
);
const json: Texts = fc
  .jsonValue({ maxDepth: 2 })
  .map((value) => JSON.stringify(value))
  .filter((value) => !value.includes('\\u0000'));
const shape = fc.tuple(double, double).map(([x, y]) => `(${x},${y})`);
const shapes = fc.array(shape, { minLength: 1, maxLength: 4 }).map((list) => list.join(','));
const snapshot = fc
  .uniqueArray(fc.integer({ min: 10, max: 99 }), { maxLength: 4 })
  .map((list) => `10:100:${list.sort().join(',')}`);
const word = text.map((value) => `'${value.replace(/['\\]/g, '$&$&') || 'x'}'`);
const vector = fc
  .array(fc.tuple(word, fc.constantFrom('', ':1', ':3A,4B,9C', ':16383')), { maxLength: 4 })
  .map((list) => list.map((pair) => pair.join('')).join(' '));
const query = fc.letrec<{ query: string }>((tie) => ({
  query: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.tuple(word, fc.constantFrom('', ':*', ':AB', ':*D')).map((pair) => pair.join('')),
    tie('query').map((inner) => `!(${inner})`),
    fc
      .tuple(tie('query'), fc.constantFrom('&', '|', '<->', '<3>'), tie('query'))
      .map(([a, sign, b]) => `(${a}) ${sign} (${b})`),
  ),
})).query;
/** By type, how its values are written. */
const VALUES: Readonly<Record<string, Texts>> = {
  bit: fc.stringMatching(/^[01]$/),
  bool: fc.constantFrom('t', 'f'),
  box: fc.tuple(shape, shape).map((pair) => pair.join(',')),
  bpchar: text,
  bytea: fc.uint8Array({ maxLength: 40 }).map((bytes) => `\\x${Buffer.from(bytes).toString('hex')}`),
  char: fc.constantFrom('', 'a', '\\', ' ', '"'),
  cid: natural(32),
  cidr: address.map((value) => `${value}/${value.includes(':') ? 128 : 32}`),
  circle: fc.tuple(shape, fc.constantFrom('0', '1', '2.5', '1e300')).map(([at, radius]) => `<${at},${radius}>`),
  date: day,
  float4: single,
  float8: double,
  inet: fc.oneof(address, prefixed),
  int2: int(16),
  int2vector: fc.array(int(16), { maxLength: 4 }).map((list) => list.join(' ')),
  int4: int(32),
  int8: int(64),
  interval: span,
  json,
  jsonb: json,
  jsonpath: fc.constantFrom('$', '$.a[*] ? (@ > 1)', 'strict $.**'),
  line: fc.constantFrom('{1,2,3}', '{0,-1,0.5}', '{1e100,2,3}'),
  lseg: fc.tuple(shape, shape).map(([a, b]) => `[${a},${b}]`),
  macaddr: mac(6),
  macaddr8: mac(8),
  name: text.map((value) => value.slice(0, 8)),
  numeric,
  oid: natural(32),
  oidvector: fc.array(natural(32), { maxLength: 4 }).map((list) => list.join(' ')),
  path: fc.oneof(
    shapes.map((list) => `(${list})`),
    shapes.map((list) => `[${list}]`),
  ),
  pg_lsn: fc.tuple(hex(8), hex(8)).map((pair) => pair.join('/')),
  pg_snapshot: snapshot,
  point: shape,
  polygon: shapes.map((list) => `(${list})`),
  refcursor: text,
  text,
  tid: fc.tuple(natural(32), natural(16)).map((pair) => `(${pair.join(',')})`),
  time: clock,
  timestamp: instant(''),
  timestamptz: instant('+00'),
  timetz: fc.tuple(clock, fc.constantFrom('+00', '-11:30', '+05:45', '+02', '-00:00:30')).map((pair) => pair.join('')),
  tsquery: query,
  tsvector: vector,
  txid_snapshot: snapshot,
  uuid: hex(32),
  varbit: fc.stringMatching(/^[01]{0,40}$/),
  varchar: text,
  xid: natural(32),
  xid8: natural(64),
  xml: fc.constantFrom(
    '<a/>',
    '<a b="c">d</a>',
    '<?xml version="1.0" encoding="UTF-8"?><a/>',
    '<?xml version="1.1"?><a/>',
    'x',
  ),
};

interface Sendable {
  readonly name: string;
  readonly oid: number;
  readonly send: string;
}

for (const { name, options } of editions()) {
  describe(`the binary form of values on ${name}`, () => {
    let postgres: TestPostgres;
    let sql: pg.Client;
    let types: BinaryTypes;
    before(async () => {
      postgres = await TestPostgres.start(options);
      sql = await connectSql({ connection: postgres.url }, 'a test');
      await sql.query(`
        CREATE TYPE mood AS ENUM ('sad', 'ok "x"', '');
        CREATE DOMAIN small AS int2 CHECK (VALUE < 100); CREATE DOMAIN smalls AS small[];
        CREATE TYPE pair AS (a text, n numeric, m mood, d small);
        CREATE TYPE nested AS (p pair, list pair[], r int4range, b bytea);
        CREATE TYPE with_money AS (a int, b money);
        CREATE TYPE floats AS RANGE (subtype = float8);`);
      types = await loadBinaryTypes(sql);
    });
    after(async () => {
      await sql.end();
      await postgres.stop();
    });

    /** Asks for both forms of values, and compares what is read from the binary one with the text. */
    async function compare({ name: type, oid, send }: Sendable, texts: readonly string[]): Promise<void> {
      const { rows } = await sql.query<{ text: string; bytes: string }>(
        `SELECT format('%s', v) AS text, encode(${send}(v${send === 'textsend' ? '::text' : ''}), 'hex') AS bytes
         FROM unnest($1::text[]) AS t(x), LATERAL (SELECT x::${type} AS v) s`,
        [texts],
      );
      const [read] = types.readers([{ name: 'v', typeOid: oid, isKey: false }]);
      assert.ok(read !== undefined, `${type} is read`);
      for (const { text: wanted, bytes } of rows) {
        const value: string | Buffer = read(Buffer.from(bytes, 'hex'));
        const found: string = typeof value === 'string' ? value : `\\x${value.toString('hex')}`;
        assert.equal(found, wanted, type);
      }
    }

    async function typeOf(type: string): Promise<Sendable> {
      const { rows } = await sql.query<{ oid: string; send: string }>(
        `SELECT t.oid, typsend::regproc AS send FROM pg_type t WHERE t.oid = $1::regtype`,
        [type],
      );
      return { name: type, oid: Number(rows[0]?.oid), send: rows[0]?.send ?? '' };
    }

    it('every built-in type, and arrays of it: any value is read as Postgres writes it', async () => {
      const { rows } = await sql.query<{ name: string }>(
        `SELECT typname AS name FROM pg_type
         WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typsend <> 0
           AND (typcategory <> 'A' OR typname IN ('int2vector', 'oidvector'))
           AND typname !~ '^(gtsvector|pg_node_tree|pg_ndistinct|pg_dependencies|pg_mcv_list|pg_brin.*)$'
         ORDER BY 1`,
      );
      const hasXml = await sql.query(`SELECT '<a/>'::xml`).then(
        () => true,
        () => false,
      );
      for (const { name: bare } of rows) {
        if (bare === 'xml' && !hasXml) continue;
        const type = await typeOf(`pg_catalog."${bare}"`);
        if (AS_TEXT.has(bare)) {
          assert.deepEqual(types.unreadable([{ name: 'v', typeOid: type.oid, isKey: false }]), ['v'], bare);
          continue;
        }
        const values = VALUES[bare];
        assert.ok(values !== undefined, `${bare} is tested`);
        const texts = fc.sample(values, 300);
        await compare(type, texts);
        const { rows: arrays } = await sql.query<{ name: string | null }>(
          'SELECT nullif(typarray, 0)::regtype::text AS name FROM pg_type WHERE oid = $1',
          [type.oid],
        );
        // Of these Postgres makes no arrays that are not all of one length.
        if (arrays[0]?.name == null || bare.endsWith('vector')) continue;
        const literal = await sql.query<{ list: string }>(
          `SELECT array_agg(CASE WHEN n % 7 = 0 THEN NULL ELSE x::${type.name} END)::text AS list
           FROM unnest($1::text[]) WITH ORDINALITY AS t(x, n) GROUP BY n % 40`,
          [texts],
        );
        const lists = literal.rows.map(({ list }) => list);
        await compare(await typeOf(arrays[0].name), [...lists, '{}', '{NULL}']);
      }
    });

    it('arrays of several dimensions and other bounds', async () => {
      await compare(await typeOf('int4[]'), ['{{1,2},{3,NULL}}', '[0:1]={1,2}', '[-2:-1][5:5]={{1},{2}}', '{{{1}}}']);
    });

    it('ranges, multiranges, enums, domains and rows, inside each other', async () => {
      const cases: Readonly<Record<string, readonly string[]>> = {
        int4range: ['empty', '[1,5)', '(,5)', '[1,)', '(,)'],
        int8range: ['[-9223372036854775808,9007199254740993)'],
        numrange: ['(1.50,2.25]', '[1,1]', '(,NaN]'],
        tsrange: ['["2000-01-01 00:00","2001-01-01 12:00:00.5")', '(,infinity)'],
        tstzrange: ['["2000-01-01 00:00+00",)'],
        daterange: ['[2000-01-01,2001-01-01)'],
        floats: ['[0.1,1e300]', '(-Infinity,NaN)'],
        int4multirange: ['{}', '{[1,2),[5,9)}', '{(,)}'],
        tsmultirange: ['{["2000-01-01 00:00","2001-01-01 12:00"),["2005-01-01 00:00",)}'],
        mood: ['sad', 'ok "x"', ''],
        'mood[]': ['{sad,"ok \\"x\\"","",NULL}'],
        small: ['7'],
        smalls: ['{1,2,NULL}'],
        pair: ['(,,,)', '(a,1.50,sad,7)', '("x y","-0.001","ok ""x""",)', '("(\\"","NaN","",1)'],
        'pair[]': ['{"(a,1,sad,7)",NULL,"(\\"x,y\\",,,)"}'],
        nested: ['(,,,)', '("(\\"a b\\",1,,2)","{""(x,,,)""}","[1,3)","\\\\x00ff")'],
      };
      for (const [type, texts] of Object.entries(cases)) await compare(await typeOf(type), texts);
      for (const type of ['with_money', 'with_money[]', 'money[]', 'regclass'])
        assert.deepEqual(
          types.unreadable([{ name: 'v', typeOid: (await typeOf(type)).oid, isKey: false }]),
          ['v'],
          type,
        );
    });

    it('invariant 9: bytes that are no value of the type are refused, or read as some text', async () => {
      const { rows } = await sql.query<{ oid: string }>(
        `SELECT oid FROM pg_type WHERE typtype IN ('b', 'r', 'm', 'c', 'e', 'd')`,
      );
      const readers = types.readers(rows.map(({ oid }) => ({ name: 'v', typeOid: Number(oid), isKey: false })));
      for (const bytes of fc.sample(fc.uint8Array({ maxLength: 60 }), 100)) {
        for (const read of readers) {
          try {
            read?.(Buffer.from(bytes));
          } catch (error) {
            assert.equal((error as { code?: string }).code, 'FEED', String(error));
          }
        }
      }
    });
  });
}

/** Columns of one table, and where their values are from. */
const COLUMNS = [
  ...'bool bytea int2 int4 int8 float4 float8 numeric text varchar name uuid json jsonb date time timestamp'.split(' '),
  ...'timestamptz timetz interval inet cidr macaddr bit varbit point box path tsvector tsquery pg_lsn oid'.split(' '),
];

for (const { name, options } of editions()) {
  describe(`the stream in binary form on ${name}`, () => {
    let postgres: TestPostgres;
    let bench: FeedBench;
    before(async () => {
      postgres = await TestPostgres.start(options);
    });
    afterEach(async () => await bench.close());
    after(async () => await postgres.stop());

    it('rows of all types: the stream in either form and the copy make the same records', async () => {
      const columns = COLUMNS.map((type) => `c_${type} ${type}`).join(', ');
      const table = { table: 'public.t', database: 'default' };
      const key = 'row/{c_bytea}/{c_float8}/{c_int8}/{c_timestamptz}/{list}/{mood}/{id}';
      bench = await FeedBench.open(postgres, {
        schema: `CREATE TYPE mood AS ENUM ('sad', 'o k'); CREATE TYPE pair AS (a text, b bytea); CREATE DOMAIN bytes AS bytea;
          CREATE TABLE t (id serial PRIMARY KEY, ${columns}, mood mood, list text[], pair pair, pairs pair[], span tstzrange,
            raw bytes, until timestamptz, gone boolean, big text);
          ALTER TABLE t REPLICA IDENTITY FULL`,
        tables: [
          { ...table, key, value: { json: 'all' }, expires: { column: 'until' }, deleted: { column: 'gone' } },
          { ...table, database: 'packed', key: '{id}', value: { msgpack: 'all' } },
          { ...table, database: 'bytes', key: '{id}', value: { column: 'raw' } },
        ],
        databases: ['default', 'packed', 'bytes'],
      });
      const all = (): unknown =>
        ['default', 'packed', 'bytes'].map((database) => {
          const keys = bench.store.keys(database, Buffer.alloc(0), undefined, 10_000);
          return keys.map((key) => {
            const record = bench.store.get(database, key);
            return [key.toString('latin1'), record?.xtMs, record?.value.toString('latin1')];
          });
        });
      bench.start({ binary: true });
      await bench.synced();
      const names = COLUMNS.map((type) => `c_${type}`).join(', ');
      const rows = 60;
      const samples = COLUMNS.map((type) => fc.sample(VALUES[type] as Texts, rows));
      for (let row = 0; row < rows; row++) {
        const values = samples.map((texts, at) => ((row + at) % 9 === 0 && at > 7 ? null : texts[row]));
        const places = COLUMNS.map((type, at) => `$${at + 1}::text::${type}`).join(', ');
        await bench.sql.query(
          `INSERT INTO t (${names}, mood, list, pair, pairs, span, raw, until, gone, big)
           VALUES (${places}, 'o k', '{"a b",NULL,c}', ROW('x y', '\\xff00'), ARRAY[ROW(NULL, '\\x')::pair, NULL],
             '[2000-01-01, infinity)', '\\x00ff', '2100-01-01 00:00:00.5+02', ${row % 5 === 0}, repeat('big', 3000))`,
          values,
        );
      }
      // A large value that stays, a key that changes, a row that goes.
      await bench.sql.query(`UPDATE t SET c_int4 = 7 WHERE id < 10; UPDATE t SET c_bytea = '\\x01' WHERE id < 20`);
      await bench.sql.query('DELETE FROM t WHERE id = 3; CREATE TABLE saved AS TABLE t');
      await bench.synced();
      const streamed = all();
      assert.ok(!bench.logged.some((line) => /come as text|asking for text/.test(line)), bench.logged.join('\n'));
      await bench.stopFeed();
      await bench.dropSlot();
      bench.start({ binary: false });
      await bench.synced();
      assert.deepEqual(all(), streamed, 'the copy');
      await bench.sql.query('DELETE FROM t');
      await bench.synced();
      assert.deepEqual(all(), [[], [], []]);
      await bench.sql.query('INSERT INTO t TABLE saved');
      await bench.synced();
      assert.deepEqual(all(), streamed, 'the stream as text');
      assert.equal(bench.status.failures, 0);
    });

    it('a column that cannot be read in binary form has the feed ask for text, also when it comes later', async () => {
      bench = await FeedBench.open(postgres, {
        schema: 'CREATE TABLE t (k text PRIMARY KEY, v int)',
        tables: [{ table: 'public.t', database: 'default', key: '{k}', value: { json: 'all' } }],
      });
      bench.start({ binary: true });
      await bench.sql.query(`INSERT INTO t VALUES ('a', 1)`);
      await bench.synced();
      assert.ok(!bench.logged.some((line) => line.includes('come as text')));
      await bench.sql.query(`ALTER TABLE t ADD m money DEFAULT 2.5; INSERT INTO t VALUES ('b', 2, 3.5)`);
      await bench.failure(/values come as text.*public\.t\.m/);
      await bench.sql.query(`INSERT INTO t VALUES ('c', 3, 4.5)`);
      await bench.synced();
      assert.deepEqual(bench.records(), {
        a: '{"k":"a","v":1,"m":"$2.50"}',
        b: '{"k":"b","v":2,"m":"$3.50"}',
        c: '{"k":"c","v":3,"m":"$4.50"}',
      });
      assert.equal(bench.status.failures, 0);
    });

    it('a value that cannot be read in binary form has the feed ask for text, and is not lost', async () => {
      bench = await FeedBench.open(postgres, {
        schema: 'CREATE TABLE t (k text PRIMARY KEY, v "char")',
        tables: [{ table: 'public.t', database: 'default', key: '{k}', value: { column: 'v' } }],
      });
      bench.start({ binary: true });
      await bench.sql.query(`INSERT INTO t VALUES ('a', 'x')`);
      await bench.synced();
      await bench.sql.query(`INSERT INTO t VALUES ('b', (-56)::"char")`);
      await bench.failure(/cannot be read in binary form: asking for text/);
      await bench.sql.query(`INSERT INTO t VALUES ('c', 'y')`);
      await bench.synced();
      assert.deepEqual(Object.keys(bench.records()), ['a', 'b', 'c']);
      assert.equal(bench.status.failures, 0);
    });
  });
}
