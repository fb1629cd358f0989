/** Messages and rows as Postgres sends them, cut wherever the network cuts them. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoError } from '../../src/base/errors.js';
import { type Form, RowSlice } from '../../src/feeds/postgres/forms.js';
import type { Tuple } from '../../src/feeds/postgres/pgoutput.js';
import { MessageTap } from '../../src/feeds/postgres/tap.js';

function message(kind: string, contents: Buffer): Buffer {
  const bytes = Buffer.alloc(5);
  bytes.write(kind, 'latin1');
  bytes.writeUInt32BE(4 + contents.length, 1);
  return Buffer.concat([bytes, contents]);
}

function row(values: readonly (string | null)[]): Buffer {
  const count = Buffer.alloc(2);
  count.writeUInt16BE(values.length);
  const fields = values.map((value) => {
    const bytes = Buffer.from(value ?? '', 'utf8');
    const length = Buffer.alloc(4);
    length.writeInt32BE(value === null ? -1 : bytes.length);
    return Buffer.concat([length, bytes]);
  });
  return Buffer.concat([count, ...fields]);
}

/** Cuts bytes into chunks, and pushes them. */
function push(tap: MessageTap, bytes: Buffer, sizes: readonly number[]): void {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] as number;
    tap.push(Buffer.from(bytes.subarray(at, at + size)));
    at += size;
  }
}

const SIZES = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 });

describe('messages of one kind, taken out of what Postgres sends', () => {
  it('leaves all others whole and in order, however the bytes are cut', () => {
    const one = fc.tuple(fc.constantFrom('D', 'C', 'Z'), fc.uint8Array({ maxLength: 60 }));
    fc.assert(
      fc.property(fc.array(one), SIZES, (sent, sizes) => {
        const came: string[] = [];
        const add = (kind: string, contents: Buffer): void => void came.push(`${kind} ${contents.toString('hex')}`);
        const tap = new MessageTap(
          'D',
          (bytes, start, end) => add('D', bytes.subarray(start, end)),
          (messages) => {
            for (let at = 0; at < messages.length; at += 1 + messages.readUInt32BE(at + 1))
              add(
                String.fromCharCode(messages[at] as number),
                messages.subarray(at + 5, at + 1 + messages.readUInt32BE(at + 1)),
              );
          },
        );
        push(tap, Buffer.concat(sent.map(([kind, contents]) => message(kind, Buffer.from(contents)))), sizes);
        assert.deepEqual(
          came,
          sent.map(([kind, contents]) => `${kind} ${Buffer.from(contents).toString('hex')}`),
        );
      }),
    );
  });

  it('invariant 9: refuses a length that no message has, instead of reading it for ever', () => {
    const tap = new MessageTap(
      'D',
      () => undefined,
      () => undefined,
    );
    assert.throws(() => tap.push(Buffer.from('4400000003', 'hex')), TokaidoError);
  });
});

describe('a slice of rows', () => {
  it('gives every row back, in the forms that were asked for, however the bytes were cut', () => {
    const text = fc.option(fc.string({ unit: 'grapheme' }), { nil: null });
    fc.assert(
      fc.property(fc.array(fc.tuple(text, text, text)), SIZES, (rows, sizes) => {
        const slice = new RowSlice();
        const tap = new MessageTap(
          'D',
          (bytes, start, end) => slice.add(bytes, start, end),
          () => undefined,
        );
        const ends = message('C', Buffer.from('SELECT'));
        push(tap, Buffer.concat(rows.flatMap((values) => [message('D', row(values)), ends])), sizes);
        const came: Tuple[] = [];
        slice.each(['text', 'bytes', 'none'], (values) => came.push([...values]));
        assert.equal(slice.rows, rows.length);
        assert.deepEqual(
          came,
          rows.map(([a, b]) => [a, b === null ? null : Buffer.from(b), null]),
        );
      }),
    );
  });

  it('gives a bytea as its bytes', () => {
    const bytes = message('D', row(['\\x00ff', null, '\\x']));
    const slice = new RowSlice();
    slice.add(bytes, 5, bytes.length);
    const forms: readonly Form[] = ['hex', 'hex', 'hex'];
    slice.each(forms, (values) => assert.deepEqual(values, [Buffer.of(0, 255), null, Buffer.alloc(0)]));
  });

  it('invariant 9: refuses rows of other columns, and columns longer than their row', () => {
    const bytes = message('D', row(['a']));
    const longer = Buffer.from(bytes);
    longer.writeUInt32BE(1000, 7);
    for (const [sent, forms] of [
      [bytes, ['text', 'text']],
      [longer, ['text']],
    ] as const) {
      const slice = new RowSlice();
      slice.add(sent, 5, sent.length);
      assert.throws(() => slice.each(forms, () => undefined), TokaidoError);
    }
  });
});
