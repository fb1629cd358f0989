/** Binary requests to commands and back. */
import { TokaidoError } from '../../base/errors.js';
import { PART_RECORDS } from '../../commands/commands.js';
import { xtFromSeconds } from '../../protocol/expiry.js';
import { type BinaryKey, type BinaryRequest, GetReply, renderCount } from '../../protocol/kt-binary.js';
import type { Order } from '../rpc/procedure.js';
import type { RpcSession } from '../rpc/session.js';

/** Largest answer, bytes. */
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;

/** Keys read by one step of a bulk get. */
const STEP_KEYS = 64;

/**
 * What may overlap on one connection; see `Order`. A bulk write that is cut into parts stands alone: a later write must
 * not come between them.
 */
export function binaryOrder(request: BinaryRequest): Order {
  if (request.kind === 'get' || request.kind === 'script') return 'alone';
  const records = request.kind === 'set' ? request.records : request.keys;
  return records.length > PART_RECORDS ? 'alone' : 'write';
}

/** Records of databases that do not exist are passed over, as in the reference. Errors: `TokaidoError`. */
export function answerBinary(request: BinaryRequest, session: RpcSession): Buffer | Promise<Buffer> {
  const { commands } = session.host;
  const nowMs = session.host.nowMs();
  const databases = commands.databases();
  switch (request.kind) {
    case 'get':
      return getBulk(request.keys, session);
    case 'set': {
      const records = request.records.flatMap(({ database, key, value, seconds }) => {
        const known = databases[database];
        return known === undefined ? [] : [{ database: known, key, value, xtMs: xtFromSeconds(seconds, nowMs) }];
      });
      return commands.setBulk(records).then((count) => renderCount('set', count));
    }
    case 'remove': {
      const keys = request.keys.flatMap(({ database, key }) => {
        const known = databases[database];
        return known === undefined ? [] : [{ database: known, key }];
      });
      return commands.removeBulk(keys).then((count) => renderCount('remove', count));
    }
    default:
      throw new TokaidoError('NOT_IMPLEMENTED', 'this server runs no scripts');
  }
}

/** A long read gives way to others now and then. */
function getBulk(
  keys: readonly BinaryKey[],
  { host: { commands, slices }, isOpen }: RpcSession,
): Buffer | Promise<Buffer> {
  const databases = commands.databases();
  const reply = new GetReply(keys.length);
  let at = 0;
  return slices.run(() => {
    for (const end = Math.min(keys.length, at + STEP_KEYS); at < end; at++) {
      const { database, key } = keys[at] as BinaryKey;
      const known = databases[database];
      const record = known === undefined ? undefined : commands.get({ database: known, key });
      if (record !== undefined) reply.add(database, key, record.value, record.xtMs);
      if (reply.bytes > MAX_ANSWER_BYTES) throw new TokaidoError('TOO_LARGE', 'the answer would be too large');
    }
    return at < keys.length ? undefined : reply.take();
  }, isOpen);
}
