/** Remote procedures about the server and whole databases: what it is, how it is, and its upkeep. */
import { totalmem } from 'node:os';
import { TokaidoError } from '../../base/errors.js';
import { VERSION } from '../../base/version.js';
import type { Commands } from '../../commands/commands.js';
import type { HttpReply } from '../../protocol/http.js';
import { rpcReply } from '../../protocol/tsv.js';
import type { Database } from '../../store/types.js';
import { countOf, databaseOf } from './arguments.js';
import { type Call, NOTHING, type Procedure, type Rows, row } from './procedure.js';
import type { RpcHost } from './session.js';

/** Rounds of housekeeping of a vacuum without a number of steps: enough for a million records. */
const VACUUM_ROUNDS = 1000;

/** What a database says of itself, in the reference's words. */
export function statusRows(database: Database, commands: Commands): Rows {
  const { spec, name } = database;
  commands.checkAdmin(database);
  commands.counts.misc++;
  return [
    row('count', commands.count(database)),
    row('ktcapcnt', spec.maxRecords ?? -1),
    row('ktcapsiz', spec.maxBytes ?? -1),
    row('ktopts', spec.persistent ? 2 : 0),
    row('path', name),
    row('realtype', spec.typeCode),
    // All databases share one data file.
    row('size', commands.sizeBytes()),
    row('type', spec.typeCode),
  ];
}

function operationRows({ counts }: Commands): Rows {
  return [
    row('cnt_get', counts.get),
    row('cnt_get_misses', counts.getMisses),
    row('cnt_misc', counts.misc),
    row('cnt_remove', counts.remove),
    row('cnt_remove_misses', counts.removeMisses),
    // There is nothing that could run one.
    row('cnt_script', 0),
    row('cnt_set', counts.set),
    row('cnt_set_misses', counts.setMisses),
  ];
}

function report(host: RpcHost): Rows {
  const { commands } = host;
  commands.checkAdmin();
  const sizeBytes = commands.sizeBytes();
  const databases = commands.databases();
  const counts = databases.map((database) => commands.count(database));
  const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
  const rssBytes = process.memoryUsage.rss();
  return [
    ...operationRows(commands),
    row('conf_kt_features', '(tokaido)'),
    row('conf_kt_version', VERSION),
    row('conf_os_name', process.platform),
    ...databases.map(({ index, name }) => row(`db_${index}`, `count=${counts[index]} size=${sizeBytes} path=${name}`)),
    row(
      'db_total_count',
      counts.reduce((all, count) => all + count, 0),
    ),
    row('db_total_size', sizeBytes),
    ...followingRows(host),
    row('serv_conn_count', host.connections()),
    row('serv_current_time', (host.nowMs() / 1000).toFixed(6)),
    row('serv_proc_id', process.pid),
    row('serv_running_term', (host.uptimeMs() / 1000).toFixed(6)),
    row('serv_task_count', 0),
    row('serv_thread_count', 1),
    row('sys_mem_peak', maxRSS * 1024),
    row('sys_mem_rss', rssBytes),
    row('sys_mem_size', rssBytes),
    row('sys_mem_total', totalmem()),
    row('sys_ru_stime', (systemCPUTime / 1e6).toFixed(6)),
    row('sys_ru_utime', (userCPUTime / 1e6).toFixed(6)),
  ];
}

function followingRows({ services, nowMs }: RpcHost): Rows {
  const following = services.following?.();
  if (following === undefined) return [];
  const { host, port, timestampNs, intervalMs } = following;
  const delayMs = Math.max(0, nowMs() - Number(timestampNs / 1_000_000n));
  return [
    row('repl_delay', (delayMs / 1000).toFixed(6)),
    row('repl_interval', intervalMs.toFixed(6)),
    row('repl_master_host', host),
    row('repl_master_port', port),
    row('repl_timestamp', timestampNs),
  ];
}

/**
 * Acknowledged writes are on the disk already (or survive what the durability promises); this waits for the rest, and
 * then runs a program of the operator's on the database, when it is asked to and the node has such programs.
 */
