/** Gathers a node's status from its parts. */
import { VERSION } from '../../base/version.js';
import { changesBetween, describePosition } from '../../log/position.js';
import { formatFeedPosition, POSITIONED_FEEDS } from '../../protocol/at-least.js';
import type { UpstreamStatus } from '../../replication/following/upstream-follower.js';
import type { Node } from '../node.js';
import type { NodeStatus, StatusTreeNode, StatusUpstream } from './status.js';

export function nodeStatus(node: Node): NodeStatus {
  const { runtime, directory, self } = node;
  const credentials = node.certificates.identity?.current;
  const store = node.stores.current;
  const { ready, reason } = node.ready();
  const statistics = store?.statistics();
  const upstream = node.upstream?.status();
  const since = (link: UpstreamStatus): StatusUpstream => {
    return { ...link, sinceMs: Math.round(runtime.monotonicMs() - link.sinceMs) };
  };
  const nowMs = runtime.nowMs();
  return {
    name: self.name,
    role: self.role,
    clusterId: self.clusterId,
    instanceId: directory.instanceId,
    version: VERSION,
    uptimeMs: Math.round(runtime.monotonicMs() - node.startedMs),
    ready,
    notReadyBecause: reason,
    recovering: node.replica.recovery.active,
    writesRefused: self.role === 'root' ? node.replica.writeRefusal()?.message : undefined,
    position: (store?.position() ?? []).map(({ versionNs, ...origin }) => ({
      ...origin,
      versionNs: String(versionNs),
    })),
    lagMs: self.role === 'root' ? 0 : (node.heartbeats.lagMs(nowMs) ?? null),
    clockAheadMs: node.replica.clock.aheadMs,
    equality: equalityOf(node),
    databases: (store?.databases() ?? []).map(({ name, index }) => ({ name, index, records: store?.count(name) ?? 0 })),
    log:
      store === undefined
        ? undefined
        : { first: store.log.first, next: store.log.next, bytes: statistics?.logBytes ?? 0 },
    store:
      statistics === undefined
        ? undefined
        : { sizeBytes: statistics.sizeBytes, queuedWrites: statistics.queued, commits: statistics.commits },
    upstream: upstream === undefined ? undefined : since(upstream),
    announced: node.announced().map(({ name, host, port, region, priority, atMs }) => {
      return { name, address: `${host}:${port}`, region, priority, at: new Date(atMs).toISOString() };
    }),
    announcement: node.announcements.facts(),
    peers: node.peers.map((peer) => since(peer.status())),
    tree: treeOf(node),
    followers: [...(node.replication?.followers() ?? []), ...(node.ktFollowers?.list() ?? [])].map(
      ({ name, role, address, state, lagChanges, queuedBytes, copying, connectedMs, scope }) => {
        return {
          name,
          role,
          address,
          state,
          lagChanges,
          queuedBytes,
          copying,
          connectedMs: Math.round(connectedMs),
          scope,
        };
      },
    ),
    certificate:
      credentials === undefined
        ? undefined
        : {
            notAfter: new Date(credentials.notAfterMs).toISOString(),
            expiresInMs: credentials.notAfterMs - nowMs,
            fingerprint: credentials.fingerprint,
            caNotAfter: timeOf(node.certificates.caEndsMs()),
            renewal: renewalStatus(node),
          },
    revocation: revocationStatus(node),
    encryptionKey: node.encryption?.keyId,
    reseal: resealStatus(node),
    audit: node.audit.head,
    reached: POSITIONED_FEEDS.flatMap((feed) => {
      const position = node.progress.position(feed);
      return position === undefined ? [] : [{ feed, position: formatFeedPosition(feed, position) }];
    }),
    feed: node.feed?.status(),
  };
}

function timeOf(ms: number | undefined): string | undefined {
  return ms === undefined ? undefined : new Date(ms).toISOString();
}

function equalityOf({ equality, runtime }: Node): NodeStatus['equality'] {
  if (equality.last === undefined) return undefined;
  const { atMs, position, ...found } = equality.last;
  return {
    agoMs: Math.round(runtime.monotonicMs() - atMs),
    position: describePosition(position),
    ...found,
    repairedRecords: equality.repairedRecords,
  };
}

function revocationStatus({ certificates }: Node): NodeStatus['revocation'] {
  const { lists, revoked, nextUpdateMs } = certificates.revocation();
  if (lists === 0) return undefined;
  return { lists, revoked, nextUpdate: timeOf(nextUpdateMs) };
}

function resealStatus({ encryption, resealer }: Node): NodeStatus['reseal'] {
  if (encryption === undefined || resealer === undefined) return undefined;
  const { isPending, looked, written } = resealer.facts;
  return {
    state: isPending ? 'running' : 'done',
    looked,
    written,
    notNeeded: isPending ? [] : encryption.olderKeyIds,
  };
}

function renewalStatus({ enrollment }: Node): NonNullable<NodeStatus['certificate']>['renewal'] {
  const facts = enrollment.renewal();
  if (facts === undefined) return undefined;
  const { dueMs, failures, lastError } = facts;
  return { due: new Date(dueMs).toISOString(), failures, lastError };
}

/** What this node knows of all below it. Bytes are estimated: the log's mean for each transaction. */
export function treeOf(node: Node): StatusTreeNode[] {
  const store = node.stores.current;
  const position = store?.position() ?? [];
  const logged = store === undefined ? 0 : store.log.next - store.log.first;
  const mean = logged === 0 ? 0 : (store?.statistics().logBytes ?? 0) / logged;
  const [, ...below] = node.tree();
  return below.map(({ lagMs, ageMs, position: reached, ...facts }) => {
    const lagChanges = changesBetween(reached, position);
    const lagBytes = Math.round(lagChanges * mean);
    const at = describePosition(reached);
    return { ...facts, position: at, lagMs: lagMs ?? null, lagChanges, lagBytes, ageMs: Math.round(ageMs) };
  });
}
