/**
 * The snapshots of a source: begun for followers whose turn it is, and kept for a while when a link breaks in the middle,
 * so that the follower goes on where it stopped.
 *
 * What is kept is a read transaction with its place, so there is still one moment of time, and what the follower gets over
 * two links is what it had got over one. It pins disk pages: few are kept, each until a deadline that nothing moves. A
 * follower that names another snapshot in its HELLO, or none, never comes back for this one.
 */
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import { isBeyond, originOf } from '../../log/position.js';
import { SnapshotSource } from '../../store/snapshot.js';
import type { LocalStore } from '../../store/store.js';
import type { Hello } from '../frames/frames.js';
import type { Scope } from '../scope.js';
import { type SnapshotPace, SnapshotSender } from './snapshot-sender.js';
import { SnapshotWalk } from './snapshot-walk.js';

/** Snapshots kept at the same time; one more, and the oldest goes. */
const MOST_KEPT = 3;
const ID_BYTES = 16;

export interface SnapshotsOptions {
  readonly store: LocalStore;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly pace: SnapshotPace;
  /** How long a snapshot that was broken off can be gone on with; 0 for never. */
  readonly resumeMs: number;
}

interface Kept {
  readonly walk: SnapshotWalk;
  readonly deadline: Timer;
}

export class Snapshots {
  readonly #options: SnapshotsOptions;
  /** By follower, in the order in which they were broken off. */
  readonly #kept = new Map<string, Kept>();
  #resumed = 0;
  #closed = false;

  constructor(options: SnapshotsOptions) {
    this.#options = options;
  }

  /** Begins one for a follower that said hello, or goes on with its last one. Close it, or keep it. */
  open(follower: string, scope: Scope, hello: Hello): SnapshotSender {
    const { store, pace, runtime, resumeMs } = this.#options;
    const kept = this.#take(follower, scope, hello);
    if (kept !== undefined) {
      this.#resumed++;
      return new SnapshotSender(kept, pace, hello);
    }
    const isNamed = hello.resumes && hello.takesHorizon && resumeMs > 0;
    const id = isNamed ? runtime.randomBytes(ID_BYTES).toString('hex') : undefined;
    const source = new SnapshotSource(store.engine, () => true, scope);
    return new SnapshotSender(new SnapshotWalk(id, scope.id, source), pace, hello);
  }

  #take(follower: string, scope: Scope, hello: Hello): SnapshotWalk | undefined {
    const kept = this.#kept.get(follower);
    if (kept === undefined) return undefined;
    this.#kept.delete(follower);
    kept.deadline.cancel();
    if (this.#canGoOn(kept.walk, scope, hello)) return kept.walk;
    kept.walk.close();
    return undefined;
  }

  #canGoOn(walk: SnapshotWalk, scope: Scope, { unfinished, position, origin }: Hello): boolean {
    if (unfinished === undefined || walk.id !== unfinished.id || walk.scopeId !== scope.id) return false;
    const { store } = this.#options;
    const moment = walk.contents.position;
    // Meanwhile it may have followed another node, beyond the moment of this snapshot. A root keeps what it has.
    if (origin === undefined && position.some((has) => isBeyond(has, originOf(moment, has.sid)))) return false;
    if (store.log.find(moment, store.position()).kind !== 'from') return false;
    return walk.goTo(unfinished.rows);
  }

  /** A follower said hello: what it does not name it never asks for again. */
  greeted(follower: string, { unfinished }: Hello): void {
    const kept = this.#kept.get(follower);
    if (kept !== undefined && kept.walk.id !== unfinished?.id) this.forget(follower);
  }

  /** The link broke, or everything is sent and may not have arrived. Takes the snapshot over. */
  keep(follower: string, { walk }: SnapshotSender): void {
    const { runtime, resumeMs, log } = this.#options;
    if (this.#closed || walk.id === undefined) {
      walk.close();
      return;
    }
    this.forget(follower);
    const [oldest] = this.#kept.keys();
    if (oldest !== undefined && this.#kept.size >= MOST_KEPT) this.forget(oldest);
    const deadline = runtime.after(resumeMs, () => {
      log.info({ rows: walk.rows }, 'nobody went on with a snapshot that was broken off: its pages are free again');
      this.forget(follower);
    });
    this.#kept.set(follower, { walk, deadline });
  }

  /** It has everything, or will have it otherwise. */
  forget(follower: string): void {
    const kept = this.#kept.get(follower);
    if (kept === undefined) return;
    this.#kept.delete(follower);
    kept.deadline.cancel();
    kept.walk.close();
  }

  /** Kept right now. */
  get kept(): number {
    return this.#kept.size;
  }

  /** Gone on with since the start. */
  get resumed(): number {
    return this.#resumed;
  }

  close(): void {
    this.#closed = true;
    for (const follower of [...this.#kept.keys()]) this.forget(follower);
  }
}
