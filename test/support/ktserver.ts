/** A real Kyoto Tycoon server as a process, where there is one on PATH. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TokaidoClient } from '../../src/client/client.js';
import { freePort } from './postgres.js';

/** Why tests against the real server cannot run here; `false` when they can. */
export const withoutKtserver: string | false =
  spawnSync('ktserver', ['--help']).error === undefined ? false : 'needs a Kyoto Tycoon server (ktserver) on PATH';

export class KtServer {
  readonly port: number;
  readonly folder: string;
  readonly client: TokaidoClient;
  readonly #parameters: readonly string[];
  #child: ChildProcess | undefined;

  private constructor(port: number, parameters: readonly string[]) {
    this.port = port;
    this.folder = mkdtempSync(join(tmpdir(), 'tokaido-kt-'));
    this.client = new TokaidoClient({ server: `127.0.0.1:${port}` });
    this.#parameters = parameters;
  }

  /** `parameters` go before the databases; `{folder}` in them is a folder of the server's own. */
  static async start(parameters: readonly string[], databases: readonly string[]): Promise<KtServer> {
    const server = new KtServer(await freePort(), [...parameters, ...databases]);
    await server.run();
    return server;
  }

  /** (Re)starts the process. */
  async run(): Promise<void> {
    const parameters = this.#parameters.map((text) => text.replace('{folder}', this.folder));
    const child = spawn('ktserver', ['-host', '127.0.0.1', '-port', String(this.port), ...parameters], {
      cwd: this.folder,
      stdio: 'ignore',
    });
    this.#child = child;
    for (let tries = 0; ; tries++) {
      const answer = await this.client.call('void').catch(() => undefined);
      if (answer?.status === 200) return;
      if (tries > 200 || child.exitCode !== null) throw new Error(`ktserver does not start (${child.exitCode})`);
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }

  /** SIGTERM ends it in good order, SIGKILL at once. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  }

  async close(): Promise<void> {
    this.client.close();
    await this.end('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}
