/** The listener for clients of HTTP and the binary protocol, told apart on every request. */
import type { Audit } from '../../base/audit.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import type { Commands } from '../../commands/commands.js';
import type { FeedWaits } from '../../commands/feed-waits.js';
import type { Signals } from '../../commands/signals.js';
import { Slices } from '../../commands/slices.js';
import type { Live } from '../../pki/live.js';
import type { NodeServices } from '../rpc/session.js';
import { type ClientTls, listenForStreams, type StreamServer } from '../stream-server.js';
import { admissionBy, ClientAccess, type ListenerPolicy } from './access.js';
import { ClientConnection } from './connection.js';
import type { ClientKeeper } from './keeper.js';

export interface ClientListenerOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: Live<ClientTls> | undefined;
  readonly commands: Commands;
  /** Shared by all listeners of a node: a client may wait on one and be signalled through another. */
  readonly signals: Signals;
  /** Likewise. */
  readonly feedWaits: FeedWaits;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly maxConnections: number;
  readonly keeper: ClientKeeper;
  /** What which client may do; everything without one. */
  readonly policy?: ListenerPolicy | undefined;
  readonly audit?: Audit;
  readonly services?: NodeServices;
  onFatal(error: unknown): void;
}

export interface ClientListener extends StreamServer {
  /** Requests since the start, by protocol; for metrics. */
  readonly requests: ReadonlyMap<string, number>;
}

/** Errors: `NETWORK` when the address cannot be used. */
export async function listenForClients(options: ClientListenerOptions): Promise<ClientListener> {
  const { runtime, log, commands, policy } = options;
  const requests = new Map<string, number>([
    ['http', 0],
    ['binary', 0],
  ]);
  let dateSecond = -1;
  let dateText = '';
  const openedMs = runtime.monotonicMs();
  const context = {
    commands,
    slices: new Slices(runtime),
    signals: options.signals,
    feedWaits: options.feedWaits,
    log,
    nowMs: () => runtime.nowMs(),
    uptimeMs: () => runtime.monotonicMs() - openedMs,
    connections: () => server.connections,
    services: options.services ?? {},
    date: () => {
      const second = Math.floor(runtime.nowMs() / 1000);
      if (second !== dateSecond) {
        dateSecond = second;
        dateText = new Date(second * 1000).toUTCString();
      }
      return dateText;
    },
    count: (protocol: string) => requests.set(protocol, (requests.get(protocol) ?? 0) + 1),
    onFatal: options.onFatal,
  };
  const server: StreamServer = await listenForStreams({
    ...options,
    admission: policy === undefined ? undefined : admissionBy(policy),
    applicationProtocols: ['http/1.1'],
    onConnection: (socket, names) => {
      const access = policy === undefined ? undefined : ClientAccess.of(policy, commands, names);
      if (access === undefined) return new ClientConnection(socket, context);
      return new ClientConnection(socket, { ...context, commands: access.commands }, access);
    },
  });
  return {
    port: server.port,
    get connections() {
      return server.connections;
    },
    requests,
    close: async () => await server.close(),
  };
}
