/** `tokaido join`: a new machine becomes a node, with nothing but a token and an address. */
import { hostname } from 'node:os';
import type { Command } from 'commander';
import { TokaidoError } from '../base/errors.js';
import { type JoinToken, parseToken } from '../pki/join-token.js';
import { action, print, printJson } from './output.js';
import { serve } from './serve.js';

const DEFAULT_PORT = 1979;

interface JoinFlags {
  readonly token: string;
  readonly name?: string;
  readonly out: string;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly serve?: boolean;
  readonly json?: boolean;
}

/** Errors: `CONFIG`. */
function addressOf(text: string): { host: string; port: number } {
  try {
    const { protocol, hostname: host, port } = new URL(text.includes('://') ? text : `https://${text}`);
    if (protocol !== 'https:') throw new Error(protocol);
    return {
      host: host.replace(/^\[|\]$/g, ''),
      port: port === '' ? (/:443(\/|$)/.test(text) ? 443 : DEFAULT_PORT) : Number(port),
    };
  } catch {
    throw new TokaidoError('CONFIG', `${text} is not an address such as https://relay:1979`);
  }
}

/** The name to ask for: what was given, what the token says, or the machine's own where the token leaves it open. */
function nameFor({ name: pattern }: JoinToken, given: string | undefined): string {
  if (given !== undefined) return given;
  if (!pattern.includes('*')) return pattern;
  return (hostname().split('.')[0] ?? '').toLowerCase().replace(/[^a-z0-9-]/g, '-');
}

export function registerJoin(program: Command): void {
  program
    .command('join')
    .description('make this machine a node of a cluster, with a token')
    .argument('<address>', 'replication port of a relay or root: https://relay:1979')
    .requiredOption('--token <token>', 'what `tokaido token create` printed')
    .option('--name <name>', "the node's name, where the token leaves it open (the machine's)")
    .option('--out <folder>', 'where to put certificate, key, CA and configuration', '.')
    .option('--dns <names...>', 'DNS names to include in the certificate, as far as the token allows (--hosts)', [])
    .option('--ip <addresses...>', 'IP addresses to include in the certificate, likewise', [])
    .option('--serve', 'run the node at once')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
The key is made here and never leaves. Nothing is sent before the other side has proven that it belongs to the cluster
that the token is for.

Example:
  tokaido join https://relay-fra:1979 --token "$TOKEN" --out /etc/tokaido/edge-7 --serve`,
    )
    .action(
      action(async (address: string, flags: JoinFlags) => {
        const token = parseToken(flags.token);
        const { out: folder, dns, ip } = flags;
        const { joinCluster } = await import('../node/certificates/join.js');
        const made = await joinCluster({
          ...addressOf(address),
          token,
          name: nameFor(token, flags.name),
          folder,
          dns,
          ip,
        });
        if (flags.json) printJson(made);
        else
          print(
            `${made.identity}\nvalid until ${made.notAfter}\nwrote ${made.folder}: tokaido serve --config ${made.config}`,
          );
        if (flags.serve !== true) return;
        await serve({ config: made.config });
      }),
    );
}
