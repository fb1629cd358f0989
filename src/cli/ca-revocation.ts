/** `tokaido ca list`, `revoke` and `crl`: what a CA has issued, and what of it no longer counts. */
import type { Command } from 'commander';
import { TokaidoError } from '../base/errors.js';
import { type IssuedRecord, readRecords, revoke, type Selection, writeCrl } from '../pki/ca/records.js';
import { allCas } from '../pki/ca/rotation.js';
import { scopeText } from '../pki/scope-names.js';
import { type KeyFlags, keyAccess, withKeyOptions } from './ca-key.js';
import { action, print, printJson } from './output.js';
import { publish } from './publish.js';

interface ListFlags {
  readonly ca: string;
  readonly json?: boolean;
}

interface CrlFlags extends ListFlags, KeyFlags {
  readonly days: string;
  readonly publish?: string;
  readonly oldSigner?: string;
}

interface RevokeFlags extends CrlFlags {
  readonly name?: string;
  readonly serial?: string;
  readonly certificate?: string;
}

function stateOf({ notAfter, revoked }: IssuedRecord, nowMs: number): string {
  if (revoked !== undefined) return `revoked ${revoked}`;
  return Date.parse(notAfter) > nowMs ? 'valid' : 'expired';
}

function selectionOf({ name, serial, certificate }: RevokeFlags): Selection {
  const given = [name, serial, certificate].filter((value) => value !== undefined);
  if (given.length !== 1)
    throw new TokaidoError('CONFIG', 'say which certificate: one of --name, --serial and --certificate');
  if (name !== undefined) return { name };
  return serial === undefined ? { certificate: certificate as string } : { serial };
}

/** Marks what is selected, signs a new list, publishes it if asked to, and says what happened. */
async function writeAndPublish(flags: CrlFlags, selection?: Selection): Promise<void> {
  const nowMs = Date.now();
  // First the keys: what cannot be signed is not marked.
  const cas = allCas(flags.ca, keyAccess(flags), flags.oldSigner);
  const revoked = selection === undefined ? [] : revoke(flags.ca, selection, nowMs);
  const list = await writeCrl(cas, { days: Number(flags.days), nowMs });
  const sent = { path: '/crl', what: 'the list', again: 'tokaido ca crl --publish', body: list.pem } as const;
  const published = flags.publish === undefined ? undefined : await publish(flags.publish, sent);
  if (published?.older !== undefined)
    throw new TokaidoError(
      'IDENTITY',
      `the list is written, but ${flags.publish} has a newer one of this CA: who was revoked here now is not locked out`,
      {
        hint: 'another copy of the folder of this CA has signed: revoke there, or copy issued/ and ca.crl from there to here first',
      },
    );
  if (flags.json) {
    const { path, nextUpdate } = list;
    printJson({ revoked, path, onList: list.revoked, nextUpdate, ...(published === undefined ? {} : { published }) });
    if (list.unsaid !== undefined) throw list.unsaid;
    return;
  }
  for (const { identity, serial } of revoked) print(`revoked ${identity} (serial ${serial})`);
  print(`wrote ${list.path}: ${list.revoked} certificates, next list due ${list.nextUpdate}`);
  if (published === undefined) print('bring it to the nodes: --publish ROOT:PORT, or the file that identity.crl names');
  else print(`published at ${flags.publish}: every node that is linked has it within a second`);
  if (list.unsaid !== undefined) throw list.unsaid;
}

export function registerRevocation(ca: Command): void {
  ca.command('list')
    .description('what the CA has issued, and what of it is valid, expired or revoked')
    .requiredOption('--ca <folder>', 'folder of the CA')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido ca list --ca ./pki')
    .action(
      action(async (flags: ListFlags) => {
        const nowMs = Date.now();
        const certificates = readRecords(flags.ca).map((record) => ({ ...record, state: stateOf(record, nowMs) }));
        if (flags.json) printJson({ certificates });
        for (const { serial, identity, notAfter, state, scope } of flags.json ? [] : certificates) {
          const seen = scope === undefined ? '' : `  scope ${scope.map(scopeText).join(' ')}`;
          print(`${serial}  ${notAfter}  ${identity}  ${state}${seen}`);
        }
      }),
    );
  const withPublish = (command: Command): Command =>
    withKeyOptions(command)
      .requiredOption('--ca <folder>', 'folder of the CA')
      .option('--days <number>', 'when the next list is due', '30')
      .option('--old-signer <command>', 'command that signs with the key of the CA that is being rotated out')
      .option('--publish <host:port>', 'admin listener of the root, which hands the list to every node')
      .option('--json', 'print one JSON object');
  withPublish(ca.command('revoke').description('lock out whoever holds a certificate: mark it, and sign a new list'))
    .option('--name <name>', 'every valid certificate of this name')
    .option('--serial <hex>', 'the certificate with this serial')
    .option('--certificate <file>', 'this certificate, whether there is a record of it or not')
    .addHelpText('after', '\nExample:\n  tokaido ca revoke --ca ./pki --name edge-tokyo --publish 127.0.0.1:1980')
    .action(action(async (flags: RevokeFlags) => await writeAndPublish(flags, selectionOf(flags))));
  withPublish(ca.command('crl').description('sign a new revocation list: ca.crl'))
    .addHelpText('after', '\nExample:\n  tokaido ca crl --ca ./pki --publish 127.0.0.1:1980')
    .action(action(async (flags: CrlFlags) => await writeAndPublish(flags)));
}
