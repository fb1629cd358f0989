/**
 * Programs of the operator's that a client may have run on a database: `synchronize` with `command`, which is how a
 * Kyoto Tycoon server is backed up while it serves. There the program gets the database's own file. Here it gets a copy
 * of the records at one moment, as lines that `tokaido import` reads, in a file that has the database's name and is gone
 * when the program ends; after it comes, as there, the time stamp that a follower could go on from.
 *
 * A client chooses a program by its name alone, among those in the folder that the configuration gives. No shell is
 * involved, one runs at a time, and copy and program together have a time limit.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { ByteReader } from '../../base/bytes.js';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import { KT_FEED } from '../../feeds/kyoto-tycoon/feed.js';
import { newestVersion } from '../../log/position.js';
import { encodeRecordLine } from '../../protocol/record-lines.js';
import { checkRecord } from '../../store/record.js';
import { type SnapshotContents, SnapshotSource } from '../../store/snapshot.js';
import type { LocalStore } from '../../store/store.js';

export interface BackupOptions {
  /** Folder of the programs. */
  readonly commands: string;
  /** How long a copy and its program may take together, ms. */
  readonly timeLimitMs: number;
  /** Folder for the copy; it is emptied. */
  readonly scratch: string;
  readonly runtime: Runtime;
  readonly log: Logger;
}

/** Rows that are copied at a time: what holds the event loop. */
const SLICE_BYTES = 128 * 1024;
/** What is kept of what a program says on standard error. */
const SAID_CHARACTERS = 2000;
/** A program that was asked to end is killed after this. */
const KILL_MS = 1000;
const TIMESTAMP_DIGITS = 20;

export class BackupCommands {
  readonly #options: BackupOptions;
  #running = false;
  #child: ChildProcess | undefined;
  /** The program is being ended. */
  #ending: Timer | undefined;
  #ended: Promise<unknown> = Promise.resolve();

  /** Errors: `CONFIG` when there is no such folder. */
  constructor(options: BackupOptions) {
    this.#options = options;
    const isFolder = statSync(options.commands, { throwIfNoEntry: false })?.isDirectory() === true;
    if (!isFolder) throw new TokaidoError('CONFIG', `backup.commands: ${options.commands} is no folder`);
    rmSync(options.scratch, { recursive: true, force: true });
  }

  /** Whether the program ended well. Why it did not is in the log: a client is told no more than that. */
  async run(store: LocalStore, database: string, command: string): Promise<boolean> {
    const { log } = this.#options;
    const about = { command, database };
    if (!isBaseName(command)) {
      log.warn(about, 'a client asks for a command that is no base name');
      return false;
    }
    if (this.#running) {
      log.warn(about, 'a command runs already: another one is refused');
      return false;
    }
    this.#running = true;
    try {
      await this.#run(store, database, command);
      return true;
    } catch (error) {
      log.error({ ...about, reason: messageOf(error) }, 'a command failed');
      return false;
    } finally {
      rmSync(this.#options.scratch, { recursive: true, force: true });
      this.#running = false;
    }
  }

  async #run(store: LocalStore, database: string, command: string): Promise<void> {
    const { commands, scratch, timeLimitMs, runtime, log } = this.#options;
    const endMs = runtime.monotonicMs() + timeLimitMs;
    mkdirSync(scratch, { recursive: true, mode: 0o700 });
    const path = join(scratch, database);
    const { records, timestampNs } = await copyDatabase(store, database, path, () => {
      if (runtime.monotonicMs() > endMs) throw new TokaidoError('TIMEOUT', 'the copy took longer than the time limit');
      return runtime.nowMs();
    });
    const timestamp = String(timestampNs).padStart(TIMESTAMP_DIGITS, '0');
    log.info({ command, database, records, timestamp }, 'running a command on a copy of a database');
    await this.#execute(join(commands, command), [path, timestamp], endMs - runtime.monotonicMs());
  }

  /** Errors: `TIMEOUT`, `STORAGE` when it cannot be started or does not end with 0. */
  async #execute(program: string, parameters: readonly string[], withinMs: number): Promise<void> {
    const { runtime } = this.#options;
    // A group of its own, so that what it started ends with it.
    const child = spawn(program, parameters, { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
    this.#child = child;
    let said = '';
    child.stderr.setEncoding('utf8');
    child.stderr.on('data', (text: string) => {
      said = (said + text).slice(-SAID_CHARACTERS);
    });
    let isLate = false;
    const timer = runtime.after(withinMs, () => {
      isLate = true;
      this.#end();
    });
    const ended = once(child, 'exit');
    this.#ended = ended.catch(() => undefined);
    try {
      const [code, signal] = (await ended) as [number | null, NodeJS.Signals | null];
      if (isLate) throw new TokaidoError('TIMEOUT', `it was ended after the time limit; it said: ${said.trim()}`);
      if (code !== 0) throw new TokaidoError('STORAGE', `it ended with ${code ?? signal}; it said: ${said.trim()}`);
    } finally {
      timer.cancel();
      child.stderr.destroy();
      if (this.#ending !== undefined) signalGroup(child, 'SIGKILL');
      this.#ending?.cancel();
      this.#ending = undefined;
      this.#child = undefined;
    }
  }

  #end(): void {
    const child = this.#child;
    if (child === undefined || this.#ending !== undefined) return;
    signalGroup(child, 'SIGTERM');
    this.#ending = this.#options.runtime.after(KILL_MS, () => signalGroup(child, 'SIGKILL'));
  }

  /** Ends what runs. The store is still open. */
  async stop(): Promise<void> {
    this.#end();
    await this.#ended;
  }
}

/** Such as the reference takes: nothing that could lead out of the folder. */
function isBaseName(command: string): boolean {
  return command !== '' && command !== '.' && command !== '..' && !/[/\\\0]/.test(command);
}

function signalGroup({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // All of it has ended.
  }
}

/**
 * Writes the live records of a database as of now, as lines. Returns how many there are, and the time stamp of the last
 * change that any of them can show. `nextMs` is the time, asked before each slice; what it throws ends the copy.
 */
async function copyDatabase(
  store: LocalStore,
  database: string,
  path: string,
  nextMs: () => number,
): Promise<{ records: number; timestampNs: bigint }> {
  const source = new SnapshotSource(store.engine, ({ name }) => name === database);
  let records = 0;
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      for (let slice = source.next(SLICE_BYTES); slice !== undefined; slice = source.next(SLICE_BYTES)) {
        const nowMs = nextMs();
        let lines = '';
        for (const reader = new ByteReader(slice.rows); reader.remaining > 0; ) {
          const key = reader.sized();
          const record = checkRecord(reader.sized());
          if (!record.isLive(() => nowMs)) continue;
          records++;
          lines += encodeRecordLine('url', { key, value: record.value, xtMs: record.xtMs });
        }
        await file.appendFile(lines, 'latin1');
      }
      await file.sync();
    } finally {
      await file.close();
    }
    return { records, timestampNs: timestampOf(source.contents) };
  } finally {
    source.close();
  }
}

/** What comes later is later than this: on this node and, when it follows a Kyoto Tycoon server, on that one. */
function timestampOf({ position, feeds }: SnapshotContents): bigint {
  const newest = newestVersion(position);
  const followed = feeds.find(({ feed }) => feed === KT_FEED)?.position;
  return followed === undefined || newest < followed ? newest : followed;
}
