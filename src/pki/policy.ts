/** Who may be whose upstream or follower: a pure decision on facts, so that every case can be tested without a socket. */
import { unreachable } from '../base/errors.js';
import { type Identity, identityOf } from './names.js';
import type { ChainFault } from './trust.js';

/** What transport learned about the peer from TLS. */
export interface PeerFacts {
  /** Whether the peer presented a certificate at all. */
  readonly presented: boolean;
  /** OpenSSL's verdict on chain and dates: `undefined` when it verified to our CA. */
  readonly verifyError: string | undefined;
  /** Our own verdict on the chain, revocation lists included; `undefined` when nothing is wrong. */
  readonly chainFault: ChainFault | undefined;
  readonly subjectAltName: string | undefined;
  /** When the certificate is valid, and what the clock here says, ms since 1970. */
  readonly validity?: { readonly fromMs: number; readonly toMs: number; readonly nowMs: number };
}

/** Stable reasons of a refusal, for logs and metrics. */
export type RefusalReason =
  | 'no-certificate'
  | ChainFault
  | 'not-verified'
  | 'no-identity'
  | 'wrong-cluster'
  | 'wrong-role'
  | 'wrong-name';

export interface Refusal {
  readonly reason: RefusalReason;
  readonly message: string;
}

export type Verdict = { readonly identity: Identity } | { readonly refused: Refusal };

/** What the peer wants to be to us. */
export type PeerSide = 'upstream' | 'follower';

const VERIFY_REASONS: Readonly<Record<string, RefusalReason>> = {
  CERT_HAS_EXPIRED: 'expired',
  CERT_NOT_YET_VALID: 'not-yet-valid',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'untrusted-ca',
  UNABLE_TO_GET_ISSUER_CERT: 'untrusted-ca',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'untrusted-ca',
  SELF_SIGNED_CERT_IN_CHAIN: 'untrusted-ca',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'untrusted-ca',
  CERT_SIGNATURE_FAILURE: 'untrusted-ca',
};

const MESSAGES: Readonly<Partial<Record<RefusalReason, string>>> = {
  expired: 'its certificate has expired',
  'not-yet-valid': 'its certificate is not valid yet (compare the clocks)',
  'untrusted-ca': 'its certificate is not from the CA of this cluster',
  revoked: 'its certificate is revoked',
};

/** A clock that is wrong looks like a certificate that is: both times are said, so that somebody can tell. */
function explain(reason: RefusalReason, { validity }: PeerFacts): string {
  const message = MESSAGES[reason] ?? `its certificate does not verify: ${reason}`;
  if (validity === undefined || (reason !== 'expired' && reason !== 'not-yet-valid')) return message;
  const { fromMs, toMs, nowMs } = validity;
  const time = (ms: number): string => new Date(ms).toISOString();
  const bound = reason === 'expired' ? `it ended at ${time(toMs)}` : `it begins at ${time(fromMs)}`;
  return `${message.replace(/ \(.*/, '')}: ${bound}, and the clock here says ${time(nowMs)} (compare the clocks)`;
}

function refused(reason: RefusalReason, message: string): Verdict {
  return { refused: { reason, message } };
}

/** A root follows nobody but other roots, to exchange with them. */
function mayBe(side: PeerSide, peer: Identity, self: Identity): boolean {
  switch (side) {
    case 'upstream':
      return peer.role === 'root' || (peer.role === 'relay' && self.role !== 'root');
    case 'follower':
      return peer.role === 'relay' || peer.role === 'edge' || (peer.role === 'root' && self.role === 'root');
    default:
      return unreachable(side);
  }
}

/** Decides on a peer. Whatever is not known to be right is refused. `expectedName` pins an upstream by name. */
export function checkPeer(facts: PeerFacts, self: Identity, side: PeerSide, expectedName?: string): Verdict {
  if (!facts.presented) return refused('no-certificate', 'it presented no certificate');
  if (facts.verifyError !== undefined) {
    const reason = VERIFY_REASONS[facts.verifyError] ?? facts.chainFault ?? 'not-verified';
    return refused(
      reason,
      reason === 'not-verified' ? `its certificate does not verify: ${facts.verifyError}` : explain(reason, facts),
    );
  }
  const { chainFault } = facts;
  if (chainFault !== undefined) return refused(chainFault, explain(chainFault, facts));
  const identity = identityOf(facts.subjectAltName);
  if (identity === undefined)
    return refused('no-identity', 'its certificate does not carry exactly one tokaido:// name');
  if (identity.clusterId !== self.clusterId) {
    return refused('wrong-cluster', `it belongs to cluster ${identity.clusterId}, this node to ${self.clusterId}`);
  }
  if (!mayBe(side, identity, self)) {
    return refused(
      'wrong-role',
      `a certificate of role ${identity.role} may not be ${side === 'upstream' ? 'an upstream' : 'a follower'}`,
    );
  }
  if (expectedName !== undefined && identity.name !== expectedName) {
    return refused('wrong-name', `it is ${identity.name}, the configuration expects ${expectedName}`);
  }
  return { identity };
}
