/**
 * The TypeScript client: one connection to one node, pipelined, reconnecting. Single records go over REST, because its
 * errors carry their reasons; bulk calls over the binary protocol, because it is the fast one. Both share the
 * connection, and the server answers in order.
 */
import { connect, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { codeOf, type ErrorCode, messageOf, TokaidoError } from '../base/errors.js';
import { NEVER_EXPIRES } from '../base/types.js';
import { DEFAULT_WAIT_MS, parseFeedPosition } from '../protocol/at-least.js';
import { ByteQueue } from '../protocol/byte-queue.js';
import { PROTOCOL_ERRORS } from '../protocol/errors.js';
import {
  ClientDecoder,
  type ClientReply,
  encodeCall,
  encodeGetBulk,
  encodeHttp,
  encodeRemoveBulk,
  encodeSetBulk,
  parseRows,
  type ReadRecord,
} from './wire.js';

export interface ClientOptions {
  /** `host:port` of a node's client listener. Default `127.0.0.1:1978`. */
  readonly server?: string;
  /** Longest wait for one answer, ms. Default 5000. */
  readonly timeoutMs?: number;
  /** Most requests under way at a time; more are refused with `OVERLOADED`. Default 10000. */
  readonly maxRequests?: number;
  /** TLS to the listener; plaintext when absent. */
  readonly tls?: ClientTlsOptions;
  /** A token for a listener whose policy names it. Bulk calls cannot bring one: see `setBulk`. */
  readonly token?: string;
}

/** PEM texts. */
export interface ClientTlsOptions {
  /** Whose certificate the server must have. */
  readonly ca: string;
  /** What this client proves itself with, if the listener asks for it. */
  readonly certificate?: string;
  readonly key?: string;
  /** Name that the server's certificate must carry; the host of `server` when absent. */
  readonly serverName?: string;
}

export interface ClientRecord {
  readonly value: Buffer;
  /** Expiration time, ms since 1970; `undefined` when it never expires. */
  readonly xtMs: number | undefined;
}

/** What a remote procedure answered. */
export interface RpcAnswer {
  /** HTTP's: 200 is a success, 450 a logical no (`ERROR` says which). */
  readonly status: number;
  /** By name, one byte a character. */
  readonly rows: ReadonlyMap<string, Buffer>;
}

export type Key = string | Buffer;

/** What an answer must include at least, and how long it may be waited for. */
export interface AtLeastOptions {
  /** What `pg_current_wal_lsn()` said behind the commit, or `FEED:NUMBER`. */
  readonly position: string;
  /** Longest wait of the node for it, ms; at most a minute. Default 1000. */
  readonly waitMs?: number;
}

interface Waiting {
  resolve(reply: ClientReply): void;
  reject(error: unknown): void;
  readonly deadline: NodeJS.Timeout;
}

function bytes(key: Key): Buffer {
  return typeof key === 'string' ? Buffer.from(key, 'utf8') : key;
}

/** The wire has 16 bits. Errors: `MALFORMED`. */
function checkDatabase(database: number): number {
  if (Number.isInteger(database) && database >= 0 && database <= 0xffff) return database;
  throw new TokaidoError('MALFORMED', `${database} is not the number of a database: 0 to 65535`);
}

function percent(key: Buffer): string {
  let out = '';
  for (const byte of key) {
    const character = String.fromCharCode(byte);
    out += /[A-Za-z0-9._~-]/.test(character) ? character : `%${byte.toString(16).padStart(2, '0')}`;
  }
  return out;
}

function atLeastHeaders(atLeast: AtLeastOptions | undefined): Record<string, string> {
  if (atLeast === undefined) return {};
  const wait = atLeast.waitMs === undefined ? {} : { 'X-Tokaido-Wait': `${Math.round(atLeast.waitMs)}ms` };
  // Checked here: a header must not carry more than a position.
  parseFeedPosition(atLeast.position);
  return { 'X-Tokaido-At-Least': atLeast.position, ...wait };
}

function waitOf(atLeast: AtLeastOptions | undefined): number {
  return atLeast === undefined ? 0 : (atLeast.waitMs ?? DEFAULT_WAIT_MS);
}

function isErrorCode(text: string | undefined): text is ErrorCode {
  return text !== undefined && Object.hasOwn(PROTOCOL_ERRORS, text);
}

export class TokaidoClient {
  readonly #host: string;
  readonly #port: number;
  readonly #timeoutMs: number;
  readonly #maxRequests: number;
  readonly #tls: ClientTlsOptions | undefined;
  /** What every HTTP request brings. */
  readonly #headers: Readonly<Record<string, string>>;
  readonly #received = new ByteQueue();
  readonly #decoder = new ClientDecoder();
  #socket: Socket | undefined;
  #waiting: Waiting[] = [];
  #connections = 0;
  #closed = false;

  /** Errors: `CONFIG`. */
  constructor(options: ClientOptions = {}) {
    const { server = '127.0.0.1:1978', timeoutMs = 5000, maxRequests = 10_000, tls, token } = options;
    const at = server.lastIndexOf(':');
    this.#host = server.slice(0, at).replace(/^\[|\]$/g, '');
    this.#port = Number(server.slice(at + 1));
    this.#timeoutMs = timeoutMs;
    this.#maxRequests = maxRequests;
    this.#tls = tls;
    // A header must not carry more than a token.
    if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) throw new TokaidoError('CONFIG', 'this is not a token');
    this.#headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
    if (at < 1 || !/^\d{1,5}$/.test(server.slice(at + 1)) || this.#port > 65_535)
      throw new TokaidoError('CONFIG', `${server} is not HOST:PORT`);
  }

  /**
   * `undefined` when there is no such record. With `atLeast` the node first waits until it has what the source had
   * committed at that position. Errors: `NO_DATABASE`, `NOT_READY`, `NETWORK`, `TIMEOUT`.
   */
  async get(
    key: Key,
    { database, atLeast }: { readonly database?: string; readonly atLeast?: AtLeastOptions } = {},
  ): Promise<ClientRecord | undefined> {
    const reply = await this.#http('GET', key, database, atLeastHeaders(atLeast), undefined, waitOf(atLeast));
    if (reply.status === 404) return undefined;
    this.#check(reply);
    const xt = reply.headers.get('x-kt-xt');
    return { value: reply.body, xtMs: xt === undefined ? undefined : Date.parse(xt) };
  }

  /** Errors: `DUPLICATE_RECORD` (mode add), `NO_RECORD` (mode replace), `READ_ONLY`, `TOO_LARGE` and those of `get`. */
  async set(
    key: Key,
    value: Key,
    options: { readonly database?: string; readonly xtMs?: number; readonly mode?: 'set' | 'add' | 'replace' } = {},
  ): Promise<void> {
    const headers: Record<string, string> = {};
    if (options.mode !== undefined) headers['X-Kt-Mode'] = options.mode;
    // Seconds on the wire: rounded up, a record never expires before its time.
    if (options.xtMs !== undefined) headers['X-Kt-Xt'] = String(Math.ceil(options.xtMs / 1000));
    this.#check(await this.#http('PUT', key, options.database, headers, bytes(value)));
  }

  /** Returns whether there was such a record. Errors: `READ_ONLY` and those of `get`. */
  async remove(key: Key, { database }: { readonly database?: string } = {}): Promise<boolean> {
    const reply = await this.#http('DELETE', key, database, {}, undefined);
    if (reply.status === 404) return false;
    this.#check(reply);
    return true;
  }

  /**
   * Values by key, under the keys as they were given: a text by its value, a Buffer by itself. Keys without a record are
   * missing. `database` is its number. Errors: `MALFORMED`, `TOO_LARGE`, `NETWORK`, `TIMEOUT`.
   */
  async getBulk<K extends Key>(keys: readonly K[], database = 0): Promise<Map<K, Buffer>> {
    const values = await this.getMany(keys.map((key) => ({ database, key })));
    const found = new Map<K, Buffer>();
    for (const [index, key] of keys.entries()) {
      const value = values[index];
      if (value !== undefined) found.set(key, value);
    }
    return found;
  }

  /** Values of keys of several databases (by number) in one call, in the order asked; `undefined` without a record. */
  async getMany(refs: readonly { readonly database: number; readonly key: Key }[]): Promise<(Buffer | undefined)[]> {
    return (await this.getRecords(refs)).map((record) => record?.value);
  }

  /** As `getMany`, with the expiration times, which are in whole seconds. */
  async getRecords(
    refs: readonly { readonly database: number; readonly key: Key }[],
  ): Promise<(ReadRecord | undefined)[]> {
    this.#checkBulk();
    const wanted = refs.map(({ database, key }) => ({ database: checkDatabase(database), key: bytes(key) }));
    const reply = await this.#ask(encodeGetBulk(wanted), false);
    if (reply.kind !== 'records') {
      throw new TokaidoError('MALFORMED', 'the server refused the bulk request', {
        hint: 'ask for fewer or smaller records at a time',
      });
    }
    // The answer keeps the order of the question and leaves out what is not there.
    let at = 0;
    const records = wanted.map(({ database, key }) => {
      const record = reply.records[at];
      if (record === undefined || record.database !== database || !record.key.equals(key)) return undefined;
      at++;
      return record;
    });
    if (at === reply.records.length) return records;
    throw new TokaidoError('MALFORMED', 'the server answered with records that were not asked for');
  }

  /** One transaction. A third element is the expiration time, ms since 1970. Returns how many records were stored. */
  async setBulk(records: Iterable<readonly [Key, Key, number?]>, database = 0): Promise<number> {
    this.#checkBulk();
    return this.#count(
      await this.#ask(
        encodeSetBulk(
          [...records].map(([key, value, xtMs = NEVER_EXPIRES]) => [bytes(key), bytes(value), xtMs]),
          checkDatabase(database),
        ),
        false,
      ),
    );
  }

  /** Any remote procedure. Errors: those of the connection; what the server says is in the answer. */
  async call(procedure: string, input: Readonly<Record<string, Key>> = {}): Promise<RpcAnswer> {
    const reply = await this.#ask(encodeCall(procedure, `${this.#host}:${this.#port}`, input, this.#headers), false);
    if (reply.kind !== 'http') throw new TokaidoError('MALFORMED', 'the server does not speak HTTP');
    return { status: reply.status, rows: parseRows(reply.body, reply.headers.get('content-type') ?? '') };
  }

  /**
   * Waits until the node has everything that the source had committed at a position: every read that comes after it, on
   * this node, sees that. `database`, by name, is the one that will be read. Errors: `TIMEOUT`, `NETWORK`, `MALFORMED`.
   */
  async reach(atLeast: AtLeastOptions, { database }: { readonly database?: string } = {}): Promise<void> {
    const path = `/rpc/void${database === undefined ? '' : `?DB=${percent(bytes(database))}`}`;
    const headers = { ...this.#headers, ...atLeastHeaders(atLeast) };
    const request = encodeHttp('GET', path, `${this.#host}:${this.#port}`, headers, undefined);
    const reply = await this.#ask(request, false, waitOf(atLeast));
    if (reply.kind !== 'http') throw new TokaidoError('MALFORMED', 'the server does not speak HTTP');
    if (reply.status === 200) return;
    const rows = parseRows(reply.body, reply.headers.get('content-type') ?? '');
    throw new TokaidoError(reply.status === 503 ? 'TIMEOUT' : 'MALFORMED', rows.get('ERROR')?.toString() ?? 'refused');
  }

  /** Number of connections made so far: a cursor lives no longer than the one it was made on. */
  get connections(): number {
    return this.#connections;
  }

  /** One transaction. Returns how many records were there. */
  async removeBulk(keys: readonly Key[], database = 0): Promise<number> {
    this.#checkBulk();
    const refs = keys.map((key) => ({ database: checkDatabase(database), key: bytes(key) }));
    return this.#count(await this.#ask(encodeRemoveBulk(refs), false));
  }

  /** Bulk calls go over the binary protocol, which has no place for a token. Errors: `UNAUTHENTICATED`. */
  #checkBulk(): void {
    if (this.#headers.Authorization === undefined) return;
    throw new TokaidoError('UNAUTHENTICATED', 'bulk calls cannot bring a token', {
      hint: "use a client certificate, or call('set_bulk', ...), which can",
    });
  }

  #count(reply: ClientReply): number {
    if (reply.kind === 'count') return reply.count;
    throw new TokaidoError('READ_ONLY', 'the server refused the bulk write', {
      hint: 'write to the root; `tokaido set` says which it is',
    });
  }

  async #http(
    method: string,
    key: Key,
    database: string | undefined,
    headers: Record<string, string>,
    body: Buffer | undefined,
    extraMs = 0,
  ) {
    const path = `/${database === undefined ? '' : `${percent(bytes(database))}/`}${percent(bytes(key))}`;
    const reply = await this.#ask(
      encodeHttp(method, path, `${this.#host}:${this.#port}`, { ...this.#headers, ...headers }, body),
      method === 'HEAD',
      extraMs,
    );
    if (reply.kind !== 'http') throw new TokaidoError('MALFORMED', 'the server does not speak HTTP');
    return reply;
  }

  #check({ status, headers, body }: Extract<ClientReply, { kind: 'http' }>): void {
    if (status < 300) return;
    const code = headers.get('x-tokaido-error');
    const [message = '', hint] = body.toString('utf8').trimEnd().split('\n');
    if (isErrorCode(code)) throw new TokaidoError(code, message, hint === undefined ? {} : { hint });
    const kt = headers.get('x-kt-error');
    if (status === 404) throw new TokaidoError('NO_RECORD', 'no such record');
    if (kt?.includes(' 6:') === true) throw new TokaidoError('DUPLICATE_RECORD', 'there is such a record already');
    if (kt?.includes(' 7:') === true) throw new TokaidoError('NO_RECORD', 'there is no such record to replace');
    throw new TokaidoError('MALFORMED', `the server answered ${status} ${message}`);
  }

  async #ask(request: Buffer, isHead: boolean, extraMs = 0): Promise<ClientReply> {
    if (this.#closed) throw new TokaidoError('NETWORK', 'the client is closed');
    if (this.#waiting.length >= this.#maxRequests) {
      throw new TokaidoError('OVERLOADED', `${this.#maxRequests} requests are under way already`, {
        hint: 'await some of them first, or raise maxRequests',
      });
    }
    const socket = this.#connected();
    const limitMs = this.#timeoutMs + extraMs;
    return await new Promise<ClientReply>((resolve, reject) => {
      const deadline = setTimeout(() => {
        // Answers come in order: after a lost one none can be trusted to be the right one.
        this.#drop(
          socket,
          new TokaidoError('TIMEOUT', `no answer from ${this.#host}:${this.#port} within ${limitMs} ms`),
        );
      }, limitMs);
      this.#waiting.push({ resolve, reject, deadline });
      this.#decoder.expect(isHead);
      socket.write(request);
    });
  }

  #connected(): Socket {
    if (this.#socket !== undefined) return this.#socket;
    const socket = this.#connect();
    this.#socket = socket;
    this.#connections++;
    socket.on('data', (chunk: Buffer) => {
      if (socket === this.#socket) this.#onData(chunk, socket);
    });
    const lost = (error?: Error): void => {
      const reason = error === undefined ? 'the server closed the connection' : messageOf(error) || codeOf(error);
      const hint =
        codeOf(error) === 'ECONNREFUSED'
          ? { hint: 'check that the node runs, and that --server names its client listener' }
          : {};
      this.#drop(socket, new TokaidoError('NETWORK', `${this.#host}:${this.#port}: ${reason}`, hint));
    };
    socket.on('error', lost);
    socket.on('close', () => lost());
    return socket;
  }

  #connect(): Socket {
    const to = { host: this.#host, port: this.#port, noDelay: true };
    if (this.#tls === undefined) return connect(to);
    const { ca, certificate: cert, key, serverName } = this.#tls;
    // An address is compared with the addresses in the certificate, and may not be sent as a name.
    const servername = serverName ?? (isIP(this.#host) === 0 ? this.#host : '');
    const proof = { ...(cert === undefined ? {} : { cert }), ...(key === undefined ? {} : { key }) };
    const socket = connectTls({ ...to, ...proof, ca, servername, ALPNProtocols: ['http/1.1'], minVersion: 'TLSv1.2' });
    socket.setNoDelay(true);
    return socket;
  }

  #onData(chunk: Buffer, socket: Socket): void {
    this.#received.append(chunk);
    try {
      for (;;) {
        const parsed = this.#decoder.parse(this.#received.view());
        if (parsed === undefined) return;
        this.#received.consume(parsed.bytes);
        const waiting = this.#waiting.shift();
        if (waiting === undefined) return;
        clearTimeout(waiting.deadline);
        waiting.resolve(parsed.reply);
      }
    } catch (error) {
      this.#drop(socket, error);
    }
  }

  /** Forgets a connection; the next call makes a new one. */
  #drop(socket: Socket, error: unknown): void {
    socket.destroy();
    if (socket !== this.#socket) return;
    this.#socket = undefined;
    this.#received.consume(this.#received.length);
    this.#decoder.reset();
    for (const waiting of this.#waiting.splice(0)) {
      clearTimeout(waiting.deadline);
      waiting.reject(error);
    }
  }

  close(): void {
    this.#closed = true;
    if (this.#socket !== undefined) this.#drop(this.#socket, new TokaidoError('NETWORK', 'the client was closed'));
  }
}
