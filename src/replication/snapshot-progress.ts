/** How far a snapshot is, as either end of it says. */

export interface SnapshotProgress {
  /** Sent or loaded so far, those of earlier links included. */
  readonly rows: number;
  /** Announced. */
  readonly of: number;
  /** Rows behind which it was gone on with, if it was. */
  readonly resumedAt?: number;
}

/** `resumedAt`: 0 for one that began on this link. */
export function progressOf(rows: number, of: number, resumedAt: number): SnapshotProgress {
  return { rows, of, ...(resumedAt > 0 ? { resumedAt } : {}) };
}
