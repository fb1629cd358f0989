/** `tokaido feed`: runs a root whose data are JSON lines, on standard input or in a file that is followed. */
import type { Command } from 'commander';
import { action } from './output.js';
import { serve } from './serve.js';

interface FeedFlags {
  readonly config: string;
  readonly database?: string;
}

export function registerFeed(program: Command): void {
  program
    .command('feed')
    .description('run a root that is fed with JSON lines, each exactly once (docs/feeds.md)')
    .argument('[file]', 'file to follow; standard input when absent or -', '-')
    .requiredOption('--config <file>', 'configuration of the root; its section lines may be absent')
    .option('--database <name>', 'database of changes that name none (lines.database)')
    .addHelpText(
      'after',
      `
Examples:
  tokaido feed --config ./root.yaml flags.jsonl
  produce | tokaido feed --config ./root.yaml

An input that begins again is skipped up to what was applied: tokaido status shows the position, in bytes.`,
    )
    .action(
      action(async (file: string, { config, database }: FeedFlags) => {
        await serve({ config }, { lines: { file, ...(database === undefined ? {} : { database }) } });
      }),
    );
}
