/**
 * What a node has of a snapshot whose link broke: kept for a while, open as it was, so that the same snapshot goes on
 * there. How far it is lies beside its rows (`store/unfinished.ts`), so a node that was killed finds its place again.
 */
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { Engine } from '../../engine/engine.js';
import type { SnapshotPlace } from '../../replication/frames/frames.js';
import { unfinishedIn } from '../../store/unfinished.js';

export interface UnfinishedSnapshotOptions {
  /** How long it is kept; 0 for not at all. */
  readonly keepMs: number;
  readonly runtime: Runtime;
  readonly log: Logger;
  /** Removes what lies on the disk; the engine is closed. */
  remove(): void;
}

export class UnfinishedSnapshot {
  readonly #options: UnfinishedSnapshotOptions;
  #kept: { readonly engine: Engine; readonly place: SnapshotPlace; readonly deadline: Timer } | undefined;
  #closed = false;

  constructor(options: UnfinishedSnapshotOptions) {
    this.#options = options;
  }

  /** Snapshots can be gone on with here at all. */
  get isPossible(): boolean {
    return this.#options.keepMs > 0;
  }

  /** Where it stopped. */
  get place(): SnapshotPlace | undefined {
    return this.#kept?.place;
  }

  /** What the last run of this node left. Never throws: what cannot be read is removed. */
  async find(open: () => Engine): Promise<void> {
    const { log, remove } = this.#options;
    let engine: Engine | undefined;
    try {
      engine = this.isPossible ? open() : undefined;
      const found = engine === undefined ? undefined : unfinishedIn(engine);
      // What was in memory is gone.
      if (engine !== undefined && found?.databases.every(({ storage }) => storage === 'disk') === true) {
        const { id, rows } = found;
        log.info({ rows }, 'a snapshot was broken off here: going on with it, if its source still can');
        await this.keep(engine, { id, rows });
        return;
      }
    } catch (error) {
      log.warn({ reason: messageOf(error) }, 'cannot go on with what was loaded of a snapshot');
    }
    await engine?.close();
    remove();
  }

  /** Takes the engine over. */
  async keep(engine: Engine, place: SnapshotPlace): Promise<void> {
    const { runtime, keepMs, log } = this.#options;
    if (this.#closed) {
      await engine.close();
      return;
    }
    const deadline = runtime.after(keepMs, () => {
      log.info({ rows: place.rows }, 'no upstream went on with the snapshot that was broken off: it is removed');
      this.drop().catch((error: unknown) => log.warn({ reason: messageOf(error) }, 'cannot remove it'));
    });
    this.#kept = { engine, place, deadline };
  }

  /** To go on at this place. Errors: `REPLICATION` when nothing is kept that ends there. */
  take({ id, rows }: SnapshotPlace): Engine {
    const kept = this.#kept;
    if (kept?.place.id !== id || kept.place.rows !== rows) {
      const have = kept === undefined ? 'nothing' : `${kept.place.rows} rows of ${kept.place.id}`;
      throw new TokaidoError('REPLICATION', `a snapshot goes on behind row ${rows} of ${id}; this node has ${have}`);
    }
    this.#kept = undefined;
    kept.deadline.cancel();
    return kept.engine;
  }

  /** It is not wanted any more. */
  async drop(): Promise<void> {
    const kept = this.#kept;
    if (kept === undefined) return;
    this.#kept = undefined;
    kept.deadline.cancel();
    await kept.engine.close();
    this.#options.remove();
  }

  /** The node stops: the next run finds it. */
  async close(): Promise<void> {
    this.#closed = true;
    const kept = this.#kept;
    this.#kept = undefined;
    kept?.deadline.cancel();
    await kept?.engine.close();
  }
}
