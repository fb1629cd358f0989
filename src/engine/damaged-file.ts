/**
 * Finds the damage to a data file that LMDB does not survive: it believes the first two pages, maps the file, and the
 * process ends with a segmentation fault or a bus error, without a word to anybody. What is wrong deeper inside is found
 * when it is read.
 */
import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { TokaidoError } from '../base/errors.js';
import { Checkpoint, markIn } from './checkpoint.js';

/** From LMDB's mark: the page size; roots of the two trees; the last page. */
const PAGE_SIZE_AFTER_MARK = 24;
const ROOTS_AFTER_MARK = [24 + 40, 24 + 48 + 40] as const;
const LAST_PAGE_AFTER_MARK = 24 + 96;
/** A tree without pages. */
const NO_PAGE = 2n ** 64n - 1n;
const LEAST_PAGE_BYTES = 512;
const MOST_PAGE_BYTES = 65_536;
/** So many pages at the end of the file may be counted and not written yet: those that a commit took and gave back. */
const UNWRITTEN_PAGES = 256n;

/** What is said to whoever finds the data of a node damaged. */
export const DAMAGED_HINT =
  'check the disk; a relay or edge seeds itself when its data directory is moved away; of a root see docs/operate/recover.md (Root lost its disk)';

/** Errors: `CORRUPT`. Called before the file is opened, and when the checkpoint has put back what it had to. */
export function refuseDamagedFile(folder: string): void {
  const path = join(folder, 'data.mdb');
  const what = damageOf(path, Checkpoint.notedNumber(folder));
  if (what === undefined) return;
  throw new TokaidoError('CORRUPT', `the data file ${path} is damaged: ${what}`, { hint: DAMAGED_HINT });
}

function damageOf(path: string, notedNumber: number): string | undefined {
  const bytes = existsSync(path) ? statSync(path).size : 0;
  if (bytes === 0) return notedNumber > 0 ? 'it is missing or empty, and had data' : undefined;
  const first = pageAt(path, 0);
  const at = markIn(first);
  const pageBytes = at === undefined ? 0 : first.readUInt32LE(at + PAGE_SIZE_AFTER_MARK);
  if (pageBytes < LEAST_PAGE_BYTES || pageBytes > MOST_PAGE_BYTES) return 'its first page is not that of a data file';
  const commits = [first, pageAt(path, pageBytes)].map(neededPages);
  if (commits.includes(undefined)) return 'its second page is not that of a data file';
  const needed = commits.reduce<bigint>((most, pages = 0n) => (pages > most ? pages : most), 0n) * BigInt(pageBytes);
  return bytes < needed ? `it has ${bytes} bytes, and its newest commit needs ${needed}` : undefined;
}

/** Pages that the commit needs which one of the first pages names; `undefined` when it names none. */
function neededPages(page: Buffer): bigint | undefined {
  const at = markIn(page);
  if (at === undefined) return undefined;
  const roots = ROOTS_AFTER_MARK.map((offset) => page.readBigUInt64LE(at + offset)).filter((root) => root !== NO_PAGE);
  const last = page.readBigUInt64LE(at + LAST_PAGE_AFTER_MARK);
  return [...roots.map((root) => root + 1n), last + 1n - UNWRITTEN_PAGES].reduce(
    (most, pages) => (pages > most ? pages : most),
    0n,
  );
}

/** The beginning of a page; zeros where the file ends. */
function pageAt(path: string, position: number): Buffer {
  const file = openSync(path, 'r');
  try {
    const page = Buffer.alloc(LEAST_PAGE_BYTES);
    readSync(file, page, 0, page.length, position);
    return page;
  } finally {
    closeSync(file);
  }
}
