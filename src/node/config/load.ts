/** Reads a configuration file: YAML to a checked `NodeConfig`, or one error that says where and what instead. */
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { isMap, isSeq, LineCounter, parseDocument, type Node as YamlNode } from 'yaml';
import { z } from 'zod';
import { messageOf, TokaidoError } from '../../base/errors.js';
import { loadFunctions } from '../../feeds/postgres/functions.js';
import { checkMappings } from '../../feeds/postgres/mapping.js';
import { MAX_HOST_CHARACTERS, MAX_REGION_CHARACTERS } from '../../replication/following/discovery.js';
import { type DatabaseSpec, parseDatabases } from '../../store/database-spec.js';
import type { ClientListenerConfig } from './listener-schema.js';
import { EVERYTHING_TO_EVERYBODY, rulesOf } from './policy-schema.js';
import { type NodeConfig, schema } from './schema.js';

/** For who changes a file. From here: in the bundle the package itself, asked for late, has no names to ask for. */
export { parseDocument };

/** The file with `overrides` on top. Errors: `CONFIG`. */
export async function loadConfig(path: string, overrides: object = {}): Promise<NodeConfig> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new TokaidoError('CONFIG', `cannot read the configuration ${path}: ${messageOf(error)}`, { cause: error });
  }
  const config = parseConfig(text, path, overrides);
  const { postgres } = config;
  if (postgres === undefined) return config;
  return { ...config, postgres: { ...postgres, tables: await loadFunctions(postgres.tables) } };
}

const FILE_HINT = 'every key is described in docs/reference/config.md';
const COMMAND_LINE_HINT = 'give --config FILE, or at least --data FOLDER (tokaido serve --help)';

/** A configuration without a file: settings as they would stand in one. Paths are relative to the current folder. */
export function configFrom(settings: object): NodeConfig {
  return check(settings, resolve('settings'), () => 'the command line', COMMAND_LINE_HINT);
}

/** Errors: `CONFIG`, naming file, line, key, and the nearest valid key for an unknown one. */
export function parseConfig(text: string, path: string, overrides: object = {}): NodeConfig {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const [problem] = document.errors;
  if (problem !== undefined) throw new TokaidoError('CONFIG', `${path} is not valid YAML: ${problem.message}`);
  const where = (keys: readonly PropertyKey[]): string => {
    const offset = offsetOf(document.contents, keys);
    return offset === undefined ? path : `${path}:${lines.linePos(offset).line}`;
  };
  const settings = plain(document, path);
  // A file that is no map is checked as it is, and refused.
  return check(isSection(settings) ? merge(settings, overrides) : settings, path, where);
}

/** Overrides win; sections are merged, everything else is replaced. */
function merge(settings: unknown, overrides: unknown): unknown {
  if (!isSection(settings) || !isSection(overrides)) return overrides === undefined ? settings : overrides;
  const keys = new Set([...Object.keys(settings), ...Object.keys(overrides)]);
  return Object.fromEntries([...keys].map((key) => [key, merge(settings[key], overrides[key])]));
}

function isSection(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function check(
  settings: unknown,
  path: string,
  where: (keys: readonly PropertyKey[]) => string,
  hint = FILE_HINT,
): NodeConfig {
  const parsed = schema.safeParse(settings, { reportInput: true });
  if (!parsed.success) {
    const problems = parsed.error.issues.flatMap((issue) => explain(issue, where));
    throw new TokaidoError('CONFIG', problems.join('\n'), { hint });
  }
  const config = complete(parsed.data, dirname(resolve(path)));
  for (const { keys, message } of crossCheck(config)) throw new TokaidoError('CONFIG', `${where(keys)}: ${message}`);
  return config;
}

/** The document as plain values. Errors: `CONFIG` for aliases without an anchor, or that grow without bound. */
function plain(document: ReturnType<typeof parseDocument>, path: string): unknown {
  try {
    return document.toJS() ?? {};
  } catch (error) {
    throw new TokaidoError('CONFIG', `${path} is not valid YAML: ${messageOf(error)}`);
  }
}

/** Where a key stands in the file; where its nearest parent does if it is missing. */
function offsetOf(root: unknown, keys: readonly PropertyKey[]): number | undefined {
  let node = root as YamlNode | null;
  let offset: number | undefined;
  for (const key of keys) {
    if (isSeq(node) && typeof key === 'number') {
      node = node.items[key] as YamlNode | null;
      offset = node?.range?.[0] ?? offset;
      continue;
    }
    if (!isMap(node)) break;
    const pair = node.items.find((item) => String((item.key as { value?: unknown }).value) === String(key));
    if (pair === undefined) break;
    offset = (pair.key as YamlNode).range?.[0];
    node = pair.value as YamlNode | null;
  }
  return offset;
}

function explain(issue: z.core.$ZodIssue, where: (keys: readonly PropertyKey[]) => string): string[] {
  const name = issue.path.map(String).join('.');
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(issue.path);
    return issue.keys.map((key) => {
      const full = [...issue.path, key];
      const near = nearest(key, known);
      const help = near === undefined ? `known are ${known.join(', ')}` : `did you mean ${near}?`;
      return `${where(full)}: unknown key ${full.map(String).join('.')}: ${help}`;
    });
  }
  if (issue.code === 'invalid_union') {
    // Say what is wrong inside the form that came nearest, rather than that none fits.
    const [nearestForm] = issue.errors.filter(isRightForm).toSorted((a, b) => a.length - b.length);
    if (nearestForm !== undefined)
      return nearestForm.flatMap((other) => explain({ ...other, path: [...issue.path, ...other.path] }, where));
  }
  const what = name === '' ? 'the configuration' : name;
  return [`${where(issue.path)}: ${what}: ${isMissing(issue) ? 'is missing' : issue.message}`];
}

