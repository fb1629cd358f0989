/** Scopes as values: what they hold, how they meet, how they are written, and that a filtered history is the history of the part. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { holds } from '../../src/base/keys.js';
import { epoch, sequence, sid, versionNs } from '../../src/base/types.js';
import { copyingNote } from '../../src/feeds/feed.js';
import { type Change, decodeTransactions } from '../../src/log/transaction.js';
import { encodeFrame, FRAME_HEADER_BYTES, FrameDecoder } from '../../src/replication/frames/frames.js';
import { MAX_SCOPE_BYTES, Scope, type ScopePart } from '../../src/replication/scope.js';
import { ScopePolicy } from '../../src/replication/scope-policy.js';
import { bytes, DATABASES, encode, KEYS, PREFIXES, transaction } from '../support/store-model.js';

const parts = fc.array(
  fc
    .record({
      databases: fc.subarray(['*', ...DATABASES], { minLength: 1 }),
      prefixes: fc.subarray(PREFIXES.filter((prefix) => prefix !== '')),
    })
    .map(({ databases, prefixes }): ScopePart => ({ databases, prefixes: prefixes.map(bytes) })),
  { maxLength: 3 },
);
const names = [...DATABASES, 'third'];

/** What the parts say, read aloud. */
function sees(all: readonly ScopePart[], database: string, key: string): boolean {
  return all.some(({ databases, prefixes }) => {
    const begins = prefixes.length === 0 || prefixes.some((prefix) => key.startsWith(prefix.toString('latin1')));
    return begins && (databases.includes('*') || databases.includes(database));
  });
}

function everySeen(scope: Scope): string[] {
  return names.flatMap((name) => {
    return KEYS.filter((key) => holds(scope.keysOf(name), bytes(key))).map((key) => `${name} ${key}`);
  });
}

const change = fc.oneof(
  fc.record({
    kind: fc.constant('set' as const),
    database: fc.constantFrom(...DATABASES),
    key: fc.constantFrom(...KEYS).map(bytes),
    value: fc.integer({ min: 0, max: 9 }).map((n) => bytes(String(n))),
    xtMs: fc.constant(0),
  }),
  fc.record({
    kind: fc.constant('remove' as const),
    database: fc.constantFrom(...DATABASES),
    key: fc.constantFrom(...KEYS).map(bytes),
  }),
  fc.record({
    kind: fc.constant('clear' as const),
    database: fc.constantFrom(...DATABASES),
    prefix: fc.constantFrom(...PREFIXES).map(bytes),
  }),
);

function play(changes: readonly Change[], only: (database: string, key: string) => boolean): Map<string, string> {
  const records = new Map<string, string>();
  for (const one of changes) {
    if (one.kind === 'clear') {
      const begin = `${one.database} ${one.prefix.toString('latin1')}`;
      for (const id of [...records.keys()]) if (id.startsWith(begin)) records.delete(id);
      continue;
    }
    const key = one.key.toString('latin1');
    if (!only(one.database, key)) continue;
    if (one.kind === 'set') records.set(`${one.database} ${key}`, one.value.toString());
    else records.delete(`${one.database} ${key}`);
  }
  return records;
}

