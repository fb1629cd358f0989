/**
 * One moment of the store, walked through in slices for one follower. It outlives the follower's link: behind any of the
 * newest slices it can be gone on with.
 */
import type { RowSlice, SnapshotMark, SnapshotSource } from '../../store/snapshot.js';

/**
 * Slices whose ends are remembered. What a follower was sent and does not have lies in queues of a few megabytes, and,
 * after a power cut, in what its disk had not flushed: this is some hundred megabytes.
 */
const MOST_MARKS = 4096;

interface Mark {
  /** Up to here. */
  readonly rows: number;
  readonly at: SnapshotMark;
}

export class SnapshotWalk {
  /** Hex; the follower names it to go on. Without one nobody can. */
  readonly id: string | undefined;
  /** What of the store it shows. */
  readonly scopeId: string;
  readonly #source: SnapshotSource;
  #marks: Mark[] = [];
  #rows = 0;

  constructor(id: string | undefined, scopeId: string, source: SnapshotSource) {
    this.id = id;
    this.scopeId = scopeId;
    this.#source = source;
  }

  get contents(): SnapshotSource['contents'] {
    return this.#source.contents;
  }

  /** Given so far. */
  get rows(): number {
    return this.#rows;
  }

  /** The next rows, about `bytes` of them, or `undefined` after the last. */
  next(bytes: number): RowSlice | undefined {
    const slice = this.#source.next(bytes);
    if (slice === undefined) return undefined;
    this.#rows += slice.count;
    if (this.id === undefined) return slice;
    this.#marks.push({ rows: this.#rows, at: this.#source.mark });
    if (this.#marks.length >= 2 * MOST_MARKS) this.#marks = this.#marks.slice(-MOST_MARKS);
    return slice;
  }

  /** Goes on behind so many rows. Returns whether it can: a slice must have ended there, not too long ago. */
  goTo(rows: number): boolean {
    const index = this.#marks.findIndex((mark) => mark.rows === rows);
    const mark = this.#marks[index];
    if (mark === undefined) return false;
    this.#source.goTo(mark.at);
    this.#rows = rows;
    this.#marks = this.#marks.slice(0, index + 1);
    return true;
  }

  close(): void {
    this.#source.close();
  }
}
