/** A machine in the middle of connections on loopback, who owns the wire and has no key. */
import { connect as connectPlain, createServer, type Server, type Socket } from 'node:net';

/** Hands bytes on, keeps what followers (or clients) said, and may change one byte or send a chunk twice. */
export class Middle {
  readonly #server: Server;
  readonly #target: number;
  readonly #sockets = new Set<Socket>();
  /** What followers sent, the newest connection last. */
  readonly recorded: Buffer[][] = [];
  /** Changes the byte at this distance from now, in this direction. */
  #alter: { left: number; readonly mask: number; readonly down: boolean } | undefined;
  altered = 0;
  #repeats = false;
  port = 0;

  constructor(target: number) {
    this.#target = target;
    this.#server = createServer((follower) => this.#join(follower));
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.port = (this.#server.address() as { port: number }).port;
  }

  #join(follower: Socket): void {
    const upstream = connectPlain(this.#target, '127.0.0.1');
    const said: Buffer[] = [];
    this.recorded.push(said);
    if (this.recorded.length > 8) this.recorded.shift();
    for (const socket of [follower, upstream]) {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        (socket === follower ? upstream : follower).destroy();
      });
    }
    follower.on('data', (chunk: Buffer) => {
      if (said.length < 64) said.push(Buffer.from(chunk));
      upstream.write(this.#pass(chunk, false));
      if (this.#repeats) upstream.write(chunk);
      this.#repeats = false;
    });
    upstream.on('data', (chunk: Buffer) => follower.write(this.#pass(chunk, true)));
  }

  #pass(chunk: Buffer, down: boolean): Buffer {
    const alter = this.#alter;
    if (alter === undefined || alter.down !== down) return chunk;
    if (alter.left >= chunk.length) {
      alter.left -= chunk.length;
      return chunk;
    }
    const changed = Buffer.from(chunk);
    changed[alter.left] = (changed[alter.left] as number) ^ alter.mask;
    this.#alter = undefined;
    this.altered++;
    return changed;
  }

  /** The next bytes in one direction carry an error. */
  alter(left: number, mask: number, down: boolean): void {
    this.#alter = { left, mask, down };
  }

  /** What is said next is handed on twice. */
  repeat(): void {
    this.#repeats = true;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
