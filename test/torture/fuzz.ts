/**
 * Torture of a running server: broken input on every port of a real process. Several lanes hold conversations at the same
 * time; a conversation is a row of inputs that leave the connection in order, and one at its end that need not. While
 * they go on, an honest client asks and must be answered rightly and in time; at the end the process is the same, and
 * its memory and its sockets are what they were.
 */
import type { ConnectionOptions } from 'node:tls';
import { TokaidoError } from '../../src/base/errors.js';
import { HttpDecoder } from '../../src/protocol/http.js';
import { BinaryDecoder } from '../../src/protocol/kt-binary.js';
import { encodeFollowRequest } from '../../src/protocol/kt-replication.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { openSockets, privateMb, socketsLeft } from '../support/process-facts.js';
import { Dice } from '../support/random.js';
import { clientHello, type End, peerOptions, speakAsPeer, speakPlain } from './conversations.js';
import { frameInput, honestFrames } from './frames.js';
import { HonestClient } from './honest-client.js';
import { brokenHttp, clientInput, mutated, noise, pieces, recordedRequests } from './inputs.js';
import { memcachedInput, memcachedLeavesInOrder } from './memcached-inputs.js';
import { clock, type Report, type Torture, type TortureOptions, type TortureResult } from './torture.js';

const LANES = 12;
/** Most inputs of one conversation. */
const MOST_INPUTS = 80;
const MOST_KEPT = 1000;
/** Share of the time after which memory must not grow any more. */
const WARM_UP = 0.3;
/** How much more memory there may be at the end than after warming up. */
const GROWTH_MB = 64;
/** A server that is only warming up grows to this anyway. */
const SMALL_MB = 128;
/** A runtime with room lets garbage lie: with little of it, memory that grows is memory that is held. */
const TIGHT_HEAP = ['--max-old-space-size=96', '--max-semi-space-size=8'];
const WATCH_MS = 250;
/** Sockets that were closed on both sides are gone within this. */
const SETTLE_MS = 5_000;
/** Failures that are told in full. */
const MOST_TOLD = 10;

const PORTS = [
  'clients',
  'memcached',
  'memcached-queue',
  'replication',
  'replication-tls',
  'kyoto-tycoon',
  'admin',
] as const;

/** A torture of one protocol: of many, it gets few of the inputs. */
type Only = 'memcached' | 'kyoto-tycoon';

/** What one conversation sends. */
interface Plan {
  readonly port: (typeof PORTS)[number];
  readonly parts: readonly Buffer[];
  readonly inputs: number;
}

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

/** Whether a server that understood these bytes would take another request after them on the same connection. */
function leavesInOrder(bytes: Buffer): boolean {
  const limits = { headBytes: 64 * 1024, bodyBytes: 2 ** 24 };
  let rest = bytes;
  try {
    while (rest.length > 0) {
      if ((rest[0] as number) >= 0x80) {
        const parsed = new BinaryDecoder({ records: 1_000_000, requestBytes: 2 ** 28 }).parse(rest);
        if (parsed.kind !== 'request') return false;
        rest = rest.subarray(parsed.bytes);
      } else {
        const parsed = new HttpDecoder(limits).parse(rest);
        if (parsed.kind !== 'request' || !parsed.request.keepAlive) return false;
        rest = rest.subarray(parsed.bytes);
      }
    }
    return true;
  } catch (error) {
    if (error instanceof TokaidoError) return false;
    throw error;
  }
}

/** Every place at which every recorded request can be cut, one after the other. */
class Cuts {
  readonly #requests: readonly Buffer[];
  readonly total: number;
  done = 0;
  #request = 0;
  #at = 0;

  constructor(requests: readonly Buffer[]) {
    this.#requests = requests;
    this.total = requests.reduce((sum, { length }) => sum + length - 1, 0);
  }