/** Whether the value has the form's type, so that only something inside it is wrong. */
function isRightForm(problems: readonly z.core.$ZodIssue[]): boolean {
  return problems.every(({ code, path }) => path.length > 0 || !['invalid_type', 'invalid_value'].includes(code));
}

function isMissing(issue: z.core.$ZodIssue): boolean {
  return /received undefined$/.test(issue.message) || (issue.code === 'invalid_value' && issue.input === undefined);
}

/** The keys that the schema knows at a path. */
function keysAt(path: readonly PropertyKey[]): string[] {
  let node = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
  for (const key of path) {
    const options = [node, ...(node.anyOf ?? [])];
    const next = options
      .map((option) => (typeof key === 'number' ? option.items : option.properties?.[String(key)]))
      .find(Boolean);
    if (next === undefined) return [];
    node = next;
  }
  return [node, ...(node.anyOf ?? [])].flatMap((option) => Object.keys(option.properties ?? {}));
}

/** As much of JSON Schema as the reference and the error texts need. */
export interface JsonSchema {
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
  readonly description?: string;
  readonly default?: unknown;
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly required?: readonly string[];
}

/** The candidate at the smallest edit distance, unless nothing is near. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const ranked = candidates.map((candidate) => ({
    candidate,
    distance: editDistance(word.toLowerCase(), candidate.toLowerCase()),
  }));
  const [best] = ranked.sort((a, b) => a.distance - b.distance);
  return best !== undefined && best.distance <= Math.max(2, word.length / 2) ? best.candidate : undefined;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}

/** Fills what depends on other keys and makes paths absolute. */
function complete(parsed: z.output<typeof schema>, base: string): NodeConfig {
  const path = (file: string): string => resolve(base, file);
  const { identity, postgres, backup } = parsed;
  const { clients, memcached, kyotoTycoon } = parsed.listen;
  const passwordFile = postgres?.passwordFile;
  return {
    ...parsed,
    data: path(parsed.data),
    audit: parsed.audit === false ? false : { ...parsed.audit, file: path(parsed.audit.file) },
    databases: withEncryption(parseDatabases(parsed.databases), parsed.encryption),
    encryption: withKeyFile(parsed.encryption, path),
    identity: identity === false ? false : absoluteIdentity(identity, path),
    backup: { ...backup, ...(backup.commands === undefined ? {} : { commands: path(backup.commands) }) },
    signing: parsed.signing === false ? false : absoluteSigning(parsed.signing, path),
    upstreams: parsed.upstreams.map(({ address, ...upstream }) => ({ ...address, name: undefined, ...upstream })),
    peers: parsed.peers.map(({ address, ...peer }) => ({ ...address, name: undefined, ...peer })),
    durability: parsed.durability ?? (parsed.role === 'root' ? 'flushed' : 'committed'),
    listen: {
      ...parsed.listen,
      // An edge has no followers, and without an identity there can be none.
      replication: parsed.role === 'edge' || identity === false ? false : parsed.listen.replication,
      clients: (clients === false ? [] : [clients].flat()).map((listener) => {
        const { tokens, ...rest } = withPaths(listener, path);
        return tokens === undefined ? rest : { ...rest, tokens: path(tokens) };
      }),
      memcached: (memcached === false ? [] : [memcached].flat()).map((listener) => withPaths(listener, path)),
      kyotoTycoon: kyotoTycoon === false ? false : withPaths(kyotoTycoon, path),
    },
    ...(parsed.lines === undefined || parsed.lines.file === '-'
      ? {}
      : { lines: { ...parsed.lines, file: path(parsed.lines.file) } }),
    ...(postgres === undefined
      ? {}
      : {
          postgres: {
            ...postgres,
            tables: postgres.tables.map(({ value, ...mapping }) => {
              return { ...mapping, value: 'module' in value ? { ...value, module: path(value.module) } : value };
            }),
            ...(passwordFile === undefined ? {} : { passwordFile: path(passwordFile) }),
          },
        }),
  };
}

