/**
 * Loaded into a node before its own code (`--import`): its links are plain TCP, the certificates are taken as shown. Only
 * so can the very same node be measured with and without the cost of TLS; a node has no such mode. `BENCH_PEER` names
 * the certificate file of the only peer.
 */
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import net, { type Socket } from 'node:net';
import tls, { type ConnectionOptions, type TLSSocket } from 'node:tls';

const peer = new X509Certificate(readFileSync(process.env.BENCH_PEER as string)).toLegacyObject();

/** What `transport/tls-link.ts` asks of a socket whose handshake is over. */
function dressed(socket: Socket): TLSSocket {
  const shown = {
    authorized: true,
    authorizationError: null,
    alpnProtocol: 'tokaido/1',
    getPeerCertificate: () => peer,
  };
  return Object.assign(socket, shown) as unknown as TLSSocket;
}

tls.createServer = ((options: net.ServerOpts) => {
  const server = net.createServer({ ...options, allowHalfOpen: false });
  server.on('connection', (socket) => setImmediate(() => server.emit('secureConnection', dressed(socket))));
  return Object.assign(server, { setSecureContext: () => undefined });
}) as unknown as typeof tls.createServer;

tls.connect = (({ host, port }: ConnectionOptions) => {
  const socket = net.connect({ host: host as string, port: port as number });
  socket.once('connect', () => dressed(socket).emit('secureConnect'));
  return socket;
}) as unknown as typeof tls.connect;

syncBuiltinESMExports();
