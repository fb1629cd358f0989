/** Numbers in values, in the reference's form and with its arithmetic. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decodeInteger, encodeInteger, Fixed, fitsCounter } from '../../src/commands/stored-numbers.js';

const finite = fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e15, max: 1e15 });

describe('stored numbers', () => {
  it('any 64-bit integer comes back from its eight bytes', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (n) => decodeInteger(encodeInteger(n)) === n),
    );
    assert.equal(encodeInteger(-8n).toString('hex'), 'fffffffffffffff8');
    assert.equal(decodeInteger(Buffer.alloc(7)), undefined);
    assert.ok(fitsCounter(2n ** 63n - 1n) && !fitsCounter(2n ** 63n));
    assert.ok(fitsCounter(1n - 2n ** 63n) && !fitsCounter(-(2n ** 63n)));
  });

  it('any fixed-point number comes back from its sixteen bytes, to 10^-15', () => {
    fc.assert(
      fc.property(finite, (value) => {
        const back = Fixed.decode((Fixed.of(value) as Fixed).encode())?.number ?? Number.NaN;
        assert.ok(Math.abs(back - value) <= 1.2e-15 + Math.abs(value) * 2 ** -52, `${value} came back as ${back}`);
      }),
    );
  });

  it('fractions are cut off as the reference does it, in 80-bit arithmetic', () => {
    const units = (value: number): string => String(Fixed.of(value)?.encode().readBigInt64BE(8));
    assert.equal(units(0.75), '750000000000000');
    assert.equal(units(-0.25), '-250000000000000');
    assert.equal(units(0.1), '100000000000000');
    // The double nearest 0.3 is a little below it; in 64-bit arithmetic this would round up to 300000000000000.
    assert.equal(units(0.3), '299999999999999');
    assert.equal(units(5e-324), '0');
  });

  it('sums carry from the fraction into the whole part, upwards only', () => {
    const parts = (fixed: Fixed | undefined): bigint[] => {
      const bytes = fixed?.encode() ?? Buffer.alloc(0);
      return [bytes.readBigInt64BE(0), bytes.readBigInt64BE(8)];
    };
    assert.deepEqual(parts(Fixed.of(3.75)?.plus(-10)), [-7n, 750_000_000_000_000n]);
    assert.deepEqual(parts(Fixed.of(0.75)?.plus(0.5)), [1n, 250_000_000_000_000n]);
  });

  it('infinities are kept; NaN and what does not fit are nothing', () => {
    assert.equal(Fixed.decode((Fixed.of(Infinity) as Fixed).encode())?.number, Infinity);
    assert.equal(Fixed.of(-Infinity)?.number, -Infinity);
    assert.equal(Fixed.of(Number.NaN), undefined);
    assert.equal(Fixed.of(1e300), undefined);
    assert.equal(Fixed.decode(Buffer.alloc(8)), undefined);
    assert.equal(Fixed.decode(Buffer.from('80000000000000008000000000000000', 'hex')), undefined);
  });
});
