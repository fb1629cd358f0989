/**
 * Whom a cluster believes, said by a CA that it believes already: so a new CA comes to every node through the store, as
 * revocation lists do, and nobody copies files. Statements are numbered and each is signed by the key of a CA that the one
 * before named; a node that missed some goes through them in order. An intermediate cannot make one: it signs day by
 * day, but must not be able to put itself in the place of the CA that can revoke it.
 */
import type { X509Certificate } from 'node:crypto';
import { TokaidoError } from '../base/errors.js';
import { identityOf } from './names.js';
import { certificatesOf } from './pem.js';
import { isSignatureBy, type Signer } from './signer.js';
import { isIssuedBy, Trust } from './trust.js';

/** What is signed begins with this: no other thing that a CA signs can be taken for a statement. */
const PREFIX = 'tokaido trust 1\n';
/** Most CAs that a statement names: one, and the old one while a rotation is under way. */
const MAX_AUTHORITIES = 8;
/** Most statements that are kept, and read: a node that missed more is given `ca.crt` by hand. */
export const MAX_STATEMENTS = 16;
export const MAX_STATEMENT_BYTES = 64 * 1024;

/** As it travels. */
export interface SignedStatement {
  /** JSON, as it was signed. */
  readonly statement: string;
  /** Base64. */
  readonly signature: string;
}

export interface TrustStatement extends SignedStatement {
  /** 1 for the first rotation of a cluster, and one more each time. */
  readonly number: number;
  readonly clusterId: string;
  /** Every CA of the cluster that counts from now on. */
  readonly authorities: readonly X509Certificate[];
}

interface Body {
  readonly number: number;
  readonly clusterId: string;
  readonly authorities: string;
}

/** Says that `authorities` (PEM) are those of the cluster now. */
export async function signStatement(body: Body, signer: Signer): Promise<SignedStatement> {
  const statement = JSON.stringify(body);
  const signature = await signer.sign(Buffer.from(PREFIX + statement));
  return { statement, signature: signature.toString('base64') };
}

/** Errors: `MALFORMED`. Whether it counts is another question. */
export function parseStatement(text: string): TrustStatement {
  try {
    if (text.length > MAX_STATEMENT_BYTES) throw new Error('its size');
    const { statement, signature } = JSON.parse(text) as Partial<SignedStatement>;
    if (typeof statement !== 'string' || typeof signature !== 'string') throw new Error('its parts');
    const { number, clusterId, authorities } = JSON.parse(statement) as Partial<Body>;
    const isNumber = typeof number === 'number' && Number.isSafeInteger(number) && number > 0;
    if (!isNumber || typeof clusterId !== 'string' || typeof authorities !== 'string') throw new Error('what it says');
    const certificates = certificatesOf(authorities, 'a statement');
    if (certificates.length === 0 || certificates.length > MAX_AUTHORITIES) throw new Error('how many CAs it names');
    for (const certificate of certificates) {
      const identity = identityOf(certificate.subjectAltName);
      const isOurs = identity?.role === 'ca' && identity.clusterId === clusterId;
      if (!isOurs || !isIssuedBy(certificate, certificate)) throw new Error('what it names is no CA of the cluster');
    }
    return { statement, signature, number, clusterId, authorities: certificates };
  } catch (error) {
    throw new TokaidoError('MALFORMED', 'this is not a statement of whom to believe', { cause: error });
  }
}

/** Whether a statement is by one of these CAs, of this cluster. */
export function counts(
  { clusterId, statement, signature }: TrustStatement,
  authorities: readonly X509Certificate[],
  { ownCluster, nowMs }: { readonly ownCluster: string; readonly nowMs: number },
): boolean {
  const bytes = Buffer.from(PREFIX + statement);
  const trust = new Trust(authorities);
  return (
    clusterId === ownCluster &&
    authorities.some((ca) => {
      const isValid = trust.fault([ca], nowMs) === undefined && identityOf(ca.subjectAltName)?.clusterId === ownCluster;
      return isValid && isSignatureBy(ca.publicKey, bytes, Buffer.from(signature, 'base64'));
    })
  );
}

/** When the newest of these CAs was made, ms since 1970. A rotation only ever adds a newer one. */
function newestMs(authorities: readonly X509Certificate[]): number {
  return Math.max(Number.NEGATIVE_INFINITY, ...authorities.map(({ validFrom }) => Date.parse(validFrom)));
}

/**
 * Whom to believe after these statements, from those believed now: CAs of the cluster are what the last statement that
 * counts says, CAs of others stay as they are. A statement from before the newest CA that is believed does not count any
 * more, although somebody who is believed has signed it: that CA came by hand, in a rotation that was not published, and
 * must not be taken out again by what was published before it.
 */
export function believedAfter(
  statements: readonly TrustStatement[],
  authorities: readonly X509Certificate[],
  at: { readonly ownCluster: string; readonly nowMs: number },
): readonly X509Certificate[] {
  const isOurs = ({ subjectAltName }: X509Certificate): boolean => identityOf(subjectAltName) !== undefined;
  const others = authorities.filter((ca) => !isOurs(ca));
  let believed = authorities;
  for (const statement of [...statements].sort((a, b) => a.number - b.number)) {
    const isBefore = newestMs(statement.authorities) < newestMs(believed.filter(isOurs));
    if (!isBefore && counts(statement, believed, at)) believed = [...statement.authorities, ...others];
  }
  return believed;
}
