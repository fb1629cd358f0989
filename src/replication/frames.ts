/**
 * The frames of Tokaido's own replication protocol: pure bytes, no sockets. docs/protocol.md ("Replication") describes
 * each byte; golden bytes in test/replication pin them.
 *
 * Frame: payload length (u32), type (u8), flags (u8, 0 in version 1), reserved (u16, 0), CRC-32 of the payload (u32),
 * payload. Both sides speak first-in, first-out; nothing is interleaved inside a frame.
 */
import { crc32 } from 'node:zlib';
import { ByteReader, ByteWriter } from '../base/bytes.js';
import { TokaidoError, unreachable } from '../base/errors.js';
import { type OriginPosition, type Position, type Sid, type VersionNs, versionNs } from '../base/types.js';
import { decodePosition, encodePosition } from '../log/position.js';
import { type FeedPosition, readSid } from '../log/transaction.js';
import type { RangeHash } from '../store/audit.js';
import type { Proof } from '../store/proof.js';
import type { KeyRange, RangeRows } from '../store/repair.js';
import { encodeHash } from '../store/set-hash.js';
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
import { SCOPE_ID_BYTES } from './scope.js';
import { encodeTree, readTree, type TreeNode } from './tree.js';

/** The version of the protocol this code speaks. */
export const PROTOCOL_VERSION = 1;
export const FRAME_HEADER_BYTES = 12;
/** Flags of a HELLO. */
const SEEDED = 1;
const LOOK = 2;
const ORIGIN = 4;
const TAKES_HORIZON = 8;
/** Largest payload before the handshake is done: a stranger costs no more memory than this. */
export const MAX_HANDSHAKE_BYTES = 64 * 1024;
/** Largest payload afterwards; a transaction is at most half of it. */
export const MAX_FRAME_BYTES = 128 * 1024 * 1024;
const MAX_DATABASES = 65_535;
/** Most roots whose place another one has taken. */
export const MAX_REPLACED = 64;
/** Most ranges of keys that one frame names. */
export const MAX_RANGES = 256;

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
} as const;

/** One node on the way to the root: its data directory's id (hex) and its name. */
export interface PathNode {
  readonly instanceId: string;
  readonly name: string;
}

/** A root that follows another, to exchange with it. */
export interface HelloOrigin {
  readonly sid: Sid;
  /** What its clock says, ms since 1970. */
  readonly timeMs: number;
  /** Server ids of roots whose place it has taken. */
  readonly replaces: readonly Sid[];
}

/** First frame of a follower. */
export interface Hello {
  readonly type: 'hello';
  readonly version: number;
  readonly clusterId: string;
  readonly self: PathNode;
  /** Whether the follower has data at all; without any it needs a snapshot, whatever the log still holds. */
  readonly seeded: boolean;
  /** Only asks what the upstream would answer: it does, and closes. */
  readonly isLook: boolean;
  readonly position: Position;
  /** Id of the scope whose data the follower has. */
  readonly scopeId: string;
  /** It understands a snapshot that says how far expirations count no more. One that is older does not. */
  readonly takesHorizon: boolean;
  /** Of a root that exchanges with this one. */
  readonly origin?: HelloOrigin | undefined;
}

/** Answer of an upstream that accepts. */
export interface Welcome {
  readonly type: 'welcome';
  readonly version: number;
  readonly clusterId: string;
  /** From the upstream itself to the root. */
  readonly path: readonly PathNode[];
  /** Where clients write: `host:port` of the root's client listener, or empty when it is not known. */
  readonly rootAddress: string;
  readonly position: Position;
  readonly next: 'log' | 'snapshot';
  /** What the upstream heard from the origins last. */
  readonly beats: readonly OriginBeat[];
  /** What this link carries, as `Scope` encodes it; empty for everything. */
  readonly scope: Buffer;
}

/** A polite end, by either side. */
export interface Refuse {
  readonly type: 'refuse';
  readonly code: string;
  readonly message: string;
}

/** Encoded transactions, as they stand in the log. */
export interface BatchFrame {
  readonly type: 'batch';
  readonly payload: Buffer;
}

/** What an origin said last: its position then, its clock then (ms since 1970), and how far its feeds were. */
export interface OriginBeat extends OriginPosition {
  readonly timeMs: number;
  /**
   * Positions of feeds before which nothing of the source is missing in this position. They may lie beyond those of the
   * transactions: what a source does elsewhere moves it, and changes nothing here.
   */
  readonly reached: readonly FeedPosition[];
}

export interface Heartbeat {
  readonly type: 'heartbeat';
  /** From the upstream itself to the root, as it is now: it may have changed its own upstream since it welcomed. */
  readonly path: readonly PathNode[];
  readonly origins: readonly OriginBeat[];
}

export interface Ack {
  readonly type: 'ack';
  /** Visible to readers of the follower. */
  readonly applied: Position;
  /** Safe from a power cut at the follower. */
  readonly flushed: Position;
}

