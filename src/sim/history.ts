/**
 * What everybody may know: every transaction that any node ever had, and what a node at a position must hold. This is
 * the model the stores are compared with; it decides who wins in its own way, on whole states and without indexes.
 */
import { crc32 } from 'node:zlib';
import { NEVER_EXPIRES, type OriginPosition, type Position, type Sid, type VersionNs } from '../base/types.js';
import { type Change, decodeTransactions } from '../log/transaction.js';
import type { LogBatch } from '../log/update-log.js';
import { type Parts, shows } from './scopes.js';

/** A broken invariant, with the number it has in docs/architecture.md. */
export class Violation extends Error {
  readonly invariant: number;

  constructor(invariant: number, what: string) {
    super(`invariant ${invariant}: ${what}`);
    this.name = 'Violation';
    this.invariant = invariant;
  }
}

/** A transaction somebody has. */
export interface Known {
  readonly number: string;
  readonly origin: OriginPosition;
  readonly changes: readonly Change[];
  readonly checksum: number;
  /** The number before it in its origin's history; undefined for the first. */
  readonly before: string | undefined;
  /** When it was made, ms of virtual time. */
  readonly bornMs: number;
}

/** What a key holds, or when it was removed. */
export interface ExpectedRecord {
  readonly versionNs: VersionNs;
  readonly sid: Sid;
  /** Undefined: removed. */
  readonly value: string | undefined;
  readonly xtMs: number;
  /** The transaction that did it. */
  readonly by: OriginPosition;
}

interface ExpectedClear {
  readonly prefix: string;
  readonly versionNs: VersionNs;
  readonly sid: Sid;
}

/** What a node must hold. Keys are `database/key`. */
export interface Expected {
  readonly records: ReadonlyMap<string, ExpectedRecord>;
  readonly clears: readonly ExpectedClear[];
}

const NOTHING: Expected = { records: new Map(), clears: [] };

export function numberOf({ sid, epoch, sequence }: OriginPosition): string {
  return `${sid}@${epoch}:${sequence}`;
}

function wins(a: { versionNs: VersionNs; sid: Sid }, b: { versionNs: VersionNs; sid: Sid }): boolean {
  return a.versionNs === b.versionNs ? a.sid >= b.sid : a.versionNs > b.versionNs;
}

/** The state after these transactions. */
function applied(before: Expected, transactions: readonly Known[]): Expected {
  const records = new Map(before.records);
  const clears = [...before.clears];
  for (const transaction of transactions) apply(records, clears, transaction);
  return { records, clears };
}

function apply(records: Map<string, ExpectedRecord>, clears: ExpectedClear[], { origin, changes }: Known): void {
  const { versionNs, sid } = origin;
  for (const change of changes) {
    if (change.kind === 'clear') {
      const prefix = `${change.database}/${change.prefix.toString('latin1')}`;
      const clear = { prefix, versionNs, sid };
      for (const [key, record] of records) if (key.startsWith(prefix) && wins(clear, record)) records.delete(key);
      clears.push(clear);
      continue;
    }
    const key = `${change.database}/${change.key.toString('latin1')}`;
    const record: ExpectedRecord = {
      versionNs,
      sid,
      value: change.kind === 'set' ? change.value.toString('latin1') : undefined,
      xtMs: change.kind === 'set' ? change.xtMs : NEVER_EXPIRES,
      by: origin,
    };
    const known = records.get(key);
    if (known !== undefined && !wins(record, known)) continue;
    if (clears.some((clear) => key.startsWith(clear.prefix) && !wins(record, clear))) continue;
    records.set(key, record);
  }
}

export class History {
  readonly #known = new Map<string, Known>();
  /** By position, as far as somebody asked. */
  readonly #expected = new Map<string, Expected>();
  #born: Known[] = [];
  readonly #nowMs: () => number;
  readonly #onNew: (known: Known) => void;

  /** `nowMs` is virtual time; `onNew` hears of each transaction once. */
  constructor(nowMs: () => number, onNew: (known: Known) => void) {
    this.#nowMs = nowMs;
    this.#onNew = onNew;
  }

