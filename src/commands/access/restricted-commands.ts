/**
 * `Commands` for a client that may not do everything. This is the one place where a policy is enforced, whatever protocol
 * the client speaks: everything that reaches the store goes through here, each key of a bulk call too, and a refused key
 * refuses the call before anything of it is done.
 *
 * Searches and cursors see the keys that may be read and no others. Where an operation looks at a record before it
 * changes it (append, increment, compare and swap, seize, touch), it takes both permissions. Whether a record exists can
 * be learned by `write` alone (add, replace, remove).
 */
import { TokaidoError } from '../../base/errors.js';
import type { VersionNs } from '../../base/types.js';
import type { Database, Range, RecordView } from '../../store/types.js';
import { type BulkOptions, Commands, type Decision, type KeyRef, type RecordWrite, type SetMode } from '../commands.js';
import type { Access } from './policy.js';

export class RestrictedCommands extends Commands {
  readonly #accessNow: () => Access;
  readonly #refused: (what: string) => void;

  /** `access` is asked for each call: a policy may change meanwhile. `refused` is told of every refusal. */
  constructor(whole: Commands, access: () => Access, refused: (what: string) => void = () => undefined) {
    super(whole.options, whole.counts);
    this.#accessNow = access;
    this.#refused = refused;
  }

  get #access(): Access {
    return this.#accessNow();
  }

  /** Says nothing of what is there. */
  #refuse(what: string): never {
    this.#refused(what);
    throw new TokaidoError('FORBIDDEN', `the policy of this listener does not let you ${what}`, {
      hint: 'ask for a rule in the policy of the listener in the configuration of this node',
    });
  }

  #checkRead({ database, key }: KeyRef): void {
    if (!this.#access.mayRead(database.name, key)) this.#refuse('read this key');
  }

  #checkWrite({ database, key }: KeyRef): void {
    if (!this.#access.mayWrite(database.name, key)) this.#refuse('write this key');
  }

  override checkAdmin(database?: Database): void {
    if (this.#access.mayAdminister(database?.name)) return;
    this.#refuse(database === undefined ? 'administer the server' : 'administer this database');
  }

  /** A database that the client has nothing to do with answers as one that is not there. */
  override database(nameOrIndex: string | number): Database {
    let database: Database | undefined;
    try {
      database = super.database(nameOrIndex);
    } catch (error) {
      const isUnknown = error instanceof TokaidoError && error.code === 'NO_DATABASE';
      if (!isUnknown || this.#access.knowsAll) throw error;
    }
    if (database === undefined || !this.#access.knows(database.name)) this.#refuse('use this database');
    return database;
  }

  override get(ref: KeyRef): RecordView | undefined {
    this.#checkRead(ref);
    return super.get(ref);
  }

  override async set(record: RecordWrite, mode?: SetMode): Promise<void> {
    this.#checkWrite(record);
    await super.set(record, mode);
  }

  override async setBulk(records: readonly RecordWrite[], options?: BulkOptions): Promise<number> {
    for (const record of records) this.#checkWrite(record);
    return await super.setBulk(records, options);
  }

  override async update<T>(
    ref: KeyRef,
    decide: (record: RecordView | undefined, versionNs: VersionNs) => Decision<T>,
  ): Promise<T> {
    this.#checkRead(ref);
    this.#checkWrite(ref);
    return await super.update(ref, decide);
  }

  override visit(
    database: Database,
    range: Range,
    visit: (key: Buffer, record: RecordView) => boolean,
  ): Buffer | undefined {
    const readable = this.#access.readable(database.name, range);
    if (readable === 'whole') return super.visit(database, range, visit);
    if (readable === undefined) return undefined;
    return super.visit(database, readable, (key, record) => {
      return !this.#access.mayRead(database.name, key) || visit(key, record);
    });
  }

  override count(database: Database): number {
    this.checkAdmin(database);
    return super.count(database);
  }

  override async remove(ref: KeyRef): Promise<void> {
    this.#checkWrite(ref);
    await super.remove(ref);
  }

  override async removeBulk(keys: readonly KeyRef[], options?: BulkOptions): Promise<number> {
    for (const ref of keys) this.#checkWrite(ref);
    return await super.removeBulk(keys, options);
  }

  override async clear(database: Database): Promise<void> {
    this.checkAdmin(database);
    await super.clear(database);
  }

  override async vacuum(rounds: number): Promise<void> {
    this.checkAdmin();
    await super.vacuum(rounds);
  }

  override async flush(): Promise<void> {
    this.checkAdmin();
    await super.flush();
  }
}
