/**
 * Whom we trust: CA certificates and revocation lists, and the verdict on a chain of certificates. At a handshake OpenSSL
 * has verified the chain already; this verdict is taken in addition, because it knows every revocation list, and again on
 * links that are open when certificates or lists change.
 */
import type { KeyObject, X509Certificate } from 'node:crypto';
import type { RevocationList } from './crl.js';
import { pathLengthOf } from './x509.js';

/** What is wrong with a chain. */
export type ChainFault = 'untrusted-ca' | 'expired' | 'not-yet-valid' | 'revoked';

/** Most CAs from a leaf up to its root. */
const MAX_CAS = 5;
/** Of what comes with a leaf, so many certificates are looked at. */
const MAX_OTHERS = 16;

/** One verdict under way. */
interface Search {
  /** What came with the leaf. */
  readonly others: readonly X509Certificate[];
  readonly nowMs: number;
  /** Verdicts so far, by certificate and CAs below it: there may be very many ways through what a stranger brings. */
  readonly known: Map<string, ChainFault | undefined>;
}

function dateFault(certificate: X509Certificate, nowMs: number): ChainFault | undefined {
  if (Date.parse(certificate.validTo) <= nowMs) return 'expired';
  return Date.parse(certificate.validFrom) > nowMs ? 'not-yet-valid' : undefined;
}

export function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return issuer.ca && certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
}

/**
 * The CA that signed something, if it is one that counts now: an authority, or one among `others` that leads to one.
 */
export function signerIn(
  trust: Trust,
  others: readonly X509Certificate[],
  isSignedBy: (key: KeyObject) => boolean,
  nowMs: number,
): X509Certificate | undefined {
  return [...trust.authorities, ...others].find((ca) => {
    return ca.ca && isSignedBy(ca.publicKey) && trust.fault([ca, ...others], nowMs) === undefined;
  });
}

/**
 * The certificate whose dates are at fault: the leaf if it is that one, else a CA above it. For messages; `undefined` when
 * all are in date.
 */
export function outOfDate(
  chain: readonly X509Certificate[],
  { authorities }: Trust,
  nowMs: number,
): X509Certificate | undefined {
  return [...chain, ...authorities].find((certificate) => dateFault(certificate, nowMs) !== undefined);
}

export class Trust {
  /** CA certificates that end a chain. */
  readonly authorities: readonly X509Certificate[];
  readonly lists: readonly RevocationList[];
  /** The lists that a CA has signed, by the fingerprint of its certificate: each signature is verified once. */
  readonly #signed = new Map<string, readonly RevocationList[]>();

  constructor(authorities: readonly X509Certificate[], lists: readonly RevocationList[] = []) {
    this.authorities = authorities;
    this.lists = lists;
  }

  /** The same authorities with these lists. */
  with(lists: readonly RevocationList[]): Trust {
    return new Trust(this.authorities, lists);
  }

  /**
   * What is wrong with `chain` (a leaf, and whatever else its holder presented), or `undefined` when a path leads from
   * it to one of the authorities, every certificate on it is in date, none is revoked by its issuer, and no CA on it has
   * more CAs below it than it may. A leaf that is a CA itself is taken as one that signs. Its cost is bounded whatever is
   * presented: it is asked about strangers.
   */
  fault(chain: readonly X509Certificate[], nowMs: number): ChainFault | undefined {
    const [leaf, ...rest] = chain;
    if (leaf === undefined) return 'untrusted-ca';
    return this.#fault(leaf, leaf.ca ? 1 : 0, { others: rest.slice(0, MAX_OTHERS), nowMs, known: new Map() });
  }

  #fault(certificate: X509Certificate, casBelow: number, search: Search): ChainFault | undefined {
    const key = `${casBelow} ${certificate.fingerprint256}`;
    if (search.known.has(key)) return search.known.get(key);
    const fault = this.#newFault(certificate, casBelow, search);
    search.known.set(key, fault);
    return fault;
  }

  #newFault(certificate: X509Certificate, casBelow: number, search: Search): ChainFault | undefined {
    const { others, nowMs } = search;
    // One that we trust by itself needs no issuer, but it must be in date.
    const isAnchor = this.authorities.some(({ fingerprint256 }) => fingerprint256 === certificate.fingerprint256);
    if (isAnchor) return dateFault(certificate, nowMs);
    if (casBelow >= MAX_CAS) return 'untrusted-ca';
    let fault: ChainFault = 'untrusted-ca';
    for (const issuer of [...this.authorities, ...others]) {
      if (issuer === certificate || !issuer.ca || !certificate.checkIssued(issuer)) continue;
      if (casBelow > (pathLengthOf(issuer) ?? MAX_CAS)) continue;
      const above = this.#fault(issuer, casBelow + 1, search);
      // Signatures are dear: only those of CAs that lead to an authority are verified, not what strangers signed.
      if (above === 'untrusted-ca' || !certificate.verify(issuer.publicKey)) continue;
      const found = this.#isRevoked(certificate, issuer) ? 'revoked' : (above ?? dateFault(certificate, nowMs));
      if (found === undefined) return undefined;
      fault = found;
    }
    return fault;
  }

  /**
   * When the CAs that vouch for `chain` end, ms since 1970: the earliest end on the path that lasts longest; `undefined`
   * when no path leads to an authority.
   */
  endsMs([leaf, ...others]: readonly X509Certificate[]): number | undefined {
    return leaf === undefined ? undefined : this.#endsMs(leaf, others, 0);
  }

  #endsMs(certificate: X509Certificate, others: readonly X509Certificate[], casBelow: number): number | undefined {
    const ownMs = casBelow === 0 ? Number.POSITIVE_INFINITY : Date.parse(certificate.validTo);
    if (this.authorities.some(({ fingerprint256 }) => fingerprint256 === certificate.fingerprint256)) return ownMs;
    if (casBelow >= MAX_CAS) return undefined;
    const above = [...this.authorities, ...others].flatMap((issuer) => {
      const isIssuer = issuer !== certificate && isIssuedBy(certificate, issuer);
      return isIssuer ? (this.#endsMs(issuer, others, casBelow + 1) ?? []) : [];
    });
    return above.length === 0 ? undefined : Math.min(ownMs, Math.max(...above));
  }

  #isRevoked({ serialNumber }: X509Certificate, issuer: X509Certificate): boolean {
    return this.#listsOf(issuer).some(({ serials }) => serials.has(serialNumber));
  }

  #listsOf(issuer: X509Certificate): readonly RevocationList[] {
    const known = this.#signed.get(issuer.fingerprint256);
    if (known !== undefined) return known;
    const signed = this.lists.filter((list) => list.isSignedBy(issuer.publicKey));
    // Only what leads to an authority comes here often; strangers cannot make this grow, because CAs are few.
    this.#signed.set(issuer.fingerprint256, signed);
    return signed;
  }
}
