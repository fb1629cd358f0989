/**
 * TSV-RPC, Kyoto Tycoon's remote procedures over HTTP: name and value columns, raw or encoded as Base64 (`B`),
 * quoted-printable (`Q`) or URL (`U`). What does not decode is refused, never guessed.
 */
import { TokaidoError } from '../base/errors.js';
import type { HttpReply, HttpRequest } from './http.js';
import { decodePercent } from './rest.js';

type Encoding = 'raw' | 'B' | 'Q' | 'U';
export type Arguments = ReadonlyMap<string, Buffer>;

export interface RpcCall {
  readonly procedure: string;
  readonly input: Arguments;
}

function decoder(encoding: Encoding): (column: string) => Buffer {
  switch (encoding) {
    case 'B':
      return (column) => {
        const text = column.trim();
        if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw new TokaidoError('MALFORMED', 'a column is not valid Base64');
        return Buffer.from(text, 'base64');
      };
    case 'Q':
      return (column) =>
        decodePercent(
          column
            .replace(/%/g, '%25')
            .replace(/=([0-9a-fA-F]{2})/g, '%$1')
            .replace(/=$/, ''),
        );
    case 'U':
      return (column) => decodePercent(column.replace(/\+/g, ' '));
    default:
      return (column) => Buffer.from(column, 'latin1');
  }
}

function encodingOf(contentType: string): Encoding {
  const [, letter] = /colenc=([A-Za-z]+)/.exec(contentType) ?? [];
  if (letter === undefined) return 'raw';
  if (letter === 'B' || letter === 'Q' || letter === 'U') return letter;
  throw new TokaidoError('MALFORMED', 'unknown column encoding');
}

function fromPairs(text: string): Map<string, Buffer> {
  const input = new Map<string, Buffer>();
  const decode = decoder('U');
  for (const pair of text.split('&')) {
    if (pair === '') continue;
    const at = pair.indexOf('=');
    input.set(decode(at < 0 ? pair : pair.slice(0, at)).toString('latin1'), decode(at < 0 ? '' : pair.slice(at + 1)));
  }
  return input;
}

/** A call of `/rpc/NAME`, or `undefined` for any other target. Errors: `MALFORMED`. */
export function parseRpc({ target, headers, body }: HttpRequest): RpcCall | undefined {
  if (!target.startsWith('/rpc/')) return undefined;
  const query = target.indexOf('?');
  const procedure = target.slice('/rpc/'.length, query < 0 ? undefined : query);
  const input = query < 0 ? new Map<string, Buffer>() : fromPairs(target.slice(query + 1));
  const type = headers.get('content-type') ?? '';
  if (type.startsWith('application/x-www-form-urlencoded')) {
    for (const [name, value] of fromPairs(body.toString('latin1'))) input.set(name, value);
  } else if (type.startsWith('text/tab-separated-values')) {
    const decode = decoder(encodingOf(type));
    for (const line of body.toString('latin1').split('\n')) {
      const text = line.endsWith('\r') ? line.slice(0, -1) : line;
      const tab = text.indexOf('\t');
      if (tab < 0) continue;
      const end = text.indexOf('\t', tab + 1);
      const name = decode(text.slice(0, tab)).toString('latin1');
      input.set(name, decode(text.slice(tab + 1, end < 0 ? undefined : end)));
    }
  }
  return { procedure, input };
}

/** Raw where every byte can stand for itself, Base64 otherwise: what the reference does when nobody asked for more. */
export function rpcReply(status: number, output: readonly (readonly [string, Buffer])[]): HttpReply {
  const raw = output.every(([name, value]) => isPlain(Buffer.from(name, 'latin1')) && isPlain(value));
  const column = (bytes: Buffer): string => (raw ? bytes.toString('latin1') : bytes.toString('base64'));
  const body = output.map(([name, value]) => `${column(Buffer.from(name, 'latin1'))}\t${column(value)}\n`).join('');
  const type = `text/tab-separated-values${raw ? '' : '; colenc=B'}`;
  return { status, headers: { 'Content-Type': type }, body: Buffer.from(body, 'latin1') };
}

function isPlain(bytes: Buffer): boolean {
  return bytes.every((byte) => byte >= 0x20 && byte !== 0x7f);
}
