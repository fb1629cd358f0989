/** Connections to Postgres: one kind for SQL, one for the replication stream. The only file that knows the `pg` library. */
import { execFile } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import type { Socket } from 'node:net';
import type pg from 'pg';
import { assert, codeOf, messageOf, TokaidoError } from '../../base/errors.js';
import type { Runtime } from '../../base/runtime.js';
import { MessageTap, type OnMessage } from './tap.js';

export interface ConnectionConfig {
  /** URL; its password is replaced by the one in `passwordFile` when that is given. */
  readonly connection: string;
  /** URLs of servers that may become the primary. */
  readonly standbys?: readonly string[] | undefined;
  readonly passwordFile?: string | undefined;
  /** Program and its arguments; what it prints is the password. Run for every connection: passwords may change. */
  readonly passwordCommand?: readonly string[] | undefined;
}

/**
 * Text forms that do not depend on the server's configuration. What we commit (heartbeats) is on the server's disk then,
 * and waits for no standby.
 */
const SETTINGS =
  '-c datestyle=ISO -c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex -c intervalstyle=iso_8601 -c synchronous_commit=local';
const CONNECT_TIMEOUT_MS = 10_000;

/** Postgres cuts longer names. */
const MAX_NAME_BYTES = 63;
/** Longest wait for a polite end of a connection. */
const END_LIMIT_MS = 1_000;

/** A name for connections, as Postgres will know it. */
export function applicationName(text: string): string {
  return text.slice(0, MAX_NAME_BYTES);
}

/** Errors: `FEED` when it cannot be read, or others could read it too. */
function readPassword(path: string): string {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new TokaidoError('FEED', `cannot read the password file ${path}: ${messageOf(error)}`, {
      hint: 'check postgres.passwordFile and the permissions of the file',
      cause: error,
    });
  }
  if (process.platform !== 'win32' && (statSync(path).mode & 0o077) !== 0) {
    throw new TokaidoError('FEED', `the password file ${path} can be read by others`, {
      hint: `run: chmod 600 ${path}`,
    });
  }
  return text.trimEnd();
}

/** Longest run of a program that says the password, and longest password. */
const COMMAND_LIMIT_MS = 10_000;
const MAX_PASSWORD_BYTES = 64 * 1024;

/** Errors: `FEED`. Neither the password nor what the program wrote is repeated. */
async function askPassword([program = '', ...parameters]: readonly string[]): Promise<string> {
  const limits = { timeout: COMMAND_LIMIT_MS, killSignal: 'SIGKILL', maxBuffer: MAX_PASSWORD_BYTES } as const;
  const { error, output } = await new Promise<{ error: Error | null; output: string }>((resolve) => {
    execFile(program, parameters, limits, (failure, stdout) => resolve({ error: failure, output: stdout }));
  });
  if (error === null && output.trimEnd() !== '') return output.trimEnd();
  const code = codeOf(error) ?? (error as { code?: unknown } | null)?.code;
  const why = error === null ? 'printed nothing' : `failed${code == null ? '' : ` (${String(code)})`}`;
  throw new TokaidoError('FEED', `the program ${program} of postgres.passwordCommand ${why}`, {
    hint: `it must print the password within ${COMMAND_LIMIT_MS / 1000} s and end with 0`,
  });
}

/** The URL with this password: what stands in the URL goes before what the library is given beside it. */
function withPassword(connection: string, password: string): string {
  const url = new URL(connection);
  url.searchParams.set('password', password);
  return url.href;
}

async function options(config: ConnectionConfig, name: string): Promise<pg.ClientConfig> {
  const { connection, passwordFile, passwordCommand } = config;
  let url = connection;
  if (passwordFile !== undefined) url = withPassword(connection, readPassword(passwordFile));
  else if (passwordCommand !== undefined) url = withPassword(connection, await askPassword(passwordCommand));
  return {
    connectionString: url,
    application_name: name,
    options: SETTINGS,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    keepAlive: true,
    // Values as Postgres writes them: the mapping decides what they mean.
    types: { getTypeParser: () => (value: string) => value } as never,
  };
}

/** Where a connection goes, without its secrets. */
export function describeTarget({ connection }: ConnectionConfig): string {
  try {
    const { hostname, port, pathname } = new URL(connection);
    return `${hostname}:${port === '' ? 5432 : port}${pathname}`;
  } catch {
    return 'the configured server';
  }
}

