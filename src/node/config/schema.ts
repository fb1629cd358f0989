/**
 * The one schema of the configuration: every key with its meaning, unit and default. `load.ts` validates a file against
 * it, docs/reference/config.md is generated from it.
 */

import { z } from 'zod';
import { messageOf } from '../../base/errors.js';
import { LONGEST_KEY_BYTES } from '../../commands/commands.js';
import type { TableMapping } from '../../feeds/postgres/mapping.js';
import type { UpstreamAddress } from '../../replication/following/upstream-choice.js';
import { type DatabaseSpec, parseDatabase } from '../../store/database-spec.js';
import { ktScopes, policy, scopes } from './policy-schema.js';

const SIZE_UNITS: Readonly<Record<string, number>> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };
const TIME_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

interface Bounds {
  readonly least: number;
  readonly most: number;
}

function quantity(units: Readonly<Record<string, number>>, example: string, { least, most }: Bounds) {
  const names = Object.keys(units).join('|');
  const form = new RegExp(`^(\\d+(?:\\.\\d+)?) ?(${names})$`);
  return z.union([z.number(), z.string()]).transform((value, context) => {
    const [, amount, unit] = typeof value === 'number' ? ['', value, undefined] : (form.exec(value) ?? []);
    const total = Math.round(Number(amount) * (unit === undefined ? 1 : (units[unit] as number)));
    if (amount === undefined) {
      const known = Object.keys(units).join(', ');
      context.addIssue({
        code: 'custom',
        message: `must be a number or a text such as ${example} (units ${known}), not ${JSON.stringify(value)}`,
      });
      return z.NEVER;
    }
    if (total < least || total > most) {
      context.addIssue({ code: 'custom', message: `must be from ${least} to ${most}, not ${JSON.stringify(value)}` });
      return z.NEVER;
    }
    return total;
  });
}

/** Beyond this a timer of Node fires at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const LARGEST_SIZE = 2 ** 50;
/** A thousand years. */
const LONGEST_AFTER_MS = 1000 * 366 * 86_400_000;

/** Bytes: a number, or a text with a unit (`64MiB`). */
const size = (fallback: string) => quantity(SIZE_UNITS, '64MiB', { least: 1, most: LARGEST_SIZE }).prefault(fallback);
/** Milliseconds: a number, or a text with a unit (`30s`). */
const duration = (fallback: string, { least = 1, most = LONGEST_TIMER_MS }: Partial<Bounds> = {}) =>
  quantity(TIME_UNITS, '30s', { least, most }).prefault(fallback);
const on = z.boolean().default(true);
const count = (fallback: number) => z.number().int().positive().default(fallback);

function listener(port: number, what: string) {
  return z.strictObject({
    host: z.string().default('127.0.0.1').describe(`Address to bind ${what} to. Loopback unless told otherwise.`),
    port: z.number().int().min(0).max(65_535).default(port).describe('TCP port; 0 lets the system choose.'),
  });
}

const clientTls = z.strictObject({
  certificate: z.string().describe('Certificate (PEM) that the listener proves itself with.'),
  key: z.string().describe('Its private key (PEM), readable by its owner only.'),
  clientCa: z
    .string()
    .optional()
    .describe('CA certificates (PEM): clients must present a certificate of one of them. Without it they need none.'),
  crl: z
    .string()
    .optional()
    .describe("Revocation lists (PEM, any number in one file) that hold here besides the node's own (identity.crl)."),
  names: z
    .array(z.string())
    .default([])
    .describe("Names (common name, DNS or URI), one of which a client's certificate must carry; any when empty."),
});

const tls = z
  .union([z.literal(false), clientTls])
  .default(false)
  .describe('TLS 1.2 or newer on this listener.');

const clientListener = listener(1978, 'the client listener').extend({
  tls,
  policy: policy.optional(),
  tokens: z
    .string()
    .optional()
    .describe('File of the tokens that the policy names (`tokaido client-token`), readable by its owner only.'),
});

