/**
 * What a store has forgotten: for each origin, the version of the newest removal, expiration or clear of it whose
 * tombstone or mark is gone. Where a key is absent, the reason may be one of these, and nothing says which. So another
 * store may take this one's absences for what they are only if it knows all of these changes itself (`merge.ts`).
 */
import type { ByteReader, ByteWriter } from '../base/bytes.js';
import { type Position, type Sid, type VersionNs, versionNs } from '../base/types.js';
import { originOf } from '../log/position.js';
import { readSid } from '../log/transaction.js';

export interface ForgottenOf {
  readonly sid: Sid;
  readonly versionNs: VersionNs;
}

/** By sid, each once. */
export type Forgotten = readonly ForgottenOf[];

/** With one more, or as it was when a newer one of that origin is forgotten already. */
export function withForgotten(forgotten: Forgotten, { sid, versionNs }: ForgottenOf): Forgotten {
  const known = forgotten.find((each) => each.sid === sid);
  if (known !== undefined && known.versionNs >= versionNs) return forgotten;
  const others = forgotten.filter((each) => each.sid !== sid);
  return [...others, { sid, versionNs }].sort((a, b) => a.sid - b.sid);
}

export function joinForgotten(a: Forgotten, b: Forgotten): Forgotten {
  return b.reduce(withForgotten, a);
}

/** For a store that was never asked to remember what it forgot: anything it knows may be. */
export function everythingAt(position: Position): Forgotten {
  return position.map(({ sid, versionNs }) => ({ sid, versionNs }));
}

/** A removal that is forgotten here and that whoever stands at `position` does not know, if there is one. */
export function forgottenBeyond(forgotten: Forgotten, position: Position): ForgottenOf | undefined {
  return forgotten.find(({ sid, versionNs }) => (originOf(position, sid)?.versionNs ?? -1n) < versionNs);
}

export function encodeForgotten(writer: ByteWriter, forgotten: Forgotten): void {
  writer.varint(forgotten.length);
  for (const { sid, versionNs } of forgotten) writer.varint(sid).u64(versionNs);
}

export function readForgottenOf(reader: ByteReader): ForgottenOf {
  return { sid: readSid(reader), versionNs: versionNs(reader.u64()) };
}
