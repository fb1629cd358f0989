/** The certificates that a peer presented at its handshake, and the moments when they end. */
import { X509Certificate } from 'node:crypto';
import type { DetailedPeerCertificate, TLSSocket } from 'node:tls';
import type { Runtime, Timer } from '../base/runtime.js';

/** Longest timer the runtime can hold; a certificate that lives longer is looked at again then. */
const MAX_TIMER_MS = 2 ** 31 - 1;
/** A timer may fire a moment early, when the certificate is still good. */
const LATE_MS = 5;

/** Most certificates of a chain that a peer presents. */
const MAX_CHAIN = 8;

/** The peer's certificate and those above it, as far as it presented them or we have them; empty without any. */
export function chainOf(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  let certificate: Partial<DetailedPeerCertificate> | null | undefined = socket.getPeerCertificate(true);
  while (certificate?.raw !== undefined && chain.length < MAX_CHAIN) {
    chain.push(new X509Certificate(certificate.raw));
    // A root is its own issuer.
    if (certificate.issuerCertificate === certificate) break;
    certificate = certificate.issuerCertificate;
  }
  return chain;
}

/** Calls `fn` whenever one of these certificates has just ended, until the returned function is called. */
export function atEachExpiry(chain: readonly X509Certificate[], runtime: Runtime, fn: () => void): () => void {
  const ends = chain.map(({ validTo }) => Date.parse(validTo)).sort((a, b) => a - b);
  let timer: Timer | undefined;
  const arm = (): void => {
    while (ends[0] !== undefined && ends[0] + LATE_MS <= runtime.nowMs()) ends.shift();
    const [next] = ends;
    if (next === undefined) return;
    timer = runtime.after(Math.min(next + LATE_MS - runtime.nowMs(), MAX_TIMER_MS), () => {
      const hasEnded = next <= runtime.nowMs();
      arm();
      if (hasEnded) fn();
    });
  };
  arm();
  return () => timer?.cancel();
}
