/**
 * TSV-RPC, Kyoto Tycoon's remote procedures over HTTP: a table of names and values in, one out. What does not decode is
 * refused, never guessed.
 */
import { type ErrorCode, TokaidoError } from '../base/errors.js';
import { PROTOCOL_ERRORS } from './errors.js';
import type { HttpReply, HttpRequest } from './http.js';
import { type ColumnEncoding, decodeColumn, EncodingChoice, encodeColumn } from './kt-rpc/columns.js';
import { decodePercent, decodePercentText } from './percent.js';

/** Most arguments of a call: each costs time and memory beside its bytes. */
export const MAX_ARGUMENTS = 200_000;

/** By name, one character per byte. */
export type Arguments = ReadonlyMap<string, Buffer>;
/** A row of an answer; the name holds one character per byte. */
export type Row = readonly [string, Buffer];

export interface RpcCall {
  readonly procedure: string;
  readonly input: Arguments;
}

const PATH = '/rpc/';
const FORM = 'application/x-www-form-urlencoded';
const TABLE = 'text/tab-separated-values';

/** Unknown encodings are taken as raw, as the reference does. */
function encodingOf(contentType: string): ColumnEncoding {
  const [, letter] = /;\s*colenc="?([bqu])/i.exec(contentType) ?? [];
  return letter === undefined ? 'raw' : (letter.toUpperCase() as ColumnEncoding);
}

function checkRoom(input: Arguments): void {
  if (input.size >= MAX_ARGUMENTS) {
    throw new TokaidoError('TOO_LARGE', `a call with more than ${MAX_ARGUMENTS} arguments`, {
      hint: 'send several smaller calls',
    });
  }
}

/** Pairs end at `&` or, as for the reference, at `;`. */
function readForm(text: string, input: Map<string, Buffer>): void {
  // One after the other: a list of all pairs would be made before they are counted.
  const end = /[&;]/g;
  for (let from = 0; from < text.length; from = end.lastIndex) {
    end.lastIndex = from;
    const found = end.exec(text);
    if (found === null) end.lastIndex = text.length;
    readPair(text.slice(from, found?.index), input);
  }
}

function readPair(pair: string, input: Map<string, Buffer>): void {
  if (pair === '') return;
  const at = pair.indexOf('=');
  const name = decodePercentText(at < 0 ? pair : pair.slice(0, at));
  checkRoom(input);
  input.set(name, decodePercent(at < 0 ? '' : pair.slice(at + 1)));
}

/**
 * A row ends at a line feed (or with the body); its name at the first tab. Lines without a tab mean nothing. Raw values
 * are views of the body.
 */
function readTable(body: Buffer, encoding: ColumnEncoding, input: Map<string, Buffer>): void {
  const text = body.toString('latin1');
  const isRaw = encoding === 'raw';
  for (let from = 0; from < text.length; ) {
    const feed = text.indexOf('\n', from);
    const next = feed < 0 ? text.length : feed;
    const end = next > from && text.charCodeAt(next - 1) === 0x0d ? next - 1 : next;
    const tab = text.indexOf('\t', from);
    if (tab >= 0 && tab < end) {
      const column = text.slice(from, tab);
      const name = isRaw ? column : decodeColumn(encoding, column).toString('latin1');
      checkRoom(input);
      input.set(name, isRaw ? body.subarray(tab + 1, end) : decodeColumn(encoding, text.slice(tab + 1, end)));
    }
    from = next + 1;
  }
}

/** Whether a request calls a procedure. */
export function isRpc({ target }: HttpRequest): boolean {
  return target.startsWith(PATH);
}

