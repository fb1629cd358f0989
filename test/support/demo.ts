/** Runs the demonstration as a user does, in a temporary folder of its own, so that what it leaves behind can be seen. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { repository } from './postgres.js';

export interface DemoRun {
  readonly child: ChildProcess;
  /** Everything it makes, it makes in here. */
  readonly folder: string;
  readonly ended: Promise<number | null>;
  out(): string;
  err(): string;
  /** Waits until it has said something. */
  said(pattern: RegExp): Promise<void>;
  /** Processes that name the folder, and what is in it. */
  left(): { readonly processes: string[]; readonly files: string[] };
  remove(): void;
}

const SAID_LIMIT_MS = 30_000;

/** In a process group of its own, as a shell starts it. */
export function startDemo(parameters: readonly string[], limitMs: number): DemoRun {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-demo-'));
  // Postgres may run as another user and has to reach its folder inside.
  chmodSync(folder, 0o711);
  const task = join(repository(), 'scripts', 'task.mjs');
  const child = spawn(process.execPath, [task, 'demo', '--', ...parameters], {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: folder },
  });
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk) => (out += chunk));
  child.stderr.on('data', (chunk) => (err += chunk));
  const timer = setTimeout(() => process.kill(-(child.pid as number), 'SIGKILL'), limitMs);
  const ended = once(child, 'exit').then(([code]) => {
    clearTimeout(timer);
    return code as number | null;
  });
  return {
    child,
    folder,
    ended,
    out: () => out,
    err: () => err,
    said: async (pattern) => {
      const startMs = performance.now();
      while (!pattern.test(err)) {
        if (performance.now() - startMs > SAID_LIMIT_MS || child.exitCode !== null)
          throw new Error(`the demonstration did not say ${pattern}: ${err}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    left: () => ({ processes: processesOf(folder), files: readdirSync(folder) }),
    remove: () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }),
  };
}

function processesOf(folder: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return `${pid} ${readFileSync(join('/proc', pid, 'cmdline'), 'utf8').replaceAll('\0', ' ')}`;
      } catch {
        // It ended meanwhile.
        return '';
      }
    })
    .filter((line) => line.includes(folder));
}
