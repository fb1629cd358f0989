/** Connections to Postgres: one kind for SQL, one for the replication stream. The only file that knows the `pg` library. */
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import pg from 'pg';
import { messageOf, TokaidoError } from '../../base/errors.js';

export interface ConnectionConfig {
  /** URL; its password is replaced by the one in `passwordFile` when that is given. */
  readonly connection: string;
  readonly passwordFile?: string | undefined;
}

/** Text forms that do not depend on the server's configuration. */
const SETTINGS =
  '-c datestyle=ISO -c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex -c intervalstyle=iso_8601';
const CONNECT_TIMEOUT_MS = 10_000;

function options({ connection, passwordFile }: ConnectionConfig, applicationName: string): pg.ClientConfig {
  const password = passwordFile === undefined ? {} : { password: readFileSync(passwordFile, 'utf8').trimEnd() };
  return {
    connectionString: connection,
    ...password,
    application_name: applicationName,
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
export async function connectSql(config: ConnectionConfig, applicationName: string): Promise<pg.Client> {
  return await connect(config, new pg.Client(options(config, applicationName)));
}

async function connect(config: ConnectionConfig, client: pg.Client): Promise<pg.Client> {
  // An error between two queries is an event; the next query reports it.
  client.on('error', () => undefined);
  try {
    await client.connect();
  } catch (error) {
    throw new TokaidoError('FEED', `cannot connect to Postgres at ${describeTarget(config)}: ${messageOf(error)}`, {
      hint: 'check postgres.connection, the server, and pg_hba.conf; the feed tries again by itself',
      cause: error,
    });
  }
  return client;
}

/** What the library does not declare but has: the connection under a client. */
interface RawConnection {
  readonly stream: Socket;
  on(event: 'copyData', listener: (message: { readonly chunk: Buffer }) => void): void;
  sendCopyFromChunk(chunk: Buffer): void;
}

/** A connection in replication mode. */
export class ReplicationConnection {
  readonly #client: pg.Client;
  readonly #raw: RawConnection;

  private constructor(client: pg.Client) {
    this.#client = client;
    this.#raw = (client as unknown as { readonly connection: RawConnection }).connection;
  }

  /** Errors: `FEED`. */
  static async open(config: ConnectionConfig, applicationName: string): Promise<ReplicationConnection> {
    const replication = { ...options(config, applicationName), replication: 'database' };
    return new ReplicationConnection(await connect(config, new pg.Client(replication)));
  }

  /** One replication command that answers with rows. */
  async command(sql: string): Promise<readonly Record<string, string | null>[]> {
    return (await this.#client.query<Record<string, string | null>>(sql)).rows;
  }

  /** Streams until the connection ends: rejects with the reason then. */
  async stream(sql: string, onData: (chunk: Buffer) => void): Promise<never> {
    this.#raw.on('copyData', ({ chunk }) => onData(chunk));
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
