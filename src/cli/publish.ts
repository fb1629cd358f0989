/** Brings what a CA signed to the root's admin listener, which hands it to every node. */
import { messageOf, TokaidoError } from '../base/errors.js';

const PUBLISH_TIMEOUT_MS = 30_000;

/** What became of it. */
export interface PublishedCounts {
  readonly published: number;
  readonly known: number;
  /** Lists that the root left out: it has a newer one of the same CA. */
  readonly older?: number;
}

export interface Publication {
  readonly path: '/crl' | '/trust';
  /** For messages: `the list`. */
  readonly what: string;
  /** The command that does it again. */
  readonly again: string;
  readonly body: string;
}

/** Errors: `NETWORK`; `IDENTITY` when the root does not take it. */
export async function publish(admin: string, { path, what, again, body }: Publication): Promise<PublishedCounts> {
  let response: Response;
  try {
    const signal = AbortSignal.timeout(PUBLISH_TIMEOUT_MS);
    response = await fetch(`http://${admin}${path}`, { method: 'POST', body, signal });
  } catch (error) {
    const reason = messageOf((error as Error).cause ?? error);
    throw new TokaidoError('NETWORK', `${what} is written, but not published at ${admin}: ${reason}`, {
      hint: `check that --publish names the listen.admin address of the root, and run \`${again}\``,
      cause: error,
    });
  }
  const answer = (await response.json()) as PublishedCounts & { error?: { message: string; hint?: string } };
  if (answer.error === undefined) return answer;
  const { message, hint } = answer.error;
  throw new TokaidoError('IDENTITY', `${what} is written, but refused by ${admin}: ${message}`, {
    ...(hint === undefined ? {} : { hint }),
  });
}
