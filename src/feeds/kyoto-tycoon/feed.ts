/**
 * The Kyoto Tycoon feed: a root takes in what a Kyoto Tycoon server changes, by following it as another server would.
 * Every failure ends one attempt; the next begins at the position that the store holds, after a back-off.
 *
 * The position is the time stamp of the last change applied, stored in the transaction that applied it (invariant 3).
 * Time stamps of one server are unique and grow, and it sends what is after the one it is asked for: each change is
 * applied once. What the protocol cannot promise: a server whose log was removed by hand leaves a gap without a word
 * (found below where it can be, and then everything is copied again), and one that was put back to an older state has
 * changes here that it lost.
 *
 * A copy comes first: the server's time, then all records by a cursor, then the log from that time on. What changed
 * meanwhile is applied again in its order, so the end is the server's own.
 */
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import { walkRecords } from '../../client/bulk.js';
import { TokaidoClient } from '../../client/client.js';
import type { KtEvent } from '../../protocol/kt-replication.js';
import type { Store } from '../../store/types.js';
import type { Feed } from '../feed.js';
import { KtApplier, type KtApplyLimits } from './applier.js';
import { KtConnection } from './connection.js';
import { Rest } from './rest.js';

export interface KtAddress {
  readonly host: string;
  readonly port: number;
}

/** A server that is followed. */
export interface KtFollowing extends KtAddress {
  /** Of the last change committed here, ns. */
  readonly timestampNs: bigint;
  readonly intervalMs: number;
}

/** Another server to follow. */
export interface KtUpstreamChange {
  /** `undefined`: nobody, until the next change. */
  readonly upstream: KtAddress | undefined;
  /** Time stamp to go on from, ns; `undefined`: that of the last change applied here. */
  readonly timestampNs: bigint | undefined;
  /** See `KyotoTycoonFeedConfig`; `undefined`: as before. */
  readonly intervalMs: number | undefined;
}

export interface KyotoTycoonFeedConfig extends KtApplyLimits {
  /** Its port for clients, which is also the one for followers. */
  readonly upstream: KtAddress;
  /** Databases of this node, in the order of the server's numbers; absent: this node's own order. */
  readonly databases?: readonly string[] | undefined;
  /** Copy all records before following, when there is no position to go on from. */
  readonly copy: boolean;
  /** A server that says nothing for this long is given up, ms. */
  readonly silenceMs: number;
  /** Rest for each change taken, ms: slows the feed down on purpose. */
  readonly intervalMs: number;
}

export interface KyotoTycoonFeedOptions {
  readonly config: KyotoTycoonFeedConfig;
  /** This root's server id: changes that it made itself are not sent back to it. */
  readonly sid: number;
  readonly runtime: Runtime;
  readonly log: Logger;
}

export type KyotoTycoonFeedState = 'stopped' | 'connecting' | 'copying' | 'streaming' | 'waiting';

export interface KyotoTycoonFeedStatus {
  readonly kind: 'kyoto-tycoon';
  readonly state: KyotoTycoonFeedState;
  readonly source: string;
  /** Time stamp of the last change committed here, ns since 1970, as text. */
  readonly timestampNs: string;
  /** Time since everything that the server had was committed here, ms; `undefined` before that was ever so. */
  readonly lagMs: number | undefined;
  readonly recordsCopied: number;
  readonly changes: number;
  /** Changes that could not be taken: a key beyond the limit, or a database that is not mapped. */
  readonly skippedChanges: number;
  /** Attempts that ended in an error since the start. */
  readonly failures: number;
  readonly lastError: string | undefined;
}

/** Name of the feed in the store. */
export const KT_FEED = 'kyoto-tycoon';
/** Position of a copy that is not complete: nothing can be resumed from it. */
const NOTHING = 0n;
/** The log is read from this long before the server's time at the beginning of a copy, ns. */
const OVERLAP_NS = 2_000_000_000n;
const STOP_LIMIT_MS = 3_000;
const BACK_OFF_MIN_MS = 200;
const BACK_OFF_MAX_MS = 10_000;
/** How long a server may take to answer one call of a copy, ms. */
const CALL_TIMEOUT_MS = 30_000;
/** How long the first change of a server's log is waited for, ms. */
const PROBE_MS = 5_000;

