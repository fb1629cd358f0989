/**
 * One attempt of the Postgres feed: connects, finds out where to go on, copies what is not whole, and streams until
 * something fails. Owns its connections; what lasts longer (counters, the slot's figures, what the last attempt missed)
 * is handed in and lives in feed.ts.
 *
 * The order matters: first the slot is looked at, so that it is watched even while everything after that fails; then
 * server, tables and publication are checked; then the position. A fresh slot begins with a copy of all tables, and the
 * stream waits for it. Tables that changed in shape, or are new, are copied beside the stream, which begins at once.
 */
import { codeOf, messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { Store } from '../../store/types.js';
import type { Beside } from './beside.js';
import { type BinaryTypes, loadBinaryTypes } from './binary/types.js';
import {
  applicationName,
  connectPrimary,
  type connectSql,
  cut,
  describeTarget,
  endSql,
  ReplicationConnection,
} from './connection.js';
import { type CopyProgress, startProgress } from './copy.js';
import { Copying, planBeside } from './copying.js';
import type { PostgresFeedConfig } from './feed.js';
import type { MappingCounters, MissingRow } from './mapping.js';
import { identify, type Origin, type OriginNotes } from './origin.js';
import { CopyFirst } from './overtaken.js';
import { encodeStatus, formatLsn, type Lsn } from './pgoutput.js';
import { checkServer, ensurePublication, findRows, loadTypes, quoteIdentifier } from './setup.js';
import type { Sight, Sights } from './sight.js';
import type { SlotWatch } from './slot-watch.js';
import { createSlot, dropOldSlot, findSlot, keepOnStandbys, type Moment, releaseSlot } from './slots.js';
import { FeedStream, RowsMissing, type StreamCounters } from './stream.js';
import {
  type CopiedTable,
  CopiedTables,
  describeTables,
  FEED_NAME,
  type PublishedTable,
  TablesChanged,
} from './tables.js';
import type { TypeCatalog } from './values.js';
import { allWriters, countOf, WaitingNote } from './writers.js';

type Sql = Awaited<ReturnType<typeof connectSql>>;

/** Postgres' code for a name that is not there. */
const UNDEFINED_OBJECT = '42704';

/**
 * Postgres does not stream, because the publication or the slot is not there as of the position. Each was there before the
 * attempt came so far: the publication is younger than changes that would have to come.
 */
export class NothingToStream extends TokaidoError {
  constructor(reason: string) {
    super('FEED', reason);
  }
}

/** Position while there is no slot to go on from. */
const NOTHING: Lsn = 0n;
/** How often slot and catalog are looked at when heartbeats are off, ms. */
const LOOK_MS = 10_000;

/** How often it is asked for whom a new slot waits, ms. */
const WAITING_MS = 500;
/** How often it is asked whether a copy is over, ms. */
const SETTLE_MS = 20;

export type AttemptState = 'connecting' | 'copying' | 'streaming';

export interface AttemptOptions {
  readonly config: PostgresFeedConfig;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly store: Store;
  readonly counters: MappingCounters & StreamCounters;
  readonly progress: CopyProgress;
  readonly watch: SlotWatch;
  readonly spillFolder: string;
  readonly notes: OriginNotes;
  /** Rows that the attempt before missed. */
  readonly missing: readonly MissingRow[];
  /** Of the copies that this process made. */
  readonly sights: Sights;
  /** Postgres has to keep large transactions until they commit: there was no room for them here. */
  readonly keepWhole: boolean;
  /** A binary value came that cannot be read: have all of them as text. */
  readonly asText: boolean;
  /** Copy everything again, whatever the store has. */
  readonly copyAll: boolean;
  readonly onState: (state: AttemptState) => void;
  readonly onReached: () => void;
}

/** What an attempt works with once it is connected. */
interface Source {
  readonly sql: Sql;
  readonly replication: ReplicationConnection;
  readonly tables: readonly PublishedTable[];
  readonly types: TypeCatalog;
  /** How values that come in binary form are read; `undefined`: they come as text. */
  readonly binary: BinaryTypes | undefined;
}

export class Attempt {
  /** With the address of the primary, once it is known. */
  #options: AttemptOptions;
  readonly #name: string;
  readonly #whole: CopiedTables;
  readonly #connections = new Set<ReplicationConnection>();
  #sql: Sql | undefined;
  #copying: Copying | undefined;
  /** Resolves when the copy beside the stream is over. */
  #copied: Promise<boolean> | undefined;
  #stream: FeedStream | undefined;
  #interrupt: ((reason: Error) => void) | undefined;
  #stopped = false;

  constructor(options: AttemptOptions) {
    this.#options = options;
    this.#name = applicationName(`tokaido ${options.config.slot}`);
    this.#whole = new CopiedTables(options.store);
  }

  get positions(): FeedStream['positions'] | undefined {
    return this.#stream?.positions;
  }

  /** It streamed, and the next attempt begins further on. */
  get hasAdvanced(): boolean {
    return this.#stream?.hasAdvanced === true;
  }

  /** Where its primary is. */
  get source(): string {
    return describeTarget(this.#options.config);
  }

  /** See `FeedStream.reached`; `undefined` before the stream. */
  get reached(): Lsn | undefined {
    return this.#stream?.reached;
  }

  /** What large transactions that did not commit yet take on the disk. */
  get spillBytes(): number {
    return this.#stream?.spillBytes ?? 0;
  }

  /** Runs until something fails, or until `stop`. Errors: why. */
  async run(): Promise<void> {
    const { config, runtime, notes } = this.#options;
    this.#options.onState('connecting');
    const name = applicationName(`sql of ${this.#name}`);
    const { sql, connection } = await connectPrimary(config, name, notes.timeline);
    this.#options = { ...this.#options, config: { ...config, connection } };
    this.#sql = sql;
    try {
      if (!this.#stopped) await this.#feed(sql);
    } finally {
      await this.#stream?.abandon();
      for (const connection of this.#connections) connection.destroy();
      await endSql(sql, runtime);
      this.#sql = undefined;
    }
  }

  /** Ends the stream for this reason. Returns false when nothing streams. */
  interrupt(reason: Error): boolean {
    this.#interrupt?.(reason);
    return this.#interrupt !== undefined;
  }

  /** Cuts all connections: `run` ends. */
  stop(): void {
    this.#stopped = true;
    for (const connection of this.#connections) connection.destroy();
    this.#copying?.cut();
    if (this.#sql !== undefined) cut(this.#sql);
  }

  async #open(name: string): Promise<ReplicationConnection> {
    const connection = await ReplicationConnection.open(this.#options.config, name);
    this.#connections.add(connection);
    if (this.#stopped) connection.destroy();
    return connection;
  }

  async #feed(sql: Sql): Promise<void> {
    const { config, log, watch } = this.#options;
    if ((await watch.look(sql)) === 'drop') await this.#giveUpSlot(sql);
    await checkServer(sql, config);
    for (const statement of await ensurePublication(sql, config)) log.info({ statement }, 'publication prepared');
    const replication = await this.#open(this.#name);
    const origin = await identify(replication);
    const resumeAt = await this.#resumePoint(sql, replication, origin);
    await this.#whole.forgetAllBut(config.tables);
    const [tables, types] = [await describeTables(sql, config.publication, config.tables), await loadTypes(sql)];
    const source = { sql, replication, tables, types, binary: await this.#binary(sql, tables) };
    if (resumeAt !== undefined) {
      const { sights, store } = this.#options;
      const beside = await planBeside(source, store, this.#whole, sights, resumeAt);
      return await this.#streamFrom(resumeAt, source, beside);
    }
    const moment = await this.#newSlot(sql, replication, origin);
    if (!(await this.#copyAll(source, moment))) return;
    await this.#whole.noteCopying([]);
    await this.#streamFrom(moment.lsn, source, undefined);
  }

  /** The binary form, if it is asked for and every column that is published can be read in it. */
  async #binary(sql: Sql, tables: readonly PublishedTable[]): Promise<BinaryTypes | undefined> {
    const { config, log, asText } = this.#options;
    if (!config.binary || asText) return undefined;
    const types = await loadBinaryTypes(sql);
    const columns = tables.flatMap((table) => {
      return types.unreadable(table.columns).map((column) => `${table.mapping.table}.${column}`);
    });
    if (columns.length === 0) return types;
    log.info({ columns }, 'values come as text: these columns are not read in binary form');
    return undefined;
  }

  /** Where to go on, or `undefined` when everything has to be copied (again). */
  async #resumePoint(sql: Sql, replication: ReplicationConnection, origin: Origin): Promise<Lsn | undefined> {
    const { config, log, notes, store, copyAll } = this.#options;
    const { slot } = config;
    const found = await findSlot(sql, slot);
    if (found !== undefined) await releaseSlot(sql, found, this.#name);
    const position = store.feedPosition(FEED_NAME);
    if (position === undefined || position === NOTHING || copyAll) return undefined;
    const reason = await notes.whyNot(replication, origin, found, position);
    if (reason === undefined) {
      if (config.failover && found?.isKept === false) await keepOnStandbys(replication, slot);
      await notes.note(origin);
      return position;
    }
    log.error({ slot }, `${reason}: copying everything again`);
    return undefined;
  }

  /** Makes a new slot in place of any old one. Every table has to be copied as of its beginning. */
  async #newSlot(sql: Sql, replication: ReplicationConnection, origin: Origin): Promise<Moment> {
    const { config, log, notes, sights, store } = this.#options;
    // From here on the old position leads nowhere: a copy that is interrupted must begin anew, not stream.
    if ((store.feedPosition(FEED_NAME) ?? NOTHING) !== NOTHING)
      await store.mark({ feed: FEED_NAME, position: NOTHING }).flushed;
    await this.#whole.forget(config.tables);
    sights.clear();
    await dropOldSlot(sql, config.slot, this.#name);
    const moment = await this.#makeSlot(sql, replication);
    log.info({ slot: config.slot, lsn: formatLsn(moment.lsn) }, 'slot made: copying all rows');
    notes.told = moment.lsn;
    await notes.note(origin, moment.lsn);
    return moment;
  }

  /** Says meanwhile for whom Postgres waits. */
  async #makeSlot(sql: Sql, replication: ReplicationConnection): Promise<Moment> {
    const { config, log, progress, runtime } = this.#options;
    this.#options.onState('copying');
    startProgress(progress, config.tables.length);
    const waiting = new WaitingNote(runtime, log, 'the slot waits until the transactions that run are over');
    let isMade = false;
    const timer = runtime.every(WAITING_MS, () => {
      const told = allWriters(sql).then((open) => {
        if (isMade) return;
        progress.waitsFor = countOf(open);
        waiting.note(open);
      });
      // Whatever is wrong with the connection, those who need it will say.
      told.catch(() => undefined);
    });
    try {
      return await createSlot(replication, config.slot, config.failover ? 'kept by standbys' : 'lasting');
    } finally {
      isMade = true;
      timer.cancel();
    }
  }

  /** Rather copy everything again than fill the disk of Postgres. */
  async #giveUpSlot(sql: Sql): Promise<void> {
    const { config, log, watch, counters } = this.#options;
    log.error({ slot: config.slot, ...watch.figures }, 'the slot keeps more than slotDropBytes: dropping it');
    const found = await findSlot(sql, config.slot);
    if (found === undefined) return;
    await releaseSlot(sql, found, this.#name);
    await dropOldSlot(sql, config.slot, this.#name);
    counters.droppedSlots++;
  }

  #newCopying({ sql, types }: Source): Copying {
    const { config, runtime, log, store, counters, progress, sights } = this.#options;
    const shared = { config, runtime, log, store, counters, progress, sights };
    this.#copying = new Copying({ ...shared, whole: this.#whole, sql, types, name: this.#name });
    return this.#copying;
  }

  /** Copies all tables as of a moment. Returns false when it was stopped. */
  async #copyAll(source: Source, moment: Moment): Promise<boolean> {
    const { store } = this.#options;
    await this.#whole.noteCopying(source.tables.map(({ mapping }) => mapping.database));
    const isWhole = await this.#newCopying(source).runAt(moment, source.tables, async () => {
      // The stream can begin here, whatever becomes of the copy: tables that are not whole are copied again.
      if ((store.feedPosition(FEED_NAME) ?? NOTHING) === NOTHING)
        await store.mark({ feed: FEED_NAME, position: moment.lsn }).flushed;
    });
    this.#copying = undefined;
    return isWhole;
  }

  async #streamFrom(startLsn: Lsn, source: Source, beside: Beside | undefined): Promise<void> {
    const { sql, replication, tables, types, binary } = source;
    const { config, runtime, log, store, counters, notes } = this.#options;
    const found = await findRows(sql, this.#options.missing);
    let heardMs = runtime.monotonicMs();
    let fail: (error: unknown) => void = () => undefined;
    const failed = new Promise<never>((_, reject) => {
      fail = reject;
    });
    const copied = tables.map((table) => ({ table, shown: this.#shownOf(table, beside) }));
    const tell = (ask: boolean): void => {
      const { confirmed } = stream.positions;
      notes.told = confirmed;
      this.#options.watch.reached(confirmed);
      replication.send(encodeStatus(confirmed, runtime.nowMs(), ask));
    };
    const confirm = (): void => tell(false);
    const stream = new FeedStream({
      feed: FEED_NAME,
      store,
      tables: copied,
      beside,
      types,
      binary,
      limits: config,
      spillFolder: this.#options.spillFolder,
      counters,
      startLsn,
      found,
      allow: async (lsn) => await notes.allow(lsn),
      onPressure: (tooMuch) => (tooMuch ? replication.pause() : replication.resume()),
      onConfirm: confirm,
      onReached: this.#options.onReached,
      onCut: () => {
        const { maxTransactionBytes, maxTransactionChanges } = config;
        log.warn(
          { maxTransactionBytes, maxTransactionChanges },
          'a transaction exceeds the limits: readers will see it in parts',
        );
      },
      onFail: (error) => fail(this.#forTheCopy(error, beside)),
    });
    this.#stream = stream;
    const timers: Timer[] = [
      // On a timer of its own: however busy or stuck the data is, Postgres hears from us.
      runtime.every(config.statusMs, () => {
        stream.advance();
        confirm();
      }),
      runtime.every(Math.max(100, config.silenceMs / 4), () => {
        // A connection that we do not read cannot be heard.
        if (stream.isPressed) heardMs = runtime.monotonicMs();
        const silentMs = runtime.monotonicMs() - heardMs;
        if (silentMs > config.silenceMs)
          fail(new TokaidoError('FEED', `Postgres said nothing for ${config.silenceMs} ms`));
        // An idle Postgres speaks only when asked.
        else if (silentMs > config.silenceMs / 2) tell(true);
      }),
      this.#lookEvery(config.heartbeatMs > 0 ? config.heartbeatMs : LOOK_MS, sql, tables, fail),
      this.#settle(stream, copied, beside, fail),
    ];
    const stopTimers = (): void => {
      for (const timer of timers) timer.cancel();
    };
    this.#options.onState('streaming');
    log.info({ slot: config.slot, lsn: formatLsn(startLsn) }, 'streaming');
    const isStreaming = config.maxSpillBytes > 0 && !this.#options.keepWhole;
    const command = `START_REPLICATION SLOT ${quoteIdentifier(config.slot)} LOGICAL ${formatLsn(startLsn)} (proto_version '2', streaming '${isStreaming ? 'on' : 'off'}', binary '${binary !== undefined}', publication_names '${quoteIdentifier(config.publication)}')`;
    try {
      const streaming = replication
        .stream(command, (chunk) => {
          heardMs = runtime.monotonicMs();
          try {
            stream.onData(chunk);
          } catch (error) {
            fail(error);
          }
        })
        .catch((error: unknown) => {
          throw codeOf(error) === UNDEFINED_OBJECT ? new NothingToStream(messageOf(error)) : error;
        });
      if (beside !== undefined) this.#copyBeside(source, beside, stream).catch(fail);
      await Promise.race([streaming, failed]);
    } catch (error) {
      if (!(error instanceof CopyFirst)) throw error;
      stopTimers();
      await stream.abandon();
      replication.destroy();
      log.info({ reason: error.message }, 'the stream waits for the copy');
      this.#options.onState('copying');
      await this.#copied;
      throw error;
    } finally {
      stopTimers();
      this.#copying?.cut();
    }
  }

  /** What the changes that are still to come have in common with the copy of a table: see `CopiedTable`. */
  #shownOf(table: PublishedTable, beside: Beside | undefined): Sight | undefined {
    if (beside?.kinds.get(table) === 'anew') return undefined;
    return this.#options.sights.get(this.#whole.copiedAt(table.mapping));
  }

  async #copyBeside(source: Source, beside: Beside, stream: FeedStream): Promise<void> {
    this.#copied = this.#newCopying(source).runBeside(beside, stream);
    if (await this.#copied) this.#copying = undefined;
  }

  /** What an error of the stream means while tables are copied. */
  #forTheCopy(error: unknown, beside: Beside | undefined): unknown {
    if (beside === undefined || this.#copying === undefined) return error;
    // Only the whole copy has what a change of a row beside it may leave out.
    if (beside.isJudged) return error instanceof RowsMissing ? new CopyFirst(error.message) : error;
    // Nobody knows when it will begin. A copy from the beginning needs nothing of what the stream brings until then.
    if (!(error instanceof CopyFirst)) return error;
    return new TablesChanged(
      beside.of('on').map(({ mapping }) => mapping),
      error.message,
    );
  }

  /**
   * A copy is over once its tables are whole and the stream has reached its moment: until then some records are newer
   * than the rest. Nothing else may be copied before.
   */
  #settle(
    stream: FeedStream,
    copied: readonly CopiedTable[],
    beside: Beside | undefined,
    fail: (error: unknown) => void,
  ): Timer {
    const { runtime, store } = this.#options;
    const moments = copied.flatMap(({ shown }) => (shown === undefined ? [] : [shown.lsn]));
    let isNoted = false;
    const timer = runtime.every(SETTLE_MS, () => {
      if (beside !== undefined && beside.lsn === undefined) return;
      const moment = [...moments, beside?.lsn ?? NOTHING].reduce((last, lsn) => (lsn > last ? lsn : last), NOTHING);
      if (stream.reached < moment) return;
      // Where nothing came that says so: a restart from before the moment would have to copy again.
      if (!isNoted && (store.feedPosition(FEED_NAME) ?? NOTHING) < moment)
        store.mark({ feed: FEED_NAME, position: moment }).committed.catch(fail);
      isNoted = true;
      if (this.#copying !== undefined) return;
      timer.cancel();
      this.#interrupt = fail;
      this.#whole.noteCopying([]).catch(fail);
    });
    if (moments.length === 0 && beside === undefined) {
      timer.cancel();
      this.#interrupt = fail;
    }
    return timer;
  }

  /** Heartbeats, and looks at what does not come with the stream: the slot's WAL, and the shape of the tables. */
  #lookEvery(intervalMs: number, sql: Sql, tables: readonly PublishedTable[], fail: (error: unknown) => void): Timer {
    const { config, runtime, watch } = this.#options;
    let isLooking = false;
    const look = async (): Promise<void> => {
      if (config.heartbeatMs > 0) await watch.beat(sql);
      if ((await watch.look(sql)) === 'drop')
        throw new TokaidoError('FEED', `the slot ${config.slot} keeps more than slotDropBytes`);
      const now = await describeTables(sql, config.publication, config.tables);
      const changed = now.filter(({ fingerprint }, index) => fingerprint !== tables[index]?.fingerprint);
      if (changed.length > 0) throw new TablesChanged(changed.map(({ mapping }) => mapping));
    };
    return runtime.every(intervalMs, () => {
      // A Postgres that does not answer is not asked again and again.
      if (isLooking) return;
      isLooking = true;
      look().then(() => {
        isLooking = false;
      }, fail);
    });
  }
}
