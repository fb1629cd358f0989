/** Keys and certificates on disk: written whole or not at all, keys for their owner only, nothing overwritten unasked. */
import { createPrivateKey } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { codeOf, messageOf, TokaidoError } from '../base/errors.js';
import { replaceFile } from '../disk/files.js';
import { isRunning } from '../disk/processes.js';

const KEY_MODE = 0o600;
const PUBLIC_MODE = 0o644;

/** Errors: `IDENTITY` when the file exists already. */
export function refuseExisting(path: string): void {
  if (!existsSync(path)) return;
  throw new TokaidoError('IDENTITY', `${path} exists already; nothing was overwritten`, {
    hint: 'choose another folder, or move the old file away',
  });
}

/** Errors: `IDENTITY` when the file exists already. */
export function writeNew(path: string, text: string, kind: 'key' | 'public'): void {
  refuseExisting(path);
  replace(path, text, kind);
}

/** Writes a file whole, whether or not there is one: who reads it sees the old one or the new one. */
export function replace(path: string, text: string, kind: 'key' | 'public'): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  removeUnfinished(dirname(path));
  const mode = kind === 'key' ? KEY_MODE : PUBLIC_MODE;
  replaceFile(path, text, { mode, temporary: `${path}.${process.pid}.new`, exclusive: true });
}

/** What processes that were killed while they wrote a file have left: half a key, perhaps. */
function removeUnfinished(folder: string): void {
  for (const name of readdirSync(folder)) {
    const pid = /\.(\d+)\.new$/.exec(name)?.[1];
    if (pid === undefined || (Number(pid) !== process.pid && isRunning(Number(pid)))) continue;
    rmSync(join(folder, name), { force: true });
  }
}

/** Errors: `IDENTITY` when it cannot be read. */
export function readPublic(path: string, what: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const hint =
      codeOf(error) === 'ENOENT'
        ? 'check the path; `tokaido ca issue` makes keys and certificates, `tokaido encryption key` a file of encryption keys'
        : 'check its permissions';
    throw new TokaidoError('IDENTITY', `cannot read the ${what} ${path}: ${messageOf(error)}`, { hint, cause: error });
  }
}

/** Errors: `IDENTITY` when it cannot be read, or others could read it too. */
export function readKey(path: string, what: string): string {
  const text = readPublic(path, what);
  if (process.platform !== 'win32' && (statSync(path).mode & 0o077) !== 0) {
    throw new TokaidoError('IDENTITY', `the ${what} ${path} can be read by others`, { hint: `run: chmod 600 ${path}` });
  }
  return text;
}

const DER_SEQUENCE = 0x30;

/**
 * A private key as PEM, from a file in PEM, or in DER (SEC 1 or PKCS #8) as old Kyoto Tycoon servers keep theirs. Errors:
 * those of `readKey`, and `IDENTITY` when it is no key.
 */
export function readKeyOfAnyForm(path: string, what: string): string {
  const text = readKey(path, what);
  const bytes = readFileSync(path);
  if (bytes[0] !== DER_SEQUENCE) return text;
  for (const type of ['sec1', 'pkcs8'] as const) {
    try {
      const key = createPrivateKey({ key: bytes, format: 'der', type });
      return key.export({ format: 'pem', type: 'pkcs8' }).toString();
    } catch {
      // The other form, perhaps.
    }
  }
  throw new TokaidoError('IDENTITY', `the ${what} ${path} is no private key in DER or PEM form`);
}
