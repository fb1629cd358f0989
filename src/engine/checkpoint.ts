/**
 * How a data file survives a power cut although its commits are not flushed one by one.
 *
 * LMDB never overwrites a page that its newest commit or an open reader uses; only the two pages at the start of the
 * file, which name the root of the newest commit and of the one before, are written in place. So a flush
 *
 * 1. notes commit N: its first two pages, and a reader on it that keeps all its pages as they are;
 * 2. flushes the data file, while commits go on behind N;
 * 3. writes the noted pages to this file, which lies beside it, and flushes that;
 * 4. lets go of the reader on the commit noted before.
 *
 * After a power cut the data file holds every page of N, and of what came after N anything: its first two pages are
 * put back as they were noted, and it opens at N. A process that is killed loses nothing, for the system has all of it.
 *
 * The file: a page with the boot of the machine during which the data file was last opened, then two slots that flushes
 * write in turn, so that a torn one leaves the other. docs/protocol.md has the bytes.
 */
import * as fs from 'node:fs';
import { closeSync, existsSync, fdatasyncSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { crc32 } from 'node:zlib';
import { assert, TokaidoError } from '../base/errors.js';

const fdatasync = promisify(fs.fdatasync);
const write = promisify(fs.write);

/** What names the state of a data file: its first two pages when `number` was its newest commit. */
export interface Noted {
  readonly number: number;
  readonly pages: Buffer;
}

const MAGIC = Buffer.from('TKCP');
const FORMAT = 1;
/** LMDB's own mark of the pages that name a commit. */
const LMDB_MAGIC = 0xbeefc0de;
/** From that mark: version, address and size of the map, two trees of 48 bytes, last page. */
const NUMBER_AFTER_MAGIC = 4 + 4 + 8 + 8 + 2 * 48 + 8;
const HEAD_BYTES = 4096;
const SLOT_HEAD_BYTES = 32;
const MAX_PAGE_BYTES = 65_536;
const BOOT_BYTES = 64;

/** Where LMDB's mark stands in one of the first pages, or `undefined`. */
export function markIn(page: Buffer): number | undefined {
  for (let at = 0; at <= 64; at += 4) if (page.readUInt32LE(at) === LMDB_MAGIC) return at;
  return undefined;
}

/** Number of the commit that one of the first pages names; 0 when it names none. */
function numberIn(page: Buffer): number {
  const at = markIn(page);
  return at === undefined ? 0 : Number(page.readBigUInt64LE(at + NUMBER_AFTER_MAGIC));
}

/** The newest commit that the first two pages of a data file name. */
export function newestNumber(pages: Buffer): number {
  const half = pages.length / 2;
  return Math.max(numberIn(pages.subarray(0, half)), numberIn(pages.subarray(half)));
}

export function encodeHead(bootId: string): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  MAGIC.copy(head);
  head.writeUInt8(FORMAT, 4);
  head.write(bootId, 8, BOOT_BYTES, 'latin1');
  head.writeUInt32LE(crc32(head.subarray(0, HEAD_BYTES - 4)), HEAD_BYTES - 4);
  return head;
}

/** Boot of the machine that a head names, or `undefined` when it is torn. */
export function decodeHead(head: Buffer): string | undefined {
  if (head.length !== HEAD_BYTES || !head.subarray(0, 4).equals(MAGIC)) return undefined;
  if (head.readUInt32LE(HEAD_BYTES - 4) !== crc32(head.subarray(0, HEAD_BYTES - 4))) return undefined;
  if (head[4] !== FORMAT) throw new TokaidoError('CORRUPT', `the checkpoint has unknown format ${head[4]}`);
  return head.toString('latin1', 8, 8 + BOOT_BYTES).replace(/\0+$/, '');
}

export function encodeSlot({ number, pages }: Noted): Buffer {
  const slot = Buffer.alloc(SLOT_HEAD_BYTES + pages.length);
  MAGIC.copy(slot);
  slot.writeUInt32LE(pages.length, 4);
  slot.writeBigUInt64LE(BigInt(number), 8);
  pages.copy(slot, SLOT_HEAD_BYTES);
  slot.writeUInt32LE(crc32(slot.subarray(SLOT_HEAD_BYTES), crc32(slot.subarray(0, 16))), 16);
  return slot;
}

/** What a slot notes, or `undefined` when it was never written or is torn. */
export function decodeSlot(slot: Buffer): Noted | undefined {
  if (slot.length < SLOT_HEAD_BYTES || !slot.subarray(0, 4).equals(MAGIC)) return undefined;
  const bytes = slot.readUInt32LE(4);
  if (bytes > 2 * MAX_PAGE_BYTES || slot.length < SLOT_HEAD_BYTES + bytes) return undefined;
  const pages = slot.subarray(SLOT_HEAD_BYTES, SLOT_HEAD_BYTES + bytes);
  if (slot.readUInt32LE(16) !== crc32(pages, crc32(slot.subarray(0, 16)))) return undefined;
  return { number: Number(slot.readBigUInt64LE(8)), pages };
}

function readAt(file: number, at: number, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  return buffer.subarray(0, readSync(file, buffer, 0, bytes, at));
}

/** Where slots begin; their length does not depend on the page size, so that any of them can be found. */
const slotAt = (index: number): number => HEAD_BYTES + index * (SLOT_HEAD_BYTES + 2 * MAX_PAGE_BYTES);

