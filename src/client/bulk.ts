/**
 * Whole databases over the protocol of clients, of Tokaido as of Kyoto Tycoon: all records by a cursor, many calls under
 * way at a time. Memory is bounded by what one batch holds.
 */
import { startsWith } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import { NEVER_EXPIRES } from '../base/types.js';
import type { RpcAnswer, TokaidoClient } from './client.js';

/** A record, whole. */
export interface BulkRecord {
  readonly key: Buffer;
  readonly value: Buffer;
  /** Expiration time, ms since 1970, or `NEVER_EXPIRES`. */
  readonly xtMs: number;
}

/** Keys asked for at a time: with the longest keys, less than a node refuses to list. */
const KEYS_AT_ONCE = 5000;
/** Calls of a walk under way at a time, at most. */
const MOST_AHEAD = 128;
const FIRST_AHEAD = 8;
/** Bytes that the answers of one batch should have together: large values are asked for a few at a time. */
const BATCH_BYTES = 4 * 1024 * 1024;
const OK = 200;
/** What a cursor that stands on no record answers. */
const LOGICALLY_NO = 450;

/**
 * All records of a database (its name or number as text), in batches, in the server's order; from `startKey` on when it
 * is given, which only an ordered database knows. Not of one moment: what changes meanwhile may be seen before or after.
 * `cursor` is a number that nobody else uses on this connection.
 * Errors: `NO_DATABASE`, `NETWORK` (also when the connection was lost between two calls: the cursor went with it),
 * `TIMEOUT`, `MALFORMED`.
 */
export async function* walkRecords(
  client: TokaidoClient,
  database: string,
  { cursor = 1, startKey }: { readonly cursor?: number; readonly startKey?: Buffer } = {},
): AsyncGenerator<BulkRecord[]> {
  const at = { DB: database, CUR: String(cursor) };
  const jump = await client.call('cur_jump', startKey === undefined ? at : { ...at, key: startKey });
  const { connections } = client;
  if (isOver(jump, 'cur_jump', database)) return;
  for (let ahead = FIRST_AHEAD, more = true; more; ) {
    const calls = Array.from({ length: ahead }, async () => await client.call('cur_get', { ...at, step: '1' }));
    const answers = await Promise.all(calls);
    if (client.connections !== connections)
      throw new TokaidoError('NETWORK', 'the connection was lost in the middle of a database', {
        hint: 'begin again: records that were copied already are only written once more',
      });
    const records: BulkRecord[] = [];
    let bytes = 0;
    for (const answer of answers) {
      more = !isOver(answer, 'cur_get', database);
      if (!more) break;
      const record = recordOf(answer.rows);
      bytes += record.key.length + record.value.length;
      records.push(record);
    }
    if (records.length > 0) yield records;
    const fitting = Math.floor(BATCH_BYTES / (bytes / records.length + 1));
    ahead = Math.max(1, Math.min(MOST_AHEAD, ahead * 2, fitting));
  }
  await client.call('cur_delete', at);
}

/**
 * All keys of a database that begin with `prefix`, in batches. Of a server that cannot go on in the midst of its keys
 * (Kyoto Tycoon, an older node) by a walk over its records. Not of one moment, and with the errors of `walkRecords`.
 */
export async function* listKeys(client: TokaidoClient, database: string, prefix: Buffer): AsyncGenerator<Buffer[]> {
  const call = { DB: database, prefix, max: String(KEYS_AT_ONCE) };
  let after: Buffer | undefined;
  for (;;) {
    const { status, rows } = await client.call('match_prefix', after === undefined ? call : { ...call, after });
    if (status !== OK) isOver({ status, rows }, 'match_prefix', database);
    const keys: Buffer[] = [];
    for (const name of rows.keys()) if (name.startsWith('_')) keys.push(Buffer.from(name.slice(1), 'latin1'));
    const goesOn = after === undefined || keys.every((key) => key.compare(after as Buffer) > 0);
    if (!goesOn) break;
    if (keys.length > 0) yield keys;
    if (keys.length < KEYS_AT_ONCE) return;
    after = keys.at(-1);
  }
  for await (const records of walkRecords(client, database)) {
    yield records.map(({ key }) => key).filter((key) => startsWith(key, prefix));
  }
}

/** The number of a database by its name, as the server lists them. Errors: `NO_DATABASE`, those of the connection. */
export async function databaseNumber(client: TokaidoClient, name: string): Promise<number> {
  if (/^\d+$/.test(name)) return Number(name);
  const { rows } = await client.call('report');
  for (const [row, value] of rows) {
    const [, index] = /^db_(\d+)$/.exec(row) ?? [];
    const [, path = ''] = /path=(.*)$/s.exec(value.toString('utf8')) ?? [];
    if (index !== undefined && (path === name || path.slice(path.lastIndexOf('/') + 1) === name)) return Number(index);
  }
  throw new TokaidoError('NO_DATABASE', `the server has no database ${name}`);
}

/** Whether a cursor has no record any more. Errors: `NO_DATABASE`, `MALFORMED`. */
function isOver({ status, rows }: RpcAnswer, procedure: string, database: string): boolean {
  if (status === OK) return false;
  const message = rows.get('ERROR')?.toString('utf8') ?? '';
  if (status === LOGICALLY_NO && /no record/.test(message)) return true;
  // Without a database there is no cursor either: that is what the reference says then.
  if (/no such (database|cursor)/.test(message))
    throw new TokaidoError('NO_DATABASE', `the server has no database ${database}`);
  throw new TokaidoError('MALFORMED', `the server answered ${procedure} with ${status}: ${message}`);
}

function recordOf(rows: RpcAnswer['rows']): BulkRecord {
  const key = rows.get('key');
  const value = rows.get('value');
  if (key === undefined || value === undefined)
    throw new TokaidoError('MALFORMED', 'the server answered a cursor without key or value');
  const seconds = rows.get('xt');
  return { key, value, xtMs: seconds === undefined ? NEVER_EXPIRES : Number(seconds.toString('latin1')) * 1000 };
}
