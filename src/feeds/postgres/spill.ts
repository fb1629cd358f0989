/**
 * Transactions that Postgres streams before they commit, kept on the disk until it says what becomes of them: a large one
 * costs disk here and no memory. One file each, gone with the transaction; whatever a run left behind is removed by the
 * next.
 *
 * A file holds messages in the order of the WAL, each behind its length. A subtransaction that is rolled back was the
 * last one that wrote, together with those inside it: cutting the file where it began removes it and them.
 *
 * Appending never waits: bytes are written behind, and `unwrittenBytes` says how much is on its way, so that the owner
 * can make Postgres wait. Beyond `maxBytes` the owner is told; Postgres can keep large transactions on its own disk.
 */
import { type FileHandle, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf, TokaidoError } from '../../base/errors.js';

export interface SpillOptions {
  readonly folder: string;
  /** Bytes of all transactions together. */
  readonly maxBytes: number;
  /** More, or less, is on its way to the disk. */
  readonly onWritten: () => void;
  /** The disk refused. */
  readonly onFail: (error: unknown) => void;
}

/** There is no room for what Postgres streams: it has to keep large transactions itself. */
export class SpillFull extends TokaidoError {
  constructor(reason: string) {
    super('FEED', `no room for a large transaction: ${reason}`);
  }
}

/** Bytes gathered for one write, and read at a time. */
const CHUNK_BYTES = 256 * 1024;
const LENGTH_BYTES = 4;

/** A file that is written behind and can be cut. */
class SpillFile {
  readonly path: string;
  readonly #options: SpillOptions;
  readonly #handle: Promise<FileHandle>;
  #gathered: Buffer[] = [];
  #gatheredBytes = 0;
  /** Where what is gathered will stand. */
  #at = 0;
  #unwritten = 0;
  #writing: Promise<void> = Promise.resolve();
  #removed = false;

  constructor(path: string, options: SpillOptions) {
    this.path = path;
    this.#options = options;
    this.#handle = mkdir(options.folder, { recursive: true, mode: 0o700 }).then(() => open(path, 'w+', 0o600));
    this.#handle.catch(options.onFail);
  }

  get bytes(): number {
    return this.#at + this.#gatheredBytes;
  }

  get unwritten(): number {
    return this.#unwritten;
  }

  append(message: Buffer): void {
    const length = Buffer.allocUnsafe(LENGTH_BYTES);
    length.writeUInt32BE(message.length);
    this.#gathered.push(length, message);
    this.#gatheredBytes += LENGTH_BYTES + message.length;
    if (this.#gatheredBytes >= CHUNK_BYTES) this.#flush();
  }

  #flush(): void {
    const bytes = Buffer.concat(this.#gathered, this.#gatheredBytes);
    const at = this.#at;
    this.#gathered = [];
    this.#gatheredBytes = 0;
    this.#at += bytes.length;
    this.#unwritten += bytes.length;
    this.#writing = this.#writing.then(async () => {
      try {
        if (!this.#removed) await (await this.#handle).write(bytes, 0, bytes.length, at);
      } catch (error) {
        this.#options.onFail(error);
      }
      this.#unwritten -= bytes.length;
      this.#options.onWritten();
    });
  }

