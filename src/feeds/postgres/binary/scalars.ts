/**
 * Values of built-in types in the binary form of their send functions, as the texts that their output functions write
 * under the settings of connection.ts. Pure. What has no such text here is not in `SCALARS`: its columns come as text.
 * From the sources of Postgres, src/backend/utils/adt.
 */
import { formatLsn } from '../pgoutput.js';
import { float4, float8, int64, numeric, Undecodable } from './numbers.js';
import { box, circle, line, path, point, polygon, segment } from './shapes.js';
import { tsQuery, tsVector } from './text-search.js';
import { date, interval, time, timestamp, timestampTz, timeTz } from './times.js';

/** Errors: `Undecodable`, and those of a Buffer that is read beyond its end. */
export type Decode = (bytes: Buffer) => string;

/** A form that has always this length. */
function fixed(length: number, decode: Decode): Decode {
  return (bytes) => {
    if (bytes.length !== length) throw new Undecodable(`${bytes.length} bytes instead of ${length}`);
    return decode(bytes);
  };
}

function utf8(bytes: Buffer): string {
  return bytes.toString('utf8');
}

/** A version, then text. */
function versioned(bytes: Buffer): string {
  if (bytes[0] !== 1) throw new Undecodable(`version ${bytes[0]} of a json form`);
  return bytes.toString('utf8', 1);
}

/** One byte: NUL is nothing, and what is beyond ASCII depends on the version of Postgres. */
function charOf(bytes: Buffer): string {
  const [code = 0] = bytes;
  if (code >= 0x80) throw new Undecodable('a "char" beyond ASCII');
  return code === 0 ? '' : String.fromCharCode(code);
}

function bits(bytes: Buffer): string {
  const count = bytes.readInt32BE(0);
  let text = '';
  for (let at = 4; at < bytes.length; at++) text += (bytes[at] as number).toString(2).padStart(8, '0');
  if (count < 0 || count > text.length) throw new Undecodable(`${count} bits in ${bytes.length - 4} bytes`);
  return text.slice(0, count);
}

function uuid(bytes: Buffer): string {
  const hex = bytes.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

function colons(bytes: Buffer): string {
  return bytes.toString('hex').replace(/..(?!$)/g, '$&:');
}

/** First bytes of a network address: the family, the length of the net's part, whether it is a cidr, bytes. */
const ADDRESS_AT = 4;
const IPV4 = 2;

function network(bytes: Buffer): string {
  const [family, prefix, isCidr] = bytes;
  const address = bytes.subarray(ADDRESS_AT);
  const isFour = family === IPV4;
  if (address.length !== (isFour ? 4 : 16)) throw new Undecodable(`a network address of ${address.length} bytes`);
  const text = isFour ? address.join('.') : ipv6(address);
  return isCidr === 0 && prefix === address.length * 8 ? text : `${text}/${prefix}`;
}

/** The longest run of zeros left out, the first of equal ones; an IPv4 address inside as such. */
function ipv6(address: Buffer): string {
  const words = Array.from({ length: 8 }, (_, index) => address.readUInt16BE(2 * index));
  let best = { from: -1, length: 1 };
  for (let from = 0; from < 8; from++) {
    let length = 0;
    while (words[from + length] === 0) length++;
    if (length > best.length) best = { from, length };
  }
  const { from, length } = best;
  const isFour = from === 0 && (length === 6 || (length === 5 && words[5] === 0xffff));
  const texts: string[] = words.map((word) => word.toString(16));
  if (isFour) texts.splice(6, 2, address.subarray(12).join('.'));
  if (from < 0) return texts.join(':');
  return `${texts.slice(0, from).join(':')}::${texts.slice(from + length).join(':')}`;
}

function tid(bytes: Buffer): string {
  return `(${bytes.readUInt32BE(0)},${bytes.readUInt16BE(4)})`;
}

/** Numbers of transactions: the least and the most, and those between that were not over. */
function snapshot(bytes: Buffer): string {
  const count = bytes.readInt32BE(0);
  if (bytes.length !== 20 + 8 * count) throw new Undecodable(`a snapshot of ${count} transactions`);
  const under = Array.from({ length: count }, (_, index) => bytes.readBigUInt64BE(20 + 8 * index));
  return `${bytes.readBigUInt64BE(4)}:${bytes.readBigUInt64BE(12)}:${under.join(',')}`;
}

/** Of arrays without NULLs and bounds; what holds other types is in types.ts. */
function vector(size: number, read: (bytes: Buffer, at: number) => number): Decode {
  return (bytes) => {
    const count = bytes.readInt32BE(0) === 0 ? 0 : bytes.readInt32BE(12);
    if (bytes.length !== (count === 0 && bytes.length === 12 ? 12 : 20 + count * (4 + size)))
      throw new Undecodable(`a vector of ${count}`);
    return Array.from({ length: count }, (_, index) => read(bytes, 24 + index * (4 + size))).join(' ');
  };
}

/** By the name of the send function. */
export const SCALARS: Readonly<Record<string, Decode>> = {
  bit_send: bits,
  boolsend: fixed(1, ([byte]) => (byte === 0 ? 'f' : 't')),
  box_send: fixed(32, box),
  bpcharsend: utf8,
  byteasend: (bytes) => `\\x${bytes.toString('hex')}`,
  charsend: fixed(1, charOf),
  cidr_send: network,
  cidsend: fixed(4, (bytes) => String(bytes.readUInt32BE(0))),
  circle_send: fixed(24, circle),
  citextsend: utf8,
  date_send: fixed(4, date),
  enum_send: utf8,
  float4send: fixed(4, (bytes) => float4(bytes.readFloatBE(0))),
  float8send: fixed(8, (bytes) => float8(bytes.readDoubleBE(0))),
  inet_send: network,
  int2send: fixed(2, (bytes) => String(bytes.readInt16BE(0))),
  int2vectorsend: vector(2, (bytes, at) => bytes.readInt16BE(at)),
  int4send: fixed(4, (bytes) => String(bytes.readInt32BE(0))),
  int8send: fixed(8, (bytes) => String(int64(bytes))),
  interval_send: fixed(16, interval),
  json_send: utf8,
  jsonb_send: versioned,
  jsonpath_send: versioned,
  line_send: fixed(24, line),
  lseg_send: fixed(32, segment),
  macaddr8_send: fixed(8, colons),
  macaddr_send: fixed(6, colons),
  namesend: utf8,
  numeric_send: numeric,
  oidsend: fixed(4, (bytes) => String(bytes.readUInt32BE(0))),
  oidvectorsend: vector(4, (bytes, at) => bytes.readUInt32BE(at)),
  path_send: path,
  pg_lsn_send: fixed(8, (bytes) => formatLsn(bytes.readBigUInt64BE(0))),
  pg_snapshot_send: snapshot,
  point_send: fixed(16, point),
  poly_send: polygon,
  textsend: utf8,
  tidsend: fixed(6, tid),
  time_send: fixed(8, time),
  timestamp_send: fixed(8, timestamp),
  timestamptz_send: fixed(8, timestampTz),
  timetz_send: fixed(12, timeTz),
  tsquerysend: tsQuery,
  tsvectorsend: tsVector,
  txid_snapshot_send: snapshot,
  unknownsend: utf8,
  uuid_send: fixed(16, uuid),
  varbit_send: bits,
  varcharsend: utf8,
  xid8send: fixed(8, (bytes) => String(bytes.readBigUInt64BE(0))),
  xidsend: fixed(4, (bytes) => String(bytes.readUInt32BE(0))),
  xml_send: utf8,
};
