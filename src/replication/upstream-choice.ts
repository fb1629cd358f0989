/**
 * Which upstream to try next, and when: in order of preference, round after round, with back-off and jitter between
 * attempts so that a thousand followers do not return to a restarted relay in the same moment. Pure.
 */

/** An upstream as configured. */
export interface UpstreamAddress {
  readonly host: string;
  readonly port: number;
  /** The name its certificate must carry; any relay or root of the cluster when absent. */
  readonly name: string | undefined;
}

export interface BackOff {
  readonly minMs: number;
  readonly maxMs: number;
}

export interface Attempt {
  readonly upstream: UpstreamAddress;
  readonly delayMs: number;
}

export class UpstreamChoice {
  readonly #upstreams: readonly UpstreamAddress[];
  readonly #backOff: BackOff;
  #index = -1;
  /** Attempts since the last success. */
  #failures = 0;

  constructor(upstreams: readonly UpstreamAddress[], backOff: BackOff) {
    this.#upstreams = upstreams;
    this.#backOff = backOff;
  }

  /** The next attempt. The first round after a loss tries every other upstream quickly before it waits. */
  next(random: () => number): Attempt {
    this.#index = (this.#index + 1) % this.#upstreams.length;
    const round = Math.floor(this.#failures / this.#upstreams.length);
    const ceilingMs =
      round === 0 ? this.#backOff.minMs : Math.min(this.#backOff.maxMs, this.#backOff.minMs * 2 ** round);
    const delayMs = this.#failures === 0 ? random() * this.#backOff.minMs : ceilingMs * (0.5 + random() / 2);
    this.#failures++;
    return { upstream: this.#upstreams[this.#index] as UpstreamAddress, delayMs };
  }

  /** The link works: the next loss starts with short waits again. */
  succeeded(): void {
    this.#failures = 0;
  }
}
