/** Replication frames as a peer would send them, and broken ones. */
import { crc32 } from 'node:zlib';
import { epoch, sequence, sid, versionNs } from '../../src/base/types.js';
import { encodeFrame, FRAME_HEADER_BYTES, type Frame } from '../../src/replication/frames/frames.js';
import { Scope } from '../../src/replication/scope.js';
import type { Dice } from '../support/random.js';
import { encode, set, transaction } from '../support/store-model.js';
import { mutated, noise } from './inputs.js';

/** One of each frame that a peer may send. */
export function honestFrames(clusterId: string): Buffer[] {
  const origin = { sid: sid(1), epoch: epoch(1), sequence: sequence(3), versionNs: versionNs(5n) };
  const position = [origin];
  const self = { instanceId: '0123456789abcdef0123456789abcdef', name: 'stranger' };
  const part = Scope.of([{ databases: ['default'], prefixes: [Buffer.from('k')] }]).encoded;
  const frames: Frame[] = [
    {
      type: 'hello',
      version: 1,
      clusterId,
      self,
      seeded: true,
      isLook: false,
      position,
      scopeId: Scope.WHOLE.id,
      takesHorizon: true,
      resumes: true,
      unpacks: [],
    },
    {
      type: 'welcome',
      version: 1,
      clusterId,
      path: [self],
      rootAddress: 'a:1',
      position,
      next: 'log',
      beats: [],
      scope: part,
    },
    { type: 'refuse', code: 'LOOP', message: 'a loop' },
    { type: 'batch', payload: encode([transaction(1, 1, 1, [set('key', 'value')])]) },
    {
      type: 'heartbeat',
      path: [self],
      origins: [{ ...origin, timeMs: 5, reached: [{ feed: 'postgres', position: 77n }] }],
    },
    { type: 'ack', applied: position, flushed: position },
    {
      type: 'snapshotBegin',
      position,
      lastVersionNs: versionNs(5n),
      feeds: [{ feed: 'f', position: 1n }],
      databases: [{ name: 'default', records: 1 }],
      clears: [{ database: 0, prefix: Buffer.from('p'), versionNs: versionNs(1n), sid: sid(1) }],
      horizonMs: 7,
    },
    { type: 'forgotten', forgotten: [{ sid: sid(1), versionNs: versionNs(1n) }] },
    { type: 'snapshotRecords', database: 0, rows: Buffer.from('rows') },
    { type: 'snapshotPacked', packing: 'deflate', database: 0, bytes: 4, packed: Buffer.from('rows') },
    { type: 'snapshotEnd', rows: 1 },
    { type: 'recall', after: origin },
    { type: 'recalled' },
    { type: 'ask', id: 1, request: Buffer.from('{}') },
    { type: 'answer', id: 1, answer: Buffer.from('{}') },
    { type: 'relink' },
  ];
  return frames.map(encodeFrame);
}

/** The first frame of these bytes with a length and a checksum that are true, so that its inside is looked at. */
function sealed(bytes: Buffer): Buffer {
  if (bytes.length < FRAME_HEADER_BYTES) return bytes;
  const frame = Buffer.from(bytes);
  const length = Math.min(frame.readUInt32BE(0), frame.length - FRAME_HEADER_BYTES);
  frame.writeUInt32BE(length, 0);
  frame.fill(0, 5, 8);
  frame.writeUInt32BE(crc32(frame.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + length)), 8);
  return frame;
}

/** Frames with broken insides mostly: behind a right checksum is where the decoder has to be careful. */
export function frameInput(frames: readonly Buffer[], dice: Dice): Buffer {
  if (dice.chance(0.2)) return noise(dice, Buffer.of(0, 0, 0));
  const bytes = mutated(frames, dice);
  return dice.chance(0.7) ? sealed(bytes) : bytes;
}
