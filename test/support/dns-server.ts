/** A DNS server on loopback, over UDP, that knows what a test tells it: A and SRV records, and nothing else. */
import { createSocket, type Socket } from 'node:dgram';
import type { AddressInfo } from 'node:net';

const TYPES = { A: 1, SRV: 33 } as const;
const NO_SUCH_NAME = 3;

export interface Service {
  readonly name: string;
  readonly port: number;
  readonly priority: number;
  readonly weight: number;
}

/** What a name stands for; a name that is not there does not exist. */
export interface Zone {
  readonly addresses: Readonly<Record<string, readonly string[]>>;
  readonly services?: Readonly<Record<string, readonly Service[]>>;
}

function encodeName(name: string): Buffer {
  const labels = name.split('.').filter((label) => label !== '');
  return Buffer.concat([
    ...labels.map((label) => Buffer.from([label.length, ...Buffer.from(label)])),
    Buffer.from([0]),
  ]);
}

/** The one question of a query: its name, its type, and where it ends. */
function questionIn(query: Buffer): { readonly name: string; readonly type: number; readonly end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 };
}

export class DnsServer {
  readonly #socket: Socket;
  zone: Zone;
  /** Questions since the start. */
  asked = 0;

  private constructor(socket: Socket, zone: Zone) {
    this.#socket = socket;
    this.zone = zone;
    socket.on('message', (query, { port, address }) => {
      this.asked++;
      socket.send(this.#answer(query), port, address);
    });
  }

  static async open(zone: Zone): Promise<DnsServer> {
    const socket = createSocket('udp4');
    await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
    return new DnsServer(socket, zone);
  }

  /** As `replication.dns` names it. */
  get address(): string {
    return `127.0.0.1:${(this.#socket.address() as AddressInfo).port}`;
  }

  #recordsOf(name: string, type: number): readonly Buffer[] {
    if (type === TYPES.A)
      return (this.zone.addresses[name] ?? []).map((text) => Buffer.from(text.split('.').map(Number)));
    if (type !== TYPES.SRV) return [];
    return (this.zone.services?.[name] ?? []).map(({ name: target, port, priority, weight }) => {
      const numbers = Buffer.alloc(6);
      for (const [index, value] of [priority, weight, port].entries()) numbers.writeUInt16BE(value, 2 * index);
      return Buffer.concat([numbers, encodeName(target)]);
    });
  }

  #answer(query: Buffer): Buffer {
    const { name, type, end } = questionIn(query);
    const isKnown = this.zone.addresses[name] !== undefined || this.zone.services?.[name] !== undefined;
    const records = this.#recordsOf(name, type);
    const header = Buffer.alloc(12);
    query.copy(header, 0, 0, 2);
    // An answer, recursion asked for and available.
    header.writeUInt16BE(0x8180 | (isKnown ? 0 : NO_SUCH_NAME), 2);
    header.writeUInt16BE(1, 4);
    header.writeUInt16BE(records.length, 6);
    const answers = records.map((data) => {
      const fixed = Buffer.alloc(12);
      // The name of the question, at its place; class IN; not to be kept.
      fixed.writeUInt16BE(0xc00c, 0);
      fixed.writeUInt16BE(type, 2);
      fixed.writeUInt16BE(1, 4);
      fixed.writeUInt16BE(data.length, 10);
      return Buffer.concat([fixed, data]);
    });
    return Buffer.concat([header, query.subarray(12, end), ...answers]);
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => this.#socket.close(() => resolve()));
  }
}
