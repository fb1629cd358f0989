/**
 * Text files as databases (`.kcx` and its kin), read as Kyoto Cabinet's text database reads them: each line is a record
 * whose value is the line and whose key is the line's byte offset in 16 upper-case hex digits. A root loads the file at
 * start and makes the database equal to it; from there on it is a database like any other, and replicated.
 */
import { open } from 'node:fs/promises';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { DatabaseSpec } from '../../store/database-spec.js';
import type { LocalStore } from '../../store/store.js';
import type { NodeConfig } from '../config/schema.js';

interface Line {
  readonly key: Buffer;
  readonly value: Buffer;
}

/** Bytes of lines that go into one transaction. */
const BATCH_BYTES = 256 * 1024;
const READ_BYTES = 64 * 1024;
const NEWLINE = 0x0a;

function keyOf(offset: number): Buffer {
  return Buffer.from(offset.toString(16).toUpperCase().padStart(16, '0'));
}

/** The lines of a file, in batches. A line without its newline at the end counts. Errors: `TOO_LARGE`. */
async function* batches(path: string, maxLineBytes: number): AsyncGenerator<Line[]> {
  const file = await open(path, 'r');
  try {
    let batch: Line[] = [];
    let batchBytes = 0;
    let rest: Buffer = Buffer.alloc(0);
    let offset = 0;
    const take = (value: Buffer): void => {
      if (value.length > maxLineBytes) {
        throw new TokaidoError('TOO_LARGE', `${path} has a line of more than ${maxLineBytes} bytes at ${offset}`);
      }
      batch.push({ key: keyOf(offset), value });
      batchBytes += value.length;
      offset += value.length + 1;
    };
    for (;;) {
      const chunk = Buffer.allocUnsafe(READ_BYTES);
      const { bytesRead } = await file.read(chunk, 0, READ_BYTES);
      if (bytesRead === 0) break;
      rest = Buffer.concat([rest, chunk.subarray(0, bytesRead)]);
      for (let end = rest.indexOf(NEWLINE); end >= 0; end = rest.indexOf(NEWLINE)) {
        take(rest.subarray(0, end));
        rest = rest.subarray(end + 1);
      }
      if (rest.length > maxLineBytes) take(rest);
      if (batchBytes < BATCH_BYTES) continue;
      yield batch;
      batch = [];
      batchBytes = 0;
    }
    if (rest.length > 0) take(rest);
    yield batch;
  } finally {
    await file.close();
  }
}

/** Makes `spec`'s database equal to its file; returns the number of records it changed. Errors: `CONFIG`, `STORAGE`. */
async function loadTextDatabase(store: LocalStore, spec: DatabaseSpec, maxLineBytes: number): Promise<number> {
  const path = spec.textFile as string;
  const { name } = spec;
  let changed = 0;
  let after: Buffer | undefined;
  const make = async (lines: readonly Line[], end: Buffer | undefined): Promise<void> => {
    const wanted = new Set(lines.map(({ key }) => key.toString('latin1')));
    const range = { ...(after === undefined ? {} : { start: after }), ...(end === undefined ? {} : { end }) };
    const superfluous: Buffer[] = [];
    for (const { key } of store.scan(name, range)) {
      if (!wanted.has(key.toString('latin1'))) superfluous.push(Buffer.from(key));
    }
    const written = store.write((transaction) => {
      let count = 0;
      for (const key of superfluous) if (transaction.remove(name, key)) count++;
      for (const { key, value } of lines) {
        if (transaction.get(name, key)?.value.equals(value) === true) continue;
        transaction.set(name, key, value, 0);
        count++;
      }
      return count;
    });
    changed += await written.committed;
    after = end;
  };
  try {
    for await (const lines of batches(path, maxLineBytes)) {
      const last = lines.at(-1)?.key;
      if (last !== undefined) await make(lines, Buffer.concat([last, Buffer.of(0)]));
    }
    await make([], undefined);
    return changed;
  } catch (error) {
    if (error instanceof TokaidoError) throw error;
    throw new TokaidoError('CONFIG', `cannot read the text database ${path}: ${messageOf(error)}`, {
      hint: 'check the path in databases; it is relative to the folder the node was started in',
      cause: error,
    });
  }
}

/** Loads those that have a file, one after the other, while `isWanted`. One that cannot be read stays as it was. */
export async function loadTextDatabases(
  store: LocalStore,
  { databases, limits }: Pick<NodeConfig, 'databases' | 'limits'>,
  log: Logger,
  isWanted: () => boolean,
): Promise<void> {
  for (const spec of databases) {
    if (spec.textFile === undefined || !isWanted()) continue;
    try {
      const changed = await loadTextDatabase(store, spec, limits.valueBytes);
      log.info({ database: spec.name, file: spec.textFile, changed }, 'loaded a text database');
    } catch (error) {
      log.error({ database: spec.name, reason: messageOf(error) }, 'a text database stays as it was');
    }
  }
}
