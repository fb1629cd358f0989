/**
 * The main job, end to end: rows committed in Postgres become readable at thirty edges, through relays, over mutual TLS,
 * while processes die. Real Postgres, real processes, real sockets; everything it made is gone at the end.
 */
import { readFileSync } from 'node:fs';
import type pg from 'pg';
import { Cluster, type ClusterNode } from '../test/support/cluster.js';
import { TestPostgres } from '../test/support/postgres.js';
import { HELP, type Options, readOptions, UsageError } from './options.js';
import { EdgeProbe, keyOf, type Sample } from './probe.js';
import { expected, type Verdict, verifyEdge } from './verify.js';
import { BUCKETS_MS, bucketOf, CLEAR, HOME, REST_OF_LINE, REST_OF_SCREEN, render, type Site } from './view.js';
import { type Change, DATABASES, SCHEMA, TABLES, Workload } from './workload.js';

const WRITERS = 4;
/** How long everything may take to become equal after the last write. */
const SETTLE_MS = 120_000;
/** Seconds around a kill that do not count as quiet. */
const AROUND_KILL_MS = 1_000;
/** Nodes started at a time: a start costs processor time, and there are few cores. */
const STARTS_AT_A_TIME = 4;

/**
 * Thirty edges that run for half a minute would each compile the same functions with the optimiser, on threads that take
 * a third of a two-core machine from the work itself. A node alone on its machine pays that once; here the edges make do
 * with the baseline compiler and collect garbage on their own thread.
 */
const EDGE_FLAGS = ['--no-opt', '--single-threaded-gc', '--no-memory-reducer'];
/** Postgres, root and relays have machines of their own in real life; here they at least do not queue behind 30 edges. */
const EDGE_NICENESS = 5;
/** Sightings timed per second, over all edges: each costs a few questions to an edge, on the same two cores. */
const SAMPLES_PER_SECOND = 75;

/** How long a failure waits for a signal that explains it. */
const AFTER_FAILURE_MS = 300;
const DRAW_MS = 200;
const WATCH_MS = 500;
/** Marks that the rate is measured over. */
const RATE_MARKS = 6;

const round = (value: number): number => Math.round(value * 10) / 10;

function percentile(sorted: Float64Array, share: number): number {
  return sorted.length === 0 ? 0 : (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] as number);
}

/** Latencies of many samples, and their histogram. */
class Latencies {
  #values = new Float64Array(1 << 16);
  #count = 0;
  readonly histogram: number[] = BUCKETS_MS.map(() => 0);

