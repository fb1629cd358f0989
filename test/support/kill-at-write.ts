/**
 * Preloaded into a process (`--import`): kills it with signal 9 right before the change number `KILL_AT` (from 1) that it
 * makes to files under `KILL_UNDER`: a file opened for writing, renamed or removed. Prints how many there were otherwise.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const under = process.env.KILL_UNDER as string;
const at = Number(process.env.KILL_AT);
let changes = 0;

function before(path: unknown): void {
  if (String(path).startsWith(under) && ++changes === at) process.kill(process.pid, 'SIGKILL');
}

const { openSync, renameSync, rmSync } = fs;
fs.openSync = (path, flags, mode) => {
  if (flags !== 'r') before(path);
  return openSync(path, flags, mode);
};
fs.renameSync = (from, to) => {
  before(from);
  renameSync(from, to);
};
fs.rmSync = (path, options) => {
  before(path);
  rmSync(path, options);
};
syncBuiltinESMExports();
