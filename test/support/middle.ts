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
  /** Connections that ended after something of them was changed or repeated. */
  dropped = 0;
  /** Ends every new connection at once: whoever lost one stays alone. */
  isShut = false;
  #repeats: 'up' | 'down' | undefined;
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
    if (this.isShut) {
      follower.on('error', () => undefined).destroy();
      return;
    }
    const upstream = connectPlain(this.#target, '127.0.0.1');
    const said: Buffer[] = [];
    let isTampered = false;
    /** What goes on in one direction, in place of this chunk. */
    const passed = (chunk: Buffer, direction: 'up' | 'down'): Buffer => {
      const changed = this.#pass(chunk, direction === 'down');
      const repeats = this.#repeats === direction;
      if (repeats) this.#repeats = undefined;
      isTampered ||= repeats || changed !== chunk;
      return repeats ? Buffer.concat([changed, chunk]) : changed;
    };
    this.recorded.push(said);
    if (this.recorded.length > 8) this.recorded.shift();
    for (const socket of [follower, upstream]) {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        if (isTampered) this.dropped++;
        isTampered = false;
        (socket === follower ? upstream : follower).destroy();
      });
    }
    follower.on('data', (chunk: Buffer) => {
      if (said.length < 64) said.push(Buffer.from(chunk));
      upstream.write(passed(chunk, 'up'));
    });
    upstream.on('data', (chunk: Buffer) => follower.write(passed(chunk, 'down')));
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

  /** What is said next in this direction is handed on twice; `up` is what a follower or client says. */
  repeat(direction: 'up' | 'down' = 'up'): void {
    this.#repeats = direction;
  }

  /** Ends the connections that are open; those to come are let through. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
