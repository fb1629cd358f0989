/**
 * Images of the databases in memory: one file beside the store, replaced atomically, written in the background from a
 * snapshot while everything goes on. It only shortens what has to be replayed from the update log at start, and lets
 * the log be cut; a damaged or missing image costs the contents only when the log does not reach back either.
 *
 *   magic "TKIM", format u8, local number of the first transaction not in it (u48)
 *   blocks: stored bytes u32, CRC-32 of them u32, flags u8 (1: raw DEFLATE), then the bytes:
 *           database name (text), rows as `SnapshotSource` makes them (the rest)
 *   end:    a block of no bytes
 */
import { renameSync, rmSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32, deflateRawSync, inflateRawSync } from 'node:zlib';
import { ByteReader, ByteWriter } from '../../base/bytes.js';
import { codeOf, messageOf, TokaidoError } from '../../base/errors.js';
import { type LocalNumber, localNumber } from '../../base/types.js';
import { flushFolder } from '../../disk/files.js';
import type { MemoryImage } from '../../store/restore.js';
import { SnapshotSource } from '../../store/snapshot.js';
import type { LocalStore } from '../../store/store.js';

const MAGIC = 'TKIM';
const FORMAT = 1;
const HEAD_BYTES = 11;
const BLOCK_HEAD_BYTES = 9;
const FLAG_DEFLATED = 1;
/** Rows per block: what holds the event loop at a time. */
const BLOCK_BYTES = 128 * 1024;
/** A block may be larger by its last record. */
const MAX_BLOCK_BYTES = 128 * 1024 * 1024;

export function imagePath(storeFolder: string): string {
  return join(storeFolder, 'memory.image');
}

function encodeBlock(content: Buffer, compress: boolean): Buffer {
  const stored = compress ? deflateRawSync(content) : content;
  const head = new ByteWriter(BLOCK_HEAD_BYTES);
  head.u32(stored.length).u32(crc32(stored));
  head.u8(compress ? FLAG_DEFLATED : 0);
  return Buffer.concat([head.take(), stored]);
}

/** Saves what is in memory now; returns the number of bytes written. Errors: `STORAGE`; the old image stays then. */
export async function saveImage(store: LocalStore, storeFolder: string, compress: boolean): Promise<number> {
  const path = imagePath(storeFolder);
  const temporary = `${path}.new`;
  const source = new SnapshotSource(store.engine, ({ storage }) => storage === 'memory');
  let file: FileHandle | undefined;
  let bytes = 0;
  try {
    file = await open(temporary, 'w', 0o600);
    const write = async (data: Buffer): Promise<void> => {
      await file?.appendFile(data);
      bytes += data.length;
    };
    await write(new ByteWriter(HEAD_BYTES).bytes(Buffer.from(MAGIC)).u8(FORMAT).u48(source.nextNumber).take());
    for (let slice = source.next(BLOCK_BYTES); slice !== undefined; slice = source.next(BLOCK_BYTES)) {
      const { name } = source.contents.databases[slice.database] as { name: string };
      const content = new ByteWriter(slice.rows.length + 64).text(name).bytes(slice.rows).take();
      await write(encodeBlock(content, compress));
    }
    await write(encodeBlock(Buffer.alloc(0), false));
    await file.sync();
    await file.close();
    file = undefined;
    // An image that is ahead of the log after a power cut is worth nothing, and the one before it would be gone.
    if (store.engine.flushesCommits) await store.flush();
    renameSync(temporary, path);
    flushFolder(storeFolder);
    return bytes;
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new TokaidoError('STORAGE', `cannot save the databases in memory to ${path}: ${messageOf(error)}`, {
      hint: 'free space on the disk; it is tried again by itself, and the update log still has what is missing',
      cause: error,
    });
  } finally {
    source.close();
    await file?.close();
  }
}

/**
 * The saved image that fits a log ending before `logNext`, or `undefined` when there is none. One that is ahead of the
 * log holds transactions that a power cut took back: it is removed, for their numbers will mean others.
 * Errors: `CORRUPT`.
 */
export async function openImage(storeFolder: string, logNext: LocalNumber): Promise<MemoryImage | undefined> {
  const path = imagePath(storeFolder);
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw new TokaidoError('STORAGE', `cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
  try {
    const head = new ByteReader(await readExactly(file, HEAD_BYTES, path));
    const magic = head.bytes(MAGIC.length).toString('latin1');
    const format = head.u8();
    if (magic !== MAGIC || format !== FORMAT) throw damaged(path, `it begins with ${magic} ${format}`);
    const next = localNumber(head.u48());
    if (next > logNext) {
      rmSync(path, { force: true });
      return undefined;
    }
    return { next, slices: () => slices(path) };
  } finally {
    await file.close();
  }
}

async function* slices(path: string): AsyncGenerator<{ database: string; rows: Buffer }> {
  const file = await open(path, 'r');
  try {
    await readExactly(file, HEAD_BYTES, path);
    for (;;) {
      const head = new ByteReader(await readExactly(file, BLOCK_HEAD_BYTES, path));
      const bytes = head.u32();
      const checksum = head.u32();
      const flags = head.u8();
      if (bytes === 0) return;
      if (bytes > MAX_BLOCK_BYTES) throw damaged(path, `it has a block of ${bytes} bytes`);
      const stored = await readExactly(file, bytes, path);
      if (crc32(stored) !== checksum) throw damaged(path, 'a block fails its checksum');
      const deflated = (flags & FLAG_DEFLATED) !== 0;
      const content = deflated ? inflateRawSync(stored, { maxOutputLength: MAX_BLOCK_BYTES }) : stored;
      const reader = new ByteReader(content);
      yield { database: reader.text(), rows: reader.rest() };
    }
  } finally {
    await file.close();
  }
}

async function readExactly(file: FileHandle, count: number, path: string): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(count);
  let have = 0;
  while (have < count) {
    const { bytesRead } = await file.read(buffer, have, count - have);
    if (bytesRead === 0) throw damaged(path, 'it ends in the middle');
    have += bytesRead;
  }
  return buffer;
}

function damaged(path: string, how: string): TokaidoError {
  return new TokaidoError('CORRUPT', `the image of the databases in memory ${path} is damaged: ${how}`, {
    hint: 'the node goes on without it; what the update log does not have either is lost on a root and fetched on a follower',
  });
}
