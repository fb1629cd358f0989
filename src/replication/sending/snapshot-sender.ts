/** A snapshot on its way to one follower over one link: slices no faster than allowed, and how far it is. */
import type { Frame, Hello } from '../frames/frames.js';
import { PACKED_SLICE_BYTES, PACKINGS, Packer } from '../frames/packing.js';
import { progressOf, type SnapshotProgress } from '../snapshot-progress.js';
import type { SnapshotWalk } from './snapshot-walk.js';

export interface SnapshotPace {
  /** About how many bytes of records go into one frame. */
  readonly sliceBytes: number;
  /** No limit when absent. */
  readonly bytesPerSecond: number | undefined;
  /** Whether rows may be packed at all. */
  readonly packs: boolean;
  monotonicMs(): number;
}

/** What the follower said in its HELLO. */
type Receiver = Pick<Hello, 'unpacks' | 'takesHorizon'>;

export class SnapshotSender {
  readonly walk: SnapshotWalk;
  readonly #pace: SnapshotPace;
  readonly #startMs: number;
  /** Rows that are live records, as announced; the snapshot has tombstones besides. */
  readonly #records: number;
  readonly #packer: Packer | undefined;
  readonly #takesHorizon: boolean;
  /** Rows that the follower had before this link. */
  readonly #resumedAt: number;
  #bytes = 0;

  /** Goes on where the walk is, for one who takes this and that. Close the walk: it pins disk pages. */
  constructor(walk: SnapshotWalk, pace: SnapshotPace, receiver: Receiver) {
    this.walk = walk;
    this.#resumedAt = walk.rows;
    this.#pace = pace;
    this.#startMs = pace.monotonicMs();
    this.#takesHorizon = receiver.takesHorizon;
    const packing = pace.packs ? PACKINGS.find((known) => receiver.unpacks.includes(known)) : undefined;
    this.#packer = packing === undefined ? undefined : new Packer(packing);
    this.#records = this.contents.databases.reduce((sum, { records }) => sum + records, 0);
  }

  get contents(): SnapshotWalk['contents'] {
    return this.walk.contents;
  }

  /** What comes first. */
  get begin(): Frame {
    const { horizonMs, ...contents } = this.contents;
    const { id, rows } = this.walk;
    const from = id === undefined ? {} : { from: { id, rows } };
    return { type: 'snapshotBegin', ...contents, ...(this.#takesHorizon ? { horizonMs, ...from } : {}) };
  }

  get rows(): number {
    return this.walk.rows;
  }

  /** Of rows as they were sent, so far. */
  get bytes(): number {
    return this.#bytes;
  }

  get progress(): SnapshotProgress {
    return progressOf(this.rows, this.#records, this.#resumedAt);
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
    const most = this.#packer === undefined ? sliceBytes : Math.min(sliceBytes, PACKED_SLICE_BYTES);
    const slice = this.walk.next(Math.ceil(Math.min(most, bytesPerSecond / 4)));
    if (slice === undefined) return undefined;
    const { database, rows } = slice;
    const packed = this.#packer?.pack(rows);
    this.#bytes += (packed ?? rows).length;
    if (this.#packer === undefined || packed === undefined) return { type: 'snapshotRecords', database, rows };
    return { type: 'snapshotPacked', packing: this.#packer.packing, database, bytes: rows.length, packed };
  }
}
