/** `tokaido config`: checks a configuration without starting anything. */
import type { Command } from 'commander';
import { action, print, printJson } from './output.js';

export function registerConfig(program: Command): void {
  const config = program
    .command('config')
    .description('work with configuration files')
    .addHelpText('after', '\nExample:\n  tokaido config check ./edge-tokyo.yaml');
  config
    .command('check')
    .description('validate a file and show what it means, defaults included')
    .argument('<file>', 'configuration (YAML)')
    .option('--json', 'print the complete configuration as one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido config check ./edge-tokyo.yaml')
    .action(
      action(async (file: string, flags: { readonly json?: boolean }) => {
        const { loadConfig } = await import('../node/config/load.js');
        const { printConfig } = await import('../node/config/print.js');
        const loaded = await loadConfig(file);
        const { postgres } = loaded;
        // A URL may carry a password; nobody needs to see it here.
        const shown =
          postgres === undefined
            ? loaded
            : {
                ...loaded,
                postgres: {
                  ...postgres,
                  connection: hidePassword(postgres.connection),
                  standbys: postgres.standbys.map(hidePassword),
                },
              };
        if (flags.json) printJson(shown);
        else print(`${file} is valid; with all defaults it is:\n\n${printConfig(shown)}`);
      }),
    );
}

/** The same URL with its password blotted out. */
export function hidePassword(connection: string): string {
  const url = new URL(connection);
  if (url.password !== '') url.password = '***';
  if (url.searchParams.has('password')) url.searchParams.set('password', '***');
  return url.href;
}
