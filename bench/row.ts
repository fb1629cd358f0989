/** What a row of the bench is: a contest of this node with a peer, over the same figures. */

/** Which way is better. */
export type Better = 'higher' | 'lower';

export interface Figure {
  /** Empty when the row has one figure only. */
  readonly name: string;
  readonly unit: string;
  readonly better: Better;
  /** What the design asks for: at least (higher) or at most (lower) this. */
  readonly budget?: number;
}

/** One that can be measured: servers are up and filled, load is ready. */
export interface Side {
  readonly name: string;
  /** One round of about so many seconds. Figures by name. Errors: anything that makes the figures worthless. */
  measure(seconds: number): Promise<Readonly<Record<string, number>>>;
}

/** Both sides of a row. There is no peer when none is installed, or when nothing compares. */
export interface Contest {
  readonly ours: Side;
  readonly peer: Side | undefined;
}

/** Whatever a row starts, it starts through this, so that it ends with the row. */
export interface Stage {
  /** A temporary folder of the row's own. */
  readonly folder: string;
  /** Called in reverse order at the end of the row, also when it failed. */
  onEnd(close: () => Promise<void> | void): void;
}

export interface Row {
  readonly name: string;
  /** What is measured, in a sentence. */
  readonly about: string;
  readonly figures: readonly Figure[];
  /** Rounds when one is expensive; the options decide otherwise. */
  readonly rounds?: number;
  open(stage: Stage): Promise<Contest>;
}
