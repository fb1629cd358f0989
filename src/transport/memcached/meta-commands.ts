/** memcached's meta commands: requests to commands and back. */
import { unreachable } from '../../base/errors.js';
import { versionNs } from '../../base/types.js';
import type { Decision, KeyRef } from '../../commands/commands.js';
import type { Mark } from '../../commands/recaching.js';
import type { MetaCount, MetaDebug, MetaDelete, MetaGet, MetaRequest, MetaSet } from '../../protocol/memcached-meta.js';
import { NOT_A_NUMBER, renderMeta, secondsLeft, xtFromExptime } from '../../protocol/memcached-replies.js';
import type { Order } from '../rpc/procedure.js';
import { copyItem, countItem, decodeItem, encodeItem, type ItemCopy, retimed, storeItem } from './items.js';
import type { MemcachedHost, MemcachedSession } from './session.js';

/** Bytes of an answer; `undefined` when the client wants none. */
type Reply = Buffer | undefined;

export function metaOrder(request: MetaRequest): Order {
  const { command } = request;
  if (command === 'me') return 'read';
  // A hit of a get that would make a record changes nothing.
  if (command === 'mg' && request.touch === undefined) return 'read';
  // A pipeline of writes that answer with values could owe any number of bytes.
  return command === 'mg' && request.wantsValue ? 'alone' : 'write';
}

/** Whether a request cannot be answered without changing something. */
export function metaChanges(request: MetaRequest): boolean {
  return request.command === 'mg' ? request.touch !== undefined : request.command !== 'me';
}

export function answerMeta(request: MetaRequest, session: MemcachedSession): Reply | Promise<Reply> {
  const { host } = session;
  const ref = { database: session.database(), key: request.key };
  switch (request.command) {
    case 'mg':
      return metaGet(request, host, ref);
    case 'ms':
      return metaSet(request, host, ref);
    case 'md':
      return metaDelete(request, host, ref);
    case 'ma':
      return metaCount(request, host, ref);
    case 'me':
      return metaDebug(request, host, ref);
    default:
      return unreachable(request);
  }
}

/** What the flags of a request ask to hear, in their order. `known` has what the answer can tell. */
function echo({ flags, sentKey }: MetaRequest, known: Readonly<Record<string, string | undefined>> = {}): string[] {
  return flags.flatMap((flag) => {
    const letter = flag[0] as string;
    if (letter === 'O') return [flag];
    if (letter === 'k') return flags.includes('b') ? [`k${sentKey}`, 'b'] : [`k${sentKey}`];
    const value = known[letter];
    return value === undefined ? [] : [`${letter}${value}`];
  });
}

function xtOf(exptime: number, host: MemcachedHost): number {
  return xtFromExptime(exptime, host.nowMs());
}

/** A hit: the record, and what its marks were before this request. */
interface Hit {
  readonly item: ItemCopy;
  readonly mark: Mark;
  readonly isNew: boolean;
}

function metaGet(request: MetaGet, host: MemcachedHost, ref: KeyRef): Reply | Promise<Reply> {
  const { touch, vivify } = request;
  if (touch === undefined) {
    const record = host.commands.get(ref);
    if (record !== undefined) {
      const hit = { item: copyItem(host, record), mark: host.recaching.of(ref, record), isNew: false };
      return renderHit(request, host, ref, hit);
    }
    if (vivify === undefined) return renderMiss(request, host);
  }
  return touchOrMake(request, host, ref);
}

async function touchOrMake(request: MetaGet, host: MemcachedHost, ref: KeyRef): Promise<Reply> {
  const { touch, vivify } = request;
  const hit = await host.commands.update(ref, (record, version): Decision<Hit | undefined> => {
    if (record === undefined) {
      if (vivify === undefined) return { next: 'keep', result: undefined };
      const xtMs = xtOf(vivify, host);
      const empty = Buffer.alloc(0);
      const item = { value: empty, flags: 0, unique: version, xtMs };
      const result = { item, mark: { stale: false, won: false }, isNew: true };
      return { next: { value: encodeItem(host, empty, 0), xtMs }, result };
    }
    const mark = host.recaching.of(ref, record);
    if (touch === undefined) return { next: 'keep', result: { item: copyItem(host, record), mark, isNew: false } };
    const { next, result: item } = retimed(host, ref, record, { xtMs: xtOf(touch, host), versionNs: version });
    return { next, result: { item, mark, isNew: false } };
  });
  return hit === undefined ? renderMiss(request, host) : renderHit(request, host, ref, hit);
}

