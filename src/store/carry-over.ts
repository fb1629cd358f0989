/**
 * A root that loads a snapshot of another root keeps what only it has: its own transactions, and those it has of others,
 * which the snapshot lacks. They are taken from its log, with their numbers and versions, and applied to the new store,
 * where their versions decide as always. So a root never loses what it accepted by being seeded.
 */
import { TokaidoError } from '../base/errors.js';
import { epoch, type LocalNumber, localNumber, type Position, type Sid } from '../base/types.js';
import { describePosition, originOf } from '../log/position.js';
import { transactionSpans } from '../log/transaction.js';
import type { Found } from '../log/update-log.js';
import type { LocalStore } from './store.js';

/** Origins whose numbering has gone on in a later epoch there: what is here of the old one is over. */
function overOf(position: Position, there: Position): ReadonlySet<Sid> {
  const over = position.filter(({ sid, epoch: here }) => (originOf(there, sid)?.epoch ?? here) > here);
  return new Set(over.map(({ sid }) => sid));
}

function find(store: LocalStore, there: Position): Found {
  const over = overOf(store.position(), there);
  const { sid } = store;
  const own = sid === undefined ? undefined : originOf(there, sid);
  // The other root knows of an epoch of this one that this one does not: that is settled when it connects here.
  if (own !== undefined && over.has(own.sid)) return { kind: 'diverged', origin: own };
  return store.log.find(
    there,
    store.position().filter((origin) => !over.has(origin.sid)),
  );
}

/** Why a snapshot at `there` would cost this store something; `undefined` when it would not. */
export function whyNotCarried(store: LocalStore, there: Position): string | undefined {
  const found = find(store, there);
  if (found.kind === 'from') return undefined;
  const [here, other] = [describePosition(store.position()), describePosition(there)];
  const why =
    found.kind === 'too-old'
      ? 'the log here does not reach back to what it lacks'
      : 'it has transactions that this root has lost or never had';
  return `a snapshot at ${other} cannot be joined to the data at ${here}: ${why}; the other root has to take ours first`;
}

/** Applies to `to` everything that it lacks and `from` has in its log. Errors: `REPLICATION` when it cannot be had. */
export async function carryOver(from: LocalStore, to: LocalStore): Promise<number> {
  const found = find(from, to.position());
  if (found.kind !== 'from') throw new TokaidoError('REPLICATION', whyNotCarried(from, to.position()) ?? found.kind);
  const over = overOf(from.position(), to.position());
  let carried = 0;
  for (let at: LocalNumber = found.first; ; ) {
    if (at < from.log.first) throw new TokaidoError('REPLICATION', 'the log was cut while it was carried over');
    const batch = from.log.batchAt(at);
    if (batch === undefined) break;
    const kept: Buffer[] = [];
    for (const { header, start, end } of transactionSpans(batch.payload)) {
      if (!over.has(header.sid)) kept.push(batch.payload.subarray(start, end));
    }
    if (kept.length > 0) carried += await to.apply(Buffer.concat(kept)).committed;
    at = localNumber(batch.first + batch.count);
  }
  await to.keepEpoch(epoch(from.lastEpoch));
  return carried;
}
