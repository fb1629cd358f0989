/** How transactions of one origin follow each other, and the epochs of this store's own numbering (invariant 2). */
import { TokaidoError } from '../base/errors.js';
import { type Epoch, epoch, type OriginPosition, type Position, type Sid, type VersionNs } from '../base/types.js';
import { originOf } from '../log/position.js';
import type { StoreState } from './state.js';

/** Row of the meta map that holds the highest epoch ever begun here. */
export const EPOCH_KEY = Buffer.from('epoch');

export function encodeEpoch(epoch: Epoch): Buffer {
  const row = Buffer.allocUnsafe(6);
  row.writeUIntBE(epoch, 0, 6);
  return row;
}

export function decodeEpoch(row: Buffer | undefined): Epoch {
  return epoch(row === undefined ? 0 : row.readUIntBE(0, 6));
}

/** A store that was a follower's and becomes its root's goes on in the epoch that the root's numbers are in. */
export function withOwnEpoch(state: StoreState, sid: Sid | undefined): StoreState {
  const own = sid === undefined ? undefined : originOf(state.position, sid);
  return own === undefined || own.epoch <= state.epoch ? state : { ...state, epoch: own.epoch };
}

/** A clock that is set back must not make what is written next look older than `after`. */
export function withVersionsAfter(state: StoreState, after: VersionNs | undefined): StoreState {
  return after === undefined || state.lastVersionNs >= after ? state : { ...state, lastVersionNs: after };
}

/**
 * Whether a replicated transaction is new and next. Applied before: no. A gap: an error (invariant 2), which makes the
 * receiver resynchronise.
 */
export function isNext(last: OriginPosition | undefined, header: OriginPosition): boolean {
  const reached = last?.sequence ?? 0;
  if (header.sequence <= reached) {
    if (last === undefined || header.epoch <= last.epoch) return false;
    throw new TokaidoError(
      'REPLICATION',
      `origin ${header.sid} began epoch ${header.epoch} at ${header.sequence}, this node has ${reached} of epoch ${last.epoch}`,
      { hint: 'the origin lost transactions this node still has; the node resynchronises by itself' },
    );
  }
  if (header.sequence !== reached + 1 || header.epoch < (last?.epoch ?? 0)) {
    throw new TokaidoError(
      'REPLICATION',
      `transaction ${header.sequence} (epoch ${header.epoch}) of origin ${header.sid} arrived after ${reached}: something is missing`,
      { hint: 'the node reconnects and resynchronises by itself; if this repeats, report it' },
    );
  }
  return true;
}

/** A store, as far as it numbers. */
interface Numbered {
  readonly sid: Sid | undefined;
  readonly epoch: Epoch;
  ownPosition(): OriginPosition | undefined;
}

/** What another node at `position` knows of this very origin beyond what the origin itself knows. */
export function aheadOfOrigin(store: Numbered, position: Position): OriginPosition | undefined {
  const { sid } = store;
  if (sid === undefined) return undefined;
  const has = originOf(position, sid);
  if (has === undefined || has.epoch < store.epoch) return undefined;
  // An epoch this node never heard of is news, whatever the number: its next epoch must not be that one.
  if (has.epoch > store.epoch) return has;
  return has.sequence > (store.ownPosition()?.sequence ?? 0) ? has : undefined;
}
