/**
 * What part of the data a peer may see: for each database the keys. One small value, compared by its id; what a link may
 * carry is the intersection of what the policy gives the follower and what the upstream itself holds, so a relay hands on
 * no more than it may see.
 *
 * One function filters what goes over a link: `filter`. A transaction keeps its origin, number and version and loses
 * the changes outside of the scope, down to none: numbers stay without gaps, and a position means the same on every node.
 * What a scoped follower can still learn is that there were transactions, how many and when, and the names of the nodes
 * up to the root; no key, value, or name of a database outside.
 *
 * A follower stores the scope with its data. Data of one scope cannot become data of another by changes alone: whoever
 * shows another scope than the link's gets a snapshot.
 */
import { createHash } from 'node:crypto';
import { ByteReader, ByteWriter } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import { holds, intersection, isNone, isSame, type Keys, keysWith, NO_KEYS, union, within } from '../base/keys.js';
import { type Change, decodeTransactions, encodeTransaction, type FeedPosition } from '../log/transaction.js';
import type { DatabaseProof } from '../store/proof.js';
import { FOR_EVERY_NODE, isReserved } from '../store/reserved.js';
import type { RowScope } from '../store/snapshot.js';

/** Stands for every database, those to come included. */
export const EVERY_DATABASE = '*';
/** Longest encoding: it travels in the handshake. */
export const MAX_SCOPE_BYTES = 32 * 1024;
export const SCOPE_ID_BYTES = 32;

const OF_RESERVED: Keys = FOR_EVERY_NODE.map((prefix) => Buffer.from(prefix));
const ALL_KEYS = 0;
const PREFIXES = 1;

/** A rule's part of a scope. */
export interface ScopePart {
  /** Names, or `EVERY_DATABASE`. */
  readonly databases: readonly string[];
  /** Keys that begin so; every key without any. */
  readonly prefixes: readonly Buffer[];
}

export class Scope implements RowScope {
  static readonly WHOLE = new Scope('all', new Map());
  static readonly NOTHING = new Scope(NO_KEYS, new Map());

  /** Keys of databases that have no entry of their own. */
  readonly #everywhere: Keys;
  /** Only those that differ from `#everywhere`, which is part of each. */
  readonly #databases: ReadonlyMap<string, Keys>;
  /** One for equal scopes; empty for the whole. */
  readonly encoded: Buffer;
  /** SHA-256 of the encoding, hex. */
  readonly id: string;

  private constructor(everywhere: Keys, databases: ReadonlyMap<string, Keys>) {
    const own = [...databases]
      .map(([name, keys]) => [name, union(keys, everywhere)] as const)
      .filter(([, keys]) => !isSame(keys, everywhere))
      .sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    this.#everywhere = everywhere;
    this.#databases = new Map(own);
    this.encoded = this.isWhole ? Buffer.alloc(0) : this.#encode();
    this.id = createHash('sha256').update(this.encoded).digest('hex');
  }

  static of(parts: readonly ScopePart[]): Scope {
    let everywhere: Keys = NO_KEYS;
    const databases = new Map<string, Keys>();
    for (const { databases: names, prefixes } of parts) {
      const keys = prefixes.length === 0 ? 'all' : keysWith(prefixes);
      for (const name of names) {
        if (name === EVERY_DATABASE) everywhere = union(everywhere, keys);
        else databases.set(name, union(databases.get(name) ?? NO_KEYS, keys));
      }
    }
    return new Scope(everywhere, databases);
  }

  /** Errors: `CORRUPT`. */
  static decode(bytes: Buffer): Scope {
    if (bytes.length === 0) return Scope.WHOLE;
    const reader = new ByteReader(bytes);
    const everywhere = readKeys(reader);
    const databases = new Map<string, Keys>();
    const count = reader.varint();
    for (let i = 0; i < count; i++) {
      const name = reader.text();
      databases.set(name, readKeys(reader));
    }
    reader.end('scope');
    const scope = new Scope(everywhere, databases);
    // One scope has one encoding, or its id would mean nothing.
    if (!scope.encoded.equals(bytes)) throw new TokaidoError('CORRUPT', 'a scope is not in its one encoding');
    return scope;
  }

