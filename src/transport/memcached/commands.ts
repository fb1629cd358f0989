/** memcached's requests to commands and back. */
import { TokaidoError } from '../../base/errors.js';
import { versionNs } from '../../base/types.js';
import type { KeyRef } from '../../commands/commands.js';
import type { MemcachedRequest, StoreRequest } from '../../protocol/memcached.js';
import {
  BAD_EXPTIME,
  DELETED,
  END,
  ERROR,
  EXISTS,
  ItemsReply,
  NO_OP,
  NOT_A_NUMBER,
  NOT_FOUND,
  NOT_STORED,
  OK,
  RESET,
  renderNumber,
  renderStats,
  renderVersion,
  STORED,
  TOUCHED,
  xtFromExptime,
} from '../../protocol/memcached-replies.js';
import type { Order } from '../rpc/procedure.js';
import { countItem, decodeItem, encodeItem, type Stored, storeItem, touchItem } from './items.js';
import { answerMeta, metaChanges, metaOrder } from './meta-commands.js';
import { MemcachedCounts, type MemcachedSession } from './session.js';
import { generalStats, settingsStats, VERSION_TEXT } from './stats.js';

/** Bytes of an answer; `undefined` when there is none. */
type Reply = Buffer | undefined;
type Request<K extends MemcachedRequest['kind']> = Extract<MemcachedRequest, { readonly kind: K }>;

/** Largest answer, bytes. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** Keys read by one step of a get of many. */
const STEP_KEYS = 64;
/** Most keys of one get that touches them too: each is a write. */
const MAX_TOUCHED_KEYS = 1000;
/** Longest that emptying the database may be put off, ms: the longest timer. */
const MAX_FLUSH_DELAY_MS = 2 ** 31 - 1;
/** What may overlap on one connection; see `Order`. */
export function memcachedOrder(request: MemcachedRequest, isQueue: boolean): Order {
  switch (request.kind) {
    case 'get':
      return isQueue || request.keys.length > STEP_KEYS ? 'alone' : 'read';
    case 'meta':
      return metaOrder(request);
    case 'get-and-touch':
      // A pipeline of writes that answer with values could owe any number of bytes.
      return 'alone';
    case 'stats':
    case 'quit':
      return 'read';
    default:
      return 'write';
  }
}

function changes(request: MemcachedRequest): boolean {
  if (request.kind === 'meta') return metaChanges(request);
  return !['get', 'stats', 'verbosity', 'version', 'quit', 'no-op', 'wrong'].includes(request.kind);
}

/** Whether the client wants to hear only of what it asked to hear of. Meta commands decide for themselves. */
export function isQuiet(request: MemcachedRequest): boolean {
  return request.kind !== 'meta' && 'quiet' in request && request.quiet;
}

/** Errors: `TokaidoError`, thrown or as rejection. */
export function answerMemcached(request: MemcachedRequest, session: MemcachedSession): Reply | Promise<Reply> {
  const { host } = session;
  if (host.options.readOnly && changes(request)) throw new TokaidoError('READ_ONLY', 'server is read-only');
  switch (request.kind) {
    case 'get':
      return host.options.queue ? takeMessages(request, session) : get(request, session);
    case 'store':
      return host.options.queue && request.mode === 'set' ? putMessage(request, session) : store(request, session);
    case 'delete':
      return host.options.queue ? acknowledge(request, session) : remove(request, session);
    case 'meta':
      return answerMeta(request, session);
    case 'get-and-touch':
      return getAndTouch(request, session);
    case 'count':
      return count(request, session);
    case 'touch':
      return touch(request, session);
    case 'flush':
      return flush(request, session);
    case 'stats':
      return stats(request.what, session);
    case 'verbosity':
      return OK;
    case 'version':
      return renderVersion(VERSION_TEXT);
    case 'no-op':
      return NO_OP;
    case 'quit':
      return undefined;
    default:
      return request.answer;
  }
}

function refOf({ key }: { readonly key: Buffer }, session: MemcachedSession): KeyRef {
  return { database: session.database(), key };
}

/** A long get gives way to others now and then. */
function get({ keys, withCas }: Request<'get'>, session: MemcachedSession): Reply | Promise<Reply> {
  const { host, isOpen } = session;
  const reply = new ItemsReply(withCas);
  let at = 0;
  return host.slices.run(() => {
    for (const end = Math.min(keys.length, at + STEP_KEYS); at < end; at++) {
      const key = keys[at] as Buffer;
      const record = host.commands.get({ database: session.database(), key });
      host.counts.get++;
      if (record === undefined) host.counts.getMisses++;
      else reply.add(key, decodeItem(host, record));
      checkAnswer(reply.bytes);
    }
    return at < keys.length ? undefined : reply.take();
  }, isOpen);
}

function checkAnswer(bytes: number): void {
  if (bytes > MAX_ANSWER_BYTES) {
    throw new TokaidoError('TOO_LARGE', `the records take more than ${MAX_ANSWER_BYTES} bytes: ask for fewer keys`);
  }
}

