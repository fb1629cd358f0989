/**
 * The follower side of a node: keeps a link to one of its upstreams, for ever. Connects, lets a session speak, and when
 * it ends tries the next upstream after a short, jittered wait. Silence for `silenceMs` counts as loss: upstreams send
 * heartbeats.
 *
 * A link that works is left for another upstream in two cases, and only for one that would go on from the log: when a
 * better one has been good for a while, and when the data has been older than `staleMs` while another upstream has newer
 * (ours is cut off, or too slow). Both are found out by short looks at the others, beside the link.
 *
 * A snapshot that was broken off can only go on where it came from: that upstream is tried again for a while before any
 * other.
 *
 * When certificates change, the link is opened anew beside the one that works, and takes its place at the moment when the
 * upstream welcomes it: nothing is missed, and what arrived over both is applied once, by its number. It goes on from the
 * log, or, where the new certificate is for another scope, begins with a snapshot of that.
 */
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import type { Welcome } from '../frames/frames.js';
import type { Peer, PeerLink } from '../link.js';
import { Scope } from '../scope.js';
import type { SnapshotProgress } from '../snapshot-progress.js';
import { helloOf } from './hello.js';
import { addressText, type BackOff, type Tiers, type UpstreamAddress, UpstreamChoice } from './upstream-choice.js';
import { type Sight, UpstreamLook } from './upstream-look.js';
import { type UpstreamHost, UpstreamSession, type UpstreamState } from './upstream-session.js';

/** What the transport reports of an open link. */
export interface LinkEvents {
  onData(chunk: Buffer): void;
  onDrain(): void;
  /** Exactly once. */
  onClose(reason: string): void;
  /** It rests on a certificate that was replaced, or whose CA does not count any more: another one is wanted beside it. */
  onOutdated?(): void;
}

/** Opens an authenticated link. Rejects with the reason when the upstream cannot be reached or is not allowed. */
export type Connect = (upstream: UpstreamAddress, attach: (peer: Peer, link: PeerLink) => LinkEvents) => Promise<void>;

export interface UpstreamFollowerOptions {
  readonly upstreams: readonly UpstreamAddress[];
  /** Whom to try behind these, as it is known now; nobody when absent. */
  readonly discovered?: (() => Tiers) | undefined;
  readonly backOff: BackOff;
  /** An upstream that says nothing for this long is given up. */
  readonly silenceMs: number;
  /** Data older than this makes the node look for a fresher upstream. */
  readonly staleMs: number;
  /** How long a better upstream must have been good before the node returns to it. */
  readonly returnMs: number;
  /** Time of the newest heartbeat that this node has reached, ms since 1970. */
  freshMs(): number;
  readonly connect: Connect;
  /** Reads this node's certificate again at once, if it lies in files. */
  readonly readCertificate?: (() => void) | undefined;
  readonly host: Omit<UpstreamHost, 'onEnd'>;
  readonly runtime: Runtime;
  readonly log: Logger;
}

/** What status shows. */
export interface UpstreamStatus {
  readonly address: string;
  readonly name: string | undefined;
  /** No configuration names it: the cluster told of it. */
  readonly isDiscovered: boolean;
  readonly state: UpstreamState | 'connecting' | 'waiting';
  /** Since when, on the runtime's monotonic clock. */
  readonly sinceMs: number;
  readonly lastError: string | undefined;
  readonly loading: SnapshotProgress | undefined;
  /** What comes over the link: `all`, or databases and key prefixes; `undefined` before the upstream has said so. */
  readonly scope: string | undefined;
}

/**
 * How often an upstream learns how far this node is, at most. There is no timer behind it: heartbeats arrive more often
 * than anybody looks, and each is an occasion.
 */
const ACK_MS = 250;

/** How often it learns how this node and those below it are, at most. */
const REPORT_MS = 2000;
/** How long a look may take. */
const LOOK_MS = 5000;
/** How often a new link beside the old one is tried; after that the old one lasts as long as its certificates. */
const RELINK_TRIES = 30;
/**
 * For how long it is tried again quickly: the other end may be about to read its new certificate, and a link that rests on
 * a retired CA does not wait for long. Later the round that looks for silence tries it.
 */
const RELINK_SOON_MS = 1000;
const RELINK_AGAIN_MS = 50;
/** How long the upstream of a snapshot that was broken off is tried again before another one begins anew. */
const AGAIN_MS = 5000;

