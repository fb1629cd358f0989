/**
 * The frames of Tokaido's own replication protocol: pure bytes, no sockets. docs/protocol.md ("Replication") describes
 * each byte; golden bytes in test/replication pin them.
 *
 * Frame: payload length (u32), type (u8), flags (u8, 0 in version 1), reserved (u16, 0), CRC-32 of the payload (u32),
 * payload. Both sides speak first-in, first-out; nothing is interleaved inside a frame.
 */
import { crc32 } from 'node:zlib';
import { ByteReader, ByteWriter } from '../../base/bytes.js';
import { TokaidoError, unreachable } from '../../base/errors.js';
import { versionNs } from '../../base/types.js';
import { decodePosition, encodePosition, MAX_ORIGINS } from '../../log/position.js';
import { readSid } from '../../log/transaction.js';
import { encodeForgotten, readForgottenOf } from '../../store/forgotten.js';
import { encodeHash } from '../../store/set-hash.js';
import { SCOPE_ID_BYTES } from '../scope.js';
import {
  encodeBeats,
  encodeDatabaseProof,
  encodeOrigin,
  encodePath,
  encodeRange,
  id,
  list,
  readBeats,
  readDatabaseProof,
  readFeeds,
  readId,
  readOrigin,
  readPart,
  readPath,
  readRange,
} from './frame-parts.js';
import type { Frame, HelloOrigin, SnapshotPlace } from './frame-types.js';
import type { Packing } from './packing.js';
import { encodeTree, readTree } from './tree.js';

/** The version of the protocol this code speaks. */
export const PROTOCOL_VERSION = 1;
export const FRAME_HEADER_BYTES = 12;
/** Flags of a HELLO. */
const SEEDED = 1;
const LOOK = 2;
const ORIGIN = 4;
const TAKES_HORIZON = 8;
const RESUMES = 64;
/** Of a follower that is no root. */
const OPENS = 128;
/** Of a root that exchanges: such a one has no scope to open. */
const TAKES_FORGOTTEN = 128;
/** Of a HELLO, for each way to pack rows; in `snapshotPacked`, the number of each. */
const UNPACKS: Readonly<Record<Packing, number>> = { deflate: 16, zstd: 32 };
const PACKED_AS: Readonly<Record<Packing, number>> = { deflate: 1, zstd: 2 };
/** Largest payload before the handshake is done: a stranger costs no more memory than this. */
export const MAX_HANDSHAKE_BYTES = 64 * 1024;
/** Largest payload afterwards; a transaction is at most half of it. */
export const MAX_FRAME_BYTES = 128 * 1024 * 1024;
const MAX_DATABASES = 65_535;
/** Most roots whose place another one has taken. */
export const MAX_REPLACED = 64;
/** Most ranges of keys that one frame names. */
export const MAX_RANGES = 256;
/** Most questions of a follower that may be open on its link; with one more the link ends. */
export const MAX_OPEN_QUESTIONS = 4;

const TYPE = {
  hello: 1,
  welcome: 2,
  refuse: 3,
  batch: 4,
  heartbeat: 5,
  ack: 6,
  snapshotBegin: 7,
  snapshotRecords: 8,
  snapshotEnd: 9,
  recall: 10,
  recalled: 11,
  proof: 12,
  audit: 13,
  audited: 14,
  descend: 15,
  ranges: 16,
  rangeRows: 17,
  auditEnd: 18,
  ask: 19,
  answer: 20,
  report: 21,
  relink: 22,
  snapshotPacked: 23,
  forgotten: 24,
} as const;

export type * from './frame-types.js';

function encodeHelloOrigin(writer: ByteWriter, { sid, timeMs, replaces }: HelloOrigin): void {
  writer.varint(sid).u48(timeMs).varint(replaces.length);
  for (const replaced of replaces) writer.varint(replaced);
}

function readHelloOrigin(reader: ByteReader): HelloOrigin {
  const [sid, timeMs] = [readSid(reader), reader.u48()];
  return { sid, timeMs, replaces: list(reader, MAX_REPLACED, () => readSid(reader)) };
}

function encodePlace(writer: ByteWriter, place: SnapshotPlace): void {
  id(writer, place.id);
  writer.varint(place.rows);
}

function readPlace(reader: ByteReader): SnapshotPlace {
  return { id: readId(reader), rows: reader.varint() };
}

