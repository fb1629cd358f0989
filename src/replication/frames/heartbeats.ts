/**
 * Freshness. Each origin says every so often what its position and its clock are; the beat travels down the tree with
 * the data. A node that has applied everything up to a beat knows that it was up to date when the beat was made, so its
 * lag is the age of the newest beat it has covered.
 */
import type { Position, Sid } from '../../base/types.js';
import { originOf } from '../../log/position.js';
import type { OriginBeat } from './frames.js';

interface Known {
  /** Newest beat heard. */
  heard: OriginBeat;
  /** Oldest beat heard that is not covered yet: the next one to be reached. */
  awaited: OriginBeat | undefined;
  /** Time of the newest beat covered, ms since 1970. */
  coveredMs: number | undefined;
  /** How far the feeds were then. */
  reached: OriginBeat['reached'];
}

function isCovered(beat: OriginBeat, position: Position): boolean {
  const have = originOf(position, beat.sid);
  if (beat.sequence === 0) return true;
  return have !== undefined && have.epoch >= beat.epoch && have.sequence >= beat.sequence;
}

export class Heartbeats {
  readonly #known = new Map<Sid, Known>();

  /** A beat arrived (or, at an origin, was made) while this node stood at `position`. */
  hear(beat: OriginBeat, position: Position): void {
    const known = this.#known.get(beat.sid) ?? { heard: beat, awaited: undefined, coveredMs: undefined, reached: [] };
    if (beat.timeMs >= known.heard.timeMs) known.heard = beat;
    known.awaited ??= beat;
    this.#known.set(beat.sid, known);
    this.#advance(known, position);
  }

  /**
   * The node above told all that it knows. An origin that it does not name is over, and counts no more: its root is gone
   * for good, and another one has taken its place. Who has heard of nobody yet says nothing about anybody.
   */
  keepOnly(beats: readonly OriginBeat[]): void {
    if (beats.length === 0) return;
    for (const sid of this.#known.keys()) if (!beats.some((beat) => beat.sid === sid)) this.#known.delete(sid);
  }

  /** The node's position moved on. */
  reach(position: Position): void {
    for (const known of this.#known.values()) this.#advance(known, position);
  }

  #advance(known: Known, position: Position): void {
    if (isCovered(known.heard, position)) {
      known.coveredMs = Math.max(known.coveredMs ?? 0, known.heard.timeMs);
      known.reached = known.heard.reached;
      known.awaited = undefined;
    } else if (known.awaited !== undefined && isCovered(known.awaited, position)) {
      known.coveredMs = Math.max(known.coveredMs ?? 0, known.awaited.timeMs);
      known.reached = known.awaited.reached;
      known.awaited = known.heard;
    }
  }

  /** How far a feed was at the newest beat covered; `undefined` when no beat said so. */
  reachedOf(feed: string): bigint | undefined {
    for (const { reached } of this.#known.values()) {
      const found = reached.find((position) => position.feed === feed);
      if (found !== undefined) return found.position;
    }
    return undefined;
  }

  /** A feed began anew: what the beats up to now said of it means nothing any more. */
  forgetReached(): void {
    for (const known of this.#known.values()) {
      known.reached = [];
      known.heard = { ...known.heard, reached: [] };
      if (known.awaited !== undefined) known.awaited = { ...known.awaited, reached: [] };
    }
  }

  /** The newest beat of every origin, for followers. */
  latest(): OriginBeat[] {
    return [...this.#known.values()].map(({ heard }) => heard);
  }

  /** Time of the newest beat covered, of whatever origin, ms since 1970; 0 before the first. */
  newestMs(): number {
    return Math.max(0, ...[...this.#known.values()].map(({ coveredMs = 0 }) => coveredMs));
  }

  /** Age of the data in ms, over the origin that lags most; `undefined` before the first beat was covered. */
  lagMs(nowMs: number): number | undefined {
    let worst: number | undefined;
    for (const { coveredMs } of this.#known.values()) {
      if (coveredMs === undefined) return undefined;
      worst = Math.max(worst ?? 0, nowMs - coveredMs);
    }
    return worst;
  }
}
