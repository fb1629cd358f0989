/** REST requests to commands and back. Remote procedures have their own table: `rpc-procedures.ts`. */
import { TokaidoError } from '../../base/errors.js';
import type { Commands, RecordWrite, SetMode } from '../../commands/commands.js';
import { type Precondition, removeWhen, setWhen } from '../../commands/conditions.js';
import type { HttpReply, HttpRequest } from '../../protocol/http.js';
import {
  type Conditions,
  entityTag,
  errorReply,
  failedCondition,
  PRECONDITION_FAILED,
  parseConditions,
  parseRest,
  recordReply,
} from '../../protocol/rest.js';
import type { Database, RecordView } from '../../store/types.js';
import type { Order } from '../rpc/procedure.js';

const UNKNOWN_METHOD: HttpReply = { status: 501 };
const REMOVED: HttpReply = { status: 204 };

/** Whether a request changes anything; see `Order`. */
export function restOrder(method: string): Order {
  return method === 'PUT' || method === 'DELETE' ? 'write' : 'read';
}

/** Errors: `TokaidoError`, thrown or as rejection. */
export function answerRest(request: HttpRequest, commands: Commands): HttpReply | Promise<HttpReply> {
  const rest = parseRest(request);
  if (rest.kind === 'unknown') return UNKNOWN_METHOD;
  const database = databaseOf(rest.database, commands);
  const conditions = parseConditions(request);
  switch (rest.kind) {
    case 'get':
    case 'head':
      return read(commands, database, rest.key, rest.kind === 'head', conditions);
    case 'remove':
      return remove(commands, database, rest.key, conditions);
    default:
      return put(request, commands, { ...rest, database }, rest.mode, conditions);
  }
}

/** An empty name is the first database, as in the reference. */
function databaseOf(name: string | undefined, commands: Commands): Database {
  return commands.database(name === undefined || name === '' ? 0 : name);
}

function tagOf(record: RecordView): string {
  return entityTag(record.versionNs, record.sid);
}

/** The entity tag is made for those who ask: it would cost every other read. */
function read(
  commands: Commands,
  database: Database,
  key: Buffer,
  isHead: boolean,
  conditions: Conditions | undefined,
): HttpReply {
  const record = commands.get({ database, key });
  if (record === undefined) {
    if (conditions?.match !== undefined) return PRECONDITION_FAILED;
    throw new TokaidoError('NO_RECORD', 'no record');
  }
  if (conditions === undefined && !isHead) return recordReply(record.value, record.xtMs, false);
  const tag = tagOf(record);
  const failed = conditions === undefined ? undefined : failedCondition(conditions, tag);
  if (failed === 'match') return PRECONDITION_FAILED;
  if (failed === 'noneMatch') return { status: 304, headers: { ETag: tag } };
  return recordReply(record.value, record.xtMs, isHead, tag);
}

function holding(conditions: Conditions): Precondition {
  return (record) => failedCondition(conditions, record === undefined ? undefined : tagOf(record)) === undefined;
}

async function remove(
  commands: Commands,
  database: Database,
  key: Buffer,
  conditions: Conditions | undefined,
): Promise<HttpReply> {
  if (conditions === undefined) {
    await commands.remove({ database, key });
    return REMOVED;
  }
  return await unless(removeWhen(commands, { database, key }, holding(conditions)), REMOVED);
}

async function put(
  { headers, target }: HttpRequest,
  commands: Commands,
  { database, key, value, xtMs }: RecordWrite,
  mode: SetMode,
  conditions: Conditions | undefined,
): Promise<HttpReply> {
  const host = headers.get('host') ?? '';
  const created: HttpReply = { status: 201, headers: host === '' ? {} : { Location: `http://${host}${target}` } };
  const record = { database, key, value, xtMs };
  try {
    if (conditions !== undefined) return await unless(setWhen(commands, record, mode, holding(conditions)), created);
    await commands.set(record, mode);
    return created;
  } catch (error) {
    // Kyoto Tycoon calls a replace without its record an inconsistency, not an absence.
    if (error instanceof TokaidoError && error.code === 'NO_RECORD') return { ...errorReply(error), status: 450 };
    throw error;
  }
}

/** The reply of a change that was made, or that a condition of the request failed. */
async function unless(change: Promise<void>, reply: HttpReply): Promise<HttpReply> {
  try {
    await change;
    return reply;
  } catch (error) {
    if (error instanceof TokaidoError && error.code === 'CONFLICT') return PRECONDITION_FAILED;
    throw error;
  }
}
