/**
 * The unit of everything: a transaction as it stands in the log and travels to every node. It is encoded once, where
 * it is written, and never again: relays store and forward the same bytes. The layout is in docs/protocol.md
 * ("Transaction") and pinned by golden bytes in test/log.
 */
import { ByteReader, type ByteWriter } from '../base/bytes.js';
import { assert, TokaidoError, unreachable } from '../base/errors.js';
import { epoch, NEVER_EXPIRES, type OriginPosition, type Sid, sequence, sid, versionNs } from '../base/types.js';

/** One change. The unit of replication is the transaction, an ordered list of these. */
export type Change =
  | {
      readonly kind: 'set';
      readonly database: string;
      readonly key: Buffer;
      readonly value: Buffer;
      /** Expiration time, ms since 1970, or `NEVER_EXPIRES`. */
      readonly xtMs: number;
    }
  | { readonly kind: 'remove'; readonly database: string; readonly key: Buffer }
  /** Removes every record whose key begins with `prefix` (empty: the whole database). */
  | { readonly kind: 'clear'; readonly database: string; readonly prefix: Buffer };

/** How far a feed (Postgres, a file) has been consumed: travels in the log with the data it describes. */
export interface FeedPosition {
  readonly feed: string;
  /** Feed-specific and growing: for Postgres the LSN of the commit's end. */
  readonly position: bigint;
}

/** Who wrote a transaction, and where it stands among that origin's transactions. */
export interface TransactionHeader extends OriginPosition {
  readonly feed: FeedPosition | undefined;
}

export interface Transaction extends TransactionHeader {
  readonly changes: readonly Change[];
}

const FLAG_FEED = 1;
const KIND_SET = 1;
const KIND_SET_EXPIRING = 2;
const KIND_REMOVE = 3;
const KIND_CLEAR = 4;

/** Appends the transaction, length first. */
export function encodeTransaction(writer: ByteWriter, transaction: Transaction): void {
  const start = writer.length;
  writer.u32(0);
  writer.varint(transaction.sid).varint(transaction.epoch).varint(transaction.sequence).u64(transaction.versionNs);
  writer.u8(transaction.feed === undefined ? 0 : FLAG_FEED);
  if (transaction.feed !== undefined) writer.text(transaction.feed.feed).u64(transaction.feed.position);
  const names = [...new Set(transaction.changes.map((change) => change.database))];
  writer.varint(names.length);
  for (const name of names) writer.text(name);
  writer.varint(transaction.changes.length);
  for (const change of transaction.changes) encodeChange(writer, change, names.indexOf(change.database));
  writer.patchU32(start, writer.length - start - 4);
}

function encodeChange(writer: ByteWriter, change: Change, database: number): void {
  switch (change.kind) {
    case 'set':
      writer
        .u8(change.xtMs === NEVER_EXPIRES ? KIND_SET : KIND_SET_EXPIRING)
        .varint(database)
        .sized(change.key);
      if (change.xtMs !== NEVER_EXPIRES) writer.u48(change.xtMs);
      writer.sized(change.value);
      return;
    case 'remove':
      writer.u8(KIND_REMOVE).varint(database).sized(change.key);
      return;
    case 'clear':
      writer.u8(KIND_CLEAR).varint(database).sized(change.prefix);
      return;
    default:
      unreachable(change);
  }
}

/** Bytes that a change adds to the log, closely; for limits before encoding. */
export function changeBytes(change: Change): number {
  switch (change.kind) {
    case 'set':
      return change.key.length + change.value.length + 20;
    case 'remove':
      return change.key.length + 8;
    case 'clear':
      return change.prefix.length + 8;
    default:
      return unreachable(change);
  }
}

function readHeader(reader: ByteReader): TransactionHeader {
  const sid = readSid(reader);
  const atEpoch = epoch(reader.varint());
  const number = sequence(reader.varint());
  const version = versionNs(reader.u64());
  const flags = reader.u8();
  if ((flags & ~FLAG_FEED) !== 0) throw new TokaidoError('CORRUPT', `unknown transaction flags ${flags}`);
  const feed = (flags & FLAG_FEED) === 0 ? undefined : { feed: reader.text(), position: reader.u64() };
  return { sid, epoch: atEpoch, sequence: number, versionNs: version, feed };
}

/** A server id as encoded; 0 and anything above 16 bits is corrupt. */
export function readSid(reader: ByteReader): Sid {
  const value = reader.varint();
  if (value < 1 || value > 0xffff) throw new TokaidoError('CORRUPT', `server id ${value} is not in 1..65535`);
  return sid(value);
}

