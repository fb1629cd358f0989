/**
 * A root joins its data with another root's snapshot when neither log reaches back to the other any more.
 *
 * What a key holds is decided by the change with the highest stamp of all that a position covers, whatever came in which
 * order. So of two stores that each show that change, the higher one decides for both together. A store shows it as a
 * record, as a tombstone, or as the mark of a clear; or it has forgotten it, if it was a removal. A forgotten one that the
 * other store does not know would be missed, and what it removed come back: who would merge compares first what each has
 * forgotten with what the other knows (`forgotten.ts`), and refuses. Roots therefore remember removals until the others
 * have seen them (`settling.ts`). One that both know needs no trace: neither has anything below it. The whole argument:
 * docs/decisions/several-roots.md.
 *
 * Keys are walked in order, both sides at once, so a merge takes no more memory than a copy. The log goes along, as far as
 * it reaches and the snapshot does not cover it: the other root, which may merge at the same time, finds there what it
 * lacks. Nobody reads the new store before all is done.
 */
import { afterKey } from '../base/bytes.js';
import { assert } from '../base/errors.js';
import { type LocalNumber, localNumber, type OriginPosition, type Position } from '../base/types.js';
import type { MapId, Snapshot } from '../engine/engine.js';
import { isBeyond, originOf } from '../log/position.js';
import { transactionSpans } from '../log/transaction.js';
import type { Draft } from './draft.js';
import { isNext } from './numbering.js';
import { horizonOf } from './proof.js';
import { encodeStamp, StoredRecord } from './record.js';
import { decodeState, EMPTY_STATE, type StoreState } from './state.js';
import { type LocalStore, STATE_KEY } from './store.js';

/** What a merge did with records. */
export interface Merged {
  /** Only here, or newer here. */
  readonly kept: number;
  /** Only there, or newer there. */
  readonly taken: number;
  /** Here, and removed there. */
  readonly dropped: number;
  /** There, and removed here. */
  readonly leftOut: number;
}

/** Rows read, looked at and changed in one go. */
const SLICE_ROWS = 500;
/** Bytes of records placed, and of log, in one commit, about. */
const COMMIT_BYTES = 256 * 1024;
/** Of a record: flags and stamp. */
const HEAD_BYTES = 11;

/** Further of the two, origin by origin. */
function joined(a: Position, b: Position): Position {
  const further = (origin: OriginPosition, other: Position): OriginPosition => {
    const has = originOf(other, origin.sid);
    return has !== undefined && isBeyond(has, origin) ? has : origin;
  };
  const onlyB = b.filter(({ sid }) => originOf(a, sid) === undefined);
  return [...a.map((origin) => further(origin, b)), ...onlyB].sort((x, y) => x.sid - y.sid);
}

/** A key, and the beginning of its record. */
interface Row {
  readonly key: Buffer;
  readonly record: StoredRecord;
}

/** The rows of one map, in order, read some at a time. */
class Rows {
  readonly #snapshot: Snapshot;
  readonly #map: MapId | undefined;
  #rows: Row[] = [];
  #at = 0;
  #isDone = false;

  /** Without a map there are none. */
  constructor(snapshot: Snapshot, map: MapId | undefined) {
    this.#snapshot = snapshot;
    this.#map = map;
  }

  get first(): Row | undefined {
    if (this.#at >= this.#rows.length && !this.#isDone) this.#read();
    return this.#rows[this.#at];
  }

  shift(): void {
    this.#at++;
  }

  #read(): void {
    const last = this.#rows.at(-1)?.key;
    this.#rows = [];
    this.#at = 0;
    const range = { ...(last === undefined ? {} : { start: afterKey(last) }), limit: SLICE_ROWS };
    for (const { key, value } of this.#map === undefined ? [] : this.#snapshot.range(this.#map, range)) {
      // Copies: the rows of an engine are valid until the next one.
      const head = Buffer.from(value.subarray(0, HEAD_BYTES));
      this.#rows.push({ key: Buffer.from(key), record: new StoredRecord(head) });
    }
    this.#isDone = this.#rows.length < SLICE_ROWS;
  }

