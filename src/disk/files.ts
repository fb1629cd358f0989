/** Files that a crash or a power cut leaves whole: the old content or the new, never half of either. */
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  renameSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';

export interface ReplaceOptions {
  /** Permissions. Default: those of the file that is replaced, or 0600 for a new one. */
  readonly mode?: number;
  /** Where the new content is written first, in the same folder. Default: the path with `.new` behind it. */
  readonly temporary?: string;
  /** Refuse when `temporary` exists (somebody else writes it). Default: write over what a killed process has left. */
  readonly exclusive?: boolean;
}

/**
 * Replaces a file, or makes it: whoever reads it sees the old content or the new, and it is on the disk when this
 * returns. The owner stays who it was, also when root does it: a service must go on reading its own files.
 * Errors: those of the file system.
 */
export function replaceFile(path: string, text: string, options: ReplaceOptions = {}): void {
  const { temporary = `${path}.new`, exclusive = false } = options;
  const before = statSync(path, { throwIfNoEntry: false });
  const mode = options.mode ?? (before === undefined ? 0o600 : before.mode & 0o777);
  const file = openSync(temporary, exclusive ? 'wx' : 'w', mode);
  try {
    writeFileSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  // Neither the mask of this process nor an older file of that name decides.
  chmodSync(temporary, mode);
  keepOwner(temporary, before);
  renameSync(temporary, path);
  flushFolder(dirname(path));
}

/** Only root can give a file away; anybody else replaces files that are his already. */
function keepOwner(path: string, before: Stats | undefined): void {
  if (before !== undefined && process.getuid?.() === 0) chownSync(path, before.uid, before.gid);
}

/** Brings the names in a folder to the disk: what was made, renamed or removed there. Windows has no such call. */
export function flushFolder(path: string): void {
  if (process.platform === 'win32' || !existsSync(path)) return;
  const folder = openSync(path, 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
