/** `tokaido serve`: runs a node until it is told to stop. */
import { type Command, InvalidArgumentError } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import type { NodeConfig } from '../node/config/schema.js';
import { action } from './output.js';

/** How long an orderly stop may take before the process ends anyway. */
const STOP_LIMIT_MS = 10_000;

/**
 * Ends the process. Everything that matters is on the disk by now. Leaving can hang inside the runtime on some versions
 * of Node (nodejs/node#54918), where no timer of ours runs any more: whoever supervises kills after a bounded wait.
 */
function leave(code: number): never {
  process.exit(code);
}

export interface ServeFlags {
  readonly config?: string;
  readonly data?: string;
  readonly host?: string;
  readonly port?: number;
  readonly tlsCertificate?: string;
  readonly tlsKey?: string;
  readonly tlsClientCa?: string;
  readonly tlsName?: readonly string[];
  readonly insecureAllowEverythingToEverybody?: boolean;
  readonly auxHost?: string;
  readonly auxPort?: number;
  readonly memcached?: readonly number[];
  readonly memcachedOptions?: readonly string[];
  readonly db?: readonly string[];
  readonly admin?: number;
  readonly durability?: string;
  readonly saveInterval?: string;
  readonly saveCompress?: boolean;
  readonly commands?: string;
  readonly logLevel?: string;
}

/** What a node is that nobody configured. */
const STANDS_ALONE = { role: 'root', sid: 1, identity: false };

/** The flags as they would stand in a configuration file; what was not given is left out. */
function settingsFrom(flags: ServeFlags, memcachedSettings: (options: string) => object): object {
  const memcached = memcachedFrom(flags, memcachedSettings);
  const listen = defined({ clients: clientsFrom(flags), memcached, admin: defined({ port: flags.admin }) });
  return (
    defined({
      data: flags.data,
      databases: flags.db,
      durability: flags.durability,
      listen,
      memory: defined({ saveIntervalMs: flags.saveInterval, compress: flags.saveCompress }),
      backup: defined({ commands: flags.commands }),
      logging: defined({ level: flags.logLevel }),
    }) ?? {}
  );
}

/** The client listener, and behind it the second one if there is one. */
function clientsFrom(flags: ServeFlags): object | undefined {
  const { tlsCertificate: certificate, tlsKey: key, tlsClientCa: clientCa, tlsName: names } = flags;
  const tls = defined({ certificate, key, clientCa, names });
  const policy = policyFrom(flags);
  const first = defined({ host: flags.host, port: flags.port, tls, policy });
  if (flags.auxPort !== undefined) return [first ?? {}, defined({ host: flags.auxHost, port: flags.auxPort, policy })];
  if (flags.auxHost === undefined) return first;
  throw new TokaidoError('CONFIG', '--aux-host needs --aux-port');
}

/** Of every listener that flags open. */
function policyFrom({ insecureAllowEverythingToEverybody: isOpen }: ServeFlags): string | undefined {
  return isOpen === true ? 'insecure-allow-everything-to-everybody' : undefined;
}

/** One listener for each port, each with the options that stand in the same place. */
function memcachedFrom(flags: ServeFlags, settings: (options: string) => object): readonly object[] | undefined {
  const { memcached: ports = [], memcachedOptions: options = [] } = flags;
  const policy = policyFrom(flags);
  if (options.length > ports.length) {
    throw new TokaidoError('CONFIG', '--memcached-options needs a --memcached PORT for each');
  }
  return ports.length === 0
    ? undefined
    : ports.map((port, index) => ({
        ...settings(options[index] ?? ''),
        port,
        ...defined({ policy }),
      }));
}

/** Without the keys that are not defined; `undefined` when none is left. */
function defined(section: Readonly<Record<string, unknown>>): object | undefined {
  const entries = Object.entries(section).filter(([, value]) => value !== undefined);
  return entries.length === 0 ? undefined : Object.fromEntries(entries);
}

function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isInteger(value)) throw new InvalidArgumentError('must be a whole number');
  return value;
}

function collectNumbers(value: string, before: readonly number[] = []): readonly number[] {
  return [...before, number(value)];
}

function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

