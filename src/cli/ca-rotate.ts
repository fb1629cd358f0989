/** `tokaido ca rotate`: a new CA under a running cluster, and the end of the old one. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { readRecords } from '../pki/ca/records.js';
import { retireOld, rotateCa, statementsPath } from '../pki/ca/rotation.js';
import { parseIdentity } from '../pki/names.js';
import { keyAccess, keyOption, type MadeFlags, publicKeyOption, readPublicKey, withKeyOptions } from './ca-key.js';
import { action, print, printJson } from './output.js';
import { type PublishedCounts, publish } from './publish.js';

interface RotateFlags extends MadeFlags {
  readonly ca: string;
  readonly name: string;
  readonly publicKey?: string;
  readonly newSigner?: string;
  readonly retire?: boolean;
  readonly force?: boolean;
  readonly intermediate?: readonly string[];
  readonly publish?: string;
}

/** Tells every node, if asked to. */
async function tell({ ca, publish: admin }: RotateFlags): Promise<{ published?: PublishedCounts }> {
  if (admin === undefined) return {};
  const path = statementsPath(ca);
  const again = `curl --data-binary @${path} http://${admin}/trust`;
  const body = readFileSync(path, 'utf8');
  return { published: await publish(admin, { path: '/trust', what: 'the statement', again, body }) };
}

async function retire(flags: RotateFlags): Promise<void> {
  const access = keyAccess(flags);
  const { intermediate: intermediates, force = false } = flags;
  const trust = await retireOld(flags.ca, { nowMs: Date.now(), force, intermediates, ...access });
  const told = await tell(flags);
  if (flags.json) {
    printJson({ trust, statements: statementsPath(flags.ca), ...told });
    return;
  }
  print('the old CA is retired');
  if (told.published !== undefined)
    print(`published at ${flags.publish}: every node that is linked believes the new one`);
  else print(`copy ${trust} to the file that identity.ca names, on every node, or publish it: --publish ROOT:PORT`);
}

async function rotate(flags: RotateFlags): Promise<void> {
  const oldKey = keyAccess(flags);
  const { newSigner, ca: folder, name, key: keyKind } = flags;
  const { passphrase } = oldKey;
  const newKey =
    newSigner === undefined
      ? { keyKind, ...(passphrase === undefined ? {} : { passphrase }) }
      : { signCommand: newSigner, ...readPublicKey(flags.publicKey) };
  const made = await rotateCa({ folder, name, days: Number(flags.days), nowMs: Date.now(), ...newKey }, oldKey);
  const told = await tell(flags);
  if (flags.json) {
    printJson({ ...made, ...told });
    return;
  }
  print(`new CA valid until ${made.notAfter}`);
  if (told.published !== undefined) print(`published at ${flags.publish}: every node that is linked believes both`);
  const last = `tokaido ca rotate --ca ${flags.ca} --retire`;
  if (!readRecords(flags.ca).some(({ identity }) => parseIdentity(identity)?.role === 'ca'))
    print(`renew every node, then: ${last}`);
  else
    print(
      `make a new intermediate (tokaido ca intermediate) and let every node have a certificate of it, then: ${last} --intermediate OLD NEW`,
    );
}

export function registerRotation(ca: Command): void {
  withKeyOptions(ca.command('rotate').description('put a new CA in the place of this one; later, retire the old one'))
    .requiredOption('--ca <folder>', 'folder of the CA')
    .option('--name <name>', 'name of the new CA', 'ca')
    .option('--days <number>', 'how long the new CA is valid', '3650')
    .addOption(keyOption())
    .option('--new-signer <command>', 'command that signs with the key of the new CA')
    .addOption(publicKeyOption())
    .option('--retire', 'end a rotation: nodes shall believe the new CA alone')
    .option('--force', 'retire although certificates of the old CA are in use: their holders are cut off')
    .option(
      '--intermediate <folders...>',
      'with --retire: folders of the intermediates, old and new, to look at what they have issued',
    )
    .option('--publish <host:port>', 'admin listener of the root, which tells every node whom to believe')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
Renew every node (tokaido ca renew) between the two: nodes may be renewed in any order and at any time, and believe one
another meanwhile. ca list shows who has which certificate. With an intermediate make a new one of the new CA first (tokaido
ca intermediate), let signing.ca of the root name it, and have the nodes' certificates from there.

Examples:
  tokaido ca rotate --ca ./pki --publish 127.0.0.1:1980
  tokaido ca rotate --ca ./pki --retire --publish 127.0.0.1:1980
  tokaido ca rotate --ca ./pki --retire --intermediate ./online ./online-2 --publish 127.0.0.1:1980`,
    )
    .action(action(async (flags: RotateFlags) => await (flags.retire === true ? retire(flags) : rotate(flags))));
}
