/**
 * Torture of a running server by clients that cost: slow ones, idle ones by the thousand, ones that announce gigabytes,
 * ones that ask for a million records, ones that never read. Each scene has bounds of its own in time and memory, and an
 * honest client must be answered rightly and in time while it plays.
 */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import type { ConnectionOptions } from 'node:tls';
import { connect as tlsConnect } from 'node:tls';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { openSockets, privateMb, socketsLeft } from '../support/process-facts.js';
import { peerOptions } from './conversations.js';
import { adminText, BOUND_MS, HonestClient } from './honest-client.js';
import { clock, type Report, type Torture, type TortureOptions, type TortureResult } from './torture.js';

/** How much of everything. */
export interface Scale {
  readonly slow: number;
  /** Of each kind: waiting for them to be ended takes as long as a handshake may. */
  readonly silent: number;
  readonly idle: number;
  readonly deaf: number;
  readonly keys: number;
}

const FULL: Scale = { slow: 1000, silent: 50, idle: 9_900, deaf: 400, keys: 1_000_000 };

const PATIENCE_MS = 2_000;
const CLIENT_MB = 512;
/** A cut comes this much after its time at the latest. */
const GRACE_MS = 3_000;
/** Where hundreds ask for megabytes at once, or one for a million records, others wait, but not longer than this. */
const CROWD_MS = 4_000;
/** All that never read are cut by then, on a machine where clients and server share two cores. */
const DEAF_MS = 20_000;
/** All that was closed at this end is closed at the other by then. */
const SETTLE_MS = 10_000;
/** Sockets that a failure names. */
const MAX_NAMED = 10;
/** As long as the TLS and admin listeners give a connection, and their own grace. */
const HANDSHAKE_MS = 15_000;
/** What a server may hold above its clients' share: heap that is not collected yet, answers being made. */
const MARGIN_MB = 320;
const CONNECTIONS_AT_A_TIME = 200;
const MB = 2 ** 20;

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

async function open(port: number): Promise<Socket> {
  const socket = createConnection({ host: '127.0.0.1', port, noDelay: true });
  socket.on('error', () => undefined);
  await Promise.race([once(socket, 'connect'), once(socket, 'close')]);
  return socket;
}

async function openMany(port: number, count: number): Promise<Socket[]> {
  const sockets: Socket[] = [];
  while (sockets.length < count) {
    const some = Math.min(CONNECTIONS_AT_A_TIME, count - sockets.length);
    sockets.push(...(await Promise.all(Array.from({ length: some }, async () => await open(port)))));
  }
  return sockets;
}

/** Waits until all are closed, and returns how many are not by then. */
async function stillOpen(sockets: readonly Socket[], withinMs: number): Promise<number> {
  const endMs = performance.now() + withinMs;
  const left = (): number => sockets.filter(({ closed }) => !closed).length;
  while (left() > 0 && performance.now() < endMs) await sleep(50);
  return left();
}

/** What comes back first, and how long it took. */
async function firstAnswer(socket: Socket, bytes: readonly Buffer[], withinMs: number): Promise<[Buffer, number]> {
  const startMs = performance.now();
  const answer = Promise.race([
    once(socket, 'data').then(([data]) => data as Buffer),
    once(socket, 'close').then(() => Buffer.alloc(0)),
    sleep(withinMs).then(() => Buffer.from('nothing')),
  ]);
  for (const part of bytes) socket.write(part);
  const data = await answer;
  return [data, performance.now() - startMs];
}

/** A request of the binary protocol for `count` keys of seven digits. */
function bulk(magic: number, count: number): Buffer {
  const isSet = magic === 0xb8;
  const head = isSet ? 18 : 6;
  const size = head + 7 + (isSet ? 1 : 0);
  const bytes = Buffer.alloc(9 + count * size);
  bytes[0] = magic;
  bytes.writeUInt32BE(count, 5);
  for (let i = 0; i < count; i++) {
    const at = 9 + i * size;
    bytes.writeUInt32BE(7, at + 2);
    if (isSet) bytes.writeUInt32BE(1, at + 6);
    bytes.write(String(i).padStart(7, '0'), at + head, 'latin1');
  }
  return bytes;
}

