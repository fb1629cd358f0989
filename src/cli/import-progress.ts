/** How far an import is, in a small file beside it: what one that broke off goes on from. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { codeOf, messageOf, TokaidoError } from '../base/errors.js';

/** All before it is acknowledged by the server: bytes and lines of a file, or the last key of a database. */
export type ImportPosition =
  | { readonly bytes: number; readonly lines: number }
  /** Base64. */
  | { readonly key: string };

interface Saved {
  readonly format: 1;
  /** What is imported, from where and to where: another import must not go on from it. */
  readonly what: string;
  readonly position: ImportPosition;
}

/** Often enough to lose little, seldom enough that waiting for the server's acknowledgement costs nothing. */
const SAVE_MS = 500;

export class ImportProgress {
  readonly #path: string;
  readonly #what: string;
  #savedMs = performance.now();
  /** Where an earlier import of the same got to. */
  readonly position: ImportPosition | undefined;

  /** Errors: `CONFIG` when the file is of another import, or no such file. */
  constructor(path: string, what: string) {
    this.#path = path;
    this.#what = what;
    this.position = this.#read();
  }

  #read(): ImportPosition | undefined {
    let text: string;
    try {
      text = readFileSync(this.#path, 'utf8');
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw new TokaidoError('CONFIG', `cannot read ${this.#path}: ${messageOf(error)}`, { cause: error });
    }
    let saved: Partial<Saved>;
    try {
      saved = JSON.parse(text) as Partial<Saved>;
    } catch {
      saved = {};
    }
    if (saved.format === 1 && saved.what === this.#what && saved.position !== undefined) return saved.position;
    throw new TokaidoError('CONFIG', `${this.#path} is not the progress of this import`, {
      hint: 'give the same file, server and databases as before, or remove it to begin from the beginning',
    });
  }

  get isDue(): boolean {
    return performance.now() - this.#savedMs >= SAVE_MS;
  }

  /** Everything up to there is acknowledged. Errors: `STORAGE`. */
  save(position: ImportPosition): void {
    this.#savedMs = performance.now();
    const saved: Saved = { format: 1, what: this.#what, position };
    try {
      writeFileSync(`${this.#path}.new`, `${JSON.stringify(saved)}\n`, { mode: 0o600 });
      renameSync(`${this.#path}.new`, this.#path);
    } catch (error) {
      throw new TokaidoError('STORAGE', `cannot write ${this.#path}: ${messageOf(error)}`, { cause: error });
    }
  }

  /** The import is complete. */
  remove(): void {
    rmSync(this.#path, { force: true });
  }
}
