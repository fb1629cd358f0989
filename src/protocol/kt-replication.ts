/**
 * Kyoto Tycoon's own replication, as bytes: what a follower asks (0xB1), the messages it gets, and what it says back.
 * Pure. The layout is in docs/protocol.md ("Kyoto Tycoon's replication") and pinned by recorded conversations in
 * test/protocol. All integers are big-endian; lengths inside a message are base-128, most significant group first.
 */
import { ByteWriter } from '../base/bytes.js';
import { TokaidoError, unreachable } from '../base/errors.js';
import { NEVER_EXPIRES } from '../base/types.js';
import { ByteQueue } from './byte-queue.js';

const REPLICATION = 0xb1;
const TICK = 0xb0;
const REFUSED = 0xbf;
const SET = 0xa1;
const REMOVE = 0xa2;
const CLEAR = 0xa5;

/** Only changes of the server id in the request, instead of all others. */
const FLAG_ONLY_SID = 1;
const REQUEST_BYTES = 15;
const HEAD_BYTES = 13;
const TICK_BYTES = 9;
/** Server id and database number, before the change itself. */
const ADDRESS_BYTES = 4;
/** Expiration time in front of a value: 40 bits of seconds since 1970; all of them set means "never". */
const XT_BYTES = 5;
const NEVER_SECONDS = 2 ** 40 - 1;
const MAX_VARNUM_BYTES = 8;

/** The one byte that accepts a follower, and that a follower answers each tick with. */
export const KT_ACCEPT: Buffer = Buffer.of(REPLICATION);
export const KT_REFUSE: Buffer = Buffer.of(REFUSED);

export interface KtFollowRequest {
  /** Time stamp of the last change the follower has, ns since 1970; 0 for none. */
  readonly timestampNs: bigint;
  /** The follower's own server id: what it wrote itself is not sent back to it. */
  readonly sid: number;
  /** Turns the filter around: only changes of `sid`. */
  readonly onlySid: boolean;
}

/** One change of one record, or of a whole database. */
export type KtChange =
  | { readonly kind: 'set'; readonly key: Buffer; readonly value: Buffer; readonly xtMs: number }
  | { readonly kind: 'remove'; readonly key: Buffer }
  | { readonly kind: 'clear' };

/** A change, who made it, and the number of its database. */
export interface KtUpdate {
  readonly timestampNs: bigint;
  readonly sid: number;
  readonly database: number;
  /** `undefined` for kinds that a server logs and nobody applies (opening, transactions, synchronisation). */
  readonly change: KtChange | undefined;
}

export type KtEvent =
  | { readonly kind: 'accepted' }
  | { readonly kind: 'refused' }
  | ({ readonly kind: 'update' } & KtUpdate)
  /** Nothing up to this time is missing. With `wantsAnswer` the upstream waits for `KT_ACCEPT`. */
  | { readonly kind: 'tick'; readonly timestampNs: bigint; readonly wantsAnswer: boolean };

export function encodeFollowRequest({ timestampNs, sid, onlySid }: KtFollowRequest): Buffer {
  const writer = new ByteWriter(REQUEST_BYTES).u8(REPLICATION).u32(onlySid ? FLAG_ONLY_SID : 0);
  return writer.u64(timestampNs).u16(sid).take();
}

/** The request at the beginning of `bytes`; `undefined` while it is not all there. Errors: `MALFORMED`. */
export function decodeFollowRequest(bytes: Buffer): { request: KtFollowRequest; bytes: number } | undefined {
  if (bytes.length === 0) return undefined;
  if (bytes[0] !== REPLICATION) throw new TokaidoError('MALFORMED', 'this listener speaks replication (0xB1) only');
  if (bytes.length < REQUEST_BYTES) return undefined;
  const onlySid = (bytes.readUInt32BE(1) & FLAG_ONLY_SID) !== 0;
  const request = { timestampNs: bytes.readBigUInt64BE(5), sid: bytes.readUInt16BE(13), onlySid };
  return { request, bytes: REQUEST_BYTES };
}

function varnum(writer: ByteWriter, value: number): void {
  let groups = 1;
  while (value >= 128 ** groups) groups++;
  for (let group = groups - 1; group >= 0; group--) {
    const bits = Math.floor(value / 128 ** group) % 128;
    writer.u8(group === 0 ? bits : bits | 0x80);
  }
}

/** Whole seconds, rounded up: a record never expires at a follower before it does here. */
function xtSeconds(xtMs: number): number {
  return xtMs === NEVER_EXPIRES ? NEVER_SECONDS : Math.min(Math.ceil(xtMs / 1000), NEVER_SECONDS - 1);
}

/** Appends one message. */
export function encodeUpdate(writer: ByteWriter, update: KtUpdate & { readonly change: KtChange }): void {
  const { timestampNs, sid, database, change } = update;
  const start = writer.length;
  writer.u8(REPLICATION).u64(timestampNs).u32(0).u16(sid).u16(database);
  switch (change.kind) {
    case 'set': {
      writer.u8(SET);
      varnum(writer, change.key.length);
      varnum(writer, change.value.length + XT_BYTES);
      const seconds = xtSeconds(change.xtMs);
      writer.bytes(change.key);
      writer.u8(Math.floor(seconds / 2 ** 32)).u32(seconds % 2 ** 32);
      writer.bytes(change.value);
      break;
    }
    case 'remove':
      writer.u8(REMOVE);
      varnum(writer, change.key.length);
      writer.bytes(change.key);
      break;
    case 'clear':
      writer.u8(CLEAR);
      break;
    default:
      unreachable(change);
  }
  writer.patchU32(start + 9, writer.length - start - HEAD_BYTES);
}