export class KyotoTycoonFeed implements Feed {
  readonly #options: KyotoTycoonFeedOptions;
  readonly #log: Logger;
  /** Whom it follows; nobody when absent. */
  #upstream: KtAddress | undefined;
  #intervalMs: number;
  /** Whom it is to follow from the next attempt on. */
  #change: KtUpstreamChange | undefined;
  readonly #counters = { changes: 0, skipped: 0 };
  #state: KyotoTycoonFeedState = 'stopped';
  #recordsCopied = 0;
  #failures = 0;
  #lastError: string | undefined;
  #store: Store | undefined;
  #connection: KtConnection | undefined;
  #client: TokaidoClient | undefined;
  #caughtUpMs: number | undefined;
  #stopped = false;
  #running: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;

  constructor(options: KyotoTycoonFeedOptions) {
    this.#options = options;
    this.#upstream = options.config.upstream;
    this.#intervalMs = options.config.intervalMs;
    this.#log = options.log.child({ feed: KT_FEED });
  }

  start(store: Store): void {
    this.#store = store;
    this.#running = this.#run(store);
  }

  async #run(store: Store): Promise<void> {
    const { runtime } = this.#options;
    for (let failures = 0; !this.#stopped; ) {
      const startedMs = runtime.monotonicMs();
      const change = this.#change;
      // One that cannot be adopted is a failure like others, and waits for the next try.
      const isInterrupted = (): boolean => this.#change !== undefined && this.#change !== change;
      try {
        await this.#adopt(store);
        if (this.#upstream === undefined) await this.#pause();
        else await this.#attempt(store, this.#upstream);
      } catch (error) {
        if (this.#stopped) return;
        if (isInterrupted()) {
          failures = 0;
          continue;
        }
        this.#failures++;
        this.#lastError = messageOf(error);
        const hint = error instanceof TokaidoError ? error.hint : undefined;
        this.#log.warn(
          { source: this.#source, reason: this.#lastError, hint },
          'the feed lost its Kyoto Tycoon server: trying again',
        );
      }
      if (isInterrupted()) continue;
      // An attempt that lasted is no failure in a row.
      failures = runtime.monotonicMs() - startedMs > BACK_OFF_MAX_MS ? 0 : failures + 1;
      const ceilingMs = Math.min(BACK_OFF_MAX_MS, BACK_OFF_MIN_MS * 2 ** failures);
      await this.#sleep(ceilingMs * (0.5 + runtime.random() / 2));
    }
  }

  /** Follows another server from now on, or nobody. What was taken from the one before stays. */
  follow(change: KtUpstreamChange): void {
    const { upstream, timestampNs } = change;
    this.#log.info(
      { source: describe(upstream), timestampNs: timestampNs === undefined ? undefined : String(timestampNs) },
      'a client says whom to follow',
    );
    this.#change = change;
    this.#caughtUpMs = undefined;
    this.#endAttempt(new TokaidoError('FEED', 'another server is followed from now on'));
  }

