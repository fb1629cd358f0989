/** Torture of the pure codecs: any bytes give an answer or a `TokaidoError`, and the same one however they are cut. */
import { TokaidoError } from '../../src/base/errors.js';
import { decodeTransactions } from '../../src/log/transaction.js';
import { ByteQueue } from '../../src/protocol/byte-queue.js';
import { HttpDecoder } from '../../src/protocol/http.js';
import { BinaryDecoder } from '../../src/protocol/kt-binary.js';
import { parseConditions, parseRest } from '../../src/protocol/rest.js';
import { parseRpc } from '../../src/protocol/tsv.js';
import { type Frame, FrameDecoder } from '../../src/replication/frames.js';
import { Dice } from '../support/random.js';
import { frameInput, honestFrames } from './frames.js';
import { clientInput, pieces, recordedRequests } from './inputs.js';
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
  const one = (): void => {
    const isFrame = dice.chance(0.3);
    const made = isFrame ? frameInput(frames, dice) : clientInput(recorded, dice);
    const large = dice.chance(0.5);
    const cut = pieces(made, dice);
    runs++;
    try {
      const [whole, inPieces] = isFrame
        ? [decodeFrames([made], large), decodeFrames(cut, large)]
        : [converse([made]), converse(cut)];
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
