/** Options of commands that speak to a client listener: where it is, how it is trusted, and what proves who asks. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import { type ClientTlsOptions, TokaidoClient } from '../client/client.js';

export interface ServerFlags {
  readonly server: string;
  readonly tlsCa?: string;
  readonly tlsCertificate?: string;
  readonly tlsKey?: string;
  readonly tlsServerName?: string;
  readonly tokenFile?: string;
}

export function withServerOptions(command: Command): Command {
  return command
    .option('--server <host:port>', 'client listener of a node', '127.0.0.1:1978')
    .option('--tls-ca <file>', 'speak TLS, with a server whose certificate is of this CA')
    .option('--tls-certificate <file>', 'certificate of this client')
    .option('--tls-key <file>', 'its private key')
    .option('--tls-server-name <name>', "name that the server's certificate must carry (default: the host)")
    .option('--token-file <file>', 'file with a token (tokaido client-token)');
}

/** Errors: `CONFIG`. */
export function clientOf(flags: ServerFlags): TokaidoClient {
  const tls = tlsOf(flags);
  const token = flags.tokenFile === undefined ? {} : { token: read(flags.tokenFile, '--token-file').trim() };
  return new TokaidoClient({ server: flags.server, ...token, ...(tls === undefined ? {} : { tls }) });
}

function tlsOf({
  tlsCa,
  tlsCertificate,
  tlsKey,
  tlsServerName: serverName,
}: ServerFlags): ClientTlsOptions | undefined {
  if (tlsCa === undefined) {
    if (tlsCertificate === undefined && tlsKey === undefined && serverName === undefined) return undefined;
    throw new TokaidoError('CONFIG', 'TLS needs --tls-ca: whose certificate the server must have');
  }
  if ((tlsCertificate === undefined) !== (tlsKey === undefined))
    throw new TokaidoError('CONFIG', '--tls-certificate and --tls-key belong together');
  return {
    ca: read(tlsCa, '--tls-ca'),
    ...(tlsCertificate === undefined ? {} : { certificate: read(tlsCertificate, '--tls-certificate') }),
    ...(tlsKey === undefined ? {} : { key: read(tlsKey, '--tls-key') }),
    ...(serverName === undefined ? {} : { serverName }),
  };
}

function read(path: string, option: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new TokaidoError('CONFIG', `cannot read ${option} ${path}: ${messageOf(error)}`, { cause: error });
  }
}
