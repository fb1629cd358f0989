/**
 * Rows of the indexes beside the records: `expiry` names what expires, by when; `graveyard` what was buried, by where the
 * log had it. And the horizon, a row of `expiry` up to which expirations have been worked off.
 */
import { NEVER_EXPIRES } from '../base/types.js';

const INDEX_HEADER = 8;

/** Key of both indexes: a 48-bit number, the database, the record's key. */
export function indexKey(number: number, databaseId: number, key: Buffer): Buffer {
  const row = Buffer.allocUnsafe(INDEX_HEADER + key.length);
  row.writeUIntBE(number, 0, 6);
  row.writeUInt16BE(databaseId, 6);
  row.set(key, INDEX_HEADER);
  return row;
}

export function parseIndexKey(row: Buffer): { number: number; databaseId: number; key: Buffer } {
  return { number: row.readUIntBE(0, 6), databaseId: row.readUInt16BE(6), key: row.subarray(INDEX_HEADER) };
}

/** Whether the expiration index has this record's row behind the row `horizon`. */
export function isBehind(horizon: Buffer, xtMs: number, databaseId: number, key: Buffer): boolean {
  if (horizon.length === 0) return true;
  const { number, databaseId: atDatabase, key: atKey } = parseIndexKey(horizon);
  if (xtMs !== number) return xtMs > number;
  return databaseId === atDatabase ? key.compare(atKey) > 0 : databaseId > atDatabase;
}

/** Whether a record that expires at `xtMs` is part of its database's hash, where `horizon` is worked off. */
export function isCounted(horizon: Buffer, xtMs: number, databaseId: number, key: Buffer): boolean {
  return xtMs === NEVER_EXPIRES || isBehind(horizon, xtMs, databaseId, key);
}
