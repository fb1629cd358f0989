/** One connection of a memcached client. Order, back-pressure and ends are those of every connection: `pipelined-connection.ts`. */
import type { Socket } from 'node:net';
import type { TokaidoError } from '../../base/errors.js';
import { MemcachedDecoder } from '../../protocol/memcached.js';
import { renderError } from '../../protocol/memcached-replies.js';
import { type Answer, type PipelineContext, PipelinedConnection } from '../pipelined-connection.js';
import { answerMemcached, isQuiet, memcachedOrder } from './commands.js';
import { type MemcachedHost, MemcachedSession } from './session.js';

/** What all connections of a listener share. */
export interface MemcachedContext extends MemcachedHost, PipelineContext {
  count(): void;
}

const FLAG_BYTES = 4;

export class MemcachedConnection extends PipelinedConnection {
  readonly #context: MemcachedContext;
  readonly #session: MemcachedSession;
  readonly #decoder: MemcachedDecoder;

  constructor(socket: Socket, context: MemcachedContext) {
    super(socket, context);
    this.#context = context;
    this.#session = new MemcachedSession(context);
    const { valueBytes } = context.commands.limits;
    this.#decoder = new MemcachedDecoder({ valueBytes: valueBytes - (context.options.flags ? FLAG_BYTES : 0) });
  }

  protected onHalfClose(): void {
    this.#session.consumer.end();
  }

  protected onClose(): void {
    this.#session.close();
  }

  protected override get isBegun(): boolean {
    return super.isBegun || this.#decoder.isBegun;
  }

  protected refusal(error: TokaidoError): Answer {
    return [renderError(error)];
  }

  protected next(bytes: Buffer): boolean {
    const parsed = this.#decoder.parse(bytes);
    if (parsed.kind === 'incomplete') return false;
    this.received.consume(parsed.bytes);
    if (parsed.kind === 'skipped') return true;
    const { request } = parsed;
    this.#context.count();
    if (request.kind === 'wrong') {
      this.push([request.answer], request.last);
      return true;
    }
    const order = memcachedOrder(request, this.#context.options.queue);
    const work = { bytes: parsed.bytes, order, last: request.kind === 'quit' };
    const quiet = isQuiet(request);
    const render = (reply: Buffer | undefined): Answer => (quiet || reply === undefined ? undefined : [reply]);
    this.start(order, () => {
      this.run(
        () => answerMemcached(request, this.#session),
        render,
        (error) => render(renderError(error)),
        work,
      );
    });
    return true;
  }
}
