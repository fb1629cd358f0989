/** Inputs that no honest client sends: recorded conversations mutated, sentences of a broken grammar, plain noise. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Scenario } from '../conformance/replayer.js';
import { repository } from '../support/postgres.js';
import type { Dice } from '../support/random.js';

/** Longest input, bytes: long enough for every head and line limit, short enough for many a second. */
const MOST_BYTES = 96 * 1024;
const NOISE_BYTES = 400;

/** What the recorded clients of Kyoto Tycoon sent, request by request. */
export function recordedRequests(): Buffer[] {
  const folder = join(repository(), 'test', 'fixtures', 'kt-corpus');
  const requests = new Map<string, Buffer>();
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.json'))) {
    const { steps } = JSON.parse(readFileSync(join(folder, name), 'utf8')) as Scenario;
    for (const { send } of steps) requests.set(send, Buffer.from(send, 'base64'));
  }
  return [...requests.values()].filter(({ length }) => length > 0 && length <= MOST_BYTES);
}

/** Numbers at which lengths and counts go wrong. */
const EDGES = [0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];
/** Pieces that mean something to some parser. */
const TOKENS = [
  '\r\n',
  '\n',
  '\r\n\r\n',
  '\0',
  '\t',
  ' ',
  '%',
  '%00',
  '%zz',
  '/',
  '..',
  '&',
  '=',
  'HTTP/1.1',
  'Content-Length: 99999999999\r\n',
  'Content-Length: -1\r\n',
  'Transfer-Encoding: chunked\r\n',
  'Expect: 100-continue\r\n',
  'Connection: close\r\n',
  'ffffffff\r\n',
  '; colenc=B',
  '; colenc=U',
  'NaN',
  '1e999',
  '-9223372036854775809',
  'DB\t',
  'CUR\t',
  'xt\t',
].map((text) => Buffer.from(text, 'latin1'));

type Mutation = (bytes: Buffer, dice: Dice, others: readonly Buffer[]) => Buffer;

function splice(bytes: Buffer, at: number, removed: number, added: Buffer): Buffer {
  return Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(at + removed)]);
}

const MUTATIONS: readonly Mutation[] = [
  (bytes, dice) => {
    const changed = Buffer.from(bytes);
    const at = dice.below(changed.length);
    changed[at] = (changed[at] as number) ^ (1 << dice.below(8));
    return changed;
  },
  (bytes, dice) => splice(bytes, dice.below(bytes.length), 1, dice.bytes(1)),
  (bytes, dice) => splice(bytes, dice.below(bytes.length), dice.below(16), Buffer.alloc(0)),
  (bytes, dice) => splice(bytes, dice.below(bytes.length + 1), 0, dice.pick(TOKENS)),
  (bytes, dice) => {
    const at = dice.below(bytes.length);
    return splice(bytes, at, 0, bytes.subarray(at, at + dice.between(1, 64)));
  },
  // A length or a count that is not true.
  (bytes, dice) => {
    const number = Buffer.alloc(4);
    number.writeUInt32BE(dice.pick(EDGES));
    return splice(bytes, dice.below(bytes.length), 4, number);
  },
  (bytes, dice) => {
    const text = bytes.toString('latin1');
    const numbers = [...text.matchAll(/\d+/g)];
    if (numbers.length === 0) return bytes;
    const { index, 0: digits } = dice.pick(numbers);
    return splice(bytes, index, digits.length, Buffer.from(String(dice.pick(EDGES))));
  },
  (bytes, dice) => bytes.subarray(0, dice.below(bytes.length + 1)),
  (bytes, dice, others) => {
    const other = dice.pick(others);
    return Buffer.concat([bytes.subarray(0, dice.below(bytes.length + 1)), other.subarray(dice.below(other.length))]);
  },
  (bytes, dice, others) => Buffer.concat([bytes, dice.pick(others)]),
];

/** One to four mutations of one of these. */
export function mutated(originals: readonly Buffer[], dice: Dice): Buffer {
  let bytes = dice.pick(originals);
  for (let left = dice.between(1, 4); left > 0 && bytes.length > 0; left--) {
    bytes = dice.pick(MUTATIONS)(bytes, dice, originals);
  }
  return bytes.subarray(0, MOST_BYTES);
}

/** HTTP bytes whose body length is told truly, so that what is inside is looked at; anything else as it is. */
function repaired(bytes: Buffer): Buffer {
  const end = bytes.indexOf('\r\n\r\n');
  if (end < 0) return bytes;
  const body = bytes.subarray(end + 4);
  const lines = bytes.toString('latin1', 0, end).split('\r\n');
  const kept = lines.filter((line) => !/^(content-length|transfer-encoding):/i.test(line));
  return Buffer.concat([Buffer.from(`${kept.join('\r\n')}\r\nContent-Length: ${body.length}\r\n\r\n`, 'latin1'), body]);
}

/** Bytes without any meaning; every other one begins with `first`. */
export function noise(dice: Dice, first: Buffer): Buffer {
  const bytes = dice.bytes(dice.between(1, NOISE_BYTES));
  return dice.chance(0.5) ? Buffer.concat([first, bytes]) : bytes;
}

