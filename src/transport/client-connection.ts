/**
 * One client connection: tells HTTP from the binary protocol by the first byte of each request, lets `Commands` do the
 * work, and answers in order.
 *
 * Order (`Order` in rpc-procedure.ts). Reads are answered at once. Writes are started at once too, so that a pipeline of
 * them shares group commits, and their answers wait in `#slots`; a read behind a write waits until the writes before it
 * are done, because a client that pipelines expects to read what it wrote. What stands alone (a long search, a cursor, a
 * wait for a signal) holds back all that comes after it. No request is taken while `MAX_SLOTS` answers are owed or the
 * client does not take its answers, and nothing is read ahead of that beyond `MAX_AHEAD_BYTES`, so a client costs
 * bounded memory whatever it sends.
 *
 * Ends. A client that says no more (half-close) still gets every answer. After bytes that make no sense the answer says
 * so, and what still comes is thrown away for a while, so that the answer is not lost in a reset.
 */
import type { Socket } from 'node:net';
import { AssertionFailure, messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import { ByteQueue } from '../protocol/byte-queue.js';
import { CONTINUE, HttpDecoder, type HttpReply, type HttpRequest, renderHttp } from '../protocol/http.js';
import { BINARY_ERROR, BinaryDecoder, type BinaryRequest } from '../protocol/kt-binary.js';
import { errorReply } from '../protocol/rest.js';
import { isRpc, parseRpc, type RpcCall, rpcError } from '../protocol/tsv.js';
import { answerBinary, binaryOrder } from './client-binary.js';
import { answerRest, restOrder } from './client-http.js';
import type { Order } from './rpc-procedure.js';
import { answerRpc, orderOf } from './rpc-procedures.js';
import { type RpcHost, RpcSession } from './rpc-session.js';

/** What all connections of a listener share. */
export interface ConnectionContext extends RpcHost {
  readonly log: Logger;
  /** Value of the Date header, cached per second. */
  date(): string;
  count(protocol: 'http' | 'binary'): void;
  onFatal(error: unknown): void;
}

/** An answer, now or later. `undefined` bytes: the client asked for none. */
export type Answer = readonly Buffer[] | undefined;

interface Slot {
  answer: Answer;
  done: boolean;
  /** The connection ends after this answer. */
  last: boolean;
}

/** A request that is understood, and waits for those before it. */
interface Waiting {
  readonly order: Order;
  start(): void;
}

/** What a request needs beside its work: its length, and whether the connection ends with it. */
interface Work {
  readonly bytes: number;
  readonly order: Order;
  readonly last: boolean;
}

/** Answers that may be owed at a time. */
const MAX_SLOTS = 1024;
/** Bytes of answers that may wait in the socket. */
const MAX_UNSENT_BYTES = 4 * 1024 * 1024;
/** Bytes of requests that are under way. */
const MAX_WORKING_BYTES = 32 * 1024 * 1024;
/** Bytes read ahead while no request can be taken: enough to notice that the client has gone. */
const MAX_AHEAD_BYTES = 64 * 1024;
/** Bytes thrown away after the last answer. */
const MAX_LATE_BYTES = 64 * 1024 * 1024;
const HEAD_BYTES = 64 * 1024;
/** What a body may have beside a value: names, encodings. */
const BODY_EXTRA_BYTES = 4096;
const BINARY_RECORDS = 1_000_000;
const BINARY_BYTES = 256 * 1024 * 1024;
/** First byte of a binary request is at least this; no HTTP method begins so. */
const FIRST_BINARY = 0x80;

export class ClientConnection {
  readonly #socket: Socket;
  readonly #context: ConnectionContext;
  readonly #session: RpcSession;
  readonly #received = new ByteQueue();
  readonly #http: HttpDecoder;
  readonly #binary = new BinaryDecoder({ records: BINARY_RECORDS, requestBytes: BINARY_BYTES });
  readonly #slots: Slot[] = [];
  /** Requests under way. */
  #working = 0;
  #workingBytes = 0;
  /** The one under way stands alone. */
  #alone = false;
  #waiting: Waiting | undefined;
  #stalled = false;
  /** No more requests are taken. */
  #ended = false;
  /** The client sends no more. */
  #halfClosed = false;
  #continued = false;
  #lateBytes = 0;

  constructor(socket: Socket, context: ConnectionContext) {
    this.#socket = socket;
    this.#context = context;
    this.#session = new RpcSession(context);
    const bodyBytes = context.commands.limits.valueBytes + BODY_EXTRA_BYTES;
    this.#http = new HttpDecoder({ headBytes: HEAD_BYTES, bodyBytes });
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('drain', () => this.#work());
    socket.on('end', () => this.#onEnd());
    socket.on('close', () => this.#session.close());
  }

  /** Whether it is the client who has something to do: send the rest of a request, or close after the last answer. */
  get isWaitingForRest(): boolean {
    if (this.#slots.length > 0) return false;
    return this.#received.length > 0 || this.#ended;
  }

  #onData(chunk: Buffer): void {
    if (!this.#ended) {
      this.#received.append(chunk);
      this.#work();
      return;
    }
    this.#lateBytes += chunk.length;
    if (this.#lateBytes > MAX_LATE_BYTES) this.#socket.destroy();
  }

  #onEnd(): void {
    this.#halfClosed = true;
    this.#session.end();
    this.#work();
  }

  #work(): void {
    this.#socket.cork();
    try {
      while (!this.#ended && this.#received.length > 0 && this.#hasRoom() && this.#next()) {
        // Each round takes one request.
      }
    } catch (error) {
      this.#fail(error);
    }
    this.#flush();
    if (this.#halfClosed && this.#slots.length === 0 && this.#waiting === undefined) this.#socket.end();
    this.#socket.uncork();
    this.#balance();
  }

  #hasRoom(): boolean {
    if (this.#alone || this.#waiting !== undefined || this.#workingBytes >= MAX_WORKING_BYTES) return false;
    return this.#slots.length < MAX_SLOTS && this.#socket.writableLength < MAX_UNSENT_BYTES;
  }

  /** Stops and starts reading as room comes and goes. */
  #balance(): void {
    const stall = !this.#ended && !this.#hasRoom() && this.#received.length > MAX_AHEAD_BYTES;
    if (stall === this.#stalled) return;
    this.#stalled = stall;
    if (stall) this.#socket.pause();
    else this.#socket.resume();
  }

  /** Takes one request off the received bytes; false when it is not all there, or has to wait. */
  #next(): boolean {
    const bytes = this.#received.view();
    return (bytes[0] as number) >= FIRST_BINARY ? this.#nextBinary(bytes) : this.#nextHttp(bytes);
  }

  #nextHttp(bytes: Buffer): boolean {
    const parsed = this.#http.parse(bytes);
    if (parsed.kind === 'not-http') throw new TokaidoError('MALFORMED', 'this is neither HTTP nor the binary protocol');
    if (parsed.kind === 'incomplete') {
      if (parsed.expectsContinue && !this.#continued) {
        this.#continued = true;
        this.#push({ answer: [CONTINUE], done: true, last: false });
      }
      return false;
    }
    this.#continued = false;
    this.#received.consume(parsed.bytes);
    this.#context.count('http');
    const { request } = parsed;
    if (isRpc(request)) return this.#nextRpc(request, parsed.bytes);
    const order = restOrder(request.method);
    if (this.#mayStart(order)) this.#startRest(request, { bytes: parsed.bytes, order, last: !request.keepAlive });
    else this.#wait(order, () => this.#startRest(request, { bytes: parsed.bytes, order, last: !request.keepAlive }));
    return true;
  }

  #startRest(request: HttpRequest, work: Work): void {
    const { commands } = this.#context;
    const render = (reply: HttpReply): Answer => renderHttp(reply, this.#context.date(), request.keepAlive);
    const failed = (error: TokaidoError): Answer => render(errorReply(error, request.method === 'HEAD'));
    this.#run(() => answerRest(request, commands), render, failed, work);
  }

  #nextRpc(request: HttpRequest, bytes: number): boolean {
    const { keepAlive, method } = request;
    const render = (reply: HttpReply): Answer => {
      return renderHttp(method === 'HEAD' ? withoutBody(reply) : reply, this.#context.date(), keepAlive);
    };
    const failed = (error: TokaidoError): Answer => render(rpcError(error));
    let call: RpcCall;
    try {
      call = parseRpc(request) as RpcCall;
    } catch (error) {
      // The table is malformed, not the request: the connection goes on.
      this.#push({ answer: failed(this.#known(error)), done: true, last: !keepAlive });
      return true;
    }
    const order = orderOf(call);
    const start = (): void => {
      this.#run(() => answerRpc(call, this.#session), render, failed, { bytes, order, last: !keepAlive });
    };
    if (this.#mayStart(order)) start();
    else this.#wait(order, start);
    return true;
  }

  #nextBinary(bytes: Buffer): boolean {
    const parsed = this.#binary.parse(bytes);
    if (parsed.kind === 'incomplete') return false;
    this.#received.consume(parsed.bytes);
    this.#context.count('binary');
    const order = binaryOrder(parsed.request);
    const start = (): void => this.#startBinary(parsed.request, { bytes: parsed.bytes, order, last: false });
    if (this.#mayStart(order)) start();
    else this.#wait(order, start);
    return true;
  }

  #startBinary(request: BinaryRequest, work: Work): void {
    const quiet = (answer: Answer): Answer => (request.reply ? answer : undefined);
    this.#run(
      () => answerBinary(request, this.#session),
      (answer) => quiet([answer]),
      () => quiet([BINARY_ERROR]),
      work,
    );
  }

  #mayStart(order: Order): boolean {
    return order === 'write' || this.#working === 0;
  }

  #wait(order: Order, start: () => void): void {
    this.#waiting = { order, start };
  }

  /** Runs one request and keeps its place in the order of answers. */
  #run<R>(
    work: () => R | Promise<R>,
    render: (result: R) => Answer,
    failed: (error: TokaidoError) => Answer,
    { bytes, order, last }: Work,
  ): void {
    const slot: Slot = { answer: undefined, done: false, last };
    this.#push(slot);
    const settle = (answer: Answer): void => {
      slot.answer = answer;
      slot.done = true;
    };
    const fail = (error: unknown): void => settle(failed(this.#known(error)));
    let result: R | Promise<R>;
    try {
      result = work();
    } catch (error) {
      fail(error);
      return;
    }
    if (!(result instanceof Promise)) {
      settle(render(result));
      return;
    }
    this.#working++;
    this.#workingBytes += bytes;
    this.#alone = order === 'alone';
    result
      .then((value) => settle(render(value)), fail)
      .then(() => {
        this.#working--;
        this.#workingBytes -= bytes;
        this.#alone = false;
        this.#resume();
      })
      .catch((error: unknown) => this.#context.onFatal(error));
  }

  /** Requests before a waiting one are done. */
  #resume(): void {
    const waiting = this.#waiting;
    if (waiting !== undefined && this.#mayStart(waiting.order)) {
      this.#waiting = undefined;
      waiting.start();
    }
    this.#work();
  }

  #push(slot: Slot): void {
    this.#slots.push(slot);
    if (slot.last) this.#ended = true;
  }

  /** Writes the answers that are due. */
  #flush(): void {
    while (this.#slots[0]?.done === true) {
      const slot = this.#slots.shift() as Slot;
      for (const bytes of slot.answer ?? []) this.#socket.write(bytes);
      if (slot.last) this.#socket.end();
    }
  }

  /** What a client may be told of anything thrown. */
  #known(error: unknown): TokaidoError {
    if (error instanceof TokaidoError) return error;
    if (error instanceof AssertionFailure) this.#context.onFatal(error);
    this.#context.log.error(
      { reason: messageOf(error), stack: (error as Error)?.stack },
      'a request failed unexpectedly',
    );
    return new TokaidoError('STORAGE', 'internal error; the log of the node says more');
  }

  /** The bytes make no sense: say so in the form they began in, and end. */
  #fail(error: unknown): void {
    const known = this.#known(error);
    const isBinary = (this.#received.view()[0] ?? 0) >= FIRST_BINARY;
    this.#context.log.debug({ reason: known.message }, 'a client is turned away');
    const answer = isBinary ? [BINARY_ERROR] : renderHttp(errorReply(known), this.#context.date(), false);
    this.#received.consume(this.#received.length);
    this.#push({ answer, done: true, last: true });
  }
}

function withoutBody({ status, headers = {}, body }: HttpReply): HttpReply {
  return { status, headers, announcedBytes: body?.length ?? 0 };
}
