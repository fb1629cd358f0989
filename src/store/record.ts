/**
 * A record as it lies in the engine: flags (u8), version (u64 ns), sid (u16), expiration time (u48 ms, only with its
 * flag), value. Snapshots carry the same bytes, so the layout is also part of the replication protocol (docs/protocol.md,
 * "Record") and pinned by golden bytes in test/store.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { EMPTY } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import { NEVER_EXPIRES, type Sid, type VersionNs } from '../base/types.js';
import type { RecordView } from './types.js';

/** A deleted or collected record, kept so that an older write arriving late cannot bring it back (invariant 4). */
const FLAG_TOMBSTONE = 1;
const FLAG_EXPIRES = 2;
/** The value is compressed (raw DEFLATE, RFC 1951). Any node reads it, whatever its own database's options say. */
const FLAG_DEFLATED = 4;

/** Shorter values are not worth compressing. */
const MIN_DEFLATE_BYTES = 64;
/** Largest value that a compressed one may unfold to: as large as a transaction can be. */
const MAX_INFLATED_BYTES = 64 * 1024 * 1024;

const VERSION_AT = 1;
const STAMP_BYTES = 10;
const XT_AT = VERSION_AT + STAMP_BYTES;
const PLAIN_HEADER = XT_AT;
const EXPIRING_HEADER = XT_AT + 6;

/** Version and sid in the order in which they decide: ten bytes that compare bytewise. */
export function encodeStamp(versionNs: VersionNs, sid: Sid): Buffer {
  const stamp = Buffer.allocUnsafe(STAMP_BYTES);
  stamp.writeBigUInt64BE(versionNs, 0);
  stamp.writeUInt16BE(sid, 8);
  return stamp;
}

/** With `compress` the value is stored compressed if that makes it smaller. */
export function encodeRecord(stamp: Buffer, xtMs: number, value: Buffer, compress = false): Buffer {
  const expires = xtMs !== NEVER_EXPIRES;
  const header = expires ? EXPIRING_HEADER : PLAIN_HEADER;
  const deflated = compress && value.length >= MIN_DEFLATE_BYTES ? deflateRawSync(value) : value;
  const isDeflated = deflated.length < value.length;
  const stored = isDeflated ? deflated : value;
  const raw = Buffer.allocUnsafe(header + stored.length);
  raw[0] = (expires ? FLAG_EXPIRES : 0) | (isDeflated ? FLAG_DEFLATED : 0);
  raw.set(stamp, VERSION_AT);
  if (expires) raw.writeUIntBE(xtMs, XT_AT, 6);
  raw.set(stored, header);
  return raw;
}

export function encodeTombstone(stamp: Buffer): Buffer {
  const raw = Buffer.allocUnsafe(PLAIN_HEADER);
  raw[0] = FLAG_TOMBSTONE;
  raw.set(stamp, VERSION_AT);
  return raw;
}

/** A stored record, read in place. */
export class StoredRecord implements RecordView {
  readonly raw: Buffer;

  constructor(raw: Buffer) {
    this.raw = raw;
  }

  get isTombstone(): boolean {
    return ((this.raw[0] as number) & FLAG_TOMBSTONE) !== 0;
  }

  get xtMs(): number {
    return ((this.raw[0] as number) & FLAG_EXPIRES) === 0 ? NEVER_EXPIRES : this.raw.readUIntBE(XT_AT, 6);
  }

  get value(): Buffer {
    const flags = this.raw[0] as number;
    if ((flags & FLAG_TOMBSTONE) !== 0) return EMPTY;
    const stored = this.raw.subarray((flags & FLAG_EXPIRES) === 0 ? PLAIN_HEADER : EXPIRING_HEADER);
    return (flags & FLAG_DEFLATED) === 0 ? stored : inflate(stored);
  }

  /** The whole record as another node has it that does not compress. */
  get uncompressed(): Buffer {
    const flags = this.raw[0] as number;
    if ((flags & FLAG_DEFLATED) === 0) return this.raw;
    const header = this.raw.subarray(0, (flags & FLAG_EXPIRES) === 0 ? PLAIN_HEADER : EXPIRING_HEADER);
    const plain = Buffer.concat([header, this.value]);
    plain[0] = flags & ~FLAG_DEFLATED;
    return plain;
  }

  get versionNs(): VersionNs {
    return this.raw.readBigUInt64BE(VERSION_AT) as VersionNs;
  }

  get sid(): Sid {
    return this.raw.readUInt16BE(VERSION_AT + 8) as Sid;
  }

  get stamp(): Buffer {
    return this.raw.subarray(VERSION_AT, VERSION_AT + STAMP_BYTES);
  }

  /** Whether what is stored wins over a change with this stamp. Equal stamps are one transaction: the change goes on. */
  isNewerThan(stamp: Buffer): boolean {
    const { raw } = this;
    // Not `compare`: checking five arguments takes longer than the few bytes up to the first that differs.
    for (let at = 0; at < STAMP_BYTES; at++) {
      const difference = (raw[VERSION_AT + at] as number) - (stamp[at] as number);
      if (difference !== 0) return difference > 0;
    }
    return false;
  }

  isLive(nowMs: () => number): boolean {
    if (this.isTombstone) return false;
    const xtMs = this.xtMs;
    return xtMs === NEVER_EXPIRES || xtMs > nowMs();
  }
}

function inflate(stored: Buffer): Buffer {
  try {
    return inflateRawSync(stored, { maxOutputLength: MAX_INFLATED_BYTES });
  } catch (error) {
    throw new TokaidoError('CORRUPT', 'a compressed value cannot be unfolded', { cause: error });
  }
}

/** For records that come from a peer: refuses what this node would never have written. */
export function checkRecord(raw: Buffer): StoredRecord {
  const flags = raw[0];
  const header = ((flags ?? 0) & FLAG_EXPIRES) === 0 ? PLAIN_HEADER : EXPIRING_HEADER;
  const isLive = flags !== undefined && (flags & ~(FLAG_EXPIRES | FLAG_DEFLATED)) === 0;
  const known = isLive || (flags === FLAG_TOMBSTONE && raw.length === PLAIN_HEADER);
  if (!known || raw.length < header) throw new TokaidoError('CORRUPT', 'a record of a snapshot is malformed');
  return new StoredRecord(raw);
}
