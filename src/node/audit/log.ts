/**
 * The audit log of a node: lines that are only ever appended, in a file of its owner's (0600), chained by hashes
 * (`chain.ts`). A full file is put aside and the chain goes on in a new one; the oldest are removed beyond a number.
 *
 * A line is written when its event happens and reaches the disk soon after; what a crash tears off at the end is cut off
 * at the next start, and a line says so. Strangers cannot fill the disk: beyond a rate, events are left out, and the next
 * line says how many. When the disk refuses, the node goes on, says so in its log, and counts.
 */
import {
  closeSync,
  fchmodSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import type { Audit, AuditEvent, AuditFacts } from '../../base/audit.js';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import { type ChainHead, readLine, START, seal } from './chain.js';
import { fullFile, fullFiles } from './files.js';

/** Events in a second that are written on average, and at once after a quiet time. */
export const EVENTS_PER_SECOND = 50;
export const EVENTS_AT_ONCE = 200;
/** How long a line may wait for the disk, ms. */
const SYNC_MS = 200;
/** More than the longest line. */
const TAIL_BYTES = 256 * 1024;
const LINE_FEED = 0x0a;

export interface AuditLogOptions {
  readonly file: string;
  /** A file that would grow beyond this is put aside. */
  readonly maxBytes: number;
  /** Most files that are kept beside the one that grows. */
  readonly keep: number;
  readonly runtime: Runtime;
  readonly log: Logger;
}

export class AuditLog implements Audit {
  readonly #options: AuditLogOptions;
  #file: number;
  #bytes: number;
  /** Number of the first line of the file. */
  #first: number;
  #head: ChainHead;
  #allowance = EVENTS_AT_ONCE;
  #allowedMs: number;
  #leftOut = 0;
  #sync: Timer | undefined;
  #isFailing = false;
  /** Events written, and events that were left out or could not be written; for metrics. */
  written = 0;
  lost = 0;

  /** Errors: `STORAGE` when the file cannot be opened. */
  constructor(options: AuditLogOptions) {
    this.#options = options;
    this.#allowedMs = options.runtime.monotonicMs();
    try {
      mkdirSync(dirname(options.file), { recursive: true, mode: 0o700 });
      this.#file = openFile(options.file);
      const tail = readTail(this.#file);
      this.#bytes = tail.bytes;
      const last = tail.lines.at(-1) ?? lastLineOf(fullFiles(options.file).at(-1));
      const read = last === undefined ? undefined : readLine(last);
      this.#head = read?.head ?? START;
      this.#first = firstNumberOf(this.#file) ?? this.#head.number + 1;
      if (tail.torn > 0) {
        ftruncateSync(this.#file, tail.bytes);
        options.log.warn({ file: options.file, bytes: tail.torn }, 'a torn line was cut off the audit log');
        this.record('audit.torn', { bytes: tail.torn });
      }
      if (last !== undefined && read?.isWhole !== true) {
        options.log.error({ file: options.file }, 'the last line of the audit log is damaged: it goes on behind it');
        this.record('audit.damaged', {});
      }
    } catch (error) {
      throw new TokaidoError('STORAGE', `cannot open the audit log ${options.file}: ${messageOf(error)}`, {
        hint: 'check audit.file in the configuration, and the permissions of its folder',
        cause: error,
      });
    }
  }

  /** The newest line, to be noted elsewhere. */
  get head(): ChainHead {
    return this.#head;
  }

  record(event: AuditEvent, facts: AuditFacts): void {
    if (!this.#mayWrite()) {
      this.#leftOut++;
      this.lost++;
      return;
    }
    const { runtime, log, file } = this.#options;
    const leftOut = this.#leftOut === 0 ? {} : { leftOut: this.#leftOut };
    try {
      const { line, head } = seal(this.#head, { timeMs: runtime.nowMs(), event, facts: { ...facts, ...leftOut } });
      const bytes = Buffer.from(`${line}\n`);
      if (this.#bytes > 0 && this.#bytes + bytes.length > this.#options.maxBytes) this.#rotate();
      this.#append(bytes);
      this.#head = head;
      this.#leftOut = 0;
      this.written++;
      this.#isFailing = false;
      this.#sync ??= runtime.after(SYNC_MS, () => this.#flush());
    } catch (error) {
      this.#leftOut++;
      this.lost++;
      if (!this.#isFailing) log.error({ file, reason: messageOf(error) }, 'the audit log cannot be written');
      this.#isFailing = true;
    }
  }

  #mayWrite(): boolean {
    const nowMs = this.#options.runtime.monotonicMs();
    const earned = ((nowMs - this.#allowedMs) * EVENTS_PER_SECOND) / 1000;
    this.#allowance = Math.min(EVENTS_AT_ONCE, this.#allowance + earned);
    this.#allowedMs = nowMs;
    if (this.#allowance < 1) return false;
    this.#allowance--;
    return true;
  }

  /** Whole or not at all: half a line of a full disk would tear the chain in the middle. */
  #append(bytes: Buffer): void {
    const written = writeSync(this.#file, bytes);
    if (written === bytes.length) {
      this.#bytes += written;
      return;
    }
    ftruncateSync(this.#file, this.#bytes);
    throw new Error('no space left for a whole line');
  }

  #rotate(): void {
    const { file, keep } = this.#options;
    fdatasyncSync(this.#file);
    renameSync(file, fullFile(file, this.#first));
    const full = this.#file;
    this.#file = openFile(file);
    closeSync(full);
    this.#bytes = 0;
    this.#first = this.#head.number + 1;
    for (const old of fullFiles(file).slice(0, -keep)) rmSync(old, { force: true });
  }

  #flush(): void {
    this.#sync = undefined;
    fdatasync(this.#file, () => undefined);
  }

  close(): void {
    this.#sync?.cancel();
    fdatasyncSync(this.#file);
    closeSync(this.#file);
  }
}

function openFile(path: string): number {
  const file = openSync(path, 'a+', 0o600);
  fchmodSync(file, 0o600);
  return file;
}

/** Whole lines at the end of a file, and how many bytes are torn off behind them. */
function readTail(file: number): { readonly lines: readonly string[]; readonly bytes: number; readonly torn: number } {
  const { size } = fstatSync(file);
  const from = Math.max(0, size - TAIL_BYTES);
  const bytes = Buffer.alloc(size - from);
  readSync(file, bytes, 0, bytes.length, from);
  const end = bytes.lastIndexOf(LINE_FEED) + 1;
  const lines = bytes.toString('utf8', 0, end).split('\n').slice(0, -1);
  return { lines: lines.slice(from === 0 ? 0 : 1), bytes: from + end, torn: bytes.length - end };
}

function lastLineOf(path: string | undefined): string | undefined {
  if (path === undefined || statSync(path).size === 0) return undefined;
  const file = openSync(path, 'r');
  try {
    return readTail(file).lines.at(-1);
  } finally {
    closeSync(file);
  }
}

function firstNumberOf(file: number): number | undefined {
  const bytes = Buffer.alloc(64);
  const count = readSync(file, bytes, 0, bytes.length, 0);
  const [, digits] = /^\{"n":(\d{1,15}),/.exec(bytes.toString('latin1', 0, count)) ?? [];
  return digits === undefined ? undefined : Number(digits);
}
