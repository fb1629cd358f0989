/**
 * Records as lines of text: key, value and, when the record expires, the time in seconds since 1970, separated by tabs.
 * What `ktremotemgr list -pv -pt` prints and `ktremotemgr import` reads, with the encodings of Kyoto Tycoon's columns
 * for bytes that a line cannot hold. A line of one column removes that key, as there.
 */
import { TokaidoError } from '../base/errors.js';
import { NEVER_EXPIRES } from '../base/types.js';
import { ByteQueue } from './byte-queue.js';
import { type ColumnEncoding, decodeColumn, encodeColumn } from './kt-rpc/columns.js';

/** By the name on the command line. `hex` is `ktremotemgr`'s -sx and -px. */
export const LINE_ENCODINGS = ['url', 'base64', 'quoted', 'hex', 'raw'] as const;
export type LineEncoding = (typeof LINE_ENCODINGS)[number];

const COLUMNS: Readonly<Record<Exclude<LineEncoding, 'hex'>, ColumnEncoding>> = {
  url: 'U',
  base64: 'B',
  quoted: 'Q',
  raw: 'raw',
};

/** Kyoto Tycoon's "never", in seconds. */
const NEVER_SECONDS = 2 ** 40 - 1;
const TAB = 0x09;
const LINE_FEED = 0x0a;

/** What a line says. */
export type RecordLine =
  | { readonly kind: 'set'; readonly key: Buffer; readonly value: Buffer; readonly xtMs: number }
  | { readonly kind: 'remove'; readonly key: Buffer };

function encode(encoding: LineEncoding, bytes: Buffer): string {
  if (encoding === 'hex') return bytes.toString('hex');
  if (encoding === 'raw' && (bytes.includes(TAB) || bytes.includes(LINE_FEED))) {
    throw new TokaidoError('MALFORMED', 'a key or value with a tab or line feed does not fit a raw line', {
      hint: 'choose another --encoding, such as url',
    });
  }
  return encodeColumn(COLUMNS[encoding], bytes);
}

function decode(encoding: LineEncoding, column: string): Buffer {
  if (encoding !== 'hex') return decodeColumn(COLUMNS[encoding], column);
  const digits = column.replaceAll(' ', '');
  if (!/^(?:[0-9a-f]{2})*$/i.test(digits)) throw new TokaidoError('MALFORMED', 'a column is not hexadecimal');
  return Buffer.from(digits, 'hex');
}

/** One line, with its line feed, one byte a character. Errors: `MALFORMED` for bytes that a raw line cannot hold. */
export function encodeRecordLine(
  encoding: LineEncoding,
  record: { readonly key: Buffer; readonly value: Buffer; readonly xtMs: number },
): string {
  const { key, value, xtMs } = record;
  const expires = xtMs === NEVER_EXPIRES ? '' : `\t${Math.ceil(xtMs / 1000)}`;
  return `${encode(encoding, key)}\t${encode(encoding, value)}${expires}\n`;
}

/** Errors: `MALFORMED`. */
function decodeRecordLine(encoding: LineEncoding, line: string): RecordLine {
  const [key = '', value, seconds, ...more] = line.split('\t');
  if (more.length > 0) throw new TokaidoError('MALFORMED', `a line of ${more.length + 3} columns`);
  if (value === undefined) return { kind: 'remove', key: decode(encoding, key) };
  const xt = seconds === undefined ? NEVER_SECONDS : Number(seconds);
  if (!Number.isInteger(xt) || xt < 0 || seconds === '')
    throw new TokaidoError('MALFORMED', `an expiration time ${JSON.stringify(seconds)}, which is not in seconds`);
  const xtMs = xt >= NEVER_SECONDS ? NEVER_EXPIRES : Math.max(1, xt * 1000);
  return { kind: 'set', key: decode(encoding, key), value: decode(encoding, value), xtMs };
}

/** Lines out of any pieces of bytes; a last line without its line feed counts. Errors name the line. */
export class RecordLineDecoder {
  readonly #encoding: LineEncoding;
  readonly #lineBytes: number;
  readonly #received = new ByteQueue();
  /** Bytes of the waiting line that were searched for its end. */
  #searched = 0;
  #lines: number;
  #bytes = 0;

  /** `lines`: so many came before, for what errors say. */
  constructor(encoding: LineEncoding, lineBytes: number, lines = 0) {
    this.#lines = lines;
    this.#encoding = encoding;
    this.#lineBytes = lineBytes;
  }

  /** Lines understood so far, those that came before included. */
  get lines(): number {
    return this.#lines;
  }

  /** Bytes of the lines understood here. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Errors: `MALFORMED`, `TOO_LARGE`. */
  *push(chunk: Buffer): Generator<RecordLine> {
    this.#received.append(chunk);
    for (;;) {
      const bytes = this.#received.view();
      const end = bytes.indexOf(LINE_FEED, this.#searched);
      if (end < 0) {
        this.#searched = bytes.length;
        this.#checkLength(bytes.length);
        return;
      }
      this.#checkLength(end);
      const line = this.#decode(bytes.toString('latin1', 0, end));
      this.#received.consume(end + 1);
      this.#bytes += end + 1;
      this.#searched = 0;
      if (line !== undefined) yield line;
    }
  }

  /** What is left when there are no more bytes. */
  end(): RecordLine | undefined {
    const rest = this.#received.view().toString('latin1');
    this.#received.consume(this.#received.length);
    return rest === '' ? undefined : this.#decode(rest);
  }

  #checkLength(bytes: number): void {
    if (bytes <= this.#lineBytes) return;
    throw new TokaidoError('TOO_LARGE', `line ${this.#lines + 1} has more than ${this.#lineBytes} bytes`);
  }

  /** An empty line says nothing. */
  #decode(line: string): RecordLine | undefined {
    this.#lines++;
    if (line === '') return undefined;
    try {
      return decodeRecordLine(this.#encoding, line);
    } catch (error) {
      throw new TokaidoError('MALFORMED', `line ${this.#lines}: ${(error as Error).message}`, {
        hint: 'check --encoding; lines before this one are imported already, and importing them again changes nothing',
      });
    }
  }
}
