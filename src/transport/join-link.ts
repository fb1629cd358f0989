/**
 * The way in for machines that have no certificate yet: on the replication port, under a protocol name of its own. The
 * node says first whom the cluster believes, so that the machine can tell by its token whether it speaks to the right
 * cluster; then one request, one answer, and the end. Lines of JSON, bounded in size, number and time.
 */
import { type TLSSocket, connect as tlsConnect } from 'node:tls';
import { codeOf, messageOf, TokaidoError } from '../base/errors.js';
import type { Runtime } from '../base/runtime.js';
import { MAX_REQUEST_BYTES } from '../pki/enrollment.js';
import { identityOf } from '../pki/names.js';
import { certificatesOf } from '../pki/pem.js';
import { Trust } from '../pki/trust.js';
import { chainOf } from './peer-chain.js';

export const JOIN_PROTOCOL = 'tokaido-join/1';
/** Machines that join at the same time. */
const MAX_JOINING = 16;
/** For a request and its way to whoever signs and back. */
const LIMIT_MS = 20_000;

/** Hands over the first line that a socket sends, or the reason why there is none. */
function readLine(socket: TLSSocket, done: (line: Buffer | undefined) => void): void {
  const chunks: Buffer[] = [];
  let size = 0;
  const end = (line: Buffer | undefined): void => {
    socket.off('data', onData);
    socket.off('close', onClose);
    done(line);
  };
  const onClose = (): void => end(undefined);
  const onData = (chunk: Buffer): void => {
    const at = chunk.indexOf(0x0a);
    size += chunk.length;
    chunks.push(at < 0 ? chunk : chunk.subarray(0, at));
    if (at >= 0) end(Buffer.concat(chunks));
    else if (size > 2 * MAX_REQUEST_BYTES) end(undefined);
  };
  socket.on('data', onData);
  socket.on('close', onClose);
}

export interface JoinHost {
  readonly runtime: Runtime;
  /** CA certificates that nodes of this cluster believe, in PEM. */
  trustPem(): string;
  /** The answer to a request, whoever gives it. */
  answer(request: Buffer, from: string): Promise<Buffer>;
}

/** Serves machines that join. */
export class JoinDoor {
  readonly #host: JoinHost;
  #joining = 0;

  constructor(host: JoinHost) {
    this.#host = host;
  }

  /** A connection under `JOIN_PROTOCOL`. */
  serve(socket: TLSSocket): void {
    if (this.#joining >= MAX_JOINING) {
      socket.destroy();
      return;
    }
    this.#joining++;
    const timer = this.#host.runtime.after(LIMIT_MS, () => socket.destroy());
    socket.on('close', () => {
      this.#joining--;
      timer.cancel();
    });
    socket.write(`${JSON.stringify({ trust: this.#host.trustPem() })}\n`);
    readLine(socket, (line) => {
      if (line === undefined) {
        socket.destroy();
        return;
      }
      this.#host.answer(line, `${socket.remoteAddress}`).then(
        (answer) => socket.end(Buffer.concat([answer, Buffer.of(0x0a)])),
        () => socket.destroy(),
      );
    });
  }
}

export interface AskToJoin {
  readonly host: string;
  readonly port: number;
  /** SHA-256 of a CA certificate of the cluster, from the token. */
  readonly caFingerprint: string;
  readonly request: Buffer;
  readonly nowMs: number;
}

export interface Joined {
  readonly answer: Buffer;
  /** What the pinned CA leads to. */
  readonly trust: Trust;
  /** Name of the node that was asked. */
  readonly node: string;
}

/**
 * Asks a node of the cluster for a certificate. Nothing is sent before the node has proven that it has a certificate of
 * the CA that the token pins. Errors: `NETWORK`, `IDENTITY` when it is not a node of that cluster.
 */
export async function askToJoin(options: AskToJoin): Promise<Joined> {
  const { host, port, request } = options;
  return await new Promise<Joined>((resolve, reject) => {
    const socket = tlsConnect({
      host,
      port,
      minVersion: 'TLSv1.3',
      ALPNProtocols: [JOIN_PROTOCOL],
      // The verdict is ours, below: there is no CA to give to the runtime yet.
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
      timeout: LIMIT_MS,
    });
    const fail = (error: unknown): void => {
      socket.destroy();
      if (error instanceof TokaidoError) reject(error);
      else reject(new TokaidoError('NETWORK', `cannot join at ${host}:${port}: ${explain(error)}`, { cause: error }));
    };
    socket.on('error', fail);
    socket.on('timeout', () => fail(new Error(`no answer within ${LIMIT_MS} ms`)));
    socket.once('secureConnect', () => {
      readLine(socket, (line) => {
        try {
          const { trust, node } = checkNode(socket, line, options);
          readLine(socket, (answer) => {
            if (answer === undefined) {
              fail(new Error('the node closed the connection without an answer'));
              return;
            }
            socket.end();
            resolve({ answer, trust, node });
          });
          socket.write(Buffer.concat([request, Buffer.of(0x0a)]));
        } catch (error) {
          fail(error);
        }
      });
    });
  });
}

function explain(error: unknown): string {
  const code = codeOf(error) ?? '';
  if (/ALPN|NO_APPLICATION_PROTOCOL/i.test(`${code} ${messageOf(error)}`))
    return 'it is no node that lets machines join (give the replication port of a root or relay)';
  return messageOf(error);
}

/** Errors: `IDENTITY`. */
function checkNode(
  socket: TLSSocket,
  line: Buffer | undefined,
  { caFingerprint, nowMs }: AskToJoin,
): { trust: Trust; node: string } {
  const wrong = (why: string): never => {
    throw new TokaidoError('IDENTITY', `this is not a node of the cluster that the token is for: ${why}`, {
      hint: 'check the address; if it is right, somebody may stand in between: nothing was sent',
    });
  };
  let pem: unknown;
  try {
    pem = (JSON.parse((line ?? Buffer.alloc(0)).toString('utf8')) as { trust?: unknown }).trust;
  } catch {
    return wrong('it does not say whom it believes');
  }
  const offered = certificatesOf(String(pem), 'what it believes');
  const pinned = offered.find(({ fingerprint256 }) => fingerprint256 === caFingerprint);
  if (pinned === undefined) return wrong('its CA is another one');
  const trust = new Trust([pinned]);
  const chain = chainOf(socket);
  const fault = trust.fault(chain, nowMs);
  if (fault === 'not-yet-valid' || fault === 'expired')
    return wrong(
      `its certificate is ${fault === 'expired' ? 'expired' : 'not valid yet'} by the clock of this machine`,
    );
  if (fault !== undefined) return wrong(`its certificate is not from that CA (${fault})`);
  const identity = identityOf(chain[0]?.subjectAltName);
  if (identity === undefined || (identity.role !== 'root' && identity.role !== 'relay'))
    return wrong('its certificate is not that of a root or relay');
  return { trust, node: identity.name };
}
