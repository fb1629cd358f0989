/** Requests of HTTP out of bytes: what one says must not depend on what came before or behind it on a connection. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { HttpDecoder, type HttpParse, renderHttp } from '../../src/protocol/http.js';

const LIMITS = { headBytes: 4096, bodyBytes: 1000 };

const decoder = (): HttpDecoder => new HttpDecoder(LIMITS);

function outcome(of: HttpDecoder, bytes: Buffer): unknown {
  try {
    const parsed: HttpParse = of.parse(bytes);
    if (parsed.kind !== 'request') return parsed;
    const { headers, ...request } = parsed.request;
    return { ...parsed, request: { ...request, headers: [...headers] } };
  } catch (error) {
    return String(error);
  }
}

const HEADERS = [
  'Host: a',
  'Host: b',
  'Connection: close',
  'Connection: keep-alive',
  'Content-Length: 0',
  'Content-Length: 3',
  'Content-Length: 2000',
  'Transfer-Encoding: chunked',
  'Expect: 100-continue',
  'X-Long: '.padEnd(1500, 'x'),
  'broken',
];

const request = fc
  .record({
    line: fc.constantFrom('GET / HTTP/1.1', 'GET /k HTTP/1.0', 'PUT /k HTTP/1.1', 'nonsense'),
    headers: fc.array(fc.constantFrom(...HEADERS), { maxLength: 4 }),
    end: fc.constantFrom('\r\n', '\n'),
    body: fc.constantFrom('', 'abc', '3\r\nabc\r\n0\r\n\r\n'),
  })
  .map(({ line, headers, end, body }) => Buffer.from([line, ...headers, '', ''].join(end) + body));

describe('requests of HTTP', () => {
  it('are understood alike whatever came before them on the connection', () => {
    fc.assert(
      fc.property(fc.array(request, { maxLength: 12 }), (requests) => {
        let used = decoder();
        for (const bytes of requests) {
          const found = outcome(used, bytes);
          assert.deepEqual(found, outcome(decoder(), bytes));
          // After bytes that make no sense, or are not all there, a connection has nothing new to say.
          if (typeof found === 'string' || (found as HttpParse).kind !== 'request') used = decoder();
        }
      }),
      { numRuns: 300 },
    );
  });

  it('in chunks are put together however they are cut', () => {
    const whole =
      'PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n4\r\ndefg\n1\nh\r\n00\r\nT: u\r\n\r\nGET';
    const end = whole.length - 'GET'.length;
    const of = decoder();
    for (let length = 1; length < end; length++) {
      assert.equal(of.parse(Buffer.from(whole.slice(0, length))).kind, 'incomplete', String(length));
    }
    const parsed = of.parse(Buffer.from(whole)) as { request: { body: Buffer }; bytes: number };
    assert.equal(parsed.request.body.toString(), 'abcdefgh');
    assert.equal(parsed.bytes, end);
  });

  it('in chunks of one byte keep bytes, not chunks', () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const chunks = 400_000;
    const of = new HttpDecoder({ headBytes: 4096, bodyBytes: chunks + 1 });
    const bytes = Buffer.from(`PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(chunks)}`);
    collect();
    const before = process.memoryUsage().heapUsed;
    assert.equal(of.parse(bytes).kind, 'incomplete');
    collect();
    const kept = process.memoryUsage().heapUsed - before;
    const parsed = of.parse(Buffer.concat([bytes, Buffer.from('0\r\n\r\n')]));
    assert.equal((parsed as { request: { body: Buffer } }).request.body.length, chunks);
    assert.ok(kept < 4_000_000, `${kept} bytes for ${chunks} chunks`);
  });

  it('in chunks say no more beside them than fits 16 KiB', () => {
    const head = 'PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n';
    const extension = `1;${'e'.repeat(1000)}\r\nx\r\n`;
    const trailer = `T: ${'t'.repeat(1000)}\r\n`;
    const beside = /too much is said beside the chunks/;
    assert.equal(decoder().parse(Buffer.from(head + extension.repeat(16))).kind, 'incomplete');
    assert.throws(() => decoder().parse(Buffer.from(head + extension.repeat(17))), beside);
    assert.throws(() => decoder().parse(Buffer.from(`${head}0\r\n${trailer.repeat(17)}`)), beside);
    assert.throws(() => decoder().parse(Buffer.from(head + `1${' '.repeat(1000)}\r\nx\r\n`.repeat(17))), beside);
  });

  it('end where they end, with either kind of line end, whatever comes behind', () => {
    for (const [head, behind] of [
      ['GET /a HTTP/1.1\r\nHost: x\r\n\r\n', 'GET /b HTTP/1.1\n\n'],
      ['GET /a HTTP/1.1\nHost: x\n\n', 'GET /b HTTP/1.1\r\n\r\n'],
      ['GET /a HTTP/1.1\r\n\r\n', '\n\n'],
    ] as const) {
      const parsed = decoder().parse(Buffer.from(head + behind));
      assert.ok(parsed.kind === 'request');
      assert.deepEqual([parsed.request.target, parsed.bytes], ['/a', head.length]);
    }
  });

  it('are answered in one piece when the body is small, and without a copy of it when it is large', () => {
    const [whole, ...none] = renderHttp({ status: 200, body: Buffer.from('value') }, 'now', true);
    assert.deepEqual(none, []);
    assert.equal(String(whole), 'HTTP/1.1 200 OK\r\nServer: Tokaido\r\nDate: now\r\nContent-Length: 5\r\n\r\nvalue');
    const large = Buffer.alloc(100_000);
    assert.equal(renderHttp({ status: 200, body: large }, 'now', true)[1], large);
  });
});
