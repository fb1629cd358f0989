/** Asks the admin listener of a node to do something. */
import { type ErrorCode, messageOf, TokaidoError } from '../base/errors.js';

const TIMEOUT_MS = 5000;

interface Answer {
  readonly error?: { readonly code: string; readonly message: string; readonly hint?: string };
}

/** Errors: `NETWORK`, and what the node says. */
export async function post(admin: string, path: string): Promise<object> {
  let response: Response;
  try {
    response = await fetch(`http://${admin}${path}`, { method: 'POST', signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    throw new TokaidoError(
      'NETWORK',
      `no answer from the admin listener ${admin}: ${messageOf((error as Error).cause ?? error)}`,
      { hint: 'check that the node runs and that --admin names its listen.admin address', cause: error },
    );
  }
  const answer = (await response.json()) as Answer;
  if (answer.error === undefined) return answer;
  const { code, message, hint } = answer.error;
  throw new TokaidoError(code as ErrorCode, message, hint === undefined ? {} : { hint });
}