export class UpstreamFollower {
  readonly #options: UpstreamFollowerOptions;
  readonly #choice: UpstreamChoice;
  #session: UpstreamSession | undefined;
  #link: PeerLink | undefined;
  /** What comes over it, once the upstream has said so. */
  #scope: Scope | undefined;
  #upstream: UpstreamAddress;
  #phase: 'connecting' | 'waiting' | 'linked' = 'waiting';
  #sinceMs: number;
  #heardMs = 0;
  #lastError: string | undefined;
  /** When a link was lost over which this node was welcome. */
  #lostMs = Number.NEGATIVE_INFINITY;
  #retry: Timer | undefined;
  readonly #timers: readonly Timer[];
  #isLooking = false;
  /** Attempts left to put a new link in the place of this one; 0 when nobody asked for it. */
  #relinks = 0;
  #isRelinking = false;
  /** How often somebody asked for it: a link that was begun before is not what was asked for last. */
  #relinksAsked = 0;
  /** When it was asked for last, on the monotonic clock. */
  #relinkAskedMs = 0;
  #relinkSoon: Timer | undefined;
  /** Since when the node has had this upstream, on the monotonic clock. */
  #followedMs = 0;
  #ackedMs = Number.NEGATIVE_INFINITY;
  #reportedMs = Number.NEGATIVE_INFINITY;
  #stopped = false;

  constructor(options: UpstreamFollowerOptions) {
    this.#options = options;
    this.#choice = new UpstreamChoice(options.upstreams, options.backOff, options.returnMs);
    this.#upstream = options.upstreams[0] as UpstreamAddress;
    this.#sinceMs = options.runtime.monotonicMs();
    const { runtime, silenceMs, staleMs, returnMs } = options;
    this.#timers = [
      runtime.every(Math.max(100, silenceMs / 4), () => {
        this.#checkSilence();
        void this.#relink();
      }),
      runtime.every(Math.max(100, Math.min(staleMs, returnMs) / 4), () => void this.#lookAround()),
    ];
    this.#schedule();
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#discover();
    const { upstream, delayMs } = this.#choice.next(() => this.#options.runtime.random());
    this.#enter('waiting');
    this.#retry = this.#options.runtime.after(delayMs, () => void this.#connect(upstream));
  }

