/** The parts that several frames are made of, each way. Lengths are checked before anything is made of them. */
import type { ByteReader, ByteWriter } from '../../base/bytes.js';
import { TokaidoError } from '../../base/errors.js';
import type { OriginPosition } from '../../base/types.js';
import { decodePosition, encodePosition, MAX_ORIGINS } from '../../log/position.js';
import type { FeedPosition } from '../../log/transaction.js';
import type { RangeHash } from '../../store/audit.js';
import type { DatabaseProof } from '../../store/proof.js';
import type { KeyRange } from '../../store/repair.js';
import { decodeHash, encodeHash, SET_HASH_BYTES } from '../../store/set-hash.js';
import type { OriginBeat, PathNode } from './frame-types.js';

/** Most nodes between a node and its root. */
export const MAX_PATH = 32;
const ID_BYTES = 16;

export function id(writer: ByteWriter, hex: string): void {
  writer.bytes(Buffer.from(hex, 'hex'));
}

export function readId(reader: ByteReader): string {
  return reader.bytes(ID_BYTES).toString('hex');
}

export function encodeOrigin(writer: ByteWriter, origin: OriginPosition): void {
  encodePosition(writer, [origin]);
}

export function readOrigin(reader: ByteReader): OriginPosition {
  const [origin] = decodePosition(reader);
  if (origin === undefined) throw new TokaidoError('CORRUPT', 'an origin is missing');
  return origin;
}

export function list<T>(reader: ByteReader, most: number, item: () => T): T[] {
  const count = reader.varint();
  if (count > most) throw new TokaidoError('CORRUPT', `a list of ${count} exceeds ${most}`);
  return Array.from({ length: count }, item);
}

export function readFeeds(reader: ByteReader): FeedPosition[] {
  return list(reader, 1024, () => ({ feed: reader.text(), position: reader.u64() }));
}

export function encodeRange(writer: ByteWriter, { start, end }: KeyRange): void {
  writer.sized(start).u8(end === undefined ? 0 : 1);
  if (end !== undefined) writer.sized(end);
}

/** Copies: ranges outlive the frame. */
export function readRange(reader: ByteReader): KeyRange {
  const start = Buffer.from(reader.sized());
  return { start, end: reader.u8() === 0 ? undefined : Buffer.from(reader.sized()) };
}

export function readPart(reader: ByteReader): RangeHash {
  const range = readRange(reader);
  const count = reader.varint();
  return { ...range, count, hash: decodeHash(reader.bytes(SET_HASH_BYTES)) };
}

export function encodeDatabaseProof(writer: ByteWriter, { name, records, proven }: DatabaseProof): void {
  writer
    .text(name)
    .varint(records)
    .u8(proven === undefined ? 0 : 1);
  if (proven === undefined) return;
  const { xtMs, key } = proven.horizon;
  writer
    .bytes(encodeHash(proven.hash))
    .u48(xtMs)
    .u8(key === undefined ? 0 : 1);
  if (key !== undefined) writer.sized(key);
}

export function readDatabaseProof(reader: ByteReader): DatabaseProof {
  const name = reader.text();
  const records = reader.varint();
  if (reader.u8() === 0) return { name, records, proven: undefined };
  const hash = decodeHash(reader.bytes(SET_HASH_BYTES));
  const xtMs = reader.u48();
  const key = reader.u8() === 0 ? undefined : Buffer.from(reader.sized());
  return { name, records, proven: { hash, horizon: { xtMs, key } } };
}

export function encodePath(writer: ByteWriter, path: readonly PathNode[]): void {
  writer.varint(path.length);
  for (const node of path) {
    id(writer, node.instanceId);
    writer.text(node.name);
  }
}

export function readPath(reader: ByteReader): PathNode[] {
  return list(reader, MAX_PATH, () => ({ instanceId: readId(reader), name: reader.text() }));
}

export function encodeBeats(writer: ByteWriter, origins: readonly OriginBeat[]): void {
  writer.varint(origins.length);
  for (const origin of origins) {
    encodeOrigin(writer, origin);
    writer.u48(origin.timeMs).varint(origin.reached.length);
    for (const feed of origin.reached) writer.text(feed.feed).u64(feed.position);
  }
}

export function readBeats(reader: ByteReader): OriginBeat[] {
  return list(reader, MAX_ORIGINS, () => {
    return { ...readOrigin(reader), timeMs: reader.u48(), reached: readFeeds(reader) };
  });
}
