/**
 * A real cluster on one machine: one CA, and each node a process of its own with its own certificate, configuration and
 * data directory. Restarts nodes that were killed, as a supervisor would, and leaves nothing behind.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setPriority, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import type { NodeStatus } from '../../src/node/status/status.js';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { freePort } from './postgres.js';

const STOP_MS = 5_000;
/** A supervisor waits a moment before it starts a process again. */
const RESTART_MS = 200;

export type NodeRole = 'root' | 'relay' | 'edge';

export interface ClusterNode {
  readonly name: string;
  readonly role: NodeRole;
  readonly folder: string;
  readonly clientPort: number;
  readonly replicationPort: number;
  readonly adminPort: number;
  readonly memcachedPorts: readonly number[];
  /** Where followers that are Kyoto Tycoon servers connect; 0 for no such listener. */
  readonly kyotoTycoonPort: number;
  readonly niceness: number;
  readonly nodeFlags: readonly string[];
  /** How often it was started. */
  starts: number;
  process: ChildProcess | undefined;
  /** Killed nodes come back by themselves while this holds. */
  supervised: boolean;
}

export interface AddNode {
  readonly name: string;
  readonly role: NodeRole;
  readonly upstreams?: readonly ClusterNode[];
  /** Of the process, 0 (normal) to 19 (whoever else wants to run goes first). */
  readonly niceness?: number;
  /** Of its Node.js; those of the cluster when absent. */
  readonly nodeFlags?: readonly string[];
  /** Settings of memcached listeners, one each. */
  readonly memcached?: readonly object[];
  /** Whether it serves followers that are Kyoto Tycoon servers, on this machine. */
  readonly kyotoTycoon?: boolean;
  /** Where followers connect; a free port when absent, no such listener when false. */
  readonly replicationPort?: number | false;
  /** More of the configuration. */
  readonly config?: Record<string, unknown>;
  readonly env?: Record<string, string>;
}

/** `dist/bundle/cli/main.js`, whatever the build folder is called. */
export function cliPath(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'bundle', 'cli', 'main.js'))) {
    if (folder === dirname(folder)) throw new Error('there is no bundle: npm run build');
    folder = dirname(folder);
  }
  return join(folder, 'bundle', 'cli', 'main.js');
}

export class Cluster {
  readonly folder: string;
  readonly nodes = new Map<string, ClusterNode>();
  readonly #env = new Map<string, Record<string, string>>();
  readonly #nodeFlags: readonly string[];
  #closing = false;

  private constructor(folder: string, nodeFlags: readonly string[]) {
    this.folder = folder;
    this.#nodeFlags = nodeFlags;
  }

  /** `nodeFlags` are given to the Node.js of every process that has none of its own; the CA was made `caAgeMs` ago. */
  static async create({
    nodeFlags = [],
    caAgeMs = 0,
  }: {
    readonly nodeFlags?: readonly string[];
    readonly caAgeMs?: number;
  } = {}): Promise<Cluster> {
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-cluster-'));
    await createCa({ folder: join(folder, 'ca'), name: 'test', days: 365, nowMs: Date.now() - caAgeMs });
    return new Cluster(folder, nodeFlags);
  }

  /** Issues a certificate and writes a configuration; starts nothing. */
  async add(options: AddNode): Promise<ClusterNode> {
    const {
      name,
      role,
      upstreams = [],
      niceness = 0,
      nodeFlags = this.#nodeFlags,
      memcached = [],
      kyotoTycoon = false,
      replicationPort: wanted = await freePort(),
      config = {},
      env = {},
    } = options;
    const folder = join(this.folder, name);
    await issueCertificate({
      ca: join(this.folder, 'ca'),
      out: folder,
      role,
      name,
      days: 30,
      dns: [],
      ip: [],
      nowMs: Date.now(),
    });
    const [clientPort, adminPort] = [await freePort(), await freePort()];
    const memcachedPorts = await Promise.all(memcached.map(freePort));
    const kyotoTycoonPort = kyotoTycoon ? await freePort() : 0;
    const node: ClusterNode = {
      name,
      role,
      folder,
      clientPort,
      replicationPort: wanted === false ? 0 : wanted,
      adminPort,
      memcachedPorts,
      kyotoTycoonPort,
      niceness,
      nodeFlags,
      starts: 0,
      process: undefined,
      supervised: false,
    };
    const settings = {
      name,
      role,
      data: 'data',
      ...(role === 'root'
        ? { sid: 1 }
        : { upstreams: upstreams.map((up) => ({ address: `127.0.0.1:${up.replicationPort}`, name: up.name })) }),
      listen: {
        clients: { port: clientPort },
        memcached: memcached.map((settings, index) => ({ ...settings, port: memcachedPorts[index] })),
        ...(role === 'edge' ? {} : { replication: wanted === false ? false : { port: wanted } }),
        ...(kyotoTycoon ? { kyotoTycoon: { port: kyotoTycoonPort, allow: ['127.0.0.1'] } } : {}),
        admin: { port: adminPort },
      },
      ...config,
      ...(role === 'edge' ? {} : { replication: { scopes: 'all', ...(config.replication as object | undefined) } }),
    };
    writeFileSync(join(folder, 'node.yaml'), stringify(settings));
    this.nodes.set(name, node);
    this.#env.set(name, env);
    return node;
  }