function encodePayload(writer: ByteWriter, frame: Frame): void {
  switch (frame.type) {
    case 'hello':
      writer.u8(frame.version);
      id(writer, frame.clusterId);
      id(writer, frame.self.instanceId);
      writer
        .text(frame.self.name)
        .u8(
          (frame.seeded ? SEEDED : 0) |
            (frame.isLook ? LOOK : 0) |
            (frame.origin === undefined ? 0 : ORIGIN) |
            (frame.takesHorizon ? TAKES_HORIZON : 0) |
            (frame.resumes ? RESUMES : 0) |
            (frame.scopeOpening === undefined || frame.origin !== undefined ? 0 : OPENS) |
            (frame.takesForgotten === true && frame.origin !== undefined ? TAKES_FORGOTTEN : 0) |
            frame.unpacks.reduce((flags, packing) => flags | UNPACKS[packing], 0),
        );
      encodePosition(writer, frame.position);
      id(writer, frame.scopeId);
      if (frame.origin !== undefined) encodeHelloOrigin(writer, frame.origin);
      if (frame.scopeOpening !== undefined && frame.origin === undefined) writer.sized(frame.scopeOpening);
      if (frame.unfinished !== undefined) encodePlace(writer, frame.unfinished);
      return;
    case 'welcome':
      writer.u8(frame.version);
      id(writer, frame.clusterId);
      encodePath(writer, frame.path);
      writer.text(frame.rootAddress);
      encodePosition(writer, frame.position);
      writer.u8(frame.next === 'log' ? 0 : 1).sized(frame.scope);
      encodeBeats(writer, frame.beats);
      return;
    case 'refuse':
      writer.text(frame.code).text(frame.message);
      return;
    case 'batch':
      writer.bytes(frame.payload);
      return;
    case 'heartbeat':
      encodePath(writer, frame.path);
      encodeBeats(writer, frame.origins);
      return;
    case 'ack':
      encodePosition(writer, frame.applied);
      encodePosition(writer, frame.flushed);
      return;
    case 'snapshotBegin':
      encodePosition(writer, frame.position);
      writer.u64(frame.lastVersionNs).varint(frame.feeds.length);
      for (const feed of frame.feeds) writer.text(feed.feed).u64(feed.position);
      writer.varint(frame.databases.length);
      for (const database of frame.databases) writer.text(database.name).varint(database.records);
      writer.varint(frame.clears.length);
      for (const clear of frame.clears) {
        writer.varint(clear.database).sized(clear.prefix).u64(clear.versionNs).varint(clear.sid);
      }
      if (frame.horizonMs !== undefined) writer.u48(frame.horizonMs);
      if (frame.from !== undefined) encodePlace(writer, frame.from);
      return;
    case 'forgotten':
      encodeForgotten(writer, frame.forgotten);
      return;
    case 'snapshotRecords':
      writer.varint(frame.database).bytes(frame.rows);
      return;
    case 'snapshotPacked':
      writer.u8(PACKED_AS[frame.packing]).varint(frame.database).varint(frame.bytes).bytes(frame.packed);
      return;
    case 'snapshotEnd':
      writer.varint(frame.rows);
      return;
    case 'recall':
      encodeOrigin(writer, frame.after);
      return;
    case 'recalled':
    case 'relink':
      return;
    case 'ask':
      writer.varint(frame.id).bytes(frame.request);
      return;
    case 'answer':
      writer.varint(frame.id).bytes(frame.answer);
      return;
    case 'proof':
      encodePosition(writer, frame.position);
      writer.varint(frame.databases.length);
      for (const database of frame.databases) encodeDatabaseProof(writer, database);
      return;
    case 'audit':
      writer.text(frame.database).u48(frame.horizonMs);
      return;
    case 'audited':
      encodePosition(writer, frame.position);
      writer.u48(frame.cutoffMs);
      return;
    case 'descend':
      writer.varint(frame.rows).varint(frame.ranges.length);
      for (const range of frame.ranges) encodeRange(writer, range);
      return;
    case 'ranges':
      writer.u8(frame.isLast ? 1 : 0).varint(frame.parts.length);
      for (const part of frame.parts) {
        encodeRange(writer, part);
        writer.varint(part.count).bytes(encodeHash(part.hash));
      }
      return;
    case 'rangeRows':
      writer.u8(frame.isLast ? 1 : 0);
      encodeRange(writer, frame);
      writer.bytes(frame.rows);
      return;
    case 'auditEnd':
      writer.text(frame.reason);
      return;
    case 'report':
      encodeTree(writer, frame.nodes);
      return;
    default:
      unreachable(frame);
  }
}