  /** All of a record. */
  raw(key: Buffer): Buffer {
    const raw = this.#snapshot.get(this.#map as MapId, key);
    assert(raw !== undefined, 'a snapshot does not lose a row');
    return Buffer.from(raw);
  }
}

/** What a key is to hold: what is here, what is there, or nothing. */
type Winner = 'here' | 'there' | 'nothing';

/** Both sides of one key. `isKeptOut`: a clear that either knows stands above that record. */
export function winnerOf(
  here: StoredRecord | undefined,
  there: StoredRecord | undefined,
  isKeptOut: (record: StoredRecord) => boolean,
): Winner {
  const winner = higherOf(here, there);
  const record = winner === 'here' ? here : there;
  return record === undefined || isKeptOut(record) ? 'nothing' : winner;
}

function higherOf(here: StoredRecord | undefined, there: StoredRecord | undefined): 'here' | 'there' {
  if (here === undefined) return 'there';
  if (there === undefined) return 'here';
  // Of one transaction: what has expired on one side is about to on the other.
  if (here.stamp.equals(there.stamp)) return here.isTombstone && !there.isTombstone ? 'here' : 'there';
  return here.isNewerThan(there.stamp) ? 'here' : 'there';
}

/**
 * Brings into `to`, which is as another root's snapshot left it, what `from` has up to now. `from` goes on taking writes;
 * its log must be held meanwhile, and what it logs from now on is for `CarryOver`.
 */
export async function merge(from: LocalStore, to: LocalStore): Promise<Merged> {
  const view = from.engine.snapshot();
  try {
    const row = view.get(from.engine.openMap('meta'), STATE_KEY);
    const state = row === undefined ? EMPTY_STATE : decodeState(Buffer.from(row));
    return await new Merge(from, to, view, state).run();
  } finally {
    view.close();
  }
}

class Merge {
  readonly #from: LocalStore;
  readonly #to: LocalStore;
  readonly #view: Snapshot;
  readonly #state: StoreState;
  /** Where the snapshot stood. */
  readonly #there: Position;
  readonly #counts = { kept: 0, taken: 0, dropped: 0, leftOut: 0 };

  constructor(from: LocalStore, to: LocalStore, view: Snapshot, state: StoreState) {
    this.#from = from;
    this.#to = to;
    this.#view = view;
    this.#state = state;
    this.#there = to.position();
  }

