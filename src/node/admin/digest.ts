/**
 * Digests of a database for `tokaido verify`: hashes of ranges of keys, and what distinguishes each record of a range,
 * without values. Each request reads the database at one moment, in slices, one request at a time.
 */
import { z } from 'zod';
import { TokaidoError } from '../../base/errors.js';
import type { Runtime } from '../../base/runtime.js';
import { ALL_KEYS, DatabaseAudit, type RangeHash } from '../../store/audit.js';
import type { KeyRange } from '../../store/repair.js';
import { isReserved } from '../../store/reserved.js';
import { addHash, hashText, NOTHING } from '../../store/set-hash.js';
import type { LocalStore } from '../../store/store.js';

/** Most bytes of a request. */
export const MAX_DIGEST_BYTES = 4 * 1024 * 1024;
/** Rows that are read in one go. */
const SLICE_ROWS = 2048;

/** `parts`: ranges cut into parts of `SLICE_ROWS` rows; `ranges`: each as a whole; `records`: one by one. */
const schema = z.strictObject({
  database: z.string(),
  by: z.enum(['parts', 'ranges', 'records']),
  /** Records that expire at this moment or before are left out. */
  cutoffMs: z.number().int().nonnegative(),
  /** Start and end as hexadecimal digits; all keys when absent. */
  ranges: z
    .array(z.tuple([z.string(), z.string().nullable()]))
    .max(4096)
    .optional(),
});

export type DigestRequest = z.output<typeof schema>;

/** Errors: `CONFIG`. */
export function parseDigestRequest(body: Buffer): DigestRequest {
  try {
    return schema.parse(JSON.parse(body.toString('utf8')));
  } catch (error) {
    throw new TokaidoError('CONFIG', 'not a request for a digest', { cause: error });
  }
}

export class Digests {
  readonly #store: () => LocalStore | undefined;
  readonly #runtime: Runtime;
  #isBusy = false;

  constructor(store: () => LocalStore | undefined, runtime: Runtime) {
    this.#store = store;
    this.#runtime = runtime;
  }

  /** First the position, then what was asked for. Errors: `NOT_READY`, `NO_DATABASE`. */
  async *digest(request: DigestRequest): AsyncGenerator<object> {
    const store = this.#store();
    if (store === undefined) throw new TokaidoError('NOT_READY', 'this node has no data yet');
    if (this.#isBusy) throw new TokaidoError('NOT_READY', 'another digest is being made: try again later');
    if (isReserved(request.database)) throw new TokaidoError('NO_DATABASE', "that database is the cluster's own");
    const audit = new DatabaseAudit(store.engine, request.database);
    this.#isBusy = true;
    try {
      yield {
        position: audit.position.map(({ versionNs, ...origin }) => ({ ...origin, versionNs: String(versionNs) })),
      };
      const ranges = request.ranges?.map(([start, end]) => ({
        start: hex(start),
        end: end === null ? undefined : hex(end),
      }));
      for (const range of ranges ?? [ALL_KEYS]) {
        if (request.by === 'records') yield* this.#records(audit, range, request);
        else if (request.by === 'parts') yield* this.#parts(audit, range, request);
        else yield await this.#whole(audit, range, request);
      }
    } finally {
      this.#isBusy = false;
      audit.close();
    }
  }

  async *#parts(audit: DatabaseAudit, range: KeyRange, { cutoffMs }: DigestRequest): AsyncGenerator<object> {
    for (let from = range; ; ) {
      const part = audit.hash(from, cutoffMs, SLICE_ROWS);
      yield line(part);
      await this.#nextTurn();
      if (part.end === range.end) return;
      from = { start: part.end as Buffer, end: range.end };
    }
  }

  async #whole(audit: DatabaseAudit, range: KeyRange, { cutoffMs }: DigestRequest): Promise<object> {
    const hash = Int32Array.from(NOTHING);
    let count = 0;
    for (let from = range; ; ) {
      const part = audit.hash(from, cutoffMs, SLICE_ROWS);
      addHash(hash, part.hash, 1);
      count += part.count;
      await this.#nextTurn();
      if (part.end === range.end) return line({ ...range, count, hash });
      from = { start: part.end as Buffer, end: range.end };
    }
  }

  async *#records(audit: DatabaseAudit, range: KeyRange, { cutoffMs }: DigestRequest): AsyncGenerator<object> {
    for (let from = range; from.end === undefined || from.start.compare(from.end) < 0; ) {
      const lines: object[] = [];
      from = audit.each(from, SLICE_ROWS, (key, { xtMs, sid, versionNs }, hash) => {
        if (xtMs !== 0 && xtMs <= cutoffMs) return;
        lines.push({ key: key.toString('hex'), sid, versionNs: String(versionNs), xtMs, hash: hashText(hash) });
      });
      yield* lines;
      await this.#nextTurn();
    }
  }

  async #nextTurn(): Promise<void> {
    await new Promise<void>((resolve) => this.#runtime.after(0, resolve));
  }
}

function hex(text: string): Buffer {
  return Buffer.from(text, 'hex');
}

function line({ start, end, count, hash }: RangeHash): object {
  return { start: start.toString('hex'), end: end?.toString('hex') ?? null, count, hash: hashText(hash) };
}
