/** Policies of client listeners, pure: what rules allow, against a model; and that restricted commands show nothing else. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { Access, AccessPolicy, type AccessRule, type Permission } from '../../src/commands/access/policy.js';
import { RestrictedCommands } from '../../src/commands/access/restricted-commands.js';
import { Commands } from '../../src/commands/commands.js';
import { Cursor } from '../../src/commands/cursors.js';
import { matchPrefix, matchRegex, matchSimilar } from '../../src/commands/matching.js';
import { Slices } from '../../src/commands/slices.js';
import { MAX_TOKENS, makeToken, TokenTable } from '../../src/pki/client-tokens.js';
import { bytes, DATABASES, KEYS, PREFIXES, StoreBench } from '../support/store-model.js';

const rule = (overrides: Partial<AccessRule>): AccessRule => {
  return {
    certificates: [],
    tokens: [],
    anonymous: true,
    databases: ['*'],
    prefixes: [],
    allow: ['read'],
    ...overrides,
  };
};

const rules = fc.array(
  fc
    .record({
      databases: fc.subarray(['*', ...DATABASES], { minLength: 1 }),
      prefixes: fc.subarray(PREFIXES.filter((prefix) => prefix !== '')),
      allow: fc.subarray<Permission>(['read', 'write', 'admin'], { minLength: 1 }),
    })
    .map(({ prefixes, ...rest }) => rule({ ...rest, prefixes: prefixes.map(bytes) })),
  { maxLength: 4 },
);

/** What the rules say, read aloud. */
function allows(all: readonly AccessRule[], permission: Permission, database: string, key: string): boolean {
  return all.some(({ databases, prefixes, allow }) => {
    const fits = databases.includes('*') || databases.includes(database);
    const begins = prefixes.length === 0 || prefixes.some((prefix) => key.startsWith(prefix.toString('latin1')));
    return fits && allow.includes(permission) && begins;
  });
}

describe('a policy', () => {
  it('allows what any rule that fits allows, per database and key, and nothing else', () => {
    fc.assert(
      fc.property(rules, fc.constantFrom(...DATABASES, 'third'), fc.constantFrom(...KEYS), (all, database, key) => {
        const access = new Access(all);
        assert.equal(access.mayRead(database, bytes(key)), allows(all, 'read', database, key));
        assert.equal(access.mayWrite(database, bytes(key)), allows(all, 'write', database, key));
      }),
      { numRuns: 500 },
    );
  });

  it('fits by certificate, by token, and for everybody', () => {
    const policy = new AccessPolicy([
      rule({ anonymous: false, certificates: ['app', 'spare'], databases: ['a'] }),
      rule({ anonymous: false, tokens: ['deploy'], databases: ['b'] }),
      rule({ databases: ['public'] }),
    ]);
    const seen = (certificates: string[], token?: string): string => {
      const access = policy.for({ certificates, token });
      return ['a', 'b', 'public'].filter((database) => access.mayRead(database, bytes('k'))).join();
    };
    assert.equal(seen([]), 'public');
    assert.equal(seen(['app']), 'a,public');
    assert.equal(seen(['other', 'spare'], 'deploy'), 'a,b,public');
    // A certificate that bears the name of a token is no token.
    assert.equal(seen(['deploy'], 'app'), 'public');
  });
});