/** Says that nothing up to this time is missing; the follower answers with `KT_ACCEPT`. */
export function encodeTick(timestampNs: bigint): Buffer {
  return new ByteWriter(TICK_BYTES).u8(TICK).u64(timestampNs).take();
}

/** Says the same without wanting an answer: what a server sends when it leaves much out. */
export function encodeMark(timestampNs: bigint): Buffer {
  return new ByteWriter(HEAD_BYTES).u8(REPLICATION).u64(timestampNs).u32(0).take();
}

/** Reads a stream of messages, bounded by `messageBytes`. Keys and values of events are copies. */
export class KtStreamDecoder {
  readonly #messageBytes: number;
  readonly #received = new ByteQueue();
  #accepted = false;

  constructor(messageBytes: number) {
    this.#messageBytes = messageBytes;
  }

  /** Errors: `REPLICATION` for what is no such stream, `TOO_LARGE` for a message beyond the limit. */
  *push(chunk: Buffer): Generator<KtEvent> {
    this.#received.append(chunk);
    for (;;) {
      const bytes = this.#received.view();
      const parsed = this.#accepted ? this.#message(bytes) : this.#greeting(bytes);
      if (parsed === undefined) return;
      this.#received.consume(parsed.bytes);
      yield parsed.event;
    }
  }

  #greeting(bytes: Buffer): { event: KtEvent; bytes: number } | undefined {
    if (bytes.length === 0) return undefined;
    if (bytes[0] === REFUSED) return { event: { kind: 'refused' }, bytes: 1 };
    if (bytes[0] !== REPLICATION) throw new TokaidoError('REPLICATION', 'the upstream does not speak replication');
    this.#accepted = true;
    return { event: { kind: 'accepted' }, bytes: 1 };
  }

  #message(bytes: Buffer): { event: KtEvent; bytes: number } | undefined {
    const magic = bytes[0];
    if (magic === undefined) return undefined;
    if (magic === TICK) {
      if (bytes.length < TICK_BYTES) return undefined;
      return {
        event: { kind: 'tick', timestampNs: bytes.readBigUInt64BE(1), wantsAnswer: true },
        bytes: TICK_BYTES,
      };
    }
    if (magic !== REPLICATION) throw new TokaidoError('REPLICATION', `an unknown message 0x${magic.toString(16)}`);
    if (bytes.length < HEAD_BYTES) return undefined;
    const timestampNs = bytes.readBigUInt64BE(1);
    const size = bytes.readUInt32BE(9);
    if (size > this.#messageBytes) {
      throw new TokaidoError('TOO_LARGE', `a message of ${size} bytes exceeds the limit of ${this.#messageBytes}`, {
        hint: 'raise limits.valueBytes in the configuration, or remove that record at the upstream',
      });
    }
    const total = HEAD_BYTES + size;
    if (bytes.length < total) return undefined;
    // An upstream that filters much out says in between how far it is.
    if (size === 0) return { event: { kind: 'tick', timestampNs, wantsAnswer: false }, bytes: total };
    if (size < ADDRESS_BYTES + 1) throw malformed();
    const body = Buffer.from(bytes.subarray(HEAD_BYTES, total));
    const address = { sid: body.readUInt16BE(0), database: body.readUInt16BE(2) };
    return { event: { kind: 'update', timestampNs, ...address, change: decodeChange(body) }, bytes: total };
  }
}

function malformed(): TokaidoError {
  return new TokaidoError('REPLICATION', 'the upstream sent a malformed change');
}

function decodeChange(body: Buffer): KtChange | undefined {
  let at = ADDRESS_BYTES;
  const kind = body[at++];
  const length = (): number => {
    let value = 0;
    for (let i = 0; i < MAX_VARNUM_BYTES; i++) {
      const byte = body[at++];
      if (byte === undefined) throw malformed();
      value = value * 128 + (byte & 0x7f);
      if (byte < 0x80) return value;
    }
    throw malformed();
  };
  switch (kind) {
    case SET: {
      const keyBytes = length();
      const valueBytes = length();
      if (valueBytes < XT_BYTES || body.length !== at + keyBytes + valueBytes) throw malformed();
      const key = body.subarray(at, at + keyBytes);
      const seconds = body.readUIntBE(at + keyBytes, XT_BYTES);
      const xtMs = seconds >= NEVER_SECONDS ? NEVER_EXPIRES : Math.max(1, Math.min(seconds * 1000, 2 ** 48 - 1));
      return { kind: 'set', key, value: body.subarray(at + keyBytes + XT_BYTES), xtMs };
    }
    case REMOVE: {
      const keyBytes = length();
      if (body.length !== at + keyBytes) throw malformed();
      return { kind: 'remove', key: body.subarray(at) };
    }
    case CLEAR:
      if (body.length !== at) throw malformed();
      return { kind: 'clear' };
    default:
      return undefined;
  }
}
