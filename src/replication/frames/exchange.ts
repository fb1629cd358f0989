/**
 * Roots that exchange what they take (`peers`): each follows each other one, and each is an origin. What a root made
 * itself comes back to it over such links and is left out; and a clock that is far off is found out before it does harm:
 * versions decide who wins, and a version from the future would win over everything that is written until then.
 */
import { TokaidoError } from '../../base/errors.js';
import type { Sid } from '../../base/types.js';
import { transactionSpans } from '../../log/transaction.js';
import type { Peer } from '../link.js';
import type { Hello } from './frames.js';

/** What a REFUSE says. */
export interface Refusal {
  readonly code: string;
  readonly message: string;
}

/** A root, as those see it that it exchanges with. */
export interface Exchange {
  readonly sid: Sid;
  nowMs(): number;
  /** How far another root's clock may be off, ms. */
  readonly clockLimitMs: number;
  /** Roots whose place this one has taken. */
  readonly replaces: readonly Sid[];
  /** Whether this root of the cluster is one of those to exchange with. */
  isPeer(name: string): boolean;
}

const MS = 1_000_000n;
const seconds = (ms: number): string => `${(Math.abs(ms) / 1000).toFixed(1)} s`;

/** Whether a batch has nothing but what this origin made. */
export function isOnlyOf(payload: Buffer, sid: Sid): boolean {
  for (const { header } of transactionSpans(payload)) if (header.sid !== sid) return false;
  return true;
}

/**
 * What a batch of another root has that this one did not make. Errors: `REPLICATION` when a version lies so far in the
 * future that one of the two clocks must be wrong.
 */
export function newsOf(
  payload: Buffer,
  { sid, nowMs, clockLimitMs }: Pick<Exchange, 'sid' | 'nowMs' | 'clockLimitMs'>,
): Buffer {
  const parts: Buffer[] = [];
  const now = nowMs();
  const latest = BigInt(Math.floor(now + clockLimitMs)) * MS;
  for (const { header, start, end } of transactionSpans(payload)) {
    if (header.sid === sid) continue;
    if (header.versionNs > latest) {
      const aheadMs = Number(header.versionNs / MS) - now;
      throw new TokaidoError(
        'REPLICATION',
        `a change of origin ${header.sid} is ${seconds(aheadMs)} ahead of the clock here: replication.clockLimitMs allows ${seconds(clockLimitMs)}`,
        { hint: 'compare the clocks of all roots with the true time, and set the one that is wrong' },
      );
    }
    parts.push(payload.subarray(start, end));
  }
  return parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts);
}

/** Whether a root, which proved to be one, says that it has taken the place of this origin. */
export function isReplacedBy({ origin }: Hello, { role }: Peer, { sid }: { readonly sid: Sid | undefined }): boolean {
  return role === 'root' && sid !== undefined && origin?.replaces.includes(sid) === true;
}

/** Why this root, called `name`, does not exchange with the one that greets. */
export function whyNoExchange(
  { self, origin }: Hello,
  peer: Pick<Peer, 'name' | 'role'>,
  exchange: Exchange | undefined,
  name: string,
): Refusal | undefined {
  if (origin === undefined && peer.role !== 'root') return undefined;
  if (origin === undefined || peer.role !== 'root')
    return {
      code: 'PEER',
      message: `${peer.name} has a certificate of role ${peer.role}, and greets as something else`,
    };
  if (exchange === undefined || !exchange.isPeer(peer.name))
    return { code: 'PEER', message: `${name} does not exchange with ${peer.name}: name it under peers there, too` };
  if (origin.sid === exchange.sid)
    return {
      code: 'SID',
      message: `${self.name} and ${name} both have server id ${origin.sid}: each root needs its own`,
    };
  const { clockLimitMs } = exchange;
  const aheadMs = origin.timeMs - exchange.nowMs();
  if (Math.abs(aheadMs) <= clockLimitMs) return undefined;
  const how = `${seconds(aheadMs)} ${aheadMs > 0 ? 'ahead of' : 'behind'}`;
  return {
    code: 'CLOCK',
    message: `the clock of ${self.name} is ${how} the clock of ${name}, and replication.clockLimitMs allows ${seconds(clockLimitMs)}: compare both with the true time`,
  };
}
