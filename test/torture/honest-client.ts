/** A client that does everything right, while others do not: it must get the right answers, and in time. */
import { get } from 'node:http';
import { TokaidoClient } from '../../src/client/client.js';
import type { ClusterNode } from '../support/cluster.js';
import { processorWaitMs } from '../support/process-facts.js';

/**
 * An answer takes no longer, whatever the others do. Not counted is the time for which the machine had no processor for
 * server or client: what else runs there is not theirs.
 */
export const BOUND_MS = 2_000;
/** Place of the database that is its own. */
const DATABASE = 3;
const NAME = 'honest';
const ADMIN_TIMEOUT_MS = 10_000;

/** An answer of the admin listener, over a connection that ends with it: a socket kept for later is not a leak. */
export async function adminText({ adminPort }: ClusterNode, path: string): Promise<string> {
  return await new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port: adminPort, path, agent: false, timeout: ADMIN_TIMEOUT_MS };
    const request = get(options, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
      });
      response.on('end', () => resolve(text));
      response.on('error', reject);
    });
    request.on('timeout', () => request.destroy(new Error('the admin listener does not answer')));
    request.on('error', reject);
  });
}

export class HonestClient {
  readonly #node: ClusterNode;
  readonly #client: TokaidoClient;
  #round = 0;
  boundMs = BOUND_MS;
  answers = 0;
  slowestMs = 0;
  #slowest = '';

  constructor(node: ClusterNode) {
    this.#node = node;
    this.#client = new TokaidoClient({ server: `127.0.0.1:${node.clientPort}`, timeoutMs: 10_000 });
  }

  /** One round of questions, over each protocol and to the admin listener; returns what was wrong. */
  async ask(): Promise<string | undefined> {
    const value = Buffer.from(`round ${++this.#round}`);
    try {
      // Broken input may by chance be a right clear of the same database: then it is asked again.
      for (let attempt = 0; ; attempt++) {
        await this.#timed('a set', async () => await this.#client.set('honest', value, { database: NAME }));
        const got = await this.#timed('a get', async () => await this.#client.get('honest', { database: NAME }));
        const bulk = await this.#timed('a bulk get', async () => await this.#client.getBulk(['honest'], DATABASE));
        const right = got?.value.equals(value) === true && bulk.get('honest')?.equals(value) === true;
        if (right) break;
        if (attempt === 2) return `wrote ${value}, read ${got?.value} and ${bulk.get('honest')}`;
      }
      const text = await this.#timed('the admin listener', async () => await adminText(this.#node, '/health'));
      if (text !== 'alive\n') return `the admin listener says ${JSON.stringify(text)}`;
    } catch (error) {
      return String(error);
    }
    if (this.slowestMs <= this.boundMs) return undefined;
    const slowest = Math.round(this.slowestMs);
    this.slowestMs = 0;
    return `${this.#slowest} took ${slowest} ms, which is more than ${this.boundMs}`;
  }

  close(): void {
    this.#client.close();
  }

  async #timed<T>(what: string, work: () => Promise<T>): Promise<T> {
    const startMs = performance.now();
    const waitedMs = this.#processorWaitMs();
    const result = await work();
    const tookMs = performance.now() - startMs - (this.#processorWaitMs() - waitedMs);
    this.answers++;
    if (tookMs > this.slowestMs) {
      this.slowestMs = tookMs;
      this.#slowest = what;
    }
    return result;
  }

  #processorWaitMs(): number {
    const server = this.#node.process?.pid;
    return processorWaitMs(process.pid) + (server === undefined ? 0 : processorWaitMs(server));
  }
}
