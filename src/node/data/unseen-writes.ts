/**
 * What a replaced root had accepted and nobody had seen: as soon as it comes back, these writes arrive like any others
 * and are merged by version. Each is listed in a file of the data directory, so that somebody can look at what was
 * merged, and at what newer writes stand above. `tokaido unseen` prints it.
 */

import { isUtf8 } from 'node:buffer';
import { appendFileSync, existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Sid } from '../../base/types.js';
import { type Change, decodeTransactions, type TransactionHeader } from '../../log/transaction.js';
import type { LogBatch } from '../../log/update-log.js';
import type { LocalStore } from '../../store/store.js';

/** One change that was merged. */
export interface UnseenWrite {
  readonly origin: number;
  readonly epoch: number;
  readonly sequence: number;
  /** When it was made, by the clock of its root. */
  readonly time: string;
  readonly database: string;
  readonly kind: Change['kind'];
  /** Key, or prefix of a clear; in Base64 when `isBase64`. */
  readonly key: string;
  readonly isBase64: boolean;
  /** Whether it holds, or a newer write of the key stands above it. */
  readonly holds: boolean;
}

const FILE = 'unseen-writes.jsonl';
/** Beyond this nothing is listed any more. */
const MAX_FILE_BYTES = 64 * 1024 * 1024;

export interface UnseenWritesOptions {
  /** The data directory. */
  readonly folder: string;
  readonly replaces: readonly Sid[];
  readonly log: Logger;
}

export class UnseenWrites {
  readonly #options: UnseenWritesOptions;
  #stop: (() => void) | undefined;
  #isTold = false;

  constructor(options: UnseenWritesOptions) {
    this.#options = options;
  }

  /** Lists what arrives in this store from now on. */
  watch(store: LocalStore): void {
    this.#stop?.();
    if (this.#options.replaces.length === 0) return;
    this.#stop = store.onCommit((batch) => this.#onBatch(store, batch));
  }

  #onBatch(store: LocalStore, { payload }: LogBatch): void {
    const { replaces, folder, log } = this.#options;
    const lines = decodeTransactions(payload)
      .filter(({ header }) => replaces.includes(header.sid))
      .flatMap(({ header, changes }) => changes.map((change) => JSON.stringify(writeOf(store, header, change))));
    if (lines.length === 0) return;
    const path = join(folder, FILE);
    try {
      if (existsSync(path) && statSync(path).size > MAX_FILE_BYTES) return;
      appendFileSync(path, `${lines.join('\n')}\n`, { mode: 0o600 });
    } catch (error) {
      log.error(
        { path, changes: lines.length, reason: messageOf(error) },
        'cannot list what a replaced root had accepted',
      );
      return;
    }
    if (!this.#isTold)
      log.warn({ path }, 'a replaced root brings writes that nobody had seen: they are merged, and listed');
    this.#isTold = true;
  }

  close(): void {
    this.#stop?.();
  }
}

function writeOf(store: LocalStore, header: TransactionHeader, change: Change): UnseenWrite {
  const key = change.kind === 'clear' ? change.prefix : change.key;
  const isText = isUtf8(key);
  return {
    origin: header.sid,
    epoch: header.epoch,
    sequence: header.sequence,
    time: new Date(Number(header.versionNs / 1_000_000n)).toISOString(),
    database: change.database,
    kind: change.kind,
    key: key.toString(isText ? 'utf8' : 'base64'),
    isBase64: !isText,
    holds: holds(store, header, change),
  };
}

function holds(store: LocalStore, { versionNs, sid }: TransactionHeader, change: Change): boolean {
  if (change.kind === 'clear') return true;
  const record = store.get(change.database, change.key);
  if (change.kind === 'remove') return record === undefined;
  return record !== undefined && record.versionNs === versionNs && record.sid === sid;
}

/** What was listed in this data directory, oldest first. */
export function readUnseenWrites(folder: string): UnseenWrite[] {
  const path = join(folder, FILE);
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as UnseenWrite);
}
