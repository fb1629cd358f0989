/** What a torture is: a long, seeded attempt to break an invariant. `registry.ts` lists them, `run.ts` runs them. */

export interface Report {
  /** How far it is; shown on a terminal only. */
  progress(text: string): void;
  /** Something broke: always shown, with what is needed to see it again. */
  failure(text: string): void;
}

export interface TortureOptions {
  /** About how long to go on. At least one round is run, however short this is. */
  readonly seconds: number;
  /** Every choice comes from it: the same seed makes the same choices. */
  readonly seed: number;
  readonly report: Report;
  /** Somebody wants it to end: clean up and return what there is. */
  readonly signal: AbortSignal;
}

/** What came out. Beside the two counts, figures of the torture's own. */
export interface TortureResult {
  /** Rounds, inputs, kills: whatever this torture counts. */
  readonly runs: number;
  /** How many of them broke something; anything but 0 fails the command. */
  readonly failed: number;
  readonly [figure: string]: unknown;
}

export interface Torture {
  readonly name: string;
  /** One sentence: what is done to what, and what must hold. */
  readonly about: string;
  run(options: TortureOptions): Promise<TortureResult>;
}

const SETTLE_MS = 30_000;

/** Waits until something holds; says so and returns `false` when it does not within `SETTLE_MS`. What throws does not hold yet. */
export async function settles(
  what: string,
  holds: () => Promise<boolean>,
  fail: (text: string) => void,
): Promise<boolean> {
  const start = performance.now();
  while (!(await holds().catch(() => false))) {
    if (performance.now() - start > SETTLE_MS) {
      fail(`not within ${SETTLE_MS} ms: ${what}`);
      return false;
    }
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  return true;
}

/** Whether a torture shall go on: for `seconds` from now, unless it is told to end. */
export function clock({ seconds, signal }: Pick<TortureOptions, 'seconds' | 'signal'>): () => boolean {
  const endMs = performance.now() + seconds * 1000;
  return () => performance.now() < endMs && !signal.aborted;
}