type EncryptionConfig = z.output<typeof schema>['encryption'];

function withEncryption(specs: readonly DatabaseSpec[], encryption: EncryptionConfig): readonly DatabaseSpec[] {
  const names = encryption === false ? [] : encryption.databases;
  return specs.map((spec) => ({ ...spec, encrypted: names.includes('*') || names.includes(spec.name) }));
}

function withKeyFile(encryption: EncryptionConfig, path: (file: string) => string): EncryptionConfig {
  if (encryption === false || encryption.keyFile === undefined) return encryption;
  return { ...encryption, keyFile: path(encryption.keyFile) };
}

/** What would bring values of encrypted databases to the disk in plain is refused. */
function* checkEncryption({ encryption, databases, memory, backup }: NodeConfig): Generator<Problem> {
  if (encryption === false) return;
  const keys = ['encryption'];
  if ((encryption.keyFile === undefined) === (encryption.keyCommand === undefined))
    yield { keys, message: 'encryption needs keyFile or keyCommand, one of them' };
  const unknown = encryption.databases.find((name) => name !== '*' && !databases.some((known) => known.name === name));
  if (unknown !== undefined)
    yield { keys, message: `encryption.databases names ${unknown}, which is not in databases of this node` };
  if (memory.saveIntervalMs > 0 && databases.some(({ encrypted, storage }) => encrypted && storage === 'memory'))
    yield { keys, message: 'encrypted databases in memory cannot be saved: set memory.saveIntervalMs to 0' };
  if (backup.commands !== undefined)
    yield { keys, message: 'backup.commands would get copies of encrypted databases in plain: leave one of them out' };
}

type SigningConfig = Exclude<NodeConfig['signing'], false>;
type IdentityConfig = Exclude<NodeConfig['identity'], false>;
type TlsConfig = Exclude<ClientListenerConfig['tls'], false>;

function withPaths<L extends { readonly tls: false | TlsConfig }>(listener: L, path: (file: string) => string): L {
  return { ...listener, tls: listener.tls === false ? false : absoluteTls(listener.tls, path) };
}

function absoluteTls(tls: TlsConfig, path: (file: string) => string): TlsConfig {
  const { names, ...files } = tls;
  return { names, ...mapFiles(files, path) };
}

/** Every path of a section made absolute; what was not given stays absent. */
function mapFiles<F extends Readonly<Record<string, string | undefined>>>(files: F, path: (file: string) => string): F {
  const entries = Object.entries(files).filter(([, file]) => file !== undefined);
  return Object.fromEntries(entries.map(([key, file]) => [key, path(file as string)])) as F;
}

function absoluteSigning(signing: SigningConfig, path: (file: string) => string): SigningConfig {
  const { days, ...files } = signing;
  return { days, ...mapFiles(files, path) };
}

function absoluteIdentity(identity: IdentityConfig, path: (file: string) => string): IdentityConfig {
  const { renew, ...files } = identity;
  return { renew, ...mapFiles(files, path) };
}

type Problem = { readonly keys: readonly string[]; readonly message: string };

function* checkListeners({ listen, role, databases }: NodeConfig): Generator<Problem> {
  for (const kind of ['clients', 'memcached'] as const) {
    for (const { tls } of listen[kind]) {
      if (tls !== false && tls.names.length > 0 && tls.clientCa === undefined)
        yield { keys: ['listen', kind], message: 'tls.names needs tls.clientCa: without it clients present no name' };
    }
  }
  for (const listener of listen.clients) yield* checkPolicy(listener, ['listen', 'clients']);
  for (const listener of listen.memcached) {
    yield* checkPolicy(listener, ['listen', 'memcached']);
    if (rulesOf(listener.policy)?.some(({ tokens }) => tokens.length > 0) === true)
      yield { keys: ['listen', 'memcached'], message: 'memcached has no tokens: name certificates, or anonymous' };
  }
  for (const { database, queue, readOnly } of listen.memcached) {
    const isKnown = databases.some(({ name }, index) => database === name || database === String(index));
    // A follower gets databases that its own configuration does not name.
    if (database !== undefined && role === 'root' && !isKnown)
      yield { keys: ['listen', 'memcached'], message: `database ${database} is not in databases` };
    if (queue && readOnly)
      yield { keys: ['listen', 'memcached'], message: 'a queue cannot be readOnly: to take a message is to change it' };
  }
}