function rpcBulk(procedure: string, count: number): Buffer {
  const body = Array.from({ length: count }, (_, i) => `_${String(i).padStart(7, '0')}\t\n`).join('');
  return Buffer.from(
    `POST /rpc/${procedure} HTTP/1.1\r\nHost: x\r\nContent-Type: text/tab-separated-values\r\n` +
      `Content-Length: ${body.length}\r\n\r\n${body}`,
  );
}

class Scenes {
  readonly #node: ClusterNode;
  readonly #peer: ConnectionOptions;
  readonly #scale: Scale;
  readonly #report: Report;
  readonly honest: HonestClient;
  readonly figures: Record<string, number> = {};
  runs = 0;
  failed = 0;
  mostMb = 0;
  slowestMs = 0;

  constructor(node: ClusterNode, peer: ConnectionOptions, scale: Scale, report: Report) {
    this.#node = node;
    this.#peer = peer;
    this.#scale = scale;
    this.#report = report;
    this.honest = new HonestClient(node);
  }

  #fail(text: string): void {
    this.failed++;
    this.#report.failure(text);
  }

  /** The scenes in order, each with an honest client beside it. */
  async *play(): AsyncGenerator<string> {
    const scenes: Readonly<Record<string, () => Promise<void>>> = {
      'heads that drip': async () => await this.#dripping('GET / HTTP/1.1\r\nX: '),
      'bodies that drip': async () => await this.#dripping('PUT /k HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n'),
      'silent peers': async () => await this.#silent(this.#node.replicationPort, this.#scale.silent * 10),
      'silent scrapers': async () => await this.#silent(this.#node.adminPort, this.#scale.silent),
      'idle connections': async () => await this.#idle(),
      'four gigabytes': async () => await this.#gigabytes(),
      'a million keys': async () => await this.#millions(),
      'deaf readers': async () => await this.#deaf(),
    };
    for (const [name, scene] of Object.entries(scenes)) {
      yield name;
      this.runs++;
      await this.#beside(name, scene);
    }
  }

  async #beside(name: string, scene: () => Promise<void>): Promise<void> {
    let playing = true;
    const watching = (async (): Promise<void> => {
      while (playing) {
        const problem = await this.honest.ask();
        if (problem !== undefined) this.#fail(`${name}: an honest client: ${problem}`);
        this.mostMb = Math.max(this.mostMb, privateMb(this.#node.process?.pid ?? 0) ?? 0);
        await sleep(100);
      }
    })();
    if (name === 'a million keys' || name === 'deaf readers') this.honest.boundMs = CROWD_MS;
    const startMs = performance.now();
    try {
      await scene();
    } catch (error) {
      this.#fail(`${name}: ${(error as Error).stack ?? String(error)}`);
    }
    playing = false;
    await watching;
    this.honest.boundMs = BOUND_MS;
    this.figures[`${name}, s`] = Math.round((performance.now() - startMs) / 100) / 10;
    this.figures[`${name}, slowest answer ms`] = Math.round(this.honest.slowestMs);
    this.slowestMs = Math.max(this.slowestMs, this.honest.slowestMs);
    this.honest.slowestMs = 0;
    const limit = CLIENT_MB + MARGIN_MB;
    if (this.mostMb > limit) this.#fail(`${name}: ${this.mostMb} MiB of memory, more than ${limit}`);
    if (this.#node.process === undefined) throw new Error(`the process ended in: ${name}`);
  }

  async #dripping(beginning: string): Promise<void> {
    const sockets = await openMany(this.#node.clientPort, this.#scale.slow);
    for (const socket of sockets) socket.write(beginning);
    const timer = setInterval(() => {
      for (const socket of sockets) if (socket.writable) socket.write('x');
    }, 500);
    const left = await stillOpen(sockets, PATIENCE_MS + GRACE_MS);
    clearInterval(timer);
    for (const socket of sockets) socket.destroy();
    if (left > 0) this.#fail(`${left} connections that drip are open after their time`);
  }

  async #silent(port: number, count: number): Promise<void> {
    const sockets = await openMany(port, count);
    // An end that nobody reads would not be seen.
    for (const socket of sockets) socket.resume();
    const left = await stillOpen(sockets, HANDSHAKE_MS);
    for (const socket of sockets) socket.destroy();
    if (left > 0) this.#fail(`${left} silent connections to port ${port} are open after their time`);
  }

  async #idle(): Promise<void> {
    const pid = this.#node.process?.pid as number;
    const before = privateMb(pid) ?? 0;
    const sockets = await openMany(this.#node.clientPort, this.#scale.idle);
    for (const socket of sockets) socket.resume();
    await sleep(1000);
    const left = sockets.filter(({ closed }) => !closed).length;
    const grown = (privateMb(pid) ?? 0) - before;
    this.figures.idleConnections = left;
    this.figures.idleKbEach = Math.round((grown * 1024) / sockets.length);
    if (left < sockets.length) this.#fail(`only ${left} of ${sockets.length} idle connections were kept`);
    const problem = await this.honest.ask();
    if (problem !== undefined) this.#fail(`beside ${left} idle connections: ${problem}`);
    for (const socket of sockets) socket.destroy();
  }

  async #gigabytes(): Promise<void> {
    const before = privateMb(this.#node.process?.pid ?? 0) ?? 0;
    const huge = Buffer.alloc(27);
    huge[0] = 0xb8;
    huge.writeUInt32BE(1, 5);
    huge.writeUInt32BE(0xffffffff, 15);
    const many = Buffer.from([0xba, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    const announcements: readonly [string, Buffer, RegExp | Buffer][] = [
      ['a length', Buffer.from('PUT /k HTTP/1.1\r\nContent-Length: 4294967296\r\n\r\n'), /^HTTP\/1\.1 413 /],
      ['a chunk', Buffer.from('PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n'), /^HTTP\/1\.1 413 /],
      ['a value', huge, Buffer.of(0xbf)],
      ['records', many, Buffer.of(0xbf)],
    ];
    for (const [what, bytes, wanted] of announcements) {
      const socket = await open(this.#node.clientPort);
      const [answer, tookMs] = await firstAnswer(socket, [bytes], 2_000);
      socket.destroy();
      const right = wanted instanceof RegExp ? wanted.test(answer.toString('latin1')) : wanted.equals(answer);
      if (!right || tookMs > 1_000) this.#fail(`four gigabytes as ${what}: ${answer.toString('latin1')}, ${tookMs} ms`);
    }
    const link = tlsConnect({ ...this.#peer, host: '127.0.0.1', port: this.#node.replicationPort });
    link.on('error', () => undefined);
    await once(link, 'secureConnect');
    const frame = Buffer.alloc(12);
    frame.writeUInt32BE(0xffffffff, 0);
    link.write(frame);
    link.resume();
    if ((await stillOpen([link], GRACE_MS)) > 0) this.#fail('a frame of four gigabytes is waited for');
    link.destroy();
    const grown = (privateMb(this.#node.process?.pid ?? 0) ?? 0) - before;
    if (grown > 64) this.#fail(`announcing gigabytes cost ${grown} MiB`);
  }

  async #millions(): Promise<void> {
    const { keys } = this.#scale;
    const requests: readonly [string, Buffer][] = [
      ['binary set', bulk(0xb8, keys)],
      ['binary get', bulk(0xba, keys)],
      ['RPC get', rpcBulk('get_bulk', keys)],
      ['binary remove', bulk(0xb9, keys)],
      ['one key too many', bulk(0xba, 1_000_001)],
    ];
    for (const [what, bytes] of requests) {
      const socket = await open(this.#node.clientPort);
      const [answer, tookMs] = await firstAnswer(socket, [bytes], 60_000);
      socket.destroy();
      this.figures[`${what}, ms`] = Math.round(tookMs);
      // Done, or refused in the form of its protocol.
      const known =
        [0xb8, 0xb9, 0xba, 0xbf].includes(answer[0] ?? 0) || /^HTTP\/1\.1 (200|413) /.test(answer.toString('latin1'));
      if (!known) this.#fail(`${what} of ${keys} keys: ${answer.subarray(0, 100).toString('latin1')}`);
    }
  }

  async #deaf(): Promise<void> {
    const writer = await open(this.#node.clientPort);
    await firstAnswer(
      writer,
      [Buffer.from(`PUT /deaf HTTP/1.1\r\nContent-Length: ${MB}\r\n\r\n`), Buffer.alloc(MB, 'v')],
      5_000,
    );
    writer.destroy();
    const sockets = await openMany(this.#node.clientPort, this.#scale.deaf);
    const questions = Buffer.from('GET /deaf HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(1000));
    for (const socket of sockets) {
      socket.pause();
      socket.write(questions);
    }
    // Who does not read does not see that the connection has ended, but the server tells.
    const endMs = performance.now() + DEAF_MS;
    let cuts = 0;
    while (cuts < sockets.length && performance.now() < endMs) {
      await sleep(200);
      cuts = await this.#cuts();
    }
    if (cuts < sockets.length) this.#fail(`of ${sockets.length} that never read, ${cuts} were cut`);
    this.figures.deafCut = cuts;
    for (const socket of sockets) socket.destroy();
  }

  /** How many connections the server ended because they did not read, or held too much. */
  async #cuts(): Promise<number> {
    const text = await adminText(this.#node, '/metrics');
    const of = (reason: string): number => {
      return Number(new RegExp(`client_cuts_total\\{reason="${reason}"\\} (\\d+)`).exec(text)?.[1] ?? 0);
    };
    return of('slow-reader') + of('memory');
  }
}

export async function tortureClients(
  scale: Scale,
  { seconds, report, signal }: Omit<TortureOptions, 'seed'>,
): Promise<TortureResult> {
  const cluster = await Cluster.create();
  try {
    const root = await cluster.add({
      name: 'root',
      role: 'root',
      config: {
        databases: ['default', 'a', 'b', 'honest'],
        durability: 'committed',
        limits: { patienceMs: PATIENCE_MS, clientBytes: `${CLIENT_MB}MiB`, slowestBytesPerSecond: '64MiB' },
      },
    });
    const stranger = await cluster.add({ name: 'stranger', role: 'edge', upstreams: [root] });
    cluster.start(root);
    await cluster.ready(root);
    const pid = root.process?.pid as number;
    const socketsBefore = openSockets(pid);
    const memoryBeforeMb = privateMb(pid) ?? 0;
    const scenes = new Scenes(root, peerOptions(stranger.folder), scale, report);
    const goesOn = clock({ seconds, signal });
    do {
      for await (const name of scenes.play()) {
        report.progress(name);
        if (signal.aborted) break;
      }
    } while (goesOn());
    scenes.honest.close();
    const left = await socketsLeft(pid, socketsBefore, SETTLE_MS);
    if (left.length > 0) {
      scenes.failed++;
      report.failure(`${left.length} sockets were left open: ${left.slice(0, MAX_NAMED).join('; ')}`);
    }
    return {
      runs: scenes.runs,
      failed: scenes.failed,
      ...scenes.figures,
      slowestAnswerMs: Math.round(scenes.slowestMs),
      memoryBeforeMb,
      memoryMostMb: scenes.mostMb,
      memoryEndMb: privateMb(pid) ?? 0,
      socketsBefore: socketsBefore.size,
      socketsLeft: left.length,
    };
  } finally {
    await cluster.close();
  }
}

export const clients: Torture = {
  name: 'clients',
  about: 'Slow, idle, greedy and deaf clients by the thousand: bounded in time and memory, honest ones are served.',
  run: async (options) => await tortureClients(FULL, options),
};
