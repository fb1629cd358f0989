/**
 * What a store knows about itself, as one small row that is rewritten in every commit: positions, numbering, database
 * list, feeds. One row, one transaction with the data: there is no moment at which they could disagree (invariants 1, 3).
 */
import { ByteReader, ByteWriter, EMPTY } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import {
  type Epoch,
  epoch,
  type LocalNumber,
  localNumber,
  type Position,
  type Sid,
  type VersionNs,
  versionNs,
} from '../base/types.js';
import { decodePosition, encodePosition, START } from '../log/position.js';
import { type FeedPosition, readSid } from '../log/transaction.js';
import type { Storage } from './database-spec.js';
import { encodeForgotten, everythingAt, type Forgotten, readForgottenOf } from './forgotten.js';
import { decodeHash, SET_HASH_BYTES, type SetHash, writeHash } from './set-hash.js';

const FORMAT = 3;
/** Without what was forgotten. */
const OLDER_FORMAT = 2;
/** By the number that stands for it in the row. */
const STORAGES: readonly Storage[] = ['disk', 'memory'];

export interface DatabaseState {
  /** Number of its engine map; never reused. */
  readonly id: number;
  readonly name: string;
  /** Where its records lie. It cannot change: the records would not be there. */
  readonly storage: Storage;
  /** Live records, expired but not yet collected ones included. */
  readonly records: number;
  /** Of its records, without those whose expiration lies before the horizon. */
  readonly hash: SetHash;
}

/**
 * How far expirations have been worked off, by kind of storage: the last row of the expiration index that was. A record
 * whose own row is not behind it no longer counts for the hash, whether it was collected yet or not. That makes the hash
 * a function of position and horizon alone: two nodes that collect at different times can still compare.
 */
export type Horizons = Readonly<Record<Storage, Buffer>>;

/** A clear that older writes, should they still arrive, must not undo. Dropped with the log entry that carried it. */
export interface ClearMark {
  readonly databaseId: number;
  readonly prefix: Buffer;
  readonly versionNs: VersionNs;
  readonly sid: Sid;
  readonly loggedAt: LocalNumber;
}

/** The order in which clears decide: version, then sid. */
function compareClears(a: ClearMark, b: ClearMark): number {
  if (a.versionNs !== b.versionNs) return a.versionNs < b.versionNs ? -1 : 1;
  return a.sid - b.sid;
}

/** Whatever the clear `inner` keeps out, `outer` keeps out too. */
function covers(outer: ClearMark, inner: ClearMark): boolean {
  return (
    outer.databaseId === inner.databaseId &&
    inner.prefix.subarray(0, outer.prefix.length).equals(outer.prefix) &&
    compareClears(outer, inner) >= 0
  );
}

/**
 * The marks once `mark` came to be: those that no other covers, so the same on every node in whatever order the clears
 * arrived. The one that stands for another lives as long as that one's log entry would have it live.
 */
export function withClear(marks: readonly ClearMark[], mark: ClearMark): ClearMark[] {
  if (!marks.some((known) => covers(known, mark))) return [...marks.filter((known) => !covers(mark, known)), mark];
  return marks.map((known) => (covers(known, mark) ? { ...known, loggedAt: mark.loggedAt } : known));
}

export interface StoreState {
  readonly position: Position;
  /** Local number of the next transaction. */
  readonly next: LocalNumber;
  /** Payload bytes in the log. */
  readonly logBytes: number;
  /** Incarnation of this node's own numbering. */
  readonly epoch: Epoch;
  /** The highest version ever applied here: the hybrid clock goes on from it. */
  readonly lastVersionNs: VersionNs;
  readonly databases: readonly DatabaseState[];
  readonly feeds: readonly FeedPosition[];
  readonly clears: readonly ClearMark[];
  readonly horizons: Horizons;
  readonly forgotten: Forgotten;
}

export const EMPTY_STATE: StoreState = {
  position: START,
  next: localNumber(1),
  logBytes: 0,
  epoch: epoch(1),
  lastVersionNs: versionNs(0n),
  databases: [],
  feeds: [],
  clears: [],
  horizons: { disk: EMPTY, memory: EMPTY },
  forgotten: [],
};

export function encodeState(state: StoreState): Buffer {
  const writer = new ByteWriter(256);
  writer.u8(FORMAT);
  encodePosition(writer, state.position);
  writer.varint(state.next).varint(state.logBytes).varint(state.epoch).u64(state.lastVersionNs);
  writer.varint(state.databases.length);
  for (const { id, name, storage, records, hash } of state.databases) {
    writer.varint(id).text(name).u8(STORAGES.indexOf(storage)).varint(records);
    writeHash(writer, hash);
  }
  writer.varint(state.feeds.length);
  for (const feed of state.feeds) writer.text(feed.feed).u64(feed.position);
  writer.varint(state.clears.length);
  for (const clear of state.clears) {
    writer.varint(clear.databaseId).sized(clear.prefix).u64(clear.versionNs).varint(clear.sid).varint(clear.loggedAt);
  }
  writer.sized(state.horizons.disk).sized(state.horizons.memory);
  encodeForgotten(writer, state.forgotten);
  return writer.take();
}

/** Errors: `CORRUPT`, also for a row written by a newer version of Tokaido. */
export function decodeState(row: Buffer): StoreState {
  const reader = new ByteReader(row);
  const format = reader.u8();
  if (format !== FORMAT && format !== OLDER_FORMAT) {
    throw new TokaidoError('CORRUPT', `the data directory has format ${format}; this version knows ${FORMAT}`, {
      hint: 'run the version of Tokaido that wrote it, or a newer one',
    });
  }
  const position = decodePosition(reader);
  const state: StoreState = {
    position,
    next: localNumber(reader.varint()),
    logBytes: reader.varint(),
    epoch: epoch(reader.varint()),
    lastVersionNs: versionNs(reader.u64()),
    databases: list(reader, () => ({
      id: reader.varint(),
      name: reader.text(),
      storage: readStorage(reader),
      records: reader.varint(),
      hash: decodeHash(reader.bytes(SET_HASH_BYTES)),
    })),
    feeds: list(reader, () => ({ feed: reader.text(), position: reader.u64() })),
    clears: list(reader, () => ({
      databaseId: reader.varint(),
      prefix: Buffer.from(reader.sized()),
      versionNs: versionNs(reader.u64()),
      sid: readSid(reader),
      loggedAt: localNumber(reader.varint()),
    })),
    horizons: { disk: Buffer.from(reader.sized()), memory: Buffer.from(reader.sized()) },
    forgotten: format === FORMAT ? list(reader, () => readForgottenOf(reader)) : everythingAt(position),
  };
  reader.end('store state');
  return state;
}

function readStorage(reader: ByteReader): Storage {
  const code = reader.u8();
  const storage = STORAGES[code];
  if (storage === undefined) throw new TokaidoError('CORRUPT', `a database of unknown storage ${code}`);
  return storage;
}

function list<T>(reader: ByteReader, item: () => T): T[] {
  const count = reader.varint();
  if (count > reader.remaining) throw new TokaidoError('CORRUPT', `${count} items in ${reader.remaining} bytes`);
  return Array.from({ length: count }, item);
}