/** One transaction inside a batch: its header, and where its bytes (length included) begin and end. */
export interface TransactionSpan {
  readonly header: TransactionHeader;
  readonly start: number;
  readonly end: number;
}

/** Walks the transactions of a batch without decoding their changes. */
export function* transactionSpans(payload: Buffer): Generator<TransactionSpan> {
  const reader = new ByteReader(payload);
  while (reader.remaining > 0) {
    const start = reader.offset;
    const end = readEnd(reader);
    const header = readHeader(reader);
    if (reader.offset > end)
      throw new TokaidoError('CORRUPT', `the header of a transaction goes beyond its end, ${end}`);
    reader.skip(end - reader.offset);
    yield { header, start, end };
  }
}

/** The length in front of a transaction, as where it ends. */
function readEnd(reader: ByteReader): number {
  const length = reader.u32();
  if (length > reader.remaining)
    throw new TokaidoError('CORRUPT', `a transaction of ${length} bytes in ${reader.remaining}`);
  return reader.offset + length;
}

/** A decoded transaction with the bytes it came in, length included. */
export interface EncodedTransaction {
  readonly header: TransactionHeader;
  readonly changes: readonly Change[];
  readonly bytes: Buffer;
}

/** Decodes a whole batch. Bytes, keys and values are views. Errors: `CORRUPT`. */
export function decodeTransactions(payload: Buffer): EncodedTransaction[] {
  const transactions: EncodedTransaction[] = [];
  // One reader for all: a batch is often many small transactions.
  const reader = new ByteReader(payload);
  while (reader.remaining > 0) {
    const start = reader.offset;
    const end = readEnd(reader);
    const header = readHeader(reader);
    const changes = readBody(reader, end);
    transactions.push({ header, changes, bytes: payload.subarray(start, end) });
  }
  return transactions;
}

function readBody(reader: ByteReader, end: number): Change[] {
  const names: string[] = [];
  for (let left = readCount(reader); left > 0; left--) names.push(reader.text());
  const changes: Change[] = [];
  for (let left = readCount(reader); left > 0; left--) changes.push(readChange(reader, names));
  if (reader.offset !== end)
    throw new TokaidoError('CORRUPT', `a transaction that should end at ${end} ends at ${reader.offset}`);
  return changes;
}

/** Decodes one transaction from its bytes, length included. Keys and values are views. Errors: `CORRUPT`. */
export function decodeTransaction(bytes: Buffer): Transaction {
  const reader = new ByteReader(bytes);
  const end = readEnd(reader);
  const transaction = { ...readHeader(reader), changes: readBody(reader, end) };
  reader.end('transaction');
  return transaction;
}

/** A count that is larger than the bytes left cannot be true: refuse it before making room for it. */
function readCount(reader: ByteReader): number {
  const count = reader.varint();
  if (count > reader.remaining) throw new TokaidoError('CORRUPT', `${count} items in ${reader.remaining} bytes`);
  return count;
}

function readChange(reader: ByteReader, names: readonly string[]): Change {
  const kind = reader.u8();
  const database = names[reader.varint()];
  if (database === undefined) throw new TokaidoError('CORRUPT', 'a change names no database of its transaction');
  const key = reader.sized();
  switch (kind) {
    case KIND_SET:
      return { kind: 'set', database, key, xtMs: NEVER_EXPIRES, value: reader.sized() };
    case KIND_SET_EXPIRING: {
      const xtMs = reader.u48();
      assertExpiring(xtMs);
      return { kind: 'set', database, key, xtMs, value: reader.sized() };
    }
    case KIND_REMOVE:
      return { kind: 'remove', database, key };
    case KIND_CLEAR:
      return { kind: 'clear', database, prefix: key };
    default:
      throw new TokaidoError('CORRUPT', `unknown change kind ${kind}`);
  }
}

/** One value has one encoding: an expiring record with expiration time 0 would be a second form of "never". */
function assertExpiring(xtMs: number): void {
  if (xtMs === NEVER_EXPIRES) throw new TokaidoError('CORRUPT', 'an expiring record without an expiration time');
}

/** The latest expiration time that fits, ms since 1970. */
export const MAX_XT_MS = 2 ** 48 - 1;

/** Guards the encoder: what does not fit the format must be refused before it is written. */
export function assertEncodable(change: Change): void {
  if (change.kind === 'set') assert(change.xtMs >= 0 && change.xtMs <= MAX_XT_MS, 'expiration time fits 48 bits');
}
