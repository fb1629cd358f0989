/** A listener for clients of any protocol, over TCP or TLS: accepts within limits, and names what it refuses. */
import { constants } from 'node:crypto';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, TLSSocket } from 'node:tls';
import { type Audit, NO_AUDIT } from '../base/audit.js';
import { messageOf } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime } from '../base/runtime.js';
import type { Live } from '../pki/live.js';
import { parseIdentity } from '../pki/names.js';
import type { Trust } from '../pki/trust.js';
import type { ClientKeeper, Conversation } from './clients/keeper.js';
import { atEachExpiry, chainOf } from './peer-chain.js';
import { cannotListen } from './tls-link.js';

/** What a TLS listener for clients proves, and asks of them. */
export interface ClientTls {
  readonly certificatePem: string;
  readonly keyPem: string;
  /** Whose client certificates are accepted; without it clients need none. */
  readonly clientCaPem: string | undefined;
  /** The same CAs with the revocation lists that hold for their certificates. */
  readonly clientTrust: Trust | undefined;
  /** Names, any of which a client's certificate must carry (common name, DNS or URI); empty for any certificate. */
  readonly names: readonly string[];
}

/** For a listener whose clients know few ciphers. */
export interface TlsProfile {
  readonly ciphers: string;
  readonly ecdhCurve: string;
}

/** Names in the verified certificate of a client; none when it presented none. */
export type ClientNames = readonly string[];

export interface Admission {
  /** Whether there are rules. Where that changes, everybody has to connect again: nothing begun is judged halfway. */
  isPoliced(): boolean;
  /** With `clientCa`: whether clients may present no certificate. They are served as what they are: strangers. */
  isCertificateOptional(): boolean;
  /** Why a client of these names may not speak. */
  refusal(names: ClientNames): string | undefined;
  /** Calls `listener` when the answers may be others, until the returned function is called. */
  onChange(listener: () => void): () => void;
}

export interface StreamServerOptions {
  readonly host: string;
  readonly port: number;
  /** What changes while it listens holds for new connections at once, and open ones are judged again. */
  readonly tls: Live<ClientTls> | undefined;
  /** Which ciphers TLS has here; those with forward secrecy and authenticated encryption when absent. */
  readonly profile?: TlsProfile;
  /** What TLS clients may ask for by ALPN; those that ask for nothing are served too. */
  readonly applicationProtocols: readonly string[];
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly audit?: Audit | undefined;
  /** Most connections at a time. */
  readonly maxConnections: number;
  /** Ends connections that cost more than they may; shared by all client listeners of a node. */
  readonly keeper: ClientKeeper;
  /** Who may speak at all, of those whose certificate is in order; everybody without it. */
  readonly admission?: Admission | undefined;
  /** A connection that may speak. */
  onConnection(socket: Socket, names: ClientNames): Conversation;
}

export interface StreamServer {
  readonly port: number;
  readonly connections: number;
  close(): Promise<void>;
}

/** A TLS listener's part that has to end with it. */
interface Secured {
  readonly server: Server;
  readonly unsubscribe: () => void;
}

const HANDSHAKE_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 1_000;
/** At most one refusal is logged in this time; the rest is counted with it. */
const REFUSAL_LOG_MS = 1_000;

const SOCKET = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000, allowHalfOpen: true } as const;

/** Names that a certificate carries. */
function namesOf(socket: TLSSocket): string[] {
  const { subject, subjectaltname = '' } = socket.getPeerCertificate();
  // The runtime quotes a name that holds a separator; split apart it would read as names that nobody was given.
  const isPlain = !subjectaltname.includes('"');
  const alternatives = isPlain ? subjectaltname.split(', ').map((name) => name.slice(name.indexOf(':') + 1)) : [];
  return [...[subject?.CN ?? []].flat(), ...alternatives];
}

