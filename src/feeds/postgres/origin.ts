/**
 * Whether the store's position still means anything to the Postgres at the other end: same cluster, same history, and a
 * slot that is the one we made. If not, changes are missing between the two, and only a copy makes the store right.
 */
import { TokaidoError } from '../../base/errors.js';
import type { Store } from '../../store/types.js';
import type { ReplicationConnection } from './connection.js';
import { formatLsn, type Lsn, parseLsn } from './pgoutput.js';
import type { SlotState } from './slots.js';
import { isCopying } from './tables.js';

/** Which Postgres, and how often its history forked. */
export interface Origin {
  /** Identifies the cluster of databases for its life, copies of its files included. */
  readonly system: bigint;
  readonly timeline: number;
  readonly lsn: Lsn;
}

const SYSTEM = 'postgres system';
const TIMELINE = 'postgres timeline';
const CONFIRMABLE = 'postgres confirmable';

/** Errors: `FEED`. */
export async function identify(replication: ReplicationConnection): Promise<Origin> {
  const [row] = await replication.command('IDENTIFY_SYSTEM');
  const { systemid, timeline, xlogpos } = row ?? {};
  if (systemid == null || timeline == null || xlogpos == null)
    throw new TokaidoError('FEED', 'Postgres does not say who it is');
  return { system: BigInt(systemid), timeline: Number(timeline), lsn: parseLsn(xlogpos) };
}

/** Where timeline `from` ended on the way to `to`; `undefined` when it is no part of that history. */
async function endOfTimeline(replication: ReplicationConnection, from: number, to: number): Promise<Lsn | undefined> {
  const [row] = await replication.command(`TIMELINE_HISTORY ${to}`);
  const content = String(row?.content ?? '');
  // Bytes come as text or in hex, depending on the version.
  const text = content.startsWith('\\x') ? Buffer.from(content.slice(2), 'hex').toString('utf8') : content;
  for (const line of text.split('\n')) {
    const [timeline, lsn] = line.trim().split(/\s+/);
    if (Number(timeline) === from && lsn !== undefined) return parseLsn(lsn);
  }
  return undefined;
}

/**
 * Notes beside the position of the stream: which Postgres it belongs to, and how far the slot was moved. Postgres moves a
 * slot to where it was told to and no further, and each position that it is told is on our disk first: that of the last
 * change, or, when no change is there to say so, a note of its own. So a slot beyond both is another one under the same
 * name: it was made later, when the WAL was longer, and what was committed before lies behind it.
 */
export class OriginNotes {
  readonly #store: Store;
  /** The highest position that this process has told Postgres to be safe; exact, but gone with the process. */
  told: Lsn | undefined;

  constructor(store: Store) {
    this.#store = store;
  }

  /** The timeline that the position belongs to; 0 when nothing was noted yet. */
  get timeline(): number {
    return Number(this.#store.feedPosition(TIMELINE) ?? 0n);
  }

  /** Up to here the slot may have been moved, beyond the position of the last change. */
  get confirmable(): Lsn {
    return this.#store.feedPosition(CONFIRMABLE) ?? 0n;
  }

  /** The slot may be moved to `lsn`, where no change of ours says so, once this has resolved. */
  async allow(lsn: Lsn): Promise<void> {
    if (lsn > this.confirmable) await this.#store.mark({ feed: CONFIRMABLE, position: lsn }).flushed;
  }

  /** After a new copy, or when nothing was noted yet. */
  async note({ system, timeline }: Origin, lsn?: Lsn): Promise<void> {
    const notes: [string, bigint][] = [
      [SYSTEM, system],
      [TIMELINE, BigInt(timeline)],
    ];
    if (lsn !== undefined) notes.push([CONFIRMABLE, lsn]);
    for (const [feed, position] of notes) {
      if (this.#store.feedPosition(feed) !== position) await this.#store.mark({ feed, position }).flushed;
    }
  }

  /** Why `position` leads nowhere with this origin and slot; `undefined` when the stream can go on from it. */
  async whyNot(
    replication: ReplicationConnection,
    origin: Origin,
    slot: SlotState | undefined,
    position: Lsn,
  ): Promise<string | undefined> {
    if (slot === undefined) return 'the replication slot is gone';
    if (slot.lost) return 'Postgres gave up the WAL of the slot';
    if (position > origin.lsn) return 'Postgres is behind what was applied from it (restored?)';
    const system = this.#store.feedPosition(SYSTEM);
    if (system !== undefined && system !== origin.system) return 'this is another Postgres than before';
    const timeline = this.timeline || origin.timeline;
    if (timeline !== origin.timeline) {
      // The history of an older timeline knows nothing of younger ones.
      const end = timeline > origin.timeline ? undefined : await endOfTimeline(replication, timeline, origin.timeline);
      if (end === undefined || end < position)
        return `Postgres went on at ${end === undefined ? 'an unknown position' : formatLsn(end)} without what was applied from it`;
      // What a copy reads is newer than the position of the stream, and may be lost with the old history.
      if (isCopying(this.#store)) return 'Postgres went on elsewhere while tables were copied';
    }
    if (this.#store.feedPosition(CONFIRMABLE) === undefined) return undefined;
    const most = this.told ?? this.confirmable;
    const { confirmedLsn } = slot;
    if (confirmedLsn === undefined || confirmedLsn <= position || confirmedLsn <= most) return undefined;
    return 'the replication slot is not the one we made: it begins behind changes that never arrived';
  }
}
