/**
 * A TCP proxy on loopback that is a bad network: it delays, throttles and cuts what goes through it, on demand. Bytes
 * stay in order and whole, as TCP keeps them; a cut may lose everything that was on its way.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** How it treats what goes through it; both directions alike. */
export interface Weather {
  readonly delayMs: number;
  /** Per connection and direction; no limit when absent. */
  readonly bytesPerSecond?: number;
  /** Nothing gets through, and nobody is told. */
  readonly isCut?: boolean;
}

export const FAIR: Weather = { delayMs: 0 };
const TICK_MS = 10;

export class BadNetwork {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  weather: Weather = FAIR;
  /** Bytes that have come through from the port, over all connections. */
  bytes = 0;

  private constructor(server: Server) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
  }

  /** In front of a port of loopback. */
  static async before(port: number): Promise<BadNetwork> {
    const server = createServer({ noDelay: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, '127.0.0.1', resolve);
    });
    const network = new BadNetwork(server);
    server.on('connection', (near) => {
      const far = connect({ host: '127.0.0.1', port, noDelay: true });
      network.#join(near, far, () => undefined);
      network.#join(far, near, (bytes) => {
        network.bytes += bytes;
      });
    });
    return network;
  }

  #join(from: Socket, to: Socket, count: (bytes: number) => void): void {
    this.#sockets.add(from);
    const waiting: { chunk: Buffer; dueMs: number }[] = [];
    let credit = 0;
    const timer = setInterval(() => {
      const { bytesPerSecond, isCut } = this.weather;
      credit = Math.min((bytesPerSecond ?? 0) * 0.5, credit + ((bytesPerSecond ?? 0) * TICK_MS) / 1000);
      if (isCut === true) return;
      for (let first = waiting[0]; first !== undefined && first.dueMs <= performance.now(); first = waiting[0]) {
        const size =
          bytesPerSecond === undefined ? first.chunk.length : Math.min(Math.floor(credit), first.chunk.length);
        if (size === 0) break;
        credit -= size;
        count(size);
        to.write(first.chunk.subarray(0, size));
        if (size === first.chunk.length) waiting.shift();
        else first.chunk = first.chunk.subarray(size);
      }
      // The sender feels a slow network, as it would with TCP.
      if (waiting.length > 16) from.pause();
      else if (from.isPaused()) from.resume();
    }, TICK_MS);
    from.on('data', (chunk: Buffer) => waiting.push({ chunk, dueMs: performance.now() + this.weather.delayMs }));
    from.on('error', () => undefined);
    from.on('close', () => {
      clearInterval(timer);
      this.#sockets.delete(from);
      to.destroy();
    });
  }

  /** Breaks every connection, as a router that restarts does. */
  reset(): void {
    for (const socket of [...this.#sockets]) socket.destroy();
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.reset();
    await closed;
  }
}
