/** The listener for clients: accepts connections within limits, and ends those that keep it waiting. */
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { messageOf } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime } from '../base/runtime.js';
import type { Commands } from '../commands/commands.js';
import { Signals } from '../commands/signals.js';
import { Slices } from '../commands/slices.js';
import { ClientConnection } from './client-connection.js';
import { cannotListen } from './tls-link.js';

export interface ClientListenerOptions {
  readonly host: string;
  readonly port: number;
  readonly commands: Commands;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly maxConnections: number;
  onFatal(error: unknown): void;
}

export interface ClientListener {
  readonly port: number;
  readonly connections: number;
  /** Requests since the start, by protocol; for metrics. */
  readonly requests: ReadonlyMap<string, number>;
  close(): Promise<void>;
}

/** A request that has begun must move on within this time; so must a client whose connection is over. */
const PATIENCE_MS = 30_000;
const CLOSE_TIMEOUT_MS = 1_000;

/** Errors: `NETWORK` when the address cannot be used. */
export async function listenForClients(options: ClientListenerOptions): Promise<ClientListener> {
  const { runtime, log, commands } = options;
  const connections = new Map<Socket, ClientConnection>();
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
    signals: new Signals(runtime),
    log,
    nowMs: () => runtime.nowMs(),
    uptimeMs: () => runtime.monotonicMs() - openedMs,
    connections: () => connections.size,
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
  const server = createServer(
    { noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000, allowHalfOpen: true },
    (socket) => {
      const connection = new ClientConnection(socket, context);
      connections.set(socket, connection);
      socket.on('error', (error) => log.debug({ reason: messageOf(error) }, 'a client connection broke'));
      socket.on('close', () => connections.delete(socket));
      socket.setTimeout(PATIENCE_MS, () => {
        if (connection.isClientsTurn) socket.destroy();
      });
    },
  );
  server.maxConnections = options.maxConnections;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(cannotListen(options, error)));
    server.listen({ host: options.host, port: options.port, backlog: 1024 }, resolve);
  });
  server.on('error', (error) => log.error({ reason: messageOf(error) }, 'the client listener failed'));
  return {
    port: (server.address() as AddressInfo).port,
    get connections() {
      return connections.size;
    },
    requests,
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of connections.keys()) socket.end();
      const timer = runtime.after(CLOSE_TIMEOUT_MS, () => {
        for (const socket of connections.keys()) socket.destroy();
      });
      await closed;
      timer.cancel();
    },
  };
}
