/** The admin listener: health, readiness, status and metrics over plain HTTP, on loopback by default. Read-only. */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { messageOf } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import { cannotListen } from '../../transport/tls-link.js';
import type { NodeStatus } from '../status.js';
import type { MetricsRegistry } from './metrics.js';

export interface AdminOptions {
  readonly host: string;
  readonly port: number;
  readonly metrics: MetricsRegistry;
  readonly log: Logger;
  status(): NodeStatus;
  ready(): { readonly ready: boolean; readonly reason?: string };
}

export interface AdminServer {
  readonly port: number;
  close(): Promise<void>;
}

const MAX_CONNECTIONS = 64;

function answer(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
  });
  response.end(body);
}

/** Errors: `NETWORK` when the address cannot be used. */
export async function startAdmin(options: AdminOptions): Promise<AdminServer> {
  const routes: Readonly<Record<string, (response: ServerResponse) => void>> = {
    '/health': (response) => answer(response, 200, 'text/plain', 'alive\n'),
    '/ready': (response) => {
      const { ready, reason } = options.ready();
      answer(response, ready ? 200 : 503, 'text/plain', ready ? 'ready\n' : `not ready: ${reason ?? 'unknown'}\n`);
    },
    '/status': (response) =>
      answer(response, 200, 'application/json', `${JSON.stringify(options.status(), null, 2)}\n`),
    '/metrics': (response) => answer(response, 200, 'text/plain; version=0.0.4', options.metrics.render()),
  };
  const limits = {
    maxHeaderSize: 8192,
    headersTimeout: 5_000,
    requestTimeout: 5_000,
    keepAliveTimeout: 30_000,
    // How often the runtime looks for requests that took too long.
    connectionsCheckingInterval: 1_000,
  };
  const server = createServer(limits, (request, response) => {
    request.resume();
    const route = routes[(request.url ?? '').split('?')[0] ?? ''];
    if (request.method !== 'GET' && request.method !== 'HEAD') answer(response, 405, 'text/plain', 'only GET\n');
    else if (route === undefined) answer(response, 404, 'text/plain', `there is ${Object.keys(routes).join(', ')}\n`);
    else route(response);
  });
  server.maxConnections = MAX_CONNECTIONS;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(cannotListen(options, error)));
    server.listen(options.port, options.host, resolve);
  });
  server.on('error', (error) => options.log.error({ reason: messageOf(error) }, 'the admin listener failed'));
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
