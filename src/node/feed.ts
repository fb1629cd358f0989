/** Where a root's data comes from, as its configuration says. */
import { join } from 'node:path';
import type { Logger } from '../base/logger.js';
import type { Runtime } from '../base/runtime.js';
import { KyotoTycoonFeed } from '../feeds/kyoto-tycoon/feed.js';
import { LinesFeed } from '../feeds/lines/feed.js';
import { PostgresFeed } from '../feeds/postgres/feed.js';
import type { NodeConfig } from './config/schema.js';

export type NodeFeed = PostgresFeed | KyotoTycoonFeed | LinesFeed;

export interface FeedHost {
  readonly runtime: Runtime;
  readonly log: Logger;
  /** The source is further than the last transaction of it. */
  readonly onReached: () => void;
}

/** `undefined` when clients are the only source. */
export function feedOf(config: NodeConfig, { runtime, log, onReached }: FeedHost): NodeFeed | undefined {
  const { postgres, kyotoTycoon, lines, sid, limits, data } = config;
  if (postgres !== undefined)
    return new PostgresFeed({ config: postgres, runtime, log, spillFolder: join(data, 'spill'), onReached });
  if (lines !== undefined) return new LinesFeed({ config: lines, runtime, log, input: process.stdin });
  if (kyotoTycoon === undefined || sid === undefined) return undefined;
  return new KyotoTycoonFeed({ config: { ...kyotoTycoon, keyBytes: limits.keyBytes }, sid, runtime, log });
}
