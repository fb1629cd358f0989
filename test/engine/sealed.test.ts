/** The engine that seals values: what every engine does, and that nothing below it has what was put. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import fc from 'fast-check';
import { Cipher, SEAL_BYTES, sealedBy, sealingKey } from '../../src/engine/cipher.js';
import { LmdbEngine, MAX_ENGINE_KEY_BYTES } from '../../src/engine/lmdb.js';
import { SealedEngine } from '../../src/engine/sealed.js';
import { parseKeys } from '../../src/node/data/encryption.js';
import { engineConformance } from './conformance.js';

const FIRST = sealingKey(Buffer.alloc(32, 1));
const SECOND = sealingKey(Buffer.alloc(32, 2));
const text = (words: string): Buffer => Buffer.from(words, 'latin1');

const lmdb = (folder: string): LmdbEngine =>
  new LmdbEngine({ bootId: 'a boot', folder, mapSizeBytes: 2 ** 28, maxMaps: 70 });

engineConformance('a sealed engine on LMDB', {
  open: (folder) => {
    return new SealedEngine(lmdb(folder), { cipher: () => new Cipher([FIRST]), isAlwaysSealed: () => true });
  },
  persists: true,
  maxKeyBytes: MAX_ENGINE_KEY_BYTES - 1,
});

describe('a sealed value', () => {
  it('opens at its place only, with its key only, and not when a bit of it was changed', () => {
    const cipher = new Cipher([FIRST]);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 20 }), fc.nat(), (bytes, at, bit) => {
        const [value, place] = [Buffer.from(bytes), Buffer.from(at)];
        const sealed = cipher.seal(value, place);
        assert.equal(sealed.length, value.length + SEAL_BYTES);
        assert.equal(sealedBy(sealed), FIRST.id);
        assert.deepEqual(cipher.open(sealed, place), value);
        assert.throws(() => cipher.open(sealed, Buffer.concat([place, Buffer.of(0)])), { code: 'CORRUPT' });
        assert.throws(() => new Cipher([SECOND]).open(sealed, place), { code: 'STORAGE' });
        assert.deepEqual(new Cipher([SECOND, FIRST]).open(sealed, place), value);
        // Behind the mark and the id of the key: those say whether it is sealed at all.
        const changed = Buffer.from(sealed);
        const position = 12 + (bit % (sealed.length - 12));
        changed[position] = (changed[position] as number) ^ (1 << (bit % 8));
        assert.throws(() => cipher.open(changed, place), { code: 'CORRUPT' });
      }),
    );
  });

  it('has these bytes around it, and never the same twice', () => {
    const cipher = new Cipher([FIRST]);
    const [one, two] = [cipher.seal(text('v'), text('p')), cipher.seal(text('v'), text('p'))];
    assert.equal(one.toString('hex', 0, 12), `544b5301${FIRST.id}`);
    assert.equal(FIRST.id, '575914632a224731');
    assert.notDeepEqual(one, two);
    const known = Buffer.from(
      `544b5301${FIRST.id}000102030405060708090a0bb84e5c99b6ea86623951bec06c907672cdc7f95345`,
      'hex',
    );
    assert.deepEqual(cipher.open(known, text('place')), text('value'));
    const nonces = new Set([...Array(3000)].map(() => cipher.seal(text(''), text('')).toString('hex', 12, 24)));
    assert.equal(nonces.size, 3000);
  });
});

describe('a sealed engine', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-sealed-'));
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('seals maps that were opened so, reads what was there before, and writes all anew with the current key', async () => {
    const below = lmdb(join(folder, 'a'));
    let cipher = new Cipher([FIRST]);
    const engine = new SealedEngine(below, { cipher: () => cipher, isAlwaysSealed: (name) => name === 'log' });
    const open = engine.openMap('open');
    const secret = engine.openMap('secret');
    const keys = [...Array(25).keys()].map((n) => text(`key ${n}`));
    const put = async (map: typeof open, value: string): Promise<void> => {
      await engine.write((writer) => {
        for (const key of keys) writer.put(map, key, text(value));
      });
    };
    const stored = (map: typeof open): string[] => keys.map((key) => below.get(map, key)?.toString('latin1') ?? '');
    const read = (map: typeof open): Set<string> => new Set([...engine.range(map, {})].map(({ value }) => `${value}`));
    await put(open, 'plain');
    await put(secret, 'before');
    assert.deepEqual(new Set(stored(secret)), new Set(['before']));
    assert.equal(engine.openMap('secret', { storage: 'disk', sealed: true }), secret);
    await engine.write((writer) => writer.put(secret, keys[0] as Buffer, text('after')));
    assert.ok(stored(secret)[0]?.startsWith('TKS\x01'));
    assert.deepEqual(read(secret), new Set(['after', 'before']));
    assert.deepEqual(new Set(stored(open)), new Set(['plain']));
    cipher = new Cipher([SECOND, FIRST]);
    const limits = { rows: 20, wrong: 9, bytes: 1e6 };
    const [some, rest] = [
      engine.stale(secret, undefined, limits),
      engine.stale(secret, keys.sort(Buffer.compare)[8], limits),
    ];
    assert.deepEqual([some.keys.length, some.looked, some.last], [9, 9, keys[8]]);
    assert.deepEqual([rest.keys.length, rest.last], [9, keys[17]]);
    assert.equal(engine.stale(secret, undefined, { ...limits, bytes: 1 }).keys.length, 1);
    assert.deepEqual(engine.stale(open, undefined, { ...limits, rows: 100 }), {
      keys: [],
      looked: 25,
      last: undefined,
    });
    let written = 0;
    for (let last: Buffer | undefined, isFirst = true; isFirst || last !== undefined; isFirst = false) {
      const step = await engine.reseal(secret, last, 10);
      written += step.written;
      last = step.last;
    }
    assert.equal(written, 25);
    cipher = new Cipher([SECOND]);
    assert.deepEqual(read(secret), new Set(['after', 'before']));
    assert.ok(stored(secret).every((value) => !/before|after/.test(value)));
    assert.deepEqual(await engine.reseal(secret, undefined, 100), { looked: 25, written: 0, last: undefined });
    // What belongs elsewhere does not open here.
    await below.write((writer) => writer.put(secret, text('key 1'), below.get(secret, text('key 2')) as Buffer));
    assert.throws(() => engine.get(secret, text('key 1')), { code: 'CORRUPT' });
    await engine.close();
  });
});

describe('keys', () => {
  it('are read with comments, the current one first; what is no key is refused and not repeated', () => {
    const key = (byte: number): string => Buffer.alloc(32, byte).toString('hex');
    const keys = parseKeys(`# of 2026\n${key(2)}\n\n${key(1)} # old\n`, 'file');
    assert.deepEqual(
      keys.map(({ id }) => id),
      [SECOND.id, FIRST.id],
    );
    for (const wrong of ['', key(1).slice(1), `${key(1)}\nsecret`]) {
      assert.throws(
        () => parseKeys(wrong, 'file'),
        (error: Error & { code?: string }) => error.code === 'CONFIG' && !/secret|0101/.test(error.message),
      );
    }
  });
});
