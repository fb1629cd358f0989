/** What a node reports to Prometheus. docs/reference/metrics.md lists the same names. */
import { VERSION } from '../../base/version.js';
import { parseFeedPosition } from '../../protocol/at-least.js';
import type { Sample } from '../admin/metrics.js';
import type { Node } from '../node.js';
import { treeOf } from './node-status.js';
import type { StallWatch } from './stall-watch.js';
import type { StatusTreeNode } from './status.js';

export function registerNodeMetrics(node: Node, stalls: StallWatch): void {
  const { metrics, runtime } = node;
  const { self } = node;
  const store = () => node.stores.current;
  const followers = () => [...(node.replication?.followers() ?? []), ...(node.ktFollowers?.list() ?? [])];
  metrics.gauge('info', 'Name, role and version of the node; always 1.', () => [
    [{ name: self.name, role: self.role, version: VERSION }, 1],
  ]);
  metrics.gauge('ready', '1 when clients can read here.', () => (node.ready().ready ? 1 : 0));
  metrics.gauge('uptime_seconds', 'Time since the start.', () => (runtime.monotonicMs() - node.startedMs) / 1000);
  metrics.gauge('resident_bytes', 'Memory of the process.', () => process.memoryUsage.rss());
  metrics.counter('stalls_total', 'Moments of at least so many seconds in which nobody was answered.', () => {
    return [...stalls.counts].map(([lengthMs, count]) => [{ seconds: String(lengthMs / 1000) }, count] as const);
  });
  metrics.counter('stalled_seconds_total', 'How long they were.', () => stalls.stalledMs / 1000);
  metrics.gauge('lag_seconds', 'Age of the data, by heartbeats from its origins.', () => {
    if (self.role === 'root') return 0;
    const lagMs = node.heartbeats.lagMs(runtime.nowMs());
    return lagMs === undefined ? undefined : lagMs / 1000;
  });
  metrics.gauge('position', 'Last transaction applied, by origin.', () => {
    return (store()?.position() ?? []).map(({ sid, sequence }) => [{ sid: String(sid) }, sequence] as const);
  });
  metrics.gauge('equal', '1 when this node equalled its upstream at the last comparison, by hash.', () => {
    const last = node.equality.last;
    return last === undefined ? undefined : last.differences.length === 0 ? 1 : 0;
  });
  metrics.counter(
    'comparisons_total',
    'Comparisons with the upstream at the same position.',
    () => node.equality.comparisons,
  );
  metrics.counter('comparison_failures_total', 'Comparisons that found a difference.', () => node.equality.failures);
  metrics.counter('repaired_records_total', 'Records put right after a comparison.', () => {
    return node.equality.repairedRecords;
  });
  metrics.gauge('records', 'Records, by database.', () => {
    return (store()?.databases() ?? []).map(({ name }) => [{ database: name }, store()?.count(name) ?? 0] as const);
  });
  metrics.gauge('store_size_bytes', 'Size of the data file.', () => store()?.statistics().sizeBytes);
  metrics.gauge('log_bytes', 'Size of the update log.', () => store()?.statistics().logBytes);
  metrics.gauge('queued_writes', 'Writes waiting for a commit.', () => store()?.statistics().queued);
  metrics.counter('commits_total', 'Commits of the store.', () => store()?.statistics().commits);
  metrics.gauge('upstream_connected', '1 while this node follows its upstream.', () => {
    const state = node.upstream?.status().state;
    return state === undefined ? undefined : state === 'following' ? 1 : 0;
  });
  metrics.gauge('upstream_discovered', '1 while the upstream is one that no configuration names.', () => {
    const upstream = node.upstream?.status();
    return upstream === undefined ? undefined : Number(upstream.state === 'following' && upstream.isDiscovered);
  });
  metrics.gauge('announced_nodes', 'Nodes that have announced where followers reach them.', () => {
    return node.announced().length;
  });
  metrics.gauge('follower_lag_changes', 'Transactions a follower lacks.', () => {
    return followers().map(({ name, lagChanges }) => [{ follower: name }, lagChanges] as const);
  });
  metrics.gauge('follower_queue_bytes', 'Bytes waiting for a follower.', () => {
    return followers().map(({ name, queuedBytes }) => [{ follower: name }, queuedBytes] as const);
  });
  metrics.gauge('snapshot_rows', 'Rows of a snapshot under way, by follower; none for one that comes here.', () => {
    const { loading } = node.upstream?.status() ?? {};
    const sent = followers().flatMap(({ name, copying }) => {
      return copying === undefined ? [] : [[{ follower: name }, copying.rows] as const];
    });
    return loading === undefined ? sent : [...sent, [{}, loading.rows] as const];
  });
  metrics.counter('snapshots_resumed_total', 'Snapshots that went on where they had been broken off, by end.', () => [
    [{ end: 'source' }, node.replication?.resumption.resumed ?? 0],
    [{ end: 'follower' }, node.stores.resumed],
  ]);
  metrics.gauge('snapshots_kept', 'Snapshots that were broken off here and wait for their followers.', () => {
    return node.replication?.resumption.kept;
  });
  metrics.counter('refused_peers_total', 'Replication peers refused, by reason.', () => {
    return [...(node.followerListener?.refusals ?? [])].map(([reason, count]) => [{ reason }, count] as const);
  });
  metrics.gauge('client_connections', 'Open client connections.', () => {
    return node.clients.reduce((sum, { connections }) => sum + connections, 0);
  });
  metrics.gauge('feed_waiting_readers', 'Readers that wait for a position of a feed.', () => {
    return node.progress.waits.waiting;
  });
  metrics.counter('feed_wait_timeouts_total', 'Readers whose position of a feed did not come in time.', () => {
    return node.progress.waits.timeouts;
  });
  metrics.gauge('client_held_bytes', 'Memory held for clients.', () => node.clientKeeper.heldBytes);
  metrics.counter('client_cuts_total', 'Client connections ended by a limit, by reason.', () => {
    return [...node.clientKeeper.cuts].map(([reason, count]) => [{ reason }, count] as const);
  });
  metrics.counter('audit_events_total', 'Events written to the audit log.', () => node.audit.counts.written);
  metrics.counter(
    'audit_lost_total',
    'Events beyond the rate, or that the disk refused.',
    () => node.audit.counts.lost,
  );
  metrics.counter(
    'client_refusals_total',
    'Client requests that a policy refused.',
    () => node.clientPolicies.refusals,
  );
  metrics.counter('client_requests_total', 'Client requests, by protocol.', () => {
    const totals = new Map<string, number>();
    for (const { requests } of node.clients) {
      for (const [protocol, count] of requests) totals.set(protocol, (totals.get(protocol) ?? 0) + count);
    }
    return [...totals].map(([protocol, count]) => [{ protocol }, count] as const);
  });
  metrics.gauge('certificate_expiry_seconds', 'Time until the certificate ends.', () => {
    const credentials = node.certificates.identity?.current;
    return credentials === undefined ? undefined : (credentials.notAfterMs - runtime.nowMs()) / 1000;
  });
  metrics.gauge(
    'ca_expiry_seconds',
    "Time until the first of the CAs ends that this node's certificate stands on.",
    () => {
      const endsMs = node.certificates.caEndsMs();
      return endsMs === undefined ? undefined : (endsMs - runtime.nowMs()) / 1000;
    },
  );
  metrics.gauge('clock_ahead_seconds', "By how much the clock here is ahead of the origin's, or all news late.", () => {
    const { aheadMs } = node.replica.clock;
    return aheadMs === undefined ? undefined : aheadMs / 1000;
  });
  metrics.counter('renewal_failures_total', 'Attempts to renew the certificate that failed.', () => {
    return node.enrollment.renewal()?.failures;
  });
  metrics.gauge('revoked_certificates', 'Certificates on the revocation lists that hold here.', () => {
    return node.certificates.revocation().revoked;
  });
  metrics.gauge('crl_expiry_seconds', 'Time until the next revocation list is due.', () => {
    const { nextUpdateMs } = node.certificates.revocation();
    return nextUpdateMs === undefined ? undefined : (nextUpdateMs - runtime.nowMs()) / 1000;
  });
  metrics.gauge('reseal_pending', '1 while stored values may need another key than the current one.', () => {
    return node.resealer === undefined ? undefined : Number(node.resealer.facts.isPending);
  });
  metrics.gauge('reseal_looked', 'Stored values looked at since the current key came.', () => {
    return node.resealer?.facts.looked;
  });
  metrics.gauge('reseal_written', 'Stored values encrypted anew since the current key came.', () => {
    return node.resealer?.facts.written;
  });
  metrics.gauge('feed_lag_bytes', 'WAL that Postgres has sent and that is not safe here yet.', () => {
    const feed = node.feed?.status();
    return feed?.kind === 'postgres' ? feed.lagBytes : undefined;
  });
  metrics.gauge('feed_streaming', '1 while the feed streams from its source.', () => {
    const feed = node.feed?.status();
    return feed === undefined ? undefined : feed.state === 'streaming' ? 1 : 0;
  });
  metrics.counter(
    'feed_changes_total',
    'Changes applied from the source of the feed.',
    () => node.feed?.status().changes,
  );
  registerTreeMetrics(node);
  registerFeedMetrics(node);
}

