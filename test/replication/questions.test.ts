/** Questions that a follower sends up a link: their bytes, and what ends with the link. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { encodeFrame, type Frame, FrameDecoder } from '../../src/replication/frames/frames.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { TestCluster } from '../support/replication-pair.js';

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

describe('questions to an upstream', () => {
  it('are all answered, however many come at once, and the link stays; beyond 64 they are refused', async () => {
    const cluster = new TestCluster();
    try {
      const root = cluster.root();
      let [open, most] = [0, 0];
      const ask = async (_: unknown, request: Buffer): Promise<Buffer> => {
        most = Math.max(most, ++open);
        await new Promise<void>((resolve) => localRuntime().after(1, resolve));
        open--;
        return Buffer.from(`answer to ${request}`);
      };
      cluster.serve(root, { ask });
      const relay = cluster.node('relay', cluster.openStore(undefined));
      const { session } = cluster.follow(relay, root);
      await eventually('the relay follows', () => session.state === 'following');
      const answers = Array.from({ length: 64 }, async (_, index) => await session.ask(Buffer.from(`${index}`)));
      await assert.rejects(session.ask(Buffer.from('one more')), { code: 'OVERLOADED' });
      const texts = (await Promise.all(answers)).map(String);
      assert.deepEqual(
        texts,
        Array.from({ length: 64 }, (_, index) => `answer to ${index}`),
      );
      assert.deepEqual([most, session.state, relay.ends], [4, 'following', []]);
    } finally {
      await cluster.close();
    }
  });
});
