/**
 * HTTP/1.x requests out of bytes, and response heads into bytes: as much of RFC 9112 as a key-value server needs, by hand
 * because it is the hottest path (docs/decisions). No sockets, no clock. Refuses what could be read in two ways
 * (doubled or mixed length headers), so that no proxy in front can be fooled.
 */
import { TokaidoError } from '../base/errors.js';
import { type Body, bodyTooLarge, ChunkedBody } from './chunked-body.js';
import { HTTP_REASONS } from './errors.js';

export interface HttpLimits {
  /** Longest request line and headers together, bytes. */
  readonly headBytes: number;
  /** Largest body, bytes. */
  readonly bodyBytes: number;
}

export interface HttpRequest {
  readonly method: string;
  /** As sent: not decoded. */
  readonly target: string;
  /** By lower-case name; of a repeated header, the last. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
  readonly keepAlive: boolean;
}

/** What a parse attempt found. */
export type HttpParse =
  | { readonly kind: 'request'; readonly request: HttpRequest; readonly bytes: number }
  /** `expectsContinue`: the client waits for "100 Continue" before it sends the body. */
  | { readonly kind: 'incomplete'; readonly expectsContinue: boolean }
  /** Not to be answered in HTTP's form: these bytes are no request line. */
  | { readonly kind: 'not-http' };

const CRLF2 = Buffer.from('\r\n\r\n');
const LF2 = Buffer.from('\n\n');
const NO_BODY = Buffer.alloc(0);
const METHOD = /^[A-Z]{1,16}$/;
/** What a request line ends with, but for the last digit. */
const VERSION = ' HTTP/1.';
const HEADER = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/;
const MAX_HEADERS = 100;
/** Longer headers are not kept for comparison: an idle connection holds what it keeps. */
const MAX_KEPT_CHARACTERS = 1024;

function malformed(message: string): TokaidoError {
  return new TokaidoError('MALFORMED', message);
}

/** A head as it was sent, with what stands around its lines taken off, and where it ends (after the blank line). */
interface RawHead {
  readonly text: string;
  readonly end: number;
}

/** `undefined` while the blank line is missing. Bare line feeds are accepted, as the reference does. */
function rawHead(bytes: Buffer): RawHead | undefined {
  const crlf = bytes.indexOf(CRLF2);
  if (crlf < 0) {
    const lf = bytes.indexOf(LF2);
    return lf < 0 ? undefined : { text: bytes.toString('latin1', 0, lf).trimEnd(), end: lf + 2 };
  }
  const text = bytes.toString('latin1', 0, crlf);
  // What comes behind, in a pipeline, is not looked through for each request.
  const lf = text.indexOf('\n\n');
  return lf < 0 ? { text: text.trimEnd(), end: crlf + 4 } : { text: text.slice(0, lf).trimEnd(), end: lf + 2 };
}

/** What the headers of a request say, whatever its first line is. */
interface Fields {
  readonly headers: ReadonlyMap<string, string>;
  /** Whether the connection goes on when the request is of HTTP/1.1, and of 1.0. */
  readonly keepsNew: boolean;
  readonly keepsOld: boolean;
  readonly expectsContinue: boolean;
  readonly body: BodyForm;
}

function parseFields(block: string, bodyBytes: number): Fields {
  const headers = parseHeaders(block === '' ? [] : block.split(/\r?\n/));
  const expectsContinue = headers.get('expect')?.toLowerCase() === '100-continue';
  // A list of options; `close` wins.
  const options =
    headers
      .get('connection')
      ?.toLowerCase()
      .split(/[ \t]*,[ \t]*/) ?? [];
  const keepsNew = !options.includes('close');
  const keepsOld = keepsNew && options.includes('keep-alive');
  return { headers, keepsNew, keepsOld, expectsContinue, body: bodyForm(headers, bodyBytes) };
}

function parseHeaders(lines: readonly string[]): Map<string, string> {
  if (lines.length > MAX_HEADERS) throw new TokaidoError('TOO_LARGE', `more than ${MAX_HEADERS} headers`);
  const headers = new Map<string, string>();
  for (const text of lines) {
    const [, name, value] = HEADER.exec(text) ?? [];
    if (name === undefined || value === undefined) throw malformed('a header line does not parse');
    const key = name.toLowerCase();
    if (headers.has(key) && (key === 'content-length' || key === 'transfer-encoding'))
      throw malformed(`${key} is given twice`);
    headers.set(key, value);
  }
  return headers;
}

type BodyForm = { readonly kind: 'sized'; readonly bytes: number } | { readonly kind: 'chunked' };

/** A request whose head is understood and whose body is still coming. */
interface Head {
  readonly method: string;
  readonly target: string;
  readonly keepAlive: boolean;
  readonly fields: Fields;
  /** Of the head. */
  readonly bytes: number;
}

/** Understands one request after the other; looks at no byte of a long body twice. */
export class HttpDecoder {
  readonly #limits: HttpLimits;
  #head: Head | undefined;
  #chunked: ChunkedBody | undefined;
  /** Headers of the last request, as they were sent and as they were understood. */
  #lastBlock = '';
  #lastFields: Fields | undefined;

  constructor(limits: HttpLimits) {
    this.#limits = limits;
  }

