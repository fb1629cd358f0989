/**
 * Which upstream to follow: whom to try after a loss, and whether to leave one that works for another. Pure.
 *
 * Order: upstreams of the node's own region (or of none) first, then by priority, then as listed. After a loss the
 * others are tried in that order, round after round, with back-off and jitter between attempts so that a thousand
 * followers do not return to a restarted relay in the same moment. A better upstream that is there again is returned to
 * once it was for `returnMs`; each time that ends badly soon, it takes twice as long (up to `MOST_RETURN_MS`), so that a
 * link that comes and goes does not take its followers with it.
 */

/** An upstream as configured. */
export interface UpstreamAddress {
  readonly host: string;
  readonly port: number;
  /** The name its certificate must carry; any relay or root of the cluster when absent. */
  readonly name: string | undefined;
  /** Where it stands; in every region when absent. */
  readonly region?: string | undefined;
  /** Lower ones are better; 0 when absent. */
  readonly priority?: number | undefined;
}

export interface BackOff {
  readonly minMs: number;
  readonly maxMs: number;
}

export interface Attempt {
  readonly upstream: UpstreamAddress;
  readonly delayMs: number;
}

const MOST_RETURN_MS = 15 * 60_000;

interface Candidate {
  readonly upstream: UpstreamAddress;
  /** Since when every look at it found it good, on the runtime's monotonic clock. */
  goodSinceMs: number | undefined;
  /** When it was returned to last. */
  returnedMs: number | undefined;
  /** How long it must have been good. */
  returnMs: number;
}

/** In order of preference for a node of `region`. */
export function inOrder(upstreams: readonly UpstreamAddress[], region: string | undefined): UpstreamAddress[] {
  const isFar = ({ region: theirs }: UpstreamAddress): number => {
    return region === undefined || theirs === undefined || theirs === region ? 0 : 1;
  };
  return [...upstreams].sort((a, b) => isFar(a) - isFar(b) || (a.priority ?? 0) - (b.priority ?? 0));
}

export class UpstreamChoice {
  readonly #candidates: readonly Candidate[];
  readonly #backOff: BackOff;
  readonly #returnMs: number;
  #current = -1;
  /** Attempts since the last success. */
  #failures = 0;
  /** What is left of this round. */
  #round: number[] = [];

  /** `upstreams` in order of preference. */
  constructor(upstreams: readonly UpstreamAddress[], backOff: BackOff, returnMs: number) {
    this.#candidates = upstreams.map((upstream) => {
      return { upstream, goodSinceMs: undefined, returnedMs: undefined, returnMs };
    });
    this.#backOff = backOff;
    this.#returnMs = returnMs;
  }

  #at(index: number): Candidate {
    return this.#candidates[index] as Candidate;
  }

  /** The next attempt. The first round after a loss tries every upstream quickly, the lost one last, before it waits. */
  next(random: () => number): Attempt {
    if (this.#round.length === 0) {
      const all = this.#candidates.map((_, index) => index);
      this.#round = [
        ...all.filter((index) => index !== this.#current),
        ...all.filter((index) => index === this.#current),
      ];
    }
    const round = Math.floor(this.#failures / this.#candidates.length);
    const ceilingMs =
      round === 0 ? this.#backOff.minMs : Math.min(this.#backOff.maxMs, this.#backOff.minMs * 2 ** round);
    const delayMs = this.#failures === 0 ? random() * this.#backOff.minMs : ceilingMs * (0.5 + random() / 2);
    this.#failures++;
    this.#current = this.#round.shift() as number;
    return { upstream: this.#at(this.#current).upstream, delayMs };
  }

  /** The link works: the next loss starts with short waits again. */
  succeeded(): void {
    this.#failures = 0;
    this.#round = [];
  }

  /** The link that worked was lost or left. */
  lost(nowMs: number): void {
    const candidate = this.#candidates[this.#current];
    if (candidate === undefined) return;
    candidate.goodSinceMs = undefined;
    const heldMs = candidate.returnedMs === undefined ? Number.POSITIVE_INFINITY : nowMs - candidate.returnedMs;
    candidate.returnMs =
      heldMs < 2 * candidate.returnMs ? Math.min(MOST_RETURN_MS, 2 * candidate.returnMs) : this.#returnMs;
    candidate.returnedMs = undefined;
  }

  /** The one that was lost has something to go on with: it is tried next, before the others. */
  again(): void {
    this.#round = [this.#current];
  }

  /** Those that would be better than the present one, best first. */
  better(): UpstreamAddress[] {
    return this.#candidates.slice(0, Math.max(0, this.#current)).map(({ upstream }) => upstream);
  }

  /** All but the present one, best first. */
  others(): UpstreamAddress[] {
    return this.#candidates.filter((_, index) => index !== this.#current).map(({ upstream }) => upstream);
  }

  /** A look at a better one found it good, or not. Returns whether to return to it now. */
  saw(upstream: UpstreamAddress, isGood: boolean, nowMs: number): boolean {
    const candidate = this.#candidates.find((other) => other.upstream === upstream) as Candidate;
    if (!isGood) {
      candidate.goodSinceMs = undefined;
      return false;
    }
    candidate.goodSinceMs ??= nowMs;
    return nowMs - candidate.goodSinceMs >= candidate.returnMs;
  }

  /** Leaves for this one: it is tried next, at once. */
  moveTo(upstream: UpstreamAddress, nowMs: number): void {
    const index = this.#candidates.findIndex((other) => other.upstream === upstream);
    this.#at(index).returnedMs = nowMs;
    this.#round = [index];
    this.#failures = 0;
  }
}
