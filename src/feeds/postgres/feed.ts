/**
 * The Postgres feed: attempt after attempt (attempt.ts), for ever. Every failure of the source ends one attempt; the next
 * begins at the position that the store holds, after a back-off. Between attempts only counters are remembered, what the
 * slot was last seen to hold, and what the last attempt could not go on without.
 *
 * Who owns what: an attempt owns its connections and its `FeedStream`; the store owns the position, and the notes which
 * tables are whole; Postgres owns the slot, which keeps WAL until `confirmed` moves.
 */
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { FeedPosition, Store } from '../../store/types.js';
import type { Feed } from '../feed.js';
import { Attempt, NothingToStream } from './attempt.js';
import { Undecodable } from './binary/numbers.js';
import { type ConnectionConfig, describeTarget } from './connection.js';
import type { CopyProgress } from './copy.js';
import { checkMappings, type MissingRow } from './mapping.js';
import { OriginNotes } from './origin.js';
import { CopyFirst } from './overtaken.js';
import { formatLsn } from './pgoutput.js';
import type { SetupConfig } from './setup.js';
import type { Sights } from './sight.js';
import { type SlotFigures, type SlotLimits, SlotWatch } from './slot-watch.js';
import { Spill, SpillFull } from './spill.js';
import { type FeedStream, RowsMissing, type StreamLimits } from './stream.js';
import { CopiedTables, FEED_NAME, TablesChanged } from './tables.js';

export interface PostgresFeedConfig extends ConnectionConfig, SetupConfig, StreamLimits, SlotLimits {
  /** How often Postgres is told what is safe, ms. */
  readonly statusMs: number;
  /** How often a message is written to the WAL so that an idle slot moves, ms; 0 never. */
  readonly heartbeatMs: number;
  /** A connection that says nothing for this long is given up, ms. */
  readonly silenceMs: number;
  /** Values of the stream come in binary form, where all of them can be read so. */
  readonly binary: boolean;
  /** Connections that share a copy. */
  readonly copyConnections: number;
}

export interface PostgresFeedOptions {
  readonly config: PostgresFeedConfig;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** Of this feed alone: emptied at start. */
  readonly spillFolder: string;
  /** `reached` moved on, and no transaction of the store says so. */
  readonly onReached?: () => void;
}

export type FeedState = 'stopped' | 'connecting' | 'copying' | 'streaming' | 'waiting';

export interface PostgresFeedStatus {
  readonly kind: 'postgres';
  readonly state: FeedState;
  readonly source: string;
  readonly slot: string;
  readonly receivedLsn: string;
  readonly committedLsn: string;
  readonly confirmedLsn: string;
  /** WAL sent by Postgres and not yet safe here. */
  readonly lagBytes: number;
  /** Age of the oldest change of Postgres that may not be safe here, by heartbeats; `undefined` before the first. */
  readonly lagMs: number | undefined;
  /** What the slot keeps in Postgres, as of the last look. */
  readonly retained: SlotFigures | undefined;
  /** A copy under way. */
  readonly copy: Readonly<CopyProgress> | undefined;
  /** Rows of the last copy. */
  readonly rowsCopied: number;
  readonly transactions: number;
  readonly changes: number;
  readonly cutTransactions: number;
  /** Transactions that Postgres sent before they committed, and that waited on the disk; and what wait there now. */
  readonly spilledTransactions: number;
  readonly spillBytes: number;
  /** Rows whose key has a NULL. */
  readonly skippedRows: number;
  /** Large values that had to be asked for, because their records had expired. */
  readonly askedRows: number;
  /** Attempts that failed since the start. */
  readonly failures: number;
  /** Slots dropped because they kept too much WAL. */
  readonly droppedSlots: number;
  readonly lastError: string | undefined;
}

/** Longest wait for an attempt to end at stop. */
const STOP_LIMIT_MS = 3_000;
const BACK_OFF_MIN_MS = 200;
const BACK_OFF_MAX_MS = 10_000;

/** What the next attempt has to know of the one before. */
interface Lesson {
  readonly missing: readonly MissingRow[];
  readonly copyAll: boolean;
  readonly keepWhole: boolean;
  readonly asText: boolean;
}

