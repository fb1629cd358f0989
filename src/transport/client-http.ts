/** HTTP requests to commands and back: REST and remote procedures. */
import { TokaidoError } from '../base/errors.js';
import type { Commands } from '../commands/commands.js';
import { xtFromSeconds } from '../protocol/expiry.js';
import type { HttpReply, HttpRequest } from '../protocol/http.js';
import { errorReply, parseRest, recordReply } from '../protocol/rest.js';
import { type Arguments, parseRpc, type RpcCall, rpcReply } from '../protocol/tsv.js';
import type { Database } from '../store/types.js';

/** Errors: `TokaidoError`, thrown or as rejection. */
export function answerHttp(request: HttpRequest, commands: Commands, nowMs: number): HttpReply | Promise<HttpReply> {
  const call = parseRpc(request);
  if (call !== undefined) return callProcedure(call, commands, nowMs);
  const rest = parseRest(request);
  if (rest.kind === 'unknown') return { status: 501 };
  const database = commands.database(rest.database ?? 0);
  switch (rest.kind) {
    case 'get':
    case 'head': {
      const record = commands.get({ database, key: rest.key });
      if (record === undefined) throw new TokaidoError('NO_RECORD', 'no record');
      return recordReply(record.value, record.xtMs, rest.kind === 'head');
    }
    case 'remove':
      return commands.remove({ database, key: rest.key }).then(() => ({ status: 204 }));
    case 'put': {
      const { key, value, xtMs, mode } = rest;
      const host = request.headers.get('host') ?? '';
      const location = host === '' ? {} : { Location: `http://${host}${request.target}` };
      return commands.set({ database, key, value, xtMs }, mode).then(
        () => ({ status: 201, headers: location }),
        (error: unknown) => {
          // Kyoto Tycoon calls a replace without its record an inconsistency, not an absence.
          if (error instanceof TokaidoError && error.code === 'NO_RECORD') return { ...errorReply(error), status: 450 };
          throw error;
        },
      );
    }
    default:
      throw new TokaidoError('NOT_IMPLEMENTED', 'not implemented');
  }
}

type Procedure = (input: Arguments, commands: Commands, nowMs: number) => HttpReply | Promise<HttpReply>;

function required(input: Arguments, name: string): Buffer {
  const value = input.get(name);
  if (value === undefined) throw new TokaidoError('MALFORMED', `the argument ${name} is missing`);
  return value;
}

function databaseOf(input: Arguments, commands: Commands): Database {
  return commands.database(input.get('DB')?.toString('utf8') ?? 0);
}

function expiryOf(input: Arguments, nowMs: number): number {
  const text = input.get('xt')?.toString('latin1');
  return text === undefined ? 0 : xtFromSeconds(Math.trunc(Number(text)) || 0, nowMs);
}

/** The remote procedures. */
const PROCEDURES: Readonly<Record<string, Procedure>> = {
  void: () => rpcReply(200, []),
  echo: (input) => rpcReply(200, [...input]),
  get: (input, commands) => {
    const record = commands.get({ database: databaseOf(input, commands), key: required(input, 'key') });
    if (record === undefined) return rpcReply(450, [['ERROR', Buffer.from('DB: 7: no record: no record')]]);
    const output: [string, Buffer][] = [['value', record.value]];
    if (record.xtMs !== 0) output.push(['xt', Buffer.from(String(Math.floor(record.xtMs / 1000)))]);
    return rpcReply(200, output);
  },
  set: async (input, commands, nowMs) => {
    const key = required(input, 'key');
    await commands.set({
      database: databaseOf(input, commands),
      key,
      value: required(input, 'value'),
      xtMs: expiryOf(input, nowMs),
    });
    return rpcReply(200, []);
  },
  clear: async (input, commands) => {
    await commands.clear(databaseOf(input, commands));
    return rpcReply(200, []);
  },
};

function callProcedure(
  { procedure: name, input }: RpcCall,
  commands: Commands,
  nowMs: number,
): HttpReply | Promise<HttpReply> {
  const procedure = Object.hasOwn(PROCEDURES, name) ? PROCEDURES[name] : undefined;
  if (procedure === undefined) return rpcReply(501, [['ERROR', Buffer.from('not implemented')]]);
  return procedure(input, commands, nowMs);
}
