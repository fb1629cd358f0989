/** The snapshot of one follower on one link: begun or gone on with when it is its turn, sent slice by slice, kept at the end. */
import type { Position } from '../../base/types.js';
import type { Frame, Hello } from '../frames/frames.js';
import type { Scope } from '../scope.js';
import type { SnapshotProgress } from '../snapshot-progress.js';
import type { SnapshotSender } from './snapshot-sender.js';
import type { Snapshots } from './snapshots.js';

export interface FollowerSnapshotHost {
  readonly snapshots: Snapshots;
  send(frame: Frame): void;
  /** The turn is over. */
  done(): void;
}

export class FollowerSnapshot {
  readonly #host: FollowerSnapshotHost;
  /** Who it is for, from one link to the next. */
  #follower = '';
  #sender: SnapshotSender | undefined;
  /** All of it is sent, and the follower has not said that it has it. */
  #isUnacknowledged = false;

  constructor(host: FollowerSnapshotHost) {
    this.#host = host;
  }

  /** What this follower does not name, it never comes back for. */
  greeted(follower: string, hello: Hello): void {
    this.#follower = follower;
    this.#host.snapshots.greeted(follower, hello);
  }

  /** Returns the row behind which it goes on; 0 for one that begins. */
  begin(scope: Scope, hello: Hello): number {
    this.#sender = this.#host.snapshots.open(this.#follower, scope, hello);
    const { forgotten } = this.#sender.contents;
    if (hello.takesForgotten === true && forgotten !== undefined) this.#host.send({ type: 'forgotten', forgotten });
    this.#host.send(this.#sender.begin);
    return this.#sender.rows;
  }

  get isUnderWay(): boolean {
    return this.#sender !== undefined;
  }

  get progress(): SnapshotProgress | undefined {
    return this.#sender?.progress;
  }

  /** Bytes that were handed to the link. */
  get bytes(): number {
    return this.#sender?.bytes ?? 0;
  }

  /** Sends one slice, when it is time for it. Returns in how many ms there is more to do; `undefined` when all is sent. */
  step(): number | undefined {
    const waitMs = this.#sender?.waitMs() ?? 0;
    if (waitMs > 0) return waitMs;
    const slice = this.#sender?.next();
    if (slice === undefined) return undefined;
    this.#host.send(slice);
    return 0;
  }

  /** Everything was sent. Returns what that is. */
  finish(): { readonly rows: number; readonly position: Position } {
    const { rows, contents } = this.#sender as SnapshotSender;
    this.#host.send({ type: 'snapshotEnd', rows });
    return { rows, position: contents.position };
  }

  /** Its turn is over. `isKept`: the follower may come back for the rest. */
  end(isKept: boolean): void {
    const sender = this.#sender;
    if (sender === undefined) return;
    this.#sender = undefined;
    this.#isUnacknowledged = isKept;
    if (isKept) this.#host.snapshots.keep(this.#follower, sender);
    else sender.walk.close();
    this.#host.done();
  }

  /** The follower acknowledges: it does so from the store that the snapshot has become. */
  acknowledged(): void {
    if (!this.#isUnacknowledged) return;
    this.#isUnacknowledged = false;
    this.#host.snapshots.forget(this.#follower);
  }
}
