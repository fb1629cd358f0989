/** `tokaido ca`: the internal certificate authority. */
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { createCa, createIntermediate, issueCertificate, openCa } from '../pki/ca/ca.js';
import { renewCertificate } from '../pki/ca/renewal.js';
import { keyAccess, keyOption, type MadeFlags, publicKeyOption, readPublicKey, withKeyOptions } from './ca-key.js';
import { registerRevocation } from './ca-revocation.js';
import { registerRotation } from './ca-rotate.js';
import { action, print, printJson } from './output.js';
import { scopeFor } from './scope-option.js';

interface InitFlags extends MadeFlags {
  readonly dir: string;
  readonly name: string;
  readonly publicKey?: string;
}

interface IntermediateFlags extends MadeFlags {
  readonly ca: string;
  readonly dir: string;
  readonly name: string;
}

interface IssueFlags extends MadeFlags {
  readonly ca: string;
  readonly out?: string;
  readonly role: 'root' | 'relay' | 'edge' | 'client';
  readonly name: string;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly scope: readonly string[];
  readonly readableScope?: boolean;
}

interface RenewFlags extends MadeFlags {
  readonly ca: string;
  readonly node: string;
}

export function registerCa(program: Command): void {
  const ca = program
    .command('ca')
    .description('make the CA of a cluster and certificates for its nodes')
    .addHelpText(
      'after',
      '\nExample:\n  tokaido ca init --dir ./pki --name mycluster\n  tokaido ca issue --ca ./pki --role root --name root-1 --out ./root-1',
    );
  registerInit(ca);
  registerIntermediate(ca);
  registerIssue(ca);
  registerRenew(ca);
  registerRotation(ca);
  registerRevocation(ca);
}

function registerInit(ca: Command): void {
  withKeyOptions(ca.command('init').description('make a CA: the beginning of a cluster'))
    .requiredOption('--dir <folder>', 'where to put ca.crt and ca.key')
    .option('--name <name>', 'name of the CA', 'ca')
    .option('--days <number>', 'how long it is valid', '3650')
    .addOption(keyOption())
    .addOption(publicKeyOption())
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido ca init --dir ./pki --name mycluster')
    .action(
      action(async (flags: InitFlags) => {
        const made = await createCa({
          folder: flags.dir,
          name: flags.name,
          days: Number(flags.days),
          nowMs: Date.now(),
          keyKind: flags.key,
          ...keyAccess(flags),
          ...readPublicKey(flags.publicKey),
        });
        if (flags.json) {
          printJson(made);
          return;
        }
        print(`cluster ${made.clusterId}\nCA valid until ${made.notAfter}`);
        if (made.files[1] !== undefined) print(`keep ${made.files[1]} secret: whoever has it can join the cluster`);
      }),
    );
}

function registerIntermediate(ca: Command): void {
  withKeyOptions(
    ca.command('intermediate').description("make a CA under another one, so that the root's key can stay in a safe"),
  )
    .requiredOption('--ca <folder>', 'folder of the root CA')
    .requiredOption('--dir <folder>', 'where to put the new CA')
    .option('--name <name>', 'name of the new CA', 'intermediate')
    .option('--days <number>', 'how long it is valid', '365')
    .addOption(keyOption())
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      "\nThe new CA's key is not encrypted: it is for the machine that signs day by day.\n\nExample:\n  tokaido ca intermediate --ca ./pki --dir ./online",
    )
    .action(
      action(async (flags: IntermediateFlags) => {
        const root = openCa(flags.ca, keyAccess(flags));
        const { dir: folder, name, key: keyKind } = flags;
        const made = await createIntermediate(
          { folder, name, keyKind, days: Number(flags.days), nowMs: Date.now() },
          root,
        );
        if (flags.json) printJson(made);
        else print(`${made.identity}\nvalid until ${made.notAfter}\nwrote ${made.files.join(', ')}`);
      }),
    );
}

function registerIssue(ca: Command): void {
  withKeyOptions(ca.command('issue').description('make a key and a certificate for one node'))
    .requiredOption('--ca <folder>', 'folder of the CA')
    .addOption(
      new Option('--role <role>', 'what the node may be')
        .choices(['root', 'relay', 'edge', 'client'])
        .makeOptionMandatory(),
    )
    .requiredOption('--name <name>', 'name of the node, unique in the cluster')
    .option('--out <folder>', 'where to put node.crt, node.key, ca.crt and, with --scope, node.scope (default: ./NAME)')
    .option('--days <number>', 'how long it is valid', '90')
    .option('--dns <names...>', 'DNS names to include', [])
    .option('--ip <addresses...>', 'IP addresses to include', [])
    .option(
      '--scope <parts...>',
      "what a relay or edge may follow at most: DATABASE or DATABASE/PREFIX, '*' for every database; without it, what replication.scopes of its upstream says",
      [],
    )
    .option(
      '--readable-scope',
      'put the scope into the certificate as it is, for whoever sees it to read; else it is hidden, and node.scope opens it',
    )
    .addOption(keyOption())
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido ca issue --ca ./pki --role edge --name edge-tokyo --out ./edge-tokyo')
    .action(
      action(async (flags: IssueFlags) => {
        const { role, name, dns, ip, key: keyKind } = flags;
        const days = Number(flags.days);
        const scope = flags.scope.length === 0 ? {} : scopeFor(role, flags.scope);
        const hasReadableScope = flags.readableScope === true;
        const to = { ca: flags.ca, out: flags.out ?? name, role, name, days, dns, ip, ...scope, hasReadableScope };
        const options = { ...to, nowMs: Date.now(), keyKind };
        const made = await issueCertificate(options, openCa(flags.ca, keyAccess(flags)));
        if (flags.json) printJson(made);
        else print(`${made.identity}\nvalid until ${made.notAfter}\nwrote ${made.files.join(', ')}`);
      }),
    );
}

function registerRenew(ca: Command): void {
  withKeyOptions(
    ca.command('renew').description('replace the key and certificate of a node by new ones with the same names'),
  )
    .requiredOption('--ca <folder>', 'folder of the CA')
    .requiredOption('--node <folder>', 'folder with node.crt, node.key and ca.crt of the node')
    .option('--days <number>', 'how long the new one is valid', '90')
    .addOption(keyOption())
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido ca renew --ca ./pki --node ./edge-tokyo')
    .action(
      action(async (flags: RenewFlags) => {
        const at = (name: string): string => join(flags.node, name);
        const files = { certificate: at('node.crt'), key: at('node.key'), ca: at('ca.crt') };
        const options = { files, days: Number(flags.days), nowMs: Date.now(), keyKind: flags.key };
        const made = await renewCertificate(options, openCa(flags.ca, keyAccess(flags)));
        if (flags.json) printJson(made);
        else print(`${made.identity}\nvalid until ${made.notAfter}`);
      }),
    );
}
