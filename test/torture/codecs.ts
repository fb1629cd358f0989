/** Torture of the pure codecs: any bytes give an answer or a `TokaidoError`, and the same one however they are cut. */

import { ByteWriter } from '../../src/base/bytes.js';
import { TokaidoError } from '../../src/base/errors.js';
import { decodeTransactions } from '../../src/log/transaction.js';
import { ByteQueue } from '../../src/protocol/byte-queue.js';
import { HttpDecoder } from '../../src/protocol/http.js';
import { BinaryDecoder } from '../../src/protocol/kt-binary.js';
import {
  decodeFollowRequest,
  encodeFollowRequest,
  encodeTick,
  encodeUpdate,
  KT_ACCEPT,
  KtStreamDecoder,
} from '../../src/protocol/kt-replication.js';
import { MemcachedDecoder } from '../../src/protocol/memcached.js';
import { parseConditions, parseRest } from '../../src/protocol/rest.js';
import { parseRpc } from '../../src/protocol/tsv.js';
import { type Frame, FrameDecoder } from '../../src/replication/frames/frames.js';
import { Dice } from '../support/random.js';
import { frameInput, honestFrames } from './frames.js';
import { clientInput, mutated, pieces, recordedRequests } from './inputs.js';
import { memcachedInput } from './memcached-inputs.js';
import { clock, type Torture, type TortureOptions, type TortureResult } from './torture.js';

const LIMITS = { headBytes: 16 * 1024, bodyBytes: 64 * 1024 };
const BINARY_LIMITS = { records: 1000, requestBytes: 256 * 1024 };
/** Inputs between two looks at the clock. */
const SLICE = 500;
const FIRST_BINARY = 0x80;

