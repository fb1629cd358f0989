/** `tokaido token`: one-time tokens with which new machines join. */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import { openCa } from '../pki/ca/ca.js';
import { writeNew } from '../pki/files.js';
import { checkHosts, checkPattern, createToken, type TokenStatement } from '../pki/join-token.js';
import { certificatesOf } from '../pki/pem.js';
import { scopeText } from '../pki/scope-names.js';
import { type KeyFlags, keyAccess, withKeyOptions } from './ca-key.js';
import { action, print, printJson } from './output.js';
import { SCOPE_HELP, scopeFor } from './scope-option.js';

const TIMEOUT_MS = 30_000;
const UNITS: Readonly<Record<string, number>> = { m: 60_000, h: 3_600_000, d: 86_400_000 };

interface TokenFlags extends KeyFlags {
  readonly ca: string;
  readonly admin: string;
  readonly json?: boolean;
}

interface CreateFlags extends TokenFlags {
  readonly role: 'root' | 'relay' | 'edge' | 'client';
  readonly name: string;
  readonly scope: readonly string[];
  readonly hosts: readonly string[];
  readonly expires: string;
}

/** Errors: `CONFIG`. */
function lifeMs(text: string): number {
  const [, amount, unit] = /^(\d{1,6})(m|h|d)$/.exec(text) ?? [];
  const ms = Number(amount) * (UNITS[unit ?? ''] ?? 0);
  if (ms > 0 && ms <= 30 * (UNITS.d as number)) return ms;
  throw new TokaidoError('CONFIG', `${text} is not a time such as 30m, 24h or 7d, at most 30d`);
}

async function talk(admin: string, init: RequestInit): Promise<Record<string, unknown>> {
  let response: Response;
  try {
    response = await fetch(`http://${admin}/tokens`, { ...init, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    throw new TokaidoError(
      'NETWORK',
      `no answer from the root at ${admin}: ${messageOf((error as Error).cause ?? error)}`,
      {
        hint: 'give the admin listener of the root: --admin HOST:PORT',
        cause: error,
      },
    );
  }
  const body = (await response.json()) as Record<string, unknown> & { error?: { message: string; hint?: string } };
  if (body.error === undefined) return body;
  const { message, hint } = body.error;
  throw new TokaidoError('IDENTITY', message, hint === undefined ? {} : { hint });
}

/** Brings what the CA signed to the root. */
async function publish({ ca: folder, admin, ...flags }: TokenFlags, statement: object): Promise<void> {
  const ca = openCa(folder, keyAccess(flags));
  const text = JSON.stringify(statement);
  const signature = (await ca.signer.sign(Buffer.from(text))).toString('base64');
  await talk(admin, { method: 'POST', body: JSON.stringify({ statement: text, signature, chain: ca.chainPem }) });
}

const pathOf = (ca: string, id: string): string => join(ca, 'tokens', `${id}.json`);

async function create(flags: CreateFlags): Promise<void> {
  const ca = openCa(flags.ca, keyAccess(flags));
  const [anchor] = certificatesOf(ca.trustPem, flags.ca);
  const { role } = flags;
  const name = checkPattern(flags.name);
  const allowed = { ...scopeFor(role, flags.scope), ...checkHosts(flags.hosts) };
  const token = createToken({ role, name, caFingerprint: anchor?.fingerprint256 ?? '' });
  const createdMs = Date.now();
  const { id, publicKey } = token;
  const expiresMs = createdMs + lifeMs(flags.expires);
  const { clusterId } = ca;
  const statement: TokenStatement = { id, clusterId, role, name, ...allowed, publicKey, createdMs, expiresMs };
  mkdirSync(join(flags.ca, 'tokens'), { recursive: true, mode: 0o700 });
  writeNew(pathOf(flags.ca, id), JSON.stringify(statement), 'public');
  await publish(flags, statement);
  const expires = new Date(expiresMs).toISOString();
  if (flags.json) {
    printJson({ id, role, name, expires, token: token.text });
    return;
  }
  print(token.text);
  // Beside the output: `TOKEN=$(tokaido token create ...)` is to hold the token alone.
  process.stderr.write(`once, until ${expires}, for ${role} ${name} (id ${id})\n`);
}

export function registerToken(program: Command): void {
  const token = program.command('token').description('one-time tokens with which new machines join');
  const common = (command: Command): Command =>
    withKeyOptions(command)
      .requiredOption(
        '--ca <folder>',
        'folder of the CA whose key vouches for it: that of the root (signing.ca), or one above',
      )
      .option('--admin <host:port>', 'admin listener of the root', '127.0.0.1:1980')
      .option('--json', 'print one JSON object');
  common(token.command('create').description('make a token'))
    .addOption(
      new Option('--role <role>', 'what the machine may be').choices(['relay', 'edge', 'client']).default('edge'),
    )
    .requiredOption('--name <pattern>', 'its name; * stands for any letters: edge-*')
    .option('--scope <parts...>', SCOPE_HELP, [])
    .option(
      '--hosts <patterns...>',
      "DNS names and IP addresses that it may ask for (join --dns, --ip), for clients that check them; '*' for any, none unless given",
      [],
    )
    .option('--expires <time>', 'how long it may be used, at most 30d', '24h')
    .addHelpText(
      'after',
      "\nExamples:\n  tokaido token create --ca ./online --role edge --name 'edge-*' --scope dns flags/jp/\n  TOKEN=$(tokaido token create --ca ./online --role relay --name relay-fra --scope '*')",
    )
    .action(action(async (flags: CreateFlags) => await create(flags)));
  token
    .command('list')
    .description('tokens of the cluster, and what became of them')
    .option('--admin <host:port>', 'admin listener of the root', '127.0.0.1:1980')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido token list')
    .action(
      action(async (flags: TokenFlags) => {
        const { tokens } = (await talk(flags.admin, {})) as {
          tokens: readonly Record<string, string | number | readonly string[]>[];
        };
        if (flags.json) printJson({ tokens });
        for (const { id, state, role, name, scope, expiresMs, usedBy } of flags.json ? [] : tokens) {
          const by = usedBy === undefined ? '' : ` by ${usedBy}`;
          const seen = Array.isArray(scope) ? `  scope ${scope.map((part) => scopeText(String(part))).join(' ')}` : '';
          print(`${id}  ${state}${by}  ${role} ${name}${seen}  until ${new Date(Number(expiresMs)).toISOString()}`);
        }
      }),
    );
  common(token.command('revoke').description('make a token useless'))
    .requiredOption('--id <id>', 'its id, as token list shows it')
    .addHelpText('after', '\nExample:\n  tokaido token revoke --ca ./online --id 0123456789abcdef')
    .action(
      action(async (flags: TokenFlags & { readonly id: string }) => {
        const path = pathOf(flags.ca, flags.id);
        if (!existsSync(path)) throw new TokaidoError('CONFIG', `the CA in ${flags.ca} knows no token ${flags.id}`);
        const statement = JSON.parse(readFileSync(path, 'utf8')) as TokenStatement;
        await publish(flags, { ...statement, revoke: flags.id });
        if (flags.json) printJson({ id: flags.id, state: 'revoked' });
        else print(`token ${flags.id} is revoked`);
      }),
    );
}