const memcachedListener = listener(11_211, 'the memcached listener').extend({
  tls,
  policy: policy.optional(),
  database: z.string().optional().describe('Database it works on, by name or number; the first one when absent.'),
  flags: z
    .boolean()
    .default(false)
    .describe("Keep clients' flags, in the last four bytes of the stored value (opts=f of Kyoto Tycoon's plug-in)."),
  queue: z
    .boolean()
    .default(false)
    .describe('Let set, get and delete work on message queues: a get takes the oldest message and waits (opts=q).'),
  queueTimeoutMs: duration('10s').describe('How long a get waits for a message (qtout).'),
  readOnly: z.boolean().default(false).describe('Refuse everything that changes something (opts=r).'),
});
function isPort(port: number): boolean {
  return port >= 1 && port <= 65_535;
}

const address = z
  .string()
  .regex(/^(\[[0-9a-fA-F:]+\]|[^:[\]]+):\d{1,5}$/, 'must be HOST:PORT')
  .refine((text) => isPort(Number(text.slice(text.lastIndexOf(':') + 1))), 'must have a port from 1 to 65535')
  .transform((text) => {
    const at = text.lastIndexOf(':');
    return { host: text.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(text.slice(at + 1)) };
  });

const ktListener = z.strictObject({
  host: z.string().default('127.0.0.1').describe('Address to bind the listener to. Loopback unless told otherwise.'),
  port: z.number().int().min(0).max(65_535).describe('TCP port; 0 lets the system choose.'),
  allow: z
    .array(z.union([z.ipv4(), z.ipv6()]))
    .max(256)
    .default([])
    .describe(
      'Addresses that may follow, each in full. Needed unless tls.clientCa asks for certificates: whoever follows reads everything, in plaintext without tls.',
    ),
  scopes: ktScopes.optional(),
  tls: z
    .union([z.literal(false), clientTls])
    .default(false)
    .describe('TLS 1.2 or newer on this listener.'),
});

const upstream = z.strictObject({
  address: address.describe('HOST:PORT of the replication listener of a relay or root.'),
  name: z
    .string()
    .optional()
    .describe('Name its certificate must carry; any relay or root of the cluster when absent.'),
  region: z.string().optional().describe('Region it stands in. Those of the own region come first.'),
  priority: z.number().int().min(0).max(1000).default(0).describe('Lower ones come first within a region.'),
});

const peer = z.strictObject({
  address: address.describe('HOST:PORT of the replication listener of the other root.'),
  name: z.string().optional().describe('Name its certificate must carry; any root of the cluster when absent.'),
});

const databaseExpression = z.string().superRefine((text, context) => {
  try {
    parseDatabase(text);
  } catch (error) {
    context.addIssue({ code: 'custom', message: messageOf(error) });
  }
});
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

