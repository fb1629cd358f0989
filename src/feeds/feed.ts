/**
 * What a feed is: a source outside of the cluster whose changes a root takes in, exactly once. A feed writes each change
 * together with its own position (`Store.write(build, {feed, position})`), begins at `Store.feedPosition`, and tells its
 * source that something is safe only after `flushed` resolved.
 */
import type { Store } from '../store/types.js';

/**
 * Name of the feed position that is 1 while the feed copies into `database`, else 0. It travels with the data: meanwhile
 * no node may tell a reader that it has everything before some position.
 */
export function copyingNote(feed: string, database: string): string {
  return `${feed} copying ${database}`;
}

export interface Feed {
  /** Begins to feed the store and goes on, over all failures of the source, until `stop`. */
  start(store: Store): void;
  /** Resolves when nothing of this feed is under way any more. */
  stop(): Promise<void>;
}
