/** What a node tells its audit log, if it has one: itself, its links, its policies. */
import { createHash } from 'node:crypto';
import type { Audit, AuditEvent, AuditFacts } from '../../base/audit.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime } from '../../base/runtime.js';
import { VERSION } from '../../base/version.js';
import type { NodeIdentity } from '../../pki/identity.js';
import { formatIdentity } from '../../pki/names.js';
import type { LinkEvents } from '../../replication/upstream-follower.js';
import type { Link } from '../../transport/link.js';
import type { NodeConfig } from '../config/schema.js';
import type { ChainHead } from './chain.js';
import { AuditLog } from './log.js';

export class AuditTrail implements Audit {
  readonly #log: AuditLog | undefined;
  /** What was recorded last. */
  #fingerprint: string | undefined;
  #revocation = '';

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
    this.record('node.started', { name, role, version: VERSION, ...own, ...policies(config) });
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
    const revocation = `${lists} ${revoked}`;
    if (revocation !== this.#revocation) this.record('revocation.changed', { lists, revoked });
    this.#revocation = revocation;
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
      onDistrust: () => events.onDistrust?.(),
    };
  }

  close(): void {
    this.record('node.stopped', {});
    this.#log?.close();
  }
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
