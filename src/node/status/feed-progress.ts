/**
 * How far this node is in each feed, from what it knows: the positions stored with the data, and beyond them what the
 * beats of the origin (or, on the root, the feed itself) say of a source that moved without a change for us. Readers
 * that wait are woken as it moves.
 */
import type { Runtime, Timer } from '../../base/runtime.js';
import { FeedWaits, type Reached } from '../../commands/feed-waits.js';
import { copyingNote } from '../../feeds/feed.js';
import { formatFeedPosition, POSITIONED_FEEDS } from '../../protocol/at-least.js';
import type { Heartbeats } from '../../replication/frames/heartbeats.js';
import type { LocalStore } from '../../store/store.js';
import type { FeedPosition } from '../../store/types.js';

/** Beats for readers that wait are sent no more often than this, ms. */
const BEAT_EVERY_MS = 10;

export interface FeedProgressOptions {
  readonly runtime: Runtime;
  readonly heartbeats: Heartbeats;
  store(): LocalStore | undefined;
  /** How far this node's own feed is, beyond its last transaction. */
  own(): FeedPosition | undefined;
  /** Tells the followers how far the feed is. */
  beat(): void;
}

export class FeedProgress {
  readonly waits: FeedWaits;
  readonly #options: FeedProgressOptions;
  readonly #last = new Map<string, bigint>();
  #beat: Timer | undefined;
  #beatMs = Number.NEGATIVE_INFINITY;

  constructor(options: FeedProgressOptions) {
    this.#options = options;
    this.waits = new FeedWaits({
      runtime: options.runtime,
      reached: (feed, database) => this.reached(feed, database),
      describe: formatFeedPosition,
    });
  }

  /** How far this node is, whatever is being copied; `undefined` before the feed's first position. */
  position(feed: string): bigint | undefined {
    const { own, heartbeats, store } = this.#options;
    const stored = store()?.feedPosition(feed) ?? 0n;
    if (stored === 0n) return undefined;
    const mine = own();
    const beyond = mine?.feed === feed ? mine.position : (heartbeats.reachedOf(feed) ?? 0n);
    return beyond > stored ? beyond : stored;
  }

  /** Everything the source committed before the position is visible in `database` here. */
  reached(feed: string, database: string): Reached {
    if (this.#options.store()?.feedPosition(copyingNote(feed, database)) === 1n) return 'copying';
    return this.position(feed) ?? 'nothing';
  }

  /** What followers may be told. */
  forFollowers(): FeedPosition[] {
    const mine = this.#options.own();
    return mine === undefined ? [] : [mine];
  }

  /** Follows the commits of a store. */
  watch(store: LocalStore): void {
    const moved = (): void => {
      this.#options.heartbeats.reach(store.position());
      this.#noticeNewBeginnings(store);
      this.waits.advance();
    };
    store.onCommit(moved);
    moved();
  }

  /** A feed whose position fell begins anew (another source, everything copied again). */
  #noticeNewBeginnings(store: LocalStore): void {
    for (const feed of POSITIONED_FEEDS) {
      const position = store.feedPosition(feed) ?? 0n;
      if (position < (this.#last.get(feed) ?? 0n)) this.#options.heartbeats.forgetReached();
      this.#last.set(feed, position);
    }
  }

  /** A beat arrived. */
  heard(): void {
    this.waits.advance();
  }

  /** This node's own feed moved on without a transaction: followers hear of it soon, not with the next regular beat. */
  ownMoved(): void {
    this.waits.advance();
    if (this.#beat !== undefined) return;
    const { runtime, beat } = this.#options;
    const dueMs = this.#beatMs + BEAT_EVERY_MS - runtime.monotonicMs();
    this.#beat = runtime.after(Math.max(0, dueMs), () => {
      this.#beat = undefined;
      this.#beatMs = runtime.monotonicMs();
      beat();
    });
  }

  close(): void {
    this.#beat?.cancel();
    this.waits.close();
  }
}
