/** Bytes received and not yet understood. A chunk that is understood at once is never copied; more are joined with doubling. */
import { EMPTY } from '../base/bytes.js';

export class ByteQueue {
  #buffer: Buffer = EMPTY;
  #start = 0;
  #end = 0;
  /** Whether `#buffer` is ours to append to, and not a chunk from the socket. */
  #owned = false;

  get length(): number {
    return this.#end - this.#start;
  }

  /** Memory that it takes: the rest of a chunk, or of the room it made, stays while a part of it waits. */
  get heldBytes(): number {
    return this.#buffer.length;
  }

  /** All that is waiting, as a view that stays valid after later appends. */
  view(): Buffer {
    return this.#buffer.subarray(this.#start, this.#end);
  }

  append(chunk: Buffer): void {
    if (this.length === 0) {
      this.#buffer = chunk;
      this.#start = 0;
      this.#end = chunk.length;
      this.#owned = false;
      return;
    }
    if (!this.#owned || this.#end + chunk.length > this.#buffer.length) {
      // Old views keep the old memory: nothing is moved under a reader.
      const larger = Buffer.allocUnsafe(Math.max(4096, (this.length + chunk.length) * 2));
      this.#buffer.copy(larger, 0, this.#start, this.#end);
      this.#end = this.length;
      this.#start = 0;
      this.#buffer = larger;
      this.#owned = true;
    }
    this.#buffer.set(chunk, this.#end);
    this.#end += chunk.length;
  }

  consume(bytes: number): void {
    this.#start += bytes;
    if (this.#start === this.#end) {
      this.#buffer = EMPTY;
      this.#start = 0;
      this.#end = 0;
      this.#owned = false;
    }
  }
}
