/** Server processes of a row: started on free ports of loopback, waited for, and ended with it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { delimiter, join } from 'node:path';
import type { Stage } from './row.js';

const START_MS = 20_000;
const STOP_MS = 5_000;
/** Of the kernel's accounting of processor time, everywhere that this runs. */
const TICKS_PER_SECOND = 100;

/** Where a program is on PATH, or `undefined`. */
export function onPath(program: string): string | undefined {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const path = join(folder, program);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

export interface Server {
  readonly port: number;
  readonly process: ChildProcess;
}

async function answers(port: number): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', port });
  const open = await new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true));
    socket.once('error', () => resolve(false));
  });
  socket.destroy();
  return open;
}

/** Resolves when the port takes connections. Errors: the process ended, or took too long. */
export async function listening(child: ChildProcess, port: number, output: () => string): Promise<void> {
  const startMs = performance.now();
  while (!(await answers(port))) {
    if (child.exitCode !== null || performance.now() - startMs > START_MS)
      throw new Error(`a server did not start: ${child.spawnargs.join(' ')}\n${output()}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Starts a server that will listen on `port`; it ends with the row. */
export async function startServer(
  stage: Stage,
  program: string,
  parameters: readonly string[],
  port: number,
): Promise<Server> {
  const child = spawn(program, parameters, { cwd: stage.folder, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  const keep = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-4000);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  stage.onEnd(async () => await stop(child));
  await listening(child, port, () => output);
  return { port, process: child };
}

/** SIGTERM, a bounded wait, SIGKILL. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
  child.kill('SIGTERM');
  await gone;
  clearTimeout(timer);
}

/** Resident memory of a process, MB. */
export function residentMb(pid: number): number {
  const [, kb] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kb) / 1024;
}

/** Processor time that a process has used so far, seconds. */
export function processorSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