  #endAttempt(reason: TokaidoError): void {
    this.#wake?.();
    this.#client?.close();
    this.#connection?.end(reason);
  }

  /** What is to change changes between two attempts: nothing of the one before is on its way to the store then. */
  async #adopt(store: Store): Promise<void> {
    const change = this.#change;
    if (change === undefined) return;
    const { upstream, timestampNs, intervalMs } = change;
    if (timestampNs !== undefined) {
      // From the beginning of the server's log; without a position everything would be copied.
      const position = timestampNs === NOTHING ? 1n : timestampNs;
      await store.mark(at(position)).committed;
    }
    this.#upstream = upstream;
    this.#intervalMs = intervalMs ?? this.#intervalMs;
    if (this.#change === change) this.#change = undefined;
  }

  /** Until there is somebody to follow. */
  async #pause(): Promise<void> {
    if (this.#stopped || this.#change !== undefined) return;
    this.#state = 'waiting';
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
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
  async #attempt(store: Store, upstream: KtAddress): Promise<void> {
    this.#state = 'connecting';
    const client = new TokaidoClient({ server: describe(upstream), timeoutMs: CALL_TIMEOUT_MS });
    this.#client = client;
    let position: bigint | undefined;
    try {
      position = (await this.#resumePoint(client, store)) ?? (await this.#copy(client, store));
    } finally {
      client.close();
      this.#client = undefined;
    }
    if (position !== undefined && !this.#isOver) await this.#stream(position, store);
  }

  /** Nobody wants what this attempt brings. */
  get #isOver(): boolean {
    return this.#stopped || this.#change !== undefined;
  }

  get #source(): string {
    return describe(this.#upstream);
  }

  /** Where to go on, or `undefined` when everything has to be copied (again). */
  async #resumePoint(client: TokaidoClient, store: Store): Promise<bigint | undefined> {
    const position = store.feedPosition(KT_FEED);
    const { copy } = this.#options.config;
    if (position === undefined || position === NOTHING) return copy ? undefined : NOTHING;
    if (!(await this.#hasGap(client, position))) return position;
    const at = { timestampNs: String(position) };
    if (copy) {
      this.#log.error(at, "the server's update log was cut before this node had it: copying everything again");
      return undefined;
    }
    this.#log.error(at, "the server's update log was cut before this node had it: changes are missing here");
    return position;
  }

  /** Whether the server removed log files that this node did not get to the end of. */
  async #hasGap(client: TokaidoClient, position: bigint): Promise<boolean> {
    const answer = await client.call('ulog_list').catch((error: unknown) => {
      // A listener that serves followers only does not know the procedure; one that is gone is found so at once.
      this.#log.debug({ reason: messageOf(error) }, 'the server does not list its update log');
    });
    if (answer?.status !== 200) return false;
    const { rows } = answer;
    // Files are numbered from 1; each row has the time stamp of the file's last change.
    const numbers = [...rows.keys()].flatMap((path) => /(\d+)\.ulog$/.exec(path)?.[1] ?? []).map(Number);
    if (numbers.length === 0 || Math.min(...numbers) <= 1) return false;
    const first = await this.#firstTimestamp();
    return first !== undefined && first > position;
  }

  /** Time stamp of the first change in the server's log, if it has one. */
  async #firstTimestamp(): Promise<bigint | undefined> {
    const { runtime } = this.#options;
    return await new Promise<bigint | undefined>((resolve, reject) => {
      const found = (timestampNs: bigint | undefined): void => {
        timer.cancel();
        connection.end(undefined);
        resolve(timestampNs);
      };
      const timer = runtime.after(PROBE_MS, () => found(undefined));
      const connection = this.#connect(NOTHING, (events) => {
        const known = events.find(({ kind }) => kind === 'update' || kind === 'tick');
        if (known?.kind === 'update') found(known.timestampNs);
        else if (known !== undefined) found(undefined);
      });
      connection.ended.catch(reject);
    });
  }

  /** Copies all records. Returns where the log is followed from, or `undefined` when the feed was stopped. */
  async #copy(client: TokaidoClient, store: Store): Promise<bigint | undefined> {
    this.#state = 'copying';
    this.#recordsCopied = 0;
    const startNs = await serverTimeNs(client);
    const names = this.#databases(store);
    this.#log.info({ source: this.#source, databases: names }, 'copying all records');
    await store.write(
      (transaction) => {
        for (const name of names) transaction.clear(name);
      },
      () => at(NOTHING),
    ).committed;
    const { keyBytes } = this.#options.config;
    for (const [index, name] of names.entries()) {
      for await (const records of walkRecords(client, String(index))) {
        if (this.#isOver) return undefined;
        const fitting = records.filter(({ key }) => key.length <= keyBytes);
        this.#counters.skipped += records.length - fitting.length;
        await store.write((transaction) => {
          for (const { key, value, xtMs } of fitting) transaction.set(name, key, value, xtMs);
        }).committed;
        this.#recordsCopied += fitting.length;
      }
    }
    await store.mark(at(startNs)).flushed;
    this.#log.info({ records: this.#recordsCopied, skipped: this.#counters.skipped }, 'copied all records');
    return startNs;
  }

  #databases(store: Store): readonly string[] {
    return this.#options.config.databases ?? store.databases().map(({ name }) => name);
  }

  #connect(timestampNs: bigint, onEvents: (events: readonly KtEvent[]) => void): KtConnection {
    const { config, sid, runtime } = this.#options;
    const messageBytes = config.maxTransactionBytes;
    const upstream = this.#upstream ?? config.upstream;
    const options = { ...upstream, runtime, silenceMs: config.silenceMs, messageBytes, onEvents };
    return new KtConnection({ timestampNs, sid, onlySid: false }, options);
  }

  async #stream(position: bigint, store: Store): Promise<void> {
    const { config, runtime } = this.#options;
    const applier = new KtApplier({
      feed: KT_FEED,
      store,
      databases: this.#databases(store),
      limits: config,
      counters: this.#counters,
      log: this.#log,
      onPressure: (tooMuch) => connection.pause('pressure', tooMuch),
      onFail: (error) => connection.end(error),
    });
    const rest = new Rest({
      runtime,
      intervalMs: this.#intervalMs,
      onRest: (isResting) => connection.pause('rest', isResting),
    });
    const connection = this.#connect(position, (events) => {
      for (const event of events) {
        if (event.kind === 'refused') throw refusal(this.#source);
        if (event.kind === 'accepted') this.#onAccepted(position);
        if (event.kind === 'update') applier.add(event);
        // The server speaks so when it has nothing more: this node is where it is once all is committed.
        if (event.kind === 'tick' && event.wantsAnswer) this.#atTip(applier, runtime.monotonicMs());
      }
      applier.flush();
      rest.took(events.reduce((changes, { kind }) => changes + Number(kind === 'update'), 0));
    });
    this.#connection = connection;
    try {
      await connection.ended;
    } finally {
      rest.end();
      applier.abandon();
      this.#connection = undefined;
    }
  }

  #onAccepted(position: bigint): void {
    this.#state = 'streaming';
    this.#lastError = undefined;
    this.#log.info({ source: this.#source, timestampNs: String(position) }, 'following a Kyoto Tycoon server');
  }

  #atTip(applier: KtApplier, heardMs: number): void {
    applier.whenApplied(() => {
      this.#caughtUpMs = heardMs;
    });
  }

  /** Whom this root follows, as a Kyoto Tycoon server reports it; `undefined`: nobody. */
  get following(): KtFollowing | undefined {
    const upstream = this.#change === undefined ? this.#upstream : this.#change.upstream;
    if (upstream === undefined) return undefined;
    const timestampNs = this.#store?.feedPosition(KT_FEED) ?? NOTHING;
    return { ...upstream, timestampNs, intervalMs: this.#change?.intervalMs ?? this.#intervalMs };
  }

  status(): KyotoTycoonFeedStatus {
    const nowMs = this.#options.runtime.monotonicMs();
    return {
      kind: 'kyoto-tycoon',
      state: this.#state,
      source: this.#source,
      timestampNs: String(this.#store?.feedPosition(KT_FEED) ?? NOTHING),
      lagMs: this.#caughtUpMs === undefined ? undefined : Math.round(nowMs - this.#caughtUpMs),
      recordsCopied: this.#recordsCopied,
      changes: this.#counters.changes,
      skippedChanges: this.#counters.skipped,
      failures: this.#failures,
      lastError: this.#lastError,
    };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#endAttempt(new TokaidoError('FEED', 'the feed is stopped'));
    let timer: { cancel(): void } | undefined;
    const enough = new Promise<void>((resolve) => {
      timer = this.#options.runtime.after(STOP_LIMIT_MS, resolve);
    });
    await Promise.race([this.#running, enough]);
    timer?.cancel();
    this.#state = 'stopped';
  }
}

function at(position: bigint): { feed: string; position: bigint } {
  return { feed: KT_FEED, position };
}

function describe(upstream: KtAddress | undefined): string {
  return upstream === undefined ? 'nobody' : `${upstream.host}:${upstream.port}`;
}

/** By the server's own clock, which its time stamps come from too. Errors: `FEED`, those of the connection. */
async function serverTimeNs(client: TokaidoClient): Promise<bigint> {
  const { rows } = await client.call('report');
  const seconds = Number(rows.get('serv_current_time')?.toString('latin1'));
  if (!(seconds > 0)) throw new TokaidoError('FEED', 'the server does not say what time it is: no Kyoto Tycoon?');
  return BigInt(Math.floor(seconds * 1000)) * 1_000_000n - OVERLAP_NS;
}

function refusal(source: string): TokaidoError {
  return new TokaidoError('FEED', `${source} refuses to be followed: it writes no update log`, {
    hint: 'start that server with -ulog DIR and -sid N',
  });
}