  #discover(): void {
    const { discovered } = this.#options;
    if (discovered !== undefined) this.#choice.discover(discovered());
  }

  #enter(phase: 'connecting' | 'waiting' | 'linked'): void {
    this.#phase = phase;
    this.#sinceMs = this.#options.runtime.monotonicMs();
  }

  async #connect(upstream: UpstreamAddress): Promise<void> {
    this.#upstream = upstream;
    this.#enter('connecting');
    try {
      await this.#options.connect(upstream, (peer, link) => this.#attach(peer, link));
    } catch (error) {
      this.#lost(messageOf(error));
    }
  }

  #attach(peer: Peer, link: PeerLink): LinkEvents {
    this.#enter('linked');
    const { session, events } = this.#speak(peer, link, {
      onWelcome: ({ scope }) => {
        this.#choice.succeeded();
        this.#scope = Scope.decode(scope);
        this.#followedMs = this.#options.runtime.monotonicMs();
        this.#lastError = undefined;
        this.#sayIfDiscovered();
        return true;
      },
      onEnd: (reason) => {
        if (this.#session === session) this.#lost(reason);
      },
    });
    this.#adopt(session, link);
    if (this.#stopped) session.end('this node is stopping');
    return events;
  }

  #sayIfDiscovered(): void {
    const { name, isDiscovered } = this.#upstream;
    if (isDiscovered !== true) return;
    const facts = { upstream: name, address: addressText(this.#upstream) };
    this.#options.log.warn(facts, 'no configured upstream serves this node: following one that the cluster told of');
  }

  /** Otherwise a snapshot of the other part begins: that is what a new certificate may be for. */
  #isScopeOfData(encoded: Buffer): boolean {
    return Scope.decode(encoded).id === helloOf(this.#options.host).scopeId;
  }

  #adopt(session: UpstreamSession, link: PeerLink): void {
    this.#session = session;
    this.#link = link;
    this.#reportedMs = Number.NEGATIVE_INFINITY;
    this.#heardMs = this.#options.runtime.monotonicMs();
  }

  /** A session on a link. `onWelcome` says whether it is wanted still. */
  #speak(
    peer: Peer,
    link: PeerLink,
    { onWelcome, onEnd }: { onWelcome(welcome: Welcome): boolean; onEnd(reason: string): void },
  ): { readonly session: UpstreamSession; readonly events: LinkEvents } {
    const { host } = this.#options;
    const session: UpstreamSession = new UpstreamSession(peer, link, {
      ...host,
      keepsScope: this.#upstream.isDiscovered === true,
      onWelcome: (welcome) => {
        if (onWelcome(welcome)) host.onWelcome(welcome);
      },
      onRelink: () => this.#onAsked(),
      onEnd,
    });
    return { session, events: this.#events(session) };
  }

  #events(session: UpstreamSession): LinkEvents {
    return {
      onData: (chunk) => {
        session.onData(chunk);
        if (session !== this.#session) return;
        this.#heardMs = this.#options.runtime.monotonicMs();
        if (this.#heardMs - this.#ackedMs >= ACK_MS) {
          this.#ackedMs = this.#heardMs;
          session.acknowledge();
        }
        if (this.#heardMs - this.#reportedMs >= REPORT_MS) {
          this.#reportedMs = this.#heardMs;
          session.report();
        }
      },
      onDrain: () => undefined,
      onClose: (reason) => session.onClosed(reason),
      onOutdated: () => this.relink(),
    };
  }

  /** The upstream asks for a new link: with what this node has by now, also if it was put there a moment ago. */
  #onAsked(): void {
    const asked = this.#relinksAsked;
    this.#options.readCertificate?.();
    // Another certificate is a reason of its own.
    if (asked === this.#relinksAsked) this.relink();
  }

  /** Puts a new link to the same upstream in the place of the one that works: the certificates of both ends hold there. */
  relink(): void {
    this.#relinks = RELINK_TRIES;
    this.#relinksAsked++;
    this.#relinkAskedMs = this.#options.runtime.monotonicMs();
    void this.#relink();
  }

  #relinkAgain(): void {
    const { runtime } = this.#options;
    this.#relinkSoon?.cancel();
    if (this.#relinks === 0 || runtime.monotonicMs() - this.#relinkAskedMs >= RELINK_SOON_MS) return;
    this.#relinkSoon = runtime.after(RELINK_AGAIN_MS, () => void this.#relink());
  }

  /** A snapshot that is being loaded, and questions that are open, are not broken off: later, then. */
  async #relink(): Promise<void> {
    const { connect, log } = this.#options;
    const old = this.#session;
    if (this.#relinks === 0 || this.#isRelinking || this.#stopped) return;
    if (old?.state !== 'following' || old.isAsked) {
      this.#relinkAgain();
      return;
    }
    const asked = this.#relinksAsked;
    this.#isRelinking = true;
    this.#relinks--;
    try {
      await new Promise<void>((resolve, reject) => {
        const attach = (peer: Peer, link: PeerLink): LinkEvents => {
          const { session, events } = this.#speak(peer, link, {
            onWelcome: ({ next, scope }) => {
              const isFollowed = this.#session === old && old.state === 'following' && !this.#stopped;
              const isWanted = isFollowed && (next === 'log' || !this.#isScopeOfData(scope));
              if (isWanted) {
                this.#adopt(session, link);
                this.#scope = Scope.decode(scope);
                if (asked === this.#relinksAsked) this.#relinks = 0;
                old.end('a new link has taken its place');
              } else {
                session.end('not needed any more');
              }
              resolve();
              return isWanted;
            },
            onEnd: (reason) => {
              reject(new Error(reason));
              if (this.#session === session) this.#lost(reason);
            },
          });
          return events;
        };
        connect(this.#upstream, attach).catch(reject);
      });
    } catch (error) {
      const isFirst = this.#relinks === RELINK_TRIES - 1;
      const facts = { reason: messageOf(error), left: this.#relinks };
      log[isFirst ? 'info' : 'debug'](facts, 'no new link beside the one to the upstream yet');
    }
    this.#isRelinking = false;
    if (asked === this.#relinksAsked) this.#relinkAgain();
    else void this.#relink();
  }

  #lost(reason: string): void {
    this.#relinks = 0;
    const nowMs = this.#options.runtime.monotonicMs();
    if (this.#session?.wasWelcome === true) {
      this.#choice.lost(nowMs, this.#session);
      this.#lostMs = nowMs;
    }
    const isBrokenOff = this.#options.host.unfinished?.() !== undefined;
    if (isBrokenOff && nowMs - this.#lostMs < AGAIN_MS) this.#choice.again();
    this.#session = undefined;
    this.#link = undefined;
    this.#scope = undefined;
    if (this.#stopped) return;
    this.#lastError = reason;
    this.#options.log.warn({ upstream: addressText(this.#upstream), reason }, 'no link to the upstream: trying again');
    this.#schedule();
  }

  /** Looks at those that are better, or, with old data, at all others. One round at a time. */
  async #lookAround(): Promise<void> {
    if (this.#isLooking || this.#session?.state !== 'following' || this.#stopped) return;
    this.#discover();
    const isStale = this.#isStale();
    const upstreams = isStale ? this.#choice.others() : this.#choice.better();
    this.#isLooking = true;
    for (const upstream of upstreams) {
      const session: UpstreamSession | undefined = this.#session;
      const sight = await this.#look(upstream);
      if (this.#stopped || this.#session !== session || session?.state !== 'following') break;
      if (this.#isWorthLeaving(upstream, sight, isStale)) {
        this.#leaveFor(upstream, session, isStale);
        break;
      }
    }
    this.#isLooking = false;
  }

  /** The data is old, and this upstream had time to mend that. */
  #isStale(): boolean {
    const { runtime, staleMs, freshMs } = this.#options;
    return runtime.nowMs() - freshMs() > staleMs && runtime.monotonicMs() - this.#followedMs > staleMs;
  }

  #isWorthLeaving(upstream: UpstreamAddress, sight: Sight, isStale: boolean): boolean {
    const { runtime, staleMs, freshMs } = this.#options;
    const isGood = sight.kind === 'open' && sight.next === 'log';
    if (isStale) return isGood && sight.newestMs > freshMs() + staleMs / 2;
    const isFresh = isGood && sight.newestMs > freshMs() - staleMs / 2;
    return this.#choice.saw(upstream, isFresh, runtime.monotonicMs());
  }

  #leaveFor(upstream: UpstreamAddress, session: UpstreamSession, isStale: boolean): void {
    const { log, runtime, freshMs } = this.#options;
    const to = addressText(upstream);
    const reason = isStale
      ? `the data is ${Math.round(runtime.nowMs() - freshMs())} ms old, ${to} has newer`
      : `${to} is better`;
    log.warn({ upstream: session.peer.name, to, reason }, 'leaving the upstream for another');
    session.end(reason);
    this.#choice.moveTo(upstream, runtime.monotonicMs());
  }

  async #look(upstream: UpstreamAddress): Promise<Sight> {
    const { connect, host, runtime } = this.#options;
    return await new Promise<Sight>((resolve) => {
      const timer = runtime.after(LOOK_MS, () => resolve({ kind: 'closed', reason: 'it took too long' }));
      const done = (sight: Sight): void => {
        timer.cancel();
        resolve(sight);
      };
      const attach = (_: Peer, link: PeerLink): LinkEvents => new UpstreamLook(link, helloOf(host), done);
      connect(upstream, attach).catch((error: unknown) => done({ kind: 'closed', reason: messageOf(error) }));
    });
  }

  #checkSilence(): void {
    if (this.#phase !== 'linked') return;
    const nowMs = this.#options.runtime.monotonicMs();
    // Nothing can be heard on a link that waits for our own disk.
    if (this.#session?.isPaused === true) this.#heardMs = nowMs;
    const silentMs = nowMs - this.#heardMs;
    if (silentMs < this.#options.silenceMs) return;
    this.#link?.destroy(`silent for ${Math.round(silentMs)} ms`);
  }

  /** Asks over the link. Errors: `NOT_READY` without one, and those of `UpstreamSession.ask`. */
  async ask(request: Buffer): Promise<Buffer> {
    if (this.#session === undefined) throw new TokaidoError('NOT_READY', 'there is no link to an upstream to ask over');
    return await this.#session.ask(request);
  }

  status(): UpstreamStatus {
    const { name } = this.#upstream;
    return {
      address: addressText(this.#upstream),
      name: this.#session?.peer.name ?? name,
      isDiscovered: this.#upstream.isDiscovered === true,
      state: this.#phase === 'linked' ? (this.#session?.state ?? 'ended') : this.#phase,
      sinceMs: this.#sinceMs,
      lastError: this.#lastError,
      loading: this.#session?.progress,
      scope: this.#scope?.toString(),
    };
  }

  stop(): void {
    this.#stopped = true;
    this.#retry?.cancel();
    this.#relinkSoon?.cancel();
    for (const timer of this.#timers) timer.cancel();
    this.#session?.end('this node is stopping');
  }
}