  start(
    node: ClusterNode,
    { supervised = false, env = {} }: { supervised?: boolean; env?: Record<string, string> } = {},
  ): void {
    if (this.#closing) return;
    node.supervised = supervised;
    node.starts++;
    const log = openSync(join(node.folder, 'node.log'), 'a');
    const child = spawn(
      process.execPath,
      [...node.nodeFlags, cliPath(), 'serve', '--config', join(node.folder, 'node.yaml')],
      {
        stdio: ['ignore', 'ignore', log],
        env: { ...process.env, ...this.#env.get(node.name), ...env },
      },
    );
    closeSync(log);
    if (node.niceness > 0 && child.pid !== undefined) setPriority(child.pid, node.niceness);
    node.process = child;
    child.on('exit', () => {
      if (node.process === child) node.process = undefined;
      if (!node.supervised || this.#closing) return;
      setTimeout(() => {
        if (node.supervised && !this.#closing && node.process === undefined) this.start(node, { supervised: true });
      }, RESTART_MS).unref();
    });
  }

  log(node: ClusterNode): string {
    const path = join(node.folder, 'node.log');
    return existsSync(path) ? readFileSync(path, 'utf8') : '';
  }

  async isReady(node: ClusterNode): Promise<boolean> {
    try {
      return (await fetch(`http://127.0.0.1:${node.adminPort}/ready`, { signal: AbortSignal.timeout(2000) })).ok;
    } catch {
      return false;
    }
  }

  /** Waits until clients can read there. Fails loudly when the process ended or the time is over. */
  async ready(node: ClusterNode, deadlineMs = 30_000): Promise<void> {
    const start = performance.now();
    while (!(await this.isReady(node))) {
      if (this.#closing) throw new Error('the cluster is closing');
      const gone = node.process === undefined && !node.supervised;
      if (gone || performance.now() - start > deadlineMs) {
        throw new Error(
          `${node.name} is not ready${gone ? ': its process ended' : ''}\n${this.log(node).slice(-3000)}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async status(node: ClusterNode): Promise<NodeStatus> {
    const response = await fetch(`http://127.0.0.1:${node.adminPort}/status`, { signal: AbortSignal.timeout(5000) });
    return (await response.json()) as NodeStatus;
  }

  /** kill -9, and waits until it is gone. A supervised node comes back by itself. */
  async kill(node: ClusterNode): Promise<void> {
    const child = node.process;
    if (child === undefined) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  wipe(node: ClusterNode): void {
    rmSync(join(node.folder, 'data'), { recursive: true, force: true });
  }

  /** SIGTERM, a bounded wait, SIGKILL. Returns whether it went in good order. */
  async stop(node: ClusterNode): Promise<boolean> {
    node.supervised = false;
    const child = node.process;
    if (child === undefined) return true;
    const gone = once(child, 'exit');
    let orderly = true;
    const timer = setTimeout(() => {
      orderly = false;
      child.kill('SIGKILL');
    }, STOP_MS);
    child.kill('SIGTERM');
    await gone;
    clearTimeout(timer);
    return orderly;
  }

  /** Ends every process at once; for exits that cannot wait. */
  killAll(): void {
    this.#closing = true;
    for (const { process: child } of this.nodes.values()) child?.kill('SIGKILL');
  }

  async close({ keep = false }: { keep?: boolean } = {}): Promise<void> {
    this.#closing = true;
    await Promise.all([...this.nodes.values()].map(async (node) => await this.stop(node)));
    if (!keep) rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }

  /** A folder of the cluster for other things. */
  subfolder(name: string): string {
    const folder = join(this.folder, name);
    mkdirSync(folder, { recursive: true });
    return folder;
  }
}
