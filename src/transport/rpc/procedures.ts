/**
 * The remote procedures: one table from name to operation, and what surrounds every call (waiting for a signal before
 * it, signalling after it, rendering).
 */

import { TokaidoError } from '../../base/errors.js';
import { PART_RECORDS } from '../../commands/commands.js';
import type { HttpReply } from '../../protocol/http.js';
import { EncodingChoice } from '../../protocol/kt-rpc/columns.js';
import { readDecimal } from '../../protocol/kt-rpc/numbers.js';
import {
  type Arguments,
  type Row,
  type RpcCall,
  renderRows,
  rpcError,
  rpcReply,
  tableReply,
} from '../../protocol/tsv.js';
import { textOf } from './arguments.js';
import { CURSOR_PROCEDURES } from './cursor-procedures.js';
import { NOTHING, type Order, type Procedure, type Rows, row } from './procedure.js';
import { RECORD_PROCEDURES } from './record-procedures.js';
import { SERVER_PROCEDURES } from './server-procedures.js';
import type { RpcSession } from './session.js';

const PROCEDURES: Readonly<Record<string, Procedure>> = {
  ...SERVER_PROCEDURES,
  ...RECORD_PROCEDURES,
  ...CURSOR_PROCEDURES,
};

/** How long a call waits for its signal when it does not say, ms; and at most. */
const WAIT_MS = 30_000;
const MAX_WAIT_MS = 24 * 3600 * 1000;
/** A larger table is rendered in pieces, which give way to others, and in the order of its rows. */
const PIECE_ROWS = 2000;

function procedureOf(name: string): Procedure | undefined {
  return Object.hasOwn(PROCEDURES, name) ? PROCEDURES[name] : undefined;
}

export function orderOf({ procedure, input }: RpcCall): Order {
  // A bulk write that is cut into parts stands alone too: a later write must not come between them.
  if (input.has('WAIT') || input.size > PART_RECORDS) return 'alone';
  return procedureOf(procedure)?.order ?? 'read';
}

/** An error of a call is an answer too: only what is no `TokaidoError` is thrown, or rejects. */
export function answerRpc(call: RpcCall, session: RpcSession): HttpReply | Promise<HttpReply> {
  return call.input.has('WAIT') ? waitAndRun(call, session) : run(call, session);
}

/** A signal that does not come ends the call: it neither runs nor signals. */
async function waitAndRun(call: RpcCall, session: RpcSession): Promise<HttpReply> {
  const seconds = readDecimal(textOf(call.input, 'WAITTIME') ?? '');
  const timeoutMs = seconds > 0 ? Math.min(seconds * 1000, MAX_WAIT_MS) : WAIT_MS;
  try {
    const woken = await session.waitFor(textOf(call.input, 'WAIT') ?? '', timeoutMs);
    if (!woken) throw new TokaidoError('TIMEOUT', 'the condition timed out');
  } catch (error) {
    return failed(error, NOTHING);
  }
  return await run(call, session);
}

function run(call: RpcCall, session: RpcSession): HttpReply | Promise<HttpReply> {
  const { procedure: name, input } = call;
  const { host } = session;
  try {
    const procedure = procedureOf(name);
    if (procedure === undefined) throw new TokaidoError('NOT_IMPLEMENTED', `not implemented: ${name}`);
    const result = procedure.run({ input, session, host, nowMs: host.nowMs() });
    return result instanceof Promise ? finish(result, input, session) : succeeded(result, input, session);
  } catch (error) {
    return failed(error, signal(input, session));
  }
}

async function finish(result: Promise<Rows | HttpReply>, input: Arguments, session: RpcSession): Promise<HttpReply> {
  try {
    return await succeeded(await result, input, session);
  } catch (error) {
    return failed(error, signal(input, session));
  }
}

/** Signals if the call says so, whatever came of it; the row says how many were waiting. */
function signal(input: Arguments, session: RpcSession): Rows {
  const name = textOf(input, 'SIGNAL');
  if (name === undefined) return NOTHING;
  return [row('SIGNALED', session.host.signals.signal(name, input.has('SIGNALBROAD')))];
}

function succeeded(result: Rows | HttpReply, input: Arguments, session: RpcSession): HttpReply | Promise<HttpReply> {
  if ('status' in result) return result;
  const rows = input.has('SIGNAL') ? [...result, ...signal(input, session)] : result;
  return rows.length > PIECE_ROWS ? renderInPieces(rows, session) : rpcReply(200, rows);
}

function failed(error: unknown, others: Rows): HttpReply {
  if (error instanceof TokaidoError) return rpcError(error, others);
  throw error;
}

/** A table of many rows, without holding up anybody. */
function renderInPieces(rows: Rows, { host, isOpen }: RpcSession): HttpReply | Promise<HttpReply> {
  const choice = new EncodingChoice();
  const pieces: Buffer[] = [];
  let looked = 0;
  let rendered = 0;
  const step = (): HttpReply | undefined => {
    for (const end = Math.min(rows.length, looked + PIECE_ROWS); looked < end; looked++) {
      const [name, value] = rows[looked] as Row;
      choice.addText(name);
      choice.add(value);
    }
    if (looked < rows.length) return undefined;
    const { encoding } = choice;
    pieces.push(renderRows(rows.slice(rendered, rendered + PIECE_ROWS), encoding));
    rendered += PIECE_ROWS;
    return rendered < rows.length ? undefined : tableReply(200, encoding, Buffer.concat(pieces));
  };
  return host.slices.run(step, isOpen);
}