/** Errors: `FEED`. */
export async function connectSql(config: ConnectionConfig, name: string): Promise<pg.Client> {
  const { Client } = await library();
  return await connect(config, new Client(await options(config, name)));
}

/** Loaded when it is first needed: most nodes have no Postgres, and it takes 80 ms and 6 MB. */
async function library(): Promise<typeof pg> {
  return (await import('pg')).default;
}

/** The server that takes writes, among all that there may be. */
export interface Primary {
  readonly sql: pg.Client;
  /** Its URL. */
  readonly connection: string;
}

/**
 * Connects to all addresses at once, and keeps the first that is a primary. A former primary that came back is none: where
 * there are standbys, its timeline has to be `leastTimeline` at least. Errors: `FEED`, with what each address said.
 */
export async function connectPrimary(config: ConnectionConfig, name: string, leastTimeline = 0): Promise<Primary> {
  const { connection, standbys = [] } = config;
  const least = standbys.length === 0 ? 0 : leastTimeline;
  const attempts = [connection, ...standbys].map(async (url): Promise<Primary> => {
    const one = { ...config, connection: url };
    const sql = await connectSql(one, name);
    try {
      await checkPrimary(sql, describeTarget(one), least);
    } catch (error) {
      cut(sql);
      throw error;
    }
    return { sql, connection: url };
  });
  let first: Primary;
  try {
    first = await Promise.any(attempts);
  } catch (error) {
    const errors = error instanceof AggregateError ? (error.errors as Error[]) : [error as Error];
    if (errors.length === 1) throw errors[0];
    throw new TokaidoError('FEED', `no address leads to a primary: ${errors.map(messageOf).join('; ')}`, {
      hint: 'promote a standby; the feed tries again by itself',
    });
  }
  for (const attempt of attempts) {
    attempt.then(
      (other) => other !== first && cut(other.sql),
      () => undefined,
    );
  }
  return first;
}

/** Errors: `FEED` for a standby, and for a primary of an older history. */
async function checkPrimary(sql: pg.Client, target: string, leastTimeline: number): Promise<void> {
  const { rows } = await sql.query<{ standby: string; timeline: string | null }>(
    `SELECT pg_is_in_recovery() AS standby,
            CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline`,
  );
  const { standby, timeline } = rows[0] ?? {};
  if (standby === 't') {
    throw new TokaidoError('FEED', `Postgres at ${target} is a standby`, {
      hint: 'name the primary in postgres.connection; postgres.standbys are servers that may become it',
    });
  }
  if (Number.parseInt(timeline ?? '', 16) >= leastTimeline) return;
  throw new TokaidoError('FEED', `Postgres at ${target} is a former primary: another was promoted since`, {
    hint: 'rebuild it as a standby of the new one',
  });
}

async function connect(config: ConnectionConfig, client: pg.Client): Promise<pg.Client> {
  // An error between two queries is an event; the next query reports it.
  client.on('error', () => undefined);
  try {
    await client.connect();
  } catch (error) {
    // The library leaves the connection open when it cannot answer the server.
    cut(client);
    throw new TokaidoError('FEED', `cannot connect to Postgres at ${describeTarget(config)}: ${reasonOf(error)}`, {
      hint: hintFor(error),
      cause: error,
    });
  }
  return client;
}

/** The error of an address with several hosts has no message of its own. */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return [...new Set(error.errors.map(messageOf))].join('; ');
  return messageOf(error);
}

/** What to do about a connection that was refused, by SQLSTATE or the system's code. */
function hintFor(error: unknown): string {
  if (/client password must be a string/.test(messageOf(error)))
    return 'Postgres asks for a password: name a file that holds it in postgres.passwordFile';
  switch (codeOf(error)) {
    case '28P01':
      return 'check the user in postgres.connection and the password in postgres.passwordFile';
    case '28000':
      return 'allow the role and this address in pg_hba.conf';
    case '3D000':
      return 'check the database in postgres.connection';
    case '42501':
      return 'give the role of postgres.connection the right to replicate: ALTER ROLE name REPLICATION;';
    case '53300':
      return 'raise max_connections or max_wal_senders of Postgres; the feed tries again by itself';
    default:
      return 'check postgres.connection, the server, and pg_hba.conf; the feed tries again by itself';
  }
}

