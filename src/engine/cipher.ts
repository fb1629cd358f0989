/**
 * Values sealed for the disk: AES-256-GCM. A sealed value says which key it needs, so that several keys are in use while
 * one takes the place of another, and is bound to the map and key it belongs to, so that nobody can put it elsewhere.
 *
 * Sealed: 4 bytes mark, 8 bytes id of the key, 12 bytes nonce (random), 16 bytes tag, the encrypted value. A key is good
 * for 2^32 values; change it before.
 */
import { createCipheriv, createDecipheriv, createHash, randomFillSync } from 'node:crypto';
import { TokaidoError } from '../base/errors.js';

export const KEY_BYTES = 32;
const MARK = Buffer.from('TKS\x01', 'latin1');
const ID_BYTES = 8;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const HEAD_BYTES = MARK.length + ID_BYTES;
/** What sealing adds to a value. */
export const SEAL_BYTES = HEAD_BYTES + NONCE_BYTES + TAG_BYTES;
const ALGORITHM = 'aes-256-gcm';
/** Random bytes are drawn for so many nonces at once. */
const POOL_NONCES = 1024;

/** A key, with the id that sealed values name it by. */
export interface SealingKey {
  readonly id: string;
  readonly secret: Buffer;
}

/** The id says nothing about the secret. */
export function sealingKey(secret: Buffer): SealingKey {
  const digest = createHash('sha256').update('tokaido sealing key').update(secret).digest();
  return { id: digest.toString('hex', 0, ID_BYTES), secret };
}

/** Keys of a node: values are sealed with the first, and opened with whichever they name. */
export class Cipher {
  readonly #current: SealingKey;
  readonly #byId: ReadonlyMap<string, SealingKey>;
  readonly #head: Buffer;
  readonly #pool = Buffer.alloc(POOL_NONCES * NONCE_BYTES);
  #pooled = 0;

  constructor(keys: readonly [SealingKey, ...SealingKey[]]) {
    this.#current = keys[0];
    this.#byId = new Map(keys.map((key) => [key.id, key]));
    this.#head = Buffer.concat([MARK, Buffer.from(this.#current.id, 'hex')]);
  }

  get currentId(): string {
    return this.#current.id;
  }

  /** Ids of the keys that only open. */
  get olderIds(): readonly string[] {
    return [...this.#byId.keys()].filter((id) => id !== this.#current.id);
  }

  #nonce(): Buffer {
    if (this.#pooled === 0) {
      randomFillSync(this.#pool);
      this.#pooled = POOL_NONCES;
    }
    const at = --this.#pooled * NONCE_BYTES;
    return this.#pool.subarray(at, at + NONCE_BYTES);
  }

  /** `place` is what the value belongs to; only with the same it opens. */
  seal(value: Buffer, place: Buffer): Buffer {
    const nonce = this.#nonce();
    const cipher = createCipheriv(ALGORITHM, this.#current.secret, nonce);
    cipher.setAAD(place);
    const sealed = Buffer.allocUnsafe(SEAL_BYTES + value.length);
    sealed.set(this.#head);
    sealed.set(nonce, HEAD_BYTES);
    sealed.set(cipher.update(value), SEAL_BYTES);
    cipher.final();
    sealed.set(cipher.getAuthTag(), HEAD_BYTES + NONCE_BYTES);
    return sealed;
  }

  /** A value that was not sealed comes back as it is. Errors: `STORAGE` without its key, `CORRUPT` when it was changed. */
  open(value: Buffer, place: Buffer): Buffer {
    const id = sealedBy(value);
    if (id === undefined) return value;
    const key = this.#byId.get(id);
    if (key === undefined) {
      throw new TokaidoError('STORAGE', `stored values are sealed with key ${id}, which this node does not have`, {
        hint: 'put that key back behind the others (encryption.keyFile), and remove one only when `tokaido status` says that it is not needed',
      });
    }
    const nonceEnd = HEAD_BYTES + NONCE_BYTES;
    const decipher = createDecipheriv(ALGORITHM, key.secret, value.subarray(HEAD_BYTES, nonceEnd));
    decipher.setAAD(place);
    decipher.setAuthTag(value.subarray(nonceEnd, SEAL_BYTES));
    try {
      const opened = decipher.update(value.subarray(SEAL_BYTES));
      decipher.final();
      return opened;
    } catch (error) {
      throw new TokaidoError('CORRUPT', 'a sealed value was changed on the disk', { cause: error });
    }
  }
}

/** Id of the key that a stored value is sealed with, `undefined` when it is not. */
export function sealedBy(value: Buffer): string | undefined {
  if (value.length < SEAL_BYTES || value.compare(MARK, 0, MARK.length, 0, MARK.length) !== 0) return undefined;
  return value.toString('hex', MARK.length, HEAD_BYTES);
}