const NO_LESSON: Lesson = { missing: [], copyAll: false, keepWhole: false, asText: false };

export class PostgresFeed implements Feed {
  readonly #options: PostgresFeedOptions;
  readonly #log: Logger;
  readonly #watch: SlotWatch;
  readonly #counters = {
    nullKeys: 0,
    missingValues: 0,
    transactions: 0,
    changes: 0,
    cutTransactions: 0,
    spilledTransactions: 0,
    droppedSlots: 0,
  };
  readonly #progress: CopyProgress = { rows: 0, expectedRows: 0, tablesDone: 0, tables: 0, waitsFor: 0 };
  readonly #sights: Sights = new Map();
  #state: FeedState = 'stopped';
  #failures = 0;
  #lastError: string | undefined;
  #attempt: Attempt | undefined;
  /** Of the attempt before. */
  #positions: FeedStream['positions'] = { received: 0n, committed: 0n, confirmed: 0n };
  #stopped = false;
  #running: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;

  /** Errors: `CONFIG` for mappings that collide. */
  constructor(options: PostgresFeedOptions) {
    checkMappings(options.config.tables);
    this.#options = options;
    this.#log = options.log.child({ feed: FEED_NAME });
    this.#watch = new SlotWatch(options.config, options.runtime, this.#log);
  }

  start(store: Store): void {
    this.#running = this.#run(store);
  }

  async #run(store: Store): Promise<void> {
    const notes = new OriginNotes(store);
    let lesson = NO_LESSON;
    let inRow = 0;
    while (!this.#stopped) {
      const startedMs = this.#options.runtime.monotonicMs();
      try {
        await this.#try(store, notes, lesson);
        lesson = NO_LESSON;
      } catch (error) {
        if (this.#stopped) return;
        const learned = await this.#learn(store, error);
        lesson = learned ?? this.#failed(error);
        if (learned !== undefined) continue;
      }
      // An attempt that lasted, or came further, is no failure in a row: a source that is lost again and again, but is
      // there in between, must not find us waiting.
      const hasLasted = this.#options.runtime.monotonicMs() - startedMs > BACK_OFF_MAX_MS;
      inRow = hasLasted || this.#attempt?.hasAdvanced === true ? 0 : inRow + 1;
      const ceilingMs = Math.min(BACK_OFF_MAX_MS, BACK_OFF_MIN_MS * 2 ** inRow);
      await this.#sleep(ceilingMs * (0.5 + this.#options.runtime.random() / 2));
    }
  }

  async #try(store: Store, notes: OriginNotes, lesson: Lesson): Promise<void> {
    const { config, runtime, spillFolder } = this.#options;
    this.#watch.forgetBeats();
    this.#positions = this.#shown();
    await Spill.clean(spillFolder);
    this.#attempt = new Attempt({
      config,
      runtime,
      log: this.#log,
      store,
      counters: this.#counters,
      progress: this.#progress,
      watch: this.#watch,
      spillFolder,
      notes,
      sights: this.#sights,
      ...lesson,
      onReached: this.#options.onReached ?? (() => undefined),
      onState: (state) => {
        this.#state = state;
        if (state === 'streaming') this.#lastError = undefined;
      },
    });
    await this.#attempt.run();
  }

  /** What an attempt ended for that is no failure: the next begins at once, knowing more. */
  async #learn(store: Store, error: unknown): Promise<Lesson | undefined> {
    if (error instanceof RowsMissing) {
      this.#log.info({ rows: error.rows.length }, 'asking for large values whose records had expired');
      return { ...NO_LESSON, missing: error.rows };
    }
    // It said so itself, and the copy is over.
    if (error instanceof CopyFirst) return NO_LESSON;
    if (error instanceof SpillFull) {
      this.#log.warn({ reason: error.message }, 'Postgres has to keep large transactions until they commit');
      return { ...NO_LESSON, keepWhole: true };
    }
    if (error instanceof Undecodable) {
      this.#log.warn({ reason: error.message }, 'a value cannot be read in binary form: asking for text');
      return { ...NO_LESSON, asText: true };
    }
    if (error instanceof TablesChanged) {
      this.#log.info(
        { tables: error.mappings.map(({ table }) => table), reason: error.reason },
        'tables to copy again',
      );
      try {
        await new CopiedTables(store).forget(error.mappings);
      } catch (refused) {
        return this.#failed(refused);
      }
      return NO_LESSON;
    }
    return undefined;
  }

  #failed(error: unknown): Lesson {
    this.#failures++;
    this.#lastError = messageOf(error);
    const hint = error instanceof TokaidoError ? error.hint : undefined;
    this.#log.warn(
      { reason: this.#lastError, hint, source: this.#attempt?.source },
      'the feed lost its source: trying again',
    );
    return { ...NO_LESSON, copyAll: error instanceof NothingToStream };
  }

  async #sleep(ms: number): Promise<void> {
    if (this.#stopped) return;
    this.#state = 'waiting';
    await new Promise<void>((resolve) => {
      const timer = this.#options.runtime.after(ms, resolve);
      this.#wake = () => {
        timer.cancel();
        resolve();
      };
    });
  }

  get reached(): FeedPosition | undefined {
    const position = this.#attempt?.reached;
    return position === undefined ? undefined : { feed: FEED_NAME, position };
  }

  /** Where this attempt is, or, while it has not begun to stream, where the one before was: nothing was lost with it. */
  #shown(): FeedStream['positions'] {
    const positions = this.#attempt?.positions;
    return positions === undefined || positions.received === 0n ? this.#positions : positions;
  }

  status(): PostgresFeedStatus {
    const { config } = this.#options;
    const now = this.#attempt?.positions;
    const { received, committed, confirmed } = this.#shown();
    const { nullKeys, missingValues, transactions, changes, cutTransactions, droppedSlots } = this.#counters;
    const { spilledTransactions } = this.#counters;
    return {
      kind: 'postgres',
      state: this.#state,
      source: this.#attempt?.source ?? describeTarget(config),
      slot: config.slot,
      receivedLsn: formatLsn(received),
      committedLsn: formatLsn(committed),
      confirmedLsn: formatLsn(confirmed),
      lagBytes: now === undefined ? 0 : Number(now.received - now.confirmed),
      lagMs: this.#watch.lagMs(this.#state === 'streaming'),
      retained: this.#watch.figures,
      copy: this.#progress.tablesDone < this.#progress.tables ? { ...this.#progress } : undefined,
      rowsCopied: this.#progress.rows,
      transactions,
      changes,
      cutTransactions,
      spilledTransactions,
      spillBytes: this.#attempt?.spillBytes ?? 0,
      skippedRows: nullKeys,
      askedRows: missingValues,
      failures: this.#failures,
      droppedSlots,
      lastError: this.#lastError,
    };
  }

  /**
   * Copies a table again, or all, beside the stream; records without a row go. Returns how many mappings it concerns.
   * Errors: `CONFIG` for a table that is not mapped, `NOT_READY` unless the feed streams and copies nothing.
   */
  copyAgain(table?: string): number {
    const { tables } = this.#options.config;
    const mappings = tables.filter((mapping) => table === undefined || mapping.table === table);
    if (mappings.length === 0) {
      throw new TokaidoError('CONFIG', `table ${table} is not mapped`, {
        hint: `postgres.tables has ${tables.map((mapping) => mapping.table).join(', ')}`,
      });
    }
    if (this.#attempt?.interrupt(new TablesChanged(mappings, 'asked for')) !== true) {
      throw new TokaidoError('NOT_READY', 'the feed does not stream now, or is copying: ask again later', {
        hint: 'tokaido status says what it does',
      });
    }
    return mappings.length;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#wake?.();
    this.#attempt?.stop();
    // A server that lets a connection attempt hang must not hold up the stop: what comes of it finds `#stopped`.
    let timer: Timer | undefined;
    const enough = new Promise<void>((resolve) => {
      timer = this.#options.runtime.after(STOP_LIMIT_MS, resolve);
    });
    await Promise.race([this.#running, enough]);
    timer?.cancel();
    this.#state = 'stopped';
  }
}
