/**
 * What an upstream makes of a HELLO: whether it may have this follower at all, whether the follower knows more than it
 * does, and where the follower goes on. Pure: `follower-session.ts` acts on it.
 */
import type { OriginPosition, Position } from '../base/types.js';
import { describePosition, firstAhead, originOf } from '../log/position.js';
import type { Found } from '../log/update-log.js';
import type { LocalStore } from '../store/store.js';
import { type Hello, type PathNode, PROTOCOL_VERSION } from './frames.js';
import { MAX_SCOPE_BYTES, type Scope } from './scope.js';

/** What a REFUSE says. */
export interface Refusal {
  readonly code: string;
  readonly message: string;
}

/** Who greets: the upstream. */
export interface Greeted {
  readonly clusterId: string;
  /** From this node to the root. */
  path(): readonly PathNode[];
}

/** Why this node cannot have this follower, whatever either of them holds. */
export function whyNot(hello: Hello, scope: Scope, { clusterId, path }: Greeted): Refusal | undefined {
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
  const way = path();
  const loop = way.findIndex((node) => node.instanceId === hello.self.instanceId);
  if (loop === 0) return { code: 'SELF', message: `${hello.self.name} would follow itself` };
  if (loop < 0) return undefined;
  const drawn = way.slice(0, loop + 1).map(({ name }) => name);
  return { code: 'LOOP', message: `a loop: ${[hello.self.name, ...drawn].join(' -> ')}` };
}

/** What a follower at `position` knows of this very origin beyond what the origin itself knows. */
export function aheadOfOrigin(store: LocalStore, position: Position): OriginPosition | undefined {
  const { sid } = store;
  if (sid === undefined) return undefined;
  const has = originOf(position, sid);
  if (has === undefined || has.epoch < store.epoch) return undefined;
  // An epoch this node never heard of is news, whatever the number: its next epoch must not be that one.
  if (has.epoch > store.epoch) return has;
  return has.sequence > (store.ownPosition()?.sequence ?? 0) ? has : undefined;
}

/** Where the follower goes on. */
export function findFor({ seeded, position, scopeId }: Hello, scope: Scope, store: LocalStore): Found {
  return seeded && scopeId === scope.id ? store.log.find(position, store.position()) : { kind: 'too-old' };
}

/**
 * A snapshot of this node would take the follower back: to an epoch that is over, or to before what it has shown. It
 * waits until this node has that, too, or follows another. What an origin counts itself it has settled before.
 */
export function whyBehind({ position, origin }: Hello, found: Found, store: LocalStore): Refusal | undefined {
  if (found.kind === 'from') return undefined;
  // A root keeps what it has when it takes a snapshot, and refuses one that it cannot keep it beside.
  if (origin !== undefined && found.kind === 'too-old') return undefined;
  const foreign = position.filter(({ sid }) => sid !== store.sid);
  const ahead = origin === undefined ? firstAhead(foreign, store.position()) : laterEpoch(foreign, store.position());
  if (ahead === undefined) return undefined;
  const [ours, theirs] = [describePosition(store.position()), describePosition([ahead])];
  return { code: 'BEHIND', message: `this node is behind the follower: it is at ${ours}, the follower at ${theirs}` };
}

function laterEpoch(position: Position, other: Position): OriginPosition | undefined {
  return position.find(({ sid, epoch }) => (originOf(other, sid)?.epoch ?? epoch) < epoch);
}
