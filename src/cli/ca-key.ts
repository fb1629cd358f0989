/** What commands that sign have in common: how they reach the CA's key, and which keys they make. */
import { execFileSync } from 'node:child_process';
import { createPublicKey, type KeyObject } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import type { KeyAccess, KeyKind } from '../pki/ca/ca.js';

export interface KeyFlags {
  readonly passphraseFile?: string;
  readonly passphraseCommand?: string;
  readonly signer?: string;
}

/** Of commands that make a certificate. */
export interface MadeFlags extends KeyFlags {
  readonly days: string;
  readonly key: KeyKind;
  readonly json?: boolean;
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

export const keyOption = (): Option =>
  new Option('--key <kind>', 'kind of the new key: p256, or ed25519 where every peer is a Tokaido node')
    .choices(['p256', 'ed25519'])
    .default('p256');

export const publicKeyOption = (): Option =>
  new Option('--public-key <file>', 'public key of the new CA when a command signs (PEM)');

/** Errors: `CONFIG`. */
export function readPublicKey(path: string | undefined): { publicKey?: KeyObject } {
  if (path === undefined) return {};
  try {
    return { publicKey: createPublicKey(readFileSync(path)) };
  } catch (error) {
    throw new TokaidoError('CONFIG', `${path} is not a public key in PEM form: ${messageOf(error)}`, { cause: error });
  }
}
