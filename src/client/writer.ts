/** Records into a server in bulk: gathered into calls of bounded size, a few of them under way at a time, in order. */
import { TokaidoError } from '../base/errors.js';
import type { BulkRecord } from './bulk.js';
import type { TokaidoClient } from './client.js';

/** Of one call. */
const CALL_RECORDS = 1000;
const CALL_BYTES = 1024 * 1024;
const CALLS_UNDER_WAY = 4;

export class BulkWriter {
  readonly #client: TokaidoClient;
  readonly #database: number;
  #sets: BulkRecord[] = [];
  #removes: Buffer[] = [];
  #bytes = 0;
  readonly #underWay: Promise<void>[] = [];
  #written = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(client: TokaidoClient, database: number) {
    this.#client = client;
    this.#database = database;
  }

  /** Records that the server has acknowledged. */
  get written(): number {
    return this.#written;
  }

  /** Errors: those of an earlier call (`READ_ONLY`, `NETWORK`, `TIMEOUT`). */
  async set(record: BulkRecord): Promise<void> {
    // A key that is set after it was removed: the order of the lines decides.
    if (this.#removes.length > 0) await this.#send();
    this.#sets.push(record);
    await this.#added(record.key.length + record.value.length);
  }

  async remove(key: Buffer): Promise<void> {
    if (this.#sets.length > 0) await this.#send();
    this.#removes.push(key);
    await this.#added(key.length);
  }

  async #added(bytes: number): Promise<void> {
    this.#bytes += bytes;
    if (this.#bytes >= CALL_BYTES || this.#sets.length + this.#removes.length >= CALL_RECORDS) await this.#send();
  }

  async #send(): Promise<void> {
    const sets = this.#sets;
    const removes = this.#removes;
    this.#sets = [];
    this.#removes = [];
    this.#bytes = 0;
    if (sets.length + removes.length > 0) this.#underWay.push(this.#call(sets, removes));
    while (this.#underWay.length >= CALLS_UNDER_WAY) await this.#underWay.shift();
    this.#check();
  }

  async #call(sets: readonly BulkRecord[], removes: readonly Buffer[]): Promise<void> {
    try {
      if (removes.length > 0) await this.#client.removeBulk(removes, this.#database);
      const records = sets.map(({ key, value, xtMs }) => [key, value, xtMs] as const);
      const stored = sets.length === 0 ? 0 : await this.#client.setBulk(records, this.#database);
      if (stored !== sets.length)
        throw new TokaidoError('MALFORMED', `the server stored ${stored} of ${sets.length} records`);
      this.#written += sets.length + removes.length;
    } catch (error) {
      this.#failure ??= { error };
    }
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  /** Resolves when the server has acknowledged everything. Errors: as `set`. */
  async end(): Promise<void> {
    await this.#send();
    await Promise.all(this.#underWay.splice(0));
    this.#check();
  }
}
