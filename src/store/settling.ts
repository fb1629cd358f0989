/**
 * Which removals a root of several may forget. A tombstone keeps older writes out that arrive late, and says to a root
 * that merges that the key was removed (`merge.ts`): it must outlive the log for as long as another root has not seen it,
 * and as long as that one may have older writes on their way. Both are over once the other has it on its disk, at some
 * position, and this root has all that the other had made by then: what the other makes later has a higher version.
 *
 * Pure: told now and then where this root stands and what others said they have; answers with a local number before
 * which everything is settled.
 */
import { type LocalNumber, localNumber, type Position } from '../base/types.js';
import { covers } from '../log/position.js';

/** Places remembered; when there are more, every second of the older ones goes: it is settled with the one behind it. */
const MOST_MARKS = 64;

/** Everything before `next` is part of `position`. */
interface Mark {
  readonly position: Position;
  readonly next: LocalNumber;
}

interface Other {
  /** What it said it has on its disk, until this root has what it had made by then. */
  awaited: Position | undefined;
  settled: LocalNumber;
}

const NOTHING = localNumber(0);

export class Settling {
  readonly #others: number;
  readonly #heard = new Map<string, Other>();
  #marks: Mark[] = [];

  /** `others` is how many roots there are besides this one. */
  constructor(others: number) {
    this.#others = others;
  }

  /** Where this root stands. */
  note(position: Position, next: LocalNumber): void {
    if (this.#marks.at(-1)?.next === next) return;
    this.#marks.push({ position, next });
    if (this.#marks.length <= MOST_MARKS) return;
    const half = MOST_MARKS / 2;
    this.#marks = this.#marks.filter((_, index) => index >= half || index % 2 === 1);
  }

  /** Another root has this on its disk. */
  hear(name: string, flushed: Position): void {
    const other = this.#heard.get(name) ?? { awaited: undefined, settled: NOTHING };
    other.awaited ??= flushed;
    this.#heard.set(name, other);
  }

  /** Local number before which everything is settled, for this root at `position`. */
  before(position: Position): LocalNumber {
    for (const other of this.#heard.values()) this.#settle(other, position);
    if (this.#heard.size < this.#others) return NOTHING;
    return localNumber(Math.min(...[...this.#heard.values()].map(({ settled }) => settled)));
  }

  #settle(other: Other, position: Position): void {
    const { awaited } = other;
    if (awaited === undefined || !covers(position, awaited)) return;
    other.awaited = undefined;
    const mark = this.#marks.findLast((each) => covers(awaited, each.position));
    if (mark !== undefined && mark.next > other.settled) other.settled = mark.next;
  }
}
