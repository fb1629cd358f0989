/**
 * Looks at our slot from the side of Postgres while a feed runs and while it fails: how much WAL it keeps, how old what
 * is safe here is, and when that is too much for Postgres' disk. The heartbeat is a transaction of its own in the WAL:
 * it moves an idle slot, and once it is confirmed everything before it is safe, too.
 */
import type pg from 'pg';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import type { Lsn } from './pgoutput.js';
import { emitMessage } from './slots.js';

export interface SlotLimits {
  readonly slot: string;
  /** WAL kept for us from which on it is said in the log, bytes. */
  readonly slotWarnBytes: number;
  /** WAL kept for us from which on the slot is dropped and everything copied again, bytes; `undefined` never. */
  readonly slotDropBytes?: number | undefined;
}

/** What Postgres says about our slot. */
export interface SlotFigures {
  /** WAL on Postgres' disk because of the slot. */
  readonly retainedBytes: number;
  /** WAL that Postgres may still write before it gives the slot up; `undefined` without `max_slot_wal_keep_size`. */
  readonly safeBytes: number | undefined;
  /** `reserved`, `extended`, `unreserved` or `lost`. */
  readonly walStatus: string;
}

export type SlotVerdict = 'fine' | 'drop';

/** Heartbeats remembered; beyond that the newest are not waited for. */
const MAX_BEATS = 1000;

export class SlotWatch {
  readonly #limits: SlotLimits;
  readonly #runtime: Runtime;
  readonly #log: Logger;
  readonly #beats: { readonly lsn: Lsn; readonly sentMs: number }[] = [];
  /** Everything before this moment is safe here; `undefined` before the first time. */
  #safeSinceMs: number | undefined;
  #figures: SlotFigures | undefined;
  #warned = false;

  constructor(limits: SlotLimits, runtime: Runtime, log: Logger) {
    this.#limits = limits;
    this.#runtime = runtime;
    this.#log = log;
  }

  /** As of the last look. */
  get figures(): SlotFigures | undefined {
    return this.#figures;
  }

  /** Writes one heartbeat to the WAL. */
  async beat(sql: pg.Client): Promise<void> {
    const sentMs = this.#runtime.monotonicMs();
    const lsn = await emitMessage(sql);
    if (this.#beats.length < MAX_BEATS) this.#beats.push({ lsn, sentMs });
  }

  /** Everything up to here is safe. */
  reached(confirmed: Lsn): void {
    for (let beat = this.#beats[0]; beat !== undefined && beat.lsn <= confirmed; beat = this.#beats[0]) {
      this.#safeSinceMs = beat.sentMs;
      this.#beats.shift();
    }
  }

  /**
   * Age of the oldest change of Postgres that may not be safe here, ms: 0 when every heartbeat has arrived, `undefined`
   * before the first was sent.
   */
  lagMs(isStreaming: boolean): number | undefined {
    const sinceMs = this.#safeSinceMs ?? this.#beats[0]?.sentMs;
    if (sinceMs === undefined) return undefined;
    if (isStreaming && this.#beats.length === 0) return 0;
    return this.#runtime.monotonicMs() - sinceMs;
  }

  /** The stream was lost: heartbeats under way are not waited for any more, those after them say as much. */
  forgetBeats(): void {
    this.#beats.length = 0;
  }

  /** Asks Postgres, warns once for each time that the limit is passed, and says whether the slot has to go. */
  async look(sql: pg.Client): Promise<SlotVerdict> {
    const { slot, slotWarnBytes, slotDropBytes } = this.#limits;
    const { rows } = await sql.query<{ retained: string | null; safe: string | null; status: string | null }>(
      `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) AS retained, safe_wal_size AS safe, wal_status AS status
       FROM pg_replication_slots WHERE slot_name = $1`,
      [slot],
    );
    const [row] = rows;
    if (row === undefined) {
      this.#figures = undefined;
      return 'fine';
    }
    const retainedBytes = Math.max(0, Number(row.retained ?? 0));
    const safeBytes = row.safe === null ? undefined : Number(row.safe);
    this.#figures = { retainedBytes, safeBytes, walStatus: row.status ?? 'unknown' };
    const isMuch = retainedBytes > slotWarnBytes;
    if (isMuch && !this.#warned) {
      this.#log.warn(
        { slot, retainedBytes, slotWarnBytes, slotDropBytes, safeBytes },
        'the slot keeps much WAL on the disk of Postgres',
      );
    }
    this.#warned = isMuch;
    return slotDropBytes !== undefined && retainedBytes > slotDropBytes ? 'drop' : 'fine';
  }
}
