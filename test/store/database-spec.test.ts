/** Database expressions: what ktserver takes, what it means here, and what is refused. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseDatabase, parseDatabases } from '../../src/store/database-spec.js';

describe('a database expression', () => {
  const kind = (expression: string): string => {
    const { storage, ordered } = parseDatabase(expression);
    return `${storage} ${ordered ? 'ordered' : 'unordered'}`;
  };

  for (const [expression, expected] of [
    ['default', 'disk ordered'],
    ['-', 'memory unordered'],
    ['+', 'memory ordered'],
    [':', 'memory unordered'],
    ['*', 'memory unordered'],
    ['%', 'memory ordered'],
    ['casket.kch', 'disk unordered'],
    ['casket.kct', 'disk ordered'],
    ['casket.kcd', 'disk unordered'],
    ['casket.kcf', 'disk ordered'],
    ['casket.kcg', 'memory ordered'],
    ['casket#type=kct', 'disk ordered'],
    ['casket#type=%', 'memory ordered'],
    ['casket.kch#type=grass', 'memory ordered'],
  ] as const) {
    it(`${expression} is ${expected}`, () => assert.equal(kind(expression), expected));
  }

  it('has the number that Kyoto Cabinet gives its kind, which status tells', () => {
    const codes = [
      ...['-', '+', ':', '*', '%', 'a.kch', 'a.kct', 'a.kcd', 'a.kcf', 'a.kcx'],
      ...['default', 'a.kct#type=cache'],
    ].map((expression) => parseDatabase(expression).typeCode);
    assert.deepEqual(codes, [0x10, 0x11, 0x18, 0x20, 0x21, 0x30, 0x31, 0x40, 0x41, 0x50, 0x31, 0x20]);
  });

  it('is known by the last part of its path, without its options', () => {
    assert.equal(parseDatabase('/var/lib/kt/casket.kct#opts=c').name, 'casket.kct');
  });

  it('has capacities under every name the reference takes', () => {
    assert.equal(parseDatabase('*#capcnt=10').maxRecords, 10);
    assert.equal(parseDatabase('%#ktcapcount=2k').maxRecords, 2048);
    assert.equal(parseDatabase('*#capsiz=64m').maxBytes, 64 * 2 ** 20);
    assert.equal(parseDatabase(':#ktcap_size=1.5g').maxBytes, 1.5 * 2 ** 30);
    assert.equal(parseDatabase('*#capcnt=0').maxRecords, undefined);
  });

  it('compresses, persists, and reads text files', () => {
    assert.equal(parseDatabase('a.kct#opts=lc').compressed, true);
    assert.equal(parseDatabase('a.kct#opts=s').compressed, false);
    assert.equal(parseDatabase(':#ktopts=p').persistent, true);
    assert.equal(parseDatabase('logs/a.kcx#ktopts=p').textFile, 'logs/a.kcx');
  });

  it('names what has no effect', () => {
    assert.deepEqual(parseDatabase('a/b.kct#bnum=100k#zcomp=lzo').withoutEffect, [
      'bnum=100k',
      'zcomp=lzo',
      'the folder of a/b.kct (records lie in the data directory)',
    ]);
    assert.match(parseDatabase('b.kch#capcnt=5').withoutEffect.join(), /only databases in memory are caches/);
  });

  it('is refused with its reason when it means nothing', () => {
    assert.throws(() => parseDatabase('casket#type=lsm'), /there is no type lsm/);
    assert.throws(() => parseDatabase(''), /no name that could be used/);
    assert.throws(() => parseDatabase('a b'), /no name that could be used/);
    assert.throws(() => parseDatabase('*#capsiz=much'), /must be a number such as 64m, not much/);
  });

  it('gets a name of its own when an earlier one has it', () => {
    const names = parseDatabases([':', '%', ':', ':#opts=c']).map(({ name }) => name);
    assert.deepEqual(names, [':', '%', ':~2', ':~3']);
  });
});
