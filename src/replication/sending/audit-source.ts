/**
 * The upstream's side of an audit: one database read at one moment, and the follower's questions about it answered in
 * small steps, so that reads and other followers get their turn in between.
 */
import type { Keys } from '../../base/keys.js';
import type { LocalNumber } from '../../base/types.js';
import { DatabaseAudit, type RangeHash } from '../../store/audit.js';
import type { KeyRange } from '../../store/repair.js';
import type { SetHash } from '../../store/set-hash.js';
import type { LocalStore } from '../../store/store.js';
import type { AuditFrame, Descend, Frame } from '../frames/frames.js';
import { MAX_RANGES } from '../frames/frames.js';

/** Rows that one step hashes, at most: about a millisecond. */
export const STEP_ROWS = 2048;
/** Bytes of rows in one frame, about. */
const ROWS_BYTES = 256 * 1024;

interface Question {
  /** In each part; 0 for the rows themselves. */
  readonly rows: number;
  readonly left: KeyRange[];
  readonly parts: RangeHash[];
  readonly isRecount: boolean;
}

export class AuditSource {
  readonly database: string;
  readonly keys: Keys;
  /** Belongs in front of the transaction with this number. */
  readonly next: LocalNumber;
  readonly #audit: DatabaseAudit;
  readonly #cutoffMs: number;
  #isAnnounced = false;
  #question: Question | undefined;
  /** Only the first question, for all keys, has every record read exactly once. */
  #isFirst = true;
  #miscount: SetHash | undefined;

  /** `keys`: what the follower may see of the database. */
  constructor(store: LocalStore, { database, horizonMs }: AuditFrame, nowMs: number, keys: Keys) {
    this.database = database;
    this.keys = keys;
    this.#audit = new DatabaseAudit(store.engine, database, keys);
    this.next = this.#audit.next;
    this.#cutoffMs = Math.max(nowMs, horizonMs);
  }

  ask({ rows, ranges }: Descend): void {
    const [range] = ranges;
    const isForAll = ranges.length === 1 && range?.start.length === 0 && range.end === undefined && rows > 0;
    this.#question = { rows, left: [...ranges], parts: [], isRecount: this.#isFirst && isForAll };
    this.#isFirst = false;
  }

  get isAnnounced(): boolean {
    return this.#isAnnounced;
  }

  /** There is something to say. */
  get isBusy(): boolean {
    return !this.#isAnnounced || this.#question !== undefined;
  }

  /** Does a little; returns a frame when one is full. */
  step(): Frame | undefined {
    if (!this.#isAnnounced) {
      this.#isAnnounced = true;
      return { type: 'audited', position: this.#audit.position, cutoffMs: this.#cutoffMs };
    }
    const question = this.#question;
    if (question === undefined) return undefined;
    const range = question.left.shift();
    if (range === undefined) {
      this.#question = undefined;
      return { type: 'ranges', parts: question.parts, isLast: true };
    }
    return question.rows === 0 ? this.#rows(range, question.left) : this.#hash(range, question);
  }

  #rows(range: KeyRange, left: KeyRange[]): Frame {
    const part = this.#audit.rows(range, ROWS_BYTES);
    if (part.end !== range.end) left.unshift({ start: part.end as Buffer, end: range.end });
    const isLast = left.length === 0;
    if (isLast) this.#question = undefined;
    return { type: 'rangeRows', isLast, ...part };
  }

  #hash(range: KeyRange, { rows, left, parts, isRecount }: Question): Frame | undefined {
    const part = this.#audit.hash(range, this.#cutoffMs, Math.min(rows, STEP_ROWS));
    if (part.end !== range.end) left.unshift({ start: part.end as Buffer, end: range.end });
    parts.push(part);
    if (left.length === 0) {
      if (isRecount) this.#miscount = this.#audit.miscount();
      return undefined;
    }
    return parts.length < MAX_RANGES ? undefined : { type: 'ranges', parts: parts.splice(0), isLast: false };
  }

  /** By how much this node's own running hash is wrong; known after the first question. */
  get miscount(): SetHash | undefined {
    return this.#miscount;
  }

  close(): void {
    this.#audit.close();
  }
}
