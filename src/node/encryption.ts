/** Encryption at rest: where the keys come from, and how a store's engine is opened with them. */
import { execFileSync } from 'node:child_process';
import { messageOf, TokaidoError } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import { Cipher, KEY_BYTES, type SealingKey, sealingKey } from '../engine/cipher.js';
import type { Engine } from '../engine/engine.js';
import { SealedEngine } from '../engine/sealed.js';
import { readKey } from '../pki/files.js';
import { type Live, LiveFiles, LiveValue } from '../pki/live.js';
import type { NodeConfig } from './config/schema.js';

const LOOK_MS = 1000;
const COMMAND_MS = 30_000;
const MAX_KEYS = 100;
const HEX = new RegExp(`^[0-9a-f]{${2 * KEY_BYTES}}$`);

/** Keys as a file or a command gives them: one a line in hex, the current one first; `#` begins a comment. Errors: `CONFIG`. */
export function parseKeys(text: string, what: string): readonly [SealingKey, ...SealingKey[]] {
  const lines = text.split('\n').map((line) => line.replace(/#.*/, '').trim());
  const keys = lines.flatMap((line, index) => {
    if (line === '') return [];
    // What is there instead may be half a key: it is not repeated.
    if (!HEX.test(line)) throw new TokaidoError('CONFIG', `${what}: line ${index + 1} is no key of 64 hex digits`);
    return [sealingKey(Buffer.from(line, 'hex'))];
  });
  const [current, ...others] = keys;
  if (current === undefined || keys.length > MAX_KEYS) {
    throw new TokaidoError('CONFIG', `${what}: must hold 1 to ${MAX_KEYS} keys`, {
      hint: 'make one with `tokaido encryption key`',
    });
  }
  return [current, ...others];
}

function fromCommand([program = '', ...parameters]: readonly string[]): Cipher {
  try {
    const stdio: ['ignore', 'pipe', 'inherit'] = ['ignore', 'pipe', 'inherit'];
    const text = execFileSync(program, parameters, { encoding: 'utf8', timeout: COMMAND_MS, stdio });
    return new Cipher(parseKeys(text, 'encryption.keyCommand'));
  } catch (error) {
    if (error instanceof TokaidoError) throw error;
    throw new TokaidoError('CONFIG', `encryption.keyCommand failed: ${messageOf(error).split('\n')[0]}`);
  }
}

/** The store's own map that holds values of all databases. */
const LOG = 'log';

export class Encryption {
  readonly #cipher: Live<Cipher>;
  readonly #looks: Timer | undefined;
  readonly #isWhole: boolean;

  /** Errors: `IDENTITY` when the file cannot be read, or can be by others; `CONFIG` when it or the command gives no keys. */
  constructor(
    { keyFile, keyCommand, databases }: Exclude<NodeConfig['encryption'], false>,
    { runtime, log }: { readonly runtime: Runtime; readonly log: Logger },
  ) {
    this.#isWhole = databases.includes('*');
    if (keyFile === undefined) {
      this.#cipher = new LiveValue(fromCommand(keyCommand ?? []));
      return;
    }
    const load = (): Cipher => new Cipher(parseKeys(readKey(keyFile, 'file of encryption keys'), keyFile));
    const file = new LiveFiles({ files: [keyFile], load, what: 'encryption keys', log });
    this.#looks = runtime.every(LOOK_MS, () => file.look());
    this.#cipher = file;
  }

  /** Id of the key that new values are sealed with. */
  get keyId(): string {
    return this.#cipher.current.currentId;
  }

  engine(below: Engine): SealedEngine {
    return new SealedEngine(below, {
      cipher: () => this.#cipher.current,
      isAlwaysSealed: (name) => name === LOG || (this.#isWhole && name.startsWith('records-')),
    });
  }

  close(): void {
    this.#looks?.cancel();
  }
}