describe('a scope', () => {
  it('holds what any of its parts names; two of them share what both hold', () => {
    fc.assert(
      fc.property(parts, parts, (a, b) => {
        const all = names.flatMap((name) => KEYS.map((key) => [name, key] as const));
        const expected = (test: (name: string, key: string) => boolean): string[] => {
          return all.filter(([name, key]) => test(name, key)).map(([name, key]) => `${name} ${key}`);
        };
        const one = Scope.of(a);
        assert.deepEqual(
          everySeen(one),
          expected((name, key) => sees(a, name, key)),
        );
        const both = one.intersect(Scope.of(b));
        assert.deepEqual(
          everySeen(both),
          expected((name, key) => sees(a, name, key) && sees(b, name, key)),
        );
        assert.equal(both.id, Scope.of(b).intersect(one).id);
      }),
      { numRuns: 500 },
    );
  });

  it('is written in one way, and read again', () => {
    fc.assert(
      fc.property(parts, (all) => {
        const scope = Scope.of(all);
        assert.equal(Scope.decode(scope.encoded).id, scope.id);
        assert.equal(Scope.of(all.toReversed()).id, scope.id);
        assert.equal(scope.intersect(scope).id, scope.id);
      }),
    );
    assert.equal(Scope.WHOLE.encoded.length, 0);
    const scope = Scope.of([
      { databases: ['b', 'a'], prefixes: [bytes('x/1'), bytes('x/')] },
      { databases: ['a'], prefixes: [] },
    ]);
    const written = '0100' + '02' + '016100' + '01620101' + '02782f';
    assert.equal(scope.encoded.toString('hex'), written);
    assert.equal(String(scope), 'a, b ("x/")');
    // The same in another order, or said twice, is no scope: its id would be another.
    for (const wrong of [
      '0100' + '02' + '01620101' + '02782f' + '016100',
      `${written}00`,
      '0100' + '01' + '01610100',
    ]) {
      assert.throws(() => Scope.decode(Buffer.from(wrong, 'hex')), { code: 'CORRUPT' });
    }
  });

  it('filters a history into the history of its part, with the numbers of the whole (invariants 2 and 12)', () => {
    const history = fc.array(fc.array(change, { maxLength: 4 }), { maxLength: 6 });
    fc.assert(
      fc.property(parts, history, (all, transactions) => {
        const payload = encode(transactions.map((changes, index) => transaction(1, index + 1, index + 1, changes)));
        const scope = Scope.of(all);
        const filtered = decodeTransactions(scope.filter(payload));
        const whole = decodeTransactions(payload);
        assert.deepEqual(
          filtered.map(({ header }) => header),
          whole.map(({ header }) => header),
        );
        const seen = play(
          filtered.flatMap(({ changes }) => changes),
          () => true,
        );
        const expected = play(transactions.flat(), (name, key) => sees(all, name, key));
        assert.deepEqual(seen, expected);
        for (const { changes } of filtered) {
          for (const one of changes) {
            const key = one.kind === 'clear' ? one.prefix : one.key;
            assert.ok(holds(scope.keysOf(one.database), key), 'nothing outside is named');
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it('hands on the very bytes when nothing lies outside', () => {
    const payload = encode([transaction(1, 1, 1, [{ kind: 'remove', database: 'default', key: bytes('a') }])]);
    assert.equal(Scope.of([{ databases: ['default'], prefixes: [bytes('a')] }]).filter(payload), payload);
    assert.equal(Scope.WHOLE.filter(payload), payload);
  });

  it('knows feeds by their source and by databases it shows, never by tables', () => {
    const scope = Scope.of([{ databases: ['dns'], prefixes: [bytes('jp/')] }]);
    assert.equal(scope.seesFeed('postgres'), true);
    assert.equal(scope.seesFeed(copyingNote('postgres', 'dns')), true);
    assert.equal(scope.seesFeed(copyingNote('postgres', 'salaries')), false);
    assert.equal(scope.seesFeed('postgres table public.dns dns {zone}'), false);
    assert.equal(scope.holdsWhole('dns'), false);
  });
});

describe('frames of a scope', () => {
  const self = { instanceId: '0123456789abcdef0123456789abcdef', name: 'e' };
  const clusterId = '00112233445566778899aabbccddeeff';
  const position = [{ sid: sid(1), epoch: epoch(1), sequence: sequence(3), versionNs: versionNs(5n) }];
  const scope = Scope.of([{ databases: ['a'], prefixes: [] }]);

  it('have these bytes', () => {
    const hello = encodeFrame({
      type: 'hello',
      version: 1,
      clusterId,
      self,
      seeded: true,
      isLook: false,
      takesHorizon: false,
      resumes: false,
      unpacks: [],
      position,
      scopeId: scope.id,
    });
    const begin = `01${clusterId}${self.instanceId}`;
    assert.equal(hello.toString('hex', FRAME_HEADER_BYTES), `${begin}01650101010103${'0000000000000005'}${scope.id}`);
    const path = [self];
    const welcome = encodeFrame({
      type: 'welcome',
      version: 1,
      clusterId,
      path,
      rootAddress: '',
      position: [],
      next: 'snapshot',
      beats: [],
      scope: scope.encoded,
    });
    const rest = `01${clusterId}01${self.instanceId}01650000010601000101610000`;
    assert.equal(welcome.toString('hex', FRAME_HEADER_BYTES), rest);
    const read = [...new FrameDecoder().push(Buffer.concat([hello, welcome]))];
    assert.deepEqual(
      read.map(({ type }) => type),
      ['hello', 'welcome'],
    );
  });

  it('fit the handshake with the longest scope', () => {
    const databases = [...Array(3000).keys()].map((n) => `database${String(n).padStart(4, '0')}`);
    const { encoded } = Scope.of([{ databases: databases.slice(0, 2300), prefixes: [] }]);
    assert.ok(encoded.length <= MAX_SCOPE_BYTES && encoded.length > MAX_SCOPE_BYTES - 2048, `${encoded.length}`);
    const frame = encodeFrame({
      type: 'welcome',
      version: 1,
      clusterId,
      path: [...Array(32)].map(() => ({ ...self, name: 'n'.repeat(63) })),
      rootAddress: 'host:1',
      position,
      next: 'log',
      beats: [],
      scope: encoded,
    });
    assert.equal([...new FrameDecoder().push(frame)].length, 1);
  });
});

describe('a policy of scopes', () => {
  const rules = [
    { names: ['edge-tokyo', 'edge-osaka-*'], roles: [], databases: ['dns'], prefixes: [bytes('jp/')] },
    { names: [], roles: ['relay'], databases: ['*'], prefixes: [] },
    { names: ['edge-tokyo'], roles: ['edge'], databases: ['flags'], prefixes: [] },
  ];
  const seen = (name: string, role: string): string => String(new ScopePolicy(rules).for({ name, role }) ?? 'refused');

  it('adds up the rules that fit by name and role; whom none fits may follow nothing', () => {
    assert.equal(seen('edge-tokyo', 'edge'), 'dns ("jp/"), flags');
    assert.equal(seen('edge-tokyo', 'relay'), 'all');
    assert.equal(seen('edge-osaka-7', 'edge'), 'dns ("jp/")');
    assert.equal(seen('edge-osaka', 'edge'), 'refused');
    assert.equal(seen('relay-1', 'relay'), 'all');
    assert.equal(new ScopePolicy([]).for({ name: 'relay-1', role: 'relay' }), undefined);
    assert.equal(new ScopePolicy('all').for({ name: 'x', role: 'edge' }), Scope.WHOLE);
    assert.equal(new ScopePolicy('certificates').for({ name: 'x', role: 'edge' }), undefined);
  });

  it('never gives a follower more than its certificate names, whatever the rules say', () => {
    const scope = Scope.of([{ databases: ['dns'], prefixes: [bytes('jp/a')] }]);
    const held = { name: 'edge-tokyo', role: 'edge', scope };
    assert.equal(String(new ScopePolicy('all').for(held)), 'dns ("jp/a")');
    assert.equal(String(new ScopePolicy('certificates').for(held)), 'dns ("jp/a")');
    assert.equal(String(new ScopePolicy(rules).for(held)), 'dns ("jp/a")');
    assert.equal(new ScopePolicy(rules).for({ ...held, name: 'nobody' }), undefined, 'a list decides who comes in');
    assert.equal(String(new ScopePolicy('certificates').for({ ...held, scope: Scope.NOTHING })), 'nothing');
  });

  it('gives those whom the same rules fit one value, so that frames are encoded once for them', () => {
    const policy = new ScopePolicy(rules);
    assert.equal(
      policy.for({ name: 'edge-osaka-1', role: 'edge' }),
      policy.for({ name: 'edge-osaka-2', role: 'edge' }),
    );
  });
});
