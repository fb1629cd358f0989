/** `tokaido get`, `set` and `remove`: single records over a node's client listener. */
import { type Command, Option } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import type { AtLeastOptions, TokaidoClient } from '../client/client.js';
import { parseWait } from '../protocol/at-least.js';
import { clientOf, type ServerFlags, withServerOptions } from './client-options.js';
import { action, printJson } from './output.js';

interface Flags extends ServerFlags {
  readonly database?: string;
  readonly json?: boolean;
}

interface GetFlags extends Flags {
  readonly atLeast?: string;
  readonly wait?: string;
}

interface SetFlags extends Flags {
  readonly file?: string;
  readonly ttl?: string;
  readonly expires?: string;
  readonly add?: boolean;
  readonly replace?: boolean;
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

function withServer(command: Command): Command {
  return withServerOptions(command)
    .option('--database <name>', 'database (default: the first)')
    .option('--json', 'print one JSON object');
}

async function withClient<T>(flags: Flags, use: (client: TokaidoClient) => Promise<T>): Promise<T> {
  const client = clientOf(flags);
  try {
    return await use(client);
  } finally {
    client.close();
  }
}

function place({ database }: Flags): { database?: string } {
  return database === undefined ? {} : { database };
}

function atLeastOf({ atLeast, wait }: GetFlags): { atLeast?: AtLeastOptions } {
  if (atLeast === undefined) {
    if (wait !== undefined) throw new TokaidoError('CONFIG', '--wait says how long to wait for --at-least');
    return {};
  }
  return { atLeast: { position: atLeast, ...(wait === undefined ? {} : { waitMs: parseWait(wait) }) } };
}

/** Text where it is text, Base64 where it is not. */
function readable(value: Buffer): { value: string } | { valueBase64: string } {
  const text = value.toString('utf8');
  return Buffer.from(text, 'utf8').equals(value) ? { value: text } : { valueBase64: value.toString('base64') };
}

function expiryOf({ ttl, expires }: SetFlags): { xtMs?: number } {
  if (ttl !== undefined) {
    const [, amount, unit] = /^(\d+)(ms|s|m|h|d)$/.exec(ttl) ?? [];
    if (amount === undefined || unit === undefined)
      throw new TokaidoError('CONFIG', `--ttl ${ttl} is not a duration such as 30s or 5m`);
    return { xtMs: Date.now() + Number(amount) * (UNITS[unit] as number) };
  }
  if (expires === undefined) return {};
  const xtMs = Date.parse(expires);
  if (Number.isNaN(xtMs))
    throw new TokaidoError('CONFIG', `--expires ${expires} is not a date such as 2030-01-01T00:00:00Z`);
  return { xtMs };
}

async function readValue(value: string | undefined, { file }: SetFlags): Promise<Buffer> {
  const { readFileSync } = await import('node:fs');
  if (file !== undefined) {
    try {
      return readFileSync(file);
    } catch (error) {
      throw new TokaidoError('CONFIG', `cannot read --file ${file}: ${messageOf(error)}`, { cause: error });
    }
  }
  if (value === '-') return readFileSync(0);
  if (value === undefined) throw new TokaidoError('CONFIG', 'a value, - or --file is needed');
  return Buffer.from(value, 'utf8');
}

export function registerRecords(program: Command): void {
  withServer(program.command('get').description('print the value of a record').argument('<key>', 'key'))
    .option('--at-least <position>', 'only when the node has what Postgres had at this LSN (pg_current_wal_lsn())')
    .option('--wait <duration>', 'how long it may take to get there: 500ms, 2s (default: 1s, at most 60s)')
    .addHelpText(
      'after',
      '\nExample:\n  tokaido get example.com/www/A --database dns --server 127.0.0.1:1978\n\nExits with 3 when there is no such record.',
    )
    .action(
      action(async (key: string, flags: GetFlags) => {
        const options = { ...place(flags), ...atLeastOf(flags) };
        const record = await withClient(flags, async (client) => await client.get(key, options));
        if (record === undefined) throw new TokaidoError('NO_RECORD', `no record ${JSON.stringify(key)}`);
        const expires = record.xtMs === undefined ? {} : { expires: new Date(record.xtMs).toISOString() };
        if (flags.json) printJson({ key, ...readable(record.value), ...expires });
        else process.stdout.write(process.stdout.isTTY ? `${record.value.toString('utf8')}\n` : record.value);
      }),
    );
  withServer(
    program
      .command('set')
      .description('store a record (at the root)')
      .argument('<key>', 'key')
      .argument('[value]', 'value; - reads standard input'),
  )
    .option('--file <path>', 'take the value from a file')
    .addOption(new Option('--ttl <duration>', 'expire after: 30s, 5m, 2h, 7d').conflicts('expires'))
    .option('--expires <date>', 'expire at: 2030-01-01T00:00:00Z')
    .addOption(new Option('--add', 'only if there is no such record').conflicts('replace'))
    .addOption(new Option('--replace', 'only if there is such a record'))
    .addHelpText('after', '\nExample:\n  tokaido set flags/dark-mode on --ttl 5m')
    .action(
      action(async (key: string, value: string | undefined, flags: SetFlags) => {
        const bytes = await readValue(value, flags);
        const mode = flags.add ? 'add' : flags.replace ? 'replace' : 'set';
        await withClient(
          flags,
          async (client) => await client.set(key, bytes, { ...place(flags), ...expiryOf(flags), mode }),
        );
        if (flags.json) printJson({ key, stored: true });
      }),
    );
  withServer(program.command('remove').description('remove a record (at the root)').argument('<key>', 'key'))
    .addHelpText('after', '\nExample:\n  tokaido remove flags/dark-mode\n\nExits with 3 when there is no such record.')
    .action(
      action(async (key: string, flags: Flags) => {
        const removed = await withClient(flags, async (client) => await client.remove(key, place(flags)));
        if (!removed) throw new TokaidoError('NO_RECORD', `no record ${JSON.stringify(key)}`);
        if (flags.json) printJson({ key, removed: true });
      }),
    );
}
