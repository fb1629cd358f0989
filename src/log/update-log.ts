/**
 * The update log: every transaction this node has applied, in its own order, in the same engine transaction as the
 * records it changed (invariant 1). It is kept as batches, one per commit: senders hand a batch to followers as it
 * stands, so nothing is encoded or parsed on the way out.
 *
 * A batch lies in rows of at most `CHUNK_BYTES`, because a larger value would take whole overflow pages and fragment
 * the data file. Row key: 0x01, local number of the batch's first transaction (u64), chunk (u16). The first row begins
 * with a header that holds the position *before* the batch, so the log can be searched by position and by time with a
 * few seeks and without an index. Local numbers have no gaps; batches are removed from the oldest on (retention).
 */
import { crc32 } from 'node:zlib';
import { ByteReader, ByteWriter } from '../base/bytes.js';
import { assert, TokaidoError } from '../base/errors.js';
import { type LocalNumber, localNumber, type OriginPosition, type Position } from '../base/types.js';
import { SEAL_BYTES } from '../engine/cipher.js';
import type { MapId, Reader, Writer } from '../engine/engine.js';
import { decodePosition, encodePosition, newestVersion, originOf, withOrigin } from './position.js';
import { transactionSpans } from './transaction.js';

/** Largest row that LMDB keeps inside a 4096-byte page, two to a page. */
const CHUNK_BYTES = 2016 - SEAL_BYTES;
const KEY_TAG = 1;
const KEY_BYTES = 11;
const FORMAT = 1;
const MAX_CHUNKS = 0xffff;
/** What reading a batch costs besides its bytes, as bytes. */
const BATCH_COST_BYTES = 1024;
/** Bytes a batch may have, header included. */
export const MAX_BATCH_BYTES = CHUNK_BYTES * MAX_CHUNKS;

/** The transactions of one commit. */
export interface LogBatch {
  readonly first: LocalNumber;
  readonly count: number;
  /** When this node applied it, ms since 1970. */
  readonly timeMs: number;
  /** The node's position before the first transaction of the batch. */
  readonly before: Position;
  /** The encoded transactions, one after the other. */
  readonly payload: Buffer;
}

/** What retention keeps: the log is cut from its oldest end while it exceeds either limit. */
export interface Retention {
  readonly bytes: number;
  readonly ageMs: number;
}

/** A batch as it is listed. */
export interface LoggedBatch extends Omit<LogBatch, 'payload'> {
  /** Of its transactions. */
  readonly bytes: number;
}

interface BatchHeader extends Omit<LogBatch, 'payload'> {
  readonly chunks: number;
  readonly payloadBytes: number;
  readonly checksum: number;
  /** Where the payload begins in the rows, one after the other. */
  readonly payloadAt: number;
}

function rowKey(first: number, chunk: number): Buffer {
  const key = Buffer.allocUnsafe(KEY_BYTES);
  key[0] = KEY_TAG;
  key.writeUIntBE(0, 1, 2);
  key.writeUIntBE(first, 3, 6);
  key.writeUInt16BE(chunk, 9);
  return key;
}

/** Before the position in a header: format, chunks, count, time, bytes, checksum. */
const FIXED_HEADER_BYTES = 21;
/** Of a position in a header: how many origins, and each of them. */
const MAX_COUNT_BYTES = 2;
const MAX_ORIGIN_BYTES = 3 + 8 + 8 + 8;

/**
 * The rows of a batch: views of its payload, but for the first one, which begins with the header. The position of a
 * network that has had a hundred origins and more is longer than a row: then all is laid out and cut.
 */
function* encodeRows({ count, timeMs, before, payload }: LogBatch): Iterable<Buffer> {
  const writer = new ByteWriter(CHUNK_BYTES);
  writer.u8(FORMAT).u16(0).u32(count).u48(timeMs).u32(payload.length).u32(crc32(payload));
  encodePosition(writer, before);
  const chunks = Math.ceil((writer.length + payload.length) / CHUNK_BYTES);
  assert(chunks <= MAX_CHUNKS, 'a batch fits its rows');
  const room = Math.max(0, CHUNK_BYTES - writer.length);
  const head = writer.bytes(payload.subarray(0, room)).take();
  head.writeUInt16BE(chunks, 1);
  const rest = payload.subarray(room);
  if (head.length <= CHUNK_BYTES) {
    yield head;
    yield* cut(rest);
  } else {
    yield* cut(Buffer.concat([head, rest]));
  }
}

