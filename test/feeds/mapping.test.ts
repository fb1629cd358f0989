/** Rows to records, without a database: the forms of values, and what a mapping does to a store. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  BoundMapping,
  checkMappings,
  FoundRows,
  type MissingRow,
  type RowChange,
  type TableMapping,
} from '../../src/feeds/postgres/mapping.js';
import type { Tuple } from '../../src/feeds/postgres/pgoutput.js';
import {
  expiryMs,
  isoTime,
  jsonMembers,
  jsonObject,
  jsonText,
  OID,
  type TypeCatalog,
} from '../../src/feeds/postgres/values.js';
import type { RecordView, StoreTransaction } from '../../src/store/types.js';

const TEXT = 25;
const TEXTS = 1009;
const INTS = 1007;
const BOX = 1020;
const DOMAIN = 70_001;
const TYPES: TypeCatalog = {
  domains: new Map([
    [DOMAIN, DOMAIN + 1],
    [DOMAIN + 1, OID.int4],
  ]),
  arrays: new Map([
    [TEXTS, { element: TEXT, delimiter: ',' }],
    [INTS, { element: DOMAIN, delimiter: ',' }],
    [BOX, { element: 603, delimiter: ';' }],
  ]),
};

describe('a value as JSON', () => {
  const cases: readonly (readonly [string, string | null, number, string])[] = [
    ['NULL', null, TEXT, 'null'],
    ['a boolean', 't', OID.bool, 'true'],
    ['a domain over a domain over a number', '7', DOMAIN, '7'],
    ['the largest whole number that every reader holds', '9007199254740991', OID.int8, '9007199254740991'],
    ['one more', '9007199254740992', OID.int8, '"9007199254740992"'],
    ['numeric', '0.10', 1700, '"0.10"'],
    ['not a number', 'NaN', OID.float8, '"NaN"'],
    ['a float', '1e-07', OID.float8, '1e-07'],
    ['json as it was written', '{"a":  1.0}', OID.json, '{"a":  1.0}'],
    ['an array', '{1,NULL}', INTS, '[1,null]'],
    ['an array of arrays', '{{1,2},{3,4}}', INTS, '[[1,2],[3,4]]'],
    ['an array with bounds of its own', '[0:1]={1,2}', INTS, '[1,2]'],
    ['an empty array', '{}', INTS, '[]'],
    ['an array with another delimiter', '{(1,1),(0,0);(2,2),(0,0)}', BOX, '["(1,1),(0,0)","(2,2),(0,0)"]'],
    ['what only looks like an array', '{a', TEXT, '"{a"'],
  ];
  for (const [name, value, oid, json] of cases) {
    it(name, () => assert.equal(jsonText(value, oid, TYPES), json));
  }

  it('an array of any texts is read back as it was', () => {
    const item = fc.option(fc.string({ unit: 'grapheme' }), { nil: null });
    fc.assert(
      fc.property(fc.array(item), (items) => {
        const quote = (text: string): string => `"${text.replace(/(["\\])/g, '\\$1')}"`;
        const written = `{${items.map((text) => (text === null ? 'NULL' : quote(text))).join(',')}}`;
        assert.deepEqual(JSON.parse(jsonText(written, TEXTS, TYPES)), items);
      }),
    );
  });

  it('an array cut anywhere is text, not an error', () => {
    const whole = '{{"a\\"b",NULL},{"c","d"}}';
    for (let length = 0; length < whole.length; length++) {
      assert.equal(jsonText(whole.slice(0, length), TEXTS, TYPES), JSON.stringify(whole.slice(0, length)));
    }
  });

  it('the members of any object are found with the text they were written in', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.constantFrom(0, 2), (object, indent) => {
        const members = jsonMembers(JSON.stringify(object, null, indent));
        assert.deepEqual([...(members?.keys() ?? [])], Object.keys(JSON.parse(JSON.stringify(object)) as object));
        for (const [name, text] of members ?? []) {
          assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify(object[name])));
        }
        assert.deepEqual(
          jsonMembers(jsonObject(members ?? []).toString()),
          new Map([...(members ?? [])].map(([name, text]) => [name, text])),
        );
      }),
    );
    for (const text of ['', '[]', '1', '{', '{"a":}', 'null']) assert.equal(jsonMembers(text), undefined);
  });
});

describe('a time', () => {
  it('is ISO 8601, with a zone or without', () => {
    assert.equal(isoTime('2026-11-23 21:00:00.5+00'), '2026-11-23T21:00:00.5Z');
    assert.equal(isoTime('2026-11-23 21:00:00+05:30'), '2026-11-23T21:00:00+05:30');
    assert.equal(isoTime('2026-11-23 21:00:00-03'), '2026-11-23T21:00:00-03:00');
    assert.equal(isoTime('2026-11-23 21:00:00'), '2026-11-23T21:00:00');
    assert.equal(isoTime('12026-11-23 21:00:00+00'), '+012026-11-23T21:00:00Z');
    assert.equal(isoTime('infinity'), 'infinity');
    assert.equal(isoTime('0044-03-15 00:00:00+00 BC'), '0044-03-15 00:00:00+00 BC');
  });

  it('as an expiration: UTC without a zone, never for infinity, long past before 1970', () => {
    assert.equal(expiryMs('2026-11-23 21:00:00'), Date.UTC(2026, 10, 23, 21));
    assert.equal(expiryMs('2026-11-23'), Date.UTC(2026, 10, 23));
    assert.equal(expiryMs('2026-11-23 21:00:00.123456+00'), Date.UTC(2026, 10, 23, 21, 0, 0, 123));
    assert.equal(expiryMs('infinity'), 0);
    assert.equal(expiryMs(null), 0);
    for (const past of ['-infinity', '1969-12-31 23:59:59+00', '0044-03-15 BC']) assert.equal(expiryMs(past), 1);
    assert.equal(expiryMs('294276-12-31 23:59:59+00'), 0);
  });
});

/** A store transaction on a map. */
class MapTransaction implements StoreTransaction {
  readonly records = new Map<string, Buffer>();
  get(_: string, key: Buffer): RecordView | undefined {
    const value = this.records.get(key.toString('latin1'));
    return value === undefined ? undefined : ({ value, xtMs: 0 } as RecordView);
  }
  set(_: string, key: Buffer, value: Buffer): void {
    this.records.set(key.toString('latin1'), value);
  }
  remove(_: string, key: Buffer): boolean {
    return this.records.delete(key.toString('latin1'));
  }
  clear(): void {
    this.records.clear();
  }
}

