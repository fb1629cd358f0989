/** Inputs for the memcached listeners: what honest clients send, mutated, and lines of a grammar that may break. */
import { MemcachedDecoder } from '../../src/protocol/memcached.js';
import type { Dice } from '../support/random.js';
import { mutated, noise } from './inputs.js';

const HONEST: readonly Buffer[] = [
  'set key 5 0 5\r\nvalue\r\n',
  'set key 0 60 5 noreply\r\nvalue\r\n',
  'add other 0 0 0\r\n\r\n',
  'replace key 1 0 3\r\nnew\r\n',
  'append key 0 0 1\r\n!\r\n',
  'prepend key 0 0 1\r\n!\r\n',
  'cas key 0 0 1 1234567890123456789\r\nx\r\n',
  'get key\r\n',
  'get key other missing\r\n',
  'gets key\r\n',
  'gat 100 key other\r\n',
  'gats 0 key\r\n',
  'touch key 100\r\n',
  'delete key\r\n',
  'delete key noreply\r\n',
  'set n 0 0 2\r\n10\r\n',
  'incr n 5\r\n',
  'decr n 18446744073709551615\r\n',
  'mg key t f c s v k O1234 q\r\n',
  'mg key T30 N60 R30 E77 h l\r\n',
  'mg a2V5 b k v\r\n',
  'ms key 5 T60 F7 c\r\nvalue\r\n',
  'ms key S5 MA I C3\r\nvalue\r\n',
  'md key q I T30 x\r\n',
  'ma n N60 J13 D2 MI t v\r\n',
  'me key\r\n',
  'mn\r\n',
  'stats\r\n',
  'stats items\r\n',
  'verbosity 1\r\n',
  'version\r\n',
].map((text) => Buffer.from(text, 'latin1'));

const VERBS = [
  'get',
  'gets',
  'gat',
  'gats',
  'set',
  'add',
  'replace',
  'append',
  'prepend',
  'cas',
  'incr',
  'decr',
].concat([
  'delete',
  'touch',
  'mg',
  'ms',
  'md',
  'ma',
  'me',
  'mn',
  'stats',
  'version',
  'verbosity',
  'flush_all',
  'quit',
  'GET',
  '',
]);
const WORDS = [
  'key',
  'other',
  'n',
  '0',
  '1',
  '-1',
  '5',
  '60',
  '1e3',
  '4294967295',
  '18446744073709551616',
  'noreply',
].concat([
  'k'.repeat(250),
  'k'.repeat(251),
  'v',
  't',
  'T-1',
  'Nx',
  'q',
  'S3',
  'F4294967296',
  'b',
  '=',
  '\t',
  '\0',
  '\x7f',
  'é',
]);
const ENDS = ['\r\n', '\r\n', '\r\n', '\n', '\r', ''];

/** A line of words, and perhaps data behind it; any of it may be wrong. */
function brokenLine(dice: Dice): Buffer {
  const words = Array.from({ length: dice.below(7) }, () => dice.pick(WORDS));
  const data = dice.chance(0.5) ? dice.bytes(dice.below(12)).toString('latin1') + dice.pick(ENDS) : '';
  return Buffer.from(
    [dice.pick(VERBS), ...words].join(dice.chance(0.9) ? ' ' : '  ') + dice.pick(ENDS) + data,
    'latin1',
  );
}

/** A storage command whose length is told truly, mostly. */
function storing(dice: Dice): Buffer {
  const value = dice.bytes(dice.below(300));
  const length = dice.chance(0.9) ? value.length : dice.below(2 ** 32);
  const head = dice.chance(0.5)
    ? `${dice.pick(['set', 'add', 'append', 'cas'])} ${dice.pick(WORDS)} ${dice.below(2 ** 32)} ${dice.below(100)} ${length}`
    : `ms ${dice.pick(WORDS)} ${length} ${dice.pick(['c', 'q', 'T9', 'MX', 'I C1', 'b', ''])}`;
  const unique = head.startsWith('cas') ? ` ${dice.below(1000)}` : '';
  return Buffer.concat([Buffer.from(`${head}${unique}\r\n`, 'latin1'), value, Buffer.from(dice.pick(ENDS))]);
}

/** Any of these. */
export function memcachedInput(dice: Dice): Buffer {
  const kind = dice.roll();
  if (kind < 0.45) return mutated(HONEST, dice);
  if (kind < 0.6) return dice.pick(HONEST);
  if (kind < 0.75) return brokenLine(dice);
  if (kind < 0.95) return storing(dice);
  return noise(dice, Buffer.of(dice.pick([0x80, 0x67, 0x6d])));
}

/** Whether a listener would take another request after these bytes. */
export function memcachedLeavesInOrder(bytes: Buffer): boolean {
  const decoder = new MemcachedDecoder({ valueBytes: 2 ** 20 - 4 });
  for (let rest = bytes; rest.length > 0; ) {
    const parsed = decoder.parse(rest);
    if (parsed.kind === 'incomplete') return false;
    if (parsed.kind === 'request') {
      const { request } = parsed;
      if (request.kind === 'quit' || (request.kind === 'wrong' && request.last)) return false;
    }
    rest = rest.subarray(parsed.bytes);
  }
  return !decoder.isBegun;
}
