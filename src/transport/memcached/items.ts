/**
 * Records as memcached's clients see them, and the ways they change them, each once for the old commands and the meta
 * commands: a value, flags, an expiration time, and a unique id, which is the record's version.
 */
import { NEVER_EXPIRES, type VersionNs } from '../../base/types.js';
import type { Decision, KeyRef } from '../../commands/commands.js';
import type { Item } from '../../protocol/memcached-replies.js';
import type { RecordView } from '../../store/types.js';
import type { MemcachedHost } from './session.js';

const FLAG_BYTES = 4;
const NUMBER = /^ *(\d{1,20}) *$/;
const LARGEST = 2n ** 64n - 1n;

/** What is stored for a value with flags. Kyoto Tycoon's plug-in puts them behind the value, big-endian, or drops them. */
export function encodeItem(host: MemcachedHost, value: Buffer, flags: number): Buffer {
  if (!host.options.flags) return value;
  const stored = Buffer.allocUnsafe(value.length + FLAG_BYTES);
  stored.set(value);
  stored.writeUInt32BE(flags, value.length);
  return stored;
}

/** The value is a view of the record's. */
export function decodeItem(host: MemcachedHost, { value, versionNs }: Pick<RecordView, 'value' | 'versionNs'>): Item {
  const at = value.length - FLAG_BYTES;
  if (!host.options.flags || at < 0) return { value, flags: 0, unique: versionNs };
  return { value: value.subarray(0, at), flags: value.readUInt32BE(at), unique: versionNs };
}

/** A record with what a client asks of it, to outlive the call. */
export interface ItemCopy extends Item {
  readonly xtMs: number;
}

export function copyItem(host: MemcachedHost, record: RecordView): ItemCopy {
  const { value, flags, unique } = decodeItem(host, record);
  return { value: Buffer.from(value), flags, unique, xtMs: record.xtMs };
}

export interface Store {
  readonly mode: 'set' | 'add' | 'replace' | 'append' | 'prepend';
  readonly value: Buffer;
  readonly flags: number;
  readonly xtMs: number;
  /** The record must have this unique id. */
  readonly compare: bigint | undefined;
  /** With `compare`: an older unique id stores the value too, as a stale one. */
  readonly invalidate?: boolean;
  /** Expiration time of the record that `append` and `prepend` make when there is none; without it they make none. */
  readonly vivifyXtMs?: number | undefined;
}

/** What came of it; `unique` and `bytes` of the new value when it is stored, else 0. */
export interface Stored {
  readonly status: 'stored' | 'not-stored' | 'exists' | 'not-found';
  readonly unique: bigint;
  readonly bytes: number;
}

/** The value with flags and expiration time that a store makes. */
interface Content {
  readonly value: Buffer;
  readonly flags: number;
  readonly xtMs: number;
}

export async function storeItem(host: MemcachedHost, ref: KeyRef, store: Store): Promise<Stored> {
  const stored = await host.commands.update(ref, (record, versionNs): Decision<Stored> => {
    const refused = refusal(store, record);
    if (refused !== undefined) return { next: 'keep', result: { status: refused, unique: 0n, bytes: 0 } };
    const { value, flags, xtMs } = contentOf(host, store, record);
    const isOlder = record !== undefined && store.compare !== undefined && store.compare !== record.versionNs;
    if (isOlder) host.recaching.mark(ref, versionNs, { stale: true, won: host.recaching.of(ref, record).won });
    const result: Stored = { status: 'stored', unique: versionNs, bytes: value.length };
    return { next: { value: encodeItem(host, value, flags), xtMs }, result };
  });
  host.counts.set++;
  if (stored.status !== 'stored') host.counts.setMisses++;
  return stored;
}

/** Why nothing is stored. */
function refusal(
  { mode, compare, invalidate, vivifyXtMs }: Store,
  record: RecordView | undefined,
): Stored['status'] | undefined {
  const joins = mode === 'append' || mode === 'prepend';
  if (record === undefined) {
    if (joins) return vivifyXtMs === undefined ? 'not-stored' : undefined;
    if (compare !== undefined && mode !== 'add') return 'not-found';
    return mode === 'replace' ? 'not-stored' : undefined;
  }
  if (mode === 'add') return 'not-stored';
  if (compare === undefined || compare === record.versionNs) return undefined;
  return invalidate === true && !joins && compare < record.versionNs ? undefined : 'exists';
}

