/**
 * Which upstream to follow: whom to try after a loss, and whether to leave one that works for another. Pure.
 *
 * Order: upstreams of the node's own region (or of none) first, then by priority, then as listed; behind all of these
 * those that were discovered (`discovery.ts`), which come and go while the node runs, in tiers of equally good ones. After
 * a loss the others are tried in that order, round after round, with back-off and jitter between attempts so that a
 * thousand followers do not return to a restarted relay in the same moment. A better upstream that is there again is
 * returned to once it was for `returnMs`; each time that ends badly soon, it takes twice as long (up to
 * `MOST_RETURN_MS`), so that a link that comes and goes does not take its followers with it. Nobody moves within a tier.
 */

/** An upstream, as configured or discovered. */
export interface UpstreamAddress {
  readonly host: string;
  /** 0 where `host` is a name of SRV records. */
  readonly port: number;
  /** The name its certificate must carry; any relay or root of the cluster when absent. */
  readonly name: string | undefined;
  /** Where it stands; in every region when absent. */
  readonly region?: string | undefined;
  /** Lower ones are better; 0 when absent. */
  readonly priority?: number | undefined;
  /** No configuration names it: the cluster told of it. */
  readonly isDiscovered?: boolean;
}

/** For people; the port of a name of SRV records is not known before it is asked for. */
export function addressText({ host, port }: Pick<UpstreamAddress, 'host' | 'port'>): string {
  return port === 0 ? host : `${host}:${port}`;
}

/** Discovered upstreams: tiers of equally good ones, the best tier first. */
export type Tiers = readonly (readonly UpstreamAddress[])[];

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
  /** Lower ones are better; equal within a tier. */
  rank: number;
  /** Since when every look at it found it good, on the runtime's monotonic clock. */
  goodSinceMs: number | undefined;
  /** When it was returned to last. */
  returnedMs: number | undefined;
  /** How long it must have been good. */
  returnMs: number;
}

function isFar({ region: theirs }: UpstreamAddress, region: string | undefined): boolean {
  return region !== undefined && theirs !== undefined && theirs !== region;
}

/** How two upstreams compare for a node of `region`: below 0 when `a` is better, 0 when neither is. */
export function compareFor(region: string | undefined, a: UpstreamAddress, b: UpstreamAddress): number {
  return Number(isFar(a, region)) - Number(isFar(b, region)) || (a.priority ?? 0) - (b.priority ?? 0);
}

/** In order of preference for a node of `region`. */
export function inOrder(upstreams: readonly UpstreamAddress[], region: string | undefined): UpstreamAddress[] {
  return [...upstreams].sort((a, b) => compareFor(region, a, b));
}

/** What makes two entries the same upstream. */
function nameOf({ name, host, port }: UpstreamAddress): string {
  return `${name ?? ''} ${host}:${port}`;
}

export class UpstreamChoice {
  readonly #configured: readonly Candidate[];
  readonly #backOff: BackOff;
  readonly #returnMs: number;
  #discovered: readonly Candidate[] = [];
  /** It stays the current one when it is discovered no more: its link may work. */
  #current: Candidate | undefined;
  /** Attempts since the last success. */
  #failures = 0;
  /** Links in a row that ended because this node could not store what came: a full disk, above all. */
  #failuresHere = 0;
  /** What is left of this round. */
  #round: Candidate[] = [];

  /** `upstreams` in order of preference. */
  constructor(upstreams: readonly UpstreamAddress[], backOff: BackOff, returnMs: number) {
    this.#backOff = backOff;
    this.#returnMs = returnMs;
    this.#configured = upstreams.map((upstream, rank) => this.#candidate(upstream, rank));
  }

  #candidate(upstream: UpstreamAddress, rank: number): Candidate {
    return { upstream, rank, goodSinceMs: undefined, returnedMs: undefined, returnMs: this.#returnMs };
  }

  /** Best first. */
  get #candidates(): readonly Candidate[] {
    return [...this.#configured, ...this.#discovered];
  }

