/** Records as lines of text: any bytes and back in every encoding, and what is refused. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { NEVER_EXPIRES } from '../../src/base/types.js';
import {
  encodeRecordLine,
  LINE_ENCODINGS,
  type LineEncoding,
  type RecordLine,
  RecordLineDecoder,
} from '../../src/protocol/record-lines.js';

function decode(encoding: LineEncoding, text: string, piece = 1 << 20, lineBytes = 1 << 20): RecordLine[] {
  const decoder = new RecordLineDecoder(encoding, lineBytes);
  const bytes = Buffer.from(text, 'latin1');
  const lines: RecordLine[] = [];
  for (let at = 0; at < bytes.length; at += piece) lines.push(...decoder.push(bytes.subarray(at, at + piece)));
  const last = decoder.end();
  return last === undefined ? lines : [...lines, last];
}

describe('records as lines', () => {
  for (const encoding of LINE_ENCODINGS.filter((name) => name !== 'raw')) {
    it(`come back from ${encoding}, whatever bytes they hold, in any pieces`, () => {
      const bytes = fc.uint8Array({ maxLength: 40 }).map((array) => Buffer.from(array));
      const xtMs = fc.oneof(
        fc.constant(NEVER_EXPIRES),
        fc.integer({ min: 1, max: 2 ** 33 }).map((s) => s * 1000),
      );
      const record = fc.record(
        { kind: fc.constant('set' as const), key: bytes, value: bytes, xtMs },
        { noNullPrototype: true },
      );
      fc.assert(
        fc.property(fc.array(record, { maxLength: 10 }), fc.integer({ min: 1, max: 99 }), (records, piece) => {
          const text = records.map((each) => encodeRecordLine(encoding, each)).join('');
          assert.deepEqual(decode(encoding, text, piece), records);
        }),
      );
    });
  }

  it('refuse bytes that a raw line cannot hold', () => {
    for (const value of ['a\tb', 'a\nb']) {
      const record = { key: Buffer.from('k'), value: Buffer.from(value), xtMs: NEVER_EXPIRES };
      assert.throws(() => encodeRecordLine('raw', record), { code: 'MALFORMED', hint: /--encoding/ });
    }
  });

  it('are what ktremotemgr prints and reads: hexadecimal with blanks, seconds, one column to remove', () => {
    assert.deepEqual(decode('hex', '6B 31\t76 31\t1099511627775\n6b32\t\t1800000000\n6b33'), [
      { kind: 'set', key: Buffer.from('k1'), value: Buffer.from('v1'), xtMs: NEVER_EXPIRES },
      { kind: 'set', key: Buffer.from('k2'), value: Buffer.alloc(0), xtMs: 1_800_000_000_000 },
      { kind: 'remove', key: Buffer.from('k3') },
    ]);
  });

  it('name the line that is wrong', () => {
    for (const [encoding, line] of [
      ['url', 'a\tb\tsoon'],
      ['url', 'a\tb\t'],
      ['url', 'a\tb\t-1'],
      ['url', 'a\tb\t1\t2'],
      ['hex', 'abc\tdef'],
      ['base64', '!\tYQ=='],
    ] as const) {
      assert.throws(() => decode(encoding, `61\t61\n\n${line}\n`), { code: 'MALFORMED', message: /^line 3: / }, line);
    }
  });

  it('are bounded, before they are all there', () => {
    assert.equal(decode('url', `k\t${'v'.repeat(8)}\n`, 3, 10).length, 1);
    assert.throws(() => decode('url', `k\t${'v'.repeat(9)}`, 3, 10), { code: 'TOO_LARGE', message: /line 1/ });
  });
});