function contentOf(host: MemcachedHost, store: Store, record: RecordView | undefined): Content {
  const { mode, value, flags, xtMs } = store;
  if (mode !== 'append' && mode !== 'prepend') return { value, flags, xtMs };
  if (record === undefined) return { value, flags, xtMs: store.vivifyXtMs ?? NEVER_EXPIRES };
  const before = decodeItem(host, record);
  const parts = mode === 'append' ? [before.value, value] : [value, before.value];
  return { value: Buffer.concat(parts), flags: before.flags, xtMs: record.xtMs };
}

export interface Count {
  readonly direction: 'incr' | 'decr';
  readonly by: bigint;
  readonly compare: bigint | undefined;
  /** What a miss makes; without it nothing. */
  readonly vivify: { readonly initial: bigint; readonly xtMs: number } | undefined;
  /** New expiration time; the old one stays when absent. */
  readonly xtMs: number | undefined;
}

export type Counted =
  | { readonly status: 'counted'; readonly number: bigint; readonly unique: bigint; readonly xtMs: number }
  | { readonly status: 'not-found' | 'exists' | 'not-a-number' };

/** Adding wraps at 64 bit, taking away ends at 0. */
export async function countItem(host: MemcachedHost, ref: KeyRef, count: Count): Promise<Counted> {
  const counted = await host.commands.update(ref, (record, versionNs): Decision<Counted> => {
    const { vivify, compare, by } = count;
    const written = (number: bigint, flags: number, xtMs: number): Decision<Counted> => {
      const value = encodeItem(host, Buffer.from(String(number)), flags);
      return { next: { value, xtMs }, result: { status: 'counted', number, unique: versionNs, xtMs } };
    };
    if (record === undefined) {
      return vivify === undefined ? kept('not-found') : written(vivify.initial, 0, vivify.xtMs);
    }
    if (compare !== undefined && compare !== record.versionNs) return kept('exists');
    const { value, flags } = decodeItem(host, record);
    const before = numberOf(value);
    if (before === undefined) return kept('not-a-number');
    const sum = count.direction === 'incr' ? BigInt.asUintN(64, before + by) : before > by ? before - by : 0n;
    return written(sum, flags, count.xtMs ?? record.xtMs);
  });
  const { counts } = host;
  counts[count.direction]++;
  if (counted.status !== 'counted') counts[count.direction === 'incr' ? 'incrMisses' : 'decrMisses']++;
  return counted;
}

function kept(status: 'not-found' | 'exists' | 'not-a-number'): Decision<Counted> {
  return { next: 'keep', result: { status } };
}

function numberOf(value: Buffer): bigint | undefined {
  if (value.length > 32) return undefined;
  const [, digits] = NUMBER.exec(value.toString('latin1')) ?? [];
  const number = digits === undefined ? undefined : BigInt(digits);
  return number === undefined || number > LARGEST ? undefined : number;
}

/** Gives a record a new expiration time; returns it, `undefined` when there is none. Its unique id changes too. */
export async function touchItem(host: MemcachedHost, ref: KeyRef, xtMs: number): Promise<ItemCopy | undefined> {
  const touched = await host.commands.update(ref, (record, versionNs): Decision<ItemCopy | undefined> => {
    return record === undefined ? { next: 'keep', result: undefined } : retimed(host, ref, record, { xtMs, versionNs });
  });
  host.counts.touch++;
  if (touched === undefined) host.counts.touchMisses++;
  return touched;
}

/** The same content with another expiration time. Its marks stay. */
export function retimed(
  host: MemcachedHost,
  ref: KeyRef,
  record: RecordView,
  { xtMs, versionNs }: { readonly xtMs: number; readonly versionNs: VersionNs },
): Decision<ItemCopy> {
  const stored = Buffer.from(record.value);
  host.recaching.mark(ref, versionNs, host.recaching.of(ref, record));
  return { next: { value: stored, xtMs }, result: { ...decodeItem(host, { value: stored, versionNs }), xtMs } };
}
