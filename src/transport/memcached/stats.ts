/** What memcached's `stats` tells: the names of Kyoto Tycoon's plug-in, then those that memcached's tools look for. */
import { VERSION } from '../../base/version.js';
import { MAX_KEY_BYTES } from '../../protocol/memcached-words.js';
import { statusRows } from '../rpc/server-procedures.js';
import type { MemcachedHost, MemcachedSession } from './session.js';

/**
 * What `version` says. Clients read the number to know what they may ask for; this is the version of memcached whose
 * text protocol is spoken here.
 */
const SPOKEN_VERSION = '1.6.38';

export const VERSION_TEXT = `${SPOKEN_VERSION} Tokaido/${VERSION}`;

type Rows = readonly (readonly [string, string | number])[];

export function generalStats(session: MemcachedSession): Rows {
  const { host } = session;
  const { commands, counts } = host;
  const database = session.database();
  const hits = (asked: number, misses: number): number => asked - misses;
  return [
    ['pid', process.pid],
    ['uptime', Math.floor(host.uptimeMs() / 1000)],
    ['time', Math.floor(host.nowMs() / 1000)],
    ['version', VERSION_TEXT],
    ['pointer_size', 64],
    ['curr_connections', host.connections()],
    ['max_connections', host.limits.connections],
    ['threads', 1],
    ['curr_items', commands.count(database)],
    ['bytes', commands.sizeBytes()],
    ...statusRows(database, commands).map(([name, value]) => [`db_${name}`, value.toString('latin1')] as const),
    ['set_hits', hits(counts.set, counts.setMisses)],
    ['set_misses', counts.setMisses],
    ['get_hits', hits(counts.get, counts.getMisses)],
    ['get_misses', counts.getMisses],
    ['delete_hits', hits(counts.delete, counts.deleteMisses)],
    ['delete_misses', counts.deleteMisses],
    ['incr_hits', hits(counts.incr, counts.incrMisses)],
    ['incr_misses', counts.incrMisses],
    ['decr_hits', hits(counts.decr, counts.decrMisses)],
    ['decr_misses', counts.decrMisses],
    ['touch_hits', hits(counts.touch, counts.touchMisses)],
    ['touch_misses', counts.touchMisses],
    ['cmd_set', counts.set],
    ['cmd_get', counts.get],
    ['cmd_delete', counts.delete],
    ['cmd_touch', counts.touch],
    ['cmd_flush', counts.flush],
  ];
}

export function settingsStats({ commands, limits, options }: MemcachedHost): Rows {
  return [
    ['maxconns', limits.connections],
    ['item_size_max', commands.limits.valueBytes],
    ['key_size_max', MAX_KEY_BYTES],
    ['cas_enabled', 'yes'],
    ['binding_protocol', 'ascii'],
    ['flags_kept', options.flags ? 'yes' : 'no'],
    ['queue', options.queue ? 'yes' : 'no'],
    ['read_only', options.readOnly ? 'yes' : 'no'],
  ];
}
