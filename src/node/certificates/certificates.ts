/**
 * The certificates of one node while it runs: its own identity, what its client listeners prove and accept, and the
 * revocation lists that hold for both. Files are looked at a few times a second; whoever uses a certificate is told when
 * it changed, so that nothing of this needs a restart.
 */
import type { X509Certificate } from 'node:crypto';
import { TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import { crlsOf, type RevocationList } from '../../pki/crl.js';

import { readKeyOfAnyForm, readPublic } from '../../pki/files.js';
import { openingPath } from '../../pki/hidden-scope.js';
import { keyFor, loadNodeIdentity, type NodeIdentity } from '../../pki/identity.js';
import { type Live, LiveFiles, LiveValue } from '../../pki/live.js';
import type { Identity } from '../../pki/names.js';
import { certificatesOf } from '../../pki/pem.js';
import { Trust } from '../../pki/trust.js';
import type { ClientTls } from '../../transport/stream-server.js';
import type { ListenerTls } from '../config/listener-schema.js';
import type { NodeConfig } from '../config/schema.js';

/**
 * How often files are looked at. A change is used at the second look that finds it the same: within two of these, which
 * leaves links of a retired CA the rest of a second to move.
 */
const LOOK_MS = 100;

/** The newest expiration and number of what is revoked, for status and metrics. */
export interface RevocationFacts {
  readonly lists: number;
  readonly revoked: number;
  /** The earliest promise of a next list; `undefined` without any. */
  readonly nextUpdateMs: number | undefined;
}

export interface NodeCertificatesOptions {
  readonly config: Pick<NodeConfig, 'identity' | 'role' | 'name'>;
  readonly runtime: Runtime;
  readonly log: Logger;
}

export class NodeCertificates {
  readonly #options: NodeCertificatesOptions;
  readonly #files: LiveFiles<unknown>[] = [];
  /** Lists of the file that the configuration names. */
  readonly fileLists: Live<readonly RevocationList[]>;
  /** Lists that came through the store. */
  readonly #published = new LiveValue<readonly RevocationList[]>([]);
  /** All of them. */
  readonly #lists: Live<readonly RevocationList[]>;
  readonly #looks: Timer;
  /** How this node proves who it is; a root that stands alone does not. */
  readonly identity: Live<NodeIdentity> | undefined;

  /** Errors: `IDENTITY`, `CONFIG`. */
  constructor(options: NodeCertificatesOptions) {
    this.#options = options;
    const { config, runtime } = options;
    const crl = config.identity === false ? undefined : config.identity.crl;
    this.fileLists =
      crl === undefined ? new LiveValue([]) : this.#watch([crl], () => readLists(crl), 'revocation list');
    this.#lists = joined(this.fileLists, this.#published, (ours, theirs) => [...ours, ...theirs]);
    this.identity = this.#openIdentity();
    this.#looks = runtime.every(LOOK_MS, () => {
      for (const files of this.#files) files.look();
    });
  }

  #watch<T>(files: readonly string[], load: () => T, what: string): LiveFiles<T> {
    const watched = new LiveFiles<T>({ files, load, what, log: this.#options.log });
    this.#files.push(watched);
    return watched;
  }

  #openIdentity(): Live<NodeIdentity> | undefined {
    const { config, runtime } = this.#options;
    if (config.identity === false) return undefined;
    const { certificate, key, ca } = config.identity;
    const files = { certificate, key, ca };
    let first: Identity | undefined;
    const load = (): NodeIdentity => {
      const loaded = loadNodeIdentity(files, runtime.nowMs());
      checkIdentity(loaded.identity, config, first);
      first ??= loaded.identity;
      return loaded;
    };
    const own = this.#watch([certificate, key, ca, openingPath(certificate)], load, 'certificate of this node');
    return joined(own, this.#lists, (identity, lists) => {
      return { ...identity, trust: identity.trust.with(lists) };
    });
  }

  /** What a TLS listener for clients proves and accepts. Errors: `IDENTITY`. */
  clientTls({ tls }: { readonly tls: false | ListenerTls }): Live<ClientTls> | undefined {
    if (tls === false) return undefined;
    const { certificate, key, clientCa, crl, names } = tls;
    const files = [certificate, key, ...(clientCa === undefined ? [] : [clientCa])];
    const own = this.#watch(files, () => readClientTls(tls), 'certificate of a client listener');
    const lists = crl === undefined ? undefined : this.#watch([crl], () => readLists(crl), 'revocation list');
    const all = lists === undefined ? this.#lists : joined(this.#lists, lists, (ours, more) => [...ours, ...more]);
    return joined(own, all, (pems, revoked) => ({ ...pems, names, clientTrust: pems.clientTrust?.with(revoked) }));
  }

  /** The lists that the store holds now. */
  publish(lists: readonly RevocationList[]): void {
    this.#published.set(lists);
  }

  revocation(): RevocationFacts {
    const lists = this.#lists.current;
    const serials = new Set(lists.flatMap((list) => [...list.serials]));
    const promises = lists.flatMap(({ nextUpdateMs }) => nextUpdateMs ?? []);
    const nextUpdateMs = promises.length === 0 ? undefined : Math.min(...promises);
    return { lists: lists.length, revoked: serials.size, nextUpdateMs };
  }

  /** When the CAs that this node's certificate stands on end; `undefined` without one. */
  caEndsMs(): number | undefined {
    const identity = this.identity?.current;
    return identity?.trust.endsMs(identity.chain);
  }

  /** Reads every file again at once. */
  reload(): void {
    for (const files of this.#files) files.reload();
  }

  close(): void {
    this.#looks.cancel();
  }
}

