/**
 * Cursors: a place in a database, kept as the key it stands on. The record under a cursor is looked up when it is asked
 * for; when it has gone, the cursor stands on the next one in the direction it came by, so no removal can strand it.
 * A cursor that ran off an end stands nowhere until it jumps.
 */
import { afterKey } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import { PROTO_TREE } from '../store/database-spec.js';
import type { Database, Range, RecordView } from '../store/types.js';
import type { Commands, Decision, Next } from './commands.js';
import type { RecordCopy } from './conditions.js';
import type { Slices } from './slices.js';

/** Rows looked at by one step of a search, dead ones included. */
const STEP_ROWS = 1000;
/** How often a change is tried on the next record because the one found had gone meanwhile. */
const MAX_TRIES = 16;

export interface Entry extends RecordCopy {
  readonly key: Buffer;
}

/** What a cursor works with. */
export interface CursorHost {
  readonly commands: Commands;
  readonly slices: Slices;
  /** Whether somebody still waits for the result. */
  readonly isWanted: () => boolean;
}

interface Place {
  readonly key: Buffer;
  /** Came by walking backwards: the next record is the one before it, after a removal and for `step` of a call. */
  readonly back: boolean;
}

function noRecord(): TokaidoError {
  return new TokaidoError('NO_RECORD', 'no record');
}

/** All operations reject with `NO_RECORD` when there is nothing to stand on. */
export class Cursor {
  readonly database: Database;
  readonly #host: CursorHost;
  #place: Place | undefined;

  constructor(database: Database, host: CursorHost) {
    this.database = database;
    this.#host = host;
  }

  /** To the first record, or to the first at or after `key` (exactly at `key` where the order means nothing). */
  async jump(key: Buffer | undefined): Promise<void> {
    if (key !== undefined) this.#host.commands.checkKey(key);
    const found = await this.#first(key === undefined ? {} : { start: key });
    const misses = key !== undefined && !this.database.spec.ordered && found?.key.equals(key) !== true;
    this.#stand(misses ? undefined : found, false);
  }

  /** To the last record, or to the last at or before `key`. Errors: `NOT_IMPLEMENTED` where the order means nothing. */
  async jumpBack(key: Buffer | undefined): Promise<void> {
    this.#checkOrdered();
    if (key !== undefined) this.#host.commands.checkKey(key);
    this.#stand(await this.#first({ ...(key === undefined ? {} : { end: afterKey(key) }), reverse: true }), true);
  }

  async step(): Promise<void> {
    const { key } = await this.#current();
    await this.#stepFrom(key);
    if (this.#place === undefined) throw noRecord();
  }

  /** Errors: `NOT_IMPLEMENTED` where the order means nothing. */
  async stepBack(): Promise<void> {
    this.#checkOrdered();
    const { key } = await this.#current();
    this.#stand(await this.#first({ end: key, reverse: true }), true);
  }

  /** The record under the cursor; with `step` it moves on in the direction it came by, off the end if need be. */
  async get(step: boolean): Promise<Entry> {
    const entry = await this.#current();
    if (step) await this.#moveOn(entry.key);
    return entry;
  }

  async setValue(record: RecordCopy, step: boolean): Promise<void> {
    const { key } = await this.#change(() => record);
    if (step) await this.#moveOn(key);
  }

  /** Removes the record under the cursor and returns it; the cursor stands on the one after it, or before. */
  async seize(): Promise<Entry> {
    const removed = await this.#change(() => 'remove');
    await this.#moveOn(removed.key);
    return removed;
  }

  #checkOrdered(): void {
    if (this.database.spec.ordered) return;
    throw new TokaidoError('NOT_IMPLEMENTED', 'DB: 1: not implemented: not implemented');
  }

  #standing(): Place {
    if (this.#place === undefined) throw noRecord();
    return this.#place;
  }

  #stand(found: Entry | undefined, back: boolean): void {
    if (found === undefined) {
      this.#place = undefined;
      throw noRecord();
    }
    // A map's own cursor knows no direction.
    this.#place = { key: found.key, back: back && this.database.spec.typeCode !== PROTO_TREE };
  }

  /** To the record after this one, in the direction the cursor came by. */
  async #moveOn(key: Buffer): Promise<void> {
    const { back } = this.#standing();
    if (!back) return await this.#stepFrom(key);
    const found = await this.#first({ end: key, reverse: true });
    this.#place = found === undefined ? undefined : { key: found.key, back };
  }

  async #stepFrom(key: Buffer): Promise<void> {
    const found = await this.#first({ start: afterKey(key) });
    this.#place = found === undefined ? undefined : { key: found.key, back: false };
  }

  async #current(): Promise<Entry> {
    const { key, back } = this.#standing();
    const found = await this.#first(back ? { end: afterKey(key), reverse: true } : { start: key });
    if (found === undefined) this.#place = undefined;
    else this.#place = { key: found.key, back };
    if (found === undefined) throw noRecord();
    return found;
  }

  /** Changes the record under the cursor, atomically; returns what it was. */
  async #change(next: () => Next): Promise<Entry> {
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const { key } = await this.#current();
      const ref = { database: this.database, key };
      const before = await this.#host.commands.update(ref, (record): Decision<RecordCopy | undefined> => {
        if (record === undefined) return { next: 'keep', result: undefined };
        return { next: next(), result: { value: Buffer.from(record.value), xtMs: record.xtMs } };
      });
      if (before !== undefined) return { key, ...before };
    }
    throw new TokaidoError('OVERLOADED', `records under the cursor went away ${MAX_TRIES} times in a row`);
  }

  /** A copy of the first live record of a range. */
  async #first(range: Range): Promise<Entry | undefined> {
    const { commands, slices } = this.#host;
    let rest: Range = range;
    const { found } = await slices.run<{ readonly found: Entry | undefined }>(() => {
      let entry: Entry | undefined;
      const last = commands.visit(this.database, { ...rest, limit: STEP_ROWS }, (key, record) => {
        entry = copyOf(key, record);
        return false;
      });
      if (entry !== undefined || last === undefined) return { found: entry };
      rest = range.reverse === true ? { ...range, end: last } : { ...range, start: afterKey(last) };
      return undefined;
    }, this.#host.isWanted);
    return found;
  }
}

function copyOf(key: Buffer, record: RecordView): Entry {
  return { key: Buffer.from(key), value: Buffer.from(record.value), xtMs: record.xtMs };
}
