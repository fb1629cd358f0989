/**
 * Kyoto Tycoon's binary protocol: bulk get, set and remove. Pure: bytes to commands, results to bytes. A request is
 * understood record by record; nothing is allocated by a declared length.
 */
import { ByteWriter } from '../base/bytes.js';
import { TokaidoError } from '../base/errors.js';
import { secondsFromXt } from './expiry.js';

export const MAGIC = { replication: 0xb1, script: 0xb4, set: 0xb8, remove: 0xb9, get: 0xba, error: 0xbf } as const;
const NO_REPLY = 0x01;

export interface BinaryLimits {
  /** Most records of one request. */
  readonly records: number;
  /** Most bytes of one request. */
  readonly requestBytes: number;
}

export interface BinaryKey {
  /** Kyoto Tycoon's database number. */
  readonly database: number;
  readonly key: Buffer;
}

export interface BinaryRecord extends BinaryKey {
  readonly value: Buffer;
  /** Seconds, as sent; see `expiry.ts`. */
  readonly seconds: number;
}

export type BinaryRequest =
  | { readonly kind: 'get' | 'remove'; readonly keys: readonly BinaryKey[]; readonly reply: boolean }
  | { readonly kind: 'set'; readonly records: readonly BinaryRecord[]; readonly reply: boolean }
  | { readonly kind: 'script'; readonly reply: boolean };

export type BinaryParse =
  | { readonly kind: 'request'; readonly request: BinaryRequest; readonly bytes: number }
  | { readonly kind: 'incomplete' };

/** Continues one request as its bytes come in: looks at no record twice. */
export class BinaryDecoder {
  readonly #limits: BinaryLimits;
  #at = 0;
  #left = 0;
  #nameBytes = 0;
  #keys: BinaryKey[] = [];
  #records: BinaryRecord[] = [];

  constructor(limits: BinaryLimits) {
    this.#limits = limits;
  }

  /** Records of the request that has begun, as far as they are there. */
  get records(): number {
    return this.#keys.length + this.#records.length;
  }

