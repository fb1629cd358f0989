/** What waits in the queue of a store: something that wants to change data in the next commit. */
import type { Outcome } from './commit-queue.js';
import type { Draft } from './draft.js';

/** A job of one commit. Returns the caller's result; a throw before the first write rejects only this job. */
export interface Job {
  /** Names that must be open databases before the job can run. */
  readonly databases: readonly string[];
  run(draft: Draft): unknown;
  /** Ends the commit with this job, and is called when that is visible, before the next one begins. */
  readonly between?: () => void;
}

/** A job may fail alone as long as it has not written; after that only the whole commit can be undone. */
export function outcomeOf(job: Job, draft: Draft): Outcome {
  const { writes } = draft;
  try {
    return { value: job.run(draft) };
  } catch (error) {
    if (draft.writes !== writes) throw error;
    return { error };
  }
}
