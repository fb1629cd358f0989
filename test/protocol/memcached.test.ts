/** memcached's text protocol as bytes: requests from any stream, however it is cut, and what is wrong with the rest. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoError } from '../../src/base/errors.js';
import { NEVER_EXPIRES } from '../../src/base/types.js';
import {
  MAX_LINE_BYTES,
  MAX_SKIPPED_BYTES,
  MemcachedDecoder,
  type MemcachedRequest,
} from '../../src/protocol/memcached.js';
import { renderError, secondsLeft, xtFromExptime } from '../../src/protocol/memcached-replies.js';

const VALUE_BYTES = 1000;

/** Requests of a stream that comes in these pieces, up to the one that ends the connection. */
function decode(pieces: readonly Buffer[]): MemcachedRequest[] {
  const decoder = new MemcachedDecoder({ valueBytes: VALUE_BYTES });
  const requests: MemcachedRequest[] = [];
  let waiting = Buffer.alloc(0);
  for (const piece of pieces) {
    waiting = Buffer.concat([waiting, piece]);
    while (waiting.length > 0) {
      const parsed = decoder.parse(waiting);
      if (parsed.kind === 'incomplete') break;
      assert.ok(parsed.bytes <= waiting.length);
      waiting = waiting.subarray(parsed.bytes);
      if (parsed.kind === 'skipped') continue;
      requests.push(parsed.request);
      if (parsed.request.kind === 'wrong' && parsed.request.last) return requests;
    }
  }
  return requests;
}

/** One request as short as a test can say it. */
function shown(request: MemcachedRequest): string {
  if (request.kind === 'wrong')
    return `${request.answer.toString('latin1').trim()}${request.last ? ', and the end' : ''}`;
  return JSON.stringify(request, (_, value: unknown) => {
    if (typeof value === 'bigint') return Number(value);
    const bytes = value as { type?: string; data?: number[] } | null;
    return bytes?.type === 'Buffer' ? Buffer.from(bytes.data ?? []).toString('latin1') : value;
  });
}

const all = (text: string): string[] => decode([Buffer.from(text, 'latin1')]).map(shown);
const one = (text: string): string => {
  const requests = all(`${text}version\r\n`);
  assert.equal(requests.at(-1), '{"kind":"version"}', 'the next request is understood');
  assert.equal(requests.length, 2, requests.join(' | '));
  return requests[0] as string;
};
const whole = (text: string): object => JSON.parse(one(text)) as object;

