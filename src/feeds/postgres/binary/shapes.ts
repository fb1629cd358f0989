/** Geometric values in binary form, as texts. Pure. */
import { float8, Undecodable } from './numbers.js';

const POINT_BYTES = 16;

function number(bytes: Buffer, index: number): string {
  return float8(bytes.readDoubleBE(8 * index));
}

function pointAt(bytes: Buffer, at: number): string {
  return `(${float8(bytes.readDoubleBE(at))},${float8(bytes.readDoubleBE(at + 8))})`;
}

function points(bytes: Buffer, at: number): string {
  const count = bytes.readInt32BE(at);
  const from = at + 4;
  if (count < 0 || bytes.length !== from + count * POINT_BYTES) throw new Undecodable(`a shape of ${count} points`);
  return Array.from({ length: count }, (_, index) => pointAt(bytes, from + index * POINT_BYTES)).join(',');
}

export function point(bytes: Buffer): string {
  return pointAt(bytes, 0);
}

export function line(bytes: Buffer): string {
  return `{${number(bytes, 0)},${number(bytes, 1)},${number(bytes, 2)}}`;
}

export function segment(bytes: Buffer): string {
  return `[${pointAt(bytes, 0)},${pointAt(bytes, POINT_BYTES)}]`;
}

export function box(bytes: Buffer): string {
  return `${pointAt(bytes, 0)},${pointAt(bytes, POINT_BYTES)}`;
}

export function path(bytes: Buffer): string {
  const isClosed = bytes[0] !== 0;
  return isClosed ? `(${points(bytes, 1)})` : `[${points(bytes, 1)}]`;
}

export function polygon(bytes: Buffer): string {
  return `(${points(bytes, 0)})`;
}

export function circle(bytes: Buffer): string {
  return `<${pointAt(bytes, 0)},${number(bytes, 2)}>`;
}
