/** What the demonstration shows on a terminal: state to text, nothing else. */

export interface Site {
  readonly name: string;
  readonly lagMs: number | null;
  readonly up: boolean;
}

export interface ViewState {
  readonly elapsedSeconds: number;
  readonly seconds: number;
  readonly rowChanges: number;
  readonly perSecond: number;
  readonly sites: readonly Site[];
  /** Count of samples by bucket. */
  readonly histogram: readonly number[];
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly events: readonly string[];
}

/** Upper bounds of the histogram's buckets, ms; the last is everything beyond. */
export const BUCKETS_MS: readonly number[] = [2, 5, 10, 20, 50, 100, 250, 1000, Number.POSITIVE_INFINITY];

export function bucketOf(latencyMs: number): number {
  return BUCKETS_MS.findIndex((bound) => latencyMs <= bound);
}

/** Whole screen away. */
export const CLEAR = '\u001b[2J';
/** To the upper left corner. */
export const HOME = '\u001b[H';
export const REST_OF_LINE = '\u001b[K';
export const REST_OF_SCREEN = '\u001b[J';
const RESET = '\u001b[0m';
const COLOUR = { good: '\u001b[32m', slow: '\u001b[33m', bad: '\u001b[31m', dim: '\u001b[2m', bold: '\u001b[1m' };
const CELL = 16;

function cell({ name, lagMs, up }: Site): string {
  const text = !up
    ? 'DOWN'
    : lagMs === null
      ? '...'
      : lagMs < 1000
        ? `${Math.round(lagMs)} ms`
        : `${(lagMs / 1000).toFixed(1)} s`;
  const colour = !up || lagMs === null ? COLOUR.bad : lagMs < 1500 ? COLOUR.good : COLOUR.slow;
  return `${name.padEnd(9)}${colour}${text.padEnd(CELL - 10)}${RESET} `;
}

/** The whole picture as lines no wider than `columns`. */
export function render(state: ViewState, columns: number): string[] {
  const perRow = Math.max(1, Math.floor(columns / CELL));
  const lines = [
    `${COLOUR.bold}Tokaido${RESET}  Postgres -> root -> relays -> edges, mutual TLS   ${state.elapsedSeconds.toFixed(0)} of ${state.seconds} s`,
    `${state.rowChanges} row changes, ${state.perSecond.toFixed(0)}/s   commit to readable: p50 ${state.p50Ms.toFixed(1)} ms  p99 ${state.p99Ms.toFixed(1)} ms`,
    '',
    `${COLOUR.dim}sites, with the age of their data${RESET}`,
  ];
  for (let at = 0; at < state.sites.length; at += perRow)
    lines.push(
      state.sites
        .slice(at, at + perRow)
        .map(cell)
        .join(''),
    );
  lines.push('', `${COLOUR.dim}propagation, commit to readable at an edge${RESET}`);
  const total = Math.max(
    1,
    state.histogram.reduce((sum, count) => sum + count, 0),
  );
  const width = Math.max(10, Math.min(60, columns - 30));
  state.histogram.forEach((count, index) => {
    const bound = BUCKETS_MS[index] as number;
    const label = Number.isFinite(bound) ? `<= ${bound} ms` : 'more';
    const share = count / total;
    lines.push(
      `${label.padStart(11)} ${'#'.repeat(Math.round(share * width)).padEnd(width)} ${(share * 100).toFixed(1).padStart(5)} %`,
    );
  });
  lines.push('', ...state.events.slice(-6).map((event) => event.slice(0, columns)));
  return lines;
}
