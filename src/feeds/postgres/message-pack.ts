/**
 * Rows as MessagePack: a map from column to value (https://github.com/msgpack/msgpack/blob/master/spec.md). Pure.
 * Numbers that MessagePack has are its numbers, `bytea` is bin, arrays are arrays; everything else is the text that it
 * would be in JSON: numeric with all its digits, times in ISO 8601, json as it was written.
 */
import { ByteReader, ByteWriter } from '../../base/bytes.js';
import { TokaidoError } from '../../base/errors.js';
import { arrayItems, baseType, bytesOf, type Items, isoTime, OID, type TypeCatalog } from './values.js';

/** One column's value, encoded. */
export function packValue(value: string | Buffer | null, typeOid: number, types: TypeCatalog): Buffer {
  const writer = new ByteWriter(value === null ? 1 : value.length + 9);
  pack(writer, value, typeOid, types);
  return writer.take();
}

/** A map of values that are encoded already. */
export function packMap(members: ReadonlyMap<string, Buffer>): Buffer {
  const writer = new ByteWriter(256);
  header(writer, members.size, 0x80, 16, 0xde);
  for (const [name, value] of members) {
    text(writer, name);
    writer.bytes(value);
  }
  return writer.take();
}

/** Count or length in the shortest of a form for few, one of 16 bits, and one of 32 behind it. */
function header(writer: ByteWriter, count: number, small: number, fewerThan: number, wide: number): void {
  if (count < fewerThan) writer.u8(small | count);
  else if (count < 0x1_0000) writer.u8(wide).u16(count);
  else writer.u8(wide + 1).u32(count);
}

function text(writer: ByteWriter, value: string): void {
  const bytes = Buffer.from(value, 'utf8');
  if (bytes.length >= 32 && bytes.length < 0x100) writer.u8(0xd9).u8(bytes.length);
  else header(writer, bytes.length, 0xa0, 32, 0xda);
  writer.bytes(bytes);
}

function binary(writer: ByteWriter, bytes: Buffer): void {
  if (bytes.length < 0x100) writer.u8(0xc4).u8(bytes.length);
  else header(writer, bytes.length, 0, 0, 0xc5);
  writer.bytes(bytes);
}

function integer(writer: ByteWriter, value: bigint): void {
  const isByte = value >= -32n && value < 128n;
  if (isByte) writer.u8(Number(BigInt.asUintN(8, value)));
  else if (value >= -0x8000_0000n && value < 0x8000_0000n) writer.u8(0xd2).u32(Number(BigInt.asUintN(32, value)));
  else writer.u8(0xd3).u64(BigInt.asUintN(64, value));
}

function double(writer: ByteWriter, value: number): void {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  writer.u8(0xcb).bytes(bytes);
}

function pack(writer: ByteWriter, raw: string | Buffer | null, typeOid: number, types: TypeCatalog): void {
  if (raw === null) {
    writer.u8(0xc0);
    return;
  }
  if (typeof raw !== 'string') {
    binary(writer, raw);
    return;
  }
  const value = raw;
  const oid = baseType(typeOid, types);
  switch (oid) {
    case OID.bool:
      writer.u8(value === 't' ? 0xc3 : 0xc2);
      return;
    case OID.int2:
    case OID.int4:
    case OID.int8:
      integer(writer, BigInt(value));
      return;
    case OID.float4:
    case OID.float8:
      double(writer, Number(value));
      return;
    case OID.bytea:
      binary(writer, bytesOf(value, OID.bytea));
      return;
    case OID.timestamp:
    case OID.timestamptz:
      text(writer, isoTime(value));
      return;
    default: {
      const array = types.arrays.get(oid);
      const items = array === undefined ? undefined : arrayItems(value, array.delimiter);
      if (array === undefined || items === undefined) text(writer, value);
      else list(writer, items, array.element, types);
    }
  }
}

function list(writer: ByteWriter, items: Items, element: number, types: TypeCatalog): void {
  header(writer, items.length, 0x90, 16, 0xdc);
  for (const item of items) {
    if (typeof item === 'string' || item === null) pack(writer, item, element, types);
    else list(writer, item, element, types);
  }
}

/** Most values inside each other: more than any row of ours has. */
const MAX_DEPTH = 16;

/** The members of a map in the bytes that they were written in; `undefined` when it is no map with texts for names. */
export function mapMembers(bytes: Buffer): Map<string, Buffer> | undefined {
  try {
    const reader = new ByteReader(bytes);
    const tag = reader.u8();
    const count = (tag & 0xf0) === 0x80 ? tag & 0x0f : tag === 0xde ? reader.u16() : tag === 0xdf ? reader.u32() : -1;
    if (count < 0 || count > reader.remaining) return undefined;
    const members = new Map<string, Buffer>();
    for (let i = 0; i < count; i++) {
      const nameAt = reader.offset;
      const nameBytes = skip(reader, MAX_DEPTH);
      if (nameBytes === undefined) return undefined;
      const name = bytes.toString('utf8', reader.offset - nameBytes, reader.offset);
      if (nameAt === reader.offset) return undefined;
      const from = reader.offset;
      skip(reader, MAX_DEPTH);
      members.set(name, bytes.subarray(from, reader.offset));
    }
    return reader.remaining === 0 ? members : undefined;
  } catch (error) {
    if (error instanceof TokaidoError) return undefined;
    throw error;
  }
}

/** Steps over one value; returns the length of its text when it is one. Errors: `CORRUPT`. */
function skip(reader: ByteReader, depth: number): number | undefined {
  if (depth === 0) throw new TokaidoError('CORRUPT', 'MessagePack nested too deeply');
  const tag = reader.u8();
  const str = (length: number): number => {
    reader.bytes(length);
    return length;
  };
  const each = (count: number): undefined => {
    for (let i = 0; i < count; i++) skip(reader, depth - 1);
  };
  if (tag < 0x80 || tag >= 0xe0) return undefined;
  if (tag < 0x90) return each(2 * (tag & 0x0f));
  if (tag < 0xa0) return each(tag & 0x0f);
  if (tag < 0xc0) return str(tag & 0x1f);
  switch (tag) {
    case 0xc0:
    case 0xc2:
    case 0xc3:
      return undefined;
    case 0xc4:
      reader.bytes(reader.u8());
      return undefined;
    case 0xc5:
      reader.bytes(reader.u16());
      return undefined;
    case 0xc6:
      reader.bytes(reader.u32());
      return undefined;
    case 0xcb:
    case 0xd3:
      reader.bytes(8);
      return undefined;
    case 0xd2:
      reader.bytes(4);
      return undefined;
    case 0xd9:
      return str(reader.u8());
    case 0xda:
      return str(reader.u16());
    case 0xdb:
      return str(reader.u32());
    case 0xdc:
      return each(reader.u16());
    case 0xdd:
      return each(reader.u32());
    default:
      throw new TokaidoError('CORRUPT', `a MessagePack form ${tag} that is none of ours`);
  }
}