  /** Parses the request at the beginning of `bytes`, which grew since the last call. Errors: `MALFORMED`, `TOO_LARGE`. */
  parse(bytes: Buffer): BinaryParse {
    if (this.#at === 0 && !this.#header(bytes)) return { kind: 'incomplete' };
    while (this.#left > 0) {
      const end = this.#record(bytes);
      if (end === undefined) {
        if (bytes.length > this.#limits.requestBytes)
          throw tooLarge(`a request of more than ${this.#limits.requestBytes} bytes`);
        return { kind: 'incomplete' };
      }
      this.#at = end;
      this.#left--;
    }
    if (bytes.length < this.#at) return { kind: 'incomplete' };
    return { kind: 'request', request: this.#finish(bytes), bytes: this.#reset() };
  }

  #header(bytes: Buffer): boolean {
    const magic = bytes[0] as number;
    checkMagic(magic);
    const size = magic === MAGIC.script ? 13 : 9;
    if (bytes.length < size) return false;
    if (magic === MAGIC.script) {
      this.#nameBytes = bytes.readUInt32BE(5);
      this.#left = bytes.readUInt32BE(9);
    } else {
      this.#left = bytes.readUInt32BE(5);
    }
    if (this.#left > this.#limits.records)
      throw tooLarge(`${this.#left} records exceed the limit of ${this.#limits.records}`);
    this.#at = size + this.#nameBytes;
    this.#checkBytes(this.#at);
    return true;
  }

  #checkBytes(end: number): void {
    if (end > this.#limits.requestBytes) throw tooLarge(`a request of more than ${this.#limits.requestBytes} bytes`);
  }

  /** End of the record at `#at` if it is all there. A length that cannot fit is refused before its bytes come. */
  #record(bytes: Buffer): number | undefined {
    const at = this.#at;
    const magic = bytes[0];
    const head = magic === MAGIC.set ? 18 : magic === MAGIC.script ? 8 : 6;
    if (bytes.length < at + head) return undefined;
    const first = magic === MAGIC.script ? at : at + 2;
    const keyBytes = bytes.readUInt32BE(first);
    const valueBytes = head === 6 ? 0 : bytes.readUInt32BE(first + 4);
    const end = at + head + keyBytes + valueBytes;
    this.#checkBytes(end);
    if (bytes.length < end) return undefined;
    if (magic === MAGIC.script) return end;
    const database = bytes.readUInt16BE(at);
    const key = bytes.subarray(at + head, at + head + keyBytes);
    if (magic === MAGIC.set) {
      // Both halves as numbers: the same value as of 64 bits made a number, without the detour.
      const seconds = bytes.readInt32BE(at + 10) * 2 ** 32 + bytes.readUInt32BE(at + 14);
      this.#records.push({ database, key, value: bytes.subarray(end - valueBytes, end), seconds });
    } else {
      this.#keys.push({ database, key });
    }
    return end;
  }

  #finish(bytes: Buffer): BinaryRequest {
    const reply = (bytes.readUInt32BE(1) & NO_REPLY) === 0;
    switch (bytes[0]) {
      case MAGIC.set:
        return { kind: 'set', records: this.#records, reply };
      case MAGIC.get:
        return { kind: 'get', keys: this.#keys, reply };
      case MAGIC.remove:
        return { kind: 'remove', keys: this.#keys, reply };
      default:
        return { kind: 'script', reply };
    }
  }

  #reset(): number {
    const bytes = this.#at;
    this.#at = 0;
    this.#nameBytes = 0;
    this.#keys = [];
    this.#records = [];
    return bytes;
  }
}

/** Refused at the first byte: what such a request would hold is unknown. */
function checkMagic(magic: number): void {
  if (magic === MAGIC.replication) {
    throw new TokaidoError('NOT_IMPLEMENTED', "Kyoto Tycoon's replication is not served here", {
      hint: 'it has a listener of its own: listen.kyotoTycoon in the configuration',
    });
  }
  if (magic !== MAGIC.script && magic !== MAGIC.set && magic !== MAGIC.get && magic !== MAGIC.remove) {
    throw new TokaidoError('MALFORMED', `unknown magic 0x${magic.toString(16)}`);
  }
}

function tooLarge(message: string): TokaidoError {
  return new TokaidoError('TOO_LARGE', message);
}

/** The answer to set and remove: how many records it touched. */
export function renderCount(kind: 'set' | 'remove', count: number): Buffer {
  const bytes = Buffer.allocUnsafe(5);
  bytes[0] = MAGIC[kind];
  bytes.writeUInt32BE(count, 1);
  return bytes;
}

export const BINARY_ERROR: Buffer = Buffer.of(MAGIC.error);

/** Room that is made for a record before it is known; and for all of them at most. */
const USUAL_RECORD_BYTES = 96;
const LARGEST_ROOM = 64 * 1024;

/** Builds the answer to a bulk get. Values are copied into it, so views may be handed in. */
export class GetReply {
  readonly #writer: ByteWriter;
  #hits = 0;

  /** `keys` are asked for. */
  constructor(keys: number) {
    this.#writer = new ByteWriter(Math.min(LARGEST_ROOM, 5 + keys * USUAL_RECORD_BYTES));
    this.#writer.u8(MAGIC.get).u32(0);
  }

  get bytes(): number {
    return this.#writer.length;
  }

  add(database: number, key: Buffer, value: Buffer, xtMs: number): void {
    this.#hits++;
    const writer = this.#writer;
    writer
      .u16(database)
      .u32(key.length)
      .u32(value.length)
      // 40 bits, in 64.
      .u16(0)
      .u48(secondsFromXt(xtMs))
      .bytes(key)
      .bytes(value);
  }

  take(): Buffer {
    return this.#writer.patchU32(1, this.#hits).take();
  }
}
