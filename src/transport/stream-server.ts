/** A listener for clients of any protocol, over TCP or TLS: accepts within limits, and names what it refuses. */
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { messageOf } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime } from '../base/runtime.js';
import type { ClientKeeper, Conversation } from './client-keeper.js';
import { cannotListen } from './tls-link.js';

/** What a TLS listener for clients proves, and asks of them. */
export interface ClientTls {
  readonly certificatePem: string;
  readonly keyPem: string;
  /** Whose client certificates are accepted; without it clients need none. */
  readonly clientCaPem: string | undefined;
  /** Names, any of which a client's certificate must carry (common name, DNS or URI); empty for any certificate. */
  readonly names: readonly string[];
}

/** Names in the verified certificate of a client; none when it presented none. */
export type ClientNames = readonly string[];

export interface StreamServerOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: ClientTls | undefined;
  /** What TLS clients may ask for by ALPN; those that ask for nothing are served too. */
  readonly applicationProtocols: readonly string[];
  readonly runtime: Runtime;
  readonly log: Logger;
  /** Most connections at a time. */
  readonly maxConnections: number;
  /** Ends connections that cost more than they may; shared by all client listeners of a node. */
  readonly keeper: ClientKeeper;
  /** With `clientCa`: clients may present no certificate. They are served as what they are: strangers. */
  readonly certificateOptional?: boolean;
  /** Why a client of these names may not speak at all. */
  refusal?(names: ClientNames): string | undefined;
  /** A connection that may speak. */
  onConnection(socket: Socket, names: ClientNames): Conversation;
}

export interface StreamServer {
  readonly port: number;
  readonly connections: number;
  close(): Promise<void>;
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
  const { log, runtime, tls } = options;
  const sockets = new Set<Socket>();
  const refuse = refusals(options);

  const converse = (socket: Socket, names: ClientNames): void => {
    const refusal = options.refusal?.(names);
    if (refusal === undefined) {
      options.keeper.watch(socket, options.onConnection(socket, names));
      return;
    }
    refuse(refusal, socket);
    socket.destroy();
  };
  const server =
    tls === undefined
      ? createServer(SOCKET, (socket) => converse(socket, []))
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

function secureServer(
  { applicationProtocols, certificateOptional = false }: StreamServerOptions,
  tls: ClientTls,
  converse: (socket: Socket, names: ClientNames) => void,
  refuse: Refuse,
): Server {
  const asksCertificate = tls.clientCaPem !== undefined;
  const server = createTlsServer({
    ...SOCKET,
    cert: tls.certificatePem,
    key: tls.keyPem,
    ...(asksCertificate ? { ca: tls.clientCaPem } : {}),
    requestCert: asksCertificate,
    // The verdict is taken below, where its reason can be logged.
    rejectUnauthorized: false,
    minVersion: 'TLSv1.2',
    ...(applicationProtocols.length === 0 ? {} : { ALPNProtocols: [...applicationProtocols] }),
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
  });
  server.on('tlsClientError', (error, socket) => {
    refuse(messageOf(error), socket);
    socket.destroy();
  });
  server.on('secureConnection', (socket) => {
    socket.on('error', () => undefined);
    const isStranger = !asksCertificate || (certificateOptional && !hasCertificate(socket));
    const refusal = isStranger ? undefined : refusalOf(socket, tls.names);
    if (refusal === undefined) {
      converse(socket, isStranger ? [] : namesOf(socket));
      return;
    }
    refuse(refusal, socket);
    socket.destroy();
  });
  return server;
}

function hasCertificate(socket: TLSSocket): boolean {
  return Object.keys(socket.getPeerCertificate() ?? {}).length > 0;
}

function refusalOf(socket: TLSSocket, allowed: readonly string[]): string | undefined {
  if (!hasCertificate(socket)) return 'it presented no certificate';
  if (!socket.authorized) return `its certificate does not verify: ${String(socket.authorizationError)}`;
  const names = namesOf(socket);
  if (allowed.length === 0 || names.some((name) => allowed.includes(name))) return undefined;
  return `its certificate is for ${names.join(', ')}, which this listener does not allow`;
}

/** Logs refusals without letting a stranger fill the disk. */
function refusals({ log, runtime, host, port }: StreamServerOptions): Refuse {
  let lastMs = Number.NEGATIVE_INFINITY;
  let unlogged = 0;
  return (reason, socket) => {
    const nowMs = runtime.monotonicMs();
    if (nowMs - lastMs < REFUSAL_LOG_MS) {
      unlogged++;
      return;
    }
    lastMs = nowMs;
    const listener = `${host}:${socket?.localPort ?? port}`;
    log.warn({ address: socket?.remoteAddress, listener, reason, unlogged }, `client refused: ${reason}`);
    unlogged = 0;
  };
}