  /** The last transaction made before this moment of virtual time. */
  lastBefore(timeMs: number): Known | undefined {
    let low = 0;
    let high = this.#born.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#born[middle] as Known).bornMs < timeMs) low = middle + 1;
      else high = middle;
    }
    return this.#born[low - 1];
  }

  get size(): number {
    return this.#known.size;
  }

  known(number: string): Known | undefined {
    return this.#known.get(number);
  }

  /** Their origin lost what is beyond `position`; whether it comes back is another matter. */
  lost(position: Position): void {
    this.#born = this.#born.filter(({ origin }) => {
      const has = position.find(({ sid }) => sid === origin.sid);
      return has !== undefined && has.epoch >= origin.epoch && has.sequence >= origin.sequence;
    });
  }

  /**
   * A node has made or applied this batch: all of it must be new, or what everybody knows by these numbers. Of a node that
   * has `parts` only, nothing is new, and no change lies outside.
   */
  see(node: string, { payload, before }: Pick<LogBatch, 'payload' | 'before'>, parts?: Parts): readonly Known[] {
    const reached = new Map(before.map((origin) => [origin.sid, origin]));
    return decodeTransactions(payload).map(({ header, bytes, changes }) => {
      const { sid, epoch, sequence, versionNs } = header;
      const last = reached.get(sid);
      const number = numberOf(header);
      if (sequence !== (last?.sequence ?? 0) + 1 || epoch < (last?.epoch ?? 0)) {
        throw new Violation(
          2,
          `${node} logged ${number} right after ${last === undefined ? 'nothing' : numberOf(last)}`,
        );
      }
      if (last !== undefined && versionNs <= last.versionNs) {
        throw new Violation(4, `${node} logged ${number} with a version that is not above the one before it`);
      }
      const origin = { sid, epoch, sequence, versionNs };
      reached.set(sid, origin);
      const known = this.#known.get(number);
      const previous = last === undefined ? undefined : numberOf(last);
      if (parts !== undefined) {
        if (known === undefined) throw new Violation(2, `${node} has ${number}, which nobody made`);
        checkPart(node, known, changes, parts);
        return known;
      }
      const checksum = crc32(bytes);
      if (known === undefined) {
        const copies = changes.map(copyOf);
        const added = { number, origin, changes: copies, checksum, before: previous, bornMs: this.#nowMs() };
        this.#born.push(added);
        this.#known.set(number, added);
        this.#onNew(added);
        return added;
      }
      if (known.checksum !== checksum) throw new Violation(2, `${number} is another transaction on ${node}`);
      if (known.before !== previous) {
        throw new Violation(2, `${number} follows ${previous} on ${node}, and ${known.before} elsewhere`);
      }
      return known;
    });
  }

  /** The transactions of an origin up to `last`, oldest first. */
  chain(last: OriginPosition): Known[] {
    const chain: Known[] = [];
    for (let number: string | undefined = numberOf(last); number !== undefined; ) {
      const known = this.#known.get(number);
      if (known === undefined) throw new Violation(2, `nobody ever made ${number}`);
      chain.push(known);
      number = known.before;
    }
    return chain.reverse();
  }

  /** What a node at `position` must hold. */
  expected(position: Position): Expected {
    if (position.length === 0) return NOTHING;
    const name = position.map(numberOf).join(' ');
    const found = this.#expected.get(name);
    if (found !== undefined) return found;
    const expected = this.#compute(position);
    this.#expected.set(name, expected);
    return expected;
  }

  /** From the nearest earlier state that somebody asked for, else from the start. */
  #compute(position: Position): Expected {
    for (const last of position) {
      const others = position.filter(({ sid }) => sid !== last.sid);
      const since: Known[] = [];
      for (let number: string | undefined = numberOf(last); number !== undefined; ) {
        const known = this.#known.get(number);
        if (known === undefined) throw new Violation(2, `nobody ever made ${number}`);
        since.push(known);
        number = known.before;
        const origin = number === undefined ? undefined : this.#known.get(number)?.origin;
        const earlier = [...others, ...(origin === undefined ? [] : [origin])].sort((a, b) => a.sid - b.sid);
        const base = earlier.length === 0 ? NOTHING : this.#expected.get(earlier.map(numberOf).join(' '));
        if (base !== undefined) return applied(base, since.reverse());
      }
    }
    return applied(
      NOTHING,
      position.flatMap((last) => this.chain(last)),
    );
  }
}

/** What a node has of a transaction is what lies in its parts, and nothing else. */
function checkPart(node: string, known: Known, changes: readonly Change[], parts: Parts): void {
  const keyOf = (change: Change): Buffer => (change.kind === 'clear' ? change.prefix : change.key);
  const outside = changes.find((change) => !shows(parts, change.database, keyOf(change).toString('latin1')));
  if (outside !== undefined) {
    const key = keyOf(outside).toString('latin1');
    throw new Violation(7, `${node} was sent the ${outside.kind} of ${outside.database}/${key}, which it may not see`);
  }
  const records = (of: readonly Change[]): number => {
    return of.filter((each) => each.kind !== 'clear' && shows(parts, each.database, each.key.toString('latin1')))
      .length;
  };
  if (records(changes) === records(known.changes)) return;
  throw new Violation(12, `${node} has ${records(changes)} changes of ${known.number}, not ${records(known.changes)}`);
}

function copyOf(change: Change): Change {
  if (change.kind === 'clear') return { ...change, prefix: Buffer.from(change.prefix) };
  if (change.kind === 'remove') return { ...change, key: Buffer.from(change.key) };
  return { ...change, key: Buffer.from(change.key), value: Buffer.from(change.value) };
}