function renderMiss(request: MetaGet, host: MemcachedHost): Reply {
  host.counts.get++;
  host.counts.getMisses++;
  return request.quiet ? undefined : renderMeta('EN', echo(request));
}

/** Whoever is told `W` first is to make the record anew; everybody after that hears `Z`. */
function renderHit(request: MetaGet, host: MemcachedHost, ref: KeyRef, { item, mark, isNew }: Hit): Reply {
  host.counts.get++;
  const left = secondsLeft(item.xtMs, host.nowMs());
  const isDue = request.recache !== undefined && left >= 0 && left < request.recache;
  const wins = !mark.won && (isNew || mark.stale || isDue);
  if (wins) host.recaching.mark(ref, versionNs(item.unique), { ...mark, won: true });
  const flags = echo(request, {
    s: String(item.value.length),
    t: String(left),
    c: String(item.unique),
    f: String(item.flags),
  });
  if (mark.won) flags.push('Z');
  if (mark.stale) flags.push('X');
  if (wins) flags.push('W');
  const sendsValue = request.wantsValue && request.compare !== item.unique;
  return sendsValue ? renderMeta('VA', flags, item.value) : renderMeta('HD', flags);
}

const CODES = { stored: 'HD', 'not-stored': 'NS', exists: 'EX', 'not-found': 'NF' } as const;

async function metaSet(request: MetaSet, host: MemcachedHost, ref: KeyRef): Promise<Reply> {
  const { mode, value, clientFlags, exptime, compare, invalidate, vivify } = request;
  const { status, unique, bytes } = await storeItem(host, ref, {
    mode,
    value,
    flags: clientFlags,
    xtMs: xtOf(exptime, host),
    compare,
    invalidate,
    vivifyXtMs: vivify === undefined ? undefined : xtOf(vivify, host),
  });
  if (status === 'stored' && request.quiet) return undefined;
  return renderMeta(CODES[status], echo(request, { c: String(unique), s: String(bytes) }));
}

async function metaDelete(request: MetaDelete, host: MemcachedHost, ref: KeyRef): Promise<Reply> {
  const { compare, invalidate, empties, touch } = request;
  const code = await host.commands.update(ref, (record, version): Decision<'HD' | 'NF' | 'EX'> => {
    if (record === undefined) return { next: 'keep', result: 'NF' };
    if (compare !== undefined && compare !== record.versionNs) return { next: 'keep', result: 'EX' };
    if (!invalidate && !empties) return { next: 'remove', result: 'HD' };
    const before = host.recaching.of(ref, record);
    host.recaching.mark(ref, version, invalidate ? { stale: true, won: false } : before);
    const value = empties ? encodeItem(host, Buffer.alloc(0), 0) : Buffer.from(record.value);
    const xtMs = invalidate && touch !== undefined ? xtOf(touch, host) : record.xtMs;
    return { next: { value, xtMs }, result: 'HD' };
  });
  host.counts.delete++;
  if (code !== 'HD') host.counts.deleteMisses++;
  return request.quiet && code === 'HD' ? undefined : renderMeta(code, echo(request));
}

async function metaCount(request: MetaCount, host: MemcachedHost, ref: KeyRef): Promise<Reply> {
  const { direction, by, compare, vivify, initial, touch } = request;
  const counted = await countItem(host, ref, {
    direction,
    by,
    compare,
    vivify: vivify === undefined ? undefined : { initial, xtMs: xtOf(vivify, host) },
    xtMs: touch === undefined ? undefined : xtOf(touch, host),
  });
  switch (counted.status) {
    case 'not-a-number':
      return NOT_A_NUMBER;
    case 'exists':
      return renderMeta('EX', echo(request));
    case 'not-found':
      return renderMeta('NF', echo(request));
    default: {
      if (request.quiet) return undefined;
      const { unique, xtMs, number } = counted;
      const flags = echo(request, { c: String(unique), t: String(secondsLeft(xtMs, host.nowMs())) });
      return request.wantsValue ? renderMeta('VA', flags, Buffer.from(String(number))) : renderMeta('HD', flags);
    }
  }
}

function metaDebug({ sentKey }: MetaDebug, host: MemcachedHost, ref: KeyRef): Reply {
  const record = host.commands.get(ref);
  if (record === undefined) return renderMeta('EN', []);
  const { value, unique } = decodeItem(host, record);
  const size = ref.key.length + value.length;
  const facts = [`exp=${secondsLeft(record.xtMs, host.nowMs())}`, `cas=${unique}`, `size=${size}`];
  return renderMeta('ME', [sentKey, ...facts]);
}
