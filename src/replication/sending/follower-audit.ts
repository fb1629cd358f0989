/** The audits of one follower at its upstream: one at a time, announced at its place among the batches, in small steps. */
import type { Keys } from '../../base/keys.js';
import type { LocalNumber } from '../../base/types.js';
import type { LocalStore } from '../../store/store.js';
import type { AuditFrame, Descend, Frame } from '../frames/frames.js';
import { AuditSource } from './audit-source.js';

/** An audit pins the pages of its moment: it is ended after so many heartbeats. */
const MOST_BEATS = 600;

export interface FollowerAuditHost {
  readonly store: LocalStore;
  nowMs(): number;
  send(frame: Frame): void;
  /** Whether an audit may begin: one at a time for all followers together, because each reads a whole database. */
  begin(): boolean;
  done(audit: AuditSource): void;
}

export class FollowerAudit {
  readonly #host: FollowerAuditHost;
  #source: AuditSource | undefined;
  #beats = 0;

  constructor(host: FollowerAuditHost) {
    this.#host = host;
  }

  /** Returns whether it began. */
  begin(frame: AuditFrame, keys: Keys): boolean {
    if (this.#source !== undefined || !this.#host.begin()) {
      this.#host.send({ type: 'auditEnd', reason: 'another audit is under way: ask again later' });
      return false;
    }
    this.#source = new AuditSource(this.#host.store, frame, this.#host.nowMs(), keys);
    this.#beats = 0;
    return true;
  }

  /** Without an audit nothing happens: the follower may not know yet that it ended. */
  ask(question: Descend): void {
    this.#source?.ask(question);
  }

  /** An audit that was not announced yet belongs in front of this transaction: the log goes no further before. */
  isFirst(next: LocalNumber): boolean {
    return this.#source !== undefined && !this.#source.isAnnounced && next >= this.#source.next;
  }

  /** Does a little, for a follower that was sent everything before `next`. Returns whether there was something to do. */
  step(next: LocalNumber): boolean {
    const source = this.#source;
    if (source === undefined || next < source.next || !source.isBusy) return false;
    const frame = source.step();
    if (frame !== undefined) this.#host.send(frame);
    return true;
  }

  /** Called with every heartbeat. */
  beat(): void {
    if (this.#source === undefined || ++this.#beats <= MOST_BEATS) return;
    this.#host.send({ type: 'auditEnd', reason: 'it took too long' });
    this.close();
  }

  close(): void {
    const source = this.#source;
    if (source === undefined) return;
    this.#source = undefined;
    source.close();
    this.#host.done(source);
  }
}