/** The frame as one buffer, header included: encoded once, it may be sent to any number of peers. */
export function encodeFrame(frame: Frame): Buffer {
  const writer = new ByteWriter(frame.type === 'batch' ? frame.payload.length + FRAME_HEADER_BYTES : 256);
  writer.u32(0).u8(TYPE[frame.type]).u8(0).u16(0).u32(0);
  encodePayload(writer, frame);
  const payload = writer.view(FRAME_HEADER_BYTES);
  const checksum = crc32(payload);
  return writer.patchU32(0, payload.length).patchU32(8, checksum).take();
}

function decodePayload(type: number, payload: Buffer): Frame {
  const reader = new ByteReader(payload);
  switch (type) {
    case TYPE.hello: {
      const version = reader.u8();
      const clusterId = readId(reader);
      const self = { instanceId: readId(reader), name: reader.text() };
      const flags = reader.u8();
      const [seeded, isLook] = [(flags & SEEDED) !== 0, (flags & LOOK) !== 0];
      const takesHorizon = (flags & TAKES_HORIZON) !== 0;
      const resumes = (flags & RESUMES) !== 0;
      const unpacks = packings().filter((packing) => (flags & UNPACKS[packing]) !== 0);
      const position = decodePosition(reader);
      const scopeId = reader.bytes(SCOPE_ID_BYTES).toString('hex');
      const origin = (flags & ORIGIN) === 0 ? undefined : readHelloOrigin(reader);
      // A copy: a session keeps its HELLO, and the frame's bytes go.
      const opens = origin === undefined && (flags & OPENS) !== 0;
      const scopeOpening = opens ? Buffer.from(reader.sized()) : undefined;
      const unfinished = reader.remaining === 0 ? undefined : readPlace(reader);
      const hello = { version, clusterId, self, seeded, isLook, position, scopeId, takesHorizon, resumes, unpacks };
      const rest = {
        ...(origin === undefined || (flags & TAKES_FORGOTTEN) === 0 ? {} : { takesForgotten: true }),
        ...(origin === undefined ? {} : { origin }),
        ...(scopeOpening === undefined ? {} : { scopeOpening }),
        ...(unfinished === undefined ? {} : { unfinished }),
      };
      return ended(reader, { type: 'hello', ...hello, ...rest });
    }
    case TYPE.welcome: {
      const version = reader.u8();
      const clusterId = readId(reader);
      const path = readPath(reader);
      const rootAddress = reader.text();
      const position = decodePosition(reader);
      const next = reader.u8() === 0 ? 'log' : 'snapshot';
      const scope = Buffer.from(reader.sized());
      const beats = readBeats(reader);
      return ended(reader, { type: 'welcome', version, clusterId, path, rootAddress, position, next, scope, beats });
    }
    case TYPE.refuse:
      return ended(reader, { type: 'refuse', code: reader.text(), message: reader.text() });
    case TYPE.batch:
      return { type: 'batch', payload };
    case TYPE.heartbeat: {
      const path = readPath(reader);
      return ended(reader, { type: 'heartbeat', path, origins: readBeats(reader) });
    }
    case TYPE.ack:
      return ended(reader, { type: 'ack', applied: decodePosition(reader), flushed: decodePosition(reader) });
    case TYPE.snapshotBegin: {
      const position = decodePosition(reader);
      const lastVersionNs = versionNs(reader.u64());
      const feeds = readFeeds(reader);
      const databases = list(reader, MAX_DATABASES, () => ({ name: reader.text(), records: reader.varint() }));
      // The receiver keeps the prefixes: they are copies, not views of a frame.
      const clears = list(reader, reader.remaining, () => ({
        database: reader.varint(),
        prefix: Buffer.from(reader.sized()),
        versionNs: versionNs(reader.u64()),
        sid: readSid(reader),
      }));
      const contents = { position, lastVersionNs, feeds, databases, clears };
      const horizon = reader.remaining === 0 ? {} : { horizonMs: reader.u48() };
      const from = reader.remaining === 0 ? {} : { from: readPlace(reader) };
      return ended(reader, { type: 'snapshotBegin', ...contents, ...horizon, ...from });
    }
    case TYPE.forgotten:
      return ended(reader, { type: 'forgotten', forgotten: list(reader, MAX_ORIGINS, () => readForgottenOf(reader)) });
    case TYPE.snapshotRecords:
      return { type: 'snapshotRecords', database: reader.varint(), rows: reader.rest() };
    case TYPE.snapshotPacked: {
      const packing = readPacking(reader);
      const [database, bytes] = [reader.varint(), reader.varint()];
      if (bytes > MAX_FRAME_BYTES) throw new TokaidoError('CORRUPT', `packed rows of ${bytes} bytes`);
      return { type: 'snapshotPacked', packing, database, bytes, packed: reader.rest() };
    }
    case TYPE.snapshotEnd:
      return ended(reader, { type: 'snapshotEnd', rows: reader.varint() });
    case TYPE.recall:
      return ended(reader, { type: 'recall', after: readOrigin(reader) });
    case TYPE.ask:
      return { type: 'ask', id: reader.varint(), request: reader.rest() };
    case TYPE.answer:
      return { type: 'answer', id: reader.varint(), answer: reader.rest() };
    case TYPE.recalled:
      return ended(reader, { type: 'recalled' });
    case TYPE.proof: {
      const position = decodePosition(reader);
      const databases = list(reader, MAX_DATABASES, () => readDatabaseProof(reader));
      return ended(reader, { type: 'proof', position, databases });
    }
    case TYPE.audit:
      return ended(reader, { type: 'audit', database: reader.text(), horizonMs: reader.u48() });
    case TYPE.audited:
      return ended(reader, { type: 'audited', position: decodePosition(reader), cutoffMs: reader.u48() });
    case TYPE.descend: {
      const rows = reader.varint();
      return ended(reader, { type: 'descend', rows, ranges: list(reader, MAX_RANGES, () => readRange(reader)) });
    }
    case TYPE.ranges: {
      const isLast = reader.u8() !== 0;
      return ended(reader, { type: 'ranges', isLast, parts: list(reader, MAX_RANGES, () => readPart(reader)) });
    }
    case TYPE.rangeRows: {
      const isLast = reader.u8() !== 0;
      return { type: 'rangeRows', isLast, ...readRange(reader), rows: reader.rest() };
    }
    case TYPE.auditEnd:
      return ended(reader, { type: 'auditEnd', reason: reader.text() });
    case TYPE.report:
      return ended(reader, { type: 'report', nodes: readTree(reader) });
    case TYPE.relink:
      return ended(reader, { type: 'relink' });
    default:
      throw new TokaidoError('CORRUPT', `unknown frame type ${type}`);
  }
}

