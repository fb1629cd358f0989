/**
 * Postgres' logical replication on the wire: the replication envelope and pgoutput messages (protocol version 2), from
 * the Postgres manual, chapters "Streaming Replication Protocol" and "Logical Replication Message Formats". Pure.
 */
import { ByteReader } from '../../base/bytes.js';
import { TokaidoError } from '../../base/errors.js';
import { type Form, readText } from './forms.js';

/** A position in the write-ahead log. */
export type Lsn = bigint;

export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`;
}

/** Errors: `FEED`. */
export function parseLsn(text: string): Lsn {
  const [, high, low] = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text) ?? [];
  if (high === undefined || low === undefined) throw new TokaidoError('FEED', `${text} is not a WAL position`);
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
}

export interface Column {
  readonly name: string;
  readonly typeOid: number;
  /** Part of the replica identity. */
  readonly isKey: boolean;
}

export interface Relation {
  readonly id: number;
  readonly schema: string;
  readonly table: string;
  readonly columns: readonly Column[];
}

/**
 * A value in text form, or the bytes that a record has of it: of a `bytea` that came in binary form, or of a value that
 * was asked for so (forms.ts); `null`; or `undefined` for a large value that did not change and was not sent.
 */
export type Value = string | Buffer | null | undefined;
/** One value per column of the relation. */
export type Tuple = readonly Value[];
/** For each column of a relation, how its binary form is read; a value of a column without is left out. */
export type Readers = readonly (((bytes: Buffer) => string | Buffer) | undefined)[];

export type Message =
  | { readonly kind: 'begin'; readonly commitLsn: Lsn; readonly xid: number }
  | { readonly kind: 'commit'; readonly endLsn: Lsn }
  | { readonly kind: 'relation'; readonly relation: Relation }
  | { readonly kind: 'insert'; readonly relationId: number; readonly after: Tuple }
  | { readonly kind: 'update'; readonly relationId: number; readonly before: Tuple | undefined; readonly after: Tuple }
  | { readonly kind: 'delete'; readonly relationId: number; readonly before: Tuple }
  | { readonly kind: 'truncate'; readonly relationIds: readonly number[] }
  /** What follows, up to the stop, belongs to a transaction that goes on; see `ofStreamed`. */
  | { readonly kind: 'streamStart'; readonly xid: number }
  | { readonly kind: 'streamStop' }
  | { readonly kind: 'streamCommit'; readonly xid: number; readonly commitLsn: Lsn; readonly endLsn: Lsn }
  /** `subXid` is `xid` itself when all of the transaction is rolled back. */
  | { readonly kind: 'streamAbort'; readonly xid: number; readonly subXid: number }
  /** Type, origin, logical message: nothing to apply. */
  | { readonly kind: 'other' };

/** What arrives inside a CopyData message. */
export type Envelope =
  | { readonly kind: 'data'; readonly walEnd: Lsn; readonly payload: Buffer }
  | { readonly kind: 'keepalive'; readonly walEnd: Lsn; readonly replyWanted: boolean };

/** Kind (u8), where this is in the WAL, where the WAL ends (u64 each), when it was sent (u64). */
const DATA_HEADER = 25;
const [DATA, KEEPALIVE] = Buffer.from('wk');

/** Made for every change, so without a reader of its own. Errors: `CORRUPT`. */
export function decodeEnvelope(bytes: Buffer): Envelope {
  const kind = bytes[0];
  if (kind === DATA && bytes.length >= DATA_HEADER)
    return { kind: 'data', walEnd: lsnAt(bytes, 9), payload: bytes.subarray(DATA_HEADER) };
  if (kind === KEEPALIVE && bytes.length >= 18)
    return { kind: 'keepalive', walEnd: lsnAt(bytes, 1), replyWanted: bytes[17] !== 0 };
  const what = JSON.stringify(bytes.toString('latin1', 0, 1));
  throw new TokaidoError('CORRUPT', `a replication message ${what} of ${bytes.length} bytes`);
}

function lsnAt(bytes: Buffer, at: number): Lsn {
  return (BigInt(bytes.readUInt32BE(at)) << 32n) | BigInt(bytes.readUInt32BE(at + 4));
}

/** Milliseconds from 1970 to Postgres' epoch, 2000-01-01. */
const POSTGRES_EPOCH_MS = 946_684_800_000;

/** Standby status update: all three positions are what is safe on our disk. `ask` for an answer, as a sign of life. */
export function encodeStatus(flushed: Lsn, nowMs: number, ask: boolean): Buffer {
  const bytes = Buffer.alloc(34);
  bytes.write('r', 0, 'latin1');
  bytes.writeBigUInt64BE(flushed, 1);
  bytes.writeBigUInt64BE(flushed, 9);
  bytes.writeBigUInt64BE(flushed, 17);
  bytes.writeBigInt64BE(BigInt(nowMs - POSTGRES_EPOCH_MS) * 1000n, 25);
  bytes.writeUInt8(ask ? 1 : 0, 33);
  return bytes;
}

const [NULL, UNCHANGED, TEXT, BINARY] = Buffer.from('nutb');

function text(reader: ByteReader): string {
  const start = reader.offset;
  let length = 0;
  while (reader.u8() !== 0) length++;
  return reader.slice(start, length).toString('utf8');
}

function tuple(reader: ByteReader, readers: Readers | undefined, forms: readonly Form[] | undefined): Tuple {
  const count = reader.u16();
  const values: Value[] = [];
  for (let i = 0; i < count; i++) {
    const kind = reader.u8();
    if (kind === NULL) values.push(null);
    else if (kind === UNCHANGED) values.push(undefined);
    else if (kind === TEXT) values.push(textOf(reader, forms?.[i] ?? 'text'));
    else if (kind === BINARY) {
      const bytes = reader.bytes(reader.u32());
      values.push(forms?.[i] === 'none' ? null : readers?.[i]?.(bytes));
    } else throw new TokaidoError('CORRUPT', `unknown column kind ${JSON.stringify(String.fromCharCode(kind))}`);
  }
  return values;
}

function textOf(reader: ByteReader, form: Form): Value {
  const bytes = reader.bytes(reader.u32());
  return form === 'bytes' ? bytes : readText(bytes, 0, bytes.length, form);
}

function relation(reader: ByteReader): Relation {
  const id = reader.u32();
  const schema = text(reader);
  const table = text(reader);
  reader.u8();
  const count = reader.u16();
  const columns: Column[] = [];
  for (let i = 0; i < count; i++) {
    const isKey = (reader.u8() & 1) !== 0;
    const name = text(reader);
    const typeOid = reader.u32();
    reader.u32();
    columns.push({ name, typeOid, isKey });
  }
  return { id, schema, table, columns };
}

function update(reader: ByteReader, readers: Readers | undefined, forms: readonly Form[] | undefined): Message {
  const relationId = reader.u32();
  let tag = String.fromCharCode(reader.u8());
  let before: Tuple | undefined;
  if (tag === 'K' || tag === 'O') {
    before = tuple(reader, readers, forms);
    tag = String.fromCharCode(reader.u8());
  }
  if (tag !== 'N') throw new TokaidoError('CORRUPT', `an update without its new row (${tag})`);
  return { kind: 'update', relationId, before, after: tuple(reader, readers, forms) };
}

const [INSERT, UPDATE, DELETE] = Buffer.from('IUD');

/** The relation of a message that is about a row; `undefined` for any other. Errors: `CORRUPT`. */
export function relationOfRow(bytes: Buffer): number | undefined {
  const tag = bytes[0];
  if (tag !== INSERT && tag !== UPDATE && tag !== DELETE) return undefined;
  if (bytes.length < 5) throw new TokaidoError('CORRUPT', 'a change of a row that does not say of which relation');
  return bytes.readUInt32BE(1);
}

/** `readers` and `forms` are those of the relation's columns: without them values are text. Errors: `CORRUPT`, and those of `readers`. */
export function decodeMessage(bytes: Buffer, readers?: Readers, forms?: readonly Form[]): Message {
  const reader = new ByteReader(bytes);
  const tag = String.fromCharCode(reader.u8());
  switch (tag) {
    case 'B': {
      const commitLsn = reader.u64();
      // When it committed.
      reader.skip(8);
      return { kind: 'begin', commitLsn, xid: reader.u32() };
    }
    case 'C':
      reader.u8();
      reader.u64();
      return { kind: 'commit', endLsn: reader.u64() };
    case 'R':
      return { kind: 'relation', relation: relation(reader) };
    case 'I': {
      const relationId = reader.u32();
      reader.u8();
      return { kind: 'insert', relationId, after: tuple(reader, readers, forms) };
    }
    case 'U':
      return update(reader, readers, forms);
    case 'D': {
      const relationId = reader.u32();
      reader.u8();
      return { kind: 'delete', relationId, before: tuple(reader, readers, forms) };
    }
    case 'T': {
      const count = reader.u32();
      reader.u8();
      if (count * 4 > reader.remaining) throw new TokaidoError('CORRUPT', 'a truncate of more tables than it names');
      return { kind: 'truncate', relationIds: Array.from({ length: count }, () => reader.u32()) };
    }
    case 'S':
      return { kind: 'streamStart', xid: reader.u32() };
    case 'E':
      return { kind: 'streamStop' };
    case 'c': {
      const xid = reader.u32();
      reader.u8();
      return { kind: 'streamCommit', xid, commitLsn: reader.u64(), endLsn: reader.u64() };
    }
    case 'A':
      return { kind: 'streamAbort', xid: reader.u32(), subXid: reader.u32() };
    case 'Y':
    case 'O':
    case 'M':
      return { kind: 'other' };
    default:
      throw new TokaidoError('CORRUPT', `unknown pgoutput message ${JSON.stringify(tag)}`);
  }
}

const STREAM_STOP = 'E'.charCodeAt(0);
const ORIGIN = 'O'.charCodeAt(0);
const XID_BYTES = 4;

/**
 * A message between stream start and stop, taken apart: which (sub)transaction wrote it, and the message in the form
 * that it has outside. `undefined` for what does not belong to the transaction: the stop itself, an origin.
 * Errors: `CORRUPT`.
 */
export function ofStreamed(bytes: Buffer): { readonly subXid: number; readonly message: Buffer } | undefined {
  if (bytes[0] === STREAM_STOP || bytes[0] === ORIGIN) return undefined;
  if (bytes.length < 1 + XID_BYTES) throw new TokaidoError('CORRUPT', 'a streamed message without its transaction');
  const message = Buffer.allocUnsafe(bytes.length - XID_BYTES);
  message[0] = bytes[0] as number;
  bytes.copy(message, 1, 1 + XID_BYTES);
  return { subXid: bytes.readUInt32BE(1), message };
}
