/** `tokaido serve`: runs a node until it is told to stop. */
import type { Command } from 'commander';
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

export function registerServe(program: Command): void {
  program
    .command('serve')
    .description('run a node')
    .requiredOption('--config <file>', 'configuration (YAML); docs/reference/config.md describes every key')
    .addHelpText(
      'after',
      '\nExample:\n  tokaido serve --config ./edge-tokyo.yaml\n\nSIGTERM and SIGINT stop it in good order; a second one at once.',
    )
    .action(
      action(async (flags: { readonly config: string }) => {
        const [{ loadConfig }, { startNode }, { systemRuntime }, { jsonLogger }] = await Promise.all([
          import('../node/config/load.js'),
          import('../node/node.js'),
          import('../node/runtime.js'),
          import('../node/logger.js'),
        ]);
        const config = await loadConfig(flags.config);
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
