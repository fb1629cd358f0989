/** `tokaido ca`: the internal certificate authority. */
import { type Command, Option } from 'commander';
import { createCa, issueCertificate } from '../pki/ca.js';
import { registerRevocation } from './ca-revocation.js';
import { action, print, printJson } from './output.js';

interface InitFlags {
  readonly dir: string;
  readonly name: string;
  readonly days: string;
  readonly json?: boolean;
}

interface IssueFlags {
  readonly ca: string;
  readonly out?: string;
  readonly role: 'root' | 'relay' | 'edge' | 'client';
  readonly name: string;
  readonly days: string;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly json?: boolean;
}

export function registerCa(program: Command): void {
  const ca = program
    .command('ca')
    .description('make the CA of a cluster and certificates for its nodes')
    .addHelpText(
      'after',
      '\nExample:\n  tokaido ca init --dir ./pki --name mycluster\n  tokaido ca issue --ca ./pki --role root --name root-1 --out ./root-1',
    );
  ca.command('init')
    .description('make a CA: the beginning of a cluster')
    .requiredOption('--dir <folder>', 'where to put ca.crt and ca.key')
    .option('--name <name>', 'name of the CA', 'ca')
    .option('--days <number>', 'how long it is valid', '3650')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido ca init --dir ./pki --name mycluster')
    .action(
      action(async (flags: InitFlags) => {
        const made = await createCa({
          folder: flags.dir,
          name: flags.name,
          days: Number(flags.days),
          nowMs: Date.now(),
        });
        if (flags.json) printJson(made);
        else
          print(
            `cluster ${made.clusterId}\nCA valid until ${made.notAfter}\nkeep ${made.files[1]} secret: whoever has it can join the cluster`,
          );
      }),
    );
  ca.command('issue')
    .description('make a key and a certificate for one node')
    .requiredOption('--ca <folder>', 'folder of the CA')
    .addOption(
      new Option('--role <role>', 'what the node may be')
        .choices(['root', 'relay', 'edge', 'client'])
        .makeOptionMandatory(),
    )
    .requiredOption('--name <name>', 'name of the node, unique in the cluster')
    .option('--out <folder>', 'where to put node.crt, node.key and ca.crt (default: ./NAME)')
    .option('--days <number>', 'how long it is valid', '90')
    .option('--dns <names...>', 'DNS names to include', [])
    .option('--ip <addresses...>', 'IP addresses to include', [])
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido ca issue --ca ./pki --role edge --name edge-tokyo --out ./edge-tokyo')
    .action(
      action(async (flags: IssueFlags) => {
        const { role, name, dns, ip } = flags;
        const out = flags.out ?? name;
        const made = await issueCertificate({
          ca: flags.ca,
          out,
          role,
          name,
          days: Number(flags.days),
          dns,
          ip,
          nowMs: Date.now(),
        });
        if (flags.json) printJson(made);
        else print(`${made.identity}\nvalid until ${made.notAfter}\nwrote ${made.files.join(', ')}`);
      }),
    );
  registerRevocation(ca);
}
