/**
 * How nodes tell the cluster where their followers reach them (`replication.announce`). A node signs a statement and asks
 * it up to the root; the root records it in the reserved database, and replication carries it to every node, where those
 * that discover (`replication.discover`) find it when no configured upstream serves them.
 *
 * A statement is the node's own, whoever passed it on; a root takes one only in the name of who signed it. A record
 * expires by itself when its node has not repeated it for `LIFE_MS`; a repetition that changes nothing is written only
 * once half of that has passed, so records cost no writes to speak of.
 */
import { messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import type { NodeIdentity } from '../pki/identity.js';
import { encodeStatement, openStatement } from '../pki/node-statement.js';
import {
  type Announced,
  announcedKey,
  encodeAnnounced,
  MAX_HOST_CHARACTERS,
  parseAnnounced,
} from '../replication/following/discovery.js';
import type { UpstreamFollower } from '../replication/following/upstream-follower.js';
import { NODE_KEYS, RESERVED_DATABASE } from '../store/reserved.js';
import type { LocalStore } from '../store/store.js';
import type { NodeCertificates } from './certificates/certificates.js';
import type { NodeConfig } from './config/schema.js';

/** How long a record lasts whose node says nothing more: longer than a root, or the way to it, may be down. */
export const LIFE_MS = 7 * 86_400_000;
/** Most nodes that are recorded. */
export const MAX_ANNOUNCED = 512;
/** A node's record changes at most this often. */
export const LEAST_CHANGE_MS = 5_000;
/** How far the clock of a node may be off from the root's: beyond, an old statement could be one that is sent again. */
export const MAX_OFF_MS = 600_000;

/** How often a node looks whether it has to say something. */
const LOOK_MS = 1_000;
/** How often it repeats what it said. */
const REPEAT_MS = 3_600_000;
/** Wait after a refusal, or after a question that nobody answered. */
const RETRY_MS = 30_000;

/** Who signed a statement. */
export interface Announcer {
  readonly name: string;
  readonly role: string;
}

/** Signs what a node says, and tells who signed. */
export interface Seals {
  seal(text: string): Promise<Buffer>;
  /** Errors: `MALFORMED`, `IDENTITY`. */
  open(statement: Buffer): { readonly text: string; readonly signer: Announcer };
}

export interface AnnouncementsOptions {
  /** What this node announces; nothing when absent. */
  readonly own: Omit<Announced, 'atMs'> | undefined;
  readonly name: string;
  readonly seals: Seals;
  readonly store: () => LocalStore | undefined;
  /** Why this node takes no writes, if so. */
  readonly writeRefusal: () => TokaidoError | undefined;
  /** Links to other roots: who takes no writes itself asks there. */
  readonly peers?: () => readonly Pick<UpstreamFollower, 'status' | 'ask'>[];
  /** Asks whoever records: this node itself when it is a root. Errors: `NOT_READY` without a link to an upstream. */
  readonly ask: (statement: Buffer) => Promise<Buffer>;
  readonly runtime: Runtime;
  readonly log: Logger;
}

/** What the configuration says that this node announces. */
export function ownAnnouncement({ region, replication }: NodeConfig): AnnouncementsOptions['own'] {
  const { announce } = replication;
  return announce === false ? undefined : { ...announce.address, region, priority: announce.priority };
}

/** Those of a node on a machine, which signs with the key of its certificate. */
export function signedAnnouncements({
  config,
  certificates,
  ...rest
}: Omit<AnnouncementsOptions, 'own' | 'name' | 'seals'> & {
  readonly config: NodeConfig;
  readonly certificates: Pick<NodeCertificates, 'identity'>;
}): Announcements {
  const identity = (): NodeIdentity => {
    const known = certificates.identity?.current;
    if (known === undefined) throw new TokaidoError('NOT_READY', 'this node replicates with nobody');
    return known;
  };
  const seals: Seals = {
    seal: async (text) => await encodeStatement(text, identity()),
    open: (statement) => openStatement(statement, identity(), rest.runtime.nowMs()),
  };
  const name = certificates.identity?.current.identity.name ?? '';
  return new Announcements({ ...rest, own: ownAnnouncement(config), name, seals });
}

/** For status: how this node's own announcement is. */
export interface AnnouncementFacts {
  readonly address: string;
  /** The root has recorded it, since the start of this node. */
  readonly isKnown: boolean;
  readonly lastError: string | undefined;
}

/** A statement as it is signed: a name, so that it is clear whose it means to be, and what is recorded. */
function textOf(name: string, announced: Announced): string {
  return JSON.stringify({ name, announced: encodeAnnounced(announced).toString() });
}

export class Announcements {
  readonly #options: AnnouncementsOptions;
  readonly #looks: Timer | undefined;
  #isBusy = false;
  #nextMs = Number.NEGATIVE_INFINITY;
  #isKnown = false;
  #lastError: string | undefined;

  constructor(options: AnnouncementsOptions) {
    this.#options = options;
    if (options.own !== undefined) this.#looks = options.runtime.every(LOOK_MS, () => void this.#look(options.own));
  }

  facts(): AnnouncementFacts | undefined {
    const { own } = this.#options;
    if (own === undefined) return undefined;
    return { address: `${own.host}:${own.port}`, isKnown: this.#isKnown, lastError: this.#lastError };
  }

  async #look(own: AnnouncementsOptions['own']): Promise<void> {
    const { runtime, seals, name, ask } = this.#options;
    if (own === undefined || this.#isBusy || runtime.monotonicMs() < this.#nextMs) return;
    this.#isBusy = true;
    let waitMs = REPEAT_MS;
    try {
      refuseIfError(await ask(await seals.seal(textOf(name, { ...own, atMs: runtime.nowMs() }))));
      this.#isKnown = true;
      this.#lastError = undefined;
    } catch (error) {
      // A link that is about to open is nothing to tell of.
      const isEarly = error instanceof TokaidoError && error.code === 'NOT_READY';
      waitMs = isEarly ? 0 : RETRY_MS;
      if (!isEarly) this.#sayOnce(messageOf(error));
    }
    this.#nextMs = runtime.monotonicMs() + waitMs;
    this.#isBusy = false;
  }

  #sayOnce(reason: string): void {
    if (reason !== this.#lastError)
      this.#options.log.warn({ reason }, 'the root has not recorded where followers reach this node: trying again');
    this.#lastError = reason;
  }

  /** The root's answer to a statement that came from a follower, or is its own. Why it is refused is an answer, too. */
  async answer(statement: Buffer, from: string): Promise<Buffer> {
    const elsewhere = await this.#elsewhere(statement, from);
    if (elsewhere !== undefined) return elsewhere;
    try {
      await this.#take(statement);
      return Buffer.from('{}');
    } catch (error) {
      this.#options.log.warn({ from, reason: messageOf(error) }, 'an announcement of a node is refused');
      const { code, message } = error instanceof TokaidoError ? error : new TokaidoError('STORAGE', messageOf(error));
      return Buffer.from(JSON.stringify({ error: { code, message } }));
    }
  }

  /** The answer of a root that records it, where this one stands by. A root that asks here itself is not asked back. */
  async #elsewhere(statement: Buffer, from: string): Promise<Buffer | undefined> {
    const { peers, writeRefusal, log } = this.#options;
    if (peers === undefined || writeRefusal()?.code !== 'READ_ONLY') return undefined;
    if (peers().some((peer) => peer.status().name === from)) return undefined;
    for (const peer of peers()) {
      try {
        const answer = await peer.ask(statement);
        refuseIfError(answer);
        return answer;
      } catch (error) {
        log.debug({ peer: peer.status().name, reason: messageOf(error) }, 'another root records no announcement');
      }
    }
    return undefined;
  }

  /** Errors: `IDENTITY`, `MALFORMED`, `OVERLOADED`, `READ_ONLY`, `NOT_READY`, `STORAGE`. */
  async #take(statement: Buffer): Promise<void> {
    const { seals, store, writeRefusal, runtime, log } = this.#options;
    const { text, signer } = seals.open(statement);
    const announced = announcedBy(signer, text);
    const nowMs = runtime.nowMs();
    const offMs = announced.atMs - nowMs;
    if (Math.abs(offMs) > MAX_OFF_MS) {
      throw new TokaidoError(
        'IDENTITY',
        `the announcement of ${signer.name} is of ${new Date(announced.atMs).toISOString()}, ${Math.round(Math.abs(offMs) / 1000)} s ${offMs > 0 ? 'ahead of' : 'behind'} the clock of the root: compare the clocks`,
      );
    }
    const refusal = writeRefusal();
    if (refusal !== undefined) throw refusal;
    const current = store();
    if (current === undefined) throw new TokaidoError('NOT_READY', 'this root has no data yet');
    const key = announcedKey(signer.name);
    const isWritten = await current.writeReserved((transaction) => {
      const before = transaction.get(RESERVED_DATABASE, key);
      const known = before === undefined ? undefined : parseAnnounced(before.value.toString());
      if (before === undefined || known === undefined) refuseIfFull(current);
      else {
        if (known.atMs > announced.atMs)
          throw new TokaidoError('IDENTITY', `${signer.name} has announced itself anew since: this statement is older`);
        const isSame = encodeAnnounced({ ...known, atMs: announced.atMs }).equals(encodeAnnounced(announced));
        if (isSame && before.xtMs - nowMs > LIFE_MS / 2) return false;
        if (nowMs < Number(before.versionNs / 1_000_000n) + LEAST_CHANGE_MS)
          throw new TokaidoError('OVERLOADED', `${signer.name} announced something else a moment ago`);
      }
      transaction.set(RESERVED_DATABASE, key, encodeAnnounced(announced), nowMs + LIFE_MS);
      return true;
    }).flushed;
    const { host, port, region, priority } = announced;
    if (isWritten)
      log.info({ name: signer.name, address: `${host}:${port}`, region, priority }, 'a node has announced itself');
  }

  close(): void {
    this.#looks?.cancel();
  }
}

