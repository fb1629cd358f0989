/**
 * What an upstream makes of a HELLO: whether it may have this follower at all, whether the follower knows more than it
 * does, and where the follower goes on. Pure: `follower-session.ts` acts on it.
 */
import type { OriginPosition, Position, Sid, VersionNs } from '../../base/types.js';
import { describePosition, isBeyond, originOf } from '../../log/position.js';
import type { Found } from '../../log/update-log.js';
import type { LocalStore } from '../../store/store.js';
import type { Exchange, Refusal } from '../frames/exchange.js';
import { type Hello, type PathNode, PROTOCOL_VERSION } from '../frames/frames.js';
import type { Peer } from '../link.js';
import { MAX_SCOPE_BYTES, type Scope } from '../scope.js';
import { type CopyInstead, isCopyCheaper } from './copy-cost.js';

/** Who greets: the upstream. */
export interface Greeted {
  readonly clusterId: string;
  readonly store: LocalStore;
  /** When its store began with nothing here, where that matters. */
  readonly begunEmptyNs: VersionNs | undefined;
  /** From this node to the root. */
  path(): readonly PathNode[];
}

/** What of the upstream decides whether it is behind. */
export interface Behind {
  readonly store: LocalStore;
  readonly exchange: Exchange | undefined;
  /** When a snapshot is better than a long log; never when absent. */
  readonly copyInstead?: CopyInstead | undefined;
}

/**
 * Where a follower goes on; or, beyond what the log says, that a copy of everything is cheaper, or that what it has is of
 * another scope.
 */
export type FoundFor = Found | { readonly kind: 'dear' } | { readonly kind: 'other-scope' };

/** Who greets, with the scope that its certificate hides and its HELLO opens; as it was when nothing is hidden. */
export function openedBy({ scopeOpening }: Hello, peer: Peer): { readonly peer: Peer } | Refusal {
  if (peer.openScope === undefined) return { peer };
  const scope = peer.openScope(scopeOpening);
  if (scope !== undefined) return { peer: { ...peer, scope } };
  const what = scopeOpening === undefined ? 'nothing was sent that opens it' : 'what was sent does not open it';
  return { code: 'SCOPE', message: `the certificate of ${peer.name} hides its scope, and ${what} (node.scope)` };
}

/** Why this node cannot have this follower, whatever either of them holds. */
export function whyNot(
  hello: Hello,
  scope: Scope,
  { clusterId, path, store, begunEmptyNs }: Greeted,
): Refusal | undefined {
  if (hello.version !== PROTOCOL_VERSION) {
    return {
      code: 'VERSION',
      message: `this node speaks replication version ${PROTOCOL_VERSION}, not ${hello.version}`,
    };
  }
  if (hello.clusterId !== clusterId) {
    return { code: 'CLUSTER', message: `the data of cluster ${hello.clusterId} does not belong to ${clusterId}` };
  }
  if (scope.encoded.length > MAX_SCOPE_BYTES) return { code: 'SCOPE', message: 'the scope has too many parts' };
  const emptied = whyEmptied(hello, store, begunEmptyNs);
  if (emptied !== undefined) return emptied;
  const way = path();
  const loop = way.findIndex((node) => node.instanceId === hello.self.instanceId);
  if (loop === 0) return { code: 'SELF', message: `${hello.self.name} would follow itself` };
  if (loop < 0) return undefined;
  const drawn = way.slice(0, loop + 1).map(({ name }) => name);
  return { code: 'LOOP', message: `a loop: ${[hello.self.name, ...drawn].join(' -> ')}` };
}

/**
 * An origin whose store began with nothing is shown what its own number was before: it has lost its disk, or that is not
 * mounted. It would be the origin all the same, and every node would take over that there is nothing: so it refuses, until
 * somebody says that this is meant.
 */
function whyEmptied(
  { self, position }: Hello,
  { sid }: LocalStore,
  begunEmptyNs: VersionNs | undefined,
): Refusal | undefined {
  const has = sid === undefined ? undefined : originOf(position, sid);
  if (has === undefined || begunEmptyNs === undefined || has.versionNs > begunEmptyNs) return undefined;
  const [begun, known] = [begunEmptyNs, has.versionNs].map((ns) => new Date(Number(ns / 1_000_000n)).toISOString());
  const what = `this root began with an empty data directory at ${begun}, and ${self.name} has ${describePosition([has])} of it from ${known}`;
  return {
    code: 'EMPTIED',
    message: `${what}: ${self.name} keeps that (docs/operate/recover.md, "Root lost its disk")`,
  };
}

/** What of these origins `position` has and `other` has not. */
export function aheadOf(position: Position, other: Position, origins: readonly Sid[]): OriginPosition[] {
  return position.filter((origin) => origins.includes(origin.sid) && isBeyond(origin, originOf(other, origin.sid)));
}

/** Where the follower goes on. What it has of a replaced root and could not give back, nobody else may ever have. */
export function findFor(hello: Hello, scope: Scope, behind: Behind): FoundFor {
  const { seeded, position, scopeId, origin } = hello;
  const { store, exchange, copyInstead } = behind;
  if (!seeded) return { kind: 'too-old' };
  if (scopeId !== scope.id) return { kind: 'other-scope' };
  const isAlone = origin === undefined && aheadOf(position, store.position(), exchange?.replaces ?? []).length > 0;
  const found: FoundFor = isAlone ? { kind: 'too-old' } : store.log.find(position, store.position());
  if (found.kind !== 'from' || copyInstead === undefined || origin !== undefined) return found;
  const isDear = isCopyCheaper(store, found.first, copyInstead);
  // A copy that would take the follower back is not cheaper, it is impossible.
  return isDear && whyBehind(hello, { kind: 'dear' }, behind) === undefined ? { kind: 'dear' } : found;
}

/** What a follower at `position` is sent, and why, for people; a history that differs wants their attention. */
export function whatComes(
  { kind }: FoundFor,
  position: Position,
): { readonly level: 'info' | 'warn'; readonly text: string } {
  const expected = (text: string) => ({ level: 'info', text }) as const;
  if (kind === 'from') return expected('sending from the log');
  if (position.length === 0) return expected('it has nothing yet, sending a snapshot');
  if (kind === 'dear') return expected('the log it lacks is longer than the data, sending a snapshot');
  if (kind === 'other-scope') return expected('it has another scope than it may now, sending a snapshot of that');
  if (kind === 'too-old') return expected('too far behind for the log, sending a snapshot');
  return { level: 'warn', text: 'its history differs from ours, sending a snapshot' };
}

/**
 * A snapshot of this node would take the follower back: to an epoch that is over, to before what it has shown, or to
 * where an origin was not known yet. It waits until this node has that, too, or follows another. What an origin counts
 * itself it has settled before; a root without others knows of all origins that there are. A root that exchanges keeps
 * what it has when it takes a snapshot, and refuses one that it cannot keep it beside.
 */
export function whyBehind(hello: Hello, found: FoundFor, { store, exchange }: Behind): Refusal | undefined {
  if (found.kind === 'from' || hello.origin !== undefined) return undefined;
  const position = store.position();
  const ahead = hello.position.find((origin) => {
    const { sid } = origin;
    if (sid === store.sid || exchange?.replaces.includes(sid) === true) return false;
    const has = originOf(position, sid);
    if (has === undefined) return store.sid === undefined || exchange !== undefined;
    return isBeyond(origin, has);
  });
  if (ahead === undefined) return undefined;
  const [ours, theirs] = [describePosition(position), describePosition([ahead])];
  return { code: 'BEHIND', message: `this node is behind the follower: it is at ${ours}, the follower at ${theirs}` };
}
