/** Documents and queries of text search in binary form, as texts. Pure. */
import { ByteReader } from '../../../base/bytes.js';
import { Undecodable } from './numbers.js';

/** A text that ends with NUL. */
function word(reader: ByteReader): string {
  const from = reader.offset;
  let length = 0;
  while (reader.u8() !== 0) length++;
  return reader.slice(from, length).toString('utf8');
}

function quoted(text: string): string {
  return `'${text.replace(/['\\]/g, '$&$&')}'`;
}

const WEIGHTS = ['', 'C', 'B', 'A'];

export function tsVector(bytes: Buffer): string {
  const reader = new ByteReader(bytes);
  const lexemes: string[] = [];
  for (let count = reader.u32(); count > 0; count--) {
    const text = quoted(word(reader));
    const places: string[] = [];
    for (let left = reader.u16(); left > 0; left--) {
      const place = reader.u16();
      places.push(`${place & 0x3fff}${WEIGHTS[place >> 14]}`);
    }
    lexemes.push(places.length === 0 ? text : `${text}:${places.join(',')}`);
  }
  return lexemes.join(' ');
}

const OPERAND = 1;
const [NOT, AND, OR, PHRASE] = [1, 2, 3, 4] as const;
const PRIORITY: Readonly<Record<number, number>> = { [NOT]: 4, [AND]: 2, [OR]: 1, [PHRASE]: 3 };
/** Queries nest no deeper here: this is read by recursion. */
const MAX_DEPTH = 1000;

/** Operators come before their operands, and the right operand before the left. */
export function tsQuery(bytes: Buffer): string {
  const reader = new ByteReader(bytes);
  if (reader.u32() === 0) return '';
  return item(reader, -1, false, MAX_DEPTH);
}

function item(reader: ByteReader, parent: number, isRightOfPhrase: boolean, depth: number): string {
  if (depth === 0) throw new Undecodable('a text search query nested too deeply');
  if (reader.u8() === OPERAND) return operand(reader);
  const operator = reader.u8();
  const priority = PRIORITY[operator];
  if (priority === undefined) throw new Undecodable(`operator ${operator} of a text search query`);
  const isInner = priority < parent || (operator === PHRASE && isRightOfPhrase);
  let text: string;
  if (operator === NOT) text = `!${item(reader, priority, false, depth - 1)}`;
  else {
    const sign = operator === PHRASE ? distance(reader.u16()) : operator === AND ? '&' : '|';
    const right = item(reader, priority, operator === PHRASE, depth - 1);
    text = `${item(reader, priority, false, depth - 1)} ${sign} ${right}`;
  }
  return isInner ? `( ${text} )` : text;
}

function distance(positions: number): string {
  return positions === 1 ? '<->' : `<${positions}>`;
}

function operand(reader: ByteReader): string {
  const weights = reader.u8();
  const isPrefix = reader.u8() !== 0;
  const text = quoted(word(reader));
  const marks = [...(isPrefix ? '*' : ''), ...[...'ABCD'].filter((_, index) => (weights & (8 >> index)) !== 0)];
  return marks.length === 0 ? text : `${text}:${marks.join('')}`;
}
