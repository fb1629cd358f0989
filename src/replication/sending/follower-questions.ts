/** What a follower asks over its link: answered by whoever knows, which may take its time; replication goes on meanwhile. */
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import { type Answer, type Ask, MAX_OPEN_QUESTIONS } from '../frames/frames.js';

export interface QuestionsHost {
  answer(request: Buffer): Promise<Buffer>;
  send(answer: Answer): void;
  readonly log: Logger;
}

export class FollowerQuestions {
  readonly #host: QuestionsHost;
  #open = 0;

  constructor(host: QuestionsHost) {
    this.#host = host;
  }

  /** Errors: `REPLICATION` when too many are open. */
  ask({ id, request }: Ask): void {
    if (this.#open >= MAX_OPEN_QUESTIONS)
      throw new TokaidoError('REPLICATION', `more than ${MAX_OPEN_QUESTIONS} questions at a time`);
    this.#open++;
    // A copy: the frame's bytes are gone with the next one.
    this.#host.answer(Buffer.from(request)).then(
      (answer) => {
        this.#open--;
        this.#host.send({ type: 'answer', id, answer });
      },
      (error: unknown) => {
        this.#open--;
        this.#host.log.debug({ reason: messageOf(error) }, 'a question of a follower was not answered');
      },
    );
  }
}
