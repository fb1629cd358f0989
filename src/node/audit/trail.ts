/** What a node tells its audit log, if it has one: itself, its links, its policies. */
import { createHash, type X509Certificate } from 'node:crypto';
import type { Audit, AuditEvent, AuditFacts } from '../../base/audit.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import { VERSION } from '../../base/version.js';
import type { NodeIdentity } from '../../pki/identity.js';
import type { Live } from '../../pki/live.js';
import { formatIdentity } from '../../pki/names.js';
import type { LinkEvents } from '../../replication/following/upstream-follower.js';
import type { Link } from '../../transport/link.js';
import type { ClientTls } from '../../transport/stream-server.js';
import type { NodeConfig } from '../config/schema.js';
import type { ChainHead } from './chain.js';
import { AuditLog } from './log.js';

export class AuditTrail implements Audit {
  readonly #log: AuditLog | undefined;
  /** What was recorded last. */
  #fingerprint: string | undefined;
  #revocation = '';
  /** CAs that count: by who believes them, descriptions by fingerprint. */
  readonly #trusted = new Map<string, ReadonlyMap<string, string>>();

  /** Errors: `STORAGE`. */
  constructor({ audit }: NodeConfig, { runtime, log }: { readonly runtime: Runtime; readonly log: Logger }) {
    if (audit !== false) this.#log = new AuditLog({ ...audit, runtime, log });
  }

  record(event: AuditEvent, facts: AuditFacts): void {
    this.#log?.record(event, facts);
  }

  get head(): ChainHead | undefined {
    return this.#log?.head;
  }

  /** Events written and lost, for metrics. */
  get counts(): { readonly written: number; readonly lost: number } {
    return { written: this.#log?.written ?? 0, lost: this.#log?.lost ?? 0 };
  }

  started(name: string, config: NodeConfig, identity: NodeIdentity | undefined): void {
    const { role } = config;
    this.#fingerprint = identity?.fingerprint;
    const own = identity === undefined ? {} : { identity: formatIdentity(identity.identity), ...certificate(identity) };
    const authorities = identity?.trust.authorities ?? [];
    this.#trust(NODES, authorities);
    const trusts = identity === undefined ? {} : { trusts: authorities.map(describe) };
    this.record('node.started', { name, role, version: VERSION, ...own, ...trusts, ...policies(config) });
  }

  policiesChanged(config: NodeConfig): void {
    this.record('policy.changed', policies(config));
  }

  /** The node's certificate, or what it trusts, may have changed. */
  identityChanged(
    identity: NodeIdentity,
    { lists, revoked }: { readonly lists: number; readonly revoked: number },
  ): void {
    if (identity.fingerprint !== this.#fingerprint) this.record('certificate.changed', certificate(identity));
    this.#fingerprint = identity.fingerprint;
    this.#trust(NODES, identity.trust.authorities);
    const revocation = `${lists} ${revoked}`;
    if (revocation !== this.#revocation) this.record('revocation.changed', { lists, revoked });
    this.#revocation = revocation;
  }

  /** Writes down from now on when a listener takes clients of another CA. */
  watchClientCa(listener: string, tls: Live<ClientTls> | undefined): void {
    if (tls === undefined) return;
    const look = (): void => this.#trust(listener, tls.current.clientTrust?.authorities ?? []);
    look();
    tls.onChange(look);
  }

  #trust(by: string, authorities: readonly X509Certificate[]): void {
    const now = new Map(authorities.map((ca) => [ca.fingerprint256, describe(ca)]));
    const before = this.#trusted.get(by);
    this.#trusted.set(by, now);
    if (before === undefined) return;
    const added = [...now].flatMap(([fingerprint, ca]) => (before.has(fingerprint) ? [] : [ca]));
    const removed = [...before].flatMap(([fingerprint, ca]) => (now.has(fingerprint) ? [] : [ca]));
    if (added.length + removed.length > 0) this.record('trust.changed', { by, added, removed });
  }

  /** A link to a follower or upstream: says that it is there, and later that it has gone. */
  linked(side: 'follower' | 'upstream', link: Link, events: LinkEvents, more: AuditFacts = {}): LinkEvents {
    const { peer, peerAddress: address, fingerprint } = link;
    const who = { address, name: peer.name, role: peer.role, fingerprint };
    this.record(`${side}.connected`, { ...who, ...more });
    return {
      onData: (chunk) => events.onData(chunk),
      onDrain: () => events.onDrain(),
      onClose: (reason) => {
        this.record(`${side}.closed`, { ...who, reason });
        events.onClose(reason);
      },
      onOutdated: () => events.onOutdated?.(),
    };
  }

  /** A follower opened the scope that its certificate hides, and follows this; `undefined`: it did not open it. */
  scopeOpened({ peer, peerAddress: address, fingerprint }: Link, scope: string | undefined): void {
    const who = { address, name: peer.name, role: peer.role, fingerprint };
    if (scope !== undefined) this.record('follower.scoped', { ...who, scope });
    else
      this.record('follower.refused', {
        ...who,
        reason: 'scope',
        message: 'the scope of its certificate stays hidden',
      });
  }

  close(): void {
    this.record('node.stopped', {});
    this.#log?.close();
  }
}

/** Who believes in the CAs of `identity.ca`. */
const NODES = 'node';

function describe({ subject, fingerprint256 }: X509Certificate): string {
  return `${subject.replaceAll('\n', ', ')} ${fingerprint256}`;
}

function certificate({ fingerprint, notAfterMs }: NodeIdentity): AuditFacts {
  return { fingerprint, validTo: new Date(notAfterMs).toISOString() };
}

/** Which policies hold: a hash of each, to be compared with that of a configuration that was kept. */
function policies({ replication, listen }: NodeConfig): AuditFacts {
  const hash = (value: unknown): string | undefined => {
    return value === undefined ? undefined : createHash('sha256').update(JSON.stringify(value)).digest('hex');
  };
  const listeners = [...listen.clients, ...listen.memcached].flatMap(({ host, port, policy }) => {
    return policy === undefined ? [] : [`${host}:${port} ${hash(policy)}`];
  });
  return { scopes: hash(replication.scopes), policies: listeners };
}
