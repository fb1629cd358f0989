/** `tokaido status`: asks a node's admin listener how it is. */
import type { Command } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import type { NodeStatus, StatusUpstream } from '../node/status/status.js';
import { action, print, printJson } from './output.js';

const TIMEOUT_MS = 5_000;

/** A CA that ends sooner is worth a word. */
const CA_SOON_MS = 30 * 86_400_000;
/** Clocks that are apart by less are not. */
const APART_MS = 5_000;

function duration(ms: number): string {
  const units: readonly (readonly [number, string])[] = [
    [86_400_000, 'd'],
    [3_600_000, 'h'],
    [60_000, 'min'],
    [1000, 's'],
  ];
  for (const [size, unit] of units) if (ms >= size) return `${(ms / size).toFixed(ms / size < 10 ? 1 : 0)} ${unit}`;
  return `${Math.round(ms)} ms`;
}

function progressText(snapshot: StatusUpstream['loading']): string {
  if (snapshot === undefined) return '';
  const { rows, of, resumedAt } = snapshot;
  return `, ${rows} of ${of} records${resumedAt === undefined ? '' : ` (resumed at row ${resumedAt})`}`;
}

/** Of a link that carries everything there is nothing to say; nor does a node of an older version say it. */
const seesText = (scope: string | undefined): string => {
  return scope === undefined || scope === 'all' ? '' : `, sees ${scope}`;
};

function linkText({ name, address, isDiscovered, state, sinceMs, lastError, loading, scope }: StatusUpstream): string {
  const copied = `${progressText(loading)}${seesText(scope)}`;
  const error = lastError === undefined ? '' : `; last error: ${lastError}`;
  return `${name ?? '?'} at ${address}${isDiscovered ? ' (DISCOVERED)' : ''}: ${state} for ${duration(sinceMs)}${copied}${error}`;
}

function announcementText({ address, isKnown, lastError }: NonNullable<NodeStatus['announcement']>): string {
  const error = lastError === undefined ? '' : `; last error: ${lastError}`;
  return `${address}, ${isKnown ? 'recorded by the root' : 'NOT RECORDED by the root yet'}${error}`;
}

function certificateText(certificate: NodeStatus['certificate']): string {
  if (certificate === undefined) return 'none: this node stands alone';
  const { notAfter, expiresInMs, renewal, caNotAfter } = certificate;
  const state = expiresInMs > 0 ? duration(expiresInMs) : 'EXPIRED';
  const failed = renewal?.lastError === undefined ? '' : `; NOT RENEWED: ${renewal.lastError}`;
  const renews = renewal === undefined ? '' : `, renewed from ${renewal.due} on${failed}`;
  const caLeftMs = caNotAfter === undefined ? Number.POSITIVE_INFINITY : Date.parse(caNotAfter) - Date.now();
  const ca = caLeftMs < CA_SOON_MS ? `; A CA THAT IT STANDS ON ENDS ${caNotAfter}` : '';
  return `until ${notAfter} (${state})${renews}${ca}`;
}

function equalityText(
  { agoMs, equal, differences, putOff }: NonNullable<NodeStatus['equality']>,
  role: string,
): string {
  // A root compares itself with a root that it exchanges with. What the cluster keeps for itself counts as a database.
  const whose = role === 'root' ? "the other root's" : "the root's";
  const ago = `${duration(agoMs)} ago`;
  if (differences.length > 0) {
    const databases = differences.map(
      ({ database, records, recordsThere }) => `${database} (${records} records, ${recordsThere} there)`,
    );
    return `DIFFERS from the root in ${databases.join(', ')}, ${ago}`;
  }
  if (equal === 0 && putOff.length === 0) return `no database was compared yet, ${ago}`;
  return `${equal} databases equal ${whose}${putOff.length === 0 ? '' : `, ${putOff.length} not compared`}, ${ago}`;
}