async function synchronize({ input, host: { commands, services } }: Call): Promise<Rows | HttpReply> {
  const database = databaseOf(input, commands);
  const command = input.get('command')?.toString('utf8') ?? '';
  await commands.flush();
  if (command === '') return NOTHING;
  commands.checkAdmin(database);
  const done = (await services.runCommand?.(database, command)) ?? false;
  return done ? NOTHING : rpcReply(500, [row('ERROR', 'DB: 8: logical inconsistency: postprocessing failed')]);
}

/** Port of a Kyoto Tycoon server that none is given for. */
const KT_PORT = 1978;

/** `host` (none: follow nobody), `port`, `ts` (ns, or `now`), `iv` (ms for each change). Which server is followed is forgotten at a restart. */
function tuneReplication({ input, host: { commands, services }, nowMs }: Call): Rows {
  commands.checkAdmin();
  const { follow } = services;
  if (follow === undefined) throw new TokaidoError('NOT_IMPLEMENTED', 'the RTS file is not set');
  const text = (name: string): string => input.get(name)?.toString('utf8') ?? '';
  const host = text('host');
  const given = Number.parseInt(text('port'), 10);
  const port = given >= 1 ? given : KT_PORT;
  if (port > 65_535) throw new TokaidoError('MALFORMED', `there is no port ${port}`);
  const upstream = host === '' ? undefined : { host, port };
  const intervalMs = Number.parseFloat(text('iv'));
  follow({
    upstream,
    timestampNs: input.has('ts') ? timestampOf(text('ts'), nowMs) : undefined,
    intervalMs: intervalMs >= 0 ? Math.min(intervalMs, LONGEST_INTERVAL_MS) : undefined,
  });
  return NOTHING;
}

/** As the reference reads it: digits as far as there are any. */
function timestampOf(text: string, nowMs: number): bigint {
  if (text === 'now') return BigInt(Math.floor(nowMs)) * 1_000_000n;
  const stamp = BigInt(/^\s*(\d{1,20})/.exec(text)?.[1] ?? '0');
  return stamp < LARGEST_STAMP ? stamp : LARGEST_STAMP;
}

const LARGEST_STAMP = 2n ** 63n - 1n;
const LONGEST_INTERVAL_MS = 3_600_000;

function refusal(code: 'NOT_IMPLEMENTED' | 'MALFORMED', message: string): Procedure {
  return {
    order: 'read',
    run: () => {
      throw new TokaidoError(code, message);
    },
  };
}

/**
 * The log that followers are served from, as the reference lists its files: `size:stamp of its newest change`. Ours is
 * not in files, so it is one.
 */
function updateLogRows(host: RpcHost): Rows {
  host.commands.checkAdmin();
  const log = host.services.updateLog?.();
  if (log === undefined) throw new TokaidoError('MALFORMED', 'no update log allows no replication');
  return [row('tokaido.ulog', `${log.bytes}:${log.timestampNs}`)];
}

/** The reference never removes its newest file, and there is no other here: retention cuts the log by itself. */
function removeUpdateLog(host: RpcHost): Rows {
  updateLogRows(host);
  return NOTHING;
}

export const SERVER_PROCEDURES: Readonly<Record<string, Procedure>> = {
  void: { order: 'read', run: () => NOTHING },
  echo: { order: 'read', run: ({ input }) => [...input] },
  report: { order: 'read', run: ({ host }) => report(host) },
  play_script: refusal('NOT_IMPLEMENTED', 'the scripting extention is disabled'),
  tune_replication: { order: 'read', run: tuneReplication },
  ulog_list: { order: 'read', run: ({ host }) => updateLogRows(host) },
  ulog_remove: { order: 'read', run: ({ host }) => removeUpdateLog(host) },
  status: { order: 'read', run: ({ input, host: { commands } }) => statusRows(databaseOf(input, commands), commands) },
  clear: {
    order: 'write',
    run: async ({ input, host: { commands } }) => {
      await commands.clear(databaseOf(input, commands));
      return NOTHING;
    },
  },
  synchronize: { order: 'alone', run: synchronize },
  vacuum: {
    order: 'alone',
    run: async ({ input, host: { commands } }) => {
      databaseOf(input, commands);
      const step = countOf(input, 'step', 0);
      await commands.vacuum(step > 0 ? 1 : VACUUM_ROUNDS);
      return NOTHING;
    },
  },
};
