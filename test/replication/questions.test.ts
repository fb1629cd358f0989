/** Questions that a follower sends up a link: their bytes, and what ends with the link. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { encodeFrame, type Frame, FrameDecoder } from '../../src/replication/frames/frames.js';

const decoded = (bytes: Buffer): Frame[] => [...new FrameDecoder().push(bytes)];

describe('ask and answer', () => {
  it('have these bytes', () => {
    const ask = encodeFrame({ type: 'ask', id: 300, request: Buffer.from('who') });
    assert.equal(ask.toString('hex'), '0000000513000000f86baeb2ac0277686f');
    const answer = encodeFrame({ type: 'answer', id: 1, answer: Buffer.from('me') });
    assert.equal(answer.toString('hex'), '000000031400000013083318016d65');
  });

  it('come back as they were sent', () => {
    const frames: Frame[] = [
      { type: 'ask', id: 300, request: Buffer.from('who') },
      { type: 'answer', id: 1, answer: Buffer.alloc(0) },
    ];
    assert.deepEqual(decoded(Buffer.concat(frames.map(encodeFrame))), frames);
  });
});