/** Cuts a connection, whatever it is doing: what waits for it fails. */
export function cut(client: pg.Client): void {
  rawOf(client).stream.destroy();
}

/** Ends a connection politely, or cuts it when the server does not react. Never fails. */
export async function endSql(client: pg.Client, runtime: Runtime): Promise<void> {
  const timer = runtime.after(END_LIMIT_MS, () => cut(client));
  await client.end().catch(() => undefined);
  timer.cancel();
}

/** What the library does not declare but has: the connection under a client. */
interface RawConnection {
  readonly stream: Socket;
  sendCopyFromChunk(chunk: Buffer): void;
}

function rawOf(client: pg.Client): RawConnection {
  return (client as unknown as { readonly connection: RawConnection }).connection;
}

/** From now on messages of this kind go to `onMessage`, instead of to the library. */
function tap({ stream }: RawConnection, kind: string, onMessage: OnMessage): void {
  const [library, ...others] = stream.listeners('data');
  assert(library !== undefined && others.length === 0, 'the library alone reads a connection that is open');
  const messages = new MessageTap(kind, onMessage, (bytes) => void library.call(stream, bytes));
  stream.off('data', library as (chunk: Buffer) => void);
  stream.on('data', (chunk: Buffer) => {
    try {
      messages.push(chunk);
    } catch (error) {
      stream.destroy(error as Error);
    }
  });
}

/** Reads the rows of one query after the other as Postgres sends them, through a connection that does nothing else. */
export class RowReader {
  readonly #client: pg.Client;
  #onRow: OnMessage | undefined;

  constructor(client: pg.Client) {
    this.#client = client;
    tap(rawOf(client), 'D', (bytes, start, end) => this.#onRow?.(bytes, start, end));
  }

  /** `onRow` gets each row: the contents of its message DataRow. Resolves behind the last. */
  async read(query: string, onRow: OnMessage): Promise<void> {
    this.#onRow = onRow;
    try {
      await this.#client.query(query);
    } finally {
      this.#onRow = undefined;
    }
  }

  /** Lets Postgres wait. */
  pause(): void {
    rawOf(this.#client).stream.pause();
  }

  resume(): void {
    rawOf(this.#client).stream.resume();
  }
}

/** A connection in replication mode. */
export class ReplicationConnection {
  readonly #client: pg.Client;
  readonly #raw: RawConnection;

  private constructor(client: pg.Client) {
    this.#client = client;
    this.#raw = rawOf(client);
  }

  /** Errors: `FEED`. */
  static async open(config: ConnectionConfig, name: string): Promise<ReplicationConnection> {
    const replication = { ...(await options(config, name)), replication: 'database' };
    const { Client } = await library();
    return new ReplicationConnection(await connect(config, new Client(replication)));
  }

  /** One replication command that answers with rows. */
  async command(sql: string): Promise<readonly Record<string, string | null>[]> {
    return (await this.#client.query<Record<string, string | null>>(sql)).rows;
  }

  /** Streams until the connection ends: rejects with the reason then. `onData` gets what each message CopyData holds, to keep. */
  async stream(sql: string, onData: (chunk: Buffer) => void): Promise<never> {
    tap(this.#raw, 'd', (bytes, start, end) => onData(bytes.subarray(start, end)));
    const ended = new Promise<never>((_, reject) => {
      this.#client.once('end', () => reject(new TokaidoError('FEED', 'Postgres closed the replication connection')));
      this.#client.once('error', (error) =>
        reject(new TokaidoError('FEED', `the replication connection broke: ${error.message}`)),
      );
    });
    const done = this.#client.query(sql).then((): never => {
      throw new TokaidoError('FEED', 'Postgres ended the replication stream');
    });
    return await Promise.race([done, ended]);
  }

  send(chunk: Buffer): void {
    if (this.#raw.stream.writable) this.#raw.sendCopyFromChunk(chunk);
  }

  pause(): void {
    this.#raw.stream.pause();
  }

  resume(): void {
    this.#raw.stream.resume();
  }

  /** Cuts the connection: a stream has no polite end that would not wait for the server. */
  destroy(): void {
    this.#raw.stream.destroy();
  }
}