/** Errors: `NETWORK` when the address cannot be used, or key and certificate do not fit. */
export async function listenForStreams(options: StreamServerOptions): Promise<StreamServer> {
  const { log, runtime, tls, admission } = options;
  const sockets = new Set<Socket>();
  const refuse = refusals(options);

  /** Those who may speak, where that can change. */
  const admitted = new Map<Socket, { readonly names: ClientNames; readonly policed: boolean }>();
  const isRefused = (socket: Socket, names: ClientNames): boolean => {
    const refusal = admission?.refusal(names);
    if (refusal !== undefined) end(socket, refusal);
    return refusal !== undefined;
  };
  const end = (socket: Socket, refusal: string): void => {
    refuse(refusal, socket);
    socket.destroy();
  };
  const converse = (socket: Socket, names: ClientNames): void => {
    if (isRefused(socket, names)) return;
    const policed = admission?.isPoliced() === true;
    if (policed || names.length > 0) {
      const who = { address: socket.remoteAddress, ...certificateFacts(socket) };
      options.audit?.record('client.connected', { listener: listenerOf(options, socket), ...who });
    }
    if (admission !== undefined) {
      admitted.set(socket, { names, policed });
      socket.on('close', () => admitted.delete(socket));
    }
    options.keeper.watch(socket, options.onConnection(socket, names));
  };
  const forget = admission?.onChange(() => {
    for (const [socket, { names, policed }] of [...admitted]) {
      if (!isRefused(socket, names) && policed !== admission.isPoliced())
        end(socket, `the listener has ${policed ? 'no policy any more' : 'a policy now'}: connect again`);
    }
  });
  const { server, unsubscribe }: Secured =
    tls === undefined
      ? { server: createServer(SOCKET, (socket) => converse(socket, [])), unsubscribe: () => undefined }
      : secureServer(options, tls, converse, refuse);
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', (error) => log.debug({ reason: messageOf(error) }, 'a client connection broke'));
    socket.on('close', () => sockets.delete(socket));
  });
  server.on('drop', () => refuse('too many connections (limits.connections)', undefined));
  server.maxConnections = options.maxConnections;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(cannotListen(options, error)));
    server.listen({ host: options.host, port: options.port, backlog: 1024 }, resolve);
  });
  server.on('error', (error) => log.error({ reason: messageOf(error) }, 'a client listener failed'));
  return {
    port: (server.address() as AddressInfo).port,
    get connections() {
      return sockets.size;
    },
    close: async () => {
      unsubscribe();
      forget?.();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.end();
      const timer = runtime.after(CLOSE_TIMEOUT_MS, () => {
        for (const socket of sockets) socket.destroy();
      });
      await closed;
      timer.cancel();
    },
  };
}

type Refuse = (reason: string, socket: Socket | undefined) => void;

/** Forward secrecy and authenticated encryption only, with TLS 1.2 too. */
const CIPHERS = [
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'TLS_AES_128_GCM_SHA256',
  ...['AES128-GCM-SHA256', 'AES256-GCM-SHA384', 'CHACHA20-POLY1305'].flatMap((cipher) => [
    `ECDHE-ECDSA-${cipher}`,
    `ECDHE-RSA-${cipher}`,
  ]),
].join(':');

function contextOf(tls: ClientTls): object {
  const { certificatePem: cert, keyPem: key, clientCaPem: ca } = tls;
  // Who proved something cannot become somebody else halfway.
  const noRenegotiation = constants.SSL_OP_NO_RENEGOTIATION;
  // A resumed session would carry the verdict of an earlier handshake: who must prove something does so each time.
  const secureOptions = noRenegotiation | (ca === undefined ? 0 : constants.SSL_OP_NO_TICKET);
  return { cert, key, ...(ca === undefined ? {} : { ca }), minVersion: 'TLSv1.2', ciphers: CIPHERS, secureOptions };
}