/** What a node says of itself. Errors: `IDENTITY`, `MALFORMED`. */
function announcedBy(signer: Announcer, text: string): Announced {
  if (signer.role !== 'relay' && signer.role !== 'root')
    throw new TokaidoError('IDENTITY', `${signer.name} has a certificate of role ${signer.role}: nobody follows it`);
  let values: { readonly name?: unknown; readonly announced?: unknown } | null;
  try {
    values = JSON.parse(text) as typeof values;
  } catch {
    values = null;
  }
  const { name, announced } = values ?? {};
  if (name !== signer.name)
    throw new TokaidoError('IDENTITY', `${signer.name} announces an address for ${String(name).slice(0, 64)}`);
  const parsed = typeof announced === 'string' ? parseAnnounced(announced) : undefined;
  if (parsed !== undefined) return parsed;
  const limits = `a host of at most ${MAX_HOST_CHARACTERS} characters, a port, a priority`;
  throw new TokaidoError('MALFORMED', `what ${signer.name} announces is not an address: ${limits}`);
}

/** Errors: `OVERLOADED`. */
function refuseIfFull(store: LocalStore): void {
  if ([...store.reserved(NODE_KEYS)].length >= MAX_ANNOUNCED)
    throw new TokaidoError('OVERLOADED', `there are ${MAX_ANNOUNCED} nodes that have announced themselves already`);
}

/** Errors: what the answer says, or `MALFORMED`. */
function refuseIfError(answer: Buffer): void {
  let error: { readonly code?: unknown; readonly message?: unknown } | undefined;
  try {
    ({ error } = JSON.parse(answer.toString()) as { error?: typeof error });
  } catch {
    throw new TokaidoError('MALFORMED', 'the answer to an announcement is not one');
  }
  if (error === undefined) return;
  const isEarly = error.code === 'NOT_READY';
  throw new TokaidoError(isEarly ? 'NOT_READY' : 'REPLICATION', String(error.message).slice(0, 1000));
}