/** Whether the data file was opened during this boot before, and every flush of it succeeded. */
function isOfBoot(file: number, bootId: string): boolean {
  return bootId !== '' && decodeHead(readAt(file, 0, HEAD_BYTES)) === bootId;
}

/** Takes the room of both slots: a disk that is full later must not fail a flush for want of it. */
function reserve(file: number): void {
  const bytes = slotAt(2);
  writeSync(file, Buffer.alloc(bytes), 0, bytes, 0);
}

export class Checkpoint {
  readonly #data: number;
  readonly #file: number;
  readonly #pageBytes: number;
  #slot = 0;

  /**
   * Of a data file that is open already, during the boot that `begin` was told, and of which nothing was written yet.
   * `number`: its newest commit. When that was not noted (a process was killed, or the file is new or another one), it
   * is now: what is written next may lie where the commit noted before has its pages.
   */
  constructor(folder: string, pageBytes: number, number: number) {
    assert(pageBytes <= MAX_PAGE_BYTES, 'LMDB has no larger pages');
    this.#pageBytes = pageBytes;
    this.#data = openSync(join(folder, 'data.mdb'), 'r+');
    this.#file = openSync(join(folder, 'checkpoint'), 'r+');
    const noted = [0, 1].map((index) => decodeSlot(readAt(this.#file, slotAt(index), slotAt(1) - slotAt(0))));
    const [first = -1, second = -1] = noted.map((each) => each?.number);
    this.#slot = first > second ? 1 : 0;
    if (Math.max(first, second) !== number) this.#begin(number, first > number || second > number);
  }

  /** `isAnother`: what the slots note belongs to a file that was here before. */
  #begin(number: number, isAnother: boolean): void {
    fdatasyncSync(this.#data);
    const slot = encodeSlot(this.note(number));
    for (const index of isAnother ? [0, 1] : [this.#slot]) {
      writeSync(this.#file, slot, 0, slot.length, slotAt(index));
      fsyncSync(this.#file);
    }
    this.#slot = 1 - this.#slot;
  }

  /** Whether `begin` would put the data file back. */
  static goesBack(folder: string, bootId: string): boolean {
    const path = join(folder, 'checkpoint');
    if (!existsSync(path)) return false;
    const file = openSync(path, 'r');
    try {
      return !isOfBoot(file, bootId);
    } finally {
      closeSync(file);
    }
  }

  /**
   * Before the data file is opened: puts it back to its last flush when the machine went down since it was opened, or
   * may have. `bootId`: this boot of the machine; empty when nobody knows, and then every opening goes back.
   */
  static begin(folder: string, bootId: string): void {
    const path = join(folder, 'checkpoint');
    const isNew = !existsSync(path);
    const file = openSync(path, isNew ? 'w+' : 'r+', 0o600);
    try {
      if (!isNew && isOfBoot(file, bootId)) return;
      if (isNew) reserve(file);
      else Checkpoint.#putBack(folder, file);
      writeSync(file, encodeHead(bootId), 0, HEAD_BYTES, 0);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  }

  /** Number of the newest commit that was noted; 0 when none was. */
  static notedNumber(folder: string): number {
    const path = join(folder, 'checkpoint');
    if (!existsSync(path)) return 0;
    const file = openSync(path, 'r');
    try {
      return Checkpoint.#newestOf(file)?.number ?? 0;
    } finally {
      closeSync(file);
    }
  }

  static #newestOf(file: number): Noted | undefined {
    let newest: Noted | undefined;
    for (const index of [0, 1]) {
      const noted = decodeSlot(readAt(file, slotAt(index), slotAt(1) - slotAt(0)));
      if (noted !== undefined && noted.number > (newest?.number ?? -1)) newest = noted;
    }
    return newest;
  }

  static #putBack(folder: string, file: number): void {
    const path = join(folder, 'data.mdb');
    if (!existsSync(path)) return;
    const newest = Checkpoint.#newestOf(file);
    if (newest === undefined) return;
    const data = openSync(path, 'r+');
    try {
      // A file that never came as far is another one: somebody put an older copy there.
      if (newestNumber(readAt(data, 0, newest.pages.length)) < newest.number) return;
      writeSync(data, newest.pages, 0, newest.pages.length, 0);
      fdatasyncSync(data);
    } finally {
      closeSync(data);
    }
  }

  /** The data file as it is now, between two commits. `number`: its newest commit. */
  note(number: number): Noted {
    const pages = readAt(this.#data, 0, 2 * this.#pageBytes);
    assert(newestNumber(pages) === number, 'the first pages of the data file name its newest commit');
    return { number, pages };
  }

  /** Resolves when a power cut would leave what was noted, or more. Callers do not overlap calls. */
  async flush(noted: Noted): Promise<void> {
    await fdatasync(this.#data);
    const slot = encodeSlot(noted);
    await write(this.#file, slot, 0, slot.length, slotAt(this.#slot));
    await fdatasync(this.#file);
    this.#slot = 1 - this.#slot;
  }

  /** A flush failed: the next opening goes back to what was noted last, whatever the system still shows of the rest. */
  distrust(): void {
    try {
      writeSync(this.#file, encodeHead(''), 0, HEAD_BYTES, 0);
      fsyncSync(this.#file);
    } catch {
      // The disk refuses this too: then it refuses everything, and a reboot goes back all the same.
    }
  }

  close(): void {
    closeSync(this.#data);
    closeSync(this.#file);
  }
}
