/**
 * Virtual time: events in order of their moment, and nothing happens in between. Running an event means running its
 * callback and every promise that becomes due through it, until nothing is left to do but the next event.
 */
import type { Timer } from '../base/runtime.js';

/** Whoever an event belongs to; once that is dead, the event does not happen. */
export interface Owner {
  readonly alive: boolean;
}

interface Event {
  readonly atMs: number;
  /** Breaks ties: first scheduled, first run. */
  readonly order: number;
  readonly run: () => void;
  readonly owner: Owner | undefined;
  cancelled: boolean;
}

/** Where virtual time begins, ms since 1970. */
export const START_MS = 1_700_000_000_000;

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

export class Scheduler {
  /** Milliseconds since the start. */
  nowMs = 0;
  /** Events run so far. */
  steps = 0;
  #order = 0;
  /** A heap: the earliest event first. */
  readonly #heap: Event[] = [];

  /** Calls `run` once, `delayMs` from now, unless its owner has died by then. */
  after(delayMs: number, run: () => void, owner?: Owner): Timer {
    const event: Event = {
      atMs: this.nowMs + Math.max(0, delayMs),
      order: this.#order++,
      run,
      owner,
      cancelled: false,
    };
    this.#push(event);
    return {
      cancel: () => {
        event.cancelled = true;
      },
    };
  }

  /** Runs the next event, if there is one up to `untilMs`, and all that follows from it at once. */
  async step(untilMs: number): Promise<boolean> {
    for (;;) {
      const event = this.#heap[0];
      if (event === undefined || event.atMs > untilMs) {
        this.nowMs = Math.max(this.nowMs, untilMs);
        return false;
      }
      this.#pop();
      if (event.cancelled || event.owner?.alive === false) continue;
      this.nowMs = event.atMs;
      this.steps++;
      event.run();
      await settled();
      return true;
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(event, heap[parent] as Event)) break;
      heap[at] = heap[parent] as Event;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop() as Event;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++;
      if (!isBefore(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
  }
}

/** Promises run to their end before the event loop turns. */
async function settled(): Promise<void> {
  await new Promise<void>((resolve) => setImmediate(resolve));
}
