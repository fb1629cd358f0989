/** `tokaido serve`: runs a node until it is told to stop. */
import { type Command, InvalidArgumentError } from 'commander';
import { messageOf } from '../base/errors.js';
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

interface ServeFlags {
  readonly config?: string;
  readonly data?: string;
  readonly host?: string;
  readonly port?: number;
  readonly db?: readonly string[];
  readonly admin?: number;
  readonly durability?: string;
  readonly saveInterval?: string;
  readonly logLevel?: string;
}

/** What a node is that nobody configured. */
const STANDS_ALONE = { role: 'root', sid: 1, identity: false };

/** The flags as they would stand in a configuration file; what was not given is left out. */
function settingsFrom(flags: ServeFlags): object {
  const clients = defined({ host: flags.host, port: flags.port });
  const listen = defined({ clients, admin: defined({ port: flags.admin }) });
  return (
    defined({
      data: flags.data,
      databases: flags.db,
      durability: flags.durability,
      listen,
      memory: defined({ saveIntervalMs: flags.saveInterval }),
      logging: defined({ level: flags.logLevel }),
    }) ?? {}
  );
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
    .option('--db <expression>', 'a database; may repeat (databases)', collect)
    .option('--admin <port>', 'port for health, status and metrics; 0 for any free one (listen.admin.port)', number)
    .option('--durability <level>', 'flushed or committed (durability)')
    .option('--save-interval <time>', 'how often databases in memory are saved (memory.saveIntervalMs)')
    .option('--log-level <level>', 'debug, info, warn or error (logging.level)')
    .addHelpText(
      'after',
      `
Each flag is the same setting as in a configuration file, and wins over it. Without a file a node stands alone: a root
without certificate and without replication.

Examples:
  tokaido serve --config ./edge-tokyo.yaml
  tokaido serve --data ./data --port 1978 --db ':' --db casket.kct

SIGTERM and SIGINT stop it in good order; a second one at once.`,
    )
    .action(
      action(async (flags: ServeFlags) => {
        const [{ configFrom, loadConfig }, { startNode }, { systemRuntime }, { jsonLogger }] = await Promise.all([
          import('../node/config/load.js'),
          import('../node/node.js'),
          import('../node/runtime.js'),
          import('../node/logger.js'),
        ]);
        const settings = settingsFrom(flags);
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
        const node = await startNode(config, { log, runtime: systemRuntime(), onFatal });
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
        await new Promise<never>(() => {
          // Listeners keep the process alive; it ends in `leave`.
        });
      }),
    );
}
