/**
 * The follower's side of an audit: it differs from its upstream in a database, finds out where, and puts it right.
 *
 * The upstream reads the database at one moment, whose place among the batches is known, and so does this node: right
 * behind the same batch. Then it descends like in a Merkle tree, level by level: hashes of ranges of many rows, hashes of
 * smaller parts of those that differ, and the rows of those that still do. A row is put right unless this node's own is
 * newer than what the upstream can know. When nothing differs, a running hash was wrong, and is corrected.
 */
import { TokaidoError } from '../../base/errors.js';
import type { Position } from '../../base/types.js';
import { ALL_KEYS, DatabaseAudit, type RangeHash } from '../../store/audit.js';
import { type KeyRange, NOTHING_REPAIRED, type Repaired, sumRepairs } from '../../store/repair.js';
import { addHash, isSameHash, NOTHING, type SetHash } from '../../store/set-hash.js';
import type { LocalStore } from '../../store/store.js';
import { type Audited, type Frame, MAX_RANGES, type RangeRowsFrame, type Ranges } from '../frames/frames.js';
import { STEP_ROWS } from '../sending/audit-source.js';

/** Rows of a range, level by level; after the last come the rows themselves. */
const LEVELS = [STEP_ROWS, 32];
/** Ranges that are followed further down at a time; what else differs is the next audit's. */
const MOST_RANGES = 4096;

/** What an audit came to. */
export interface AuditReport {
  readonly database: string;
  readonly position: Position;
  readonly repaired: Repaired;
  /** Nothing differed but this node's running hash. */
  readonly recounted: boolean;
}

export interface AuditHost {
  readonly database: string;
  readonly store: LocalStore;
  send(frame: Frame): void;
  /** Resolves in a later turn of the event loop. */
  nextTurn(): Promise<void>;
  onDone(report: AuditReport): void;
}

export class Audit {
  readonly #host: AuditHost;
  #own: DatabaseAudit | undefined;
  #position: Position = [];
  #cutoffMs = 0;
  #level = 0;
  /** What to ask for next at this level, and what was found to differ at it. */
  #asked: KeyRange[] = [];
  #differing: KeyRange[] = [];
  #repaired = NOTHING_REPAIRED;
  #miscount: SetHash | undefined;
  #isClosed = false;

  constructor(host: AuditHost, horizonMs: number) {
    this.#host = host;
    host.send({ type: 'audit', database: host.database, horizonMs });
  }

  /** The upstream has read; this node stands right behind the same batch. */
  onAudited({ position, cutoffMs }: Audited): void {
    if (this.#isClosed) return;
    if (this.#own !== undefined) throw new TokaidoError('REPLICATION', 'AUDITED twice');
    this.#own = new DatabaseAudit(this.#host.store.engine, this.#host.database);
    this.#position = position;
    this.#cutoffMs = cutoffMs;
    this.#asked = [ALL_KEYS];
    this.#ask();
  }

  #ask(): void {
    const ranges = this.#asked.splice(0, MAX_RANGES);
    this.#host.send({ type: 'descend', rows: LEVELS[this.#level] ?? 0, ranges });
  }

  async onRanges({ parts, isLast }: Ranges): Promise<void> {
    for (const part of parts) {
      if (this.#isClosed) return;
      const here = await this.#hash(part);
      const differs = here.count !== part.count || !isSameHash(here.hash, part.hash);
      if (differs && this.#differing.length < MOST_RANGES) this.#differing.push({ start: part.start, end: part.end });
    }
    if (isLast) this.#onLevel();
  }

  /** What this node has in a range, however much that is. */
  async #hash({ start, end }: KeyRange): Promise<{ readonly count: number; readonly hash: SetHash }> {
    const own = this.#opened();
    const hash = Int32Array.from(NOTHING);
    let count = 0;
    for (let from: KeyRange = { start, end }; ; ) {
      const part: RangeHash = own.hash(from, this.#cutoffMs, STEP_ROWS);
      addHash(hash, part.hash, 1);
      count += part.count;
      await this.#host.nextTurn();
      if (part.end === end || this.#isClosed) return { count, hash };
      from = { start: part.end as Buffer, end };
    }
  }

  #opened(): DatabaseAudit {
    if (this.#own === undefined) throw new TokaidoError('REPLICATION', 'ranges before AUDITED');
    return this.#own;
  }

  #onLevel(): void {
    if (this.#asked.length > 0) {
      this.#ask();
      return;
    }
    if (this.#level === 0) this.#miscount = this.#opened().miscount();
    this.#level++;
    this.#asked = this.#differing;
    this.#differing = [];
    if (this.#asked.length === 0 || this.#level > LEVELS.length) this.#finish();
    else this.#ask();
  }

  async onRows({ start, end, rows, isLast }: RangeRowsFrame): Promise<void> {
    if (this.#isClosed) return;
    this.#opened();
    const { database, store } = this.#host;
    const repair = { database, position: this.#position, cutoffMs: this.#cutoffMs, start, end, rows };
    this.#repaired = sumRepairs(this.#repaired, await store.proving.repair(repair));
    if (isLast) this.#onLevel();
  }

  #finish(): void {
    const { database, store } = this.#host;
    const miscount = this.#miscount;
    const report = { database, position: this.#position, repaired: this.#repaired, recounted: miscount !== undefined };
    this.close();
    this.#host.send({ type: 'auditEnd', reason: '' });
    if (miscount !== undefined) void store.proving.correctHash(database, miscount).catch(() => undefined);
    this.#host.onDone(report);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#own?.close();
  }
}
