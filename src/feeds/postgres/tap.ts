/**
 * Takes the messages of one kind out of what Postgres sends before the library sees them, which would make objects,
 * strings and an event of each: rows and changes come by the hundred thousand. All others go on as they came, whole and
 * in order. Pure.
 */
import { TokaidoError } from '../../base/errors.js';

/** What a message is (u8), and its length (u32) with these four bytes. */
const HEADER = 5;
const MIN_LENGTH = 4;

/** The contents of a message from `start` to `end` of bytes that nobody changes later. */
export type OnMessage = (bytes: Buffer, start: number, end: number) => void;

export class MessageTap {
  readonly #kind: number;
  readonly #onMessage: OnMessage;
  readonly #onOther: (messages: Buffer) => void;
  /** The beginning of a message, in pieces; how long they are, and how much there must be to go on. */
  #pieces: Buffer[] = [];
  #held = 0;
  #needed = HEADER;

  /** `kind` as Postgres writes it, such as `D`. */
  constructor(kind: string, onMessage: OnMessage, onOther: (messages: Buffer) => void) {
    this.#kind = kind.charCodeAt(0);
    this.#onMessage = onMessage;
    this.#onOther = onOther;
  }

  /** Takes the next bytes of the connection. Errors: `CORRUPT`. */
  push(chunk: Buffer): void {
    this.#pieces.push(chunk);
    this.#held += chunk.length;
    if (this.#held < this.#needed) return;
    const bytes = this.#pieces.length === 1 ? chunk : Buffer.concat(this.#pieces, this.#held);
    const end = this.#take(bytes);
    const rest = bytes.subarray(end);
    this.#pieces = rest.length === 0 ? [] : [rest];
    this.#held = rest.length;
    this.#needed = rest.length < HEADER ? HEADER : messageBytes(rest, 0);
  }

  /** Hands out the whole messages; returns where they end. */
  #take(bytes: Buffer): number {
    let others = 0;
    let at = 0;
    while (bytes.length - at >= HEADER) {
      const end = at + messageBytes(bytes, at);
      if (end > bytes.length) break;
      if (bytes[at] === this.#kind) {
        if (others < at) this.#onOther(bytes.subarray(others, at));
        this.#onMessage(bytes, at + HEADER, end);
        others = end;
      }
      at = end;
    }
    if (others < at) this.#onOther(bytes.subarray(others, at));
    return at;
  }
}

function messageBytes(bytes: Buffer, at: number): number {
  const length = bytes.readUInt32BE(at + 1);
  if (length < MIN_LENGTH) throw new TokaidoError('CORRUPT', `a message of Postgres of ${length} bytes`);
  return 1 + length;
}
