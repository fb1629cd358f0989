/** `tokaido serve` as a process of its own, started with flags or a file and ended with the test. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cliPath } from './cluster.js';
import { eventually } from './local-runtime.js';

const STOP_MS = 5000;

export class ServedNode {
  readonly #child: ChildProcess;
  /** What it logged so far. */
  log = '';

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.stderr?.on('data', (chunk: Buffer) => {
      this.log += chunk.toString();
    });
  }

  /** Resolves once it serves; fails with its log when it ends or takes too long. */
  static async start(
    flags: readonly string[],
    cwd: string,
    env: Readonly<Record<string, string>> = {},
  ): Promise<ServedNode> {
    const child = spawn(process.execPath, [cliPath(), 'serve', ...flags], {
      cwd,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...env },
    });
    const node = new ServedNode(child);
    let ended = false;
    child.once('exit', () => {
      ended = true;
    });
    try {
      await eventually('the node serves', () => ended || node.log.includes('"msg":"serving"'), 20_000);
      if (ended) throw new Error('the node ended');
    } catch (error) {
      await node.stop();
      throw new Error(`${(error as Error).message}\n${node.log}`);
    }
    return node;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** SIGTERM, a bounded wait, SIGKILL. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'exit');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS);
    this.#child.kill('SIGTERM');
    await gone;
    clearTimeout(timer);
  }
}
