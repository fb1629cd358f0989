/**
 * The Postgres feed: connects, copies once, streams for ever. Every failure of the source ends one attempt; the next
 * begins at the position that the store holds, after a back-off. Nothing is remembered between attempts but counters.
 *
 * Who owns what: an attempt owns its two connections (SQL and replication) and its `FeedStream`; the store owns the
 * position; Postgres owns the slot, which keeps WAL until `confirmed` moves.
 */
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { Store } from '../../store/types.js';
import type { Feed } from '../feed.js';
import {
  applicationName,
  type ConnectionConfig,
  connectSql,
  cut,
  describeTarget,
  endSql,
  ReplicationConnection,
} from './connection.js';
import { copyTables } from './copy.js';
import { checkMappings, type MissingRow } from './mapping.js';
import { encodeStatus, formatLsn, type Lsn, parseLsn } from './pgoutput.js';
import {
  checkServer,
  dropSlot,
  ensurePublication,
  findRows,
  findSlot,
  loadTypes,
  quoteIdentifier,
  releaseSlot,
  type SetupConfig,
} from './setup.js';
import { FeedStream, RowsMissing, type StreamLimits } from './stream.js';
import type { TypeCatalog } from './values.js';

type Sql = Awaited<ReturnType<typeof connectSql>>;

export interface PostgresFeedConfig extends ConnectionConfig, SetupConfig, StreamLimits {
  /** How often Postgres is told what is safe, ms. */
  readonly statusMs: number;
  /** How often a message is written to the WAL so that an idle slot moves, ms; 0 never. */
  readonly heartbeatMs: number;
  /** A connection that says nothing for this long is given up, ms. */
  readonly silenceMs: number;
}

export interface PostgresFeedOptions {
  readonly config: PostgresFeedConfig;
  readonly runtime: Runtime;
  readonly log: Logger;
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
  readonly rowsCopied: number;
  readonly transactions: number;
  readonly changes: number;
  readonly cutTransactions: number;
  /** Rows whose key has a NULL. */
  readonly skippedRows: number;
  /** Large values that had to be asked for, because their records had expired. */
  readonly askedRows: number;
  readonly lastError: string | undefined;
}

/** Name of the feed in the store. */
const FEED_NAME = 'postgres';
/** Position of a copy that is not complete: nothing can be resumed from it. */
const NOTHING: Lsn = 0n;
/** Longest wait for an attempt to end at stop. */
const STOP_LIMIT_MS = 3_000;
const BACK_OFF_MIN_MS = 200;
const BACK_OFF_MAX_MS = 10_000;

/** What one attempt works with. */
interface Source {
  readonly sql: Sql;
  readonly replication: ReplicationConnection;
  readonly types: TypeCatalog;
}

export class PostgresFeed implements Feed {
  readonly #options: PostgresFeedOptions;
  readonly #log: Logger;
  readonly #applicationName: string;
  readonly #counters = { nullKeys: 0, missingValues: 0, transactions: 0, changes: 0, cutTransactions: 0 };
  #state: FeedState = 'stopped';
  #rowsCopied = 0;
  #lastError: string | undefined;
  #stream: FeedStream | undefined;
  #replication: ReplicationConnection | undefined;
  #sql: Sql | undefined;
  /** What the last attempt could not go on without. */
  #missing: readonly MissingRow[] = [];
  #stopped = false;
  #running: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;

  /** Errors: `CONFIG` for mappings that collide. */
  constructor(options: PostgresFeedOptions) {
    checkMappings(options.config.tables);
    this.#options = options;
    this.#log = options.log.child({ feed: FEED_NAME });
    this.#applicationName = applicationName(`tokaido ${options.config.slot}`);
  }

  start(store: Store): void {
    this.#running = this.#run(store);
  }

