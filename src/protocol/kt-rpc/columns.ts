/**
 * The columns of Kyoto Tycoon's tables: raw, or encoded as Base64 (`B`), quoted-printable (`Q`) or URL (`U`). Text here
 * holds one byte per character (Latin-1). What an encoding cannot mean is refused; a stray escape stands for itself.
 */
import { TokaidoError } from '../../base/errors.js';
import { decodeEscapes, decodePercent } from '../percent.js';

export type ColumnEncoding = 'raw' | 'B' | 'Q' | 'U';

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;
const EQUALS = 0x3d;

/** Errors: `MALFORMED`. */
export function decodeColumn(encoding: ColumnEncoding, column: string): Buffer {
  switch (encoding) {
    case 'B': {
      const text = column.trim();
      if (!BASE64.test(text)) throw new TokaidoError('MALFORMED', 'a column is not valid Base64');
      return Buffer.from(text, 'base64');
    }
    case 'Q': {
      // A soft line break cannot lie inside a column; at its end, its `=` is all that is left of one.
      const end = column.endsWith('=') ? column.length - 1 : column.length;
      return decodeEscapes(Buffer.from(column.slice(0, end), 'latin1'), EQUALS, false);
    }
    case 'U':
      return decodePercent(column);
    default:
      return Buffer.from(column, 'latin1');
  }
}

/** Each byte as a column has it, for the encodings that work byte by byte. */
function table(isPlain: (byte: number) => boolean, escaped: (hex: string) => string): readonly string[] {
  return Array.from({ length: 256 }, (_, byte) =>
    isPlain(byte) ? String.fromCharCode(byte) : escaped(byte.toString(16).padStart(2, '0')),
  );
}

const isWordByte = (byte: number): boolean => /[A-Za-z0-9]/.test(String.fromCharCode(byte)) && byte < 0x80;
const URL_TABLE = table(
  (byte) => isWordByte(byte) || '_-.~'.includes(String.fromCharCode(byte)),
  (hex) => `%${hex}`,
);
const QUOTED_TABLE = table(
  (byte) => byte > 0x20 && byte < 0x7f && byte !== EQUALS,
  (hex) => `=${hex.toUpperCase()}`,
);

function byTable(escapes: readonly string[], bytes: Buffer): string {
  let text = '';
  for (let i = 0; i < bytes.length; i++) text += escapes[bytes[i] as number];
  return text;
}

/** Raw columns must hold neither tab nor line feed. */
export function encodeColumn(encoding: ColumnEncoding, bytes: Buffer): string {
  switch (encoding) {
    case 'B':
      return bytes.toString('base64');
    case 'Q':
      return byTable(QUOTED_TABLE, bytes);
    case 'U':
      return byTable(URL_TABLE, bytes);
    default:
      return bytes.toString('latin1');
  }
}

/** Bytes of a column that the choice looks at; a longer one is never sent raw. */
const LOOKED_AT = 255;
/** Whether a byte counts for one in the choice of an encoding (the bytes that forms leave alone), or for three. */
const COUNTS_ONE = Uint8Array.from({ length: 256 }, (_, byte) =>
  isWordByte(byte) || (byte !== 0 && "_-.!~*'()".includes(String.fromCharCode(byte))) ? 1 : 0,
);

/**
 * Which encoding the reference picks for a table, whatever the request came in: raw unless there is a control byte or a
 * long column, then Base64 or URL, whichever it estimates to be shorter.
 */
export class EncodingChoice {
  #plain = true;
  #base64Bytes = 0;
  #urlBytes = 0;

  add(column: Buffer): void {
    const length = this.#begin(column.length);
    for (let i = 0; i < length; i++) this.#look(column[i] as number);
  }

  /** A column that holds one byte per character. */
  addText(column: string): void {
    const length = this.#begin(column.length);
    for (let i = 0; i < length; i++) this.#look(column.charCodeAt(i));
  }

  /** Returns how many of its bytes are looked at. */
  #begin(bytes: number): number {
    const length = Math.min(bytes, LOOKED_AT);
    if (bytes > LOOKED_AT) this.#plain = false;
    this.#base64Bytes += Math.floor((length * 6) / 4) + 3;
    return length;
  }

  #look(byte: number): void {
    if (byte < 0x20 || byte === 0x7f) this.#plain = false;
    this.#urlBytes += COUNTS_ONE[byte] === 1 ? 1 : 3;
  }

  get encoding(): ColumnEncoding {
    if (this.#plain) return 'raw';
    return this.#base64Bytes < this.#urlBytes ? 'B' : 'U';
  }
}
