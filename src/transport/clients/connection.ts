/**
 * One client connection of HTTP and the binary protocol: tells them apart by the first byte of each request, and lets
 * `Commands` do the work. Order, back-pressure and ends are those of every connection: `pipelined-connection.ts`.
 */
import type { Socket } from 'node:net';
import { TokaidoError } from '../../base/errors.js';
import { type AtLeast, atLeastOf } from '../../protocol/at-least.js';
import { CONTINUE, HttpDecoder, type HttpReply, type HttpRequest, renderHttp } from '../../protocol/http.js';
import { BINARY_ERROR, BinaryDecoder, type BinaryRequest } from '../../protocol/kt-binary.js';
import { errorReply, parseRest } from '../../protocol/rest.js';
import { isRpc, parseRpc, type RpcCall, rpcError } from '../../protocol/tsv.js';
import { type Answer, type PipelineContext, PipelinedConnection, type Work } from '../pipelined-connection.js';
import { answerRpc, orderOf } from '../rpc/procedures.js';
import { type RpcHost, RpcSession } from '../rpc/session.js';
import type { ClientAccess } from './access.js';
import { answerBinary, binaryOrder } from './binary.js';
import { answerRest, restOrder } from './http.js';

/** What all connections of a listener share. */
export interface ConnectionContext extends RpcHost, PipelineContext {
  /** Value of the Date header, cached per second. */
  date(): string;
  count(protocol: 'http' | 'binary'): void;
}

const HEAD_BYTES = 64 * 1024;
/** What a body may have beside a value: names, encodings. */
const BODY_EXTRA_BYTES = 4096;
const BINARY_RECORDS = 1_000_000;
const BINARY_BYTES = 256 * 1024 * 1024;
/** What one record of a request costs in memory beside its bytes: objects, views, and its place in a transaction. */
const RECORD_BYTES = 400;
/** First byte of a binary request is at least this; no HTTP method begins so. */
const FIRST_BINARY = 0x80;

export class ClientConnection extends PipelinedConnection {
  readonly #context: ConnectionContext;
  /** Where a policy is: what a request may do may depend on its token. */
  readonly #access: ClientAccess | undefined;
  #session: RpcSession;
  readonly #http: HttpDecoder;
  readonly #binary = new BinaryDecoder({ records: BINARY_RECORDS, requestBytes: BINARY_BYTES });
  #continued = false;

  /** With `access`, the context's commands are those of a client without a token. */
  constructor(socket: Socket, context: ConnectionContext, access?: ClientAccess) {
    super(socket, context);
    this.#context = context;
    this.#access = access;
    this.#session = new RpcSession(context);
    const bodyBytes = context.commands.limits.valueBytes + BODY_EXTRA_BYTES;
    this.#http = new HttpDecoder({ headBytes: HEAD_BYTES, bodyBytes });
  }

  protected onHalfClose(): void {
    this.#session.end();
  }

  protected onClose(): void {
    this.#session.close();
  }

  protected override get begunBytes(): number {
    return this.#binary.records * RECORD_BYTES;
  }

  protected next(bytes: Buffer): boolean {
    return (bytes[0] as number) >= FIRST_BINARY ? this.#nextBinary(bytes) : this.#nextHttp(bytes);
  }

  /** In the form that the bytes began in. */
  protected refusal(error: TokaidoError): Answer {
    const isBinary = (this.received.view()[0] ?? 0) >= FIRST_BINARY;
    return isBinary ? [BINARY_ERROR] : renderHttp(errorReply(error), this.#context.date(), false);
  }

  #nextHttp(bytes: Buffer): boolean {
    const parsed = this.#http.parse(bytes);
    if (parsed.kind === 'not-http') throw new TokaidoError('MALFORMED', 'this is neither HTTP nor the binary protocol');
    if (parsed.kind === 'incomplete') {
      if (parsed.expectsContinue && !this.#continued) {
        this.#continued = true;
        this.push([CONTINUE], false);
      }
      return false;
    }
    this.#continued = false;
    this.received.consume(parsed.bytes);
    this.#context.count('http');
    const { request } = parsed;
    if (isRpc(request)) this.#startRpc(request, parsed.bytes);
    else this.#startRest(request, parsed.bytes);
    return true;
  }

