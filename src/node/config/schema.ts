/**
 * The one schema of the configuration: every key with its meaning, unit and default. `load.ts` validates a file against
 * it, docs/reference/config.md is generated from it. The `*-schema.ts` beside it are its parts.
 */

import { z } from 'zod';
import { messageOf } from '../../base/errors.js';
import { LONGEST_KEY_BYTES } from '../../commands/commands.js';
import type { TableMapping } from '../../feeds/postgres/mapping.js';
import { MAX_PRIORITY } from '../../replication/following/discovery.js';
import type { UpstreamAddress } from '../../replication/following/upstream-choice.js';
import { type DatabaseSpec, parseDatabase } from '../../store/database-spec.js';
import { kyotoTycoon, lines, postgres } from './feed-schema.js';
import {
  type ClientListenerConfig,
  clientListener,
  ktListener,
  listener,
  type MemcachedListenerConfig,
  memcachedListener,
} from './listener-schema.js';
import { scopes } from './policy-schema.js';
import {
  address,
  addressOrService,
  count,
  dnsServer,
  duration,
  LARGEST_SIZE,
  on,
  quantity,
  SIZE_UNITS,
  size,
} from './quantities.js';

const upstream = z.strictObject({
  address: addressOrService.describe(
    'HOST:PORT of the replication listener of a relay or root. A name with several addresses: each is tried. A name of SRV records (_tokaido._tcp.DOMAIN, no port): each host they name is.',
  ),
  name: z
    .string()
    .optional()
    .describe('Name its certificate must carry; any relay or root of the cluster when absent.'),
  region: z.string().optional().describe('Region it stands in. Those of the own region come first.'),
  priority: z.number().int().min(0).max(MAX_PRIORITY).default(0).describe('Lower ones come first within a region.'),
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

/** The whole file. */
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
  startsAnew: z
    .boolean()
    .default(false)
    .describe(
      'A root whose data directory was emptied on purpose: what followers have of it from before is replaced by what is here. Without this it refuses them. One start with it is enough.',
    ),
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
      removalBytes: size('256MiB').describe(
        'With several roots: what was removed and has not been seen by all of them yet is remembered beyond the log, up to this size. A root that was away for longer cannot be merged.',
      ),
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
      dns: z
        .array(dnsServer)
        .max(8)
        .default([])
        .describe(
          'DNS servers that are asked for names of upstreams, ADDRESS or ADDRESS:PORT. As the machine resolves names when empty.',
        ),
      discover: z
        .boolean()
        .default(false)
        .describe(
          'When no configured upstream serves it, follow another node that has announced itself (replication.announce there). Relays and edges only.',
        ),
      announce: z
        .union([
          z.literal(false),
          z.strictObject({
            address: address
              .refine(({ host }) => !host.startsWith('_'), 'must be an address or a host, not a name of SRV records')
              .describe('HOST:PORT at which followers reach the replication listener of this node.'),
            priority: z
              .number()
              .int()
              .min(0)
              .max(MAX_PRIORITY)
              .default(0)
              .describe('Lower ones are tried first within a region (the region is that of the node).'),
          }),
        ])
        .default(false)
        .describe(
          'Tell all nodes of the cluster, scoped ones too, where followers reach this one; those that discover may follow it. Roots and relays only. False: do not.',
        ),
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
      snapshotResumeMs: duration('1m', { least: 0 }).describe(
        'How long either end keeps a snapshot that was broken off, to go on where it stopped; 0 not at all.',
      ),
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
          .describe(
            'Program and parameters that print such a file, instead of keyFile; run at each start, and at SIGHUP.',
          ),
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
/** The `postgres` section. */
export type PostgresSection = NonNullable<Parsed['postgres']>;
