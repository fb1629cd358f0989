/**
 * What this node asks its upstream, for itself and for all that follow it: sent as far as the upstream lets questions be
 * open, and in turn. One more would end the link (`follower-questions.ts`), and how many come is for others to say: whoever
 * knocks at this node to join is passed on.
 */
import { TokaidoError } from '../../base/errors.js';
import { type Answer, type Ask, MAX_OPEN_QUESTIONS } from '../frames/frames.js';

/** Questions that wait for their answer or for their turn. */
export const MAX_ASKED = 64;

interface Asked {
  readonly resolve: (answer: Buffer) => void;
  readonly reject: (error: TokaidoError) => void;
}

export class UpstreamQuestions {
  readonly #send: (question: Ask) => void;
  /** Those that were sent, by their number. */
  readonly #open = new Map<number, Asked>();
  readonly #waiting: (Asked & { readonly request: Buffer })[] = [];
  #last = 0;

  constructor(send: (question: Ask) => void) {
    this.#send = send;
  }

  /** Some are not answered yet. */
  get areOpen(): boolean {
    return this.#open.size > 0;
  }

  /** Errors: `REPLICATION` when the link ends before the answer, `OVERLOADED`. */
  async ask(request: Buffer): Promise<Buffer> {
    if (this.#open.size + this.#waiting.length >= MAX_ASKED)
      throw new TokaidoError('OVERLOADED', 'too many questions to the upstream');
    return await new Promise<Buffer>((resolve, reject) => {
      this.#waiting.push({ request, resolve, reject });
      this.#sendNext();
    });
  }

  #sendNext(): void {
    while (this.#open.size < MAX_OPEN_QUESTIONS) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      const id = ++this.#last;
      this.#open.set(id, next);
      this.#send({ type: 'ask', id, request: next.request });
    }
  }

  /** Errors: `REPLICATION` for an answer to nothing. */
  onAnswer({ id, answer }: Answer): void {
    const asked = this.#open.get(id);
    if (asked === undefined) throw new TokaidoError('REPLICATION', `an answer to question ${id}, which is not open`);
    this.#open.delete(id);
    // A copy: the frame's bytes are gone with the next one.
    asked.resolve(Buffer.from(answer));
    this.#sendNext();
  }

  /** The link is gone. */
  end(reason: string): void {
    for (const { reject } of [...this.#open.values(), ...this.#waiting])
      reject(new TokaidoError('REPLICATION', `the link ended before the answer came: ${reason}`));
    this.#open.clear();
    this.#waiting.length = 0;
  }
}
