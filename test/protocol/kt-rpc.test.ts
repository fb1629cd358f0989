/** Columns, numbers, tables and expiration times: what Kyoto Tycoon's clients write, and what they are answered. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoError } from '../../src/base/errors.js';
import { dateFromXt, secondsFromXt, xtFromDate, xtFromSeconds } from '../../src/protocol/expiry.js';
import type { HttpReply, HttpRequest } from '../../src/protocol/http.js';
import { decodeColumn, EncodingChoice, encodeColumn } from '../../src/protocol/kt-rpc/columns.js';
import { readDecimal, readInteger, writeDecimal } from '../../src/protocol/kt-rpc/numbers.js';
import { parseRpc, type Row, rpcError, rpcReply } from '../../src/protocol/tsv.js';

const anyBytes = fc.uint8Array({ maxLength: 600 }).map((array) => Buffer.from(array));

function call(target: string, contentType?: string, body: Buffer | string = ''): HttpRequest {
  const headers = new Map(contentType === undefined ? [] : [['content-type', contentType]]);
  return { method: 'POST', target, headers, body: Buffer.from(body), keepAlive: true };
}

function inputOf(request: HttpRequest): [string, string][] {
  return [...(parseRpc(request)?.input ?? [])].map(([name, value]) => [name, value.toString('latin1')]);
}

describe('columns', () => {
  for (const encoding of ['B', 'Q', 'U'] as const) {
    it(`any bytes come back from ${encoding}, through columns without tabs and line ends`, () => {
      fc.assert(
        fc.property(anyBytes, (bytes) => {
          const column = encodeColumn(encoding, bytes);
          assert.doesNotMatch(column, /[\t\r\n]/);
          assert.deepEqual(decodeColumn(encoding, column), bytes);
        }),
      );
    });

    it(`any text decodes from ${encoding}, or is refused as malformed`, () => {
      fc.assert(
        fc.property(fc.string({ unit: 'binary' }), (text) => {
          try {
            decodeColumn(encoding, text);
          } catch (error) {
            assert.equal((error as TokaidoError).code, 'MALFORMED');
          }
        }),
      );
    });
  }

  it('a stray escape stands for itself, a soft line break at the end for nothing', () => {
    assert.equal(decodeColumn('U', '100%+%4').toString(), '100% %4');
    assert.equal(decodeColumn('U', '%zz%41').toString(), '%zzA');
    assert.equal(decodeColumn('Q', 'a=zb=41=').toString(), 'a=zbA');
    assert.equal(decodeColumn('Q', 'a+b').toString(), 'a+b');
  });

  it('what Base64 cannot mean is refused', () => {
    assert.throws(() => decodeColumn('B', '!!!!'), { code: 'MALFORMED' });
    assert.throws(() => decodeColumn('B', 'YQ==YQ=='), { code: 'MALFORMED' });
  });

  it('a table is raw without control bytes and long columns, else Base64 or URL by estimated length', () => {
    const choose = (...columns: string[]): string => {
      const choice = new EncodingChoice();
      for (const column of columns) choice.add(Buffer.from(column, 'latin1'));
      return choice.encoding;
    };
    assert.equal(choose('value', 'plain text \xff'), 'raw');
    assert.equal(choose('value', 'a\tb'), 'U');
    assert.equal(choose('value', '\0\x01\x02\x03\x04\x05'), 'B');
    assert.equal(choose('value', 'x'.repeat(255)), 'raw');
    assert.equal(choose('value', 'x'.repeat(256)), 'U');
    assert.equal(choose('value', '\xff'.repeat(256)), 'B');
  });
});

describe('tables', () => {
  it('any rows come back from an answer (names are unique)', () => {
    const rows = fc.uniqueArray(fc.tuple(anyBytes, anyBytes), { selector: ([name]) => name.toString('latin1') });
    fc.assert(
      fc.property(rows, (pairs) => {
        const output = pairs.map(([name, value]): Row => [name.toString('latin1'), value]);
        const reply = rpcReply(200, output);
        const type = reply.headers?.['Content-Type'];
        const back = parseRpc(call('/rpc/echo', type, reply.body))?.input;
        assert.deepEqual(new Map(back), new Map(output));
      }),
    );
  });

  it('rows are answered in the order of their encoded names', () => {
    const body = ({ body: bytes }: HttpReply): string => (bytes ?? '').toString();
    const rows = ['b', 'a', 'ab'].map((name): Row => [name, Buffer.from('1')]);
    assert.equal(body(rpcReply(200, rows)), 'a\t1\nab\t1\nb\t1\n');
    assert.equal(body(rpcReply(200, [...rows, ['~', Buffer.from('\n')]])), 'a\t1\nab\t1\nb\t1\n~\t%0a\n');
  });

  it('a value goes on after a second tab: only the first one ends the name', () => {
    assert.deepEqual(inputOf(call('/rpc/echo', 'text/tab-separated-values', 'a\tb\tc\n')), [['a', 'b\tc']]);
  });

  it('line ends may be CRLF, the last may be missing, lines without a tab mean nothing', () => {
    const table = 'a\t1\r\n\nnothing\nb\t\nc\t3';
    assert.deepEqual(inputOf(call('/rpc/echo', 'text/tab-separated-values', table)), [
      ['a', '1'],
      ['b', ''],
      ['c', '3'],
    ]);
  });

  it('the encoding is found whatever its case and quotes; unknown ones are raw', () => {
    for (const type of ['TEXT/Tab-Separated-Values; colenc=u', 'text/tab-separated-values;charset=x; colenc="U"']) {
      assert.deepEqual(inputOf(call('/rpc/echo', type, 'a\t%41')), [['a', 'A']]);
    }
    assert.deepEqual(inputOf(call('/rpc/echo', 'text/tab-separated-values; colenc=X', 'a\t%41')), [['a', '%41']]);
  });

  it('the query gives arguments, and the body overrides them', () => {
    const request = call(
      '/rpc/set?key=k%20+1&value=no&flag',
      'application/x-www-form-urlencoded',
      'value=v&&x=%ff;y=1;',
    );
    assert.deepEqual(inputOf(request), [
      ['key', 'k  1'],
      ['value', 'v'],
      ['flag', ''],
      ['x', '\xff'],
      ['y', '1'],
    ]);
    assert.equal(parseRpc(request)?.procedure, 'set');
    assert.equal(parseRpc(call('/rpc/cur%5fget'))?.procedure, 'cur_get');
    assert.equal(parseRpc(call('/key')), undefined);
  });

  it('an error is a row that nothing in its message can break', () => {
    const message = `no\tsuch\n${'x'.repeat(1000)}`;
    const { status, body } = rpcError(new TokaidoError('READ_ONLY', message, { hint: 'go\r\nelsewhere' }));
    assert.equal(status, 403);
    assert.match((body ?? '').toString(), /^ERROR\tDB: 4: no permission: no such x{150,}\n$/);
  });
});

describe('numbers', () => {
  it('any 64-bit integer is read back from its text', () => {
    fc.assert(fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (n) => readInteger(String(n)) === n));
  });

  it('text is read as far as it is a number', () => {
    const integers = {
      '': 0n,
      soon: 0n,
      '12abc': 12n,
      ' \t+7': 7n,
      '-': 0n,
      '1.9': 1n,
      '99999999999999999999': 7766279631452241919n,
    };
    for (const [text, value] of Object.entries(integers)) assert.equal(readInteger(text), value, text);
    const decimals = {
      '': 0,
      x: 0,
      '1.5z': 1.5,
      '-2.': -2,
      '.25': 0.25,
      '12': 12,
      '1e3': 1000,
      '1e': 1,
      '-inf': -Infinity,
      INF: Infinity,
    };
    for (const [text, value] of Object.entries(decimals)) assert.equal(readDecimal(text), value, text);
    assert.ok(Number.isNaN(readDecimal('nan')));
  });

  it('numbers are written with six decimals, halves to even, as C does', () => {
    const written = { '1.5': 1.5, '-0.1': -0.1, '3': 3 };
    for (const value of Object.values(written)) assert.equal(writeDecimal(value), value.toFixed(6));
    assert.equal(writeDecimal(1 / 128), '0.007812');
    assert.equal(writeDecimal(-1 / 128), '-0.007812');
    assert.equal(writeDecimal(3 / 128), '0.023438');
    assert.equal(writeDecimal(1e22), '10000000000000000000000.000000');
    assert.equal(writeDecimal(-Infinity), '-inf');
  });
});

describe('expiration times', () => {
  const NOW = 1_700_000_000_999;

  it('a relative time lasts as long as it says, to the millisecond', () => {
    assert.equal(xtFromSeconds(1, NOW), NOW + 1000);
    assert.equal(secondsFromXt(xtFromSeconds(1, NOW)), 1_700_000_001);
  });

  it('an absolute time is that time, and huge ones are never', () => {
    assert.equal(xtFromSeconds(-4_102_444_800, NOW), 4_102_444_800_000);
    assert.equal(xtFromSeconds(2 ** 40 - 1, NOW), 0);
    assert.equal(xtFromSeconds(-(2 ** 60), NOW), 0);
    assert.equal(xtFromSeconds(0, NOW), NOW);
  });

  it('headers may hold numbers, units and dates, in UTC unless they say otherwise', () => {
    const is = 4_102_444_800_000;
    const forms = [
      '4102444800',
      '0xf4865700',
      '4102444800s',
      '68374080m',
      '1139568 h',
      '47482d',
      '2100-01-01',
      '2100-01-01T00:00:00',
      '2100-01-01T00:00:00Z',
      '2100-01-01T09:00:00+09:00',
      '2099-12-31T19:30:00.5-04:30',
      '2100/01/01 00:00:00',
      'Fri, 01 Jan 2100 00:00:00 GMT',
      'fri, 1 jan 2100 00:00:00',
      '01-Jan-2100 00:00:00 GMT',
      'Fri, 01 Jan 2100 09:00:00 +0900',
    ];
    for (const form of forms) assert.equal(xtFromDate(form), is, form);
    for (const form of ['', 'soon', '0', '1 Foo 2100', '2100-01', '99999999999999']) {
      assert.equal(xtFromDate(form), 0, form);
    }
  });

  it('a time survives the way into a header and back, by the second', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 253_402_300_799 }), (seconds) => {
        assert.equal(xtFromDate(dateFromXt(seconds * 1000)), seconds * 1000);
      }),
    );
  });
});
