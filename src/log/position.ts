/** Positions: how far each origin's changes have been applied. Pure functions on small sorted arrays. */
import type { ByteReader, ByteWriter } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import { epoch, type OriginPosition, type Position, type Sid, sequence, versionNs } from '../base/types.js';
import { readSid } from './transaction.js';

/** Most origins that one position may name. */
export const MAX_ORIGINS = 1024;

export const START: Position = [];

export function originOf(position: Position, sid: Sid): OriginPosition | undefined {
  return position.find((origin) => origin.sid === sid);
}

/** The position after `origin`'s newest transaction became part of it. Keeps the order by sid. */
export function withOrigin(position: Position, origin: OriginPosition): Position {
  const entry: OriginPosition = {
    sid: origin.sid,
    epoch: origin.epoch,
    sequence: origin.sequence,
    versionNs: origin.versionNs,
  };
  const others = position.filter((other) => other.sid !== origin.sid);
  const at = others.findIndex((other) => other.sid > origin.sid);
  return at < 0 ? [...others, entry] : [...others.slice(0, at), entry, ...others.slice(at)];
}

/** Whether an origin is further on than `has` is of it: there is nothing of it, or less of the epoch, or an older one. */
export function isBeyond({ epoch, sequence }: OriginPosition, has: OriginPosition | undefined): boolean {
  return has === undefined || has.epoch < epoch || (has.epoch === epoch && has.sequence < sequence);
}

/** Whether `position` has everything that `other` has, by number within the same or a later epoch. */
export function covers(position: Position, other: Position): boolean {
  return other.every((wanted) => {
    const have = originOf(position, wanted.sid);
    return have !== undefined && have.epoch >= wanted.epoch && have.sequence >= wanted.sequence;
  });
}

export function isSamePosition(a: Position, b: Position): boolean {
  return (
    a.length === b.length &&
    a.every(({ sid, epoch, sequence, versionNs }, index) => {
      const other = b[index] as OriginPosition;
      return sid === other.sid && epoch === other.epoch && sequence === other.sequence && versionNs === other.versionNs;
    })
  );
}

/** The highest version of any origin, ns; 0 at the start. */
export function newestVersion(position: Position): bigint {
  let newest = 0n;
  for (const { versionNs } of position) if (versionNs > newest) newest = versionNs;
  return newest;
}

/** How many transactions `behind` lacks of what `ahead` has. */
export function changesBetween(behind: Position, ahead: Position): number {
  let total = 0;
  for (const origin of ahead) {
    total += Math.max(0, origin.sequence - (originOf(behind, origin.sid)?.sequence ?? 0));
  }
  return total;
}

export function encodePosition(writer: ByteWriter, position: Position): void {
  writer.varint(position.length);
  for (const origin of position) {
    writer.varint(origin.sid).varint(origin.epoch).varint(origin.sequence).u64(origin.versionNs);
  }
}

/** Errors: `CORRUPT`, also when the origins are too many, doubled or out of order. */
export function decodePosition(reader: ByteReader): Position {
  const count = reader.varint();
  if (count > MAX_ORIGINS) throw new TokaidoError('CORRUPT', `a position of ${count} origins exceeds ${MAX_ORIGINS}`);
  const position: OriginPosition[] = [];
  let previous = 0;
  for (let i = 0; i < count; i++) {
    const sid = readSid(reader);
    if (sid <= previous) throw new TokaidoError('CORRUPT', 'the origins of a position are out of order');
    previous = sid;
    position.push({
      sid,
      epoch: epoch(reader.varint()),
      sequence: sequence(reader.varint()),
      versionNs: versionNs(reader.u64()),
    });
  }
  return position;
}

/** For logs: `1:5701 7@2:12` (sid:sequence, `@epoch` where it is not 1). */
export function describePosition(position: Position): string {
  if (position.length === 0) return 'start';
  return position.map(({ sid, epoch, sequence }) => `${sid}${epoch === 1 ? '' : `@${epoch}`}:${sequence}`).join(' ');
}
