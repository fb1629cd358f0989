/** The listener for memcached's clients. */

import type { Audit } from '../../base/audit.js';
import { messageOf } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { Commands } from '../../commands/commands.js';
import type { MessageQueues } from '../../commands/message-queues.js';
import type { Recaching } from '../../commands/recaching.js';
import { Slices } from '../../commands/slices.js';
import type { Live } from '../../pki/live.js';
import { admissionBy, ClientAccess, type ListenerPolicy } from '../clients/access.js';
import type { ClientKeeper } from '../clients/keeper.js';
import type { ClientListener } from '../clients/listener.js';
import { type ClientTls, listenForStreams, type StreamServer } from '../stream-server.js';
import { MemcachedConnection, type MemcachedContext } from './connection.js';
import { MemcachedCounts, type MemcachedOptions } from './session.js';

export interface MemcachedListenerOptions extends MemcachedOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: Live<ClientTls> | undefined;
  readonly commands: Commands;
  /** Shared by all listeners of a node: a message is taken by one consumer, whichever listener it came through. */
  readonly queues: MessageQueues;
  readonly recaching: Recaching;
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly maxConnections: number;
  readonly keeper: ClientKeeper;
  /** What which client may do; everything without one. There are no tokens in this protocol. */
  readonly policy?: ListenerPolicy | undefined;
  readonly audit?: Audit;
  onFatal(error: unknown): void;
}

/** Errors: `NETWORK` when the address cannot be used. */
export async function listenForMemcached(options: MemcachedListenerOptions): Promise<ClientListener> {
  const { runtime, log, commands, queues, recaching, policy } = options;
  const openedMs = runtime.monotonicMs();
  const requests = new Map([['memcached', 0]]);
  let flushTimer: Timer | undefined;
  const flushLater = (delayMs: number): void => {
    flushTimer?.cancel();
    flushTimer = runtime.after(delayMs, () => {
      const cleared = Promise.resolve().then(
        async () => await commands.clear(commands.database(options.database ?? 0)),
      );
      cleared.catch((error: unknown) => log.error({ reason: messageOf(error) }, 'a delayed flush_all failed'));
    });
  };
  const context: MemcachedContext = {
    commands,
    queues,
    recaching,
    slices: new Slices(runtime),
    options,
    limits: { connections: options.maxConnections },
    counts: new MemcachedCounts(),
    log,
    nowMs: () => runtime.nowMs(),
    uptimeMs: () => runtime.monotonicMs() - openedMs,
    connections: () => server.connections,
    flushLater,
    count: () => requests.set('memcached', (requests.get('memcached') ?? 0) + 1),
    onFatal: options.onFatal,
  };
  const server: StreamServer = await listenForStreams({
    ...options,
    admission: policy === undefined ? undefined : admissionBy(policy),
    applicationProtocols: ['memcached'],
    onConnection: (socket, names) => {
      const access = policy === undefined ? undefined : ClientAccess.of(policy, commands, names);
      return new MemcachedConnection(
        socket,
        access === undefined ? context : { ...context, commands: access.commands },
      );
    },
  });
  return {
    port: server.port,
    get connections() {
      return server.connections;
    },
    requests,
    close: async () => {
      flushTimer?.cancel();
      await server.close();
    },
  };
}
