/** Looks through everything that followers received: what was packed is unpacked first, so that nothing hides in it. */
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeTransactions } from '../../src/log/transaction.js';
import type { Frame } from '../../src/replication/frames/frame-types.js';
import { FrameDecoder } from '../../src/replication/frames/frames.js';
import { unpacked } from '../../src/replication/frames/packing.js';

/**
 * Writes down what each TLS connection of a process decrypts, before anything of ours sees it: a file for each. Beside it,
 * the certificates that the other end showed at its handshake.
 */
const RECORDER = `
import { appendFileSync } from 'node:fs';
import { TLSSocket } from 'node:tls';
const { push, emit } = TLSSocket.prototype;
const paths = new WeakMap();
let connections = 0;
TLSSocket.prototype.push = function (chunk, ...more) {
  if (!paths.has(this)) paths.set(this, process.env.RECEIVED_INTO + '/' + process.pid + '-' + ++connections);
  if (chunk != null) appendFileSync(paths.get(this), chunk);
  return push.call(this, chunk, ...more);
};
TLSSocket.prototype.emit = function (event, ...more) {
  if (event === 'secure') {
    const shown = this.getPeerCertificate(true);
    for (let one = shown, n = 0; one?.raw !== undefined && n < 8; one = one.issuerCertificate, n++)
      appendFileSync(process.env.RECEIVED_INTO + '.shown', one.raw);
  }
  return emit.call(this, event, ...more);
};`;

/** The environment of a process that records so into a folder. */
export function recordingInto(folder: string): Record<string, string> {
  mkdirSync(folder, { recursive: true });
  const preload = `--import=data:text/javascript,${encodeURIComponent(RECORDER)}`;
  return { NODE_OPTIONS: preload, RECEIVED_INTO: folder };
}

/** Every certificate that other ends have shown so far, one behind the other, in DER. */
export function shownTo(folder: string): Buffer {
  return readFileSync(`${folder}.shown`);
}

/** What was recorded so far, one for each connection. */
export function recordingsIn(folder: string): Buffer[] {
  return existsSync(folder) ? readdirSync(folder).map((name) => readFileSync(join(folder, name))) : [];
}

/** Frames of one link, in order. */
export function framesIn(received: Buffer): Frame[] {
  const decoder = new FrameDecoder();
  decoder.allowLargeFrames();
  return [...decoder.push(received)];
}

/** The bytes, and behind them what of them was packed. */
export function withUnpacked(received: Buffer): Buffer {
  const rows = framesIn(received).flatMap((frame) => {
    return frame.type === 'snapshotPacked' ? [unpacked(frame.packing, frame.packed, frame.bytes)] : [];
  });
  return Buffer.concat([received, ...rows]);
}

/** Every database that frames name. */
export function databasesIn(frames: readonly Frame[]): Set<string> {
  return new Set(
    frames.flatMap((frame) => {
      if (frame.type === 'snapshotBegin' || frame.type === 'proof') return frame.databases.map(({ name }) => name);
      if (frame.type !== 'batch') return [];
      return decodeTransactions(frame.payload).flatMap(({ changes }) => changes.map(({ database }) => database));
    }),
  );
}
