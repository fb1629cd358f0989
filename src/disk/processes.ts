/** Whether the process that left a file behind, a lock or half of a new one, still runs. */
import { codeOf } from '../base/errors.js';

/** A process of somebody else's counts, too. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === 'EPERM';
  }
}
