/**
 * The upstream's side of one link to a follower that is a Kyoto Tycoon server: reads its request, finds where it is by
 * its time stamp (kt-stamps.ts), and sends what it lacks in Kyoto Tycoon's own messages. No sockets, no clock.
 *
 * States: `greeting` (until the request) -> `waiting` (for its turn to copy) -> `copying` -> `following` -> `ended`.
 *
 * A follower whose time stamp the log no longer reaches (or that has none while the log does not begin at the
 * beginning) gets a copy: a clear of each database, then every record, from one snapshot, all under the stamp it came
 * with, so that a copy that breaks off begins anew. The reference would send what is left of its log, and the follower
 * would silently lack the rest.
 *
 * Cost: a queue of at most `queueBytes` and one batch, read from the log at the follower's own speed; the writer only
 * wakes it. A follower that takes nothing for `silenceMs` is cut off: a copy pins pages of the disk.
 */
import { ByteReader, ByteWriter } from '../../base/bytes.js';
import { AssertionFailure, messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import { type LocalNumber, localNumber } from '../../base/types.js';
import { newestVersion } from '../../log/position.js';
import { type Change, decodeTransactions, type EncodedTransaction } from '../../log/transaction.js';
import type { LogBatch } from '../../log/update-log.js';
import {
  decodeFollowRequest,
  encodeMark,
  encodeTick,
  encodeUpdate,
  KT_ACCEPT,
  type KtChange,
  type KtFollowRequest,
} from '../../protocol/kt-replication.js';
import { StoredRecord } from '../../store/record.js';
import { type RowSlice, SnapshotSource } from '../../store/snapshot.js';
import type { LocalStore } from '../../store/store.js';
import type { PeerLink } from '../link.js';
import type { Scope } from '../scope.js';
import type { FollowerState } from '../sending/follower-session.js';
import { KtStamps } from './stamps.js';

/** What the server lends to each session. */
export interface KtSessionHost {
  readonly store: LocalStore;
  readonly log: Logger;
  /** Bytes that may wait in one link's queue before the session stops feeding it. */
  readonly queueBytes: number;
  /** A follower that answers nothing, or takes nothing, for this long is cut off, ms. */
  readonly silenceMs: number;
  nowMs(): number;
  monotonicMs(): number;
  /** Calls `fn` in a later turn of the event loop. */
  soon(fn: () => void): void;
  /** Whether one more copy may run now. */
  mayCopy(): boolean;
}

/** About how many bytes of records are read at a time. */
const SLICE_BYTES = 256 * 1024;
/** Likewise of the log, whose changes cost more: a few ms of the event loop. */
const LOG_SLICE_BYTES = 64 * 1024;
/** Bytes of answers that a follower may have sent ahead; it owes one byte per tick. */
const MAX_ANSWER_BYTES = 4096;

/** Who follows, as far as it proved it. */
export interface KtPeer {
  readonly address: string;
  /** Common name in the subject of its certificate. */
  readonly name: string | undefined;
}

export class KtFollowerSession {
  readonly peer: KtPeer;
  readonly scope: Scope;
  readonly address: string;
  readonly #link: PeerLink;
  readonly #host: KtSessionHost;
  #log: Logger;
  #state: FollowerState = 'greeting';
  #received = Buffer.alloc(0);
  #request: KtFollowRequest | undefined;
  #next: LocalNumber = localNumber(0);
  #stamps = new KtStamps(0n, 0n);
  #snapshot: SnapshotSource | undefined;
  #copied = 0;
  #tickUnanswered = false;
  /** The next slice is on its way already. */
  #isPumpDue = false;
  /** When the follower last answered, or had taken all that was sent. */
  #progressMs: number;

  /** `peer` is who its certificate says it is; `scope` what it may see. */
  constructor(peer: KtPeer, link: PeerLink, scope: Scope, host: KtSessionHost) {
    const { address } = peer;
    this.peer = peer;
    this.scope = scope;
    this.address = address;
    this.#link = link;
    this.#host = host;
    this.#log = host.log.child({ follower: 'kyoto-tycoon', address });
    this.#progressMs = host.monotonicMs();
  }

  get state(): FollowerState {
    return this.#state;
  }

  /** The follower's server id, once it said it. */
  get sid(): number | undefined {
    return this.#request?.sid;
  }

  get queuedBytes(): number {
    return this.#link.queuedBytes;
  }

  /** Transactions of this node's log that were not sent yet; all of them before and during a copy. */
  lagChanges(): number {
    const { log } = this.#host.store;
    return this.#state === 'following' ? log.next - this.#next : log.next - 1;
  }

  /** Bytes from the follower. Whatever is wrong with them ends this link and nothing else. */
  onData(chunk: Buffer): void {
    if (this.#state === 'ended') return;
    this.#progressMs = this.#host.monotonicMs();
    try {
      if (this.#request === undefined) this.#onRequest(chunk);
      else this.#onAnswer(chunk);
    } catch (error) {
      if (error instanceof AssertionFailure) throw error;
      this.#destroy(messageOf(error));
    }
  }

  #onRequest(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    const parsed = decodeFollowRequest(this.#received);
    if (parsed === undefined) return;
    const { request, bytes } = parsed;
    this.#request = request;
    this.#log = this.#log.child({ sid: request.sid });
    const early = this.#received.subarray(bytes);
    this.#received = Buffer.alloc(0);
    this.#link.send([KT_ACCEPT]);
    this.#begin(request);
    if (early.length > 0) this.#onAnswer(early);
  }

  /** A follower says nothing but that it got a tick. */
  #onAnswer(chunk: Buffer): void {
    if (chunk.length > MAX_ANSWER_BYTES || chunk.some((byte) => byte !== KT_ACCEPT[0]))
      throw new TokaidoError('REPLICATION', 'the follower sent something else than answers to ticks');
    this.#tickUnanswered = false;
  }

  #begin({ timestampNs }: KtFollowRequest): void {
    const { store } = this.#host;
    const first = store.log.findVersion(timestampNs, store.position());
    const at = { timestampNs: String(timestampNs), ours: String(newestVersion(store.position())) };
    if (first !== undefined) {
      this.#log.info(at, 'a Kyoto Tycoon follower connected: sending from the log');
      this.#follow(first, timestampNs);
      return;
    }
    this.#log.warn(at, 'a Kyoto Tycoon follower is too far behind for the log: sending a copy of everything');
    this.#state = 'waiting';
    this.#copyWhenAllowed();
  }

  #follow(from: LocalNumber, hasNs: bigint): void {
    const { store } = this.#host;
    const before = from < store.log.next ? (store.log.batchAt(from) as LogBatch).before : store.position();
    this.#stamps = new KtStamps(hasNs, newestVersion(before));
    this.#state = 'following';
    this.#next = from;
    this.pump();
  }

  #copyWhenAllowed(): void {
    if (this.#state !== 'waiting' || !this.#host.mayCopy()) return;
    this.#state = 'copying';
    this.#copied = 0;
    this.#snapshot = new SnapshotSource(this.#host.store.engine, () => true, this.scope);
    const writer = new ByteWriter(256);
    for (const { name } of this.#snapshot.contents.databases) this.#encode(writer, name, { kind: 'clear' });
    this.#link.send([writer.take()]);
    this.pump();
  }

  /** One change of a copy. */
  #encode(writer: ByteWriter, name: string, change: KtChange): void {
    const database = this.#host.store.database(name)?.index;
    const { timestampNs, sid } = this.#request as KtFollowRequest;
    // Under another server id than the follower's, whoever wrote it: it would leave its own out.
    const other = this.#host.store.sid === sid || this.#host.store.sid === undefined ? sid ^ 1 : this.#host.store.sid;
    if (database !== undefined) encodeUpdate(writer, { timestampNs, sid: other, database, change });
  }

  #isFull(): boolean {
    return this.#link.queuedBytes >= this.#host.queueBytes;
  }

  /** The link's queue is empty again. */
  onDrain(): void {
    this.#progressMs = this.#host.monotonicMs();
    this.pump();
  }

  /** Sends what the link has room for: called when it drained, after commits and with each beat. */
  pump(): void {
    try {
      if (this.#state === 'copying') this.#pumpCopy();
      if (this.#state === 'following') this.#pumpLog();
    } catch (error) {
      if (error instanceof AssertionFailure) throw error;
      this.#log.error({ reason: messageOf(error) }, 'cannot read what a Kyoto Tycoon follower needs: link closed');
      this.end();
    }
  }

  /** The next slice, in a later turn of the event loop, however fast the link takes this one. */
  #pumpSoon(): void {
    this.#isPumpDue = true;
    this.#host.soon(() => {
      this.#isPumpDue = false;
      this.pump();
    });
  }

  /** Likewise one slice a call: whoever takes what he gets as fast as it comes would have all of it in one turn. */
  #pumpLog(): void {
    const { log } = this.#host.store;
    if (this.#isFull() || this.#isPumpDue || this.#next >= log.next) return;
    if (this.#next < log.first) {
      this.#log.warn({}, 'the log was cut before a slow Kyoto Tycoon follower had it: it starts again with a copy');
      this.end();
      return;
    }
    const batches = log.read(this.#next, LOG_SLICE_BYTES);
    const writer = new ByteWriter(batches.reduce((bytes, { payload }) => bytes + payload.length, 1024));
    for (const batch of batches) {
      this.#next = localNumber(batch.first + batch.count);
      for (const transaction of decodeTransactions(this.scope.filter(batch.payload))) {
        if (!this.#sendTransaction(writer, transaction)) return;
      }
    }
    if (writer.length > 0) this.#link.send([writer.take()]);
    if (this.#next < log.next) this.#pumpSoon();
  }

  /** False when the follower needs a copy instead. */
  #sendTransaction(writer: ByteWriter, { header, changes }: EncodedTransaction): boolean {
    const { sid, onlySid } = this.#request as KtFollowRequest;
    const stampNs = this.#stamps.next(header.versionNs);
    if (stampNs === undefined || (header.sid === sid) !== onlySid) return true;
    const updates: { database: number; change: KtChange }[] = [];
    for (const change of changes) {
      const database = this.#host.store.database(change.database)?.index;
      const known = ktChange(change);
      if (known === undefined) {
        this.#log.info({ database: change.database }, 'Kyoto Tycoon cannot clear a prefix: sending a copy instead');
        this.#state = 'waiting';
        if (writer.length > 0) this.#link.send([writer.take()]);
        this.#copyWhenAllowed();
        return false;
      }
      if (database !== undefined) updates.push({ database, change: known });
    }
    for (const [at, update] of updates.entries()) {
      const isLast = at === updates.length - 1;
      encodeUpdate(writer, { timestampNs: isLast ? stampNs : stampNs - 1n, sid: header.sid, ...update });
    }
    return true;
  }

  /** One slice a call, so that reads and other followers get their turn in between. */
  #pumpCopy(): void {
    if (this.#isFull() || this.#isPumpDue || this.#snapshot === undefined) return;
    const slice = this.#snapshot.next(SLICE_BYTES);
    if (slice !== undefined) {
      this.#sendSlice(this.#snapshot, slice);
      this.#pumpSoon();
      return;
    }
    const { nextNumber, contents } = this.#snapshot;
    this.#closeSnapshot();
    const hasNs = newestVersion(contents.position);
    this.#link.send([encodeMark(hasNs)]);
    this.#log.info({ records: this.#copied }, 'a Kyoto Tycoon follower has a copy of everything');
    if (nextNumber >= this.#host.store.log.first) this.#follow(nextNumber, hasNs);
    else this.end();
  }

  #sendSlice(source: SnapshotSource, { database, rows }: RowSlice): void {
    const { name } = source.contents.databases[database] as { name: string };
    const nowMs = this.#host.nowMs();
    const reader = new ByteReader(rows);
    const writer = new ByteWriter(rows.length + 4096);
    while (reader.remaining > 0) {
      const key = reader.sized();
      const record = new StoredRecord(reader.sized());
      if (!record.isLive(() => nowMs)) continue;
      this.#encode(writer, name, { kind: 'set', key, value: record.value, xtMs: record.xtMs });
      this.#copied++;
    }
    if (writer.length > 0) this.#link.send([writer.take()]);
  }

  #closeSnapshot(): void {
    this.#snapshot?.close();
    this.#snapshot = undefined;
  }

  /** Called on a timer: says how new the data is to a follower that has everything, and gives up one that is gone. */
  beat(): void {
    if (this.#state === 'ended' || this.#state === 'greeting') return;
    const nowMs = this.#host.monotonicMs();
    if (!this.#tickUnanswered && this.#link.queuedBytes === 0) this.#progressMs = nowMs;
    if (nowMs - this.#progressMs > this.#host.silenceMs) {
      this.#destroy(`it took nothing and answered nothing for ${this.#host.silenceMs} ms`);
      return;
    }
    this.pump();
    if (this.#state === 'waiting') this.#waitOn();
    const isAtTip = this.#state === 'following' && this.#next >= this.#host.store.log.next;
    if (!isAtTip || this.#tickUnanswered || this.#link.queuedBytes > 0) return;
    this.#tickUnanswered = true;
    this.#link.send([encodeTick(this.#stamps.stampNs)]);
  }

  /** A follower gives up an upstream that says nothing for a minute. */
  #waitOn(): void {
    this.#link.send([encodeMark((this.#request as KtFollowRequest).timestampNs)]);
    this.#copyWhenAllowed();
  }

  #destroy(reason: string): void {
    if (this.#state === 'ended') return;
    this.#log.warn({ reason }, 'a Kyoto Tycoon follower is cut off');
    this.onClosed();
    this.#link.destroy(reason);
  }

  /** Closes the link in good order. */
  end(): void {
    if (this.#state === 'ended') return;
    this.onClosed();
    this.#link.close();
  }

  /** The link is gone. */
  onClosed(): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#closeSnapshot();
  }
}

/** `undefined` for what Kyoto Tycoon cannot say: a clear of a prefix. */
function ktChange(change: Change): KtChange | undefined {
  if (change.kind !== 'clear') return change;
  return change.prefix.length === 0 ? { kind: 'clear' } : undefined;
}
