#!/usr/bin/env node
/** The command `tokaido`. */
import { Command } from 'commander';
import { VERSION } from '../base/version.js';
import { registerCa } from './ca.js';
import { registerConfig } from './config.js';
import { EXIT } from './output.js';
import { registerPg } from './pg.js';
import { registerRecords } from './records.js';
import { registerServe } from './serve.js';
import { registerStatus } from './status.js';

const program = new Command('tokaido')
  .description(
    'A replicated key-value store that carries Postgres rows to every edge in milliseconds, over mutual TLS.',
  )
  .version(VERSION)
  .showHelpAfterError('(add --help for what is possible)')
  .addHelpText(
    'after',
    '\nExample:\n  tokaido set flags/dark-mode on\n  tokaido get flags/dark-mode\n\nExits with 0 when it worked, 1 when it failed, 2 for wrong usage or configuration, 3 when there is no such record.',
  )
  .exitOverride((error) => {
    // Help and version are no errors; everything else commander refuses is wrong usage.
    process.exit(error.exitCode === 0 ? EXIT.ok : EXIT.usage);
  });
registerServe(program);
registerStatus(program);
registerRecords(program);
registerCa(program);
registerPg(program);
registerConfig(program);
await program.parseAsync();
