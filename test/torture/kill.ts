/**
 * Torture of real processes by kill -9: a root fed from Postgres and written to by clients, relays and edges, all under
 * load and each restarted as a supervisor would. In the end every edge equals Postgres, no acknowledged write is lost
 * anywhere, all nodes are at one position, and no restart ever took a node back behind what it had shown.
 */
import type pg from 'pg';
import { expected, verifyEdge } from '../../demo/verify.js';
import { type Change, DATABASES, SCHEMA, TABLES, Workload } from '../../demo/workload.js';
import type { NodeStatus } from '../../src/node/status/status.js';
import { BadNetwork, FAIR } from '../support/bad-network.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { TestPostgres } from '../support/postgres.js';
import { Dice } from '../support/random.js';
import { brokenClaims, HistoryWriter } from './history.js';
import { clock, type Report, type Torture, type TortureOptions, type TortureResult } from './torture.js';

/** Written by clients; the others are Postgres's. */
const DIRECT = 'direct';
const DIRECT_NUMBER = DATABASES.length;
const ROW_CHANGES_PER_SECOND = 200;
const SQL_WRITERS = 3;
const CLIENT_WRITERS = 3;
/** Share of the kills that come before the node is back from the one before. */
const HASTY = 0.2;
const LONGEST_LIFE_MS = 1_500;
const READY_MS = 60_000;
const SETTLE_MS = 60_000;
/** Many processes on few cores: each makes do with little compiling. */
const NODE_FLAGS = ['--no-opt', '--single-threaded-gc'];

interface Shape {
  readonly relays: number;
  readonly edges: number;
  /** Every link goes through a network that delays, throttles and cuts. */
  readonly hasBadNetwork?: boolean;
  /** Whom the next kill is for. */
  victim(nodes: readonly ClusterNode[], dice: Dice): ClusterNode;
}

type Position = NodeStatus['position'];

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

const show = (position: Position): string =>
  position.map(({ sid, epoch, sequence }) => `${sid}:${epoch}:${sequence}`).join(' ');

/** Whether nothing that `before` has is missing in `after`. */
function covers(after: Position, before: Position): boolean {
  return before.every(({ sid, epoch, sequence }) => {
    const now = after.find((origin) => origin.sid === sid);
    return now !== undefined && (now.epoch > epoch || (now.epoch === epoch && now.sequence >= sequence));
  });
}

class Killing {
  readonly #shape: Shape;
  readonly #dice: Dice;
  readonly #report: Report;
  #postgres: TestPostgres | undefined;
  #cluster: Cluster | undefined;
  #nodes: readonly ClusterNode[] = [];
  #sql: pg.Client[] = [];
  readonly #everUsed: readonly Set<string>[] = [new Set(), new Set()];
  #workload: Workload | undefined;
  #writers: HistoryWriter[] = [];
  #networks: BadNetwork[] = [];
  storms = 0;
  kills = 0;
  hasty = 0;
  wentBack = 0;
  longestReturnMs = 0;

  constructor(shape: Shape, dice: Dice, report: Report) {
    this.#shape = shape;
    this.#dice = dice;
    this.#report = report;
  }

