/**
 * A short look at an upstream that is not being followed: whether it would have this node, from the log, and how new its
 * data is. It asks and closes; nothing is replicated.
 */
import { AssertionFailure, messageOf } from '../../base/errors.js';
import { encodeFrame, FrameDecoder, type Hello, type OriginBeat } from '../frames/frames.js';
import type { PeerLink } from '../link.js';

/** What a look found. */
export type Sight =
  | { readonly kind: 'open'; readonly next: 'log' | 'snapshot'; readonly newestMs: number }
  | { readonly kind: 'closed'; readonly reason: string };

/** The time of the newest heartbeat of any origin, ms since 1970; 0 when there is none. */
export function newestBeat(beats: readonly OriginBeat[]): number {
  return Math.max(0, ...beats.map(({ timeMs }) => timeMs));
}

/** The events of a link that is only there for a look; `onSight` is called exactly once. */
export class UpstreamLook {
  readonly #link: PeerLink;
  readonly #onSight: (sight: Sight) => void;
  readonly #decoder = new FrameDecoder();
  #isOver = false;

  constructor(link: PeerLink, hello: Omit<Hello, 'type' | 'isLook'>, onSight: (sight: Sight) => void) {
    this.#link = link;
    this.#onSight = onSight;
    link.send([encodeFrame({ ...hello, type: 'hello', isLook: true })]);
  }

  onData(chunk: Buffer): void {
    if (this.#isOver) return;
    try {
      for (const frame of this.#decoder.push(chunk)) {
        if (frame.type === 'welcome') this.#end({ kind: 'open', next: frame.next, newestMs: newestBeat(frame.beats) });
        else if (frame.type === 'refuse') this.#end({ kind: 'closed', reason: `${frame.code}: ${frame.message}` });
        else this.#end({ kind: 'closed', reason: `it answers with ${frame.type}` });
        return;
      }
    } catch (error) {
      if (error instanceof AssertionFailure) throw error;
      this.#end({ kind: 'closed', reason: messageOf(error) });
    }
  }

  onDrain(): void {
    // A look sends one frame.
  }

  onClose(reason: string): void {
    this.#end({ kind: 'closed', reason });
  }

  #end(sight: Sight): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#link.close();
    this.#onSight(sight);
  }
}
