/** Whether a copy of everything is the cheaper way to bring a follower up, where the log would reach back as well. */
import type { LocalNumber } from '../../base/types.js';
import type { LocalStore } from '../../store/store.js';

/** When a snapshot is sent though the log has all that a follower lacks. */
export interface CopyInstead {
  /** The log to send is so many times as large as the data. */
  readonly factor: number;
  /** And at least so many bytes: below, a copy is never worth its trouble. */
  readonly leastBytes: number;
}

/**
 * The log from `first` on against everything else on the disk, indexes included. The log's part is taken by the number of
 * its transactions, as if all had the mean size: what it is exactly, only reading it would tell. Databases in memory are
 * no part of what the disk holds, so with them the log is always preferred.
 */
export function isCopyCheaper(store: LocalStore, first: LocalNumber, { factor, leastBytes }: CopyInstead): boolean {
  const { logBytes } = store.statistics();
  const { log } = store;
  if (logBytes < leastBytes || log.next <= log.first || store.databases().some(({ spec }) => spec.storage === 'memory'))
    return false;
  const toSend = (logBytes * (log.next - first)) / (log.next - log.first);
  if (toSend < leastBytes) return false;
  const { engine } = store;
  const dataBytes = engine.usedBytes() - engine.usedBytes(engine.openMap('log'));
  return toSend > factor * dataBytes;
}
