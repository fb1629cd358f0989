/** How commands that sign reach the CA's key: a file, a passphrase, or somebody else's command. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import type { KeyAccess } from '../pki/ca.js';

export interface KeyFlags {
  readonly passphraseFile?: string;
  readonly passphraseCommand?: string;
  readonly signer?: string;
}

/** Adds the options; environment variables TOKAIDO_CA_PASSPHRASE and TOKAIDO_CA_SIGNER stand for two of them. */
export function withKeyOptions(command: Command): Command {
  return command
    .option('--passphrase-file <file>', "file with the passphrase of the CA's key (or TOKAIDO_CA_PASSPHRASE)")
    .option('--passphrase-command <command>', 'command that prints the passphrase')
    .option('--signer <command>', 'command that signs in place of a key file (or TOKAIDO_CA_SIGNER)');
}

/** Errors: `CONFIG` when the passphrase cannot be had. */
export function keyAccess(flags: KeyFlags): KeyAccess {
  const signCommand = flags.signer ?? process.env.TOKAIDO_CA_SIGNER;
  if (signCommand !== undefined && signCommand !== '') return { signCommand };
  const passphrase = passphraseOf(flags);
  if (passphrase === undefined) return {};
  if (passphrase === '') throw new TokaidoError('CONFIG', "the passphrase of the CA's key is empty");
  return { passphrase };
}

function passphraseOf({ passphraseFile, passphraseCommand }: KeyFlags): string | undefined {
  try {
    // The last line feed belongs to the file, not to the passphrase.
    if (passphraseFile !== undefined) return readFileSync(passphraseFile, 'utf8').replace(/\r?\n$/, '');
    if (passphraseCommand === undefined) return process.env.TOKAIDO_CA_PASSPHRASE;
    const stdio: ['inherit', 'pipe', 'inherit'] = ['inherit', 'pipe', 'inherit'];
    return execFileSync('/bin/sh', ['-c', passphraseCommand], { encoding: 'utf8', stdio }).replace(/\r?\n$/, '');
  } catch (error) {
    throw new TokaidoError('CONFIG', `cannot get the passphrase of the CA's key: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
