/** What the system knows about a process: its memory, its sockets. Linux only. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Whether this machine tells. */
export const knowsProcesses = process.platform === 'linux';

/**
 * Memory of its own, MiB: what a data file's pages take in the system's cache is not counted, because the system takes
 * that back when it needs it. `undefined`: there is no such process any more.
 */
export function privateMb(pid: number): number | undefined {
  try {
    const [, kb] = /RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? [];
    return kb === undefined ? undefined : Math.round(Number(kb) / 1024);
  } catch {
    return undefined;
  }
}

/** Sockets that it has open. */
export function openSockets(pid: number): number {
  const folder = `/proc/${pid}/fd`;
  let count = 0;
  for (const name of readdirSync(folder)) {
    try {
      if (readlinkSync(`${folder}/${name}`).startsWith('socket:')) count++;
    } catch {
      // Closed in between.
    }
  }
  return count;
}
