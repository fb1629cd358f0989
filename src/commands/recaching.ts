/**
 * Which records are stale and who makes them anew: the marks behind memcached's meta flags `I`, `N`, `R` and their
 * answers `W`, `X`, `Z`. They are hints between clients of one node, so they are kept in its memory, newest first: a
 * mark belongs to one version of a record, and whoever writes the record ends it.
 */
import type { VersionNs } from '../base/types.js';
import type { RecordView } from '../store/types.js';
import type { KeyRef } from './commands.js';

export interface Mark {
  readonly stale: boolean;
  /** Somebody was told to make it anew. */
  readonly won: boolean;
}

/** Records with a mark; beyond, the oldest mark is forgotten. */
export const MAX_MARKS = 65_536;

const NO_MARK: Mark = { stale: false, won: false };

export class Recaching {
  readonly #marks = new Map<string, Mark & { readonly versionNs: VersionNs }>();

  of(ref: KeyRef, { versionNs }: Pick<RecordView, 'versionNs'>): Mark {
    const mark = this.#marks.get(idOf(ref));
    return mark?.versionNs === versionNs ? mark : NO_MARK;
  }

  mark(ref: KeyRef, versionNs: VersionNs, { stale, won }: Mark): void {
    const id = idOf(ref);
    this.#marks.delete(id);
    if (!stale && !won) return;
    if (this.#marks.size >= MAX_MARKS) {
      const [oldest] = this.#marks.keys();
      this.#marks.delete(oldest as string);
    }
    this.#marks.set(id, { versionNs, stale, won });
  }
}

function idOf({ database, key }: KeyRef): string {
  return `${database.name} ${key.toString('latin1')}`;
}
