/** `tokaido log`: what a node's update log has, and cutting it by hand. */
import type { Command } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import type { ListedBatch } from '../node/admin/log-control.js';
import { action, print, printJson } from './output.js';

const TIMEOUT_MS = 60_000;

interface Flags {
  readonly admin: string;
  readonly json?: boolean;
}

async function ask<T>(admin: string, method: 'GET' | 'POST', path: string): Promise<T> {
  try {
    const response = await fetch(`http://${admin}${path}`, { method, signal: AbortSignal.timeout(TIMEOUT_MS) });
    const body = (await response.json()) as T & {
      readonly error?: { readonly code: string; readonly message: string };
    };
    if (body.error?.code === 'CONFIG') throw new TokaidoError('CONFIG', body.error.message);
    if (!response.ok) throw new Error(body.error?.message ?? `it answers ${response.status}`);
    return body;
  } catch (error) {
    if (error instanceof TokaidoError) throw error;
    throw new TokaidoError(
      'NETWORK',
      `the admin listener ${admin} refuses: ${messageOf((error as Error).cause ?? error)}`,
      {
        cause: error,
      },
    );
  }
}

function queryOf(values: Readonly<Record<string, string | undefined>>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value !== undefined) query.set(name, value);
  return query.size === 0 ? '' : `?${query}`;
}

export function registerLog(program: Command): void {
  const log = program.command('log').description("lists and cuts a node's update log");
  log
    .command('list')
    .description('batches of the update log, oldest first')
    .option('--admin <host:port>', 'admin listener of the node', '127.0.0.1:1980')
    .option('--from <number>', 'local number of the first transaction')
    .option('--limit <count>', 'most batches (100; at most 10000)')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido log list --limit 20')
    .action(
      action(async ({ admin, from, limit, json }: Flags & { readonly from?: string; readonly limit?: string }) => {
        const listed = await ask<{ next: number; batches: ListedBatch[] }>(
          admin,
          'GET',
          `/log${queryOf({ from, limit })}`,
        );
        if (json) {
          printJson(listed);
          return;
        }
        const rows = listed.batches.map(({ first, count, bytes, time, position }) => {
          return `${first} to ${first + count - 1}  ${time}  ${bytes} bytes  after ${position}`;
        });
        print([...rows, `next: ${listed.next}`].join('\n'));
      }),
    );
  log
    .command('trim')
    .description('forgets the oldest part of the update log; followers that lack it will need a snapshot')
    .option('--admin <host:port>', 'admin listener of the node', '127.0.0.1:1980')
    .option('--keep-bytes <bytes>', 'keep the newest so many bytes')
    .option('--keep-ms <ms>', 'keep what is not older')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido log trim --keep-ms 3600000')
    .action(
      action(async ({ admin, keepBytes, keepMs, json }: Flags & { keepBytes?: string; keepMs?: string }) => {
        if (keepBytes === undefined && keepMs === undefined)
          throw new TokaidoError('CONFIG', 'give --keep-bytes or --keep-ms, or both');
        const trimmed = await ask<{ first: number; next: number; bytes: number }>(
          admin,
          'POST',
          `/log/trim${queryOf({ keepBytes, keepMs })}`,
        );
        if (json) printJson(trimmed);
        else print(`${trimmed.first} to ${trimmed.next - 1}, ${trimmed.bytes} bytes`);
      }),
    );
}
