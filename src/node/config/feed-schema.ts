/** The part of the schema about feeds: Postgres and its tables, JSON lines, a Kyoto Tycoon server. */
import { z } from 'zod';
import { address, count, duration, LARGEST_SIZE, quantity, SIZE_UNITS, size, TIME_UNITS } from './quantities.js';

/** A thousand years. */
const LONGEST_AFTER_MS = 1000 * 366 * 86_400_000;

function protocolOf(text: string): string {
  try {
    return new URL(text).protocol;
  } catch {
    return '';
  }
}

const tableMapping = z.strictObject({
  table: z.string().describe('Table, with its schema: `public.dns_records`.'),
  database: z.string().describe('Database its rows go to.'),
  key: z.string().describe('Key template: literal text and `{column}`, such as `{zone}/{name}/{type}`.'),
  value: z
    .union([
      z.strictObject({ column: z.string() }),
      z.strictObject({ json: z.union([z.literal('all'), z.array(z.string()).min(1)]) }),
      z.strictObject({ msgpack: z.union([z.literal('all'), z.array(z.string()).min(1)]) }),
      z.strictObject({ module: z.string(), function: z.string().default('default') }),
    ])
    .describe(
      '`{column: NAME}`: that column (bytea as it is); `{json: all}` or `{json: [columns]}`: the row as JSON; `{msgpack: all}` likewise; `{module: FILE, function: NAME}`: what a function of an ECMAScript module makes of the row.',
    ),
  expires: z
    .strictObject({
      column: z.string(),
      after: quantity(TIME_UNITS, '30d', { least: 0, most: LONGEST_AFTER_MS }).optional(),
    })
    .optional()
    .describe('Column (timestamptz) with the expiration time; with `after`, so long after it.'),
  deleted: z
    .strictObject({ column: z.string() })
    .optional()
    .describe('Column that says when a row was deleted: it has no record while this is neither NULL nor false.'),
  each: z
    .string()
    .optional()
    .describe('Array column named in the key: the row has a record for each element. Needs REPLICA IDENTITY FULL.'),
});

const postgresUrl = z
  .string()
  // The text itself may hold a password: it is not repeated.
  .refine((text) => /^postgres(ql)?:$/.test(protocolOf(text)), 'must be a URL such as postgresql://user@host/database');

export const postgres = z.strictObject({
  connection: postgresUrl.describe('Connection URL. Prefer passwordFile to a password in it.'),
  standbys: z
    .array(postgresUrl)
    .max(16)
    .default([])
    .describe('URLs of its standbys: after a fail-over the feed goes on at whichever became the primary.'),
  passwordFile: z.string().optional().describe('File with the password, readable by its owner only.'),
  passwordCommand: z
    .array(z.string())
    .min(1)
    .max(64)
    .optional()
    .describe('Program and arguments that print the password, run for every connection; instead of passwordFile.'),
  slot: z
    .string()
    .regex(/^[a-z0-9_]{1,63}$/, 'must be 1 to 63 of a-z 0-9 _')
    .default('tokaido')
    .describe('Replication slot.'),
  publication: z
    .string()
    .regex(/^[a-z0-9_]{1,63}$/, 'must be 1 to 63 of a-z 0-9 _')
    .default('tokaido')
    .describe('Publication.'),
  create: z
    .boolean()
    .default(true)
    .describe(
      'Create the publication when it is missing; else `tokaido pg setup` does. The slot is always made at start.',
    ),
  failover: z
    .boolean()
    .default(false)
    .describe(
      'Have standbys keep a copy of the slot (Postgres 17 and later, `sync_replication_slots = on` there), so that the feed goes on after a fail-over.',
    ),
  tables: z.array(tableMapping).min(1).describe('Which tables go where.'),
  statusMs: duration('1s').describe('How often Postgres is told how far we are.'),
  heartbeatMs: duration('10s', { least: 0 }).describe(
    'How often a message is written to the WAL so that an idle slot moves; 0 never.',
  ),
  silenceMs: duration('30s').describe('A connection that says nothing for this long is given up.'),
  copyConnections: z
    .number()
    .int()
    .min(1)
    .max(16)
    .default(2)
    .describe('Connections that share the copy of tables; besides them the feed has two, and a third for a moment.'),
  binary: z
    .boolean()
    .default(false)
    .describe(
      'Values of the stream come in binary form, when every published column can be read so; the records are the same. docs/postgres.md says when it is faster.',
    ),
  slotWarnBytes: size('1GiB').describe('WAL that Postgres keeps for the slot from which on the log warns.'),
  slotDropBytes: quantity(SIZE_UNITS, '50GiB', { least: 1, most: LARGEST_SIZE })
    .optional()
    .describe(
      'WAL kept for the slot from which on the feed drops the slot and copies everything again, rather than fill the disk of Postgres. Never when absent.',
    ),
  maxTransactionBytes: size('8MiB').describe('A larger Postgres transaction is applied in parts.'),
  maxTransactionChanges: count(50_000).describe('Likewise, in row changes.'),
  maxUnappliedBytes: size('32MiB').describe('Bytes received and not yet committed before Postgres is made to wait.'),
  maxSpillBytes: quantity(SIZE_UNITS, '10GiB', { least: 0, most: LARGEST_SIZE })
    .prefault('10GiB')
    .describe(
      'What large transactions may take on the disk here before they commit (below `data`). Beyond it, and with 0, Postgres keeps them on its own.',
    ),
});

export const lines = z.strictObject({
  file: z.string().describe('File with JSON lines, which is followed; `-` for standard input.'),
  database: z.string().default('default').describe('Database of changes that name none.'),
  skipMalformed: z
    .boolean()
    .default(false)
    .describe('Leave out and count lines that mean nothing, rather than stop at them.'),
  maxLineBytes: size('4MiB').describe('Longest line.'),
  pollMs: duration('100ms').describe('How often the end of a file is looked at.'),
});

export const kyotoTycoon = z.strictObject({
  upstream: address.describe('HOST:PORT of the server, which must run with -ulog and -sid.'),
  databases: z
    .array(z.string())
    .min(1)
    .optional()
    .describe("Databases here, in the order of the server's numbers; absent: the order of `databases`."),
  copy: z
    .boolean()
    .default(true)
    .describe(
      'Copy all records first, when there is no position to go on from; these databases are cleared then. Else only what the update log of the server still has is taken.',
    ),
  tunable: z
    .boolean()
    .default(false)
    .describe(
      'Let clients say by tune_replication which server is followed, from where on, until the next start. They can have this root connect to any address then.',
    ),
  silenceMs: duration('30s').describe('A server that says nothing for this long is given up.'),
  intervalMs: z
    .number()
    .min(0)
    .max(3_600_000)
    .default(0)
    .describe('Rest for each change taken, ms, fractions allowed: slows a follower down on purpose (-riv).'),
  maxTransactionBytes: size('8MiB').describe('Changes are gathered into transactions of at most this size.'),
  maxTransactionChanges: count(2000).describe('Likewise, in changes.'),
  maxUnappliedBytes: size('32MiB').describe('Bytes received and not yet committed before the server is made to wait.'),
});
