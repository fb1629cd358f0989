/**
 * One new CA after the other under a cluster that is written to all the time: nodes are renewed in any order, the old CA
 * is retired, nothing restarts. No write and no link may be lost, no reader may see data older than a second, and whoever
 * kept a certificate of an old CA is refused.
 */
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { openCa } from '../../src/pki/ca/ca.js';
import { renewCertificate } from '../../src/pki/ca/renewal.js';
import { retireOld, rotateCa, statementsPath } from '../../src/pki/ca/rotation.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { Dice } from '../support/random.js';
import { honestFrames } from './frames.js';
import { clock, type Report, settles, type Torture, type TortureOptions, type TortureResult } from './torture.js';

/** Most that a reader may be behind the writer, ms. */
const STALE_MS = 1_000;
/** Longest pause between two steps of the operator. */
const PAUSE_MS = 300;
const FILES = ['node.crt', 'node.key', 'ca.crt'] as const;
/** How long the cluster is only watched before the first rotation. */
const CALM_MS = 2_000;
/** What a node logs when it has no link to its upstream any more. */
const LOST = 'no link to the upstream';
/** Why it has none when it has left the upstream for another by itself. */
const MOVED = / is better"| has newer"/;
const CLOCK_KEY = 'clock';

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

function shuffled<T>(items: readonly T[], dice: Dice): T[] {
  const left = [...items];
  return items.map(() => left.splice(dice.below(left.length), 1)[0] as T);
}

interface Shape {
  readonly relays: number;
  readonly edges: number;
}

class Rotation {
  readonly #shape: Shape;
  readonly #dice: Dice;
  readonly #report: Report;
  #cluster: Cluster | undefined;
  #nodes: readonly ClusterNode[] = [];
  #running = true;
  #load: readonly Promise<void>[] = [];
  readonly #written = new Map<string, string>();
  /** Links that were lost while the nodes started. */
  readonly #lostBefore = new Map<string, number>();
  stalestMs = 0;
  readonly lostLinks: string[] = [];
  /** Links that were there when an old CA was retired, all rotations together. */
  links = 0;
  /** Rotations whose old CA was retired in the moment after the last certificate was renewed. */
  retiredAtOnce = 0;
  /** The same before anything was rotated: what of it is the machine's. */
  calmMs = 0;
  /** The longest that the root took for one write: so much of what a reader sees is the writer's, and its disk's. */
  slowestWriteMs = 0;
  failed = 0;

  constructor(shape: Shape, dice: Dice, report: Report) {
    this.#shape = shape;
    this.#dice = dice;
    this.#report = report;
  }

