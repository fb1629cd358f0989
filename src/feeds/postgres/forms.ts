/**
 * Values as they arrive, field by field, in the form that a mapping wants: what becomes a key or a value as it is stays a
 * view of the bytes that came, without a way through strings; what nothing is made of is left out. Pure.
 */
import { TokaidoError } from '../../base/errors.js';
import type { Tuple, Value } from './pgoutput.js';

/** A text; the bytes of one; the bytes that a text of hexadecimal digits (`bytea`) stands for; not wanted: NULL. */
export type Form = 'text' | 'bytes' | 'hex' | 'none';

/** What comes before the digits of a `bytea`: `\x`. */
const HEX_MARK = 2;

/** A value that came as text. With `bytes` a view: valid as long as nobody writes to `bytes`. */
export function readText(bytes: Buffer, start: number, end: number, form: Form): Value {
  switch (form) {
    case 'text':
      return bytes.toString('utf8', start, end);
    case 'bytes':
      return bytes.subarray(start, end);
    case 'hex':
      return Buffer.from(bytes.toString('latin1', start + HEX_MARK, end), 'hex');
    case 'none':
      return null;
  }
}

/** In front of a message: what it is (u8), its length without that (u32). */
const MESSAGE_HEADER = 5;
const NULL_LENGTH = 0xffff_ffff;

/** Whole rows of a query, as Postgres sent them (messages of type DataRow, values as text), one behind the other. */
export class RowSlice {
  readonly #pieces: { readonly bytes: Buffer; readonly start: number; end: number }[] = [];
  rows = 0;
  bytes = 0;

  /** Adds the row whose message has its contents from `start` to `end` of these bytes, which stay as they are. */
  add(bytes: Buffer, start: number, end: number): void {
    const last = this.#pieces.at(-1);
    if (last?.bytes === bytes && last.end === start - MESSAGE_HEADER) last.end = end;
    else this.#pieces.push({ bytes, start: start - MESSAGE_HEADER, end });
    this.rows++;
    this.bytes += end - start;
  }

  /** Errors: `CORRUPT`. */
  each(forms: readonly Form[], visit: (row: Tuple) => void): void {
    for (const { bytes, start, end } of this.#pieces) {
      for (let at = start; at < end; at += 1 + bytes.readUInt32BE(at + 1)) visit(readRow(bytes, at, forms));
    }
  }
}

function readRow(bytes: Buffer, message: number, forms: readonly Form[]): Tuple {
  const end = message + 1 + bytes.readUInt32BE(message + 1);
  let at = message + MESSAGE_HEADER;
  const count = bytes.readUInt16BE(at);
  at += 2;
  if (count !== forms.length) throw new TokaidoError('CORRUPT', `a row of ${count} columns instead of ${forms.length}`);
  const row: Value[] = [];
  for (const form of forms) {
    const length = bytes.readUInt32BE(at);
    at += 4;
    if (length === NULL_LENGTH) {
      row.push(null);
      continue;
    }
    if (length > end - at)
      throw new TokaidoError('CORRUPT', `a column of ${length} bytes in a row of ${end - message}`);
    row.push(readText(bytes, at, at + length, form));
    at += length;
  }
  return row;
}
