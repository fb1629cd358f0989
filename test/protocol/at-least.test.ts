/** How a reader names the least position it must see. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { atLeastOf, formatFeedPosition, parseFeedPosition, parseWait } from '../../src/protocol/at-least.js';

const request = (target: string, headers: Record<string, string> = {}) => {
  return { target, headers: new Map(Object.entries(headers)) };
};

describe('the least position of a read', () => {
  it('comes in headers or in the query, headers first', () => {
    assert.equal(atLeastOf(request('/db/key')), undefined);
    const lsn = { feed: 'postgres', position: 0x16_b3748n };
    assert.deepEqual(atLeastOf(request('/k?at-least=0/16B3748')), { ...lsn, waitMs: 1000 });
    assert.deepEqual(atLeastOf(request('/k?a=b&at-least=0%2F16b3748&wait=2s')), { ...lsn, waitMs: 2000 });
    const headers = { 'x-tokaido-at-least': '0/16B3748', 'x-tokaido-wait': '50' };
    assert.deepEqual(atLeastOf(request('/k?at-least=9/9&wait=9s', headers)), { ...lsn, waitMs: 50 });
    assert.deepEqual(atLeastOf(request('/k?at-least=lines:77')), { feed: 'lines', position: 77n, waitMs: 1000 });
  });

  it('is refused when it is none', () => {
    for (const text of ['', '0', '0/', '/0', '0/123456789', 'x:1', 'lines:0/1', 'postgres:12', '1/2/3', '-1/2'])
      assert.throws(() => parseFeedPosition(text), /is not the position of a feed/, text);
    for (const text of ['', '-1', '1h', '1e3', 'soon']) assert.throws(() => parseWait(text), /not a time/, text);
  });

  it('waits a minute at most', () => {
    assert.deepEqual([parseWait('1.5s'), parseWait('250ms'), parseWait('99999s')], [1500, 250, 60_000]);
  });

  it('is written as it is read', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), (position) => {
        const lsn = formatFeedPosition('postgres', position);
        assert.deepEqual(parseFeedPosition(lsn), { feed: 'postgres', position });
        assert.deepEqual(parseFeedPosition(`lines:${formatFeedPosition('lines', position)}`), {
          feed: 'lines',
          position,
        });
      }),
    );
  });
});
