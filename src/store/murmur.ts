/**
 * MurmurHash3 x86_128 of bytes in pieces. The arithmetic is WebAssembly (murmur.wat): it runs at full speed from the
 * first record on, where TypeScript takes twenty times as long until the optimizer has come to it.
 */
import { MURMUR_CODE } from './murmur-code.js';

interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  absorb(lengthBytes: number): void;
  finish(lengthBytes: number, totalBytes: number): void;
}

/** The part of the runtime's WebAssembly that is used here; its types come only with those of a browser. */
declare const WebAssembly: {
  readonly Module: new (code: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: unknown };
};

const MODULE = new WebAssembly.Module(Buffer.from(MURMUR_CODE, 'base64'));

const LANES_AT = 0;
const LANES = 4;
const DATA_AT = 32;
/** Bytes of one piece: a multiple of the hash's block of 16. */
const PIECE_BYTES = 64 * 1024;

/** Hashes one sequence of bytes after the other, in memory of its own that never grows. */
export class Murmur {
  readonly #code: Exports;
  readonly #data: Uint8Array;
  /** The hash, when `finish` was called last. */
  readonly lanes: Int32Array;
  /** Bytes in the piece, and in all. */
  #length = 0;
  #total = 0;

  constructor() {
    this.#code = new WebAssembly.Instance(MODULE).exports as Exports;
    const { buffer } = this.#code.memory;
    this.#data = new Uint8Array(buffer, DATA_AT, PIECE_BYTES);
    this.lanes = new Int32Array(buffer, LANES_AT, LANES);
  }

  add(bytes: Uint8Array): void {
    this.#total += bytes.length;
    if (bytes.length <= PIECE_BYTES - this.#length) {
      this.#data.set(bytes, this.#length);
      this.#length += bytes.length;
      return;
    }
    for (let at = 0; at < bytes.length; ) {
      if (this.#length === PIECE_BYTES) {
        this.#code.absorb(PIECE_BYTES);
        this.#length = 0;
      }
      const piece = bytes.subarray(at, at + PIECE_BYTES - this.#length);
      this.#data.set(piece, this.#length);
      this.#length += piece.length;
      at += piece.length;
    }
  }

  /** Appends a number in two bytes, the higher one first. */
  addU16(value: number): void {
    if (this.#length > PIECE_BYTES - 2) {
      this.add(Uint8Array.of(value >> 8, value));
      return;
    }
    this.#data[this.#length] = value >> 8;
    this.#data[this.#length + 1] = value;
    this.#length += 2;
    this.#total += 2;
  }

  /** Leaves the hash of all that was added in `lanes`, and begins anew. */
  finish(): void {
    this.#code.finish(this.#length, this.#total);
    this.#length = 0;
    this.#total = 0;
  }
}