describe('restricted commands', () => {
  let bench: StoreBench;
  let whole: Commands;

  before(async () => {
    bench = new StoreBench();
    const store = bench.store(1);
    whole = new Commands({
      store: () => store,
      writeGate: () => undefined,
      limits: { keyBytes: 8, valueBytes: 100 },
      durability: 'committed',
    });
    for (const name of DATABASES) {
      const database = whole.database(name);
      await whole.setBulk(KEYS.map((key) => ({ database, key: bytes(key), value: bytes(key), xtMs: 0 })));
    }
  });
  after(async () => await bench.close());

  it('find, match and walk over the keys that may be read, and no others', async () => {
    const slices = new Slices(bench.clock.runtime);
    const property = fc.asyncProperty(
      rules,
      fc.constantFrom(...DATABASES),
      fc.constantFrom(...PREFIXES),
      async (all, name, prefix) => {
        const commands = new RestrictedCommands(whole, () => new Access(all));
        const database = whole.database(name);
        const readable = KEYS.filter((key) => allows(all, 'read', name, key)).toSorted();
        const search = { commands, slices, database, max: Number.POSITIVE_INFINITY, isWanted: () => true };
        const text = (keys: readonly Buffer[]): string[] => keys.map((key) => key.toString('latin1'));
        assert.deepEqual(
          text(await matchPrefix(search, bytes(prefix))),
          readable.filter((key) => key.startsWith(prefix)),
        );
        assert.deepEqual(text(await matchRegex(search, bytes(''))), readable);
        assert.deepEqual(text(await matchSimilar(search, bytes('a'), 9, false)).toSorted(), readable);
        for (const way of ['forwards', 'backwards'] as const) {
          const cursor = new Cursor(database, { commands, slices, isWanted: () => true });
          const walked: string[] = [];
          try {
            await (way === 'forwards' ? cursor.jump(undefined) : cursor.jumpBack(undefined));
            for (;;) {
              walked.push((await cursor.get(false)).key.toString('latin1'));
              await (way === 'forwards' ? cursor.step() : cursor.stepBack());
            }
          } catch (error) {
            assert.equal((error as { code?: string }).code, 'NO_RECORD');
          }
          assert.deepEqual(walked, way === 'forwards' ? readable : readable.toReversed());
        }
      },
    );
    await fc.assert(property, { numRuns: 60 });
  });

  it('refuse a bulk call for one key, before anything of it is done', async () => {
    const access = new Access([rule({ allow: ['read', 'write'], prefixes: [bytes('a')] })]);
    const commands = new RestrictedCommands(whole, () => access);
    const database = whole.database('default');
    const records = ['ax', 'b'].map((key) => ({ database, key: bytes(key), value: bytes('!'), xtMs: 0 }));
    await assert.rejects(commands.setBulk(records), { code: 'FORBIDDEN' });
    assert.equal(whole.get({ database, key: bytes('ax') }), undefined);
    await assert.rejects(commands.removeBulk([{ database, key: bytes('abc') }, ...records]), { code: 'FORBIDDEN' });
    assert.notEqual(whole.get({ database, key: bytes('abc') }), undefined);
    await assert.rejects(commands.clear(database), { code: 'FORBIDDEN' });
    assert.throws(() => commands.count(database), { code: 'FORBIDDEN' });
  });

  it('need both permissions to look at a record and change it', async () => {
    const database = whole.database('default');
    const ref = { database, key: bytes('a') };
    for (const allow of [['read'], ['write']] as const) {
      const commands = new RestrictedCommands(whole, () => new Access([rule({ allow })]));
      await assert.rejects(
        commands.update(ref, () => ({ next: 'keep', result: 1 })),
        { code: 'FORBIDDEN' },
      );
    }
  });

  it('answer alike for a database that is not allowed and one that is not there', () => {
    const commands = new RestrictedCommands(whole, () => new Access([rule({ databases: ['default'] })]));
    const answer = (name: string | number): string => {
      try {
        return commands.database(name).name;
      } catch (error) {
        return `${(error as { code?: string }).code} ${(error as Error).message}`;
      }
    };
    assert.equal(answer('default'), 'default');
    assert.match(answer('other'), /^FORBIDDEN/);
    assert.equal(answer('other'), answer('none'));
    assert.equal(answer(1), answer(77));
  });
});

describe('client tokens', () => {
  it('are known by their hash, until they end; what is nearly one is none', () => {
    const { token, line } = makeToken('deploy', 5000);
    const other = makeToken('other', undefined);
    assert.ok(!line.includes(token) && /^deploy [0-9a-f]{64} 1970-01-01T00:00:05\.000Z$/.test(line), line);
    const table = TokenTable.parse(`# tokens\n${line}\n\n${other.line}   # spare\n`, 'tokens');
    assert.equal(table.nameOf(token, 4999), 'deploy');
    assert.equal(table.nameOf(token, 5000), undefined);
    assert.equal(table.nameOf(other.token, 5000), 'other');
    assert.equal(table.nameOf(`${token}x`, 0), undefined);
    assert.equal(table.nameOf(token.slice(0, -1), 0), undefined);
    assert.equal(table.nameOf('', 0), undefined);
  });

  it('are refused with the line that is wrong, never its content', () => {
    const { line, token } = makeToken('a', undefined);
    for (const wrong of [
      `${line}\nb secret`,
      `${line}\n${token}`,
      `${line}\n${line} soon`,
      `${line}\n${line} 2030 x`,
    ]) {
      assert.throws(
        () => TokenTable.parse(wrong, 'file'),
        (error: Error) => {
          assert.match(error.message, /^file:2: /);
          return !error.message.includes('secret') && !error.message.includes(token);
        },
      );
    }
    assert.throws(() => TokenTable.parse(`${line}\n`.repeat(MAX_TOKENS + 1), 'file'), /more than 1000 tokens/);
    assert.throws(() => makeToken('a b', undefined), { code: 'CONFIG' });
  });
});
