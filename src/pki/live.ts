/**
 * Values that change while a node runs: a certificate, a CA bundle, revocation lists. Who uses one asks for `current` at
 * every handshake, and is told when it changed, to look again at what is open.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { messageOf } from '../base/errors.js';
import type { Logger } from '../base/logger.js';

export interface Live<T> {
  readonly current: T;
  /** Calls `listener` after each change, until the returned function is called. */
  onChange(listener: () => void): () => void;
}

/** A value that is set by hand; also what tests hand in. */
export class LiveValue<T> implements Live<T> {
  #current: T;
  readonly #listeners = new Set<() => void>();

  constructor(value: T) {
    this.#current = value;
  }

  get current(): T {
    return this.#current;
  }

  set(value: T): void {
    this.#current = value;
    for (const listener of [...this.#listeners]) listener();
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

export interface LiveFilesOptions<T> {
  readonly files: readonly string[];
  /** What they hold together. Throws while they are not whole or do not belong together. */
  readonly load: () => T;
  /** For the log. */
  readonly what: string;
  readonly log: Logger;
}

/**
 * What some files hold together, as of the last time they were whole. A change counts once it has stood still from one
 * look to the next, so that a file that is being written is not read in the middle; whatever does not load is ignored,
 * and said once, until the files change again.
 */
export class LiveFiles<T> extends LiveValue<T> {
  readonly #options: LiveFilesOptions<T>;
  /** What the files looked like when `current` was read, or the last attempt failed. */
  #known: string;
  /** What they looked like at the last look. */
  #seen: string;
  /** The bytes that `current` was read from. */
  #contents: string;

  /** Errors: those of `load`. */
  constructor(options: LiveFilesOptions<T>) {
    const looks = looksOf(options.files);
    super(options.load());
    this.#options = options;
    this.#known = looks;
    this.#seen = looks;
    this.#contents = contentsOf(options.files);
  }

  /** Looks whether the files have changed; to be called a few times a second. */
  look(): void {
    const looks = looksOf(this.#options.files);
    const isStill = looks === this.#seen;
    this.#seen = looks;
    if (looks !== this.#known && isStill) this.#read(looks);
  }

  /** Reads them now, changed or not. */
  reload(): void {
    this.#read(looksOf(this.#options.files));
  }

  #read(looks: string): void {
    const { files, load, what, log } = this.#options;
    this.#known = looks;
    this.#seen = looks;
    try {
      const contents = contentsOf(files);
      if (contents === this.#contents) return;
      const value = load();
      this.#contents = contents;
      log.info({ files }, `${what}: read again, in use from now on`);
      this.set(value);
    } catch (error) {
      log.warn(
        { files, reason: messageOf(error) },
        `${what}: changed files are ignored until they are whole and match`,
      );
    }
  }
}

/** Changes whenever a file is written or replaced. */
function looksOf(files: readonly string[]): string {
  return files
    .map((file) => {
      const facts = statSync(file, { bigint: true, throwIfNoEntry: false });
      return facts === undefined ? 'none' : `${facts.ino} ${facts.size} ${facts.mtimeNs} ${facts.ctimeNs}`;
    })
    .join('; ');
}

function contentsOf(files: readonly string[]): string {
  // One that is not there may not be needed: `load` knows.
  return files.map((file) => (existsSync(file) ? readFileSync(file, 'latin1') : '')).join('\0');
}
