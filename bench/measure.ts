/** Runs one row: rounds of both sides in turn, so that whatever else the machine does meets both, and the medians. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Better, Row } from './row.js';

/** One line of the result. */
export interface Result {
  readonly row: string;
  readonly unit: string;
  /** Median over the rounds. */
  readonly ours: number;
  readonly peer: number | null;
  readonly peerName: string | null;
  /** `ours / peer`, whichever way is better. */
  readonly ratio: number | null;
  readonly better: Better;
  readonly budget: number | null;
  /** Of our side, lowest and highest round. */
  readonly range: readonly [number, number];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** Three significant digits: more would be noise. */
export function rounded(value: number): number {
  return Number(value.toPrecision(3));
}

export interface RunOptions {
  /** Of measuring, both sides together. */
  readonly seconds: number;
  /** Of each side; rows whose rounds are expensive have fewer unless it is given. */
  readonly rounds: number | undefined;
  progress(text: string): void;
}

const ROUNDS = 3;

/** Errors: those of the row. Everything it started is gone afterwards. */
export async function runRow(row: Row, { seconds, rounds: asked, progress }: RunOptions): Promise<Result[]> {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-bench-'));
  const closers: (() => Promise<void> | void)[] = [];
  try {
    progress(`${row.name}: starting`);
    const { ours, peer } = await row.open({ folder, onEnd: (close) => closers.push(close) });
    const rounds = asked ?? row.rounds ?? ROUNDS;
    const sides = peer === undefined ? [ours] : [ours, peer];
    const measured = sides.map((): Readonly<Record<string, number>>[] => []);
    for (let round = 1; round <= rounds; round++) {
      for (const [index, side] of sides.entries()) {
        progress(`${row.name}: round ${round} of ${rounds}, ${side.name}`);
        measured[index]?.push(await side.measure(seconds / rounds / sides.length));
      }
    }
    return row.figures.map(({ name, unit, better, budget }) => {
      const values = measured.map((found) => found.map((figures) => figures[name] as number));
      const [our = [], their = []] = values;
      const [mine, theirs] = [median(our), peer === undefined ? null : median(their)];
      return {
        row: name === '' ? row.name : `${row.name} ${name}`,
        unit,
        ours: rounded(mine),
        peer: theirs === null ? null : rounded(theirs),
        peerName: peer?.name ?? null,
        ratio: theirs === null ? null : rounded(mine / theirs),
        better,
        budget: budget ?? null,
        range: [rounded(Math.min(...our)), rounded(Math.max(...our))],
      };
    });
  } finally {
    for (const close of closers.reverse()) await close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}