export function registerServe(program: Command): void {
  program
    .command('serve')
    .description('run a node')
    .option('--config <file>', 'configuration (YAML); docs/reference/config.md describes every key')
    .option('--data <folder>', 'data directory (data)')
    .option('--host <address>', 'address that clients connect to (listen.clients.host)')
    .option('--port <number>', 'port for HTTP and the binary protocol (listen.clients.port)', number)
    .option('--tls-certificate <file>', 'serve TLS on it, with this certificate (listen.clients.tls.certificate)')
    .option('--tls-key <file>', 'the key of that certificate (listen.clients.tls.key)')
    .option('--tls-client-ca <file>', 'ask clients for a certificate of this CA (listen.clients.tls.clientCa)')
    .option('--tls-name <name>', 'a name that clients may have; may repeat (listen.clients.tls.names)', collect)
    .option(
      '--insecure-allow-everything-to-everybody',
      'let whoever reaches --host, --aux-host or --memcached ports do everything, beyond this machine too (policy)',
    )
    .option('--aux-port <number>', 'a second port for the same, without TLS', number)
    .option('--aux-host <address>', 'address of the second port')
    .option(
      '--memcached <port>',
      'a port for the memcached protocol; may repeat (listen.memcached.port)',
      collectNumbers,
    )
    .option(
      '--memcached-options <options>',
      "its options, as Kyoto Tycoon's plug-in has them: 'opts=f#qtout=5'",
      collect,
    )
    .option('--db <expression>', 'a database; may repeat (databases)', collect)
    .option('--admin <port>', 'port for health, status and metrics; 0 for any free one (listen.admin.port)', number)
    .option('--durability <level>', 'flushed or committed (durability)')
    .option('--save-interval <time>', 'how often databases in memory are saved (memory.saveIntervalMs)')
    .option('--save-compress', 'compress what is saved of them (memory.compress)')
    .option('--commands <folder>', 'programs that clients may have run on a copy of a database (backup.commands)')
    .option('--log-level <level>', 'debug, info, warn or error (logging.level)')
    .addHelpText(
      'after',
      `
Each flag is the same setting as in a configuration file, and wins over it. Without a file a node stands alone: a root
without certificate and without replication.

Examples:
  tokaido serve --config ./edge-tokyo.yaml
  tokaido serve --data ./data --port 1978 --db ':' --db casket.kct
  tokaido serve --data ./data --db ':' --memcached 11211 --memcached-options 'opts=f'

SIGTERM and SIGINT stop it in good order; a second one at once. SIGHUP reads certificates, keys, CA certificates,
revocation lists and tokens again at once (changed files are noticed without it, too), and takes the policies of a
changed configuration: replication.scopes, and policy of client listeners. Where role or standby is another
(tokaido promote), the node starts again as that, in the same process.`,
    )
    .action(
      action(async (flags: ServeFlags) => {
        await serve(flags);
      }),
    );
}

/** Whether a changed configuration leaves the node what it is in the cluster; the rest takes a restart of the process. */
function isSamePart(now: NodeConfig, then: NodeConfig): boolean {
  return now.role === then.role && now.standby === then.standby;
}

/** Runs a node until it is told to stop; `more` are settings that have no flag. Errors: `CONFIG`, `IDENTITY`, `STORAGE`, `NETWORK`. */
export async function serve(flags: ServeFlags, more: object = {}): Promise<never> {
  const [{ configFrom, loadConfig }, { memcachedSettings }, { startNode }, { systemRuntime }, { jsonLogger }] =
    await Promise.all([
      import('../node/config/load.js'),
      import('../node/config/memcached-options.js'),
      import('../node/node.js'),
      import('../node/runtime.js'),
      import('../node/logger.js'),
    ]);
  const settings = { ...settingsFrom(flags, memcachedSettings), ...more };
  const config =
    flags.config === undefined
      ? configFrom({ ...STANDS_ALONE, ...settings })
      : await loadConfig(flags.config, settings);
  const log = jsonLogger(config.logging.level);
  const onFatal = (error: unknown): never => {
    log.error(
      { reason: messageOf(error), stack: error instanceof Error ? error.stack : undefined },
      'cannot go on: stopping',
    );
    // No orderly close: memory may be wrong, the disk is not (every commit is atomic).
    return leave(70);
  };
  process.on('uncaughtException', onFatal);
  process.on('unhandledRejection', onFatal);
  const options = { log, runtime: systemRuntime(), onFatal };
  let node = await startNode(config, options);
  log.info(node.addresses(), 'serving');
  let stopping = false;
  const stop = (signal: string): void => {
    if (stopping) leave(1);
    stopping = true;
    log.info({ signal }, 'stopping');
    setTimeout(() => leave(1), STOP_LIMIT_MS);
    node.stop().then(
      () => leave(0),
      (error: unknown) => onFatal(error),
    );
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  process.on('SIGHUP', () => {
    log.info({}, 'SIGHUP: reading certificates, revocation lists, tokens and policies again');
    const { config: file } = flags;
    const read = file === undefined ? Promise.resolve(undefined) : loadConfig(file, settings);
    read
      .catch((error: unknown) => {
        log.error({ reason: messageOf(error) }, 'the configuration is not valid: policies stay as they were');
        return undefined;
      })
      .then(async (changed) => {
        if (changed === undefined || isSamePart(node.config, changed)) {
          node.reload(changed);
          return;
        }
        log.warn({ role: changed.role }, 'this node has another part in the cluster now: starting again as that');
        await node.stop();
        if (stopping) return;
        node = await startNode(changed, options);
        log.info(node.addresses(), 'serving');
      })
      .catch(onFatal);
  });
  return await new Promise<never>(() => {
    // Listeners keep the process alive; it ends in `leave`.
  });
}
