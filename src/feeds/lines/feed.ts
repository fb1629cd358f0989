/**
 * The feed of JSON lines, from a file that is followed or from standard input. Its position is the number of bytes up to
 * the end of the last line applied, stored in that line's transaction: a restart goes on behind it, and an input that
 * begins again is skipped up to there. A line without its line feed is not there yet.
 *
 * When a line cannot be applied, none behind it is: they would carry the position past it.
 */
import { type FileHandle, open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { codeOf, messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import type { Store, StoreTransaction } from '../../store/types.js';
import type { Feed } from '../feed.js';
import { type LineChange, parseLine } from './format.js';

/** Name of the feed in the store. */
export const LINES_FEED = 'lines';

export interface LinesFeedConfig {
  /** A file, or `-` for standard input. */
  readonly file: string;
  /** Where changes go that name no database. */
  readonly database: string;
  /** Lines that mean nothing are left out and counted, rather than stop the feed. */
  readonly skipMalformed: boolean;
  readonly maxLineBytes: number;
  /** How often the end of a file is looked at, ms. */
  readonly pollMs: number;
}

export interface LinesFeedOptions {
  readonly config: LinesFeedConfig;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** What `-` stands for. */
  readonly input: Readable;
}

export interface LinesFeedStatus {
  readonly kind: 'lines';
  readonly state: 'stopped' | 'streaming' | 'waiting' | 'ended';
  readonly file: string;
  /** Bytes of the input that are applied. */
  readonly position: number;
  readonly lagMs: undefined;
  readonly changes: number;
  readonly skippedLines: number;
  readonly failures: number;
  readonly lastError: string | undefined;
}

/** What all lines of one try share: after one that failed none may be applied. */
interface Attempt {
  isBroken: boolean;
}

const CHUNK_BYTES = 64 * 1024;
/** Bytes of lines that are under way to the store. */
const MAX_UNCOMMITTED_BYTES = 4 * 1024 * 1024;
const LINE_FEED = 0x0a;
const BACK_OFF_MIN_MS = 200;
const BACK_OFF_MAX_MS = 10_000;
const STDIN = '-';

export class LinesFeed implements Feed {
  readonly #options: LinesFeedOptions;
  readonly #log: Logger;
  #store: Store | undefined;
  #state: LinesFeedStatus['state'] = 'stopped';
  #changes = 0;
  #skipped = 0;
  #failures = 0;
  #lastError: string | undefined;
  #isStopped = false;
  #wake: (() => void) | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(options: LinesFeedOptions) {
    this.#options = options;
    this.#log = options.log.child({ feed: LINES_FEED });
  }

  start(store: Store): void {
    this.#store = store;
    this.#running = this.#run(store);
  }

  async #run(store: Store): Promise<void> {
    const { file } = this.#options.config;
    for (let inRow = 0; !this.#isStopped; inRow++) {
      try {
        this.#state = 'streaming';
        if (file === STDIN) await this.#readInput(store);
        else await this.#follow(store, file);
        if (!this.#isStopped) this.#state = 'ended';
        return;
      } catch (error) {
        if (this.#isStopped) return;
        this.#failures++;
        this.#lastError = messageOf(error);
        const hint = error instanceof TokaidoError ? error.hint : undefined;
        this.#log.error({ reason: this.#lastError, hint, file }, 'the feed of lines stopped');
        this.#state = 'waiting';
        // What standard input said is gone: only whoever writes to it can begin again.
        if (file === STDIN) return;
        await this.#sleep(Math.min(BACK_OFF_MAX_MS, BACK_OFF_MIN_MS * 2 ** inRow));
      }
    }
  }

  async #readInput(store: Store): Promise<void> {
    const { input } = this.#options;
    const lines = this.#linesFrom(store, 0);
    for await (const chunk of input) {
      if (this.#isStopped) return;
      await lines.add(chunk as Buffer);
    }
    await lines.end();
    this.#log.info({ position: this.#position(store) }, 'the input has ended');
  }

  async #follow(store: Store, file: string): Promise<void> {
    let handle: FileHandle;
    try {
      handle = await open(file, 'r');
    } catch (error) {
      if (codeOf(error) === 'ENOENT') throw new TokaidoError('FEED', `there is no file ${file} yet`);
      throw new TokaidoError('FEED', `cannot read ${file}: ${messageOf(error)}`, { cause: error });
    }
    try {
      let at = this.#position(store);
      const lines = this.#linesFrom(store, at);
      const { ino } = await handle.stat();
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      while (!this.#isStopped) {
        const { bytesRead } = await handle.read(chunk, 0, CHUNK_BYTES, at);
        at += bytesRead;
        if (bytesRead > 0) {
          await lines.add(Buffer.from(chunk.subarray(0, bytesRead)));
          continue;
        }
        const { size } = await handle.stat();
        if (size < at) {
          throw new TokaidoError('FEED', `${file} has ${size} bytes, and ${at} were read from it before`, {
            hint: 'lines may only be added to it; give a new file to a new node, or restore this one',
          });
        }
        await lines.settled();
        await this.#sleep(this.#options.config.pollMs);
        await refuseAnother(file, ino);
      }
    } finally {
      await handle.close();
    }
  }

  #position(store: Store): number {
    return Number(store.feedPosition(LINES_FEED) ?? 0n);
  }

  #linesFrom(store: Store, begin: number): Lines {
    const attempt: Attempt = { isBroken: false };
    return new Lines({
      begin,
      applied: this.#position(store),
      maxLineBytes: this.#options.config.maxLineBytes,
      apply: async (line, end) => await this.#apply(store, attempt, line, end),
    });
  }

  /** Queues a line; resolves when it is committed. */
  async #apply(store: Store, attempt: Attempt, line: Buffer, end: number): Promise<void> {
    const { database, skipMalformed } = this.#options.config;
    let changes: LineChange[];
    try {
      changes = parseLine(line.toString('utf8'), database);
      for (const change of changes) {
        if (store.database(change.database) === undefined)
          throw new TokaidoError('NO_DATABASE', `there is no database ${change.database}`);
      }
    } catch (error) {
      const before = end - line.length - 1;
      if (!skipMalformed) {
        attempt.isBroken = true;
        throw new TokaidoError('FEED', `the line at byte ${before}: ${messageOf(error)}`, { cause: error });
      }
      this.#skipped++;
      this.#log.warn({ position: before, reason: messageOf(error) }, 'a line means nothing: it is left out');
      changes = [];
    }
    this.#changes += changes.length;
    // The position goes with the next line that does something.
    if (changes.length === 0) return;
    const build = (transaction: StoreTransaction): void => {
      if (attempt.isBroken) throw new TokaidoError('FEED', 'a line before this one was not applied');
      try {
        for (const change of changes) {
          if (change.kind === 'set') transaction.set(change.database, change.key, change.value, change.xtMs);
          else if (change.kind === 'remove') transaction.remove(change.database, change.key);
          else transaction.clear(change.database, change.key);
        }
      } catch (error) {
        // At once: the lines behind this one may be in the same commit.
        attempt.isBroken = true;
        throw error;
      }
    };
    await store.write(build, () => ({ feed: LINES_FEED, position: BigInt(end) })).committed;
  }

  async #sleep(ms: number): Promise<void> {
    if (this.#isStopped) return;
    await new Promise<void>((resolve) => {
      const timer = this.#options.runtime.after(ms, resolve);
      this.#wake = () => {
        timer.cancel();
        resolve();
      };
    });
  }

  status(): LinesFeedStatus {
    return {
      kind: 'lines',
      state: this.#state,
      file: this.#options.config.file,
      position: this.#store === undefined ? 0 : this.#position(this.#store),
      lagMs: undefined,
      changes: this.#changes,
      skippedLines: this.#skipped,
      failures: this.#failures,
      lastError: this.#lastError,
    };
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#wake?.();
    // Standard input may never say anything again: whoever waits for it is let go.
    if (this.#options.config.file === STDIN) this.#options.input.destroy();
    await this.#running;
    this.#state = 'stopped';
  }
}

