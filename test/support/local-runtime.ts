/** A Runtime on the machine's clock for tests; its timers keep the process alive while a test waits on them. */
import { randomBytes } from 'node:crypto';
import type { Runtime } from '../../src/base/runtime.js';

export function localRuntime(overrides: Partial<Runtime> = {}): Runtime {
  return {
    nowMs: () => Date.now(),
    nowNs: () => BigInt(Date.now()) * 1_000_000n,
    monotonicMs: () => performance.now(),
    random: () => Math.random(),
    randomBytes: (count) => randomBytes(count),
    after: (delayMs, fn) => {
      const timer = setTimeout(fn, delayMs);
      return { cancel: () => clearTimeout(timer) };
    },
    every: (intervalMs, fn) => {
      const timer = setInterval(fn, intervalMs);
      return { cancel: () => clearInterval(timer) };
    },
    ...overrides,
  };
}

/** Waits until `condition` holds; fails loudly after `deadlineMs`. */
export async function eventually(
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs = 10_000,
): Promise<void> {
  const start = performance.now();
  for (;;) {
    const asked = condition();
    if (typeof asked === 'boolean' ? asked : await asked) return;
    if (performance.now() - start > deadlineMs) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** For stores whose listeners must not throw: the test fails with what they threw. */
export function broken(error: unknown): never {
  throw error;
}