async function store(request: StoreRequest, session: MemcachedSession): Promise<Reply> {
  const { host } = session;
  const { mode, value, flags } = request;
  const xtMs = xtFromExptime(request.exptime, host.nowMs());
  const ref = refOf(request, session);
  if (mode === 'set') {
    // The common one: it need not look at what is there.
    host.counts.set++;
    await host.commands.set({ ...ref, value: encodeItem(host, value, flags), xtMs });
    return STORED;
  }
  const compare = mode === 'cas' ? request.unique : undefined;
  return STATUS[
    (await storeItem(host, ref, { mode: mode === 'cas' ? 'set' : mode, value, flags, xtMs, compare })).status
  ];
}

const STATUS: Readonly<Record<Stored['status'], Buffer>> = {
  stored: STORED,
  'not-stored': NOT_STORED,
  exists: EXISTS,
  'not-found': NOT_FOUND,
};

async function remove(request: Request<'delete'>, session: MemcachedSession): Promise<Reply> {
  const { counts, commands } = session.host;
  counts.delete++;
  try {
    await commands.remove(refOf(request, session));
    return DELETED;
  } catch (error) {
    counts.deleteMisses++;
    if (error instanceof TokaidoError && error.code === 'NO_RECORD') return NOT_FOUND;
    throw error;
  }
}

async function count(request: Request<'count'>, session: MemcachedSession): Promise<Reply> {
  const { direction, by } = request;
  const asked = { direction, by, compare: undefined, vivify: undefined, xtMs: undefined };
  const counted = await countItem(session.host, refOf(request, session), asked);
  if (counted.status === 'counted') return renderNumber(counted.number);
  return counted.status === 'not-a-number' ? NOT_A_NUMBER : NOT_FOUND;
}

async function touch(request: Request<'touch'>, session: MemcachedSession): Promise<Reply> {
  const xtMs = xtFromExptime(request.exptime, session.host.nowMs());
  return (await touchItem(session.host, refOf(request, session), xtMs)) === undefined ? NOT_FOUND : TOUCHED;
}

async function getAndTouch(request: Request<'get-and-touch'>, session: MemcachedSession): Promise<Reply> {
  const { keys, withCas } = request;
  const { host } = session;
  if (keys.length > MAX_TOUCHED_KEYS) {
    throw new TokaidoError('TOO_LARGE', `more than ${MAX_TOUCHED_KEYS} keys to touch in one command`);
  }
  const xtMs = xtFromExptime(request.exptime, host.nowMs());
  let bytes = 0;
  const items = await Promise.all(
    keys.map(async (key) => {
      const item = await touchItem(host, refOf({ key }, session), xtMs);
      bytes += item?.value.length ?? 0;
      checkAnswer(bytes);
      host.counts.get++;
      if (item === undefined) host.counts.getMisses++;
      return item;
    }),
  );
  const reply = new ItemsReply(withCas);
  for (const [at, item] of items.entries()) if (item !== undefined) reply.add(keys[at] as Buffer, item);
  return reply.take();
}

/** A delay is in seconds, or a time, as expiration times are; below 1 it is at once. */
async function flush({ delay }: Request<'flush'>, session: MemcachedSession): Promise<Reply> {
  const { host } = session;
  const delayMs = delay <= 0 ? 0 : xtFromExptime(delay, host.nowMs()) - host.nowMs();
  if (delayMs > MAX_FLUSH_DELAY_MS) return BAD_EXPTIME;
  host.commands.checkAdmin(session.database());
  host.counts.flush++;
  if (delayMs <= 0) await host.commands.clear(session.database());
  else {
    host.commands.checkWritable();
    host.flushLater(delayMs);
  }
  return OK;
}

function stats(what: string, session: MemcachedSession): Reply {
  session.host.commands.checkAdmin(session.database());
  switch (what) {
    case '':
      return renderStats(generalStats(session));
    case 'settings':
      return renderStats(settingsStats(session.host));
    case 'reset':
      Object.assign(session.host.counts, new MemcachedCounts());
      return RESET;
    case 'items':
    case 'slabs':
    case 'sizes':
    case 'conns':
      // There is nothing of the kind here; tools that ask go on.
      return END;
    default:
      return ERROR;
  }
}

async function putMessage(request: StoreRequest, session: MemcachedSession): Promise<Reply> {
  const { host } = session;
  host.counts.set++;
  const value = encodeItem(host, request.value, request.flags);
  const xtMs = xtFromExptime(request.exptime, host.nowMs());
  await host.queues.put({ database: session.database(), name: request.key }, { value, xtMs }, session.consumer);
  return STORED;
}

/** A message has no unique id to compare with: it is taken only once. */
const NO_VERSION = versionNs(0n);

/** One message of each queue, waiting for each in turn. */
async function takeMessages({ keys, withCas }: Request<'get'>, session: MemcachedSession): Promise<Reply> {
  const { host, consumer } = session;
  const reply = new ItemsReply(withCas);
  for (const name of keys) {
    host.counts.get++;
    const message = await host.queues.take(
      { database: session.database(), name },
      consumer,
      host.options.queueTimeoutMs,
    );
    if (message === undefined) host.counts.getMisses++;
    else reply.add(name, decodeItem(host, { value: message.value, versionNs: NO_VERSION }));
    checkAnswer(reply.bytes);
  }
  return reply.take();
}

async function acknowledge(request: Request<'delete'>, session: MemcachedSession): Promise<Reply> {
  const { host, consumer } = session;
  host.counts.delete++;
  const done = await host.queues.acknowledge({ database: session.database(), name: request.key }, consumer);
  if (!done) host.counts.deleteMisses++;
  return done ? DELETED : NOT_FOUND;
}
