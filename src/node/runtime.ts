/** The real machine as a `Runtime`: its clocks, its randomness, its timers. */
import { randomBytes } from 'node:crypto';
import type { Runtime } from '../base/runtime.js';

/** How often the fine clock is set by the system's: it must follow when that one is stepped. */
const RESYNC_NS = 1_000_000_000n;

export function systemRuntime(): Runtime {
  let offsetNs = 0n;
  let syncedNs = -RESYNC_NS;
  const nowNs = (): bigint => {
    const ticks = process.hrtime.bigint();
    if (ticks - syncedNs >= RESYNC_NS) {
      syncedNs = ticks;
      offsetNs = BigInt(Date.now()) * 1_000_000n - ticks;
    }
    return ticks + offsetNs;
  };
  return {
    nowMs: () => Date.now(),
    nowNs,
    monotonicMs: () => performance.now(),
    random: () => Math.random(),
    randomBytes: (count) => randomBytes(count),
    after: (delayMs, fn) => {
      const timer = setTimeout(fn, delayMs).unref();
      return { cancel: () => clearTimeout(timer) };
    },
    every: (intervalMs, fn) => {
      const timer = setInterval(fn, intervalMs).unref();
      return { cancel: () => clearInterval(timer) };
    },
  };
}
