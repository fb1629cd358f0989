/** What a store is opened with. */
import type { Logger } from '../base/logger.js';
import type { Runtime } from '../base/runtime.js';
import type { Sid, VersionNs } from '../base/types.js';
import type { Engine } from '../engine/engine.js';
import type { Retention } from '../log/update-log.js';
import type { QueueLimits } from './commit-queue.js';
import type { DatabaseSpec } from './database-spec.js';
import type { TransactionLimits } from './local-transaction.js';

export interface StoreOptions {
  readonly engine: Engine;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** This node's server id when it takes writes. */
  readonly sid: Sid | undefined;
  /** Its own versions are higher than this one, whatever the clock says; any when absent. */
  readonly versionsAfterNs?: VersionNs;
  /** Databases that exist from the start, in the order of Kyoto Tycoon's numbers. */
  readonly databases: readonly DatabaseSpec[];
  readonly retention: Retention;
  readonly transaction: TransactionLimits;
  /** Removals that are kept beyond the log because they are not settled take so many bytes at most. Unbounded when absent. */
  readonly removalBytes?: number;
  /** Beyond this much data on the disk, in bytes, local transactions may only remove. Unbounded when absent. */
  readonly maxSizeBytes?: number;
  readonly queue: QueueLimits;
  /** Most databases; more that arrive by replication are refused. */
  readonly maxDatabases: number;
  /** A listener threw: what hangs on commits missed one, and nothing after it can be right. */
  readonly onBroken: (error: unknown) => void;
}
