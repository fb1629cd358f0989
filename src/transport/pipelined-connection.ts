/**
 * What every client connection has, whatever its protocol: requests are taken off the received bytes, started, and
 * answered in order.
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
import { type Conversation, MUCH_BYTES } from './clients/keeper.js';
import type { Order } from './rpc/procedure.js';

/** What every connection of a listener needs of it. */
export interface PipelineContext {
  readonly log: Logger;
  onFatal(error: unknown): void;
}

/** An answer, now or later. `undefined` bytes: the client asked for none. */
export type Answer = readonly Buffer[] | undefined;

/** What a request needs beside its work: about what it holds in memory, and whether the connection ends with it. */
export interface Work {
  readonly bytes: number;
  readonly order: Order;
  readonly last: boolean;
}

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

/** Answers that may be owed at a time. */
const MAX_SLOTS = 1024;
/** Bytes of answers that may wait in the socket. */
const MAX_UNSENT_BYTES = 1024 * 1024;
/** Bytes of requests that are under way. */
const MAX_WORKING_BYTES = 32 * 1024 * 1024;
/** Bytes read ahead while no request can be taken: enough to notice that the client has gone. */
const MAX_AHEAD_BYTES = 64 * 1024;
/** Answers smaller than this are joined, until there is so much of them. */
const LARGE_BYTES = 16 * 1024;
const JOINED_BYTES = 64 * 1024;
/** Bytes thrown away after the last answer. */
const MAX_LATE_BYTES = 64 * 1024 * 1024;

export abstract class PipelinedConnection implements Conversation {
  protected readonly received = new ByteQueue();
  holdsMuch = (): void => undefined;
  readonly #socket: Socket;
  readonly #context: PipelineContext;
  readonly #slots: Slot[] = [];
  /** Requests under way. */
  #working = 0;
  #workingBytes = 0;
  /** Bytes of answers that wait for those before them. */
  #answerBytes = 0;
  /** The one under way stands alone. */
  #alone = false;
  #waiting: Waiting | undefined;
  #stalled = false;
  #resuming = false;
  /** No more requests are taken. */
  #ended = false;
  /** The client sends no more. */
  #halfClosed = false;
  #lateBytes = 0;
  /** Answers that are due, and go out at the end of this round of work. */
  #unsent: Buffer[] = [];
  #unsentBytes = 0;