  async setUp(): Promise<void> {
    this.#postgres = await TestPostgres.start();
    const first = await this.#postgres.connect();
    this.#sql.push(first);
    await first.query(SCHEMA);
    const cluster = await Cluster.create({ nodeFlags: NODE_FLAGS });
    this.#cluster = cluster;
    const config = {
      databases: [...DATABASES, DIRECT],
      replication: { heartbeatMs: 200, reconnectMinMs: 50, reconnectMaxMs: 500 },
    };
    const root = await cluster.add({
      name: 'root',
      role: 'root',
      config: { ...config, postgres: { connection: this.#postgres.url, tables: TABLES } },
    });
    const relays: ClusterNode[] = [];
    for (let i = 1; i <= this.#shape.relays; i++) {
      const upstreams = [await this.#reachable(root)];
      relays.push(await cluster.add({ name: `relay-${i}`, role: 'relay', upstreams, config }));
    }
    const edges: ClusterNode[] = [];
    for (let i = 1; i <= this.#shape.edges; i++) {
      const order = relays.map((_, at) => relays[(at + i) % relays.length] as ClusterNode);
      const upstreams = await Promise.all(order.map(async (relay) => await this.#reachable(relay)));
      edges.push(await cluster.add({ name: `edge-${i}`, role: 'edge', upstreams, niceness: 5, config }));
    }
    this.#nodes = [root, ...relays, ...edges];
    for (const node of this.#nodes) {
      cluster.start(node, { supervised: true });
      await cluster.ready(node, READY_MS);
    }
    const clients: pg.Client[] = [];
    for (let i = 0; i < SQL_WRITERS; i++) clients.push(await this.#postgres.connect());
    this.#sql.push(...clients);
    const onCommit = (changes: readonly Change[]): void => {
      for (const { database, key } of changes) this.#everUsed[database]?.add(key);
    };
    this.#workload = new Workload(clients, ROW_CHANGES_PER_SECOND, this.#dice.below(2 ** 32), onCommit);
    this.#workload.start();
    this.#writers = Array.from({ length: CLIENT_WRITERS }, (_, i) => {
      return new HistoryWriter(`writer${i}`, root.clientPort, DIRECT, this.#dice.fork());
    });
    for (const writer of this.#writers) writer.start();
  }

  /** The node as its followers reach it: each by a way of its own. */
  async #reachable(node: ClusterNode): Promise<ClusterNode> {
    if (this.#shape.hasBadNetwork !== true) return node;
    const network = await BadNetwork.before(node.replicationPort);
    this.#networks.push(network);
    return { ...node, replicationPort: network.port };
  }

  /** The weather of some ways changes; one may be broken. */
  #changeWeather(): void {
    for (const network of this.#networks) {
      if (!this.#dice.chance(0.3)) continue;
      this.storms++;
      const roll = this.#dice.roll();
      if (roll < 0.3) network.weather = FAIR;
      else if (roll < 0.55) network.weather = { delayMs: this.#dice.between(5, 300) };
      else if (roll < 0.75) network.weather = { delayMs: 0, bytesPerSecond: this.#dice.between(2_000, 50_000) };
      else if (roll < 0.9) network.weather = { delayMs: 0, isCut: true };
      else network.reset();
    }
  }

  get acknowledged(): number {
    return this.#writers.reduce((sum, writer) => sum + writer.acknowledged, 0);
  }

  async kill(): Promise<void> {
    const cluster = this.#cluster as Cluster;
    await sleep(this.#dice.roll() * LONGEST_LIFE_MS);
    this.#changeWeather();
    const node = this.#shape.victim(this.#nodes, this.#dice);
    const before = await cluster.status(node).then(
      ({ position }) => position,
      () => [],
    );
    const startMs = performance.now();
    await cluster.kill(node);
    this.kills++;
    if (this.#dice.chance(HASTY)) {
      this.hasty++;
      return;
    }
    await cluster.ready(node, READY_MS);
    this.longestReturnMs = Math.max(this.longestReturnMs, performance.now() - startMs);
    const { position: after } = await cluster.status(node);
    if (covers(after, before)) return;
    this.wentBack++;
    this.#report.failure(`${node.name} went back from ${show(before)} to ${show(after)} in kill ${this.kills}`);
  }

  /** Ends the load, waits until all is one, and compares everything with everything. */
  async verdict(): Promise<{ missing: number; wrong: number; lost: number; apart: number; compared: number }> {
    const cluster = this.#cluster as Cluster;
    await this.#workload?.stop();
    const histories = await Promise.all(this.#writers.map(async (writer) => await writer.stop()));
    const claims = new Map(histories.flatMap((history) => [...history]));
    for (const network of this.#networks) network.weather = FAIR;
    for (const node of this.#nodes) await cluster.ready(node, READY_MS);
    await this.#feedDrained();
    const apart = await this.#apart();
    const wanted = await expected(this.#sql[0] as pg.Client);
    const total = { missing: 0, wrong: 0, lost: 0, apart, compared: claims.size * this.#nodes.length };
    for (const node of this.#nodes) {
      const { missing, wrong, compared } = await verifyEdge(node.clientPort, wanted, this.#everUsed);
      total.missing += missing;
      total.wrong += wrong;
      total.compared += compared;
      const broken = await brokenClaims(node.clientPort, DIRECT_NUMBER, claims);
      total.lost += broken.length;
      if (missing + wrong + broken.length === 0) continue;
      const some = broken.slice(0, 5).join(', ');
      this.#report.failure(
        `${node.name}: ${missing} missing, ${wrong} wrong, ${broken.length} acknowledged writes lost: ${some}`,
      );
    }
    return total;
  }

  /** Waits until Postgres has nothing that the root has not confirmed. */
  async #feedDrained(): Promise<void> {
    const [sql] = this.#sql as [pg.Client];
    const { rows } = await sql.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
    const last = rows[0]?.lsn;
    const startMs = performance.now();
    while (performance.now() - startMs < SETTLE_MS) {
      const { rows: slots } = await sql.query<{ done: boolean }>(
        'SELECT bool_and(confirmed_flush_lsn >= $1::pg_lsn) AS done FROM pg_replication_slots WHERE NOT temporary',
        [last],
      );
      if (slots[0]?.done === true) return;
      await sleep(100);
    }
    this.#report.failure('the feed did not reach the end of what Postgres committed');
  }

  /** How many nodes do not come to the root's position. */
  async #apart(): Promise<number> {
    const cluster = this.#cluster as Cluster;
    const startMs = performance.now();
    for (;;) {
      const statuses = await Promise.all(
        this.#nodes.map(async (node) => await cluster.status(node).catch(() => undefined)),
      );
      const [root, ...others] = statuses.map((status) => (status === undefined ? '?' : show(status.position)));
      const apart = others.filter((position) => position !== root || root === '?').length;
      if (apart === 0) return 0;
      if (performance.now() - startMs > SETTLE_MS) {
        this.#report.failure(`positions differ: root ${root}, others ${others.join(', ')}`);
        return apart;
      }
      await sleep(100);
    }
  }

  figures(): Record<string, unknown> {
    return {
      hasty: this.hasty,
      storms: this.storms,
      nodes: this.#nodes.length,
      rowChanges: this.#workload?.rowChanges ?? 0,
      acknowledged: this.acknowledged,
      unanswered: this.#writers.reduce((sum, writer) => sum + writer.unanswered, 0),
      longestReturnMs: Math.round(this.longestReturnMs),
      starts: this.#nodes.reduce((sum, { starts }) => sum + starts, 0),
    };
  }

  async cleanUp(): Promise<void> {
    await Promise.all(this.#writers.map(async (writer) => await writer.stop()));
    await this.#workload?.stop().catch(() => undefined);
    for (const client of this.#sql) await client.end().catch(() => undefined);
    await this.#cluster?.close();
    for (const network of this.#networks) await network.close();
    await this.#postgres?.stop();
  }
}

async function run(shape: Shape, { seconds, seed, report, signal }: TortureOptions): Promise<TortureResult> {
  const killing = new Killing(shape, new Dice(seed), report);
  try {
    await killing.setUp();
    const goesOn = clock({ seconds, signal });
    do {
      await killing.kill();
      report.progress(`${killing.kills} kills, ${killing.acknowledged} writes acknowledged`);
    } while (goesOn());
    const { missing, wrong, lost, apart, compared } = await killing.verdict();
    const { kills, wentBack } = killing;
    const failed = missing + wrong + lost + apart + wentBack;
    return { runs: kills, failed, kills, missing, wrong, lost, apart, wentBack, compared, ...killing.figures() };
  } finally {
    await killing.cleanUp();
  }
}

const ROOT_ONLY: Shape = { relays: 2, edges: 3, victim: ([root]) => root as ClusterNode };
const ANY: Shape = { relays: 2, edges: 10, victim: (nodes, dice) => dice.pick(nodes) };

export const kill: Torture = {
  name: 'kill',
  about:
    'kill -9 of the root under load from Postgres and clients: every node equals both, nothing acknowledged is lost.',
  run: async (options) => await run(ROOT_ONLY, options),
};

const BAD_NETWORK: Shape = { ...ANY, hasBadNetwork: true };

export const cluster: Torture = {
  name: 'cluster',
  about: 'as kill-any, while every link is delayed, throttled, cut and broken at random; the same must hold.',
  run: async (options) => await run(BAD_NETWORK, options),
};

export const killAny: Torture = {
  name: 'kill-any',
  about: 'kill -9 of any of a root, 2 relays and 10 edges under the same load; the same must hold.',
  run: async (options) => await run(ANY, options),
};