/** A value made of two others, made anew when one of them changes. */
function joined<A, B, T>(first: Live<A>, second: Live<B>, join: (first: A, second: B) => T): Live<T> {
  const value = new LiveValue(join(first.current, second.current));
  const again = (): void => value.set(join(first.current, second.current));
  first.onChange(again);
  second.onChange(again);
  return value;
}

function readLists(path: string): readonly RevocationList[] {
  return crlsOf(readPublic(path, 'revocation list'), path);
}

/** Errors: `IDENTITY` when a file cannot be read, does not fit the others, or a key can be read by others. */
function readClientTls({ certificate, key, clientCa }: ListenerTls): Omit<ClientTls, 'names'> {
  const certificatePem = readPublic(certificate, 'certificate of a client listener');
  const [own] = certificatesOf(certificatePem, certificate);
  const keyText = readKeyOfAnyForm(key, 'key of a client listener');
  const clientCaPem = clientCa === undefined ? undefined : readPublic(clientCa, 'CA certificate for clients');
  const clientTrust =
    clientCaPem === undefined ? undefined : new Trust(certificatesOf(clientCaPem, clientCa as string));
  return { certificatePem, keyPem: keyFor(own as X509Certificate, keyText, key).pem, clientCaPem, clientTrust };
}

/** A certificate must say what the configuration says; and a running node stays who it is. */
function checkIdentity(
  { clusterId, role, name }: Identity,
  config: Pick<NodeConfig, 'role' | 'name'>,
  first: Identity | undefined,
): void {
  if (role !== config.role) {
    throw new TokaidoError('CONFIG', `the configuration says role ${config.role}, the certificate says ${role}`, {
      hint: 'issue a certificate for the role this node plays, or correct role',
    });
  }
  if (config.name !== undefined && config.name !== name)
    throw new TokaidoError('CONFIG', `the configuration says name ${config.name}, the certificate says ${name}`);
  if (first === undefined) return;
  if (first.clusterId !== clusterId || first.name !== name) {
    throw new TokaidoError(
      'IDENTITY',
      `the new certificate is for ${name} of cluster ${clusterId}: that is another node`,
    );
  }
}
