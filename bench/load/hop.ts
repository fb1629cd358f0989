/**
 * One hop: writes single records to one server and asks another one, without a pause, until it answers with the new
 * value. Timed from the moment the write is sent, so commit, link and both answers are in it.
 */
import { openConnection } from './connection.js';
import { answerEnd, encodeRequest } from './exchange.js';
import type { HopJob, HopResult } from './job.js';
import { Latencies } from './latencies.js';

/** Between two writes: what an idle link is like. */
const PAUSE_MS = 5;
/** For the first record to be everywhere. */
const SETTLE_MS = 500;
const LIMIT_MS = 10_000;

export async function hop({ protocol, writePort, readPort, seconds }: HopJob): Promise<HopResult> {
  const latencies = new Latencies();
  const question = encodeRequest(`${protocol}-get`, 0, Buffer.alloc(0));
  const endMs = performance.now() + seconds * 1000;
  let failed: Error | undefined;
  let wanted = Buffer.alloc(0);
  let seen: () => void = () => undefined;
  let written: () => void = () => undefined;
  const onError = (error: Error): void => {
    failed = error;
  };
  const writer = await openConnection(writePort, answerEnd(`${protocol}-set`), () => written(), onError);
  const reader = await openConnection(
    readPort,
    answerEnd(`${protocol}-get`),
    (_, bytes) => {
      if (bytes.includes(wanted)) seen();
      else reader.write(question);
    },
    onError,
  );
  // The first one is there before the clock starts: the load asks for nothing that does not exist.
  const begun = new Promise<void>((resolve) => {
    written = resolve;
  });
  writer.write(encodeRequest(`${protocol}-set`, 0, Buffer.from('first')));
  await begun;
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  for (let i = 0; performance.now() < endMs; i++) {
    wanted = Buffer.from(`value-${String(i).padStart(8, '0')}-${String(Math.round(endMs)).padStart(12, '0')}`);
    const acknowledged = new Promise<void>((resolve) => {
      written = resolve;
    });
    const arrived = new Promise<void>((resolve, reject) => {
      seen = resolve;
      setTimeout(() => reject(failed ?? new Error('a write did not arrive')), LIMIT_MS).unref();
    });
    const sentMs = performance.now();
    writer.write(encodeRequest(`${protocol}-set`, 0, wanted));
    reader.write(question);
    await arrived;
    latencies.add(performance.now() - sentMs);
    await acknowledged;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  return { samples: latencies.count, ...latencies.summary() };
}