function packings(): Packing[] {
  return Object.keys(UNPACKS) as Packing[];
}

function readPacking(reader: ByteReader): Packing {
  const code = reader.u8();
  const packing = packings().find((known) => PACKED_AS[known] === code);
  if (packing === undefined) throw new TokaidoError('CORRUPT', `rows packed in an unknown way ${code}`);
  return packing;
}

function ended<T extends Frame>(reader: ByteReader, frame: T): T {
  reader.end(`frame ${frame.type}`);
  return frame;
}

/** Cuts a byte stream into frames. Holds at most one frame's bytes. */
export class FrameDecoder {
  #chunks: Buffer[] = [];
  #bytes = 0;
  #maxPayload = MAX_HANDSHAKE_BYTES;

  /** The handshake is done: frames may be large from now on. */
  allowLargeFrames(): void {
    this.#maxPayload = MAX_FRAME_BYTES;
  }

  /** Frames completed by `chunk`. Errors: `CORRUPT`; the stream is unusable then. */
  *push(chunk: Buffer): Generator<Frame> {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    for (;;) {
      if (this.#bytes < FRAME_HEADER_BYTES) return;
      const header = this.#joined(FRAME_HEADER_BYTES);
      const length = header.readUInt32BE(0);
      if (length > this.#maxPayload) {
        throw new TokaidoError('CORRUPT', `a frame of ${length} bytes exceeds the limit of ${this.#maxPayload}`);
      }
      if (header.readUInt16BE(5) !== 0 || header[7] !== 0) throw new TokaidoError('CORRUPT', 'unknown frame flags');
      if (this.#bytes < FRAME_HEADER_BYTES + length) return;
      const whole = this.#joined(FRAME_HEADER_BYTES + length);
      const payload = whole.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + length);
      if (crc32(payload) !== whole.readUInt32BE(8)) throw new TokaidoError('CORRUPT', 'a frame fails its checksum');
      const type = whole[4] as number;
      this.#consume(FRAME_HEADER_BYTES + length);
      yield decodePayload(type, payload);
    }
  }

  /** The first chunk, holding at least `bytes`: joined once when a frame spans chunks. */
  #joined(bytes: number): Buffer {
    const first = this.#chunks[0] as Buffer;
    if (first.length >= bytes) return first;
    const all = Buffer.concat(this.#chunks, this.#bytes);
    this.#chunks = [all];
    return all;
  }

  #consume(bytes: number): void {
    const rest = (this.#chunks[0] as Buffer).subarray(bytes);
    if (rest.length > 0) this.#chunks[0] = rest;
    else this.#chunks.shift();
    this.#bytes -= bytes;
  }
}
