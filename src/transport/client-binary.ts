/** Binary requests to commands and back. */
import { TokaidoError } from '../base/errors.js';
import type { Commands } from '../commands/commands.js';
import { xtFromSeconds } from '../protocol/expiry.js';
import { type BinaryRequest, GetReply, renderCount } from '../protocol/kt-binary.js';

/** Largest answer, bytes. */
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;

/** Records of databases that do not exist are passed over, as in the reference. Errors: `TokaidoError`. */
export function answerBinary(request: BinaryRequest, commands: Commands, nowMs: number): Buffer | Promise<Buffer> {
  const databases = commands.databases();
  switch (request.kind) {
    case 'get': {
      const reply = new GetReply();
      for (const { database, key } of request.keys) {
        const known = databases[database];
        const record = known === undefined ? undefined : commands.get({ database: known, key });
        if (record !== undefined) reply.add(database, key, record.value, record.xtMs);
        if (reply.bytes > MAX_ANSWER_BYTES) throw new TokaidoError('TOO_LARGE', 'the answer would be too large');
      }
      return reply.take();
    }
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
