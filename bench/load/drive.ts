/** Drives a server with one kind of request, as fast as it answers. */
import type { Socket } from 'node:net';
import { openConnection } from './connection.js';
import { answerEnd, BULK, encodeRequest, letters } from './exchange.js';
import type { DriveJob, DriveResult } from './job.js';
import { Latencies } from './latencies.js';

/** Different requests that the connections send in turn; made before the clock starts. */
const REQUESTS = 2048;
/** Of the time that does not count: the server compiles its hot path, caches fill. */
const WARM_UP_SHARE = 0.3;

/** Requests that are sent at once. */
interface Batch {
  readonly bytes: Buffer;
  readonly requests: number;
}

/** Requests joined by `depth`, spread over the records (or each record once, in order). */
function* batches({ exchange, depth, records, valueBytes, until }: DriveJob): Generator<Batch> {
  const value = letters(valueBytes);
  const perRequest = exchange.startsWith('bulk') ? BULK : 1;
  const places = Math.floor(records / perRequest);
  const count = until === 'all' ? places : Math.max(depth, Math.min(REQUESTS, places));
  // A stride that shares no factor with the number of places visits all of them.
  const stride = until === 'all' ? 1 : 7919;
  for (let at = 0; at < count; at += depth) {
    const joined = Array.from({ length: Math.min(depth, count - at) }, (_, i) => {
      return encodeRequest(exchange, (((at + i) * stride) % places) * perRequest, value);
    });
    yield { bytes: joined.length === 1 ? (joined[0] as Buffer) : Buffer.concat(joined), requests: joined.length };
  }
}

export async function drive(job: DriveJob): Promise<DriveResult> {
  return job.until === 'all' ? await writeAll(job) : await driveFor(job, job.until.seconds);
}

async function driveFor(job: DriveJob, seconds: number): Promise<DriveResult> {
  const prepared = [...batches(job)];
  const latencies = new Latencies();
  const perRequest = job.exchange.startsWith('bulk') ? BULK : 1;
  let turn = 0;
  let answers = 0;
  let counting = false;
  await new Promise<void>((resolve, reject) => {
    const sockets = Array.from({ length: job.connections }, async () => {
      let owed = 0;
      let sentMs = 0;
      const send = (): void => {
        const { bytes, requests } = prepared[turn++ % prepared.length] as Batch;
        owed = requests;
        sentMs = performance.now();
        socket.write(bytes);
      };
      const onAnswers = (count: number): void => {
        owed -= count;
        if (counting) answers += count;
        if (owed > 0) return;
        if (counting) latencies.add(performance.now() - sentMs);
        send();
      };
      const socket: Socket = await openConnection(job.port, answerEnd(job.exchange), onAnswers, reject);
      send();
    });
    Promise.all(sockets).catch(reject);
    const warmUpMs = seconds * 1000 * WARM_UP_SHARE;
    setTimeout(() => {
      counting = true;
      setTimeout(resolve, seconds * 1000 - warmUpMs);
    }, warmUpMs);
  });
  const counted = seconds * (1 - WARM_UP_SHARE);
  return { perSecond: (answers * perRequest) / counted, seconds: counted, ...latencies.summary() };
}

async function writeAll(job: DriveJob): Promise<DriveResult> {
  const source = batches(job);
  const perRequest = job.exchange.startsWith('bulk') ? BULK : 1;
  const wanted = Math.floor(job.records / perRequest);
  let answers = 0;
  const startMs = performance.now();
  await new Promise<void>((resolve, reject) => {
    for (let i = 0; i < job.connections; i++) {
      let owed = 0;
      let socket: Socket | undefined;
      const send = (): void => {
        const next = source.next();
        if (next.done === true) return;
        owed = next.value.requests;
        socket?.write(next.value.bytes);
      };
      const onAnswers = (count: number): void => {
        owed -= count;
        answers += count;
        if (answers >= wanted) resolve();
        else if (owed <= 0) send();
      };
      openConnection(job.port, answerEnd(job.exchange), onAnswers, reject).then((opened) => {
        socket = opened;
        send();
      }, reject);
    }
  });
  const seconds = (performance.now() - startMs) / 1000;
  return { perSecond: job.records / seconds, seconds, ...new Latencies().summary() };
}