/** Status for people. */
export function renderStatus(status: NodeStatus): string {
  const rows: [string, string][] = [
    ['node', `${status.name} (${status.role}), cluster ${status.clusterId}, version ${status.version}`],
    ['state', status.ready ? `ready, up ${duration(status.uptimeMs)}` : `NOT READY: ${status.notReadyBecause ?? ''}`],
    [
      'position',
      status.position.map(({ sid, epoch, sequence }) => `origin ${sid}: ${sequence} (epoch ${epoch})`).join(', ') ||
        'start',
    ],
    ['lag', status.lagMs === null ? 'unknown: no heartbeat from an origin yet' : duration(status.lagMs)],
  ];
  const { clockAheadMs = 0 } = status;
  if (Math.abs(clockAheadMs) >= APART_MS)
    rows.push([
      'clock',
      `${duration(Math.abs(clockAheadMs))} ${clockAheadMs < 0 ? 'BEHIND' : 'AHEAD OF'} the origin's`,
    ]);
  if (status.equality !== undefined) rows.push(['equality', equalityText(status.equality, status.role)]);
  if (status.recovering) rows.push(['recovery', 'asking followers for transactions lost when the machine went down']);
  if (status.writesRefused !== undefined) rows.push(['writes', `REFUSED: ${status.writesRefused}`]);
  for (const { name, index, records } of status.databases)
    rows.push([`database ${index}`, `${name}: ${records} record${records === 1 ? '' : 's'}`]);
  if (status.log !== undefined)
    rows.push(['log', `${status.log.first} to ${status.log.next - 1}, ${status.log.bytes} bytes`]);
  if (status.upstream !== undefined) rows.push(['upstream', linkText(status.upstream)]);
  if (status.announcement !== undefined) rows.push(['announces', announcementText(status.announcement)]);
  for (const { name, address, region } of status.announced)
    rows.push(['announced', `${name} at ${address}${region === undefined ? '' : `, region ${region}`}`]);
  for (const peer of status.peers) rows.push(['peer', linkText(peer)]);
  for (const follower of status.followers) {
    const { name, role, address, state, lagChanges, scope, copying } = follower;
    const copied = progressText(copying);
    rows.push([
      'follower',
      `${name} (${role}) at ${address}: ${state}${copied}, ${lagChanges} behind${seesText(scope)}`,
    ]);
  }
  rows.push(['certificate', certificateText(status.certificate)]);
  if (status.reseal !== undefined) rows.push(['encryption', resealText(status.reseal)]);
  for (const { feed, position } of status.reached) rows.push(['reached', `${feed} ${position}`]);
  const { revocation, audit } = status;
  if (audit !== undefined) rows.push(['audit', `line ${audit.number}, hash ${audit.hash}`]);
  if (revocation !== undefined) {
    const { lists, revoked, nextUpdate } = revocation;
    const isLate = nextUpdate !== undefined && Date.parse(nextUpdate) < Date.now();
    const next = nextUpdate === undefined ? '' : `, next ${isLate ? 'WAS DUE' : 'due'} ${nextUpdate}`;
    rows.push(['revocation', `${revoked} certificates on ${lists} lists${next}`]);
  }
  if (status.feed !== undefined) rows.push(['feed', facts(status.feed)]);
  const width = Math.max(...rows.map(([label]) => label.length));
  return rows.map(([label, text]) => `${label.padEnd(width)}  ${text}`).join('\n');
}

function resealText({ state, looked, written, notNeeded }: NonNullable<NodeStatus['reseal']>): string {
  if (state === 'running') return `encrypting anew: ${written} of ${looked} values looked at so far`;
  const old = notNeeded.length === 0 ? '' : `; not needed any more: ${notNeeded.join(', ')}`;
  return `all with the current key${old}`;
}

/** `slotLagBytes 0, state streaming`: what it is called in `--json`, with what it is now. */
function facts(values: object): string {
  return Object.entries(values)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}`)
    .join(', ');
}

/** A node and all below it, one line each, with their lags. */
export function renderTree(status: NodeStatus): string {
  const rows: string[][] = [['NODE', 'ROLE', 'LAG', 'CHANGES', 'BYTES', 'EQUAL', 'REPORTED']];
  const own = status.lagMs === null ? 'unknown' : duration(status.lagMs);
  const differs = (status.equality?.differences.length ?? 0) > 0;
  rows.push([status.name, status.role, own, '', '', differs ? 'DIFFERS' : '', '']);
  const drawn = new Set([status.instanceId]);
  const draw = (upstreamId: string, indent: string): void => {
    const below = status.tree.filter((node) => node.upstreamId === upstreamId && !drawn.has(node.instanceId));
    for (const node of below) drawn.add(node.instanceId);
    for (const [index, node] of below.entries()) {
      const isLast = index === below.length - 1;
      const lag = node.lagMs === null ? 'unknown' : duration(node.lagMs);
      const equal = { unknown: '', equal: 'yes', differs: 'DIFFERS' }[node.equal];
      const counts = [String(node.lagChanges), String(node.lagBytes)];
      const name = `${indent}${isLast ? '└ ' : '├ '}${node.name}`;
      rows.push([name, node.role, lag, ...counts, equal, `${duration(node.ageMs)} ago`]);
      draw(node.instanceId, `${indent}${isLast ? '  ' : '│ '}`);
    }
  };
  draw(status.instanceId, '');
  const widths = (rows[0] as string[]).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] as string).length)),
  );
  const lines = rows.map((row) =>
    row
      .map((text, column) => text.padEnd(widths[column] as number))
      .join('  ')
      .trimEnd(),
  );
  // Reported by a follower that has changed its upstream meanwhile, or through a relay that has not reported itself yet.
  const lost = status.tree.filter(({ instanceId }) => !drawn.has(instanceId)).map(({ name }) => name);
  return [...lines, ...(lost.length === 0 ? [] : [`elsewhere: ${lost.join(', ')}`])].join('\n');
}

export async function fetchStatus(admin: string): Promise<NodeStatus> {
  try {
    const response = await fetch(`http://${admin}/status`, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`it answers ${response.status}: not the admin listener of a node`);
    const status = (await response.json()) as NodeStatus;
    // A node of an older version, that waits for its restart, does not say whom it knows of.
    return { ...status, announced: status.announced ?? [] };
  } catch (error) {
    throw new TokaidoError(
      'NETWORK',
      `no status from the admin listener ${admin}: ${messageOf((error as Error).cause ?? error)}`,
      {
        hint: 'check that the node runs and that --admin names its listen.admin address',
        cause: error,
      },
    );
  }
}

export function registerStatus(program: Command): void {
  program
    .command('status')
    .description('role, position, lag, upstream, followers and certificate of a node')
    .option('--admin <host:port>', 'admin listener of the node', '127.0.0.1:1980')
    .option('--tree', 'all nodes below this one, with their lags')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido status --admin 127.0.0.1:1980')
    .action(
      action(async (flags: { readonly admin: string; readonly json?: boolean; readonly tree?: boolean }) => {
        const status = await fetchStatus(flags.admin);
        if (flags.json) printJson(status);
        else print(flags.tree ? renderTree(status) : renderStatus(status));
      }),
    );
}