  #fail(text: string): void {
    this.failed++;
    this.#report.failure(text);
  }

  get written(): number {
    return this.#written.size;
  }

  async setUp(): Promise<void> {
    const cluster = await Cluster.create({ nodeFlags: ['--no-opt', '--single-threaded-gc'] });
    this.#cluster = cluster;
    const config = { replication: { heartbeatMs: 200, reconnectMinMs: 20, reconnectMaxMs: 100 } };
    const root = await cluster.add({ name: 'root', role: 'root', config });
    const relays: ClusterNode[] = [];
    for (let i = 1; i <= this.#shape.relays; i++)
      relays.push(await cluster.add({ name: `relay-${i}`, role: 'relay', upstreams: [root], config }));
    const edges: ClusterNode[] = [];
    for (let i = 1; i <= this.#shape.edges; i++) {
      const upstreams = relays.map((_, at) => relays[(at + i) % relays.length] as ClusterNode);
      edges.push(await cluster.add({ name: `edge-${i}`, role: 'edge', upstreams, config }));
    }
    this.#nodes = [root, ...relays, ...edges];
    for (const node of this.#nodes) cluster.start(node);
    for (const node of this.#nodes) await cluster.ready(node);
    await this.#put(root, CLOCK_KEY, String(Date.now()));
    await this.#until('every edge has the clock', async () => {
      return (await Promise.all(edges.map(async (edge) => await this.#ageMs(edge)))).every((age) => age !== undefined);
    });
    for (const node of this.#nodes) this.#lostBefore.set(node.name, this.#losses(node).length);
    this.#load = [this.#write(root), ...edges.map(async (edge) => await this.#watch(edge))];
    await sleep(CALM_MS);
    this.calmMs = this.stalestMs;
    this.stalestMs = 0;
    this.slowestWriteMs = 0;
  }

  #losses(node: ClusterNode): string[] {
    const lines = (this.#cluster as Cluster).log(node).split('\n');
    return lines.filter((line) => line.includes(LOST) && !MOVED.test(line));
  }

  async #put({ clientPort }: ClusterNode, key: string, value: string): Promise<boolean> {
    const url = `http://127.0.0.1:${clientPort}/${key}`;
    const startMs = performance.now();
    const reply = await fetch(url, { method: 'PUT', body: value }).catch(() => undefined);
    this.slowestWriteMs = Math.max(this.slowestWriteMs, Math.round(performance.now() - startMs));
    return reply?.status === 201;
  }

  async #write(root: ClusterNode): Promise<void> {
    for (let i = 0; this.#running; i++) {
      if (await this.#put(root, `k${i}`, `v${i}`)) this.#written.set(`k${i}`, `v${i}`);
      await this.#put(root, CLOCK_KEY, String(Date.now()));
      await sleep(10);
    }
  }

  /** How old what the writer says last is where it is read. */
  async #ageMs({ clientPort }: ClusterNode): Promise<number | undefined> {
    const response = await fetch(`http://127.0.0.1:${clientPort}/${CLOCK_KEY}`).catch(() => undefined);
    return response?.status === 200 ? Date.now() - Number(await response.text()) : undefined;
  }

  async #watch(edge: ClusterNode): Promise<void> {
    while (this.#running) {
      this.stalestMs = Math.max(this.stalestMs, (await this.#ageMs(edge)) ?? 0);
      await sleep(25);
    }
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    await settles(what, holds, (text) => this.#fail(text));
  }

  /** A whole rotation, as an operator does it. */
  async rotate(round: number): Promise<void> {
    const cluster = this.#cluster as Cluster;
    const ca = join(cluster.folder, 'ca');
    const kept = cluster.subfolder(`kept-${round}`);
    const holder = this.#nodes.at(-1) as ClusterNode;
    for (const name of FILES) cpSync(join(holder.folder, name), join(kept, name));
    await rotateCa({ folder: ca, name: `ca-${round}`, days: 100, nowMs: Date.now() });
    // Either nobody copies what to believe, or everybody's is copied.
    const isPublished = this.#dice.chance(0.5);
    if (isPublished) await this.#publish(ca);
    const isAtOnce = this.#dice.chance(0.5);
    const order = shuffled(this.#nodes, this.#dice);
    for (const { name, folder } of order) {
      const [certificate, key, trust] = FILES.map((file) => join(folder, file)) as [string, string, string];
      await renewCertificate({ files: { certificate, key, ca: trust }, days: 20, nowMs: Date.now() }, openCa(ca));
      this.#report.progress(`rotation ${round}: ${name} renewed`);
      if (!isAtOnce || name !== order.at(-1)?.name) await sleep(this.#dice.roll() * PAUSE_MS);
    }
    if (isAtOnce) this.retiredAtOnce++;
    this.links += this.#nodes.length - 1;
    const trust = await retireOld(ca, { nowMs: Date.now(), force: false });
    if (isPublished) {
      await this.#publish(ca);
    } else {
      for (const { folder } of shuffled(this.#nodes, this.#dice)) {
        cpSync(trust, join(folder, 'ca.crt'));
        await sleep(this.#dice.roll() * PAUSE_MS);
      }
    }
    await this.#until('a certificate of the old CA opens nothing', async () => await this.#isRefused(kept));
    for (const node of this.#nodes.slice(1)) {
      await this.#until(`${node.name} follows`, async () => {
        return (await cluster.status(node)).upstream?.state === 'following';
      });
    }
  }

  async #publish(ca: string): Promise<void> {
    const [root] = this.#nodes as [ClusterNode];
    const body = readFileSync(statementsPath(ca));
    const response = await fetch(`http://127.0.0.1:${root.adminPort}/trust`, { method: 'POST', body });
    if (!response.ok) this.#fail(`the root did not take whom to believe: ${await response.text()}`);
  }

  async #isRefused(kept: string): Promise<boolean> {
    const [, relay] = this.#nodes as [ClusterNode, ClusterNode];
    const read = (name: string): Buffer => readFileSync(join(kept, name));
    const { clusterId } = openCa(join((this.#cluster as Cluster).folder, 'ca'));
    return await new Promise((resolve) => {
      const own = { cert: read('node.crt'), key: read('node.key'), rejectUnauthorized: false };
      const socket = connect({ host: '127.0.0.1', port: relay.replicationPort, ALPNProtocols: ['tokaido/1'], ...own });
      let told = 0;
      socket.setTimeout(3000, () => socket.destroy());
      socket.on('error', () => undefined);
      socket.on('secureConnect', () => socket.write(honestFrames(clusterId)[0] as Buffer));
      socket.on('data', (chunk: Buffer) => {
        told += chunk.length;
        socket.destroy();
      });
      socket.on('close', () => resolve(told === 0));
    });
  }

  async verdict(): Promise<void> {
    await this.#stopLoad();
    const cluster = this.#cluster as Cluster;
    const [root, ...followers] = this.#nodes as [ClusterNode, ...ClusterNode[]];
    const { position } = await cluster.status(root);
    for (const node of followers) {
      await this.#until(`${node.name} has everything`, async () => {
        return (await cluster.status(node)).position[0]?.sequence === position[0]?.sequence;
      });
      let lost = 0;
      for (const [key, value] of this.#written) {
        const response = await fetch(`http://127.0.0.1:${node.clientPort}/${key}`);
        if ((await response.text()) !== value) lost++;
      }
      if (lost > 0) this.#fail(`${lost} of ${this.#written.size} acknowledged writes are not at ${node.name}`);
    }
    for (const node of this.#nodes) {
      const lost = this.#losses(node).slice(this.#lostBefore.get(node.name));
      this.lostLinks.push(...lost.map((line) => `${node.name}: ${line}`));
    }
    for (const { name, starts } of this.#nodes) if (starts !== 1) this.#fail(`${name} started ${starts} times`);
  }

  async #stopLoad(): Promise<void> {
    this.#running = false;
    await Promise.all(this.#load);
  }

  async cleanUp(): Promise<void> {
    await this.#stopLoad();
    await this.#cluster?.close();
  }
}

/** `staleMs`: how far behind a reader may be; `undefined` where the machine is too busy to say, of lost links either. */
export async function rotateUnderLoad(
  shape: Shape,
  { seconds, seed, report, signal }: TortureOptions,
  staleMs: number | undefined,
): Promise<TortureResult> {
  const rotation = new Rotation(shape, new Dice(seed), report);
  let runs = 0;
  try {
    await rotation.setUp();
    const goesOn = clock({ seconds, signal });
    do await rotation.rotate(++runs);
    while (goesOn());
    await rotation.verdict();
    const { stalestMs, calmMs, slowestWriteMs, lostLinks, links, retiredAtOnce, written } = rotation;
    const isStale = staleMs !== undefined && stalestMs > staleMs;
    if (isStale) report.failure(`a reader saw data ${stalestMs} ms old, ${calmMs} ms before the rotation`);
    const isCut = staleMs !== undefined && lostLinks.length > 0;
    if (isCut) report.failure(`links were lost: ${lostLinks.join('; ')}`);
    const failed = rotation.failed + (isStale ? 1 : 0) + (isCut ? 1 : 0);
    const counts = { links, lostLinks: lostLinks.length, retiredAtOnce, acknowledged: written };
    return { runs, failed, stalestMs, calmMs, slowestWriteMs, ...counts };
  } finally {
    await rotation.cleanUp();
  }
}

export const rotate: Torture = {
  name: 'rotate',
  about: 'one new CA after the other under a root, 3 relays and 6 edges: no write lost, no reader a second behind.',
  run: async (options) => await rotateUnderLoad({ relays: 3, edges: 6 }, options, STALE_MS),
};
