/** A new machine becomes a node: key made here, certificate from the cluster, configuration with its upstream. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { stringify } from 'yaml';
import { TokaidoError } from '../../base/errors.js';
import { keyPem, newKeys } from '../../pki/ca/ca.js';
import { decodeAnswer, encodeRequest, provenAuthorities, publicKeyText } from '../../pki/enrollment.js';
import { writeNew } from '../../pki/files.js';
import { openScope } from '../../pki/hidden-scope.js';
import { type JoinToken, matchesName } from '../../pki/join-token.js';
import { checkName } from '../../pki/names.js';
import { certificatesOf } from '../../pki/pem.js';
import { scopeIn } from '../../pki/scope-names.js';
import { Trust } from '../../pki/trust.js';
import { askToJoin } from '../../transport/join-link.js';

export interface JoinOptions {
  /** Replication port of a relay or root. */
  readonly host: string;
  readonly port: number;
  readonly token: JoinToken;
  readonly name: string;
  /** Where certificate, key, CA and configuration go. */
  readonly folder: string;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
}

export interface Joined {
  readonly identity: string;
  readonly notAfter: string;
  readonly folder: string;
  /** File to serve from. */
  readonly config: string;
}

/** Errors: `CONFIG`, `IDENTITY`, `NETWORK`. Nothing is written, and the token is not used up, before all is checked here. */
export async function joinCluster({ host, port, token, name, folder: out, dns, ip }: JoinOptions): Promise<Joined> {
  if (!matchesName(token.name, checkName(name))) {
    throw new TokaidoError('CONFIG', `the token is for names ${token.name}, not ${name}`, {
      hint: 'give another one with --name',
    });
  }
  const folder = resolve(out);
  const at = (file: string): string => join(folder, file);
  const own = { certificate: at('node.crt'), key: at('node.key'), scope: at('node.scope') };
  const files = { ...own, ca: at('ca.crt'), config: at('node.yaml') };
  const there = Object.values(files).find((path) => existsSync(path));
  if (there !== undefined) {
    throw new TokaidoError('IDENTITY', `${there} exists already; nothing was overwritten`, {
      hint: 'choose another folder with --out',
    });
  }
  const keys = newKeys();
  const { role, id } = token;
  const body = { kind: 'join', token: id, role, name, dns, ip, publicKey: publicKeyText(keys) } as const;
  const request = encodeRequest(body, token.key, keys.privateKey);
  const nowMs = Date.now();
  const { answer, trust, node } = await askToJoin({ host, port, caFingerprint: token.caFingerprint, request, nowMs });
  const { certificatePem, trustPem, scopeOpening = '' } = decodeAnswer(answer);
  const chain = certificatesOf(certificatePem, 'the certificate that came back');
  const authorities = provenAuthorities(trust, chain, certificatesOf(trustPem, 'the CAs to believe'), nowMs);
  const [leaf] = chain;
  const isOurs = leaf?.checkPrivateKey(keys.privateKey) === true;
  if (leaf === undefined || !isOurs || new Trust(authorities).fault(chain, nowMs) !== undefined)
    throw new TokaidoError('IDENTITY', 'what came back is not a certificate for this machine');
  const scope = scopeIn(leaf.subjectAltName);
  if (scope.kind === 'hidden' && openScope(scope.name, scopeOpening) === undefined)
    throw new TokaidoError('IDENTITY', 'what came back does not open the scope of the certificate that came with it');
  writeNew(files.key, keyPem(keys), 'key');
  if (scope.kind === 'hidden') writeNew(files.scope, scopeOpening, 'key');
  writeNew(files.certificate, certificatePem, 'public');
  writeNew(files.ca, authorities.map(String).join(''), 'public');
  const address = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  // A client only gets its certificate: it serves nothing.
  if (role !== 'client')
    writeNew(files.config, stringify({ name, role, data: 'data', upstreams: [{ address, name: node }] }), 'public');
  const names = leaf.subjectAltName?.split(', ') ?? [];
  const identity = names.find((uri) => uri.startsWith('URI:'))?.slice('URI:'.length) ?? name;
  return { identity, notAfter: new Date(leaf.validTo).toISOString(), folder, config: files.config };
}