describe('memcached requests', () => {
  it('store values of any bytes', () => {
    const base = { kind: 'store', mode: 'set', key: 'k', flags: 5, exptime: -1, unique: 0, quiet: false };
    assert.deepEqual(whole('set k 5 -1 4\r\n\r\n\0\xff\r\n'), { ...base, value: '\r\n\0\xff' });
    assert.deepEqual(whole('set k 5 -1 0 noreply\r\n\r\n'), { ...base, value: '', quiet: true });
    assert.deepEqual(whole('cas k 5 -1 1 18 noreply\r\nx\r\n'), {
      ...base,
      mode: 'cas',
      unique: 18,
      value: 'x',
      quiet: true,
    });
  });

  it('are lines that end with or without a return, and so are blocks of data', () => {
    assert.deepEqual(all('get a\nset k 0 0 1\nx\nget  b  c \r\n').length, 3);
    assert.deepEqual(whole('get  b  c \r\n'), { kind: 'get', keys: ['b', 'c'], withCas: false });
  });

  it('of memcached are all understood', () => {
    assert.deepEqual(whole('gets a b\r\n'), { kind: 'get', keys: ['a', 'b'], withCas: true });
    assert.deepEqual(whole('gats 3 a\r\n'), { kind: 'get-and-touch', keys: ['a'], exptime: 3, withCas: true });
    assert.deepEqual(whole('delete a 0 noreply\r\n'), { kind: 'delete', key: 'a', quiet: true });
    assert.deepEqual(whole('decr a 7\r\n'), { kind: 'count', direction: 'decr', key: 'a', by: 7, quiet: false });
    assert.deepEqual(whole('touch a 9\r\n'), { kind: 'touch', key: 'a', exptime: 9, quiet: false });
    assert.deepEqual(whole('flush_all noreply\r\n'), { kind: 'flush', delay: 0, quiet: true });
    assert.deepEqual(whole('flush_all 10\r\n'), { kind: 'flush', delay: 10, quiet: false });
    assert.deepEqual(whole('verbosity 1\r\n'), { kind: 'verbosity', quiet: false });
    assert.deepEqual(whole('stats settings\r\n'), { kind: 'stats', what: 'settings' });
    assert.deepEqual(whole('mn\r\n'), { kind: 'no-op' });
  });

  it('of the meta kind carry their flags in order, and the key that they mean', () => {
    const get = whole('mg Zm9v b t v q Oabc C7 T30\r\n');
    assert.deepEqual(get, {
      kind: 'meta',
      command: 'mg',
      key: 'foo',
      sentKey: 'Zm9v',
      flags: ['b', 't', 'v', 'q', 'Oabc', 'C7', 'T30'],
      quiet: true,
      compare: 7,
      wantsValue: true,
      touch: 30,
    });
    const set = whole('ms k 2 MA N5 F9 I\r\nhi\r\n') as { mode: string; vivify: number; clientFlags: number };
    assert.deepEqual([set.mode, set.vivify, set.clientFlags], ['append', 5, 9]);
    const count = whole('ma k M- D3 J8\r\n') as { direction: string; by: number; initial: number };
    assert.deepEqual([count.direction, count.by, count.initial], ['decr', 3, 8]);
  });

  for (const [text, answer] of [
    ['frob\r\n', 'ERROR'],
    ['\r\n', 'ERROR'],
    ['Get a\r\n', 'ERROR'],
    ['cas k 0 0 7 \r\nget a\r\n\r\n', 'CLIENT_ERROR bad command line format'],
    ['delete k 10 noreply\r\n', ''],
    ['incr k x noreply\r\n', ''],
    ['get\r\n', 'ERROR'],
    ['set a\r\n', 'CLIENT_ERROR invalid parameters'],
    ['set k x 0 3\r\nget\r\n', 'CLIENT_ERROR bad command line format'],
    ['set k 4294967296 0 1\r\nx\r\n', 'CLIENT_ERROR bad command line format'],
    ['cas k 0 0 1 x\r\nx\r\n', 'CLIENT_ERROR bad command line format'],
    ['incr k -1\r\n', 'CLIENT_ERROR invalid numeric delta argument'],
    ['incr k 18446744073709551616\r\n', 'CLIENT_ERROR invalid numeric delta argument'],
    ['touch k soon\r\n', 'CLIENT_ERROR invalid exptime argument'],
    ['delete k 5\r\n', 'CLIENT_ERROR bad command line format'],
    ['verbosity\r\n', 'ERROR'],
    ['mg\r\n', 'CLIENT_ERROR bad command line format'],
    ['mg k v v\r\n', 'CLIENT_ERROR duplicate flag'],
    ['mg k j\r\n', 'CLIENT_ERROR invalid flag'],
    ['mg k Tx\r\n', 'CLIENT_ERROR bad token in command line format'],
    ['mg !! b\r\n', 'CLIENT_ERROR error decoding key'],
    ['mg Zm9 b\r\n', 'CLIENT_ERROR error decoding key'],
    ['mg k h\r\n', 'CLIENT_ERROR hits are not kept (h)'],
    ['ms k\r\n', 'CLIENT_ERROR bad data chunk'],
    ['ms k 4 MX\r\nget \r\n', 'CLIENT_ERROR invalid mode'],
    ['ms k 4 E5\r\nget \r\n', 'CLIENT_ERROR unique ids are versions of records here and cannot be chosen (E)'],
    ['set k 0 0 3\r\nabcdef\r\n', 'CLIENT_ERROR bad data chunk'],
    [`set k 0 0 ${VALUE_BYTES + 1}\r\n${'x'.repeat(VALUE_BYTES + 1)}\r\n`, 'SERVER_ERROR object too large for cache'],
  ] as const) {
    it(`${JSON.stringify(text.slice(0, 40))} is answered ${answer}, and its data is no command`, () => {
      assert.equal(one(text), answer);
    });
  }

  it('have keys of at most 250 bytes', () => {
    assert.deepEqual(whole(`get ${'k'.repeat(250)}\r\n`), { kind: 'get', keys: ['k'.repeat(250)], withCas: false });
    for (const line of ['get', 'delete', 'touch', 'mg']) {
      assert.equal(one(`${line} ${'k'.repeat(251)} 0\r\n`), 'CLIENT_ERROR bad command line format', line);
    }
    assert.equal(one(`set ${'k'.repeat(251)} 0 0 5\r\nget x\r\n`), 'CLIENT_ERROR bad command line format');
  });

  it('end the connection where nobody knows where the next one begins', () => {
    const ends = (text: string): string[] => all(`${text}\r\nversion\r\n`);
    assert.deepEqual(ends('set a 0 0 -1'), ['CLIENT_ERROR bad data chunk, and the end']);
    assert.deepEqual(ends('POST / HTTP/1.1\r\nHost: x\r\n\r\nset k 0 0 1\r\nx'), ['ERROR, and the end']);
    assert.deepEqual(ends('ms a x'), ['CLIENT_ERROR bad data chunk, and the end']);
    assert.deepEqual(ends('\x80\x00\x00\x00'), [
      'CLIENT_ERROR this port speaks the text protocol, not the binary one, and the end',
    ]);
    assert.deepEqual(ends(`set a 0 0 ${MAX_SKIPPED_BYTES + 1}`), [
      'SERVER_ERROR object too large for cache, and the end',
    ]);
    assert.deepEqual(ends(`get ${'k '.repeat(MAX_LINE_BYTES)}`), ['CLIENT_ERROR line too long, and the end']);
    const longest = `get ${'k '.repeat((MAX_LINE_BYTES - 6) / 2)}x`;
    assert.equal(longest.length, MAX_LINE_BYTES - 1);
    assert.equal(all(`${longest}\r\n`).length, 1);
  });

  it('are the same from one stream, however it is cut', () => {
    const piece = fc.oneof(
      fc.constantFrom(
        'set k 1 2 3\r\nabc\r\n',
        'set k 1 2 3\r\nabcde\r\n',
        'set k x 2 3\r\nabc\r\n',
        'set k 0 0 1002\r\n',
        'get a b\r\n',
        'ms k 3 Fx\r\nabc\r\n',
        'ms k 2 c\n12\n',
        'mg k v\r\n',
        'set a 0 0 -1\r\n',
        '\r\n',
        'quit\r\n',
        'cas k 0 0 0 1 noreply\r\n\r\n',
      ),
      fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
      fc.integer({ min: 0, max: 1100 }).map((count) => 'x'.repeat(count)),
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 12 }),
        fc.infiniteStream(fc.integer({ min: 1, max: 40 })),
        (texts, cuts) => {
          const bytes = Buffer.from(texts.join(''), 'latin1');
          const pieces: Buffer[] = [];
          for (let at = 0; at < bytes.length; ) {
            const { value } = cuts.next();
            pieces.push(bytes.subarray(at, at + value));
            at += value;
          }
          assert.deepEqual(decode(pieces).map(shown), decode([bytes]).map(shown));
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('memcached expiration times', () => {
  const nowMs = 1_700_000_000_123;

  it('count from now up to 30 days, are times since 1970 beyond, never for 0, at once below', () => {
    assert.equal(xtFromExptime(0, nowMs), NEVER_EXPIRES);
    assert.equal(xtFromExptime(1, nowMs), nowMs + 1000);
    assert.equal(xtFromExptime(2_592_000, nowMs), nowMs + 2_592_000_000);
    assert.equal(xtFromExptime(2_592_001, nowMs), 2_592_001_000);
    assert.equal(xtFromExptime(1_700_000_100, nowMs), 1_700_000_100_000);
    assert.equal(xtFromExptime(-1, nowMs), 1);
    assert.equal(xtFromExptime(999_999_999_999_999, nowMs), 2 ** 48 - 1);
  });

  it('are told in seconds that are left', () => {
    assert.equal(secondsLeft(NEVER_EXPIRES, nowMs), -1);
    assert.equal(secondsLeft(nowMs + 90_000, nowMs), 90);
    assert.equal(secondsLeft(nowMs + 1, nowMs), 1);
    assert.equal(secondsLeft(nowMs - 1, nowMs), 0);
  });
});

it('an error takes one line, whatever its message holds', () => {
  const text = renderError(new TokaidoError('STORAGE', 'a\r\nSTORED\r\nb\xfc')).toString('latin1');
  assert.equal(text, 'SERVER_ERROR a STORED b \r\n');
});