const LOOPBACK = /^(127\.|::1$|localhost$)/;

function* checkPolicy(
  { host, port, tls, policy, tokens }: Pick<ClientListenerConfig, 'host' | 'port' | 'tls' | 'policy' | 'tokens'>,
  keys: readonly string[],
): Generator<Problem> {
  const rules = rulesOf(policy);
  const certificates = rules?.some((rule) => rule.certificates.length > 0) === true;
  const named = rules?.some((rule) => rule.tokens.length > 0) === true;
  const asksCertificates = tls !== false && tls.clientCa !== undefined;
  if (policy === undefined && !asksCertificates && !LOOPBACK.test(host)) {
    const open = `on ${host}:${port} whoever reaches it could do everything`;
    yield {
      keys,
      message: `${open}: give it a policy, or tls with clientCa, or say policy: ${EVERYTHING_TO_EVERYBODY}`,
    };
  }
  if (certificates && (tls === false || tls.clientCa === undefined))
    yield { keys, message: 'a policy that names certificates needs tls.clientCa: without it clients present none' };
  if (named !== (tokens !== undefined))
    yield {
      keys,
      message: 'a policy that names tokens needs the file they are in (tokens), and the file such a policy',
    };
  if (named && tls === false && !LOOPBACK.test(host))
    yield {
      keys,
      message: 'tokens would cross the network in plaintext: give the listener tls, or bind it to loopback',
    };
}

function* checkPeers({
  role,
  peers,
  identity,
  listen,
  standby,
  replaces,
  startsAnew,
  sid,
}: NodeConfig): Generator<Problem> {
  if (standby && peers.length === 0) yield { keys: ['standby'], message: 'a root that stands by needs peers' };
  if (startsAnew && role !== 'root') yield { keys: ['startsAnew'], message: 'only a root starts anew' };
  if (replaces.length > 0 && role !== 'root') yield { keys: ['replaces'], message: 'only a root replaces roots' };
  if (replaces.some((replaced) => replaced === sid))
    yield { keys: ['replaces'], message: 'a root that replaces others has a sid of its own' };
  if (peers.length === 0) return;
  const keys = ['peers'];
  if (role !== 'root') yield { keys, message: 'only roots have peers: a relay or edge has upstreams' };
  if (identity === false) yield { keys, message: 'roots that exchange prove who they are: remove identity: false' };
  if (listen.replication === false)
    yield { keys, message: 'roots that exchange follow each other: listen.replication must be open' };
}

function* checkDiscovery({ role, identity, listen, region, replication }: NodeConfig): Generator<Problem> {
  const { announce, discover } = replication;
  if (discover && role === 'root')
    yield { keys: ['replication', 'discover'], message: 'a root follows nobody: only relays and edges discover' };
  if (announce === false) return;
  const keys = ['replication', 'announce'];
  if (role === 'edge') yield { keys, message: 'an edge has no followers: only roots and relays announce themselves' };
  else if (identity === false || listen.replication === false)
    yield { keys, message: 'nobody can follow this node: listen.replication must be open, with an identity' };
  if (announce.address.host.length > MAX_HOST_CHARACTERS)
    yield { keys, message: `the host may have at most ${MAX_HOST_CHARACTERS} characters` };
  if (region !== undefined && region.length > MAX_REGION_CHARACTERS)
    yield { keys: ['region'], message: `a region that is announced has at most ${MAX_REGION_CHARACTERS} characters` };
}