  #encode(): Buffer {
    const writer = new ByteWriter(64);
    writeKeys(writer, this.#everywhere);
    writer.varint(this.#databases.size);
    for (const [name, keys] of this.#databases) {
      writer.text(name);
      writeKeys(writer, keys);
    }
    return writer.take();
  }

  get isWhole(): boolean {
    return this.#everywhere === 'all';
  }

  get isNothing(): boolean {
    return isNone(this.#everywhere) && this.#databases.size === 0;
  }

  /** Of what the cluster keeps for itself, revocation lists are for every node that may follow at all. */
  keysOf(database: string): Keys {
    if (isReserved(database) && !this.isWhole) return OF_RESERVED;
    return this.#databases.get(database) ?? this.#everywhere;
  }

  /** Whether the follower has every key of this database. */
  holdsWhole(database: string): boolean {
    return this.keysOf(database) === 'all';
  }

  /**
   * Names of feeds are of the source (`postgres`), of a database (`postgres copying DATABASE`, see feeds/feed.ts), or of
   * tables, which nobody needs who does not feed.
   */
  seesFeed(feed: string): boolean {
    if (this.isWhole || !feed.includes(' ')) return true;
    const [, database] = /^\S+ copying (.*)$/s.exec(feed) ?? [];
    return database !== undefined && !isNone(this.keysOf(database));
  }

  seenFeeds<F extends FeedPosition>(feeds: readonly F[]): readonly F[] {
    return this.isWhole ? feeds : feeds.filter(({ feed }) => this.seesFeed(feed));
  }

  /** A part of a database has another hash than the whole: `partOf` says what is known of it. */
  seenProofs(
    databases: readonly DatabaseProof[],
    partOf: (proof: DatabaseProof, keys: Keys) => DatabaseProof,
  ): readonly DatabaseProof[] {
    if (this.isWhole) return databases;
    const seen = databases.filter(({ name }) => !isNone(this.keysOf(name)));
    return seen.map((proof) => (this.holdsWhole(proof.name) ? proof : partOf(proof, this.keysOf(proof.name))));
  }

  intersect(other: Scope): Scope {
    if (other.isWhole) return this;
    if (this.isWhole) return other;
    const names = new Set([...this.#databases.keys(), ...other.#databases.keys()]);
    const databases = [...names].map((name) => [name, intersection(this.keysOf(name), other.keysOf(name))] as const);
    return new Scope(intersection(this.#everywhere, other.#everywhere), new Map(databases));
  }

  /** Transactions as this scope sees them: the very bytes when nothing lies outside. */
  filter(payload: Buffer): Buffer {
    if (this.isWhole) return payload;
    const writer = new ByteWriter(payload.length);
    let changed = false;
    for (const { header, changes, bytes } of decodeTransactions(payload)) {
      const seen = changes.flatMap((change) => this.#seen(change));
      const feed = header.feed === undefined || this.seesFeed(header.feed.feed) ? header.feed : undefined;
      if (feed === header.feed && seen.length === changes.length && seen.every((change, i) => change === changes[i])) {
        writer.bytes(bytes);
        continue;
      }
      encodeTransaction(writer, { ...header, feed, changes: seen });
      changed = true;
    }
    return changed ? writer.take() : payload;
  }

  /** A clear of more than the scope clears what is in the scope. */
  #seen(change: Change): readonly Change[] {
    const keys = this.keysOf(change.database);
    if (keys === 'all') return [change];
    if (change.kind !== 'clear') return holds(keys, change.key) ? [change] : [];
    if (holds(keys, change.prefix)) return [change];
    const inside = within(keys, change.prefix);
    return inside === 'all' ? [change] : inside.map((prefix) => ({ ...change, prefix }));
  }

  /** For status and logs. */
  toString(): string {
    if (this.isWhole) return 'all';
    const text = (name: string, keys: Keys): string => {
      return keys === 'all' ? name : `${name} (${keys.map((prefix) => JSON.stringify(prefix.toString())).join(', ')})`;
    };
    const parts = [...this.#databases].map(([name, keys]) => text(name, keys));
    if (!isNone(this.#everywhere)) parts.unshift(text(EVERY_DATABASE, this.#everywhere));
    return parts.join(', ') || 'nothing';
  }
}

function writeKeys(writer: ByteWriter, keys: Keys): void {
  if (keys === 'all') {
    writer.u8(ALL_KEYS);
    return;
  }
  writer.u8(PREFIXES).varint(keys.length);
  for (const prefix of keys) writer.sized(prefix);
}

function readKeys(reader: ByteReader): Keys {
  const kind = reader.u8();
  if (kind === ALL_KEYS) return 'all';
  const count = reader.varint();
  if (kind !== PREFIXES || count > reader.remaining) throw new TokaidoError('CORRUPT', 'a scope does not parse');
  // Kept for long: copies.
  return keysWith(Array.from({ length: count }, () => Buffer.from(reader.sized())));
}