function secureServer(
  { applicationProtocols, runtime, admission, profile }: StreamServerOptions,
  tls: Live<ClientTls>,
  converse: (socket: Socket, names: ClientNames) => void,
  refuse: Refuse,
): Secured {
  const asksCertificate = tls.current.clientCaPem !== undefined;
  const server = createTlsServer({
    ...SOCKET,
    ...contextOf(tls.current),
    ...profile,
    requestCert: asksCertificate,
    // The verdict is taken below, where its reason can be logged.
    rejectUnauthorized: false,
    ...(applicationProtocols.length === 0 ? {} : { ALPNProtocols: [...applicationProtocols] }),
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
  });
  /** How each open connection is judged. */
  const judges = new Map<TLSSocket, () => string | undefined>();
  const endIfRefused = (socket: TLSSocket, judge: () => string | undefined): void => {
    const refusal = judge();
    if (refusal === undefined || socket.destroyed) return;
    refuse(refusal, socket);
    socket.destroy();
  };
  /** Judges it again when what is trusted changes, and when a certificate that it stands on ends. */
  const watch = (socket: TLSSocket, judge: () => string | undefined): void => {
    judges.set(socket, judge);
    const cancel = atEachExpiry(chainOf(socket), runtime, () => endIfRefused(socket, judge));
    socket.on('close', () => {
      judges.delete(socket);
      cancel();
    });
  };
  server.on('tlsClientError', (error, socket) => {
    refuse(messageOf(error), socket);
    socket.destroy();
  });
  server.on('secureConnection', (socket) => {
    // A record that was changed or repeated on its way: Node.js says so and leaves the connection open.
    socket.on('error', () => socket.destroy());
    const mayBeStranger = !asksCertificate || admission?.isCertificateOptional() === true;
    const isStranger = mayBeStranger && !(asksCertificate && hasCertificate(socket));
    const judge = isStranger ? () => undefined : judgeOf(socket, tls, runtime, admission);
    const refusal = judge();
    if (refusal === undefined) {
      if (!isStranger) watch(socket, judge);
      converse(socket, isStranger ? [] : namesOf(socket));
      return;
    }
    refuse(refusal, socket);
    socket.destroy();
  });
  const unsubscribe = tls.onChange(() => {
    server.setSecureContext({ ...contextOf(tls.current), ...profile });
    for (const [socket, judge] of [...judges]) endIfRefused(socket, judge);
  });
  return { server, unsubscribe };
}

function hasCertificate(socket: TLSSocket): boolean {
  return Object.keys(socket.getPeerCertificate() ?? {}).length > 0;
}

const FAULTS: Readonly<Record<string, string>> = {
  'untrusted-ca': 'it is not from a CA that this listener accepts',
  expired: 'it has expired',
  'not-yet-valid': 'it is not valid yet (compare the clocks)',
  revoked: 'it is revoked',
};

/** Why a client is refused, by what it presented at its handshake and by what is trusted now. */
function judgeOf(
  socket: TLSSocket,
  tls: Live<ClientTls>,
  runtime: Runtime,
  admission: Admission | undefined,
): () => string | undefined {
  if (!hasCertificate(socket)) return () => 'it presented no certificate';
  const { authorized, authorizationError } = socket;
  const chain = chainOf(socket);
  const names = namesOf(socket);
  return () => {
    if (!authorized) return `its certificate does not verify: ${String(authorizationError)}`;
    const { clientTrust, names: allowed } = tls.current;
    const fault = clientTrust?.fault(chain, runtime.nowMs());
    if (fault !== undefined) return `its certificate does not verify: ${FAULTS[fault]}`;
    if (allowed.length === 0) return admission?.isPoliced() === false ? nodeRefusal(names) : undefined;
    if (names.some((name) => allowed.includes(name))) return undefined;
    return `its certificate is for ${names.join(', ')}, which this listener does not allow`;
  };
}

/** A stolen edge is no client that writes: where every client may do everything, nodes are none unless they are named. */
function nodeRefusal(names: ClientNames): string | undefined {
  const node = names.map(parseIdentity).find((identity) => ['root', 'relay', 'edge'].includes(identity?.role ?? ''));
  if (node === undefined) return undefined;
  return `its certificate is that of the ${node.role} ${node.name}, not of a client: name it in tls.names, or in a policy`;
}

function listenerOf({ host, port }: StreamServerOptions, socket: Socket | undefined): string {
  return `${host}:${socket?.localPort ?? port}`;
}

/** What an audit says of the certificate of a client, if it presented one. */
function certificateFacts(socket: Socket | undefined): { names?: readonly string[]; fingerprint?: string } {
  if (!(socket instanceof TLSSocket) || !hasCertificate(socket)) return {};
  return { names: namesOf(socket), fingerprint: socket.getPeerCertificate().fingerprint256 };
}

/** Logs refusals without letting a stranger fill the disk. */
function refusals(options: StreamServerOptions): Refuse {
  const { log, runtime, audit = NO_AUDIT } = options;
  let lastMs = Number.NEGATIVE_INFINITY;
  let unlogged = 0;
  return (reason, socket) => {
    const listener = listenerOf(options, socket);
    audit.record('client.refused', { listener, address: socket?.remoteAddress, reason, ...certificateFacts(socket) });
    const nowMs = runtime.monotonicMs();
    if (nowMs - lastMs < REFUSAL_LOG_MS) {
      unlogged++;
      return;
    }
    lastMs = nowMs;
    log.warn({ address: socket?.remoteAddress, listener, reason, unlogged }, `client refused: ${reason}`);
    unlogged = 0;
  };
}
