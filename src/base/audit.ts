/**
 * What happened that someone may have to answer for later: who connected, who was refused and why, by which certificate,
 * under which policy. Never keys, values, tokens or passwords. Where it goes is the node's affair (`node/audit`).
 */
export type AuditEvent =
  | 'node.started'
  | 'node.stopped'
  /** The chain of the log was found torn or damaged at start. */
  | 'audit.torn'
  | 'audit.damaged'
  | 'follower.connected'
  /** It opened the scope that its certificate hides. */
  | 'follower.scoped'
  | 'follower.closed'
  | 'follower.refused'
  | 'upstream.connected'
  | 'upstream.closed'
  | 'upstream.refused'
  | 'client.connected'
  | 'client.refused'
  /** A policy did not let a client do what it asked for. */
  | 'request.refused'
  | 'policy.changed'
  | 'tokens.changed'
  | 'certificate.changed'
  | 'revocation.changed'
  /** A CA counts from now on, or does not any more: for this node, or for a listener. */
  | 'trust.changed'
  /** Somebody brought a statement which CAs count; it holds, or was refused. */
  | 'trust.published'
  | 'trust.refused'
  /** A machine got its first certificate with a token; a request for a certificate was refused. Where one signs. */
  | 'node.joined'
  | 'join.refused';

export type AuditFacts = Readonly<Record<string, string | number | readonly string[] | undefined>>;

export interface Audit {
  record(event: AuditEvent, facts: AuditFacts): void;
}

export const NO_AUDIT: Audit = { record: () => undefined };