  async run(): Promise<Merged> {
    const names = this.#state.databases.map(({ name }) => name);
    const first = this.#from.log.first;
    await this.#to.prepare(names, (draft) => this.#begin(draft, first));
    await this.#bringLog(first);
    // Tombstones and marks live as long as the log: from here on they count as logged at its end.
    await this.#to.prepare([], (draft) => this.#bringClears(draft));
    await this.#workOff();
    const all = new Set([...names, ...this.#to.known.databases.map((database) => database.name)]);
    const theirs = this.#to.engine.snapshot();
    try {
      for (const name of all) await this.#bringRecords(name, theirs);
    } finally {
      theirs.close();
    }
    return this.#counts;
  }

  /** The new store's log begins where the one here does, with everything that the snapshot covers before it. */
  #begin(draft: Draft, first: LocalNumber): void {
    const { log } = this.#from;
    const { position, next, lastVersionNs, feeds, forgotten } = this.#state;
    const start = first < next ? log.batchAt(first)?.before : position;
    assert(start !== undefined, 'the log is held');
    draft.adopt({ position: joined(this.#there, start), lastVersionNs, feeds, forgotten });
  }

  #bringClears(draft: Draft): void {
    const { clears, databases } = this.#state;
    for (const clear of clears) {
      const name = databases.find(({ id }) => id === clear.databaseId)?.name as string;
      draft.adoptClear({ ...clear, databaseId: this.#to.mapsOf(name).id });
    }
  }

  async #bringLog(first: LocalNumber): Promise<void> {
    const { log } = this.#from;
    for (let at = first; at < this.#state.next; ) {
      const batches = log.read(at, COMMIT_BYTES).filter((batch) => batch.first < this.#state.next);
      await this.#to.prepare([], (draft) => {
        for (const { payload } of batches) {
          for (const { header, start, end } of transactionSpans(payload)) {
            if (isNext(draft.lastOf(header.sid), header)) draft.relog(header, payload.subarray(start, end));
          }
        }
      });
      const last = batches.at(-1);
      assert(last !== undefined, 'the log is held');
      at = localNumber(last.first + last.count);
    }
  }

  /** What has expired here has gone: it does not count there any more either. */
  async #workOff(): Promise<void> {
    const { databases, horizons } = this.#state;
    const upToMs = Math.max(0, ...databases.map(({ id, storage }) => horizonOf(horizons[storage], id).xtMs));
    const collect = (draft: Draft): number => draft.collectExpired(SLICE_ROWS, upToMs);
    while ((await this.#to.prepare([], collect)) >= SLICE_ROWS);
    await this.#to.prepare([], (draft) => draft.workedOff(upToMs));
  }

  async #bringRecords(name: string, theirs: Snapshot): Promise<void> {
    const known = this.#state.databases.some((database) => database.name === name);
    const here = new Rows(this.#view, known ? this.#from.mapsOf(name).records : undefined);
    const maps = this.#to.mapsOf(name);
    const there = new Rows(theirs, maps.records);
    const cleared = this.#to.known.clears.filter(({ databaseId }) => databaseId === maps.id);
    const marks = cleared.map(({ prefix, versionNs, sid }) => ({ prefix, stamp: encodeStamp(versionNs, sid) }));
    while (here.first !== undefined || there.first !== undefined) {
      const placed: { readonly key: Buffer; readonly raw: Buffer | undefined }[] = [];
      let bytes = 0;
      for (let looked = 0; looked < SLICE_ROWS && bytes < COMMIT_BYTES; looked++) {
        const key = lower(here.first?.key, there.first?.key);
        if (key === undefined) break;
        const [ours, other] = [recordAt(here, key), recordAt(there, key)];
        const isKeptOut = (record: StoredRecord): boolean => {
          return marks.some(({ prefix, stamp }) => {
            return key.subarray(0, prefix.length).equals(prefix) && stamp.compare(record.stamp) > 0;
          });
        };
        const winner = winnerOf(ours, other, isKeptOut);
        this.#count(ours, other, winner);
        if (winner === 'here') placed.push({ key, raw: here.raw(key) });
        else if (winner === 'nothing' && other !== undefined) placed.push({ key, raw: undefined });
        bytes += placed.at(-1)?.raw?.length ?? 0;
      }
      await this.#to.prepare([], (draft) => {
        for (const { key, raw } of placed) draft.place(name, key, raw);
      });
    }
  }

  #count(here: StoredRecord | undefined, there: StoredRecord | undefined, winner: Winner): void {
    const [ours, theirs] = [here?.isTombstone === false, there?.isTombstone === false];
    const isSame = here !== undefined && there !== undefined && here.stamp.equals(there.stamp);
    if (isSame) return;
    if (winner === 'here' && ours) this.#counts.kept++;
    if (winner === 'there' && theirs) this.#counts.taken++;
    if (ours && (winner === 'nothing' || (winner === 'there' && !theirs))) this.#counts.dropped++;
    if (theirs && (winner === 'nothing' || (winner === 'here' && !ours))) this.#counts.leftOut++;
  }
}

function lower(a: Buffer | undefined, b: Buffer | undefined): Buffer | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  return a.compare(b) <= 0 ? a : b;
}

/** The record that lies under this key, which is not above the first one; goes on behind it. */
function recordAt(rows: Rows, key: Buffer): StoredRecord | undefined {
  const { first } = rows;
  if (first?.key.equals(key) !== true) return undefined;
  rows.shift();
  return first.record;
}