  next(): { readonly head: Buffer; readonly tail: Buffer } {
    const request = this.#requests[this.#request] as Buffer;
    this.#at++;
    if (this.#at >= request.length) {
      this.#at = 0;
      this.#request = (this.#request + 1) % this.#requests.length;
      return this.next();
    }
    this.done++;
    return { head: request.subarray(0, this.#at), tail: request.subarray(this.#at) };
  }
}

class Fuzzer {
  readonly #node: ClusterNode;
  readonly #dice: Dice;
  readonly #report: Report;
  readonly #recorded = recordedRequests();
  readonly #whole = this.#recorded.filter(leavesInOrder);
  readonly truncations: Cuts;
  readonly splits: Cuts;
  readonly #frames: readonly Buffer[];
  readonly #peer: ConnectionOptions;
  readonly #hello: Buffer;
  readonly #only: Only | undefined;
  /** Inputs after which a connection is of no more use, until there is one to end. */
  readonly #kept: Buffer[] = [];
  /** What each lane is sending: the suspects when the process dies. */
  readonly #underWay = new Map<number, Plan>();
  readonly inputs = Object.fromEntries(PORTS.map((port) => [port, 0])) as Record<Plan['port'], number>;
  connections = 0;
  failed = 0;

  constructor(
    node: ClusterNode,
    clusterId: string,
    peer: ConnectionOptions,
    hello: Buffer,
    dice: Dice,
    report: Report,
    only: Only | undefined,
  ) {
    this.#only = only;
    this.#node = node;
    this.#peer = peer;
    this.#hello = hello;
    this.#dice = dice;
    this.#report = report;
    this.#frames = honestFrames(clusterId);
    this.truncations = new Cuts(this.#recorded);
    this.splits = new Cuts(this.#whole);
  }

  get total(): number {
    return Object.values(this.inputs).reduce((sum, count) => sum + count, 0);
  }

  fail(text: string): void {
    this.failed++;
    if (this.failed <= MOST_TOLD) this.#report.failure(text);
  }

  /** What was being sent. */
  suspects(): string {
    return [...this.#underWay.values()]
      .map(({ port, parts }) => `${port}: ${Buffer.concat(parts).toString('base64')}`)
      .join('\n');
  }

  async lane(number: number, goesOn: () => boolean): Promise<void> {
    const dice = this.#dice.fork();
    while (goesOn() && this.#node.process !== undefined) {
      const plan = this.#plan(dice);
      this.#underWay.set(number, plan);
      try {
        const end = await this.#hold(plan);
        if (end === 'hung')
          this.fail(`${plan.port}: not closed in time\n${Buffer.concat(plan.parts).toString('base64')}`);
      } catch (error) {
        if (this.#node.process !== undefined) this.fail(`${plan.port}: ${String(error)}`);
      }
      this.inputs[plan.port] += plan.inputs;
      this.connections++;
      this.#underWay.delete(number);
    }
  }

  async #hold({ port, parts }: Plan): Promise<End> {
    const { clientPort, memcachedPorts, replicationPort, kyotoTycoonPort, adminPort } = this.#node;
    switch (port) {
      case 'clients':
        return await speakPlain(clientPort, parts);
      case 'memcached':
        return await speakPlain(memcachedPorts[0] as number, parts);
      case 'memcached-queue':
        return await speakPlain(memcachedPorts[1] as number, parts);
      case 'kyoto-tycoon':
        return await speakPlain(kyotoTycoonPort, parts);
      case 'replication':
        return await speakPlain(replicationPort, parts);
      case 'replication-tls':
        return await speakAsPeer(replicationPort, this.#peer, parts);
      case 'admin':
        return await speakPlain(adminPort, parts);
    }
  }

  #plan(dice: Dice): Plan {
    if (this.#only === 'memcached') return this.#memcachedPlan(dice);
    if (this.#only === 'kyoto-tycoon') return this.#followerPlan(dice);
    const kind = dice.roll();
    if (kind < 0.7) return this.#clientPlan(dice);
    if (kind < 0.86) return this.#memcachedPlan(dice);
    if (kind < 0.9) return this.#plainReplication(dice);
    if (kind < 0.94) return this.#peerPlan(dice);
    if (kind < 0.97) return this.#followerPlan(dice);
    const input = dice.chance(0.7) ? brokenHttp(dice) : clientInput(this.#recorded, dice);
    return { port: 'admin', parts: pieces(input, dice), inputs: 1 };
  }

  /** A row of inputs that leave the connection in order, cut here and there, and at its end one that does not. */
  #clientPlan(dice: Dice): Plan {
    const parts: Buffer[] = [];
    let together: Buffer[] = [];
    const apart = (): void => {
      parts.push(Buffer.concat(together));
      together = [];
    };
    const row = dice.below(MOST_INPUTS);
    for (let i = 0; i < row; i++) {
      if (dice.chance(0.1)) {
        const { head, tail } = this.splits.next();
        together.push(head);
        apart();
        together.push(tail);
      } else together.push(this.#orderly(dice));
    }
    apart();
    const isCut = dice.chance(0.5);
    const last = isCut ? this.truncations.next().head : this.#disorderly(dice);
    const end = isCut ? [last] : pieces(last, dice);
    return { port: 'clients', parts: [...parts, ...end].filter(({ length }) => length > 0), inputs: row + 1 };
  }

  /** Likewise. One in four is to the listener of queues, where a get takes what another one put there. */
  #memcachedPlan(dice: Dice): Plan {
    const parts: Buffer[] = [];
    const row = dice.below(MOST_INPUTS);
    while (parts.length < row) {
      const input = memcachedInput(dice);
      if (memcachedLeavesInOrder(input)) parts.push(input);
    }
    const together = dice.chance(0.5) ? [Buffer.concat(parts)] : parts;
    const port = dice.chance(0.25) ? 'memcached-queue' : 'memcached';
    const all = [...together, ...pieces(memcachedInput(dice), dice)].filter(({ length }) => length > 0);
    return { port, parts: all, inputs: row + 1 };
  }

  /**
   * What a Kyoto Tycoon server would ask for, true or broken, and what it would say to what it gets: a byte for each
   * message or tick, until something else comes.
   */
  #followerPlan(dice: Dice): Plan {
    const timestampNs = dice.chance(0.3) ? 0n : BigInt(Date.now() - dice.below(10_000)) * 1_000_000n;
    const request = encodeFollowRequest({ timestampNs, sid: dice.below(65_536), onlySid: dice.chance(0.2) });
    if (dice.chance(0.3)) return { port: 'kyoto-tycoon', parts: pieces(mutated([request], dice), dice), inputs: 1 };
    const acknowledged = dice.below(MOST_INPUTS);
    const end = dice.chance(0.7) ? noise(dice, Buffer.of(0xb1, 0xb1)) : Buffer.alloc(0);
    const all = Buffer.concat([request, Buffer.alloc(acknowledged, 0xb1), end]);
    return { port: 'kyoto-tycoon', parts: pieces(all, dice), inputs: 2 + acknowledged };
  }

  #orderly(dice: Dice): Buffer {
    for (;;) {
      const input = clientInput(this.#recorded, dice);
      if (leavesInOrder(input)) return input;
      if (this.#kept.length < MOST_KEPT) this.#kept.push(input);
    }
  }

  #disorderly(dice: Dice): Buffer {
    return this.#kept.pop() ?? clientInput(this.#recorded, dice);
  }

  #plainReplication(dice: Dice): Plan {
    const kind = dice.roll();
    const input =
      kind < 0.6
        ? mutated([this.#hello], dice)
        : kind < 0.8
          ? noise(dice, Buffer.of(0x16, 3, 1))
          : clientInput(this.#recorded, dice);
    return { port: 'replication', parts: pieces(input, dice), inputs: 1 };
  }

  /** Mostly a true greeting first: behind it is where most of the protocol is. */
  #peerPlan(dice: Dice): Plan {
    const [hello, ...others] = this.#frames as [Buffer, ...Buffer[]];
    const parts = dice.chance(0.6) ? [hello] : [];
    const count = dice.between(1, 12);
    for (let i = 0; i < count; i++) parts.push(...pieces(frameInput(dice.chance(0.3) ? [hello] : others, dice), dice));
    return { port: 'replication-tls', parts, inputs: count };
  }
}

/** Follows the process while it is tortured. */
async function watch(fuzzer: Fuzzer, node: ClusterNode, honest: HonestClient, seconds: number, goesOn: () => boolean) {
  const pid = node.process?.pid as number;
  const startMs = performance.now();
  let [warmMb, mostMb] = [0, 0];
  while (goesOn() && node.process !== undefined) {
    const problem = await honest.ask();
    if (problem !== undefined && node.process !== undefined) fuzzer.fail(`an honest client: ${problem}`);
    const mb = privateMb(pid) ?? 0;
    mostMb = Math.max(mostMb, mb);
    if (performance.now() - startMs < seconds * 1000 * WARM_UP) warmMb = mostMb;
    await sleep(WATCH_MS);
  }
  return { warmMb, mostMb };
}

function logLevels(log: string): { readonly fatal: number; readonly unexpected: number } {
  const count = (form: RegExp): number => log.match(form)?.length ?? 0;
  return { fatal: count(/"level":60/g), unexpected: count(/a request failed unexpectedly/g) };
}

async function run({ seconds, seed, report, signal }: TortureOptions, only?: Only): Promise<TortureResult> {
  const cluster = await Cluster.create({ nodeFlags: TIGHT_HEAP });
  try {
    const root = await cluster.add({
      name: 'root',
      role: 'root',
      memcached: [
        { database: 'other', flags: true },
        { database: 'other', queue: true, queueTimeoutMs: 20 },
      ],
      kyotoTycoon: true,
      config: {
        databases: ['default', '*#capcnt=5000#capsiz=8m', 'other', 'honest'],
        durability: 'committed',
        // What the fuzzer writes must not fill the disk, nor look like a leak.
        log: { retainBytes: '16MiB' },
        limits: { valueBytes: '1MiB' },
      },
    });
    const stranger = await cluster.add({ name: 'stranger', role: 'edge', upstreams: [root] });
    cluster.start(root);
    await cluster.ready(root);
    const pid = root.process?.pid as number;
    const { clusterId } = await cluster.status(root);
    const socketsBefore = openSockets(pid);
    const peer = peerOptions(stranger.folder);
    const fuzzer = new Fuzzer(root, clusterId, peer, await clientHello(peer), new Dice(seed), report, only);
    const honest = new HonestClient(root);
    const goesOn = clock({ seconds, signal });
    const startMs = performance.now();
    const progress = setInterval(() => report.progress(`${fuzzer.total} inputs, ${fuzzer.failed} failed`), WATCH_MS);
    const lanes = Array.from({ length: LANES }, async (_, number) => await fuzzer.lane(number, goesOn));
    const [{ warmMb, mostMb }] = await Promise.all([watch(fuzzer, root, honest, seconds, goesOn), ...lanes]);
    clearInterval(progress);
    const tookMs = performance.now() - startMs;
    if (root.process?.pid !== pid) fuzzer.fail(`the process ended; under way was\n${fuzzer.suspects()}`);
    const end = root.process === undefined ? undefined : await settle(pid, honest, socketsBefore);
    if (end !== undefined) {
      if (end.left.length > 0)
        fuzzer.fail(`${end.left.length} sockets were left open: ${end.left.slice(0, 10).join('; ')}`);
      if (end.mb > Math.max(warmMb, SMALL_MB) + GROWTH_MB) fuzzer.fail(`memory grew from ${warmMb} to ${end.mb} MiB`);
      if (end.problem !== undefined) fuzzer.fail(`an honest client, at the end: ${end.problem}`);
    }
    const levels = logLevels(cluster.log(root));
    if (levels.fatal + levels.unexpected > 0) fuzzer.fail(`the log has ${JSON.stringify(levels)}`);
    return {
      runs: fuzzer.total,
      failed: fuzzer.failed,
      inputsPerSecond: Math.round((fuzzer.total * 1000) / tookMs),
      connections: fuzzer.connections,
      inputs: fuzzer.inputs,
      truncations: `${fuzzer.truncations.done} of ${fuzzer.truncations.total}`,
      splits: `${fuzzer.splits.done} of ${fuzzer.splits.total}`,
      honestAnswers: honest.answers,
      slowestAnswerMs: Math.round(honest.slowestMs),
      memoryWarmMb: warmMb,
      memoryMostMb: mostMb,
      memoryEndMb: end?.mb ?? 'dead',
      socketsBefore: socketsBefore.size,
      socketsLeft: end?.left.length ?? 'dead',
    };
  } finally {
    await cluster.close();
  }
}

async function settle(pid: number, honest: HonestClient, before: ReadonlyMap<string, string>) {
  const problem = await honest.ask();
  honest.close();
  const left = await socketsLeft(pid, before, SETTLE_MS);
  return { problem, left, mb: privateMb(pid) ?? 0 };
}

export const fuzz: Torture = {
  name: 'fuzz',
  about:
    'Broken input on every port of a running server: alive, right for honest clients, memory and sockets as before.',
  run: async (options) => await run(options),
};

export const fuzzMemcached: Torture = {
  name: 'fuzz-memcached',
  about: 'The same on the memcached ports alone, with flags and with queues.',
  run: async (options) => await run(options, 'memcached'),
};

export const fuzzKyotoTycoon: Torture = {
  name: 'fuzz-kyoto-tycoon',
  about: 'The same on the port for Kyoto Tycoon followers alone.',
  run: async (options) => await run(options, 'kyoto-tycoon'),
};
