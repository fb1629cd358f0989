/**
 * The lines of the audit log. Each is one JSON object that holds the hash of the line before it and ends with its own:
 * SHA-256 of the line's text without `,"hash":"..."`. Whoever changes, removes or inserts a line has to write every later
 * line anew; whoever noted one hash elsewhere finds that out.
 */
import { createHash } from 'node:crypto';
import type { AuditEvent, AuditFacts } from '../../base/audit.js';

/** What the first line of all says of the line before it. */
export const NO_HASH = '0'.repeat(64);

/** The end of a chain: the next line's `n` and `previous` follow from it. */
export interface ChainHead {
  readonly number: number;
  readonly hash: string;
}

export const START: ChainHead = { number: 0, hash: NO_HASH };

/** Longest text of one fact, in characters: a stranger's certificate may hold anything. */
const MAX_FACT = 1000;
const MAX_ITEMS = 32;
const SEAL = /^(.*),"hash":"([0-9a-f]{64})"\}$/s;

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function bounded(facts: AuditFacts): AuditFacts {
  const cut = (text: string): string => (text.length > MAX_FACT ? `${text.slice(0, MAX_FACT)}...` : text);
  return Object.fromEntries(
    Object.entries(facts).map(([name, fact]) => {
      if (typeof fact === 'string') return [name, cut(fact)];
      return [name, Array.isArray(fact) ? fact.slice(0, MAX_ITEMS).map(cut) : fact];
    }),
  );
}

/** Nothing that a reader could take for the end of a line. */
function ascii(json: string): string {
  return json.replace(/[\u007f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** The line behind `head`, without its line feed, and the head that it makes. */
export function seal(
  head: ChainHead,
  { timeMs, event, facts }: { readonly timeMs: number; readonly event: AuditEvent; readonly facts: AuditFacts },
): { readonly line: string; readonly head: ChainHead } {
  const number = head.number + 1;
  const time = new Date(timeMs).toISOString();
  const body = ascii(JSON.stringify({ n: number, time, event, ...bounded(facts), previous: head.hash }));
  const hash = sha256(body);
  return { line: `${body.slice(0, -1)},"hash":"${hash}"}`, head: { number, hash } };
}

/** What a line says of its place; `isWhole` when its hash is that of its text. `undefined` for what is no such line. */
export function readLine(
  line: string,
): { readonly head: ChainHead; readonly previous: string; readonly isWhole: boolean } | undefined {
  const [, body, hash] = SEAL.exec(line) ?? [];
  if (body === undefined || hash === undefined) return undefined;
  try {
    const { n, previous } = JSON.parse(`${body}}`) as { n?: unknown; previous?: unknown };
    if (typeof n !== 'number' || typeof previous !== 'string') return undefined;
    return { head: { number: n, hash }, previous, isWhole: sha256(`${body}}`) === hash };
  } catch {
    return undefined;
  }
}

/** Walks a chain line by line. */
export class ChainCheck {
  #head: ChainHead | undefined;
  #first: number | undefined;
  lines = 0;
  readonly #wanted: ChainHead | undefined;
  #found = false;

  /** `wanted`: a head that was noted elsewhere, and must be in the chain. */
  constructor(wanted?: ChainHead) {
    this.#wanted = wanted;
  }

  get head(): ChainHead | undefined {
    return this.#head;
  }

  /** Number of the first line. The lines before it were rotated away. */
  get first(): number | undefined {
    return this.#first;
  }

  /** What is wrong with this line, or `undefined`. */
  next(line: string): string | undefined {
    this.lines++;
    const read = readLine(line);
    if (read === undefined)
      return 'is no whole line of an audit log (a crash may tear the last one; the next start cuts it off)';
    if (!read.isWhole) return 'was changed: its hash is not that of its text';
    const before = this.#head;
    if (before === undefined) {
      if (read.head.number === 1 && read.previous !== NO_HASH) return 'is the first and names a line before it';
      this.#first = read.head.number;
    } else if (read.head.number !== before.number + 1) {
      return `has number ${read.head.number} where ${before.number + 1} belongs: lines were removed or inserted`;
    } else if (read.previous !== before.hash) {
      return 'does not follow the line before it: that one was replaced';
    }
    this.#head = read.head;
    if (read.head.number !== this.#wanted?.number) return undefined;
    this.#found = true;
    return read.head.hash === this.#wanted.hash
      ? undefined
      : 'is not the one that was noted: the chain was written anew';
  }

  /** What is wrong with the whole, or `undefined`. */
  end(): string | undefined {
    if (this.#head === undefined) return 'there are no lines';
    if (this.#wanted === undefined || this.#found) return undefined;
    if (this.#wanted.number < (this.#first ?? 0)) return undefined;
    return `line ${this.#wanted.number}, which was noted, is missing: the end was cut off`;
  }
}