function* cut(bytes: Buffer): Iterable<Buffer> {
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) yield bytes.subarray(at, at + CHUNK_BYTES);
}

/** The most bytes that a header beginning with `row` can have. */
function headerBytes(row: Buffer): number {
  const reader = new ByteReader(row, FIXED_HEADER_BYTES);
  return FIXED_HEADER_BYTES + MAX_COUNT_BYTES + reader.varint() * MAX_ORIGIN_BYTES;
}

function decodeHeader(first: number, row: Buffer): BatchHeader {
  const reader = new ByteReader(row);
  const format = reader.u8();
  if (format !== FORMAT) throw new TokaidoError('CORRUPT', `log batch ${first} has unknown format ${format}`);
  const chunks = reader.u16();
  const count = reader.u32();
  const timeMs = reader.u48();
  const payloadBytes = reader.u32();
  const checksum = reader.u32();
  const before = decodePosition(reader);
  return { first: localNumber(first), chunks, count, timeMs, payloadBytes, checksum, before, payloadAt: reader.offset };
}

/** Rows of the batch that begins with this one. */
function chunksOf(row: Buffer): number {
  return row.readUInt16BE(1);
}

/** Errors: `CORRUPT`. */
function decodeBatch(first: number, rows: readonly Buffer[]): LogBatch {
  const bytes = Buffer.concat(rows);
  const { count, timeMs, before, payloadAt, payloadBytes, checksum } = decodeHeader(first, bytes);
  const payload = bytes.subarray(payloadAt);
  if (payload.length !== payloadBytes || crc32(payload) !== checksum) throw damaged(first);
  return { first: localNumber(first), count, timeMs, before, payload };
}

function damaged(first: number): TokaidoError {
  return new TokaidoError('CORRUPT', `log batch ${first} fails its checksum`, {
    hint: 'the disk or the data file is damaged: stop this node and let it rebuild from an upstream (docs/operate/recover.md)',
  });
}

/** Where a follower's position lies in the log. */
export type Found =
  /** Everything from this local number on is new to the follower (some of it may not be; it skips what it has). */
  | { readonly kind: 'from'; readonly first: LocalNumber }
  /** What the follower lacks is no longer in the log. */
  | { readonly kind: 'too-old' }
  /** The follower applied something that this node's history does not contain. */
  | { readonly kind: 'diverged'; readonly origin: OriginPosition };

export class UpdateLog {
  readonly #reader: Reader;
  readonly #map: MapId;
  #first: number;
  #next: number;

  /** `next` is the number that follows the last transaction ever logged here, even if retention removed all. */
  constructor(reader: Reader, map: MapId, next: LocalNumber) {
    this.#reader = reader;
    this.#map = map;
    this.#next = next;
    this.#first = this.#oldest();
  }

  #oldest(): number {
    for (const { key } of this.#reader.range(this.#map, { limit: 1 })) return key.readUIntBE(3, 6);
    return this.#next;
  }

