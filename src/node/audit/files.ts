/** The files of an audit log: the one that grows, and full ones beside it, named by the number of their first line. */
import { createReadStream, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { ChainCheck, type ChainHead } from './chain.js';

const DIGITS = 12;

/** Where a full file goes whose first line has this number. */
export function fullFile(path: string, first: number): string {
  return `${path}.${String(first).padStart(DIGITS, '0')}`;
}

/** Full files, oldest first. */
export function fullFiles(path: string): readonly string[] {
  const form = new RegExp(`^\\.\\d{${DIGITS}}$`);
  const name = basename(path);
  return readdirSync(dirname(path))
    .filter((other) => other.startsWith(name) && form.test(other.slice(name.length)))
    .sort()
    .map((other) => join(dirname(path), other));
}

/** What a verification found. */
export interface Verified {
  readonly lines: number;
  readonly first: number | undefined;
  readonly head: ChainHead | undefined;
  readonly problem: { readonly file: string; readonly line: number | undefined; readonly what: string } | undefined;
}

/** Walks all files of a log, up to the first thing that is wrong. */
export async function verifyFiles(path: string, wanted: ChainHead | undefined): Promise<Verified> {
  const check = new ChainCheck(wanted);
  const found = (problem: Verified['problem']): Verified => {
    return { lines: check.lines, first: check.first, head: check.head, problem };
  };
  for (const file of [...fullFiles(path), path]) {
    let line = 0;
    for await (const text of createInterface({ input: createReadStream(file) })) {
      line++;
      const what = check.next(text);
      if (what !== undefined) return found({ file, line, what });
    }
  }
  const what = check.end();
  return found(what === undefined ? undefined : { file: path, line: undefined, what });
}