  add(latencyMs: number): void {
    if (this.#count === this.#values.length) {
      const larger = new Float64Array(this.#count * 2);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.#count++] = latencyMs;
    const bucket = bucketOf(latencyMs);
    this.histogram[bucket] = (this.histogram[bucket] ?? 0) + 1;
  }

  get count(): number {
    return this.#count;
  }

  summary(): { p50: number; p99: number; max: number } {
    const sorted = this.#values.slice(0, this.#count).sort();
    return {
      p50: round(percentile(sorted, 0.5)),
      p99: round(percentile(sorted, 0.99)),
      max: round(percentile(sorted, 1)),
    };
  }
}

function residentMb(node: ClusterNode): number | undefined {
  try {
    const [, kb] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${node.process?.pid}/status`, 'utf8')) ?? [];
    return kb === undefined ? undefined : Math.round(Number(kb) / 1024);
  } catch {
    return undefined;
  }
}

class Demo {
  readonly #options: Options;
  readonly #live: boolean;
  readonly #all = new Latencies();
  readonly #samples: Sample[] = [];
  readonly #events: string[] = [];
  readonly #everUsed: readonly Set<string>[] = [new Set(), new Set()];
  readonly #newest = new Map<string, Change>();
  readonly #probes: EdgeProbe[] = [];
  #postgres: TestPostgres | undefined;
  #cluster: Cluster | undefined;
  #relays: ClusterNode[] = [];
  #edges: ClusterNode[] = [];
  #clients: pg.Client[] = [];
  #workload: Workload | undefined;
  /** Each edge is timed on one of so many changes, the edges in turn: timing all of them would need a third core. */
  readonly #sampled: number;
  #sites: Site[] = [];
  #view: NodeJS.Timeout | undefined;
  #watching: NodeJS.Timeout | undefined;
  #marks: { readonly ms: number; readonly changes: number }[] = [];
  #startedMs = 0;
  #disturbed: { fromMs: number; toMs: number }[] = [];
  /** Processes ended with kill -9, and data directories wiped, that came back and caught up. */
  #killed = 0;
  #rebuilt = 0;
  #ending = false;
  #finished = false;
  #settingUp: Promise<void> | undefined;

  constructor(options: Options) {
    this.#options = options;
    this.#sampled = Math.max(1, Math.round((options.edges * options.rate) / SAMPLES_PER_SECOND));
    this.#live = process.stdout.isTTY === true && !options.json;
  }

  #say(text: string): void {
    this.#events.push(`${new Date().toISOString().slice(11, 19)} ${text}`);
    if (this.#view === undefined) process.stderr.write(`${text}\n`);
  }

  async run(): Promise<number> {
    this.#settingUp = this.#setUp();
    await this.#settingUp;
    const edgeRss = this.#edges.map(residentMb).filter((mb) => mb !== undefined);
    if (this.#live) {
      process.stdout.write(CLEAR);
      this.#view = setInterval(() => this.#draw(), DRAW_MS);
      this.#watching = setInterval(() => void this.#watch(), WATCH_MS);
    }
    await this.#write();
    const unseen = await this.#settle();
    const verdict = await this.#verify();
    this.#stopDrawing();
    this.#finished = true;
    return this.#report(verdict, edgeRss, unseen);
  }

  #stopDrawing(): void {
    clearInterval(this.#view);
    clearInterval(this.#watching);
  }

  /** Stops a set-up that is under way when the demonstration was told to end. */
  #goOn(): void {
    if (this.#ending) throw new Error('interrupted');
  }

  async #setUp(): Promise<void> {
    const { edges, relays } = this.#options;
    this.#say('starting Postgres');
    this.#postgres = await TestPostgres.start();
    this.#goOn();
    const first = await this.#postgres.connect();
    this.#clients.push(first);
    await first.query(SCHEMA);
    this.#say(`making a CA and ${1 + relays + edges} certificates`);
    const cluster = await Cluster.create();
    this.#cluster = cluster;
    this.#goOn();
    const config = { databases: DATABASES };
    // Thirty-two data files on one disk: who follows can fetch its data again, so it need not flush every commit.
    const followerConfig = { ...config, store: { flush: 'at-stop' } };
    const root = await cluster.add({
      name: 'root',
      role: 'root',
      // Every commit of the root costs one in each of the other nodes, and here they all share two cores.
      config: {
        ...config,
        store: { commitIntervalMs: 20 },
        postgres: { connection: this.#postgres.url, tables: TABLES },
      },
    });
    for (let i = 1; i <= relays; i++) {
      this.#relays.push(
        await cluster.add({ name: `relay-${i}`, role: 'relay', upstreams: [root], config: followerConfig }),
      );
    }
    for (let i = 1; i <= edges; i++) {
      this.#goOn();
      const upstreams = this.#relays.map((_, at) => this.#relays[(at + i) % relays] as ClusterNode);
      this.#edges.push(
        await cluster.add({
          name: `edge-${String(i).padStart(2, '0')}`,
          role: 'edge',
          upstreams,
          nodeFlags: EDGE_FLAGS,
          niceness: EDGE_NICENESS,
          config: followerConfig,
        }),
      );
    }
    this.#say(`starting a root, ${relays} relays and ${edges} edges, each a process of its own`);
    await this.#startAll([root]);
    await this.#startAll(this.#relays);
    await this.#startAll(this.#edges);
    for (let i = 0; i < WRITERS; i++) this.#clients.push(await this.#postgres.connect());
    this.#say('all sites serve');
  }

  async #startAll(nodes: readonly ClusterNode[]): Promise<void> {
    const cluster = this.#cluster as Cluster;
    for (let at = 0; at < nodes.length; at += STARTS_AT_A_TIME) {
      this.#goOn();
      const group = nodes.slice(at, at + STARTS_AT_A_TIME);
      for (const node of group) cluster.start(node, { supervised: true });
      for (const node of group) await cluster.ready(node, 60_000);
    }
  }

  /** Writes for the time asked for, with the disasters half way. */
  async #write(): Promise<void> {
    const { rate, seconds, seed } = this.#options;
    const onSample = (sample: Sample): void => {
      this.#samples.push(sample);
      this.#all.add(sample.latencyMs);
    };
    this.#edges.forEach((edge, index) => {
      this.#probes.push(new EdgeProbe(edge.clientPort, index % this.#sampled, this.#newest, onSample));
    });
    this.#workload = new Workload(this.#clients.slice(1), rate, seed, (changes) => this.#committed(changes));
    this.#say(`writing ${rate} row changes per second for ${seconds} s, and reading at every edge`);
    this.#startedMs = performance.now();
    this.#workload.start();
    await this.#until(seconds / 2);
    await this.#disasters();
    await this.#until(seconds);
    await this.#workload.stop();
  }

  #committed(changes: readonly Change[]): void {
    for (const change of changes) {
      this.#everUsed[change.database]?.add(change.key);
      this.#newest.set(keyOf(change), change);
      for (const probe of this.#probes) if (change.version % this.#sampled === probe.turn) probe.expect(change);
    }
  }

  async #until(seconds: number): Promise<void> {
    const waitMs = this.#startedMs + seconds * 1000 - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
  }

  async #disasters(): Promise<void> {
    const cluster = this.#cluster as Cluster;
    const [edge, other] = this.#edges as [ClusterNode, ClusterNode | undefined];
    const relay = this.#relays[0] as ClusterNode;
    const fromMs = performance.now();
    this.#say(`${edge.name} and ${relay.name} are killed with kill -9`);
    await Promise.all([cluster.kill(edge), cluster.kill(relay)]);
    if (other !== undefined) {
      this.#say(`${other.name} is killed and its data directory wiped`);
      other.supervised = false;
      await cluster.kill(other);
      cluster.wipe(other);
      cluster.start(other, { supervised: true });
    }
    const hurt = [edge, relay, ...(other === undefined ? [] : [other])];
    await Promise.all(hurt.map(async (node) => await cluster.ready(node, SETTLE_MS)));
    await this.#caughtUp(hurt);
    this.#killed = hurt.length;
    this.#rebuilt = other === undefined ? 0 : 1;
    this.#say(`all are back and caught up, ${Math.round(performance.now() - fromMs)} ms after the kill`);
    this.#disturbed.push({ fromMs: fromMs - AROUND_KILL_MS, toMs: performance.now() + AROUND_KILL_MS });
  }

  /** Waits until these nodes' data is fresh again. */
  async #caughtUp(nodes: readonly ClusterNode[]): Promise<void> {
    const deadlineMs = performance.now() + SETTLE_MS;
    for (const node of nodes) {
      for (;;) {
        const status = await (this.#cluster as Cluster).status(node).catch(() => undefined);
        if (status?.upstream?.state === 'following' && status.lagMs !== null && status.lagMs < 1500) break;
        if (performance.now() > deadlineMs) throw new Error(`${node.name} did not catch up`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  /** Waits until every edge has seen every change; returns how many it did not see. */
  async #settle(): Promise<number> {
    const deadlineMs = performance.now() + SETTLE_MS;
    const unseen = (): number => this.#probes.reduce((total, { missing }) => total + missing, 0);
    while (unseen() > 0 && performance.now() < deadlineMs) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    for (const probe of this.#probes) await probe.stop();
    return unseen();
  }

  async #verify(): Promise<Verdict> {
    this.#say('comparing every record on every edge with Postgres');
    const wanted = await expected(this.#clients[0] as pg.Client);
    const total: Verdict = { missing: 0, wrong: 0, compared: 0 };
    for (const edge of this.#edges) {
      const { missing, wrong, compared } = await verifyEdge(edge.clientPort, wanted, this.#everUsed);
      total.missing += missing;
      total.wrong += wrong;
      total.compared += compared;
    }
    return total;
  }

  #isQuiet(ms: number): boolean {
    return !this.#disturbed.some(({ fromMs, toMs }) => ms >= fromMs && ms <= toMs);
  }

  #report(verdict: Verdict, edgeRss: readonly number[], unseen: number): number {
    const quiet = new Latencies();
    for (const { committedMs, latencyMs } of this.#samples) if (this.#isQuiet(committedMs)) quiet.add(latencyMs);
    const failedReads = this.#probes.flatMap(({ failedMs }) => failedMs);
    const readErrors = failedReads.filter((ms) => this.#isQuiet(ms)).length;
    const all = this.#all.summary();
    const calm = quiet.summary();
    const { edges, relays } = this.#options;
    const rss = [...edgeRss].sort((a, b) => a - b);
    const result = {
      edges,
      relays,
      rowChanges: this.#workload?.rowChanges ?? 0,
      samples: this.#all.count,
      timedOneOf: this.#sampled,
      p50Ms: all.p50,
      p99Ms: all.p99,
      maxMs: all.max,
      p50MsQuiet: calm.p50,
      p99MsQuiet: calm.p99,
      maxMsQuiet: calm.max,
      killed: this.#killed,
      rebuilt: this.#rebuilt,
      missing: verdict.missing,
      wrong: verdict.wrong,
      compared: verdict.compared,
      unseen,
      readErrors,
      readErrorsAroundKills: failedReads.length - readErrors,
      edgeRssMb: { median: rss[rss.length >> 1] ?? null, max: rss.at(-1) ?? null },
    };
    if (this.#live) this.#draw();
    const equal = verdict.missing === 0 && verdict.wrong === 0 && unseen === 0;
    if (this.#options.json) {
      process.stdout.write(`${JSON.stringify(result)}\n`);
    } else {
      process.stdout.write(
        `\n${equal ? 'EQUAL' : 'DIFFERENT'}: ${verdict.compared} records compared on ${edges} edges, ${verdict.missing} missing, ${verdict.wrong} wrong, ${unseen} changes unseen\n` +
          `${result.rowChanges} row changes; commit to readable at an edge: p50 ${all.p50} ms, p99 ${all.p99} ms, max ${all.max} ms\n` +
          `outside the seconds of the kills: p50 ${calm.p50} ms, p99 ${calm.p99} ms, max ${calm.max} ms\n` +
          `memory of an idle edge: ${result.edgeRssMb.median} MB\n`,
      );
    }
    return equal ? 0 : 1;
  }

  /** Asks every node how it is, for the view. */
  async #watch(): Promise<void> {
    const nodes = [...this.#relays, ...this.#edges];
    const now = { ms: performance.now(), changes: this.#workload?.rowChanges ?? 0 };
    this.#marks = [...this.#marks.slice(1 - RATE_MARKS), now];
    this.#sites = await Promise.all(
      nodes.map(async (node) => {
        const status = await (this.#cluster as Cluster).status(node).catch(() => undefined);
        return { name: node.name, lagMs: status?.lagMs ?? null, up: status !== undefined };
      }),
    );
  }

  #draw(): void {
    const elapsedSeconds = Math.min(this.#options.seconds, (performance.now() - this.#startedMs) / 1000);
    const { p50, p99 } = this.#all.summary();
    const lines = render(
      {
        elapsedSeconds,
        seconds: this.#options.seconds,
        rowChanges: this.#workload?.rowChanges ?? 0,
        perSecond: this.#perSecond(),
        sites: this.#sites,
        histogram: this.#all.histogram,
        p50Ms: p50,
        p99Ms: p99,
        events: this.#events,
      },
      process.stdout.columns ?? 80,
    );
    // Over the old picture, and the rest of each line away: a cleared screen would flicker.
    process.stdout.write(`${HOME}${lines.map((line) => `${line}${REST_OF_LINE}\n`).join('')}${REST_OF_SCREEN}`);
  }

  /** Row changes per second over the last few seconds. */
  #perSecond(): number {
    const [first, last] = [this.#marks[0], this.#marks.at(-1)];
    if (first === undefined || last === undefined || last.ms === first.ms) return 0;
    return ((last.changes - first.changes) * 1000) / (last.ms - first.ms);
  }

  /** Ends every process and removes every folder, whatever was under way. */
  async cleanUp(): Promise<void> {
    this.#ending = true;
    this.#stopDrawing();
    for (const probe of this.#probes) void probe.stop();
    for (const client of this.#clients) void client.end().catch(() => undefined);
    const { keep } = this.#options;
    if (!this.#finished) this.#cluster?.killAll();
    // Whatever the set-up was making must be known before it can be removed.
    await this.#settingUp?.catch(() => undefined);
    await this.#cluster?.close({ keep });
    await this.#postgres?.stop();
    if (keep && this.#cluster !== undefined)
      process.stderr.write(`kept: ${this.#cluster.folder} (configurations, logs and data of all nodes)\n`);
  }
}

async function main(): Promise<void> {
  const options = readOptions();
  if (options === undefined) {
    process.stdout.write(`${HELP}\n`);
    return;
  }
  const demo = new Demo(options);
  let ending = false;
  const end = async (code: number, error?: unknown): Promise<void> => {
    if (ending) return;
    ending = true;
    if (error !== undefined)
      process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    await demo.cleanUp().catch((reason: unknown) => process.stderr.write(`clean-up: ${String(reason)}\n`));
    process.exit(code);
  };
  // Ctrl-C reaches Postgres and the nodes as well: what they do may be heard of before the signal is.
  const fail = (error: unknown): void => void setTimeout(() => void end(1, error), AFTER_FAILURE_MS);
  process.on('SIGINT', () => void end(130));
  process.on('SIGTERM', () => void end(143));
  process.on('SIGHUP', () => void end(129));
  // Ending in the middle makes what was under way fail; anything else that fails unheard ends the demonstration.
  process.on('unhandledRejection', fail);
  process.on('uncaughtException', fail);
  await demo.run().then(async (code) => await end(code), fail);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`error: ${error.message}\n\n${HELP}\n`);
  process.exitCode = 2;
}