const postgres = z.strictObject({
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

const lines = z.strictObject({
  file: z.string().describe('File with JSON lines, which is followed; `-` for standard input.'),
  database: z.string().default('default').describe('Database of changes that name none.'),
  skipMalformed: z
    .boolean()
    .default(false)
    .describe('Leave out and count lines that mean nothing, rather than stop at them.'),
  maxLineBytes: size('4MiB').describe('Longest line.'),
  pollMs: duration('100ms').describe('How often the end of a file is looked at.'),
});

const kyotoTycoon = z.strictObject({
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

export const schema = z.strictObject({
  name: z.string().optional().describe("The node's name; when given, it must equal the certificate's."),
  role: z.enum(['root', 'relay', 'edge']).describe("What this node is; must equal the certificate's role."),
  data: z.string().describe('Data directory.'),
  region: z.string().optional().describe('Region this node stands in, to choose among upstreams.'),
  sid: z.number().int().min(1).max(65_535).optional().describe('Server id of a root, unique in the cluster.'),
  databases: z
    .array(databaseExpression)
    .min(1)
    .default(['default'])
    .describe(
      "Databases in the order of Kyoto Tycoon's numbers: plain names (on disk), or ktserver's expressions such as `:`, `*#capsiz=64m`, `casket.kct#opts=c`.",
    ),
  identity: z
    .union([
      z.literal(false),
      z.strictObject({
        certificate: z
          .string()
          .default('node.crt')
          .describe("The node's certificate (PEM); those of CAs between it and the root CA behind it."),
        key: z.string().default('node.key').describe('Its private key (PEM), readable by its owner only.'),
        ca: z
          .string()
          .default('ca.crt')
          .describe("The cluster's CA certificate (PEM); several in one file are all believed."),
        crl: z
          .string()
          .optional()
          .describe('Revocation lists (PEM, any number in one file), for other nodes and for clients.'),
        renew: z
          .boolean()
          .default(true)
          .describe('Renew the certificate after two thirds of its life, over the link to the upstream.'),
      }),
    ])
    .prefault({})
    .describe('Certificate, key and CA; false for a root that stands alone, without replication.'),
  signing: z
    .union([
      z.literal(false),
      z.strictObject({
        ca: z.string().describe('Folder of the CA, best an intermediate (`tokaido ca intermediate`).'),
        passphraseFile: z.string().optional().describe("File with the passphrase of the CA's key."),
        days: z.number().positive().max(3650).default(7).describe('How long the certificates it signs are valid.'),
      }),
    ])
    .default(false)
    .describe('Sign certificates for machines that join and for nodes that renew theirs; root only. False: do not.'),
  listen: z
    .strictObject({
      clients: z
        .union([z.literal(false), clientListener, z.array(clientListener).max(16)])
        .prefault({})
        .describe('Clients: HTTP and the binary protocol; one listener, a list of them, or false for none.'),
      memcached: z
        .union([z.literal(false), memcachedListener, z.array(memcachedListener).max(16)])
        .default(false)
        .describe("memcached's text protocol; one listener, a list of them, or false for none."),
      replication: z
        .union([z.literal(false), listener(1979, 'the replication listener')])
        .prefault({})
        .describe('Followers, over mutual TLS; roots and relays only.'),
      kyotoTycoon: z
        .union([z.literal(false), ktListener])
        .default(false)
        .describe(
          "Followers that are Kyoto Tycoon servers (-mhost, -mport), in that server's own replication; false for none.",
        ),
      admin: z
        .union([z.literal(false), listener(1980, 'the admin listener')])
        .prefault({})
        .describe('Health, status and metrics; false for none.'),
    })
    .prefault({})
    .describe('Listeners.'),
  upstreams: z.array(upstream).max(64).default([]).describe('Whom a relay or edge follows, in order of preference.'),
  peers: z
    .array(peer)
    .max(16)
    .default([])
    .describe(
      'The other roots of the cluster, which take writes too: each names all others, and has a sid of its own. Root only.',
    ),
  replaces: z
    .array(z.number().int().min(1).max(65_535))
    .max(64)
    .default([])
    .describe(
      'Server ids of roots whose place this root has taken (`tokaido promote`): what followers have of them and this root has not, it takes back.',
    ),
  standby: z
    .boolean()
    .default(false)
    .describe('A root that exchanges with its peers and takes no writes itself, until `tokaido promote`.'),
  durability: z
    .enum(['flushed', 'committed'])
    .optional()
    .describe(
      'What an acknowledged write survives: the power (flushed) or only the process (committed). Default: flushed on a root, committed elsewhere.',
    ),
  store: z
    .strictObject({
      flush: z
        .enum(['commits', 'at-stop'])
        .default('commits')
        .describe(
          'commits: each commit goes to the disk in the background. at-stop: only an orderly stop does; a commit costs a quarter, and after a power cut the node throws its data away and is seeded anew. Not on a root.',
        ),
      maxSizeBytes: size('64GiB').describe(
        'Once the data has this size on the disk, a root takes only removals. The file may be larger by what is free in it.',
      ),
      commitIntervalMs: z
        .number()
        .int()
        .nonnegative()
        .default(0)
        .describe('Least time between two commits, ms. A few ms save processor time where many nodes share a machine.'),
      commitChanges: count(2000).describe('A commit takes no more once it has this many changes.'),
      commitBytes: size('1MiB').describe('Likewise, in bytes.'),
      expiryIntervalMs: duration('1s').describe('How often expired records are collected and the log is trimmed.'),
    })
    .prefault({})
    .describe('The store.'),
  memory: z
    .strictObject({
      saveIntervalMs: duration('0s', { least: 0 }).describe(
        'How often databases in memory are saved in the background; 0 never. Without it they come back after a start as far as the update log reaches.',
      ),
      compress: z.boolean().default(false).describe('Compress what is saved.'),
    })
    .prefault({})
    .describe('Databases in memory.'),
  backup: z
    .strictObject({
      commands: z
        .string()
        .optional()
        .describe(
          'Folder of programs, any of which a client may have run on a copy of a database (`synchronize` with `command`). None can be run when absent.',
        ),
      timeLimitMs: duration('10m').describe('How long copying a database and its program may take together.'),
    })
    .prefault({})
    .describe("Backups that clients ask for, as with ktserver's -cmd."),
  log: z
    .strictObject({
      retainBytes: size('256MiB').describe('The update log is cut beyond this size.'),
      retainAgeMs: duration('24h', { most: Number.MAX_SAFE_INTEGER }).describe('And beyond this age.'),
    })
    .prefault({})
    .describe('The update log. A follower that was away longer is brought up by a snapshot.'),
  replication: z
    .strictObject({
      heartbeatMs: duration('500ms').describe('How often an upstream says that it is there and how new its data is.'),
      proofMs: duration('5s').describe(
        'How often a root sends the hashes of its databases, which every follower compares with its own.',
      ),
      silenceMs: duration('10s').describe('An upstream that says nothing for this long is given up.'),
      staleMs: duration('30s').describe(
        'When the data is older than this and another upstream has newer, the node changes over, with its position.',
      ),
      returnMs: duration('30s').describe(
        'A better upstream (region, priority, order) is returned to when it was there again for so long; longer when that ended badly soon.',
      ),
      reconnectMinMs: duration('100ms').describe('First wait before connecting again (with jitter).'),
      reconnectMaxMs: duration('5s').describe('Longest such wait.'),
      scopes,
      clockLimitMs: duration('5s').describe(
        "How far another root's clock may be off from this one's before they refuse each other.",
      ),
      maxFollowers: count(1024).describe('Most connections from followers.'),
      followerQueueBytes: size('4MiB').describe('Bytes that may wait for one follower in memory.'),
      ringBytes: size('8MiB').describe('Newest log kept in memory for followers that are a moment behind.'),
      unappliedBytes: size('16MiB').describe('Bytes received and not yet applied before the upstream is made to wait.'),
      snapshots: count(1).describe('Snapshots sent at the same time; more followers wait their turn.'),
      snapshotBytesPerSecond: quantity(SIZE_UNITS, '10MiB', { least: 1024, most: LARGEST_SIZE })
        .optional()
        .describe('Speed of one snapshot, in bytes a second. As fast as the link when absent.'),
      snapshotCompression: on.describe('Compress snapshots: zstd, or DEFLATE before Node 22.15.'),
      snapshotInsteadFactor: count(4).describe('A log so many times as large as the data: a snapshot goes instead.'),
      snapshotInsteadBytes: size('64MiB').describe('Not when that log is smaller than this.'),
      recoveryWaitMs: duration('30s').describe('How long a root waits for its followers after a power cut.'),
    })
    .prefault({})
    .describe('Replication.'),
  limits: z
    .strictObject({
      keyBytes: z.number().int().positive().max(LONGEST_KEY_BYTES).default(1024).describe('Longest key; at most 1900.'),
      valueBytes: size('16MiB').describe('Largest value.'),
      transactionBytes: size('32MiB').describe('Largest transaction.'),
      queuedWrites: count(100_000).describe('Most writes waiting for the disk; more are refused.'),
      databases: z.number().int().positive().max(4096).default(256).describe('Most databases.'),
      connections: count(10_000).describe('Most client connections of a listener.'),
      idleMs: duration('10m', { least: 0 }).describe(
        'A client connection on which nothing happens for so long is closed; 0 never.',
      ),
      patienceMs: duration('30s').describe(
        'How long a client may keep the node waiting in the middle of a request, or not take its answers.',
      ),
      slowestBytesPerSecond: size('16KiB').describe(
        'A long request or answer gets as much more time as it needs at this speed.',
      ),
      clientBytes: size('512MiB').describe(
        'Memory that all clients together may hold in requests and answers. Beyond it the connection that holds most is closed.',
      ),
    })
    .prefault({})
    .describe('Limits. What exceeds one is refused with an error that names it.'),
  postgres: postgres.optional().describe('The Postgres feed; root only.'),
  lines: lines.optional().describe('JSON lines as the source of a root; docs/feeds.md.'),
  kyotoTycoon: kyotoTycoon.optional().describe('A Kyoto Tycoon server that this root follows; root only.'),
  encryption: z
    .union([
      z.literal(false),
      z.strictObject({
        keyFile: z
          .string()
          .optional()
          .describe('File of keys (`tokaido encryption key`), readable by its owner only: the current one first.'),
        keyCommand: z
          .array(z.string().min(1))
          .min(1)
          .optional()
          .describe('Program and parameters that print such a file, instead of keyFile; run at each start.'),
        databases: z
          .array(z.string().min(1))
          .min(1)
          .describe('Databases whose values are encrypted on the disk; `*` for all. The update log is encrypted too.'),
      }),
    ])
    .default(false)
    .describe('Encryption of values on the disk of this node (AES-256-GCM); false for none.'),
  audit: z
    .union([
      z.literal(false),
      z.strictObject({
        file: z.string().default('audit.log').describe('The file that grows; full ones lie beside it, with a number.'),
        maxBytes: size('64MiB').describe('A file that would grow beyond this is put aside.'),
        keep: count(10).describe('Most full files that are kept.'),
      }),
    ])
    .default(false)
    .describe('Audit log: who connected or was refused, why, and by which certificate; chained lines. false for none.'),
  logging: z
    .strictObject({
      level: z.enum(['debug', 'info', 'warn', 'error']).default('info').describe('Least severity that is logged.'),
    })
    .prefault({})
    .describe('Logging: JSON lines on standard error.'),
});

type Parsed = z.output<typeof schema>;

/** A node's configuration, complete and checked. Paths are absolute, sizes in bytes, durations in ms. */
export type NodeConfig = Omit<
  Parsed,
  'upstreams' | 'peers' | 'durability' | 'limits' | 'databases' | 'listen' | 'postgres'
> & {
  readonly postgres?:
    | (Omit<NonNullable<Parsed['postgres']>, 'tables'> & { readonly tables: readonly TableMapping[] })
    | undefined;
  readonly listen: Omit<Parsed['listen'], 'clients' | 'memcached'> & {
    readonly clients: readonly ClientListenerConfig[];
    readonly memcached: readonly MemcachedListenerConfig[];
  };
  readonly databases: readonly DatabaseSpec[];
  readonly upstreams: readonly UpstreamAddress[];
  readonly peers: readonly UpstreamAddress[];
  readonly durability: 'flushed' | 'committed';
  readonly limits: Parsed['limits'];
};
/** A listener for clients. */
export type ClientListenerConfig = z.output<typeof clientListener>;
/** A listener for memcached's clients. */
export type MemcachedListenerConfig = z.output<typeof memcachedListener>;
/** What a listener proves, and asks of clients. */
export type ListenerTls = z.output<typeof clientTls>;
/** The `postgres` section. */
export type PostgresSection = NonNullable<Parsed['postgres']>;
