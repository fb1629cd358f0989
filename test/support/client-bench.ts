/** A real client listener on a real store whose clock only the test moves, and clients that speak raw bytes to it. */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { silentLogger } from '../../src/base/logger.js';
import type { Runtime } from '../../src/base/runtime.js';
import { ClientDecoder, type ClientReply } from '../../src/client/wire.js';
import { Commands } from '../../src/commands/commands.js';
import { FeedWaits } from '../../src/commands/feed-waits.js';
import { Signals } from '../../src/commands/signals.js';
import { TieredEngine } from '../../src/engine/tiered.js';
import { decodeColumn, encodeColumn } from '../../src/protocol/kt-rpc/columns.js';
import { parseDatabases } from '../../src/store/database-spec.js';
import type { LocalStore } from '../../src/store/store.js';
import { ClientKeeper, type ClientLimits } from '../../src/transport/clients/keeper.js';
import { type ClientListener, listenForClients } from '../../src/transport/clients/listener.js';
import { StoreBench } from './store-model.js';

/** An answer over HTTP, with the rows of its table when it has one. */
export interface TableReply {
  readonly status: number;
  readonly rows: ReadonlyMap<string, string>;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

const PATIENCE_MS = 10_000;

/** Limits that no test reaches unless it sets others. */
export const PATIENT: ClientLimits = {
  idleMs: 0,
  patienceMs: 30_000,
  slowestBytesPerSecond: 16_384,
  clientBytes: 2 ** 29,
};

/** One connection. */
export class RawClient {
  readonly socket: Socket;
  readonly #decoder = new ClientDecoder();
  #received = Buffer.alloc(0);
  ended = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
    });
    socket.on('end', () => {
      this.ended = true;
    });
    socket.on('error', () => undefined);
  }

  static async connect(port: number, allowHalfOpen = false): Promise<RawClient> {
    const socket = createConnection({ host: '127.0.0.1', port, allowHalfOpen });
    await once(socket, 'connect');
    return new RawClient(socket);
  }

  send(bytes: Buffer | string): void {
    this.socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes);
  }

  /** The next answer, of HTTP or the binary protocol. */
  async answer(isHead = false): Promise<ClientReply> {
    this.#decoder.expect(isHead);
    const start = performance.now();
    for (;;) {
      const parsed = this.#decoder.parse(this.#received);
      if (parsed !== undefined) {
        this.#received = this.#received.subarray(parsed.bytes);
        return parsed.reply;
      }
      if (this.ended || performance.now() - start > PATIENCE_MS) {
        throw new Error(`no answer; the connection ${this.ended ? 'ended' : 'is silent'}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  /** The next answer, which must be of HTTP. */
  async http(isHead = false): Promise<TableReply> {
    const reply = await this.answer(isHead);
    if (reply.kind !== 'http') throw new Error(`an answer of ${reply.kind}`);
    return { ...reply, rows: rowsOf(reply), body: reply.body.toString('latin1') };
  }

  async rpc(procedure: string, input: Readonly<Record<string, string>> = {}): Promise<TableReply> {
    this.send(rpcRequest(procedure, input));
    return await this.http();
  }

  close(): void {
    this.socket.destroy();
  }
}

function rowsOf({ headers, body }: { headers: ReadonlyMap<string, string>; body: Buffer }): Map<string, string> {
  const type = headers.get('content-type') ?? '';
  if (!type.startsWith('text/tab-separated-values')) return new Map();
  const encoding = type.endsWith('=B') ? 'B' : type.endsWith('=U') ? 'U' : 'raw';
  const lines = body.toString('latin1').split('\n').slice(0, -1);
  return new Map(
    lines.map((line) => {
      const [name = '', value = ''] = line
        .split('\t')
        .map((column) => decodeColumn(encoding, column).toString('latin1'));
      return [name, value];
    }),
  );
}

/** A call with its table in Base64, so that any bytes may be arguments (one character each). */
export function rpcRequest(procedure: string, input: Readonly<Record<string, string>>): string {
  const column = (text: string): string => encodeColumn('B', Buffer.from(text, 'latin1'));
  const body = Object.entries(input).map(([name, value]) => `${column(name)}\t${column(value)}\n`);
  const text = body.join('');
  return (
    `POST /rpc/${procedure} HTTP/1.1\r\nHost: test\r\nContent-Type: text/tab-separated-values; colenc=B\r\n` +
    `Content-Length: ${text.length}\r\n\r\n${text}`
  );
}

export function request(
  method: string,
  path: string,
  headers: Readonly<Record<string, string>> = {},
  body = '',
): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: ${body.length}\r\n${lines.join('')}\r\n${body}`;
}

export class ClientBench {
  readonly bench = new StoreBench();
  readonly store: LocalStore;
  readonly commands: Commands;
  readonly signals: Signals;
  readonly keeper: ClientKeeper;
  readonly runtime: Runtime;
  readonly #clients: RawClient[] = [];
  #listener: ClientListener | undefined;

  /** `overrides` of the runtime that the listener sees; the store has the test's clock. */
  constructor(
    databases: readonly string[] = ['casket.kct'],
    overrides: Partial<Runtime> = {},
    limits: Partial<ClientLimits> = {},
  ) {
    this.bench.clock.ms = 1_700_000_000_000;
    const engine = new TieredEngine(this.bench.engine());
    this.store = this.bench.store(1, {
      engine,
      databases: parseDatabases(databases),
      transaction: { bytes: 2 ** 22, keyBytes: 1024 },
    });
    this.commands = new Commands({
      store: () => this.store,
      writeGate: () => undefined,
      limits: { keyBytes: 1024, valueBytes: 2 ** 20 },
      durability: 'committed',
    });
    this.runtime = { ...this.bench.clock.runtime, ...overrides };
    this.signals = new Signals(this.runtime);
    this.keeper = new ClientKeeper({ limits: { ...PATIENT, ...limits }, runtime: this.runtime, log: silentLogger });
  }

  async listen(): Promise<void> {
    this.#listener = await listenForClients({
      feedWaits: new FeedWaits({ runtime: this.runtime, reached: () => 'nothing', describe: String }),
      host: '127.0.0.1',
      port: 0,
      tls: undefined,
      commands: this.commands,
      signals: this.signals,
      runtime: this.runtime,
      log: silentLogger,
      maxConnections: 100,
      keeper: this.keeper,
      onFatal: (error) => {
        throw error;
      },
    });
  }

  get port(): number {
    return (this.#listener as ClientListener).port;
  }

  get connections(): number {
    return this.#listener?.connections ?? 0;
  }

  async connect(allowHalfOpen = false): Promise<RawClient> {
    const client = await RawClient.connect(this.port, allowHalfOpen);
    this.#clients.push(client);
    return client;
  }

  async close(): Promise<void> {
    for (const client of this.#clients) client.close();
    await this.#listener?.close();
    this.keeper.close();
    await this.bench.close();
  }
}