/** Of the nodes below this one, at most `MAX_TREE_NODES`. */
function registerTreeMetrics(node: Node): void {
  const { metrics } = node;
  const each = (read: (below: StatusTreeNode) => number | null) => () => {
    return treeOf(node).flatMap((below): Sample[] => {
      const value = read(below);
      return value === null ? [] : [[{ below: below.name, role: below.role }, value]];
    });
  };
  const seconds = ({ lagMs, ageMs }: StatusTreeNode): number | null => (lagMs === null ? null : (lagMs + ageMs) / 1000);
  const equal = ({ equal }: StatusTreeNode): number | null => (equal === 'unknown' ? null : Number(equal === 'equal'));
  metrics.gauge('tree_lag_seconds', 'Age of the data of each node below this one.', each(seconds));
  metrics.gauge(
    'tree_lag_changes',
    'Transactions that each node below lacks.',
    each(({ lagChanges }) => lagChanges),
  );
  metrics.gauge(
    'tree_lag_bytes',
    'About how many bytes these have.',
    each(({ lagBytes }) => lagBytes),
  );
  metrics.gauge('tree_equal', 'Whether each node below equals its root.', each(equal));
}

function registerFeedMetrics(node: Node): void {
  const { metrics } = node;
  const feed = () => {
    const status = node.feed?.status();
    return status?.kind === 'postgres' ? status : undefined;
  };
  metrics.gauge('feed_lag_seconds', 'Age of the oldest change of the source that may not be here.', () => {
    const lagMs = node.feed?.status().lagMs;
    return lagMs === undefined ? undefined : lagMs / 1000;
  });
  metrics.gauge(
    'feed_slot_retained_bytes',
    'WAL on the disk of Postgres because of our slot, at the last look.',
    () => feed()?.retained?.retainedBytes,
  );
  metrics.gauge(
    'feed_slot_safe_bytes',
    'WAL that Postgres may still write before it gives the slot up; absent without max_slot_wal_keep_size.',
    () => feed()?.retained?.safeBytes,
  );
  metrics.counter('feed_failures_total', 'Attempts to feed that failed.', () => node.feed?.status().failures);
  metrics.counter(
    'feed_cut_transactions_total',
    'Transactions that readers saw in parts.',
    () => feed()?.cutTransactions,
  );
  metrics.gauge('feed_confirmed_position', 'Position in the WAL that Postgres was told to be safe here, bytes.', () => {
    const lsn = feed()?.confirmedLsn;
    return lsn === undefined ? undefined : Number(parseFeedPosition(lsn).position);
  });
  metrics.gauge(
    'feed_spill_bytes',
    'Disk taken by large transactions of Postgres that did not commit yet.',
    () => feed()?.spillBytes,
  );
  metrics.counter(
    'feed_spilled_transactions_total',
    'Large transactions that waited on the disk for their commit.',
    () => feed()?.spilledTransactions,
  );
  metrics.counter(
    'feed_dropped_slots_total',
    'Slots dropped because they kept too much WAL.',
    () => feed()?.droppedSlots,
  );
  metrics.gauge('feed_copy_tables', 'Tables that are still to be copied.', () => {
    const status = feed();
    return status === undefined ? undefined : (status.copy?.tables ?? 0) - (status.copy?.tablesDone ?? 0);
  });
  metrics.gauge('feed_copy_waits', 'Transactions of Postgres that a copy waits for before it begins.', () => {
    const status = feed();
    return status === undefined ? undefined : (status.copy?.waitsFor ?? 0);
  });
  metrics.gauge('feed_copied_rows', 'Rows of the last or running copy.', () => feed()?.rowsCopied);
}
