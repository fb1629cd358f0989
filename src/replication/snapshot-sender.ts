/** A snapshot on its way to one follower: slices no faster than allowed, and how far it is. */
import { SnapshotSource } from '../store/snapshot.js';
import type { LocalStore } from '../store/store.js';
import type { Frame } from './frames.js';
import type { Scope } from './scope.js';

export interface SnapshotPace {
  /** About how many bytes of records go into one frame. */
  readonly sliceBytes: number;
  /** No limit when absent. */
  readonly bytesPerSecond: number | undefined;
  monotonicMs(): number;
}

export class SnapshotSender {
  readonly #source: SnapshotSource;
  readonly #pace: SnapshotPace;
  readonly #startMs: number;
  /** Rows that are live records, as announced; the snapshot has tombstones besides. */
  readonly #records: number;
  #rows = 0;
  #bytes = 0;

  /** Reads the store as it is now. Close it: it pins disk pages. */
  constructor(store: LocalStore, scope: Scope, pace: SnapshotPace) {
    this.#source = new SnapshotSource(store.engine, () => true, scope);
    this.#pace = pace;
    this.#startMs = pace.monotonicMs();
    this.#records = this.contents.databases.reduce((sum, { records }) => sum + records, 0);
  }

  get contents(): SnapshotSource['contents'] {
    return this.#source.contents;
  }

  get rows(): number {
    return this.#rows;
  }

  /** Of rows, sent so far. */
  get bytes(): number {
    return this.#bytes;
  }

  get progress(): { readonly rows: number; readonly of: number } {
    return { rows: this.#rows, of: this.#records };
  }

  /** How long the next slice has to wait, ms. */
  waitMs(): number {
    const { bytesPerSecond, monotonicMs } = this.#pace;
    if (bytesPerSecond === undefined) return 0;
    return Math.max(0, this.#startMs + (this.#bytes / bytesPerSecond) * 1000 - monotonicMs());
  }

  /** The next slice, `undefined` after the last. */
  next(): Frame | undefined {
    // Small ones when they are to be slow: a follower that gets nothing for long is given up.
    const { sliceBytes, bytesPerSecond = Number.POSITIVE_INFINITY } = this.#pace;
    const slice = this.#source.next(Math.ceil(Math.min(sliceBytes, bytesPerSecond / 4)));
    if (slice === undefined) return undefined;
    this.#rows += slice.count;
    this.#bytes += slice.rows.length;
    return { type: 'snapshotRecords', database: slice.database, rows: slice.rows };
  }

  close(): void {
    this.#source.close();
  }
}