/** What came of a piece of work: a text, also for the errors that may be. Anything else passes through. */
function outcome(work: () => string): string {
  try {
    return work();
  } catch (error) {
    if (error instanceof TokaidoError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

const show = (value: unknown): string =>
  JSON.stringify(value, (_, each) => {
    if (typeof each === 'bigint') return `${each}n`;
    return each instanceof Map ? [...each] : each;
  });

/** What a connection would make of these bytes, request by request. */
function converse(parts: readonly Buffer[]): string[] {
  const queue = new ByteQueue();
  const http = new HttpDecoder(LIMITS);
  const binary = new BinaryDecoder(BINARY_LIMITS);
  const said: string[] = [];
  const next = (): boolean => {
    const bytes = queue.view();
    if ((bytes[0] as number) >= FIRST_BINARY) {
      const parsed = binary.parse(bytes);
      if (parsed.kind === 'incomplete') return false;
      said.push(show(parsed.request));
      queue.consume(parsed.bytes);
      return true;
    }
    const parsed = http.parse(bytes);
    if (parsed.kind === 'incomplete') return false;
    if (parsed.kind === 'not-http') throw new TokaidoError('MALFORMED', 'not HTTP');
    const { request } = parsed;
    said.push(outcome(() => show(parseRpc(request) ?? [parseRest(request), parseConditions(request)])));
    queue.consume(parsed.bytes);
    return true;
  };
  const end = outcome(() => {
    for (const part of parts) {
      queue.append(part);
      while (queue.length > 0 && next()) {
        // Each round takes one request.
      }
    }
    return 'more';
  });
  return [...said, end];
}

function decodeFrames(parts: readonly Buffer[], large: boolean): string[] {
  const decoder = new FrameDecoder();
  if (large) decoder.allowLargeFrames();
  const said: string[] = [];
  const end = outcome(() => {
    for (const part of parts) for (const frame of decoder.push(part)) said.push(describe(frame));
    return 'more';
  });
  return [...said, end];
}

/** What a memcached listener would make of these bytes. */
function converseMemcached(parts: readonly Buffer[]): string[] {
  const queue = new ByteQueue();
  const decoder = new MemcachedDecoder({ valueBytes: LIMITS.bodyBytes });
  const said: string[] = [];
  for (const part of parts) {
    queue.append(part);
    while (queue.length > 0) {
      const parsed = decoder.parse(queue.view());
      if (parsed.kind === 'incomplete') break;
      queue.consume(parsed.bytes);
      if (parsed.kind === 'skipped') continue;
      said.push(show(parsed.request));
      if (parsed.request.kind === 'wrong' && parsed.request.last) return said;
    }
  }
  return said;
}

/** What a Kyoto Tycoon server says to a follower: one of each. */
function ktStream(): Buffer {
  const writer = new ByteWriter(256);
  const about = { timestampNs: 5n, sid: 1, database: 0 };
  const [key, value] = [Buffer.from('key'), Buffer.from('value')];
  encodeUpdate(writer, { ...about, change: { kind: 'set', key, value, xtMs: 5000 } });
  encodeUpdate(writer, { ...about, change: { kind: 'remove', key } });
  encodeUpdate(writer, { ...about, change: { kind: 'clear' } });
  return Buffer.concat([KT_ACCEPT, writer.take(), encodeTick(7n)]);
}

/** Both sides of Kyoto Tycoon's replication: what a follower hears, and what it asked. */
function followKt(parts: readonly Buffer[]): string[] {
  const decoder = new KtStreamDecoder(LIMITS.bodyBytes);
  const said: string[] = [];
  const end = outcome(() => {
    for (const part of parts) for (const event of decoder.push(part)) said.push(show(event));
    return 'more';
  });
  return [...said, end, outcome(() => show(decodeFollowRequest(Buffer.concat(parts))))];
}

function describe(frame: Frame): string {
  if (frame.type === 'batch') return outcome(() => show(decodeTransactions(frame.payload)));
  return show(frame);
}

async function run({ seconds, seed, report, signal }: TortureOptions): Promise<TortureResult> {
  const goesOn = clock({ seconds, signal });
  const startMs = performance.now();
  const dice = new Dice(seed);
  const recorded = recordedRequests();
  const frames = honestFrames('00'.repeat(16));
  let runs = 0;
  let failed = 0;
  const kt = [ktStream(), encodeFollowRequest({ timestampNs: 5n, sid: 1, onlySid: false })];
  const drawn = (kind: number): { input: Buffer; decode: (parts: readonly Buffer[]) => string[] } => {
    if (kind < 0.25) {
      const large = dice.chance(0.5);
      return { input: frameInput(frames, dice), decode: (parts) => decodeFrames(parts, large) };
    }
    if (kind < 0.4) return { input: memcachedInput(dice), decode: converseMemcached };
    if (kind < 0.5) return { input: mutated(kt, dice), decode: followKt };
    return { input: clientInput(recorded, dice), decode: converse };
  };
  const one = (): void => {
    const { input: made, decode } = drawn(dice.roll());
    const cut = pieces(made, dice);
    runs++;
    try {
      const [whole, inPieces] = [decode([made]), decode(cut)];
      if (whole.join('\n') === inPieces.join('\n')) return;
      failed++;
      report.failure(`another answer in pieces: ${made.toString('base64')}\n${whole.at(-1)}\n${inPieces.at(-1)}`);
    } catch (error) {
      failed++;
      report.failure(`${(error as Error).stack ?? String(error)}\ninput: ${made.toString('base64')}`);
    }
  };
  do {
    for (let left = SLICE; left > 0; left--) one();
    report.progress(`${runs} inputs, ${failed} failed`);
    await new Promise((resolve) => setImmediate(resolve));
  } while (goesOn());
  return { runs, failed, inputsPerSecond: Math.round((runs * 1000) / (performance.now() - startMs)) };
}

export const codecs: Torture = {
  name: 'codecs',
  about: 'Broken requests and frames through every codec: an answer or an error, the same however they are cut.',
  run,
};
