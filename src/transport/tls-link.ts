/**
 * Links over mutually authenticated TLS 1.3, for both ends. Nothing of ours is read from or written to a peer before its
 * certificate was verified against the cluster's CA and its identity passed the policy (invariant 7).
 *
 * Certificate, CAs and revocation lists may change at any moment: the next handshake uses the new ones, and each open
 * link is judged again and ends if it would be refused now.
 *
 * Two choices that need a reason. Both ends take the verdict on the other's certificate themselves
 * (`rejectUnauthorized: false` and a check before the first byte) because the runtime would otherwise close the socket
 * without telling anybody why, and an operator at night needs to know. A peer with a certificate of our CA is told, too;
 * a stranger is not. And no sessions are resumed: a resumed session carries the verdict of an earlier one.
 */
import { constants } from 'node:crypto';
import type { AddressInfo, Socket } from 'node:net';
import { createServer, type PeerCertificate, type TLSSocket, connect as tlsConnect } from 'node:tls';
import { type Audit, NO_AUDIT } from '../base/audit.js';
import { codeOf, messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import type { NodeIdentity } from '../pki/identity.js';
import type { Live } from '../pki/live.js';
import type { Identity } from '../pki/names.js';
import { checkPeer, type PeerFacts, type Refusal, type RefusalReason, type Verdict } from '../pki/policy.js';
import { type CertifiedScope, certifiedScope } from '../pki/scope-names.js';
import { outOfDate } from '../pki/trust.js';
import { type Endpoint, endpointsOf, type Names, namesOf } from './addresses.js';
import { JOIN_PROTOCOL } from './join-link.js';
import type { Link, LinkHandlers } from './link.js';
import { atEachExpiry, chainOf } from './peer-chain.js';

const PROTOCOL = 'tokaido/1';
const HANDSHAKE_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 10_000;
/** How long a graceful close may take. */
const CLOSE_TIMEOUT_MS = 2_000;
/**
 * How long a link may last whose CA was retired: the other end may be about to read its new certificate (`LOOK_MS` of the
 * node), and then another link takes its place. What the peer had is all that it has in this time; what it opens anew is
 * judged at once. With the looks at files before it, less than a second.
 */
const DISTRUSTED_MS = 700;
/** One address is logged at most this often per reason; further refusals are counted. */
const REFUSAL_LOG_MS = 1_000;
const MAX_REFUSAL_ENTRIES = 1_000;

const COMMON = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ALPNProtocols: [PROTOCOL],
  secureOptions: constants.SSL_OP_NO_TICKET,
} as const;

function credentials({ certificatePem, keyPem, caPem }: NodeIdentity): { cert: string; key: string; ca: string } {
  return { cert: certificatePem, key: keyPem, ca: caPem };
}

function addressOf(socket: Socket): string {
  return `${socket.remoteAddress ?? '?'}:${socket.remotePort ?? '?'}`;
}

/** The peer's certificate; empty when it presented none, and when the socket is gone already. */
function certificateOf(socket: TLSSocket): Partial<PeerCertificate> {
  return (socket.getPeerCertificate() as PeerCertificate | null) ?? {};
}

/** Judges a peer by what it presented at its handshake; again whenever what we trust has changed. */
function judgeOf(
  socket: TLSSocket,
  { identity: own, runtime }: { readonly identity: Live<NodeIdentity>; readonly runtime: Runtime },
  side: 'upstream' | 'follower',
  expectedName?: string,
): () => Verdict {
  const facts = factsOf(socket);
  const chain = chainOf(socket);
  return () => {
    const { identity, trust } = own.current;
    const nowMs = runtime.nowMs();
    const dated = outOfDate(chain, trust, nowMs) ?? chain[0];
    const validity =
      dated === undefined
        ? {}
        : { validity: { fromMs: Date.parse(dated.validFrom), toMs: Date.parse(dated.validTo), nowMs } };
    const chainFault = trust.fault(chain, nowMs);
    return checkPeer({ ...facts, ...validity, chainFault }, identity, side, expectedName);
  };
}