  /**
   * The session that a request of HTTP, or of the binary protocol (`undefined`), belongs to. Cursors belong to whoever made them: a request with another token begins a
   * session of its own. Called when the request starts, not while others that need theirs are under way. Errors:
   * `UNAUTHENTICATED`, `FORBIDDEN`.
   */
  #sessionOf(request: HttpRequest | undefined): RpcSession {
    if (this.#access === undefined) return this.#session;
    const commands = this.#access.authorized(request?.headers.get('authorization'));
    if (commands !== this.#session.host.commands) {
      this.#session.close();
      this.#session = new RpcSession({ ...this.#context, commands });
    }
    return this.#session;
  }

  #startRest(request: HttpRequest, bytes: number): void {
    const last = !request.keepAlive;
    const render = (reply: HttpReply): Answer => renderHttp(reply, this.#context.date(), request.keepAlive);
    const failed = (error: TokaidoError): Answer => render(errorReply(error, request.method === 'HEAD'));
    let atLeast: AtLeast | undefined;
    try {
      atLeast = atLeastOf(request);
    } catch (error) {
      this.push(failed(this.known(error)), last);
      return;
    }
    const answer = ({ host }: RpcSession): HttpReply | Promise<HttpReply> => answerRest(request, host.commands);
    const order = atLeast === undefined ? restOrder(request.method) : 'alone';
    const run = (): HttpReply | Promise<HttpReply> => {
      const session = this.#sessionOf(request);
      return atLeast === undefined ? answer(session) : notBefore(session, atLeast, databaseOf(request), answer);
    };
    this.start(order, () => this.run(run, render, failed, { bytes, order, last }));
  }

  #startRpc(request: HttpRequest, bytes: number): void {
    const { keepAlive, method } = request;
    const render = (reply: HttpReply): Answer => {
      return renderHttp(method === 'HEAD' ? withoutBody(reply) : reply, this.#context.date(), keepAlive);
    };
    const failed = (error: TokaidoError): Answer => render(rpcError(error));
    let call: RpcCall;
    let atLeast: AtLeast | undefined;
    try {
      call = parseRpc(request) as RpcCall;
      atLeast = atLeastOf(request);
    } catch (error) {
      // The table is malformed, not the request: the connection goes on.
      this.push(failed(this.known(error)), !keepAlive);
      return;
    }
    const order = atLeast === undefined ? orderOf(call) : 'alone';
    const work: Work = { bytes: bytes + call.input.size * RECORD_BYTES, order, last: !keepAlive };
    const answer = (session: RpcSession): HttpReply | Promise<HttpReply> => answerRpc(call, session);
    const database = call.input.get('DB')?.toString('utf8') ?? '';
    const run = (): HttpReply | Promise<HttpReply> => {
      const session = this.#sessionOf(request);
      return atLeast === undefined ? answer(session) : notBefore(session, atLeast, database, answer);
    };
    this.start(order, () => this.run(run, render, failed, work));
  }

  #nextBinary(bytes: Buffer): boolean {
    const parsed = this.#binary.parse(bytes);
    if (parsed.kind === 'incomplete') return false;
    this.received.consume(parsed.bytes);
    this.#context.count('binary');
    const order = binaryOrder(parsed.request);
    const cost = parsed.bytes + recordsOf(parsed.request) * RECORD_BYTES;
    const work: Work = { bytes: cost, order, last: false };
    this.start(order, () => this.#runBinary(parsed.request, work));
    return true;
  }

  #runBinary(request: BinaryRequest, work: Work): void {
    const quiet = (answer: Answer): Answer => (request.reply ? answer : undefined);
    this.run(
      () => answerBinary(request, this.#sessionOf(undefined)),
      (answer) => quiet([answer]),
      () => quiet([BINARY_ERROR]),
      work,
    );
  }
}

function databaseOf(request: HttpRequest): string {
  const rest = parseRest(request);
  return rest.kind === 'unknown' ? '' : (rest.database ?? '');
}

function recordsOf(request: BinaryRequest): number {
  if (request.kind === 'script') return 0;
  return request.kind === 'set' ? request.records.length : request.keys.length;
}

function withoutBody({ status, headers = {}, body }: HttpReply): HttpReply {
  return { status, headers, announcedBytes: body?.length ?? 0 };
}

/** Answers once this node has what the client knows to be there. */
function notBefore<R>(
  session: RpcSession,
  atLeast: AtLeast,
  database: string,
  answer: (session: RpcSession) => R | Promise<R>,
): R | Promise<R> {
  const reached = session.reach(atLeast, database);
  return reached === undefined ? answer(session) : reached.then(() => answer(session));
}
