/** Starts a load process, so that the server under test does not share its thread with the load. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Jobs } from './job.js';

const MAIN = join(dirname(fileURLToPath(import.meta.url)), 'main.js');
const LIMIT_MS = 300_000;

/** Runs one job in a process of its own. Errors: the load failed, or took too long. */
export async function load<K extends keyof Jobs>(job: Jobs[K]['job']): Promise<Jobs[K]['result']> {
  const child = fork(MAIN, [JSON.stringify(job)], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
  let result: Jobs[K]['result'] | undefined;
  child.on('message', (message) => {
    result = message as Jobs[K]['result'];
  });
  await once(child, 'exit');
  clearTimeout(timer);
  if (result === undefined) throw new Error(`the load failed: ${JSON.stringify(job)}`);
  return result;
}