function factsOf(socket: TLSSocket): Omit<PeerFacts, 'chainFault'> {
  const certificate = certificateOf(socket);
  const presented = Object.keys(certificate).length > 0;
  // Node gives an Error on one side and a code on the other.
  const problem: unknown = socket.authorizationError;
  const code = problem == null ? undefined : (codeOf(problem) ?? String(problem));
  const verifyError = socket.authorized ? undefined : (code ?? 'UNVERIFIED');
  return { presented, verifyError, subjectAltName: certificate.subjectaltname };
}

function describeCertificate(certificate: Partial<PeerCertificate>): Readonly<Record<string, string | undefined>> {
  if (Object.keys(certificate).length === 0) return {};
  const { subject, subjectaltname, valid_to: validTo, fingerprint256: fingerprint } = certificate;
  return { subject: subject?.CN?.toString(), names: subjectaltname, validTo, fingerprint };
}

/** What OpenSSL's refusals mean, for people. */
function explainTlsError(error: unknown): string {
  const code = codeOf(error) ?? '';
  const text = messageOf(error);
  if (/UNSUPPORTED_PROTOCOL|WRONG_VERSION|VERSION_TOO_LOW|protocol version/i.test(`${code} ${text}`)) {
    return /WRONG_VERSION_NUMBER|wrong version number/i.test(`${code} ${text}`)
      ? 'the peer does not speak TLS'
      : 'the peer offers only TLS older than 1.3';
  }
  if (/HTTP_REQUEST|http request/i.test(`${code} ${text}`)) return 'the peer speaks plain HTTP, not TLS';
  if (/ALPN|no application protocol/i.test(`${code} ${text}`)) return 'the peer does not speak Tokaido replication';
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return 'the TLS handshake took too long';
  if (code === 'ECONNRESET') return 'the peer closed the connection during the handshake';
  if (/certificate.?expired/i.test(text)) return 'the peer says that our certificate has expired';
  if (/unknown ca/i.test(text)) return 'the peer does not trust our certificate';
  if (/unexpected message|bad record|packet length|decode error|unsupported/i.test(text))
    return 'the peer does not speak TLS';
  return text;
}

/** A socket that passed all checks, as a `Link`. */
class TlsLink implements Link {
  readonly peer: Identity;
  readonly scope: CertifiedScope;
  readonly peerAddress: string;
  readonly fingerprint: string;
  readonly #socket: TLSSocket;
  readonly #runtime: Runtime;
  #reason: string | undefined;

  constructor(socket: TLSSocket, peer: Identity, runtime: Runtime) {
    const { fingerprint256 = '', subjectaltname } = certificateOf(socket);
    this.fingerprint = fingerprint256;
    this.scope = certifiedScope(subjectaltname);
    this.#socket = socket;
    this.peer = peer;
    this.peerAddress = addressOf(socket);
    this.#runtime = runtime;
  }

  /**
   * Hands events over; from here on bytes flow, until `judge` says otherwise after a change of what we trust.
   * `onRefused` is told why.
   */
  attach(
    handlers: LinkHandlers,
    { trust, judge, onRefused }: { trust: Live<unknown>; judge: () => Verdict; onRefused: (refusal: Refusal) => void },
  ): void {
    const socket = this.#socket;
    let distrusted: Timer | undefined;
    const endIfRefused = (): void => {
      const verdict = judge();
      if (!('refused' in verdict) || socket.destroyed) return;
      onRefused(verdict.refused);
      this.destroy(`the peer is no longer allowed: ${verdict.refused.message}`);
    };
    // Its own, or that of a CA which leads to it: the link does not outlive what vouches for the peer.
    const cancelExpiry = atEachExpiry(chainOf(socket), this.#runtime, endIfRefused);
    const unsubscribe = trust.onChange(() => {
      const verdict = judge();
      const isRetired = 'refused' in verdict && verdict.refused.reason === 'untrusted-ca';
      if (!isRetired || handlers.onOutdated === undefined || socket.destroyed) {
        endIfRefused();
        return;
      }
      // Whoever was revoked or has expired goes at once; the peer of a retired CA most likely has a new certificate.
      distrusted ??= this.#runtime.after(DISTRUSTED_MS, () => {
        // A CA that counts again may be retired again.
        distrusted = undefined;
        endIfRefused();
      });
      handlers.onOutdated();
    });
    socket.on('data', (chunk: Buffer) => handlers.onData(chunk));
    socket.on('drain', () => handlers.onDrain());
    socket.on('error', (error) => {
      this.#reason ??= explainTlsError(error);
      // Node.js leaves a connection open whose records were changed on their way.
      socket.destroy();
    });
    socket.on('close', () => {
      cancelExpiry();
      distrusted?.cancel();
      unsubscribe();
      handlers.onClose(this.#reason ?? 'the peer closed the link');
    });
  }

