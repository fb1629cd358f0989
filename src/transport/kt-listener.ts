/**
 * The listener for followers that are Kyoto Tycoon servers, and the plain link to one. These peers have no certificates
 * of the cluster, so who may connect is said here in full: by address, or by a certificate over TLS (invariant 7).
 */
import { isIPv4, type Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type { Audit } from '../base/audit.js';
import type { Logger } from '../base/logger.js';
import type { Runtime } from '../base/runtime.js';
import type { Live } from '../pki/live.js';
import type { ClientKeeper } from './clients/keeper.js';
import {
  type Admission,
  type ClientTls,
  listenForStreams,
  type StreamServer,
  type TlsProfile,
} from './stream-server.js';

/** Longest wait for the last bytes of a link that is being closed. */
const CLOSE_TIMEOUT_MS = 1_000;

/** A connection that is refused. */
const QUIET = { isWaitingForRest: false, isWorking: false, heldBytes: 0, holdsMuch: (): void => undefined };

/** What happens on one link. */
export interface KtLinkHandlers {
  /** Whether the follower has not said yet what it wants. */
  readonly isGreeting: boolean;
  onData(chunk: Buffer): void;
  /** The queue emptied after it had grown. */
  onDrain(): void;
  /** Exactly once. */
  onClose(): void;
}

/** Bytes to one follower, in order. */
export class KtLink {
  readonly #socket: Socket;
  readonly #runtime: Runtime;

  constructor(socket: Socket, runtime: Runtime) {
    this.#socket = socket;
    this.#runtime = runtime;
  }

  send(chunks: readonly Buffer[]): void {
    if (this.#socket.destroyed || this.#socket.writableEnded) return;
    for (const chunk of chunks) this.#socket.write(chunk);
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

  /** Sends what is queued, then closes; gives up after a bounded wait. */
  close(): void {
    if (this.#socket.destroyed) return;
    this.#socket.end();
    const timer = this.#runtime.after(CLOSE_TIMEOUT_MS, () => this.#socket.destroy());
    this.#socket.once('close', () => timer.cancel());
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

export interface KtListenerOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: Live<ClientTls> | undefined;
  /** Addresses that may connect; any when empty, which only a listener that asks for certificates may say. */
  readonly allow: readonly string[];
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly maxConnections: number;
  /** Ends connections that cost more than they may. */
  readonly keeper: ClientKeeper;
  readonly audit?: Audit;
  /** `name`: the common name in the subject of the peer's certificate; `undefined` when it has none, or several. */
  onLink(address: string, link: KtLink, name: string | undefined): KtLinkHandlers;
}

/**
 * What servers with Cloudflare's TLS patch speak: TLS 1.2 with this one cipher, on P-256. Newer peers may use TLS 1.3,
 * with the cipher that is nearest to it.
 */
const PROFILE: TlsProfile = {
  ciphers: 'TLS_AES_256_GCM_SHA384:ECDHE-ECDSA-AES256-GCM-SHA384',
  ecdhCurve: 'P-256',
};

/**
 * No node of the cluster follows here, unless it is named in `tls.names`: what its certificate lets it follow at most is
 * for links between nodes to hold, and would be passed over.
 */
const NO_NODES: Admission = {
  isPoliced: () => false,
  isCertificateOptional: () => false,
  refusal: () => undefined,
  onChange: () => () => undefined,
};

function commonName(socket: Socket): string | undefined {
  if (!(socket instanceof TLSSocket)) return undefined;
  const name: unknown = socket.getPeerCertificate()?.subject?.CN;
  return typeof name === 'string' ? name : undefined;
}

/** Errors: `NETWORK` when the address cannot be used. */
export async function listenForKtFollowers(options: KtListenerOptions): Promise<StreamServer> {
  const { runtime, log, allow } = options;
  return await listenForStreams({
    ...options,
    applicationProtocols: [],
    admission: NO_NODES,
    profile: PROFILE,
    onConnection: (socket) => {
      const address = plainAddress(socket.remoteAddress ?? '');
      if (allow.length > 0 && !allow.includes(address)) {
        log.warn({ address }, 'a Kyoto Tycoon follower is refused: its address is not in listen.kyotoTycoon.allow');
        socket.destroy();
        return { ...QUIET };
      }
      const handlers = options.onLink(
        `${address}:${socket.remotePort}`,
        new KtLink(socket, runtime),
        commonName(socket),
      );
      socket.on('data', (chunk: Buffer) => handlers.onData(chunk));
      socket.on('drain', () => handlers.onDrain());
      socket.on('end', () => socket.end());
      socket.on('close', () => handlers.onClose());
      return {
        get isWaitingForRest() {
          return handlers.isGreeting;
        },
        // What waits for a follower waits in its socket, bounded by its session.
        heldBytes: 0,
        get isWorking() {
          return !handlers.isGreeting;
        },
        holdsMuch: () => undefined,
      };
    },
  });
}

/** An IPv4 address as such, also when it came over a socket of both families. */
function plainAddress(address: string): string {
  const mapped = address.replace(/^::ffff:/i, '');
  return isIPv4(mapped) ? mapped : address;
}
