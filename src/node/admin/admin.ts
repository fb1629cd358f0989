/**
 * The admin listener: health, readiness, status and metrics over plain HTTP, on loopback by default. Read-only, but
 * for revocation lists and tokens, which anybody may bring: a CA's signature proves them.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import { cannotListen } from '../../transport/tls-link.js';
import { MAX_PUBLISHED_BYTES } from '../certificates/published-lists.js';
import type { NodeStatus } from '../status/status.js';
import { type DigestRequest, MAX_DIGEST_BYTES, parseDigestRequest } from './digest.js';
import type { MetricsRegistry } from './metrics.js';

export interface AdminOptions {
  readonly host: string;
  readonly port: number;
  readonly metrics: MetricsRegistry;
  readonly log: Logger;
  status(): NodeStatus;
  /** What may be brought, by path: it proves itself by a CA's signature. Errors: `TokaidoError`. */
  readonly takes: Readonly<Record<string, (text: string) => Promise<object>>>;
  /** Tokens with which machines may join, without anything secret. */
  tokens(): readonly object[];
  /** Copies a table of the feed again, or all. Returns how many. Errors: `TokaidoError`. */
  copyAgain(table: string | undefined): number;
  /** The update log listed. Errors: `TokaidoError`. */
  listLog(query: URLSearchParams): object;
  /** Cuts the update log. Errors: `TokaidoError`. */
  trimLog(query: URLSearchParams): Promise<object>;
  /** Digests of a database, line by line; see `digest.ts`. Errors: `TokaidoError`. */
  digest(request: DigestRequest): AsyncIterable<object>;
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

/** The status for what a publisher may have done wrong; everything else is this node's fault. */
const STATUS: Readonly<Record<string, number>> = {
  IDENTITY: 403,
  TOO_LARGE: 413,
  READ_ONLY: 409,
  NOT_READY: 503,
  CONFIG: 400,
  MALFORMED: 400,
};

function withBody(request: IncomingMessage, mostBytes: number, use: (body: Buffer) => void): void {
  const chunks: Buffer[] = [];
  let size = 0;
  request.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= mostBytes) chunks.push(chunk);
    else request.destroy();
  });
  request.on('end', () => use(Buffer.concat(chunks)));
}

function receive(
  request: IncomingMessage,
  response: ServerResponse,
  take: (text: string) => Promise<object>,
  log: Logger,
): void {
  withBody(request, MAX_PUBLISHED_BYTES, (body) => {
    take(body.toString('latin1')).then(
      (result) => answer(response, 200, 'application/json', `${JSON.stringify(result)}\n`),
      (error: unknown) => {
        const address = request.socket.remoteAddress;
        log.warn({ address, reason: messageOf(error) }, 'what was brought to the admin listener is refused');
        refuse(response, error);
      },
    );
  });
}

function digest(request: IncomingMessage, response: ServerResponse, options: AdminOptions): void {
  withBody(request, MAX_DIGEST_BYTES, (body) => {
    sendLines(response, options, body).catch((error: unknown) => {
      options.log.warn({ reason: messageOf(error) }, 'a digest ended early');
      if (response.headersSent) response.destroy();
      else refuse(response, error);
    });
  });
}

/** JSON lines, no faster than they are read. */
async function sendLines(response: ServerResponse, options: AdminOptions, body: Buffer): Promise<void> {
  let isGone = false;
  response.on('close', () => {
    isGone = true;
  });
  for await (const line of options.digest(parseDigestRequest(body))) {
    if (isGone) return;
    if (!response.headersSent) response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    if (!response.write(`${JSON.stringify(line)}\n`)) await drained(response);
  }
  response.end();
}

/** Resolves when the answer may go on, or nobody waits for it any more. */
async function drained(response: ServerResponse): Promise<void> {
  const over = new AbortController();
  const { signal } = over;
  await Promise.race([once(response, 'drain', { signal }), once(response, 'close', { signal })]);
  over.abort();
}

function queryOf(request: IncomingMessage): URLSearchParams {
  return new URL(request.url ?? '', 'http://node').searchParams;
}

/** What `act` answers, or its error. */
function answerWith(response: ServerResponse, act: () => object | Promise<object>): void {
  const attempt = async (): Promise<void> => {
    answer(response, 200, 'application/json', `${JSON.stringify(await act())}\n`);
  };
  attempt().catch((error: unknown) => refuse(response, error));
}

function copyAgain(request: IncomingMessage, response: ServerResponse, options: AdminOptions): void {
  try {
    const table = queryOf(request).get('table') ?? undefined;
    answer(response, 202, 'application/json', `${JSON.stringify({ tables: options.copyAgain(table) })}\n`);
  } catch (error) {
    refuse(response, error);
  }
}

function refuse(response: ServerResponse, error: unknown): void {
  const known = error instanceof TokaidoError ? error : undefined;
  const body = { error: { code: known?.code ?? 'INTERNAL', message: messageOf(error), hint: known?.hint } };
  answer(response, STATUS[known?.code ?? ''] ?? 500, 'application/json', `${JSON.stringify(body)}\n`);
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
    '/tokens': (response) =>
      answer(response, 200, 'application/json', `${JSON.stringify({ tokens: options.tokens() })}\n`),
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
    const path = (request.url ?? '').split('?')[0] ?? '';
    const take = options.takes[path];
    if (request.method === 'POST' && take !== undefined) {
      receive(request, response, take, options.log);
      return;
    }
    if (request.method === 'POST' && path === '/digest') {
      digest(request, response, options);
      return;
    }
    request.resume();
    if (request.method === 'POST' && path === '/log/trim') {
      answerWith(response, async () => await options.trimLog(queryOf(request)));
      return;
    }
    if (request.method === 'GET' && path === '/log') {
      answerWith(response, () => options.listLog(queryOf(request)));
      return;
    }
    if (request.method === 'POST' && path === '/feed/copy') {
      copyAgain(request, response, options);
      return;
    }
    const route = routes[path];
    if (request.method !== 'GET' && request.method !== 'HEAD')
      answer(
        response,
        405,
        'text/plain',
        'only GET, and POST to /crl, /trust, /tokens, /digest, /feed/copy, /log/trim\n',
      );
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