  /** Parses the request at the beginning of `bytes`, which grew since the last call. Errors: `MALFORMED`, `TOO_LARGE`. */
  parse(bytes: Buffer): HttpParse {
    if (this.#head === undefined) {
      const head = this.#parseHead(bytes);
      if (head === 'incomplete') return { kind: 'incomplete', expectsContinue: false };
      if (head === 'not-http') return { kind: 'not-http' };
      this.#head = head;
      if (head.fields.body.kind === 'chunked') this.#chunked = new ChunkedBody(head.bytes, this.#limits.bodyBytes);
    }
    const { method, target, keepAlive, fields, bytes: start } = this.#head;
    const { headers, expectsContinue, body: form } = fields;
    const whole = form.kind === 'sized' ? sizedBody(bytes, start, form.bytes) : this.#chunked?.parse(bytes);
    if (whole === undefined) return { kind: 'incomplete', expectsContinue: expectsContinue && bytes.length === start };
    this.#head = undefined;
    this.#chunked = undefined;
    const { body, end } = whole;
    return { kind: 'request', request: { method, target, headers, body, keepAlive }, bytes: end };
  }

  #parseHead(bytes: Buffer): Head | 'incomplete' | 'not-http' {
    const { headBytes, bodyBytes } = this.#limits;
    const raw = rawHead(bytes);
    if ((raw === undefined ? bytes.length : raw.end) > headBytes) {
      throw new TokaidoError('TOO_LARGE', `a request head of more than ${headBytes} bytes`);
    }
    if (raw === undefined) return 'incomplete';
    const { text, end } = raw;
    const lineEnd = text.indexOf('\n');
    const line = lineEnd < 0 ? text : text.slice(0, text[lineEnd - 1] === '\r' ? lineEnd - 1 : lineEnd);
    // By hand: a regular expression took as long as all the rest.
    const methodEnd = line.indexOf(' ');
    const targetEnd = line.length - VERSION.length - 1;
    const minor = line[line.length - 1];
    if (methodEnd >= targetEnd || !line.startsWith(VERSION, targetEnd) || (minor !== '1' && minor !== '0')) {
      return 'not-http';
    }
    const method = line.slice(0, methodEnd);
    const target = line.slice(methodEnd + 1, targetEnd);
    if (!METHOD.test(method) || target === '' || target.includes(' ')) return 'not-http';
    const fields = this.#fields(lineEnd < 0 ? '' : text.slice(lineEnd + 1), bodyBytes);
    return { method, target, keepAlive: minor === '1' ? fields.keepsNew : fields.keepsOld, fields, bytes: end };
  }

  /** A client sends the same headers again and again: those of its last request need no second look. */
  #fields(block: string, bodyBytes: number): Fields {
    if (block === this.#lastBlock && this.#lastFields !== undefined) return this.#lastFields;
    const fields = parseFields(block, bodyBytes);
    if (block.length <= MAX_KEPT_CHARACTERS) {
      this.#lastBlock = block;
      this.#lastFields = fields;
    }
    return fields;
  }
}

function sizedBody(bytes: Buffer, start: number, size: number): Body | undefined {
  if (bytes.length < start + size) return undefined;
  return { body: size === 0 ? NO_BODY : bytes.subarray(start, start + size), end: start + size };
}

/** How the body is delimited. Two ways at once are refused: they are how requests are smuggled past a proxy. */
function bodyForm(headers: ReadonlyMap<string, string>, limit: number): BodyForm {
  const coding = headers.get('transfer-encoding');
  const length = headers.get('content-length');
  if (coding !== undefined) {
    if (length !== undefined) throw malformed('both transfer-encoding and content-length');
    if (coding.toLowerCase() !== 'chunked')
      throw new TokaidoError('NOT_IMPLEMENTED', 'only the chunked transfer coding is known');
    return { kind: 'chunked' };
  }
  if (length !== undefined && !/^\d{1,15}$/.test(length)) throw malformed('content-length is not a number');
  const size = length === undefined ? 0 : Number(length);
  if (size > limit) throw bodyTooLarge(limit);
  return { kind: 'sized', bytes: size };
}

export interface HttpReply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
  /** Length to announce when no body is sent (HEAD). */
  readonly announcedBytes?: number;
}

/** A body up to this size goes out in one piece with its head. */
const MAX_JOINED_BYTES = 4096;

/** How heads with a status begin, by status and by whether the connection goes on; made anew when the date changes. */
const starts = new Map<number, { readonly date: string; readonly bytes: Buffer }>();

function startOf(status: number, date: string, keepAlive: boolean): Buffer {
  const which = keepAlive ? status : -status;
  const known = starts.get(which);
  if (known?.date === date) return known.bytes;
  const end = keepAlive ? '' : 'Connection: close\r\n';
  const reason = HTTP_REASONS[status] ?? 'Unknown';
  const bytes = Buffer.from(`HTTP/1.1 ${status} ${reason}\r\nServer: Tokaido\r\nDate: ${date}\r\n${end}`, 'latin1');
  starts.set(which, { date, bytes });
  return bytes;
}

/** Renders replies. `date` is the value of the Date header, which the caller caches. */
export function renderHttp(reply: HttpReply, date: string, keepAlive: boolean): Buffer[] {
  const body = reply.body ?? NO_BODY;
  const start = startOf(reply.status, date, keepAlive);
  // A 304 would announce the length of what it does not send.
  let rest = reply.status === 304 ? '' : `Content-Length: ${reply.announcedBytes ?? body.length}\r\n`;
  for (const name in reply.headers) rest += `${name}: ${reply.headers[name]}\r\n`;
  rest += '\r\n';
  const headBytes = start.length + rest.length;
  // One piece is written at less cost than two.
  const isJoined = body.length <= MAX_JOINED_BYTES;
  const bytes = Buffer.allocUnsafe(isJoined ? headBytes + body.length : headBytes);
  bytes.set(start, 0);
  bytes.write(rest, start.length, 'latin1');
  if (!isJoined) return [bytes, body];
  bytes.set(body, headBytes);
  return [bytes];
}

export const CONTINUE: Buffer = Buffer.from('HTTP/1.1 100 Continue\r\n\r\n');