/** Applies a change; returns what it has to ask for. */
function run(store: StoreTransaction, change: RowChange, found = new FoundRows()): MissingRow[] {
  const missing: MissingRow[] = [];
  change(store, missing, found);
  return missing;
}

const COLUMNS = ['k', 'v', 'w'].map((name) => ({ name, typeOid: TEXT, isKey: name === 'k' }));
const mapping = (value: TableMapping['value']): TableMapping => {
  return { table: 'public.t', database: 'd', key: 'p/{k}', value };
};

describe('a mapping', () => {
  for (const value of [{ column: 'v' }, { json: 'all' as const }, { json: ['w', 'v'] }]) {
    it(`leaves what the table holds, whichever values are not sent (${JSON.stringify(value)})`, () => {
      const key = fc.constantFrom('a', 'b', 'c', 'd');
      const text = fc.option(fc.string(), { nil: null });
      const operation = fc.record({
        kind: fc.constantFrom('put', 'move', 'remove'),
        key,
        to: key,
        v: text,
        w: text,
        same: fc.boolean(),
      });
      fc.assert(
        fc.property(fc.array(operation, { maxLength: 40 }), (operations) => {
          const counters = { nullKeys: 0 };
          const bound = new BoundMapping(mapping(value), COLUMNS, TYPES, counters);
          const table = new Map<string, Tuple>();
          const store = new MapTransaction();
          for (const { kind, key, to, v, w, same } of operations) {
            const before = table.get(key);
            if (before === undefined) {
              table.set(key, [key, v, w]);
              run(store, bound.put([key, v, w]));
            } else if (kind === 'remove') {
              table.delete(key);
              run(store, bound.remove([key, null, null]));
            } else {
              const target = kind === 'move' && !table.has(to) ? to : key;
              // NULL is never large: only a value that is there can go unsent.
              const keep = same && before[1] !== null;
              const row: Tuple = [target, keep ? before[1] : v, w];
              table.delete(key);
              table.set(target, row);
              const old = target === key ? undefined : [key, null, null];
              run(store, bound.put([target, keep ? undefined : v, w], old));
            }
          }
          const wanted = new Map<string, string>();
          for (const [k, [, v, w]] of table) {
            if ('column' in value && v !== null) wanted.set(`p/${k}`, v as string);
            if ('json' in value) wanted.set(`p/${k}`, JSON.stringify(value.json === 'all' ? { k, v, w } : { w, v }));
          }
          const found = new Map([...store.records].map(([name, bytes]) => [name, bytes.toString('utf8')]));
          assert.deepEqual(new Map([...found].sort()), new Map([...wanted].sort()));
        }),
      );
    });
  }

  it('a moved key whose part is applied again keeps its large value', () => {
    const bound = new BoundMapping(mapping({ column: 'v' }), COLUMNS, TYPES, { nullKeys: 0 });
    const store = new MapTransaction();
    run(store, bound.put(['a', 'large', null]));
    const move = bound.put(['b', undefined, null], ['a', null, null]);
    run(store, move);
    run(store, move);
    assert.deepEqual([...store.records], [['p/b', Buffer.from('large')]]);
  });

  it('a large value that is nowhere is asked for, and used once', () => {
    const counters = { nullKeys: 0 };
    const bound = new BoundMapping(mapping({ json: 'all' }), COLUMNS, TYPES, counters);
    const store = new MapTransaction();
    store.set('d', Buffer.from('p/b'), Buffer.from('written by hand'));
    const changes = ['a', 'b'].map((key) => bound.put([key, undefined, 'w']));
    const missing = changes.flatMap((change) => run(store, change));
    assert.deepEqual(missing, [
      { table: 'public.t', id: 'public.t p/a', columns: ['k', 'v', 'w'], where: [['k', 'a']] },
      { table: 'public.t', id: 'public.t p/b', columns: ['k', 'v', 'w'], where: [['k', 'b']] },
    ]);
    const found = new FoundRows();
    found.add('public.t p/a', ['a', 'large', 'w']);
    found.add('public.t p/b', null);
    assert.deepEqual(
      changes.flatMap((change) => run(store, change, found)),
      [],
    );
    assert.deepEqual([...store.records], [['p/a', Buffer.from('{"k":"a","v":"large","w":"w"}')]]);
    found.forgetUsed();
    assert.equal(found.use('public.t p/a'), undefined);
  });

  it('takes keys and values as bytes where nothing is made of them, and leaves out what it does not name', () => {
    const columns = [...COLUMNS, { name: 'b', typeOid: OID.bytea, isKey: false }];
    const forms = (part: Partial<TableMapping>): readonly string[] =>
      new BoundMapping({ ...mapping({ column: 'v' }), ...part }, columns, TYPES, { nullKeys: 0 }).forms;
    assert.deepEqual(forms({}), ['bytes', 'bytes', 'none', 'none']);
    assert.deepEqual(forms({ value: { column: 'b' } }), ['bytes', 'none', 'none', 'hex']);
    assert.deepEqual(forms({ value: { json: ['v', 'b'] } }), ['bytes', 'text', 'none', 'text']);
    assert.deepEqual(forms({ value: { msgpack: 'all' } }), ['text', 'text', 'text', 'text']);
    assert.deepEqual(forms({ deleted: { column: 'w' } }), ['bytes', 'bytes', 'text', 'none']);
    assert.deepEqual(forms({ value: { module: 'm', function: 'f' } }), ['text', 'text', 'text', 'text']);
  });

  it('a large value that is nowhere is asked for by the text of its key, also where that came as bytes', () => {
    const bound = new BoundMapping(mapping({ column: 'v' }), COLUMNS, TYPES, { nullKeys: 0 });
    const missing = run(new MapTransaction(), bound.put([Buffer.from('ü'), undefined, null]));
    assert.deepEqual(missing[0]?.where, [['k', 'ü']]);
  });

  const refused = (what: string, mappings: readonly Partial<TableMapping>[], says: RegExp): void => {
    it(`${what} is refused`, () => {
      const whole = mappings.map((part) => ({ ...mapping({ column: 'v' }), ...part }));
      assert.throws(() => checkMappings(whole), { code: 'CONFIG', message: says });
    });
  };
  refused('a key without a column', [{ key: 'constant' }], /names no column/);
  refused('a brace without its partner', [{ key: '{k' }], /brace without its partner/);
  refused('an empty column', [{ key: '{}' }], /brace without its partner/);
  refused('two columns side by side', [{ key: '{k}{v}' }], /side by side/);
  refused('two tables with one beginning', [{ key: 'a/{k}' }, { key: 'a/b/{k}', table: 'public.u' }], /could collide/);
  refused('a table without its schema', [{ table: 't' }], /is not SCHEMA\.TABLE/);

  it('two tables with different beginnings, or in different databases, are accepted', () => {
    const one = mapping({ column: 'v' });
    checkMappings([one, { ...one, key: 'q/{k}' }, { ...one, database: 'e' }]);
  });
});
