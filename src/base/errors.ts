/**
 * The one error type of Tokaido. Every operating error carries a stable code that metrics, logs, protocols and
 * scripts may rely on, a sentence that says what happened to what, and, where there is one, what to do next.
 * Each protocol maps the code to its own form in one table (see `protocol/`); nothing else is ever thrown on purpose
 * except an `AssertionFailure`, which means that the program itself is wrong.
 */

/** Stable codes. Adding one is a minor change; renaming or removing one is a breaking change. */
export type ErrorCode =
  /** The record does not exist, or has expired. */
  | 'NO_RECORD'
  /** `add` found a record. */
  | 'DUPLICATE_RECORD'
  /** The record is not what the operation asks for: another value, version or form. */
  | 'CONFLICT'
  /** No database of that name or index. */
  | 'NO_DATABASE'
  /** A key, value, header or request larger than its stated limit. */
  | 'TOO_LARGE'
  /** The request does not parse, or has an argument out of range. */
  | 'MALFORMED'
  /** The protocol knows the operation, this server does not offer it. */
  | 'NOT_IMPLEMENTED'
  /** A write reached a node that follows another; the message names the root. */
  | 'READ_ONLY'
  /** The policy of the listener, or of the node, does not let this client or peer do this. */
  | 'FORBIDDEN'
  /** Who asks is not known here: no token, or none that is valid. */
  | 'UNAUTHENTICATED'
  /** The node has no usable data yet (it is being seeded), or is recovering or stopping. */
  | 'NOT_READY'
  /** A bounded queue is full; the caller may try again. */
  | 'OVERLOADED'
  /** A stored or received structure fails its checksum or its rules. */
  | 'CORRUPT'
  /** The disk refused: full, read-only, or failing. */
  | 'STORAGE'
  /** The configuration is wrong; the message names the key, the line where known, and the nearest valid name. */
  | 'CONFIG'
  /** A certificate, key or CA is missing, wrong, expired, or not allowed to do this. */
  | 'IDENTITY'
  /** A peer refused the link, or broke the replication protocol. */
  | 'REPLICATION'
  /** The Postgres source is unreachable, misconfigured, or lost its slot. */
  | 'FEED'
  /** Something took longer than its limit. */
  | 'TIMEOUT'
  /** The network failed: refused, reset, closed. */
  | 'NETWORK';

/** What an operator or a caller gets. `hint` says what to do next and is printed on its own line by the CLI. */
export class TokaidoError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'TokaidoError';
    this.code = code;
    this.hint = options.hint;
  }
}

/** A broken invariant of ours: never caught to go on, always fatal to the node (it stops cleanly and says so). */
export class AssertionFailure extends Error {
  constructor(what: string) {
    super(`invariant broken: ${what}`);
    this.name = 'AssertionFailure';
  }
}

/** States what must be true; stays on in production. */
export function assert(condition: unknown, what: string): asserts condition {
  if (!condition) throw new AssertionFailure(what);
}

/** For the `default` of an exhaustive switch. */
export function unreachable(value: never): never {
  throw new AssertionFailure(`unexpected case ${JSON.stringify(value)}`);
}

/** The message of anything thrown, for logs. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The `code` of anything thrown (ours, Node's, or a library's), for logs and branching; `undefined` without one. */
export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}
