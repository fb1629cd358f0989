/**
 * Files of a folder that only count together: a CA's key and its certificate, say. All that a step will write is put into
 * one file first, then where it belongs, then that file goes. So whatever moment a crash hits, the step has not begun, or
 * `settle` ends it: whoever opens the folder does that first. Each change is a whole file, so it may be made twice.
 */
import { chmodSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, TokaidoError } from '../../base/errors.js';
import { refuseExisting, replace } from '../files.js';

/** A file of the folder, by its path in it, as it will be. */
export interface Change {
  readonly path: string;
  readonly text: string;
  readonly kind: 'key' | 'public';
}

/** What is done to a folder, and what the caller says of it when it is done. */
export interface Step<T> {
  /** The command, so that the same one run again knows its own. */
  readonly name: string;
  readonly changes: readonly Change[];
  readonly made: T;
}

/** Holds keys for as long as it exists: for its owner only. */
const stepPath = (folder: string): string => join(folder, 'step.json');

/** Errors: `IDENTITY` when files exist that the step would make. */
export function takeNewStep<T>(folder: string, step: Step<T>): T {
  for (const { path } of step.changes) refuseExisting(join(folder, path));
  return takeStep(folder, step);
}

/** Makes all changes or none, whenever the process ends. */
export function takeStep<T>(folder: string, step: Step<T>): T {
  replace(stepPath(folder), JSON.stringify(step), 'key');
  apply(folder, step);
  return step.made;
}

function apply(folder: string, { changes }: Step<unknown>): void {
  for (const { path, text, kind } of changes) replace(join(folder, path), text, kind);
  // Somebody else may have ended it meanwhile: a node that signs with this folder.
  rmSync(stepPath(folder), { force: true });
}

/**
 * Ends the step that a crash left half done. Returns what that step made, if it was the one of this name. Errors:
 * `CORRUPT`.
 */
export function settle<T>(folder: string, name?: string): T | undefined {
  const path = stepPath(folder);
  if (!existsSync(path)) return undefined;
  let step: Step<T>;
  try {
    chmodSync(path, 0o600);
    step = JSON.parse(readFileSync(path, 'utf8')) as Step<T>;
  } catch (error) {
    throw new TokaidoError('CORRUPT', `${path}, which says what was begun here, cannot be used: ${messageOf(error)}`, {
      hint: 'if it cannot be read: run this as the owner of the folder; if it is damaged: put the folder back from a copy',
    });
  }
  apply(folder, step);
  return step.name === name ? step.made : undefined;
}
