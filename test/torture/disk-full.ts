/**
 * Torture by full disks: again and again the root or an edge gets no more room for its data file, at a random moment and
 * for a random time, while clients write. Reads go on, writes are refused by name, nothing acknowledged is lost, no
 * process ends, and with room everything comes back by itself.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { TokaidoClient } from '../../src/client/client.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { Dice } from '../support/random.js';
import { clock, type Report, type Torture, type TortureOptions, type TortureResult } from './torture.js';

const MOST_ROOM_BYTES = 2 * 2 ** 20;
const MOST_VALUE_BYTES = 100_000;
const MOST_WRITES = 60;
const KEYS = 40;
const RETURN_MS = 30_000;

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

/** A limit on the size of files stands for the disk: any user can set and lift it. */
function limit(node: ClusterNode, bytes: number | 'unlimited'): void {
  execFileSync('prlimit', ['--pid', String(node.process?.pid), `--fsize=${bytes}:unlimited`]);
}

/** Bytes of the node's data file. */
function dataBytes(node: ClusterNode): number {
  const data = join(node.folder, 'data');
  const stores = readdirSync(data).filter((name) => name.startsWith('store-'));
  return Math.max(...stores.map((store) => statSync(join(data, store, 'data.mdb')).size));
}

class Filling {
  readonly #root: ClusterNode;
  readonly #edge: ClusterNode;
  readonly #writer: TokaidoClient;
  readonly #readers: ReadonlyMap<ClusterNode, TokaidoClient>;
  readonly #dice: Dice;
  readonly #report: Report;
  /** What was acknowledged last, by key; a key whose write was refused keeps what it had. */
  readonly #wanted = new Map<string, Buffer>();
  failed = 0;
  acknowledged = 0;
  refused = 0;
  longestReturnMs = 0;

  constructor(root: ClusterNode, edge: ClusterNode, dice: Dice, report: Report) {
    this.#root = root;
    this.#edge = edge;
    this.#dice = dice;
    this.#report = report;
    const connect = (node: ClusterNode): TokaidoClient =>
      new TokaidoClient({ server: `127.0.0.1:${node.clientPort}`, timeoutMs: RETURN_MS });
    this.#writer = connect(root);
    this.#readers = new Map([root, edge].map((node) => [node, connect(node)]));
  }

  #fail(text: string): void {
    this.failed++;
    this.#report.failure(text);
  }

  async round(): Promise<void> {
    const node = this.#dice.chance(0.5) ? this.#root : this.#edge;
    const pids = [this.#root, this.#edge].map(({ process: child }) => child?.pid);
    limit(node, dataBytes(node) + this.#dice.below(MOST_ROOM_BYTES));
    const writes = this.#dice.between(1, MOST_WRITES);
    for (let i = 0; i < writes; i++) await this.#write(node === this.#root);
    limit(node, 'unlimited');
    await this.#comeBack(node);
    const now = [this.#root, this.#edge].map(({ process: child }) => child?.pid);
    if (now.join() !== pids.join()) this.#fail(`a process ended: ${now.join()} instead of ${pids.join()}`);
  }

  async #write(isFull: boolean): Promise<void> {
    const key = `key ${this.#dice.below(KEYS)}`;
    const value = Buffer.alloc(this.#dice.between(1, MOST_VALUE_BYTES), this.#dice.below(256));
    try {
      await this.#writer.set(key, value);
      this.#wanted.set(key, value);
      this.acknowledged++;
    } catch (error) {
      this.refused++;
      if (!isFull || (error as { code?: string }).code !== 'STORAGE') this.#fail(`refused with ${String(error)}`);
    }
    const read = await this.#readers.get(this.#root)?.get(key);
    if (read?.value.equals(this.#wanted.get(key) ?? Buffer.alloc(0)) !== true && this.#wanted.has(key)) {
      this.#fail(`${key} at the root is not what was acknowledged last`);
    }
  }

  /** With room, writes are taken again, and every node has all that was acknowledged. */
  async #comeBack(node: ClusterNode): Promise<void> {
    const startMs = performance.now();
    const isLate = (): boolean => performance.now() - startMs > RETURN_MS;
    for (;;) {
      const taken = await this.#writer.set('after', String(startMs)).then(
        () => true,
        () => false,
      );
      if (taken) break;
      if (isLate()) return this.#fail(`${node.name} takes no writes ${RETURN_MS} ms after there is room`);
      await sleep(50);
    }
    this.#wanted.set('after', Buffer.from(String(startMs)));
    for (;;) {
      const wrong = await this.#wrong();
      if (wrong === undefined) break;
      if (isLate()) return this.#fail(`${wrong} ${RETURN_MS} ms after ${node.name} has room`);
      await sleep(50);
    }
    this.longestReturnMs = Math.max(this.longestReturnMs, performance.now() - startMs);
  }

  async #wrong(): Promise<string | undefined> {
    const keys = [...this.#wanted.keys()];
    for (const [node, reader] of this.#readers) {
      const found = await reader.getBulk(keys);
      const wrong = keys.filter((key) => found.get(key)?.equals(this.#wanted.get(key) as Buffer) !== true);
      if (wrong.length > 0) return `${node.name} lacks ${wrong.length} of ${keys.length}`;
    }
    return undefined;
  }

  close(): void {
    this.#writer.close();
    for (const reader of this.#readers.values()) reader.close();
  }
}

async function run({ seconds, seed, report, signal }: TortureOptions): Promise<TortureResult> {
  const cluster = await Cluster.create();
  try {
    const config = { log: { retainBytes: '4MiB' } };
    const root = await cluster.add({ name: 'root', role: 'root', config });
    const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config });
    for (const node of [root, edge]) {
      cluster.start(node);
      await cluster.ready(node);
    }
    const filling = new Filling(root, edge, new Dice(seed), report);
    const goesOn = clock({ seconds, signal });
    let runs = 0;
    do {
      runs++;
      await filling.round();
      report.progress(`${runs} full disks, ${filling.acknowledged} writes acknowledged, ${filling.refused} refused`);
    } while (goesOn() && filling.failed === 0);
    filling.close();
    const { failed, acknowledged, refused, longestReturnMs } = filling;
    return { runs, failed, acknowledged, refused, longestReturnMs: Math.round(longestReturnMs) };
  } finally {
    await cluster.close();
  }
}

export const diskFull: Torture = {
  name: 'disk-full',
  about:
    'Root or edge without room at random: reads go on, refusals have a name, nothing acknowledged is lost, all returns.',
  run,
};
