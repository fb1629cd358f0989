/** The option `--scope`: what the holder of a certificate may follow at most. */
import { TokaidoError } from '../base/errors.js';
import { scopeNames } from '../pki/scope-names.js';

export const SCOPE_HELP =
  "what it may follow at most: DATABASE or DATABASE/PREFIX, '*' for every database; needed for a relay or edge";

/** Errors: `CONFIG` for a follower without a scope, and for a scope of somebody who does not follow. */
export function scopeFor(role: string, texts: readonly string[]): { readonly scope?: readonly string[] } {
  const follows = role === 'relay' || role === 'edge';
  if (texts.length > 0 && !follows)
    throw new TokaidoError('CONFIG', `a ${role} has no scope: leave --scope out, only relays and edges follow`);
  if (texts.length > 0) return { scope: scopeNames(texts) };
  if (!follows) return {};
  throw new TokaidoError('CONFIG', `say with --scope what the ${role} may follow`, {
    hint: "--scope DATABASE, or DATABASE/PREFIX for keys that begin so, may repeat; --scope '*' for everything",
  });
}
