/** How a node introduces itself to an upstream, which decides by that what it sends. */
import type { OriginPosition, Position } from '../../base/types.js';
import { isBeyond, originOf } from '../../log/position.js';
import type { LocalStore } from '../../store/store.js';
import type { Exchange } from '../frames/exchange.js';
import { type Hello, type PathNode, PROTOCOL_VERSION } from '../frames/frames.js';
import { PACKINGS } from '../frames/packing.js';
import { Scope } from '../scope.js';

/** Who introduces itself. */
export interface Introduced {
  readonly clusterId: string;
  readonly self: PathNode;
  /** The store to apply to, or `undefined` when this node never had data. */
  store(): LocalStore | undefined;
  /** How this node exchanges with other roots, when the upstream is one of them. */
  readonly exchange?: Exchange | undefined;
  /** A snapshot that is broken off can be gone on with here; not when absent. */
  readonly resumesSnapshots?: boolean;
  /** Opens the scope that the certificate of this node hides, if it hides one. */
  scopeOpening?(): Buffer | undefined;
}

/** Who the node is, and what of which data it has. */
export function helloOf({
  clusterId,
  self,
  store,
  exchange,
  resumesSnapshots = false,
  scopeOpening = () => undefined,
}: Introduced): Omit<Hello, 'type' | 'isLook'> {
  const own = store();
  const opening = scopeOpening();
  return {
    version: PROTOCOL_VERSION,
    clusterId,
    self,
    seeded: own !== undefined,
    position: own?.position() ?? [],
    scopeId: own === undefined ? Scope.WHOLE.id : Scope.decode(own.scope).id,
    takesHorizon: true,
    resumes: resumesSnapshots,
    unpacks: PACKINGS,
    ...(opening === undefined ? {} : { scopeOpening: opening }),
    ...(exchange === undefined
      ? {}
      : {
          origin: { sid: exchange.sid, timeMs: exchange.nowMs(), replaces: exchange.replaces },
          takesForgotten: true,
        }),
  };
}

/** What is at `position` by now, was not when the upstream was `told` of it, and would not be at `there`. */
export function goneOn(position: Position, told: Position, there: Position): OriginPosition | undefined {
  return position.find((origin) => {
    return isBeyond(origin, originOf(told, origin.sid)) && isBeyond(origin, originOf(there, origin.sid));
  });
}
