/**
 * How far a snapshot is loaded, as it lies beside the rows loaded so far: written in the transaction that writes them, so
 * that whatever a link or a process leaves behind says for itself where to go on.
 *
 * The row: format (u8, 1), id (16 bytes), rows (varint), number of databases (varint), and for each where it lies (u8: 0
 * disk, 1 memory), its live records (varint) and its hash.
 */
import { ByteReader, ByteWriter } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import type { Engine } from '../engine/engine.js';
import type { Storage } from './database-spec.js';
import { decodeHash, SET_HASH_BYTES, type SetHash, writeHash } from './set-hash.js';

/** Key of the row, in the map `meta`. */
export const UNFINISHED_KEY = Buffer.from('unfinished');
const FORMAT = 1;
const ID_BYTES = 16;

export interface Unfinished {
  /** The source's name for the one moment that the snapshot shows, hex. */
  readonly id: string;
  /** From the first one on, in the source's order. */
  readonly rows: number;
  readonly databases: readonly { readonly storage: Storage; readonly live: number; readonly hash: SetHash }[];
}

export function encodeUnfinished({ id, rows, databases }: Unfinished): Buffer {
  const writer = new ByteWriter(64);
  writer.u8(FORMAT).bytes(Buffer.from(id, 'hex')).varint(rows).varint(databases.length);
  for (const { storage, live, hash } of databases) {
    writer.u8(storage === 'disk' ? 0 : 1).varint(live);
    writeHash(writer, hash);
  }
  return writer.take();
}

/** Errors: `CORRUPT`. */
export function decodeUnfinished(row: Buffer): Unfinished {
  const reader = new ByteReader(row);
  const format = reader.u8();
  if (format !== FORMAT) throw new TokaidoError('CORRUPT', `an unfinished snapshot has unknown format ${format}`);
  const id = reader.bytes(ID_BYTES).toString('hex');
  const rows = reader.varint();
  const count = reader.varint();
  if (count > reader.remaining) throw new TokaidoError('CORRUPT', 'an unfinished snapshot does not parse');
  const databases = Array.from({ length: count }, () => ({
    storage: reader.u8() === 0 ? ('disk' as const) : ('memory' as const),
    live: reader.varint(),
    hash: decodeHash(reader.bytes(SET_HASH_BYTES)),
  }));
  reader.end('unfinished snapshot');
  return { id, rows, databases };
}

/** What a loader left in an engine, if one did. Errors: `CORRUPT`. */
export function unfinishedIn(engine: Engine): Unfinished | undefined {
  const row = engine.get(engine.openMap('meta'), UNFINISHED_KEY);
  return row === undefined ? undefined : decodeUnfinished(Buffer.from(row));
}