const METHODS = ['GET', 'HEAD', 'PUT', 'POST', 'DELETE', 'OPTIONS', 'get', 'X', ''];
const TARGETS = ['/', '*', '/key', '/0/key', '//', '/%', '/a b', '/rpc/', '/rpc/void', '/rpc/set?key=a&value=b', '/?'];
const PROCEDURES = [
  'void',
  'echo',
  'report',
  'status',
  'set',
  'get',
  'increment',
  'cas',
  'set_bulk',
  'get_bulk',
].concat([
  'match_prefix',
  'match_regex',
  'match_similar',
  'cur_jump',
  'cur_get',
  'cur_step',
  'cur_set_value',
  'seize',
  'x',
]);
const VERSIONS = ['HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP/1.1 ', 'HTTP', ''];
const HEADERS = [
  'Host: x',
  'Content-Type: text/tab-separated-values',
  'Content-Type: text/tab-separated-values; colenc=B',
  'Content-Type: text/tab-separated-values; colenc=Q',
  'Content-Type: application/x-www-form-urlencoded',
  'Connection: close',
  'Connection: keep-alive',
  'Expect: 100-continue',
  'X-Kt-Mode: add',
  'X-Kt-Xt: not a date',
  'X-Kt-Xt: 99999999999999999999',
  'If-Match: *',
  'If-None-Match: "x',
  ': empty',
  'no colon',
  'Content-Length: 18446744073709551616',
];
const NAMES = ['key', 'value', 'DB', 'CUR', 'num', 'orig', 'xt', 'prefix', 'regex', 'max', '_a', 'oval', 'nval', ''];
const VALUES = ['', '0', '-1', '1e308', 'NaN', 'a', '(((((', '(a|a)*$', '%', '=', '99999999999999999999', '_'];

/** HTTP by a grammar that may break anywhere. */
export function brokenHttp(dice: Dice): Buffer {
  const rows = Array.from({ length: dice.below(6) }, () => `${dice.pick(NAMES)}\t${dice.pick(VALUES)}`);
  const body = rows.join(dice.chance(0.9) ? '\n' : '\r\n');
  const target = dice.chance(0.5) ? `/rpc/${dice.pick(PROCEDURES)}` : dice.pick(TARGETS);
  const headers = Array.from({ length: dice.below(5) }, () => dice.pick(HEADERS));
  if (dice.chance(0.8)) headers.push(`Content-Length: ${dice.chance(0.9) ? body.length : dice.pick(EDGES)}`);
  else if (dice.chance(0.5)) headers.push('Transfer-Encoding: chunked');
  const end = dice.chance(0.9) ? '\r\n' : '\n';
  const head = [`${dice.pick(METHODS)} ${target} ${dice.pick(VERSIONS)}`, ...headers, '', ''].join(end);
  return Buffer.from(head + body, 'latin1');
}

/** Binary requests whose counts and lengths may be anything. */
export function brokenBinary(dice: Dice): Buffer {
  const magic = dice.pick([0xb1, 0xb4, 0xb8, 0xb8, 0xb9, 0xba, 0xba, 0xbf, dice.between(0x80, 0xff)]);
  const records = dice.below(4);
  const parts: Buffer[] = [Buffer.alloc(9)];
  const head = parts[0] as Buffer;
  head[0] = magic;
  head.writeUInt32BE(dice.chance(0.8) ? dice.below(2) : dice.pick(EDGES), 1);
  head.writeUInt32BE(dice.chance(0.8) ? records : dice.pick(EDGES), 5);
  for (let i = 0; i < records; i++) {
    const key = dice.bytes(dice.below(20));
    const value = magic === 0xb8 ? dice.bytes(dice.below(40)) : Buffer.alloc(0);
    const record = Buffer.alloc(magic === 0xb8 ? 18 : 6);
    record.writeUInt16BE(dice.chance(0.8) ? 0 : dice.below(65536), 0);
    record.writeUInt32BE(dice.chance(0.9) ? key.length : dice.pick(EDGES), 2);
    if (magic === 0xb8) {
      record.writeUInt32BE(dice.chance(0.9) ? value.length : dice.pick(EDGES), 6);
      dice.bytes(8).copy(record, 10);
    }
    parts.push(record, key, value);
  }
  return Buffer.concat(parts);
}

/** Any of these, for a port that speaks HTTP and the binary protocol. */
export function clientInput(recorded: readonly Buffer[], dice: Dice): Buffer {
  const kind = dice.roll();
  if (kind < 0.2) return mutated(recorded, dice);
  if (kind < 0.5) return repaired(mutated(recorded, dice));
  if (kind < 0.7) return brokenHttp(dice);
  if (kind < 0.9) return brokenBinary(dice);
  return noise(dice, Buffer.of(dice.pick([0xb8, 0xb9, 0xba, 0x47])));
}

/** The same bytes in pieces: whole, at one place, at several, or byte by byte. */
export function pieces(bytes: Buffer, dice: Dice): Buffer[] {
  const cuts = dice.pick([0, 0, 1, 1, 3, bytes.length < 200 ? bytes.length : 8]);
  const at = [
    ...new Set(Array.from({ length: cuts }, (_, i) => (cuts === bytes.length ? i : dice.below(bytes.length)))),
  ];
  const ends = [...at.sort((a, b) => a - b), bytes.length];
  return ends.map((end, i) => bytes.subarray(i === 0 ? 0 : ends[i - 1], end)).filter(({ length }) => length > 0);
}
