/** Roots that exchange: what comes back to its origin, whose clock is believed, who is turned away. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { sid } from '../../src/base/types.js';
import { isOnlyOf, newsOf, whyNoExchange } from '../../src/replication/frames/exchange.js';
import { encodeFrame, FrameDecoder, type Hello } from '../../src/replication/frames/frames.js';
import { CLUSTER } from '../support/replication-pair.js';
import { encode, set, transaction } from '../support/store-model.js';

const NOW_MS = 1_700_000_000_000;
const exchange = {
  sid: sid(1),
  nowMs: () => NOW_MS,
  clockLimitMs: 5000,
  replaces: [],
  isPeer: (name: string) => name === 'root-2',
};
const peer = { name: 'root-2', role: 'root' };
const SECOND_NS = 1_000_000_000;
const NOW_NS = NOW_MS * 1_000_000;

const hello = (origin: Hello['origin']): Hello => ({
  type: 'hello',
  version: 1,
  clusterId: CLUSTER,
  self: { instanceId: '0'.repeat(32), name: 'root-2' },
  seeded: true,
  isLook: false,
  takesHorizon: true,
  resumes: true,
  unpacks: [],
  position: [],
  scopeId: '0'.repeat(64),
  ...(origin === undefined ? {} : { origin }),
});

describe('roots that exchange', () => {
  it('leave out what comes back to the root that made it', () => {
    const [own, other] = [transaction(1, 1, 10, [set('a', '1')]), transaction(2, 1, 20, [set('b', '2')])];
    assert.deepEqual(newsOf(encode([own, other]), exchange), encode([other]));
    assert.deepEqual(newsOf(encode([own]), exchange), Buffer.alloc(0));
    assert.ok(isOnlyOf(encode([own, own]), sid(1)));
    assert.ok(!isOnlyOf(encode([own, other]), sid(1)));
  });

  it('say in their HELLO which origin they are and what their clock says', () => {
    const origin = { sid: sid(2), timeMs: NOW_MS, replaces: [sid(1), sid(7)] };
    const [there] = [...new FrameDecoder().push(encodeFrame(hello(origin)))];
    assert.deepEqual((there as Hello).origin, origin);
    const [without] = [...new FrameDecoder().push(encodeFrame(hello(undefined)))];
    assert.equal((without as Hello).origin, undefined);
  });

  it('refuse each other when one of two clocks is off by more than the limit, with the figure', () => {
    const why = (timeMs: number): string | undefined =>
      whyNoExchange(hello({ sid: sid(2), timeMs, replaces: [] }), peer, exchange, 'root-1')?.message;
    assert.equal(why(NOW_MS + 5000), undefined);
    assert.equal(why(NOW_MS - 5000), undefined);
    assert.equal(
      why(NOW_MS + 7_200_000),
      'the clock of root-2 is 7200.0 s ahead of the clock of root-1, and replication.clockLimitMs allows 5.0 s: compare both with the true time',
    );
    assert.match(why(NOW_MS - 5001) ?? '', /the clock of root-2 is 5\.0 s behind the clock of root-1/);
  });

  it('take no change whose version lies beyond that limit: it would win over all that is written until then', () => {
    const at = (ns: number): Buffer => encode([transaction(2, 1, ns, [set('a', '1')])]);
    assert.deepEqual(newsOf(at(NOW_NS + 4 * SECOND_NS), exchange), at(NOW_NS + 4 * SECOND_NS));
    assert.throws(() => newsOf(at(NOW_NS + 60 * SECOND_NS), exchange), /origin 2 is 60\.0 s ahead of the clock here/);
  });

  it('need a server id each, a certificate of role root, and to be named by each other', () => {
    const why = (of: number, { name = 'root-2', role = 'root' } = {}): string | undefined =>
      whyNoExchange(hello({ sid: sid(of), timeMs: NOW_MS, replaces: [] }), { name, role }, exchange, 'root-1')?.code;
    assert.equal(why(2), undefined);
    assert.equal(why(1), 'SID');
    assert.equal(why(2, { role: 'relay' }), 'PEER');
    assert.equal(why(2, { name: 'root-3' }), 'PEER');
    assert.equal(
      whyNoExchange(hello({ sid: sid(2), timeMs: NOW_MS, replaces: [] }), peer, undefined, 'a')?.code,
      'PEER',
    );
    assert.equal(whyNoExchange(hello(undefined), peer, exchange, 'root-1')?.code, 'PEER');
    assert.equal(whyNoExchange(hello(undefined), { name: 'edge', role: 'edge' }, exchange, 'root-1'), undefined);
  });
});
