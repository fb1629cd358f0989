/** What the load speaks: requests made once, and where each answer ends. Pure, and as cheap as can be. */
import { encodeGetBulk, encodeHttp, encodeSetBulk } from '../../src/client/wire.js';
import { MAGIC } from '../../src/protocol/kt-binary.js';

export type Exchange =
  | 'rest-get'
  | 'rest-set'
  | 'rpc-get'
  | 'rpc-set'
  | 'bulk-get'
  | 'bulk-set'
  | 'memcached-get'
  | 'memcached-set'
  | 'redis-get'
  | 'redis-set';

/** Records of one bulk request. */
export const BULK = 100;

/** End of the answer that begins at `at`, or -1 while it is not all there. Errors: an answer that reports an error. */
export type AnswerEnd = (bytes: Buffer, at: number) => number;

const CRLF2 = Buffer.from('\r\n\r\n');
const LENGTH = Buffer.from('\r\nContent-Length: ');

function refused(bytes: Buffer, at: number): Error {
  return new Error(`the server answered ${JSON.stringify(bytes.toString('latin1', at, at + 200))}`);
}

/** Digits from `at` on. */
function numberAt(bytes: Buffer, at: number): number {
  let value = 0;
  for (let i = at; ; i++) {
    const digit = (bytes[i] as number) - 0x30;
    if (!(digit >= 0 && digit <= 9)) return value;
    value = value * 10 + digit;
  }
}

function endOfHttp(bytes: Buffer, at: number): number {
  const head = bytes.indexOf(CRLF2, at);
  if (head < 0) return -1;
  // "HTTP/1.1 2..": all that the load asks for exists.
  if (bytes[at + 9] !== 0x32) throw refused(bytes, at);
  const length = bytes.indexOf(LENGTH, at);
  if (length < 0 || length > head) throw refused(bytes, at);
  const end = head + 4 + numberAt(bytes, length + LENGTH.length);
  return end > bytes.length ? -1 : end;
}

function endOfBinary(bytes: Buffer, at: number): number {
  if (bytes.length < at + 5) return -1;
  const magic = bytes[at] as number;
  const count = bytes.readUInt32BE(at + 1);
  if ((magic !== MAGIC.set && magic !== MAGIC.get) || count !== BULK) throw refused(bytes, at);
  let end = at + 5;
  if (magic === MAGIC.set) return end;
  for (let i = 0; i < count; i++) {
    if (bytes.length < end + 18) return -1;
    end += 18 + bytes.readUInt32BE(end + 2) + bytes.readUInt32BE(end + 6);
  }
  return end > bytes.length ? -1 : end;
}

function endOfRedis(bytes: Buffer, at: number): number {
  const line = bytes.indexOf(0x0a, at);
  if (line < 0) return -1;
  if (bytes[at] === 0x2b) return line + 1;
  if (bytes[at] !== 0x24 || bytes[at + 1] === 0x2d) throw refused(bytes, at);
  const end = line + 1 + numberAt(bytes, at + 1) + 2;
  return end > bytes.length ? -1 : end;
}

const VALUE = 0x56;
const STORED = 0x53;
/** Behind a value. */
const MEMCACHED_TAIL_BYTES = '\r\nEND\r\n'.length;

function endOfMemcached(bytes: Buffer, at: number): number {
  const line = bytes.indexOf(0x0a, at);
  if (line < 0) return -1;
  if (bytes[at] === STORED) return line + 1;
  if (bytes[at] !== VALUE) throw refused(bytes, at);
  // "VALUE KEY FLAGS LENGTH\r\n"
  const end = line + 1 + numberAt(bytes, bytes.lastIndexOf(0x20, line) + 1) + MEMCACHED_TAIL_BYTES;
  return end > bytes.length ? -1 : end;
}

export function answerEnd(exchange: Exchange): AnswerEnd {
  if (exchange.startsWith('memcached')) return endOfMemcached;
  if (exchange.startsWith('redis')) return endOfRedis;
  return exchange.startsWith('bulk') ? endOfBinary : endOfHttp;
}

export function keyOf(number: number): Buffer {
  return Buffer.from(`key${String(number).padStart(8, '0')}`);
}

function table(rows: readonly (readonly [string, Buffer])[]): Buffer {
  return Buffer.concat(rows.flatMap(([name, value]) => [Buffer.from(`${name}\t`), value, Buffer.from('\n')]));
}

const TSV = { 'Content-Type': 'text/tab-separated-values' };

/** One request for the record with this number, or for `BULK` records from it on. */
export function encodeRequest(exchange: Exchange, number: number, value: Buffer): Buffer {
  const key = keyOf(number);
  const bulk = (): Buffer[] => Array.from({ length: BULK }, (_, i) => keyOf(number + i));
  switch (exchange) {
    case 'rest-get':
      return encodeHttp('GET', `/${key}`, 'bench', {}, undefined);
    case 'rest-set':
      return encodeHttp('PUT', `/${key}`, 'bench', {}, value);
    case 'rpc-get':
      return encodeHttp('POST', '/rpc/get', 'bench', TSV, table([['key', key]]));
    case 'rpc-set': {
      const rows = [['key', key] as const, ['value', value] as const];
      return encodeHttp('POST', '/rpc/set', 'bench', TSV, table(rows));
    }
    case 'bulk-get':
      return encodeGetBulk(bulk().map((each) => ({ database: 0, key: each })));
    case 'bulk-set':
      return encodeSetBulk(
        bulk().map((each) => [each, value] as const),
        0,
      );
    case 'memcached-get':
      return Buffer.from(`get ${key}\r\n`);
    case 'memcached-set':
      return Buffer.from(`set ${key} 0 0 ${value.length}\r\n${value}\r\n`);
    case 'redis-get':
      return Buffer.from(`*2\r\n$3\r\nGET\r\n$${key.length}\r\n${key}\r\n`);
    case 'redis-set':
      return Buffer.from(`*3\r\n$3\r\nSET\r\n$${key.length}\r\n${key}\r\n$${value.length}\r\n${value}\r\n`);
  }
}

/** Letters only, so that it may stand in any table. */
export function letters(bytes: number): Buffer {
  return Buffer.alloc(bytes, 'abcdefghijklmnopqrstuvwxyz');
}