  /** Number of the oldest transaction still in the log; equals `next` when the log is empty. */
  get first(): LocalNumber {
    return localNumber(this.#first);
  }

  /** Number that the next transaction will get. */
  get next(): LocalNumber {
    return localNumber(this.#next);
  }

  /** Writes one batch. The caller reports the commit with `committed` afterwards. */
  append(writer: Writer, batch: LogBatch): void {
    assert(batch.first === this.#next, 'local numbers have no gaps');
    let chunk = 0;
    for (const row of encodeRows(batch)) writer.put(this.#map, rowKey(batch.first, chunk++), row);
  }

  /** The commit that appended up to `next` became visible. */
  committed(next: LocalNumber): void {
    this.#next = next;
  }

  /** Removes the oldest batches beyond `retention`, at most `maxBatches` of them; returns what is the oldest then. */
  trim(writer: Writer, retention: Retention, logBytes: number, nowMs: number, maxBatches: number): Trimmed {
    let bytes = logBytes;
    let first = this.#first;
    for (let i = 0; i < maxBatches && first < this.#next; i++) {
      const header = this.#headerAt(writer, first);
      const tooOld = nowMs - header.timeMs > retention.ageMs;
      if (!tooOld && bytes <= retention.bytes) break;
      for (let chunk = 0; chunk < header.chunks; chunk++) writer.remove(this.#map, rowKey(first, chunk));
      bytes -= header.payloadBytes;
      first += header.count;
    }
    return { first: localNumber(first), bytes };
  }

  /** The commit that trimmed up to `first` became visible. */
  trimmed(first: LocalNumber): void {
    this.#first = first;
  }

  #headerAt(reader: Reader, first: number): BatchHeader {
    let row = reader.get(this.#map, rowKey(first, 0));
    if (row === undefined) throw new TokaidoError('CORRUPT', `log batch ${first} is missing`);
    const needed = headerBytes(row);
    for (let chunk = 1; row.length < needed; chunk++) {
      const next = reader.get(this.#map, rowKey(first, chunk));
      if (next === undefined) break;
      row = Buffer.concat([row, next]);
    }
    return decodeHeader(first, row);
  }

  /** Header of the batch that contains this local number. */
  #headerContaining(number: number): BatchHeader {
    const range = { end: rowKey(number + 1, 0), reverse: true, limit: 1 };
    for (const { key } of this.#reader.range(this.#map, range))
      return this.#headerAt(this.#reader, key.readUIntBE(3, 6));
    throw new TokaidoError('CORRUPT', `no log batch contains number ${number}`);
  }

  /** The batch that contains `number`, verified, or `undefined` when that is the log's end. Errors: `CORRUPT`. */
  batchAt(number: LocalNumber): LogBatch | undefined {
    return this.read(number, 1)[0];
  }

  /**
   * Batches in order, verified, from the one that contains `from` on: at least one unless that is the log's end, and
   * until they amount to `maxBytes`, where each counts its payload and `BATCH_COST_BYTES`. Errors: `CORRUPT`.
   */
  read(from: LocalNumber, maxBytes: number): LogBatch[] {
    if (from >= this.#next) return [];
    assert(from >= this.#first, 'reading inside the log');
    const isFirst = this.#reader.get(this.#map, rowKey(from, 0)) !== undefined;
    let expected: number = isFirst ? from : this.#headerContaining(from).first;
    const batches: LogBatch[] = [];
    let rows: Buffer[] = [];
    let bytes = 0;
    for (const { key, value } of this.#reader.range(this.#map, { start: rowKey(expected, 0) })) {
      if (!key.equals(rowKey(expected, rows.length))) throw damaged(expected);
      rows.push(value);
      if (rows.length < chunksOf(rows[0] as Buffer)) continue;
      const batch = decodeBatch(expected, rows);
      batches.push(batch);
      rows = [];
      bytes += batch.payload.length + BATCH_COST_BYTES;
      expected = batch.first + batch.count;
      if (bytes >= maxBytes || expected >= this.#next) return batches;
    }
    throw damaged(expected);
  }

  /** The last batch for which `isBefore(header)` holds, by bisection; `undefined` when it holds for none. */
  #lastBatchWhere(isBefore: (header: BatchHeader) => boolean): BatchHeader | undefined {
    let found: BatchHeader | undefined;
    let low = this.#first;
    let high = this.#next - 1;
    while (low <= high) {
      const header = this.#headerContaining(Math.floor((low + high) / 2));
      if (isBefore(header)) {
        found = header;
        low = header.first + header.count;
      } else {
        high = header.first - 1;
      }
    }
    return found;
  }

  /** What the log has from `from` on, batch by batch, without reading payloads; at most `limit` batches. */
  list(from: LocalNumber, limit: number): LoggedBatch[] {
    const batches: LoggedBatch[] = [];
    for (let at: number = Math.max(from, this.#first); at < this.#next && batches.length < limit; ) {
      const { first, count, timeMs, before, payloadBytes } = this.#headerContaining(at);
      batches.push({ first, count, timeMs, before, bytes: payloadBytes });
      at = first + count;
    }
    return batches;
  }

  /** When the transaction with this number was applied here, ms since 1970 (of its batch). */
  timeOf(number: LocalNumber): number {
    return this.#headerContaining(number).timeMs;
  }

  /** Number of the first transaction applied here at `timeMs` or later (batch-wise), for recovery to a time. */
  findTime(timeMs: number): LocalNumber {
    const last = this.#lastBatchWhere((header) => header.timeMs < timeMs);
    return localNumber(last === undefined ? this.#first : last.first + last.count);
  }

  /**
   * Where to begin for a reader that knows nothing of origins and has everything up to `versionNs`, the highest version
   * of any origin; `undefined` when the log no longer reaches back that far. What comes first may be known already: the
   * reader's side skips it (`replication/kyoto-tycoon/stamps.ts`).
   */
  findVersion(versionNs: bigint, current: Position): LocalNumber | undefined {
    if (versionNs > newestVersion(current)) return this.next;
    const start = this.#lastBatchWhere(({ before }) => newestVersion(before) < versionNs);
    if (start !== undefined) return start.first;
    const oldest = this.#first < this.#next ? this.#headerAt(this.#reader, this.#first).before : current;
    return newestVersion(oldest) === versionNs ? this.first : undefined;
  }

  /**
   * Encoded transactions of one origin that follow `after`, batch by batch. None when the log does not reach back that
   * far, or knows another transaction by that number: continuing it would join two histories.
   */
  *transactionsAfter(after: OriginPosition): Generator<Buffer> {
    const { sid, sequence } = after;
    if (sequence > 0) {
      const mine = this.#transactionOf(after);
      if (mine === undefined || mine.epoch !== after.epoch || mine.versionNs !== after.versionNs) return;
    }
    const start = this.#lastBatchWhere(({ before }) => (originOf(before, sid)?.sequence ?? 0) <= sequence);
    if (start === undefined) return;
    for (let at = start.first; at < this.#next; ) {
      const batch = this.batchAt(at);
      if (batch === undefined) return;
      for (const { header, start: from, end } of transactionSpans(batch.payload)) {
        if (header.sid === sid && header.sequence > sequence) yield batch.payload.subarray(from, end);
      }
      at = localNumber(batch.first + batch.count);
    }
  }

  /** Where to begin for a follower at `position`, given this node's own position `current` (invariant 2). */
  find(position: Position, current: Position): Found {
    let first = this.#next;
    for (const known of current) {
      const has = originOf(position, known.sid);
      const check = has === undefined ? 'same' : this.#compareHistory(has, known);
      if (check === 'diverged' && has !== undefined) return { kind: 'diverged', origin: has };
      if (check === 'too-old') return { kind: 'too-old' };
      const reached = has?.sequence ?? 0;
      if (reached >= known.sequence) continue;
      const start = this.#lastBatchWhere(({ before }) => (originOf(before, known.sid)?.sequence ?? 0) <= reached);
      if (start === undefined) return { kind: 'too-old' };
      first = Math.min(first, start.first);
    }
    return { kind: 'from', first: localNumber(first) };
  }

  /** Whether the transaction a follower applied last of one origin is the one this node knows by that number. */
  #compareHistory(has: OriginPosition, known: OriginPosition): 'same' | 'diverged' | 'too-old' {
    // Ahead of us within our epoch: nothing to compare yet, it skips what it has. A number beyond ours from an older
    // epoch was given out by an incarnation whose tail was lost.
    if (has.sequence > known.sequence) return has.epoch < known.epoch ? 'diverged' : 'same';
    const mine = has.sequence === known.sequence ? known : this.#transactionOf(has);
    if (mine === undefined) return 'too-old';
    return mine.epoch === has.epoch && mine.versionNs === has.versionNs ? 'same' : 'diverged';
  }

  /** This log's transaction with the sid and sequence of `wanted`, if it (or the position right after it) is kept. */
  #transactionOf(wanted: OriginPosition): OriginPosition | undefined {
    const header = this.#lastBatchWhere(({ before }) => {
      return (originOf(before, wanted.sid)?.sequence ?? 0) <= wanted.sequence;
    });
    if (header === undefined) return undefined;
    const before = originOf(header.before, wanted.sid);
    if (before !== undefined && before.sequence === wanted.sequence) return before;
    const batch = this.batchAt(header.first);
    assert(batch !== undefined, 'a batch found is a batch read');
    for (const { header: found } of transactionSpans(batch.payload)) {
      if (found.sid === wanted.sid && found.sequence === wanted.sequence) return found;
    }
    return undefined;
  }
}

/** What a trim left. */
export interface Trimmed {
  readonly first: LocalNumber;
  readonly bytes: number;
}

/** The position after a batch. */
export function positionAfter(batch: LogBatch): Position {
  let position = batch.before;
  for (const { header } of transactionSpans(batch.payload)) position = withOrigin(position, header);
  return position;
}