  send(chunks: readonly Buffer[]): void {
    if (this.#socket.destroyed || this.#socket.writableEnded) return;
    if (chunks.length > 1) this.#socket.cork();
    for (const chunk of chunks) this.#socket.write(chunk);
    if (chunks.length > 1) this.#socket.uncork();
  }

  get queuedBytes(): number {
    return this.#socket.writableLength;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  close(): void {
    if (this.#socket.destroyed) return;
    this.#reason ??= 'closed by this node';
    this.#socket.end();
    const timer = this.#runtime.after(CLOSE_TIMEOUT_MS, () => this.#socket.destroy());
    this.#socket.once('close', () => timer.cancel());
  }

  destroy(reason: string): void {
    this.#reason ??= reason;
    this.#socket.destroy();
  }
}

export interface FollowerListenerOptions {
  readonly host: string;
  readonly port: number;
  /** The identity to prove, and whom to trust. */
  readonly identity: Live<NodeIdentity>;
  readonly log: Logger;
  readonly runtime: Runtime;
  readonly audit?: Audit;
  /** Most connections at a time, those in the handshake included. */
  readonly maxConnections: number;
  /** A peer passed all checks. Returns who handles its events. */
  onLink(link: Link): LinkHandlers;
  /** A machine without a certificate wants to join; nobody may when absent. */
  onJoin?: (socket: TLSSocket) => void;
  /** The bytes that tell a peer why it is refused. */
  farewell?: (message: string) => Buffer;
}

export interface FollowerListener {
  readonly port: number;
  /** Refusals since the start, by reason; for metrics. */
  readonly refusals: ReadonlyMap<string, number>;
  close(): Promise<void>;
}

/** Logs refusals without letting a stranger fill the disk. */
class RefusalLog {
  readonly counts = new Map<string, number>();
  readonly #log: Logger;
  readonly #runtime: Runtime;
  readonly #lastMs = new Map<string, number>();
  readonly #audit: Audit;

  constructor(log: Logger, runtime: Runtime, audit: Audit) {
    this.#log = log;
    this.#runtime = runtime;
    this.#audit = audit;
  }

  refuse(
    socket: Socket,
    reason: RefusalReason | 'tls' | 'too-many',
    message: string,
    details: Readonly<Record<string, string | undefined>> = {},
  ): void {
    this.counts.set(reason, (this.counts.get(reason) ?? 0) + 1);
    this.#audit.record('follower.refused', { address: addressOf(socket), reason, message, ...details });
    const nowMs = this.#runtime.monotonicMs();
    const key = `${reason} ${socket.remoteAddress ?? '?'} ${message}`;
    if (nowMs - (this.#lastMs.get(key) ?? Number.NEGATIVE_INFINITY) < REFUSAL_LOG_MS) return;
    if (this.#lastMs.size >= MAX_REFUSAL_ENTRIES) this.#lastMs.clear();
    this.#lastMs.set(key, nowMs);
    this.#log.warn({ address: addressOf(socket), reason, ...details }, `replication peer refused: ${message}`);
  }
}

/** Listens for followers. Errors: `NETWORK` when the address cannot be used. */
export async function listenForFollowers(options: FollowerListenerOptions): Promise<FollowerListener> {
  const { identity, log, runtime, audit = NO_AUDIT } = options;
  const refusals = new RefusalLog(log, runtime, audit);
  const sockets = new Set<Socket>();
  const server = createServer({
    ...COMMON,
    ...credentials(identity.current),
    ALPNProtocols: [PROTOCOL, ...(options.onJoin === undefined ? [] : [JOIN_PROTOCOL])],
    requestCert: true,
    rejectUnauthorized: false,
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
    sessionTimeout: 1,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 15_000,
  });
  server.maxConnections = options.maxConnections;
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    // A handshake that fails reports through tlsClientError; a raw socket that breaks must not end the process.
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
  });
  server.on('drop', () => {
    refusals.counts.set('too-many', (refusals.counts.get('too-many') ?? 0) + 1);
    log.warn(
      { limit: options.maxConnections },
      'replication peer refused: too many connections (replication.maxFollowers)',
    );
  });
  server.on('tlsClientError', (error, socket) => {
    refusals.refuse(socket, 'tls', explainTlsError(error));
    socket.destroy();
  });
  server.on('secureConnection', (socket) => {
    socket.on('error', () => socket.destroy());
    if (socket.alpnProtocol === JOIN_PROTOCOL && options.onJoin !== undefined) {
      options.onJoin(socket);
      return;
    }
    const details = describeCertificate(certificateOf(socket));
    if (socket.alpnProtocol !== PROTOCOL) {
      refusals.refuse(socket, 'tls', 'the peer does not speak Tokaido replication', details);
      socket.destroy();
      return;
    }
    const judge = judgeOf(socket, options, 'follower');
    const verdict = judge();
    if ('refused' in verdict) {
      refusals.refuse(socket, verdict.refused.reason, verdict.refused.message, details);
      dismiss(socket, verdict.refused, options);
      return;
    }
    const link = new TlsLink(socket, verdict.identity, runtime);
    const onRefused = ({ reason, message }: Refusal): void => refusals.refuse(socket, reason, message, details);
    const handlers = options.onLink(link);
    link.attach(handlers, { trust: identity, judge, onRefused });
    const { fingerprint256: shown } = (socket.getCertificate() as PeerCertificate | null) ?? {};
    // Replaced during the handshake: nobody else will say so of this link.
    if (shown !== identity.current.fingerprint) handlers.onOutdated?.();
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(cannotListen(options, error)));
    server.listen(options.port, options.host, resolve);
  });
  server.on('error', (error) => log.error({ reason: messageOf(error) }, 'the replication listener failed'));
  const unsubscribe = identity.onChange(() => server.setSecureContext({ ...COMMON, ...credentials(identity.current) }));
  return {
    port: (server.address() as AddressInfo).port,
    refusals: refusals.counts,
    close: async () => {
      unsubscribe();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      // Links that are closing in good order get their moment; the rest is cut.
      const timer = runtime.after(CLOSE_TIMEOUT_MS, () => {
        for (const socket of sockets) socket.destroy();
      });
      await closed;
      timer.cancel();
    },
  };
}

/** Refusals of peers whose certificate is of our CA: they are told why. Strangers are not. */
const TOLD: readonly string[] = ['expired', 'not-yet-valid', 'revoked', 'no-identity', 'wrong-cluster', 'wrong-role'];

function dismiss(socket: TLSSocket, refusal: Refusal, { farewell, runtime }: FollowerListenerOptions): void {
  if (farewell === undefined || !TOLD.includes(refusal.reason)) {
    socket.destroy();
    return;
  }
  socket.end(farewell(refusal.message));
  const timer = runtime.after(CLOSE_TIMEOUT_MS, () => socket.destroy());
  socket.once('close', () => timer.cancel());
}

/** Why a listener could not open, with what to do. */
export function cannotListen(
  { host, port }: { readonly host: string; readonly port: number },
  error: unknown,
): TokaidoError {
  const inUse = codeOf(error) === 'EADDRINUSE';
  return new TokaidoError('NETWORK', `cannot listen on ${host}:${port}: ${messageOf(error)}`, {
    hint: inUse
      ? 'another process uses this port: choose another one, or stop that process'
      : 'check host and port in the configuration',
    cause: error,
  });
}

export interface ConnectOptions {
  /** An address, a host name, or a name of SRV records, which say the port. */
  readonly host: string;
  readonly port: number;
  /** The name the upstream's certificate must carry; any root or relay of the cluster when absent. */
  readonly expectedName: string | undefined;
  readonly identity: Live<NodeIdentity>;
  readonly log: Logger;
  readonly runtime: Runtime;
  readonly audit?: Audit;
  /** What names stand for; what the machine says when absent. */
  readonly names?: Names;
  onLink(link: Link): LinkHandlers;
}

/**
 * Connects to an upstream; resolves once the link is handed over. Of a name with several addresses each is tried.
 * Errors: `NETWORK`, `IDENTITY`, of the last address.
 */
export async function connectToUpstream(options: ConnectOptions): Promise<void> {
  const { host, port, names = MACHINE_NAMES, runtime, log } = options;
  const endpoints = await endpointsOf({ host, port }, names, () => runtime.random());
  for (const [index, endpoint] of endpoints.entries()) {
    try {
      await connectToAddress(options, endpoint);
      return;
    } catch (error) {
      if (index === endpoints.length - 1) throw error;
      log.info({ reason: messageOf(error) }, 'trying the next address of the upstream');
    }
  }
}

const MACHINE_NAMES = namesOf([]);

async function connectToAddress(options: ConnectOptions, { address, port }: Endpoint): Promise<void> {
  const { host, identity, log, runtime, audit = NO_AUDIT } = options;
  const shown = identity.current;
  await new Promise<void>((resolve, reject) => {
    const socket = tlsConnect({
      ...COMMON,
      ...credentials(shown),
      host: address,
      port,
      // The verdict is taken below, as at the other end: its reason says more than the runtime's.
      rejectUnauthorized: false,
      // Without a name to verify, Node would fall back to the address; identity is the URI name, checked below.
      checkServerIdentity: () => undefined,
    });
    const timer = runtime.after(CONNECT_TIMEOUT_MS, () => {
      socket.destroy(new TokaidoError('TIMEOUT', `no TLS connection within ${CONNECT_TIMEOUT_MS} ms`));
    });
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 15_000);
    const at = address === host ? '' : ` (${address})`;
    const failed = (error: unknown): void => {
      timer.cancel();
      socket.destroy();
      reject(
        new TokaidoError('NETWORK', `cannot link to ${host}:${port}${at}: ${explainTlsError(error)}`, {
          cause: error,
        }),
      );
    };
    const closed = (): void => failed(new Error('the upstream closed the connection during the handshake'));
    socket.once('error', failed);
    socket.once('close', closed);
    socket.once('secureConnect', () => {
      const judge = judgeOf(socket, options, 'upstream', options.expectedName);
      const verdict = judge();
      const refused = ({ reason, message }: Refusal): void => {
        const details = describeCertificate(certificateOf(socket));
        audit.record('upstream.refused', { address: addressOf(socket), reason, message, ...details });
      };
      if ('refused' in verdict) {
        refused(verdict.refused);
        failed(new TokaidoError('IDENTITY', `refused the upstream: ${verdict.refused.message}`));
        return;
      }
      timer.cancel();
      socket.off('error', failed);
      socket.off('close', closed);
      const link = new TlsLink(socket, verdict.identity, runtime);
      const onRefused = (refusal: Refusal): void => {
        const { reason, message } = refusal;
        log.warn({ address: addressOf(socket), reason }, `replication peer refused: ${message}`);
        refused(refusal);
      };
      const handlers = options.onLink(link);
      link.attach(handlers, { trust: identity, judge, onRefused });
      if (shown.fingerprint !== identity.current.fingerprint) handlers.onOutdated?.();
      resolve();
    });
  });
}