  constructor(socket: Socket, context: PipelineContext) {
    this.#socket = socket;
    this.#context = context;
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('drain', () => this.#work());
    socket.on('end', () => this.#onEnd());
    socket.on('close', () => this.onClose());
  }

  /**
   * Takes one request off `received` and starts it (`start`, `run`, `push`); false when it is not all there. Errors:
   * `TokaidoError` for bytes that make no sense, which ends the connection with `refusal`.
   */
  protected abstract next(bytes: Buffer): boolean;

  /** What the client is told when its bytes make no sense, before the connection ends. */
  protected abstract refusal(error: TokaidoError): Answer;

  /** The client says no more: whoever waits for something is probably gone. */
  protected abstract onHalfClose(): void;

  protected abstract onClose(): void;

  /** Whether a request has begun and is not all there. */
  protected get isBegun(): boolean {
    return this.received.length > 0;
  }

  /** Whether it is the client who has something to do: send the rest of a request, or close after the last answer. */
  get isWaitingForRest(): boolean {
    if (this.#slots.length > 0) return false;
    // What waits because the client does not take its answers is whole, perhaps: that is another matter.
    return this.#ended || (this.isBegun && this.#hasRoom());
  }

  get isWorking(): boolean {
    return this.#slots.length > 0;
  }

  get heldBytes(): number {
    return this.received.heldBytes + this.begunBytes + this.#workingBytes + this.#answerBytes;
  }

  /** What the request that has begun costs in memory beside its bytes. */
  protected get begunBytes(): number {
    return 0;
  }

  #onData(chunk: Buffer): void {
    if (!this.#ended) {
      this.received.append(chunk);
      this.#work();
      return;
    }
    this.#lateBytes += chunk.length;
    if (this.#lateBytes > MAX_LATE_BYTES) this.#socket.destroy();
  }

  #onEnd(): void {
    this.#halfClosed = true;
    this.onHalfClose();
    this.#work();
  }

  #work(): void {
    try {
      while (!this.#ended && this.received.length > 0 && this.#hasRoom() && this.next(this.received.view())) {
        // Each round takes one request. What is answered already goes out before the next is looked at: a pipeline of
        // reads costs the socket's share and not an answer for each.
        this.#flush();
      }
    } catch (error) {
      this.#fail(error);
    }
    this.#flush();
    this.#send();
    if (this.#halfClosed && this.#slots.length === 0 && this.#waiting === undefined) this.#socket.end();
    this.#balance();
  }

  #hasRoom(): boolean {
    if (this.#alone || this.#waiting !== undefined || this.#workingBytes >= MAX_WORKING_BYTES) return false;
    if (this.#slots.length >= MAX_SLOTS || this.#socket.destroyed) return false;
    return this.#socket.writableLength + this.#unsentBytes + this.#answerBytes < MAX_UNSENT_BYTES;
  }

  /** Stops and starts reading as room comes and goes. */
  #balance(): void {
    if (this.heldBytes + this.#socket.writableLength > MUCH_BYTES) this.holdsMuch();
    const stall = !this.#ended && !this.#hasRoom() && this.received.length > MAX_AHEAD_BYTES;
    if (stall === this.#stalled) return;
    this.#stalled = stall;
    if (stall) this.#socket.pause();
    else this.#socket.resume();
  }

  /** Starts a request now, or once those before it are done. */
  protected start(order: Order, start: () => void): void {
    if (this.#mayStart(order)) start();
    else this.#waiting = { order, start };
  }

  #mayStart(order: Order): boolean {
    return order === 'write' || this.#working === 0;
  }

  /** Runs one request and keeps its place in the order of answers. */
  protected run<R>(
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
      this.#answerBytes += bytesOf(answer);
    };
    const fail = (error: unknown): void => settle(failed(this.known(error)));
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
        this.#resumeSoon();
      })
      .catch((error: unknown) => this.#context.onFatal(error));
  }

  /** Writes that share a commit are done at the same moment: their answers go out together. */
  #resumeSoon(): void {
    if (this.#resuming) return;
    this.#resuming = true;
    process.nextTick(() => {
      this.#resuming = false;
      try {
        this.#resume();
      } catch (error) {
        this.#context.onFatal(error);
      }
    });
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

  /** An answer that needs no work, in its place. */
  protected push(answer: Answer, last: boolean): void {
    this.#push({ answer, done: true, last });
  }

  #push(slot: Slot): void {
    this.#slots.push(slot);
    this.#answerBytes += bytesOf(slot.answer);
    if (slot.last) this.#ended = true;
  }

  /** Writes the answers that are due. Small ones wait for each other until `#send`. */
  #flush(): void {
    while (this.#slots[0]?.done === true) {
      const slot = this.#slots.shift() as Slot;
      this.#answerBytes -= bytesOf(slot.answer);
      for (const bytes of slot.answer ?? []) this.#write(bytes);
      if (slot.last) {
        this.#send();
        this.#socket.end();
      }
    }
  }

  #write(bytes: Buffer): void {
    if (bytes.length < LARGE_BYTES) {
      this.#unsent.push(bytes);
      this.#unsentBytes += bytes.length;
      if (this.#unsentBytes < JOINED_BYTES) return;
      this.#send();
      return;
    }
    this.#socket.cork();
    this.#send();
    this.#socket.write(bytes);
    this.#socket.uncork();
  }

  /** What came together goes out together: one write costs the same for one answer and for a hundred. */
  #send(): void {
    const [first] = this.#unsent;
    if (first === undefined) return;
    this.#socket.write(this.#unsent.length === 1 ? first : Buffer.concat(this.#unsent, this.#unsentBytes));
    this.#unsent = [];
    this.#unsentBytes = 0;
  }

  /** What a client may be told of anything thrown. */
  protected known(error: unknown): TokaidoError {
    if (error instanceof TokaidoError) return error;
    if (error instanceof AssertionFailure) this.#context.onFatal(error);
    this.#context.log.error(
      { reason: messageOf(error), stack: (error as Error)?.stack },
      'a request failed unexpectedly',
    );
    return new TokaidoError('STORAGE', 'internal error; the log of the node says more');
  }

  /** The bytes make no sense: say so, and end. */
  #fail(error: unknown): void {
    const known = this.known(error);
    this.#context.log.debug({ reason: known.message }, 'a client is turned away');
    const answer = this.refusal(known);
    this.received.consume(this.received.length);
    this.push(answer, true);
  }
}

function bytesOf(answer: Answer): number {
  let bytes = 0;
  for (const part of answer ?? []) bytes += part.length;
  return bytes;
}