/** A call of `/rpc/NAME`, or `undefined` for any other target. Errors: `MALFORMED`. */
export function parseRpc(request: HttpRequest): RpcCall | undefined {
  if (!isRpc(request)) return undefined;
  const { target, headers, body } = request;
  const query = target.indexOf('?');
  const procedure = decodePercentText(target.slice(PATH.length, query < 0 ? undefined : query));
  const input = new Map<string, Buffer>();
  if (query >= 0) readForm(target.slice(query + 1), input);
  const type = headers.get('content-type')?.toLowerCase();
  if (type === TABLE) readTable(body, 'raw', input);
  else if (type?.startsWith(TABLE) === true) readTable(body, encodingOf(type), input);
  else if (type?.startsWith(FORM) === true) readForm(body.toString('latin1'), input);
  return { procedure, input };
}

function byText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function line([name, value]: Row, encoding: ColumnEncoding): string {
  const column = encoding === 'raw' ? name : encodeColumn(encoding, Buffer.from(name, 'latin1'));
  return `${column}\t${encodeColumn(encoding, value)}\n`;
}

/** Renders rows in their order, for tables that are rendered piece by piece. */
export function renderRows(rows: readonly Row[], encoding: ColumnEncoding): Buffer {
  return Buffer.from(rows.map((row) => line(row, encoding)).join(''), 'latin1');
}

/** The headers of a table; one object for each encoding, because answers are many. */
const HEADERS: Readonly<Record<ColumnEncoding, Readonly<Record<string, string>>>> = {
  raw: { 'Content-Type': TABLE },
  B: { 'Content-Type': `${TABLE}; colenc=B` },
  Q: { 'Content-Type': `${TABLE}; colenc=Q` },
  U: { 'Content-Type': `${TABLE}; colenc=U` },
};

export function tableReply(status: number, encoding: ColumnEncoding, body: Buffer): HttpReply {
  return { status, headers: HEADERS[encoding], body };
}

/** An answer as the reference renders it: its choice of an encoding, rows in the order of their encoded names. */
export function rpcReply(status: number, output: readonly Row[]): HttpReply {
  const choice = new EncodingChoice();
  for (const [name, value] of output) {
    choice.addText(name);
    choice.add(value);
  }
  const { encoding } = choice;
  // A tab sorts before everything that an encoded name may hold, so the order of lines is that of names.
  const lines = output.map((row) => line(row, encoding)).sort(byText);
  return tableReply(status, encoding, Buffer.from(lines.join(''), 'latin1'));
}

/** Errors whose message is the whole text, as in the reference; others name the database's error before it. */
const BARE: ReadonlySet<ErrorCode> = new Set(['MALFORMED', 'NO_DATABASE', 'NOT_IMPLEMENTED', 'TIMEOUT']);
/** Errors that the reference has too, in these very words: they need no code of ours. */
const SHARED: ReadonlySet<ErrorCode> = new Set([...BARE, 'NO_RECORD', 'DUPLICATE_RECORD', 'CONFLICT']);
const MAX_ERROR_BYTES = 250;

/** The text of an error as a column: nothing in it may break the table. */
export function errorRow(error: TokaidoError): Row {
  const hint = error.hint === undefined ? '' : ` (${error.hint})`;
  const text = BARE.has(error.code) ? error.message : `DB: ${PROTOCOL_ERRORS[error.code].kt}: ${error.message}${hint}`;
  const plain = Array.from(text, (char) => (char < ' ' || char === '\x7f' ? ' ' : char)).join('');
  return ['ERROR', Buffer.from(plain, 'utf8').subarray(0, MAX_ERROR_BYTES)];
}

/** An error in the form of a table, after `others`. */
export function rpcError(error: TokaidoError, others: readonly Row[] = []): HttpReply {
  // A missing record is a state of the database here, not a missing resource.
  const status = error.code === 'NO_RECORD' ? 450 : PROTOCOL_ERRORS[error.code].http;
  const reply = rpcReply(status, [errorRow(error), ...others]);
  if (SHARED.has(error.code)) return reply;
  const challenge = status === 401 ? { 'WWW-Authenticate': 'Bearer' } : {};
  return { ...reply, headers: { ...reply.headers, 'X-Tokaido-Error': error.code, ...challenge } };
}
