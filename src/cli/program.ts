/** The command `tokaido` as it is defined, without running it: for `main.ts`, and for the reference made from it. */
import { Command, type CommanderError } from 'commander';
import { VERSION } from '../base/version.js';
import { registerAudit } from './audit.js';
import { registerCa } from './ca.js';
import { registerClientToken } from './client-token.js';
import { registerConfig } from './config.js';
import { registerEncryption } from './encryption.js';
import { registerFeed } from './feed.js';
import { registerJoin } from './join.js';
import { registerLog } from './log.js';
import { registerPg } from './pg.js';
import { registerPromote } from './promote.js';
import { registerRecords } from './records.js';
import { registerRestore } from './restore.js';
import { registerServe } from './serve.js';
import { registerStatus } from './status.js';
import { registerToken } from './token.js';
import { registerTransfer } from './transfer.js';
import { registerVerify } from './verify.js';

const EXAMPLE = `
Example:
  tokaido set flags/dark-mode on
  tokaido get flags/dark-mode

Exits with 0 when it worked, 1 when it failed, 2 for wrong usage or configuration, 3 when there is no such record.`;

/** `onExit` is what happens instead of ending the process: after help, and after wrong usage. */
export function createProgram(onExit?: (error: CommanderError) => never): Command {
  const program = new Command('tokaido')
    .description(
      'A replicated key-value store that carries Postgres rows to every edge in milliseconds, over mutual TLS.',
    )
    .version(VERSION)
    .showHelpAfterError('(add --help for what is possible)')
    .addHelpText('after', EXAMPLE);
  // Before the commands are made: they take it over.
  if (onExit !== undefined) program.exitOverride(onExit);
  registerServe(program);
  registerStatus(program);
  registerVerify(program);
  registerLog(program);
  registerRecords(program);
  registerTransfer(program);
  registerCa(program);
  registerToken(program);
  registerJoin(program);
  registerClientToken(program);
  registerAudit(program);
  registerEncryption(program);
  registerPromote(program);
  registerRestore(program);
  registerPg(program);
  registerFeed(program);
  registerConfig(program);
  return program;
}