/** What a snapshot consists of besides its records. */
export interface SnapshotBegin {
  readonly type: 'snapshotBegin';
  readonly position: Position;
  readonly lastVersionNs: VersionNs;
  readonly feeds: readonly FeedPosition[];
  readonly databases: readonly { readonly name: string; readonly records: number }[];
  /** Clears that keep older writes out; `database` is an index into `databases`. */
  readonly clears: readonly {
    readonly database: number;
    readonly prefix: Buffer;
    readonly versionNs: VersionNs;
    readonly sid: Sid;
  }[];
  /** See `SnapshotContents`. It is sent to those only who said that they take it. */
  readonly horizonMs?: number | undefined;
}

/** Rows of one database in key order: stored keys and stored records, tombstones included. */
export interface SnapshotRecords {
  readonly type: 'snapshotRecords';
  readonly database: number;
  /** Sized key, sized record, repeated. */
  readonly rows: Buffer;
}

export interface SnapshotEnd {
  readonly type: 'snapshotEnd';
  readonly rows: number;
}

/** An origin that lost its tail asks a follower for its own transactions after this one. */
export interface Recall {
  readonly type: 'recall';
  readonly after: OriginPosition;
}

/** The follower has sent all of them (as batches). */
export interface Recalled {
  readonly type: 'recalled';
}

/** What the origin says of its records at the position that this frame stands behind; the same for every follower. */
export interface ProofFrame extends Proof {
  readonly type: 'proof';
}

/** The follower differs in a database: it wants to know where. One at a time. */
export interface AuditFrame {
  readonly type: 'audit';
  readonly database: string;
  /** It has worked off expirations up to here, ms. */
  readonly horizonMs: number;
}

/** The upstream reads the database at `position`, which stands at this place among the batches. */
export interface Audited {
  readonly type: 'audited';
  readonly position: Position;
  /** Records that expire at this moment or before are left out at both ends. */
  readonly cutoffMs: number;
}

/** The follower asks for parts of these ranges, `rows` rows in each; for the rows themselves with 0. */
export interface Descend {
  readonly type: 'descend';
  readonly rows: number;
  readonly ranges: readonly KeyRange[];
}

/** Consecutive parts of what was asked for. */
export interface Ranges {
  readonly type: 'ranges';
  readonly parts: readonly RangeHash[];
  /** That was all that the last DESCEND asked for. */
  readonly isLast: boolean;
}

export interface RangeRowsFrame extends RangeRows {
  readonly type: 'rangeRows';
  readonly isLast: boolean;
}

/** Either side is done with it; a reason when it is not done in good order. */
export interface AuditEnd {
  readonly type: 'auditEnd';
  readonly reason: string;
}

/** A follower asks something of whoever knows, up to the root: today, to certify a key. */
export interface Ask {
  readonly type: 'ask';
  /** Comes back with the answer. */
  readonly id: number;
  readonly request: Buffer;
}

export interface Answer {
  readonly type: 'answer';
  readonly id: number;
  readonly answer: Buffer;
}

/** What the follower knows of itself and of all nodes below it; itself first. */
export interface Report {
  readonly type: 'report';
  readonly nodes: readonly TreeNode[];
}

/** The upstream has a new certificate: the follower shall open a new link, and leave this one when that works. */
export interface Relink {
  readonly type: 'relink';
}

export type Frame =
  | Hello
  | Welcome
  | Refuse
  | BatchFrame
  | Heartbeat
  | Ack
  | SnapshotBegin
  | SnapshotRecords
  | SnapshotEnd
  | Recall
  | Recalled
  | Ask
  | Answer
  | ProofFrame
  | AuditFrame
  | Audited
  | Descend
  | Ranges
  | RangeRowsFrame
  | AuditEnd
  | Report
  | Relink;

function encodeHelloOrigin(writer: ByteWriter, { sid, timeMs, replaces }: HelloOrigin): void {
  writer.varint(sid).u48(timeMs).varint(replaces.length);
  for (const replaced of replaces) writer.varint(replaced);
}

function readHelloOrigin(reader: ByteReader): HelloOrigin {
  const [sid, timeMs] = [readSid(reader), reader.u48()];
  return { sid, timeMs, replaces: list(reader, MAX_REPLACED, () => readSid(reader)) };
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
            (frame.takesHorizon ? TAKES_HORIZON : 0),
        );
      encodePosition(writer, frame.position);
      id(writer, frame.scopeId);
      if (frame.origin !== undefined) encodeHelloOrigin(writer, frame.origin);
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
      return;
    case 'snapshotRecords':
      writer.varint(frame.database).bytes(frame.rows);
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
      const position = decodePosition(reader);
      const scopeId = reader.bytes(SCOPE_ID_BYTES).toString('hex');
      const origin = (flags & ORIGIN) === 0 ? undefined : readHelloOrigin(reader);
      const hello = { version, clusterId, self, seeded, isLook, position, scopeId, takesHorizon };
      return ended(reader, { type: 'hello', ...hello, ...(origin === undefined ? {} : { origin }) });
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
      return ended(reader, { type: 'snapshotBegin', ...contents, ...horizon });
    }
    case TYPE.snapshotRecords:
      return { type: 'snapshotRecords', database: reader.varint(), rows: reader.rest() };
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
