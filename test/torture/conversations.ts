/**
 * How the fuzzer talks to each port of a server: one connection, inputs one after the other, then the end of what it has
 * to say; and the wait until the server ends it too, which it has to.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, connect as tlsConnect } from 'node:tls';

/** The server has this long to end a connection on which nobody will say anything any more. */
const HANG_MS = 15_000;
const CONNECT_MS = 10_000;

/** How a conversation ended: by both sides, by a reset, or not at all in time. */
export type End = 'closed' | 'hung';

async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

/** Sends the parts, each on its own if it can be, and waits for the end. */
async function speak(socket: Socket, parts: readonly Buffer[]): Promise<End> {
  let gone = false;
  const closed = new Promise<void>((resolve) => {
    socket.on('close', () => {
      gone = true;
      resolve();
    });
  });
  socket.resume();
  for (const [index, part] of parts.entries()) {
    if (gone) break;
    if (index > 0) await turn();
    if (!socket.write(part) && !gone) await Promise.race([once(socket, 'drain').catch(() => undefined), closed]);
  }
  socket.end();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<End>((resolve) => {
    timer = setTimeout(() => resolve('hung'), HANG_MS);
  });
  const end = await Promise.race([closed.then((): End => 'closed'), late]);
  clearTimeout(timer);
  socket.destroy();
  return end;
}

/** Over TCP. Errors: when there is no connection. */
export async function speakPlain(port: number, parts: readonly Buffer[]): Promise<End> {
  const socket = createConnection({ host: '127.0.0.1', port, noDelay: true });
  socket.on('error', () => undefined);
  await connected(socket, 'connect');
  return await speak(socket, parts);
}

async function connected(socket: Socket, event: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no connection within ${CONNECT_MS} ms`)), CONNECT_MS);
    const settle = (error?: Error): void => {
      clearTimeout(timer);
      if (error === undefined) resolve();
      else reject(error);
    };
    socket.once(event, () => settle());
    socket.once('error', settle);
    socket.once('close', () => settle(new Error('closed before it was open')));
  });
}

/** What a peer needs for mutual TLS with a node's replication listener. `folder` is as `tokaido ca issue` left it. */
export function peerOptions(folder: string): ConnectionOptions {
  const pem = (name: string): string => readFileSync(join(folder, name), 'utf8');
  return {
    ca: pem('ca.crt'),
    cert: pem('node.crt'),
    key: pem('node.key'),
    minVersion: 'TLSv1.3',
    ALPNProtocols: ['tokaido/1'],
    checkServerIdentity: () => undefined,
  };
}

/** Inside an authenticated session. Errors: when there is none. */
export async function speakAsPeer(port: number, peer: ConnectionOptions, parts: readonly Buffer[]): Promise<End> {
  const socket = tlsConnect({ ...peer, host: '127.0.0.1', port });
  socket.on('error', () => undefined);
  socket.setNoDelay(true);
  await connected(socket, 'secureConnect');
  return await speak(socket, parts);
}

/** The first bytes of an honest TLS client, to be mutated. */
export async function clientHello(peer: ConnectionOptions): Promise<Buffer> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = tlsConnect({ ...peer, host: '127.0.0.1', port: (server.address() as AddressInfo).port });
  client.on('error', () => undefined);
  const [socket] = (await once(server, 'connection')) as [Socket];
  socket.on('error', () => undefined);
  const [bytes] = (await once(socket, 'data')) as [Buffer];
  client.destroy();
  socket.destroy();
  server.close();
  return bytes;
}
