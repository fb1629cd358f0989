/**
 * Has tables copied: whom a copy waits for, how it comes to its moment, and that its connections end with it.
 *
 * The first copy has the moment of the slot, and nothing streams before it is over. A copy beside the stream takes its own
 * moment, once nothing is open any more that the stream would not bring (writers.ts), from a snapshot that shows what the
 * stream left to it (beside.ts). That snapshot is made durable before a row of it is stored: see sight.ts.
 */
import type pg from 'pg';
import { TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import type { Store } from '../../store/types.js';
import { Beside, type CopyKind } from './beside.js';
import { applicationName, cut } from './connection.js';
import { type CopyProgress, hasRecords, prepareCopy, startProgress, type TableCopy } from './copy.js';
import type { PostgresFeedConfig } from './feed.js';
import type { MappingCounters } from './mapping.js';
import { formatLsn, type Lsn } from './pgoutput.js';
import { Sight, type Sights } from './sight.js';
import { emitMessage, type Moment } from './slots.js';
import { SnapshotConnections } from './snapshot.js';
import type { FeedStream } from './stream.js';
import type { CopiedTables, PublishedTable } from './tables.js';
import type { TypeCatalog } from './values.js';
import { countOf, stillOpen, WaitingNote, writersOf } from './writers.js';

/** How often it is asked whether those that the copy waits for are over, ms: ever less often. */
const ASK_MIN_MS = 20;
const ASK_MAX_MS = 1_000;

export interface CopyingOptions {
  readonly config: PostgresFeedConfig;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly store: Store;
  readonly whole: CopiedTables;
  readonly counters: MappingCounters;
  readonly progress: CopyProgress;
  readonly sights: Sights;
  /** Of the feed: a connection for questions. */
  readonly sql: pg.Client;
  readonly types: TypeCatalog;
  /** Name of the connections. */
  readonly name: string;
}

/** Which tables have to be copied while the stream goes on from a position, noted as such; `undefined`: none. */
export async function planBeside(
  { sql, tables }: { readonly sql: pg.Client; readonly tables: readonly PublishedTable[] },
  store: Store,
  whole: CopiedTables,
  sights: Sights,
  position: Lsn,
): Promise<Beside | undefined> {
  const isAhead = ({ mapping }: PublishedTable): boolean => whole.copiedAt(mapping) > position;
  const isSeen = ({ mapping }: PublishedTable): boolean => sights.has(whole.copiedAt(mapping));
  // What these copies have of the changes that are to come, nobody can say any more.
  const unknown = tables.filter((table) => isAhead(table) && !isSeen(table));
  await whole.forget(unknown.map(({ mapping }) => mapping));
  for (const lsn of sights.keys()) if (lsn <= position) sights.delete(lsn);
  const kinds = new Map<PublishedTable, CopyKind>();
  const over = new Set<PublishedTable>();
  for (const table of tables) {
    if (whole.isWhole(table)) continue;
    const begun = await whole.begunNow(sql, table);
    kinds.set(table, begun === undefined ? 'anew' : 'on');
    if (begun?.isOverRecords ?? hasRecords(store, table)) over.add(table);
  }
  const beside = new Beside(kinds, over);
  // Before the stream goes on: its changes of these are left out from here on.
  await whole.forget(beside.of('anew').map(({ mapping }) => mapping));
  const unsettled = tables.filter((table) => kinds.has(table) || isAhead(table));
  await whole.noteCopying(unsettled.map(({ mapping }) => mapping.database));
  return kinds.size === 0 ? undefined : beside;
}

export class Copying {
  readonly #options: CopyingOptions;
  #connections: SnapshotConnections | undefined;
  #copy: TableCopy | undefined;
  #isCut = false;

  constructor(options: CopyingOptions) {
    this.#options = options;
  }

  /** Copies tables as of the moment at which a slot was made; `onBegun` when the moment is noted. Returns false when it was cut. Errors: `FEED`. */
  async runAt(
    { lsn, snapshot }: Moment,
    tables: readonly PublishedTable[],
    onBegun: () => Promise<void>,
  ): Promise<boolean> {
    startProgress(this.#options.progress, tables.length);
    const connections = await this.#open();
    try {
      await connections.share(snapshot);
      return await this.#run(connections, lsn, tables, undefined, onBegun);
    } finally {
      await connections.end();
    }
  }

  /** Copies tables beside the stream. Returns false when it was cut. Errors: `FEED`. */
  async runBeside(beside: Beside, stream: FeedStream): Promise<boolean> {
    startProgress(this.#options.progress, beside.tables.length);
    await this.#waitForWriters(beside);
    const connections = await this.#open();
    try {
      const lsn = await this.#takeMoment(connections, beside, stream);
      const tables = beside.tables.map(({ mapping }) => mapping.table);
      this.#options.log.info(
        { tables, lsn: formatLsn(lsn) },
        'tables are new, changed in shape or half copied: copying them',
      );
      const isWhole = await this.#run(connections, lsn, beside.tables, beside, async () => undefined);
      if (isWhole) beside.overtaken.end();
      return isWhole;
    } finally {
      await connections.end();
    }
  }

  /** Cuts the connections: what waits for them fails, and nothing more is written. */
  cut(): void {
    this.#isCut = true;
    this.#connections?.cut();
    this.#copy?.cut();
  }

  async #open(): Promise<SnapshotConnections> {
    const { config, name, runtime } = this.#options;
    const label = applicationName(`copy of ${name}`);
    this.#connections = await SnapshotConnections.open(config, config.copyConnections, label, runtime);
    if (this.#isCut) this.#connections.cut();
    return this.#connections;
  }

  async #run(
    connections: SnapshotConnections,
    lsn: Lsn,
    tables: readonly PublishedTable[],
    beside: Beside | undefined,
    onBegun: () => Promise<void>,
  ): Promise<boolean> {
    const { runtime, store, log, whole, types, counters, progress } = this.#options;
    const goingOn = new Set(beside?.of('on') ?? []);
    const [overtaken, stopped] = [beside?.overtaken, (): boolean => this.#isCut];
    const options = { connections, runtime, store, log, tables, goingOn, whole, lsn, types, counters };
    this.#copy = await prepareCopy({ ...options, overtaken, progress, stopped });
    await onBegun();
    return await this.#copy.run();
  }

  async #sleep(ms: number): Promise<void> {
    await new Promise<void>((resolve) => this.#options.runtime.after(ms, resolve));
    if (this.#isCut) throw new TokaidoError('FEED', 'the copy was given up');
  }

  async #waitForWriters(beside: Beside): Promise<void> {
    const { sql, runtime, log, progress } = this.#options;
    const waiting = new WaitingNote(runtime, log, 'the copy waits for transactions that wrote to its tables before');
    let open = await writersOf(sql, beside.tables);
    for (let askMs = ASK_MIN_MS; open.length > 0; askMs = Math.min(2 * askMs, ASK_MAX_MS)) {
      progress.waitsFor = countOf(open);
      waiting.note(open);
      await this.#sleep(askMs);
      const { rows } = await sql.query<{ text: string }>('SELECT pg_current_snapshot() AS text');
      beside.forget(new Sight(rows[0]?.text ?? '', 0n));
      open = await stillOpen(sql, open);
    }
    progress.waitsFor = 0;
  }

  /** Takes a snapshot that shows what the stream left to it, and returns a position behind what it shows. */
  async #takeMoment(connections: SnapshotConnections, beside: Beside, stream: FeedStream): Promise<Lsn> {
    const { sql, config, runtime } = this.#options;
    for (;;) {
      const limit = runtime.after(config.silenceMs, () => {
        this.cut();
        cut(sql);
      });
      const taken = await stream
        .holdDuring(async () => {
          const { text, share } = await connections.take();
          const sight = new Sight(text, await emitMessage(sql));
          return beside.judge(sight) ? { sight, share } : undefined;
        })
        .finally(() => limit.cancel());
      if (taken === undefined) {
        await this.#sleep(ASK_MIN_MS);
        continue;
      }
      this.#options.sights.set(taken.sight.lsn, taken.sight);
      await taken.share();
      return taken.sight.lsn;
    }
  }
}