/** A file that was moved away has another in its place: whose bytes would the position count? Errors: `FEED`. */
async function refuseAnother(file: string, ino: number): Promise<void> {
  const handle = await open(file, 'r').catch(() => undefined);
  if (handle === undefined) return;
  try {
    if ((await handle.stat()).ino === ino) return;
  } finally {
    await handle.close();
  }
  throw new TokaidoError('FEED', `${file} is another file than before`, {
    hint: 'lines may only be added to it: let the program that writes it not rotate it',
  });
}

interface LinesOptions {
  /** Where the bytes begin that will be added, and up to where lines are applied already. */
  readonly begin: number;
  readonly applied: number;
  readonly maxLineBytes: number;
  /** Resolves when the line (without its line feed) that ends at `end` is committed. Errors: reasons to stop. */
  apply(line: Buffer, end: number): Promise<void>;
}

/** Cuts bytes into lines and keeps a bounded number of them under way, in order. */
class Lines {
  readonly #options: LinesOptions;
  #rest: Buffer[] = [];
  #restBytes = 0;
  #at: number;
  #underWay: { readonly bytes: number; readonly done: Promise<void> }[] = [];
  #underWayBytes = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(options: LinesOptions) {
    this.#options = options;
    this.#at = options.begin;
  }

  /** Errors: what applying a line, this one or one before, failed with. */
  async add(chunk: Buffer): Promise<void> {
    let from = 0;
    for (let end = chunk.indexOf(LINE_FEED); end >= 0; end = chunk.indexOf(LINE_FEED, from)) {
      const line = Buffer.concat([...this.#rest, chunk.subarray(from, end)]);
      this.#rest = [];
      this.#restBytes = 0;
      from = end + 1;
      this.#at += line.length + 1;
      if (this.#at > this.#options.applied) await this.#take(line);
    }
    if (from < chunk.length) this.#rest.push(chunk.subarray(from));
    this.#restBytes += chunk.length - from;
    const { maxLineBytes } = this.#options;
    if (this.#restBytes > maxLineBytes)
      throw new TokaidoError('TOO_LARGE', `the line at byte ${this.#at} has more than ${maxLineBytes} bytes`);
  }

  async #take(line: Buffer): Promise<void> {
    this.#throwFailure();
    const done = this.#options.apply(line, this.#at);
    // Heard of at the next line, or when all are waited for.
    done.catch((error: unknown) => {
      this.#failure ??= { error };
    });
    this.#underWay.push({ bytes: line.length, done });
    this.#underWayBytes += line.length;
    while (this.#underWayBytes > MAX_UNCOMMITTED_BYTES || this.#underWay.length > 5000) {
      const first = this.#underWay.shift();
      if (first === undefined) return;
      this.#underWayBytes -= first.bytes;
      await first.done;
    }
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  async settled(): Promise<void> {
    await Promise.all(this.#underWay.map(({ done }) => done));
    this.#underWay = [];
    this.#underWayBytes = 0;
  }

  /** The input is over; a last line may do without its line feed. */
  async end(): Promise<void> {
    if (this.#restBytes > 0) await this.add(Buffer.of(LINE_FEED));
    await this.settled();
  }
}
