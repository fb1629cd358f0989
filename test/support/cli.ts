/** Runs the command line as a process of its own. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cliPath } from './cluster.js';

export interface Ended {
  readonly code: number | null;
  readonly out: Buffer;
  readonly err: string;
}

const LIMIT_MS = 20_000;

export async function tokaido(
  parameters: readonly string[],
  { input, cwd, env = {} }: { input?: Buffer; cwd?: string; env?: Readonly<Record<string, string>> } = {},
): Promise<Ended> {
  const child = spawn(process.execPath, [cliPath(), ...parameters], {
    cwd,
    timeout: LIMIT_MS,
    killSignal: 'SIGKILL',
    env: { ...process.env, ...env },
  });
  const out: Buffer[] = [];
  let err = '';
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk) => (err += chunk));
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, out: Buffer.concat(out), err };
}

/** What a command printed with --json. */
export const json = ({ out }: Ended): Record<string, unknown> => JSON.parse(out.toString()) as Record<string, unknown>;