/** What the schema cannot say: rules between keys. */
function* crossCheck(config: NodeConfig): Generator<Problem> {
  yield* checkPeers(config);
  yield* checkDiscovery(config);
  if (config.role === 'root') {
    if (config.sid === undefined)
      yield { keys: ['role'], message: 'a root needs sid: its server id, 1 to 65535, unique in the cluster' };
    if (config.upstreams.length > 0)
      yield { keys: ['upstreams'], message: 'a root follows nobody: remove upstreams, or make this node a relay' };
  } else {
    if (config.signing !== false) yield { keys: ['signing'], message: 'only a root signs certificates' };
    if (config.identity === false)
      yield { keys: ['identity'], message: 'only a root can stand alone: a node that follows proves who it is' };
    if (config.upstreams.length === 0)
      yield {
        keys: ['role'],
        message: `${config.role === 'edge' ? 'an edge' : 'a relay'} needs upstreams: whom to follow`,
      };
    if (config.sid !== undefined)
      yield { keys: ['sid'], message: 'only a root has a sid: this node takes no writes of its own' };
    if (config.postgres !== undefined) yield { keys: ['postgres'], message: 'only a root is fed from Postgres' };
    if (config.lines !== undefined) yield { keys: ['lines'], message: 'only a root is fed with lines' };
    if (config.kyotoTycoon !== undefined)
      yield { keys: ['kyotoTycoon'], message: 'only a root follows a Kyoto Tycoon server' };
  }
  if (config.postgres?.passwordFile !== undefined && config.postgres.passwordCommand !== undefined)
    yield { keys: ['postgres', 'passwordCommand'], message: 'give passwordFile or passwordCommand, not both' };
  const { lines } = config;
  if (lines !== undefined && (config.postgres !== undefined || config.kyotoTycoon !== undefined))
    yield { keys: ['lines'], message: 'a root has one source: remove lines, postgres or kyotoTycoon' };
  if (lines !== undefined && !config.databases.some(({ name }) => name === lines.database))
    yield { keys: ['lines', 'database'], message: `lines.database is ${lines.database}, which is not in databases` };
  yield* checkKyotoTycoon(config);
  if (config.store.flush === 'at-stop' && (config.role === 'root' || config.durability === 'flushed')) {
    yield { keys: ['store', 'flush'], message: 'at-stop is for followers that promise no flushed writes' };
  }
  yield* checkListeners(config);
  yield* checkEncryption(config);
  for (const { name, storage } of config.databases) {
    if (storage === 'disk' && name.includes('~'))
      yield { keys: ['databases'], message: `a database is named twice: ${name.slice(0, name.indexOf('~'))}` };
  }
  try {
    checkMappings(config.postgres?.tables ?? []);
  } catch (error) {
    yield { keys: ['postgres', 'tables'], message: messageOf(error) };
  }
  for (const { table, database } of config.postgres?.tables ?? []) {
    if (!config.databases.some(({ name }) => name === database)) {
      yield {
        keys: ['postgres', 'tables'],
        message: `table ${table} goes to database ${database}, which is not in databases`,
      };
    }
  }
  if (config.limits.valueBytes + config.limits.keyBytes > config.limits.transactionBytes) {
    yield { keys: ['limits'], message: 'limits.transactionBytes must have room for a value of limits.valueBytes' };
  }
  if (config.limits.transactionBytes > 64 * 2 ** 20) {
    yield {
      keys: ['limits'],
      message: 'limits.transactionBytes may be at most 64MiB: a transaction travels in one frame',
    };
  }
}

function* checkKyotoTycoon(config: NodeConfig): Generator<{ keys: readonly string[]; message: string }> {
  const { kyotoTycoon: listener } = config.listen;
  if (
    listener !== false &&
    listener.allow.length === 0 &&
    (listener.tls === false || listener.tls.clientCa === undefined)
  )
    yield {
      keys: ['listen', 'kyotoTycoon'],
      message: 'listen.kyotoTycoon needs allow (the addresses that may follow), or tls with clientCa',
    };
  if (
    listener !== false &&
    listener.scopes !== undefined &&
    (listener.tls === false || listener.tls.clientCa === undefined)
  )
    yield {
      keys: ['listen', 'kyotoTycoon'],
      message: 'listen.kyotoTycoon.scopes needs tls.clientCa: without it peers present no name',
    };
  if (listener !== false && listener.scopes === undefined && Array.isArray(config.replication.scopes))
    yield {
      keys: ['listen', 'kyotoTycoon'],
      message:
        'with replication.scopes, listen.kyotoTycoon needs scopes of its own: else its peers would see everything',
    };
  const { kyotoTycoon } = config;
  if (kyotoTycoon === undefined) return;
  if (config.postgres !== undefined)
    yield { keys: ['kyotoTycoon'], message: 'a root has one source: remove postgres or kyotoTycoon' };
  const unknown = kyotoTycoon.databases?.find((name) => !config.databases.some((known) => known.name === name));
  if (unknown !== undefined)
    yield {
      keys: ['kyotoTycoon', 'databases'],
      message: `kyotoTycoon.databases names ${unknown}, which is not in databases`,
    };
}
