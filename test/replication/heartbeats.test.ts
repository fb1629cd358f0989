/** What travels with a beat: how far an origin's feeds were, believed only once the beat's position is applied. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { epoch, sequence, sid, versionNs } from '../../src/base/types.js';
import { encodeFrame, FRAME_HEADER_BYTES, FrameDecoder } from '../../src/replication/frames/frames.js';
import { Heartbeats } from '../../src/replication/frames/heartbeats.js';

const at = (number: number) => ({ sid: sid(1), epoch: epoch(1), sequence: sequence(number), versionNs: versionNs(9n) });
const beat = (number: number, timeMs: number, reached: bigint) => {
  return { ...at(number), timeMs, reached: [{ feed: 'postgres', position: reached }] };
};

describe('beats and feeds', () => {
  it('a beat has these bytes', () => {
    const path = [{ instanceId: '0f'.repeat(16), name: 'root' }];
    const bytes = encodeFrame({ type: 'heartbeat', path, origins: [beat(300, 5, 0x16_b3748n)] });
    assert.equal(
      bytes.toString('hex', FRAME_HEADER_BYTES),
      '01' + // nodes up to the root
        '0f'.repeat(16) +
        '04726f6f74' +
        '01' + // origins
        '010101ac020000000000000009' + // its position: count, sid, epoch, sequence, version
        '000000000005' + // its clock
        '01' + // feeds
        '08706f737467726573' +
        '00000000016b3748',
    );
    const [frame] = [...new FrameDecoder().push(bytes)];
    assert.deepEqual(frame, { type: 'heartbeat', path, origins: [beat(300, 5, 0x16_b3748n)] });
  });

  it('a feed is as far as the newest beat that this node has reached', () => {
    const beats = new Heartbeats();
    assert.equal(beats.reachedOf('postgres'), undefined);
    beats.hear(beat(5, 100, 50n), [at(4)]);
    assert.equal(beats.reachedOf('postgres'), undefined, 'its position is not applied');
    beats.hear(beat(7, 200, 70n), [at(4)]);
    beats.reach([at(6)]);
    assert.equal(beats.reachedOf('postgres'), 50n);
    beats.reach([at(7)]);
    assert.equal(beats.reachedOf('postgres'), 70n);
    beats.hear(beat(7, 300, 90n), [at(7)]);
    assert.equal(beats.reachedOf('postgres'), 90n, 'the source moved on, the data did not');
    beats.forgetReached();
    assert.equal(beats.reachedOf('postgres'), undefined);
    assert.deepEqual(beats.latest()[0]?.reached, [], 'and followers are not told any more');
  });

  it('an origin that the node above names no more counts no more: neither in the lag nor for its feed', () => {
    const beats = new Heartbeats();
    const second = { ...beat(3, 9_000, 5n), sid: sid(2) };
    const position = [at(7), { ...at(3), sid: sid(2) }];
    for (const heard of [beat(7, 1_000, 70n), second]) beats.hear(heard, position);
    assert.equal(beats.lagMs(10_000), 9_000, 'that of the origin that lags most');
    beats.keepOnly([]);
    assert.equal(beats.lagMs(10_000), 9_000, 'who knows of nobody says nothing');
    beats.keepOnly([second]);
    assert.equal(beats.lagMs(10_000), 1_000);
    assert.equal(beats.reachedOf('postgres'), 5n);
    assert.deepEqual(beats.latest(), [second], 'and followers are told of the others only');
  });
});