  /** What is discovered now; those who were before keep what is known of them. A round that is under way goes on. */
  discover(tiers: Tiers): void {
    const before = [...this.#discovered, ...(this.#current?.upstream.isDiscovered === true ? [this.#current] : [])];
    const known = new Map(before.map((candidate) => [nameOf(candidate.upstream), candidate]));
    this.#discovered = tiers.flatMap((tier, index) => {
      const rank = this.#configured.length + index;
      return tier.map((upstream) => {
        const candidate = known.get(nameOf(upstream)) ?? this.#candidate(upstream, rank);
        candidate.rank = rank;
        return candidate;
      });
    });
    const all = this.#candidates;
    this.#round = this.#round.filter((candidate) => all.includes(candidate));
    // Whoever withdraws what it announced wants to be left.
    if (this.#current !== undefined && !all.includes(this.#current)) this.#current.rank = Number.POSITIVE_INFINITY;
  }

  /**
   * The next attempt. The first round after a loss tries every upstream quickly, before it waits: configured ones first,
   * the lost one last among those of its kind.
   */
  next(random: () => number): Attempt {
    if (this.#round.length === 0) {
      this.#round = [this.#configured, this.#discovered].flatMap((kind) => [
        ...kind.filter((candidate) => candidate !== this.#current),
        ...kind.filter((candidate) => candidate === this.#current),
      ]);
    }
    // Another upstream does not mend a disk: each would send for nothing what cannot be stored here.
    const round = Math.max(Math.floor(this.#failures / this.#candidates.length), this.#failuresHere);
    const ceilingMs =
      round === 0 ? this.#backOff.minMs : Math.min(this.#backOff.maxMs, this.#backOff.minMs * 2 ** round);
    const delayMs =
      this.#failures === 0 && round === 0 ? random() * this.#backOff.minMs : ceilingMs * (0.5 + random() / 2);
    this.#failures++;
    const next = this.#round.shift() as Candidate;
    this.#current = next;
    return { upstream: next.upstream, delayMs };
  }

  /** The link works: the next loss starts with short waits again. */
  succeeded(): void {
    this.#failures = 0;
    this.#round = [];
  }

  /** The link that worked was lost or left; `failedHere`: this node could not store what came. */
  lost(nowMs: number, { failedHere = false } = {}): void {
    this.#failuresHere = failedHere ? this.#failuresHere + 1 : 0;
    const candidate = this.#current;
    if (candidate === undefined) return;
    candidate.goodSinceMs = undefined;
    const heldMs = candidate.returnedMs === undefined ? Number.POSITIVE_INFINITY : nowMs - candidate.returnedMs;
    candidate.returnMs =
      heldMs < 2 * candidate.returnMs ? Math.min(MOST_RETURN_MS, 2 * candidate.returnMs) : this.#returnMs;
    candidate.returnedMs = undefined;
  }

  /** The one that was lost has something to go on with: it is tried next, before the others. */
  again(): void {
    this.#round = this.#current === undefined ? [] : [this.#current];
  }

  /** Those that would be better than the present one, best first. */
  better(): UpstreamAddress[] {
    const rank = this.#current?.rank ?? 0;
    return this.#candidates.filter((candidate) => candidate.rank < rank).map(({ upstream }) => upstream);
  }

  /** All but the present one, best first. */
  others(): UpstreamAddress[] {
    return this.#candidates.filter((candidate) => candidate !== this.#current).map(({ upstream }) => upstream);
  }

  #find(upstream: UpstreamAddress): Candidate | undefined {
    return this.#candidates.find((candidate) => candidate.upstream === upstream);
  }

  /**
   * A look at a better one found it good, or not. Returns whether to return to it now: not when it is discovered no more.
   */
  saw(upstream: UpstreamAddress, isGood: boolean, nowMs: number): boolean {
    const candidate = this.#find(upstream);
    if (candidate === undefined) return false;
    if (!isGood) {
      candidate.goodSinceMs = undefined;
      return false;
    }
    candidate.goodSinceMs ??= nowMs;
    return nowMs - candidate.goodSinceMs >= candidate.returnMs;
  }

  /** Leaves for this one: it is tried next, at once. */
  moveTo(upstream: UpstreamAddress, nowMs: number): void {
    const candidate = this.#find(upstream);
    if (candidate === undefined) return;
    candidate.returnedMs = nowMs;
    this.#round = [candidate];
    this.#failures = 0;
  }
}