  async #run(store: Store): Promise<void> {
    let failures = 0;
    while (!this.#stopped) {
      const startedMs = this.#options.runtime.monotonicMs();
      try {
        await this.#attempt(store);
      } catch (error) {
        if (this.#stopped) return;
        if (error instanceof RowsMissing) {
          this.#missing = error.rows;
          this.#log.info({ rows: error.rows.length }, 'asking for large values whose records had expired');
          failures = 0;
          continue;
        }
        this.#lastError = messageOf(error);
        const hint = error instanceof TokaidoError ? error.hint : undefined;
        this.#log.warn(
          { reason: this.#lastError, hint, source: describeTarget(this.#options.config) },
          'the feed lost its source: trying again',
        );
      }
      // An attempt that lasted is no failure in a row.
      failures = this.#options.runtime.monotonicMs() - startedMs > BACK_OFF_MAX_MS ? 0 : failures + 1;
      const ceilingMs = Math.min(BACK_OFF_MAX_MS, BACK_OFF_MIN_MS * 2 ** failures);
      await this.#sleep(ceilingMs * (0.5 + this.#options.runtime.random() / 2));
    }
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

  /** One try: everything from connecting to the loss of the connection. */
  async #attempt(store: Store): Promise<void> {
    const { config } = this.#options;
    this.#state = 'connecting';
    const sql = await connectSql(config, applicationName(`sql of ${this.#applicationName}`));
    this.#sql = sql;
    let replication: ReplicationConnection | undefined;
    try {
      if (this.#stopped) return;
      await checkServer(sql, config);
      const done = await ensurePublication(sql, config);
      for (const statement of done) this.#log.info({ statement }, 'publication prepared');
      const types = await loadTypes(sql);
      replication = await ReplicationConnection.open(config, this.#applicationName);
      this.#replication = replication;
      const source = { sql, replication, types };
      const startLsn = (await this.#resumePoint(sql, store)) ?? (await this.#copy(source, store));
      if (startLsn === undefined || this.#stopped) return;
      await this.#streamFrom(startLsn, source, store);
    } finally {
      this.#stream?.abandon();
      this.#replication = undefined;
      replication?.destroy();
      await endSql(sql, this.#options.runtime);
      this.#sql = undefined;
    }
  }

  /** Where to go on, or `undefined` when everything has to be copied (again). */
  async #resumePoint(sql: Sql, store: Store): Promise<Lsn | undefined> {
    const { slot } = this.#options.config;
    const found = await findSlot(sql, slot);
    if (found !== undefined) await releaseSlot(sql, found, this.#applicationName);
    const position = store.feedPosition(FEED_NAME);
    if (position === undefined || position === NOTHING) return undefined;
    const { rows } = await sql.query<{ now: string }>('SELECT pg_current_wal_lsn() AS now');
    const now = parseLsn(rows[0]?.now ?? '');
    if (found === undefined) this.#log.error({ slot }, 'the replication slot is gone: copying everything again');
    else if (found.lost) this.#log.error({ slot }, 'Postgres gave up the WAL of the slot: copying everything again');
    else if (position > now)
      this.#log.error({ slot }, 'Postgres is behind what was applied from it (restored?): copying everything again');
    else return position;
    return undefined;
  }

  /** Makes a new slot and copies all tables as of its beginning. Returns where the stream begins. */
  async #copy({ sql, replication, types }: Source, store: Store): Promise<Lsn | undefined> {
    const { config } = this.#options;
    this.#state = 'copying';
    this.#rowsCopied = 0;
    // From here on the old position leads nowhere: a copy that is interrupted must begin anew, not stream.
    if ((store.feedPosition(FEED_NAME) ?? NOTHING) !== NOTHING)
      await store.mark({ feed: FEED_NAME, position: NOTHING }).flushed;
    await this.#dropOldSlot(sql);
    const [made] = await replication.command(
      `CREATE_REPLICATION_SLOT ${quoteIdentifier(config.slot)} LOGICAL pgoutput EXPORT_SNAPSHOT`,
    );
    const { consistent_point: point, snapshot_name: snapshot } = made ?? {};
    if (point == null || snapshot == null) throw new TokaidoError('FEED', 'Postgres made a slot without a snapshot');
    const startLsn = parseLsn(point);
    this.#log.info({ slot: config.slot, lsn: point }, 'slot made: copying all rows');
    await sql.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    await sql.query(`SET TRANSACTION SNAPSHOT '${snapshot}'`);
    const complete = await copyTables({
      sql,
      store,
      log: this.#log,
      tables: config.tables,
      types,
      counters: this.#counters,
      stopped: () => this.#stopped,
      onRows: (rows) => {
        this.#rowsCopied += rows;
      },
    });
    await sql.query('COMMIT');
    if (!complete) return undefined;
    await store.mark({ feed: FEED_NAME, position: startLsn }).flushed;
    return startLsn;
  }

  /** A slot that is there when we have to copy is of no use: its changes begin at another moment. */
  async #dropOldSlot(sql: Sql): Promise<void> {
    const { slot } = this.#options.config;
    const found = await findSlot(sql, slot);
    if (found === undefined) return;
    if (found.activePid !== undefined && found.activeName !== this.#applicationName) {
      throw new TokaidoError(
        'FEED',
        `the replication slot ${slot} is in use by ${found.activeName ?? 'another process'}`,
        {
          hint: 'stop that process, or choose another postgres.slot',
        },
      );
    }
    await dropSlot(sql, slot);
  }

  async #streamFrom(startLsn: Lsn, { sql, replication, types }: Source, store: Store): Promise<void> {
    const { config, runtime } = this.#options;
    const found = await findRows(sql, this.#missing);
    this.#missing = [];
    let heardMs = runtime.monotonicMs();
    let fail: (error: unknown) => void = () => undefined;
    const failed = new Promise<never>((_, reject) => {
      fail = reject;
    });
    const tell = (ask: boolean): void =>
      replication.send(encodeStatus(stream.positions.confirmed, runtime.nowMs(), ask));
    const confirm = (): void => tell(false);
    const stream = new FeedStream({
      feed: FEED_NAME,
      store,
      tables: config.tables,
      types,
      limits: config,
      counters: this.#counters,
      startLsn,
      found,
      onPressure: (tooMuch) => (tooMuch ? replication.pause() : replication.resume()),
      onConfirm: confirm,
      onCut: () => {
        const { maxTransactionBytes, maxTransactionChanges } = config;
        this.#log.warn(
          { maxTransactionBytes, maxTransactionChanges },
          'a transaction exceeds the limits: readers will see it in parts',
        );
      },
      onFail: fail,
    });
    this.#stream = stream;
    const timers: Timer[] = [
      // On a timer of its own: however busy or stuck the data is, Postgres hears from us.
      runtime.every(config.statusMs, confirm),
      runtime.every(Math.max(100, config.silenceMs / 4), () => {
        // A connection that we do not read cannot be heard.
        if (stream.isPressed) heardMs = runtime.monotonicMs();
        const silentMs = runtime.monotonicMs() - heardMs;
        if (silentMs > config.silenceMs)
          fail(new TokaidoError('FEED', `Postgres said nothing for ${config.silenceMs} ms`));
        // An idle Postgres speaks only when asked.
        else if (silentMs > config.silenceMs / 2) tell(true);
      }),
    ];
    if (config.heartbeatMs > 0) {
      timers.push(
        runtime.every(config.heartbeatMs, () => {
          sql.query(`SELECT pg_logical_emit_message(true, 'tokaido', '')`).catch(fail);
        }),
      );
    }
    this.#state = 'streaming';
    this.#lastError = undefined;
    this.#log.info({ slot: config.slot, lsn: formatLsn(startLsn) }, 'streaming');
    const command = `START_REPLICATION SLOT ${quoteIdentifier(config.slot)} LOGICAL ${formatLsn(startLsn)} (proto_version '1', publication_names '${quoteIdentifier(config.publication)}')`;
    try {
      const streaming = replication.stream(command, (chunk) => {
        heardMs = runtime.monotonicMs();
        try {
          stream.onData(chunk);
        } catch (error) {
          fail(error);
        }
      });
      await Promise.race([streaming, failed]);
    } finally {
      for (const timer of timers) timer.cancel();
    }
  }

  status(): PostgresFeedStatus {
    const { config } = this.#options;
    const { received, committed, confirmed } = this.#stream?.positions ?? {
      received: 0n,
      committed: 0n,
      confirmed: 0n,
    };
    const { nullKeys, missingValues, transactions, changes, cutTransactions } = this.#counters;
    return {
      kind: 'postgres',
      state: this.#state,
      source: describeTarget(config),
      slot: config.slot,
      receivedLsn: formatLsn(received),
      committedLsn: formatLsn(committed),
      confirmedLsn: formatLsn(confirmed),
      lagBytes: Number(received - confirmed),
      rowsCopied: this.#rowsCopied,
      transactions,
      changes,
      cutTransactions,
      skippedRows: nullKeys,
      askedRows: missingValues,
      lastError: this.#lastError,
    };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#wake?.();
    this.#replication?.destroy();
    if (this.#sql !== undefined) cut(this.#sql);
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
