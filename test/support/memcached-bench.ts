/** A real memcached listener on a real store whose clock only the test moves, and clients that speak to it. */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { silentLogger } from '../../src/base/logger.js';
import type { Runtime } from '../../src/base/runtime.js';
import { MessageQueues } from '../../src/commands/message-queues.js';
import { Recaching } from '../../src/commands/recaching.js';
import { Slices } from '../../src/commands/slices.js';
import type { ClientListener } from '../../src/transport/clients/listener.js';
import { listenForMemcached } from '../../src/transport/memcached/listener.js';
import type { MemcachedOptions } from '../../src/transport/memcached/session.js';
import { ClientBench } from './client-bench.js';
import { eventually } from './local-runtime.js';

const PLAIN: MemcachedOptions = {
  database: undefined,
  flags: false,
  queue: false,
  queueTimeoutMs: 200,
  readOnly: false,
};

/** One connection. Bytes are text, a character each. */
export class MemcachedClient {
  readonly socket: Socket;
  #received = '';
  ended = false;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => {
      this.#received += chunk;
    });
    socket.on('end', () => {
      this.ended = true;
    });
    socket.on('close', () => {
      this.ended = true;
    });
    socket.on('error', () => undefined);
  }

  send(text: string): void {
    this.socket.write(Buffer.from(text, 'latin1'));
  }

  /** Everything that is answered to `text`. */
  async ask(text: string): Promise<string> {
    this.send(`${text}mn\r\n`);
    await eventually(
      `an answer to ${JSON.stringify(text.slice(0, 200))}`,
      () => this.ended || this.#received.endsWith('MN\r\n'),
    );
    return this.take().replace(/MN\r\n$/, '');
  }

  /** The first `bytes` of what comes. */
  async read(bytes: number): Promise<string> {
    await eventually(`${bytes} bytes`, () => this.#received.length >= bytes);
    const text = this.#received.slice(0, bytes);
    this.#received = this.#received.slice(bytes);
    return text;
  }

  /** What came until the server ended the connection. */
  async rest(): Promise<string> {
    await eventually('the end of the connection', () => this.ended);
    return this.take();
  }

  get received(): number {
    return this.#received.length;
  }

  take(): string {
    const text = this.#received;
    this.#received = '';
    return text;
  }
}

export class MemcachedBench {
  readonly server: ClientBench;
  readonly queues: MessageQueues;
  readonly recaching = new Recaching();
  readonly listeners: ClientListener[] = [];
  readonly #clients: MemcachedClient[] = [];

  constructor(databases: readonly string[] = ['casket.kct'], overrides: Partial<Runtime> = {}) {
    this.server = new ClientBench(databases, overrides);
    // Versions as large as they are in life: a small number is never a unique id by chance.
    this.server.bench.clock.ns = BigInt(this.server.bench.clock.ms) * 1_000_000n;
    const { signals, runtime } = this.server;
    this.queues = new MessageQueues({ signals, slices: new Slices(runtime), runtime });
  }

  /** Opens a listener; returns its number. */
  async listen(options: Partial<MemcachedOptions> = {}): Promise<number> {
    const { commands, runtime } = this.server;
    const listener = await listenForMemcached({
      ...PLAIN,
      ...options,
      host: '127.0.0.1',
      port: 0,
      tls: undefined,
      commands,
      queues: this.queues,
      recaching: this.recaching,
      runtime,
      log: silentLogger,
      maxConnections: 100,
      keeper: this.server.keeper,
      onFatal: (error) => {
        throw error;
      },
    });
    return this.listeners.push(listener) - 1;
  }

  async connect(listener = 0, { allowHalfOpen = false } = {}): Promise<MemcachedClient> {
    const socket = createConnection({
      host: '127.0.0.1',
      port: (this.listeners[listener] as ClientListener).port,
      allowHalfOpen,
    });
    await once(socket, 'connect');
    const client = new MemcachedClient(socket);
    this.#clients.push(client);
    return client;
  }

  async close(): Promise<void> {
    for (const client of this.#clients) client.socket.destroy();
    await Promise.all(this.listeners.map(async (listener) => await listener.close()));
    await this.server.close();
  }
}
