/**
 * One client connection: tells HTTP from the binary protocol by the first byte of each request, lets `Commands` do the
 * work, and answers in order.
 *
 * Order. Reads are answered at once. Writes are started at once too, so that a pipeline of them shares group commits,
 * and their answers wait in `#slots`; a read behind a write waits until the writes before it are done, because a client
 * that pipelines expects to read what it wrote. Nothing is read from the socket while `MAX_SLOTS` answers are owed or
 * the client does not take its answers, so a client costs bounded memory whatever it sends.
 */
import type { Socket } from 'node:net';
import { AssertionFailure, messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Commands } from '../commands/commands.js';
import { ByteQueue } from '../protocol/byte-queue.js';
import { CONTINUE, HttpDecoder, type HttpReply, type HttpRequest, renderHttp } from '../protocol/http.js';
import { BINARY_ERROR, BinaryDecoder, type BinaryRequest } from '../protocol/kt-binary.js';
import { errorReply } from '../protocol/rest.js';
import { answerBinary } from './client-binary.js';
import { answerHttp } from './client-http.js';

/** What all connections of a listener share. */
export interface ConnectionContext {
  readonly commands: Commands;
  readonly log: Logger;
  nowMs(): number;
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

/** Answers that may be owed at a time. */
const MAX_SLOTS = 1024;
/** Bytes of answers that may wait in the socket. */
const MAX_UNSENT_BYTES = 4 * 1024 * 1024;
/** Bytes of requests whose writes are under way. */
const MAX_WRITING_BYTES = 32 * 1024 * 1024;
const HEAD_BYTES = 64 * 1024;
const BINARY_RECORDS = 1_000_000;
const BINARY_BYTES = 256 * 1024 * 1024;
/** First byte of a binary request is at least this; no HTTP method begins so. */
const FIRST_BINARY = 0x80;

export class ClientConnection {
  readonly #socket: Socket;
  readonly #context: ConnectionContext;
  readonly #received = new ByteQueue();
  readonly #http: HttpDecoder;
  readonly #binary = new BinaryDecoder({ records: BINARY_RECORDS, requestBytes: BINARY_BYTES });
  readonly #slots: Slot[] = [];
  #writes = 0;
  #writingBytes = 0;
  #stalled = false;
  #ended = false;
  #continued = false;

  constructor(socket: Socket, context: ConnectionContext) {
    this.#socket = socket;
    this.#context = context;
    this.#http = new HttpDecoder({ headBytes: HEAD_BYTES, bodyBytes: context.commands.limits.valueBytes + 4096 });
    socket.on('data', (chunk: Buffer) => {
      this.#received.append(chunk);
      this.#work();
    });
    socket.on('drain', () => this.#work());
    socket.on('end', () => this.#socket.end());
  }

  /** Whether a request has begun and is not all there: what a slow client would hold open for ever. */
  get isWaitingForRest(): boolean {
    return this.#received.length > 0 && this.#slots.length === 0;
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
    this.#socket.uncork();
    this.#balance();
  }

  #hasRoom(): boolean {
    const waits = this.#waitingHttp !== undefined || this.#waitingBinary !== undefined;
    if (waits || this.#writingBytes >= MAX_WRITING_BYTES) return false;
    return this.#slots.length < MAX_SLOTS && this.#socket.writableLength < MAX_UNSENT_BYTES;
  }

  /** Stops and starts reading as room comes and goes. */
  #balance(): void {
    const stall = !this.#hasRoom();
    if (stall === this.#stalled || this.#ended) return;
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
    const { request } = parsed;
    const isRead = request.method === 'GET' || request.method === 'HEAD' || request.method === 'POST';
    if (isRead && this.#writes > 0) {
      this.#waitingHttp = parsed;
      return false;
    }
    this.#takeHttp(request, parsed.bytes);
    return true;
  }

  /** A request that is understood already and waits for the writes before it. */
  #waitingHttp: { readonly request: HttpRequest; readonly bytes: number } | undefined;
  #waitingBinary: { readonly request: BinaryRequest; readonly bytes: number } | undefined;

  #takeHttp(request: HttpRequest, bytes: number): void {
    this.#continued = false;
    this.#context.count('http');
    const { keepAlive, method } = request;
    const render = (reply: HttpReply): Answer => renderHttp(reply, this.#context.date(), keepAlive);
    const failed = (error: TokaidoError): Answer => render(errorReply(error, method === 'HEAD'));
    this.#run(() => answerHttp(request, this.#context.commands, this.#context.nowMs()), render, failed, {
      bytes,
      last: !keepAlive,
    });
    this.#received.consume(bytes);
  }

  #nextBinary(bytes: Buffer): boolean {
    const parsed = this.#binary.parse(bytes);
    if (parsed.kind === 'incomplete') return false;
    if (parsed.request.kind === 'get' && this.#writes > 0) {
      this.#waitingBinary = parsed;
      return false;
    }
    this.#takeBinary(parsed.request, parsed.bytes);
    return true;
  }

  #takeBinary(request: BinaryRequest, bytes: number): void {
    this.#context.count('binary');
    const quiet = (answer: Answer): Answer => (request.reply ? answer : undefined);
    const { commands } = this.#context;
    this.#run(
      () => answerBinary(request, commands, this.#context.nowMs()),
      (answer) => quiet([answer]),
      () => quiet([BINARY_ERROR]),
      { bytes, last: false },
    );
    this.#received.consume(bytes);
  }

  /** Runs one request and keeps its place in the order of answers. */
  #run<R>(
    work: () => R | Promise<R>,
    render: (result: R) => Answer,
    failed: (error: TokaidoError) => Answer,
    { bytes, last }: { readonly bytes: number; readonly last: boolean },
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
    this.#writes++;
    this.#writingBytes += bytes;
    result
      .then((value) => settle(render(value)), fail)
      .then(() => {
        this.#writes--;
        this.#writingBytes -= bytes;
        this.#resume();
      })
      .catch((error: unknown) => this.#context.onFatal(error));
  }

  /** The writes before a waiting read are done. */
  #resume(): void {
    if (this.#writes === 0) {
      const http = this.#waitingHttp;
      const binary = this.#waitingBinary;
      this.#waitingHttp = undefined;
      this.#waitingBinary = undefined;
      if (http !== undefined) this.#takeHttp(http.request, http.bytes);
      if (binary !== undefined) this.#takeBinary(binary.request, binary.bytes);
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
    const answer = isBinary ? [BINARY_ERROR] : renderHttp(errorReply(known), this.#context.date(), false);
    this.#push({ answer, done: true, last: true });
  }
}