  /** Forgets everything from there on. */
  cut(bytes: number): void {
    if (bytes >= this.bytes) return;
    if (bytes >= this.#at) {
      const rest = Buffer.concat(this.#gathered, this.#gatheredBytes).subarray(0, bytes - this.#at);
      this.#gathered = [rest];
      this.#gatheredBytes = rest.length;
      return;
    }
    this.#gathered = [];
    this.#gatheredBytes = 0;
    this.#at = bytes;
  }

  /** All messages, some at a time; views valid until the next. */
  async *read(): AsyncGenerator<Buffer[]> {
    if (this.#gatheredBytes > 0) this.#flush();
    await this.#writing;
    const handle = await this.#handle;
    let buffer = Buffer.allocUnsafe(2 * CHUNK_BYTES);
    let held = 0;
    for (let at = 0; at < this.#at; ) {
      const wanted = Math.min(buffer.length - held, this.#at - at);
      const { bytesRead } = await handle.read(buffer, held, wanted, at);
      if (bytesRead === 0) throw new TokaidoError('CORRUPT', `${this.path} is shorter than what was written to it`);
      at += bytesRead;
      held += bytesRead;
      const messages: Buffer[] = [];
      let from = 0;
      for (; from + LENGTH_BYTES <= held; ) {
        const end = from + LENGTH_BYTES + buffer.readUInt32BE(from);
        if (end > held) break;
        messages.push(buffer.subarray(from + LENGTH_BYTES, end));
        from = end;
      }
      if (messages.length > 0) yield messages;
      // What is left is the beginning of a message, perhaps of one that is larger than the buffer.
      const needed = held - from < LENGTH_BYTES ? 0 : LENGTH_BYTES + buffer.readUInt32BE(from);
      const next = Buffer.allocUnsafe(Math.max(2 * CHUNK_BYTES, needed));
      buffer.copy(next, 0, from, held);
      held -= from;
      buffer = next;
    }
  }

  async remove(): Promise<void> {
    this.#removed = true;
    await this.#writing;
    try {
      await (await this.#handle).close();
    } catch {
      // It could not be opened: there is nothing to close.
    }
    await rm(this.path, { force: true });
  }
}

/** One transaction under way. */
interface Streamed {
  readonly file: SpillFile;
  /** Where each subtransaction began, in the order of their beginnings; and its place in that order. */
  readonly begun: { readonly xid: number; readonly at: number }[];
  readonly places: Map<number, number>;
}

export class Spill {
  readonly #options: SpillOptions;
  readonly #transactions = new Map<number, Streamed>();
  #files = 0;
  #closing: Promise<unknown> = Promise.resolve();

  constructor(options: SpillOptions) {
    this.#options = options;
  }

  /** Removes what an earlier run left. Errors: `FEED`. */
  static async clean(folder: string): Promise<void> {
    try {
      await rm(folder, { recursive: true, force: true });
    } catch (error) {
      throw new TokaidoError('FEED', `cannot empty ${folder}: ${messageOf(error)}`, { cause: error });
    }
  }

  /** Transactions that are kept, and what they take on the disk. */
  get transactions(): number {
    return this.#transactions.size;
  }

  get bytes(): number {
    let bytes = 0;
    for (const { file } of this.#transactions.values()) bytes += file.bytes;
    return bytes;
  }

  get unwrittenBytes(): number {
    let bytes = 0;
    for (const { file } of this.#transactions.values()) bytes += file.unwritten;
    return bytes;
  }

  /** Keeps a message (its bytes, too: do not reuse them) of transaction `xid`, written by it or its subtransaction `subXid`. Errors: `SpillFull`. */
  append(xid: number, subXid: number, message: Buffer): void {
    const streamed = this.#transactions.get(xid) ?? this.#begin(xid);
    if (!streamed.places.has(subXid)) {
      streamed.places.set(subXid, streamed.begun.length);
      streamed.begun.push({ xid: subXid, at: streamed.file.bytes });
    }
    streamed.file.append(message);
    const { maxBytes } = this.#options;
    if (streamed.file.bytes > maxBytes || (this.#transactions.size > 1 && this.bytes > maxBytes))
      throw new SpillFull(`more than ${maxBytes} bytes (postgres.maxSpillBytes)`);
  }

  #begin(xid: number): Streamed {
    const path = join(this.#options.folder, `${xid}-${++this.#files}`);
    const streamed = { file: new SpillFile(path, this.#options), begun: [], places: new Map() };
    this.#transactions.set(xid, streamed);
    return streamed;
  }

  /** A subtransaction was rolled back. */
  rollBack(xid: number, subXid: number): void {
    const streamed = this.#transactions.get(xid);
    const place = streamed?.places.get(subXid);
    if (streamed === undefined || place === undefined) return;
    const undone = streamed.begun.splice(place);
    for (const { xid: undoneXid } of undone) streamed.places.delete(undoneXid);
    streamed.file.cut(undone[0]?.at ?? 0);
  }

  /** All messages of a transaction, in order. */
  async *read(xid: number): AsyncGenerator<Buffer[]> {
    const streamed = this.#transactions.get(xid);
    if (streamed !== undefined) yield* streamed.file.read();
  }

  /** It was rolled back, or read. */
  forget(xid: number): void {
    const streamed = this.#transactions.get(xid);
    if (streamed === undefined) return;
    this.#transactions.delete(xid);
    const removed = streamed.file.remove().catch(this.#options.onFail);
    this.#closing = Promise.all([this.#closing, removed]);
  }

  /** Forgets everything; resolves when nothing is left on the disk. */
  async close(): Promise<void> {
    for (const xid of [...this.#transactions.keys()]) this.forget(xid);
    await this.#closing;
  }
}
