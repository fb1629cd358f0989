/** The client's half of the wire: requests into bytes, answers out of bytes. Pure. */
import { ByteWriter } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import { NEVER_EXPIRES } from '../base/types.js';
import { xtFromSeconds } from '../protocol/expiry.js';
import { type BinaryKey, MAGIC } from '../protocol/kt-binary.js';
import { type ColumnEncoding, decodeColumn, encodeColumn } from '../protocol/kt-rpc/columns.js';

/** A record of an answer in the binary protocol. */
export interface ReadRecord {
  readonly database: number;
  readonly key: Buffer;
  readonly value: Buffer;
  /** In whole seconds, rounded as the server does it: ms since 1970, or `NEVER_EXPIRES`. */
  readonly xtMs: number;
}

export type ClientReply =
  | {
      readonly kind: 'http';
      readonly status: number;
      readonly headers: ReadonlyMap<string, string>;
      readonly body: Buffer;
    }
  | { readonly kind: 'records'; readonly records: readonly ReadRecord[] }
  | { readonly kind: 'count'; readonly count: number }
  | { readonly kind: 'error' };

/** Never expires, in the binary protocol. */
const NEVER = 0x7fff_ffff_ffff_ffffn;

export function encodeHttp(
  method: string,
  path: string,
  host: string,
  headers: Readonly<Record<string, string>>,
  body: Buffer | undefined,
): Buffer {
  let head = `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\n`;
  for (const name in headers) head += `${name}: ${headers[name]}\r\n`;
  if (body !== undefined) head += `Content-Length: ${body.length}\r\n`;
  return Buffer.concat([Buffer.from(`${head}\r\n`, 'latin1'), body ?? Buffer.alloc(0)]);
}

export function encodeGetBulk(keys: readonly BinaryKey[]): Buffer {
  return encodeKeys(MAGIC.get, keys);
}

export function encodeRemoveBulk(keys: readonly BinaryKey[]): Buffer {
  return encodeKeys(MAGIC.remove, keys);
}

function encodeKeys(magic: number, keys: readonly BinaryKey[]): Buffer {
  const writer = new ByteWriter(9 + keys.length * 32).u8(magic).u32(0).u32(keys.length);
  for (const { database, key } of keys) writer.u16(database).u32(key.length).bytes(key);
  return writer.take();
}

/** Expiration times are ms since 1970; those that are absent or `NEVER_EXPIRES` never come. */
export function encodeSetBulk(records: readonly (readonly [Buffer, Buffer, number?])[], database: number): Buffer {
  const writer = new ByteWriter(9 + records.length * 64).u8(MAGIC.set).u32(0).u32(records.length);
  for (const [key, value, xtMs = NEVER_EXPIRES] of records) {
    // Absolute times are negative. Rounded up: a record never expires before its time.
    const seconds = xtMs === NEVER_EXPIRES ? NEVER : BigInt.asUintN(64, -BigInt(Math.ceil(xtMs / 1000)));
    writer.u16(database).u32(key.length).u32(value.length).u64(seconds).bytes(key).bytes(value);
  }
  return writer.take();
}

/** The table in an answer of a remote procedure, in whatever encoding it came. Names hold one byte a character. */
export function parseRows(body: Buffer, contentType: string): ReadonlyMap<string, Buffer> {
  const encoding = (/colenc=([BQU])/.exec(contentType)?.[1] ?? 'raw') as ColumnEncoding;
  const rows = new Map<string, Buffer>();
  for (const line of body.toString('latin1').split('\n')) {
    const at = line.indexOf('\t');
    if (at < 0) continue;
    rows.set(decodeColumn(encoding, line.slice(0, at)).toString('latin1'), decodeColumn(encoding, line.slice(at + 1)));
  }
  return rows;
}

/** A call of a remote procedure, its arguments in Base64. */
export function encodeCall(
  procedure: string,
  host: string,
  input: Readonly<Record<string, string | Buffer>>,
  more: Readonly<Record<string, string>> = {},
): Buffer {
  let body = '';
  for (const [name, value] of Object.entries(input)) {
    body += `${encodeColumn('B', Buffer.from(name))}\t${encodeColumn('B', Buffer.from(value))}\n`;
  }
  const headers = { 'Content-Type': 'text/tab-separated-values; colenc=B', ...more };
  return encodeHttp('POST', `/rpc/${procedure}`, host, headers, Buffer.from(body, 'latin1'));
}

/** Understands answers in the order in which requests were sent. */
export class ClientDecoder {
  /** For each request under way, whether its answer has no body (HEAD). */
  #expected: boolean[] = [];

  expect(isHead: boolean): void {
    this.#expected.push(isHead);
  }

  reset(): void {
    this.#expected = [];
  }

  /** The answer at the beginning of `bytes`, or `undefined` while it is not all there. Errors: `MALFORMED`. */
  parse(bytes: Buffer): { readonly reply: ClientReply; readonly bytes: number } | undefined {
    if (bytes.length === 0) return undefined;
    const parsed =
      (bytes[0] as number) >= 0x80 ? parseBinary(bytes) : parseHttpReply(bytes, this.#expected[0] ?? false);
    if (parsed !== undefined) this.#expected.shift();
    return parsed;
  }
}

function parseHttpReply(bytes: Buffer, isHead: boolean): { reply: ClientReply; bytes: number } | undefined {
  const end = bytes.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const [first = '', ...lines] = bytes.toString('latin1', 0, end).split('\r\n');
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(first)?.[1]);
  if (Number.isNaN(status)) throw new TokaidoError('MALFORMED', 'the server does not answer in HTTP');
  const headers = new Map(
    lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  );
  const length = isHead || status === 204 ? 0 : Number(headers.get('content-length') ?? 0);
  const total = end + 4 + length;
  if (bytes.length < total) return undefined;
  return { reply: { kind: 'http', status, headers, body: bytes.subarray(end + 4, total) }, bytes: total };
}

function parseBinary(bytes: Buffer): { reply: ClientReply; bytes: number } | undefined {
  const magic = bytes[0];
  if (magic === MAGIC.error) return { reply: { kind: 'error' }, bytes: 1 };
  if (bytes.length < 5) return undefined;
  const count = bytes.readUInt32BE(1);
  if (magic === MAGIC.set || magic === MAGIC.remove) return { reply: { kind: 'count', count }, bytes: 5 };
  if (magic !== MAGIC.get) throw new TokaidoError('MALFORMED', 'the server answered with an unknown magic');
  const records: ReadRecord[] = [];
  let at = 5;
  for (let i = 0; i < count; i++) {
    if (bytes.length < at + 18) return undefined;
    const keyEnd = at + 18 + bytes.readUInt32BE(at + 2);
    const valueEnd = keyEnd + bytes.readUInt32BE(at + 6);
    if (bytes.length < valueEnd) return undefined;
    records.push({
      database: bytes.readUInt16BE(at),
      key: bytes.subarray(at + 18, keyEnd),
      value: bytes.subarray(keyEnd, valueEnd),
      // From 1970 on: so many seconds after 0 ms.
      xtMs: xtFromSeconds(Number(bytes.readBigUInt64BE(at + 10)), 0),
    });
    at = valueEnd;
  }
  return { reply: { kind: 'records', records }, bytes: at };
}
