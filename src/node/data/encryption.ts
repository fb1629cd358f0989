/** Encryption at rest: where the keys come from, and how a store's engine is opened with them. */
import { execFile, execFileSync } from 'node:child_process';
import { promisify } from 'node:util';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { Logger } from '../../base/logger.js';
import type { Runtime, Timer } from '../../base/runtime.js';
import { Cipher, KEY_BYTES, type SealingKey, sealingKey } from '../../engine/cipher.js';
import type { Engine } from '../../engine/engine.js';
import { SealedEngine } from '../../engine/sealed.js';
import { readKey } from '../../pki/files.js';
import { type Live, LiveFiles, LiveValue } from '../../pki/live.js';
import type { NodeConfig } from '../config/schema.js';

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

const COMMAND = 'encryption.keyCommand';

function fromCommand([program = '', ...parameters]: readonly string[]): Cipher {
  try {
    const stdio: ['ignore', 'pipe', 'inherit'] = ['ignore', 'pipe', 'inherit'];
    const text = execFileSync(program, parameters, { encoding: 'utf8', timeout: COMMAND_MS, stdio });
    return new Cipher(parseKeys(text, COMMAND));
  } catch (error) {
    throw commandError(error);
  }
}

/** The same while the node serves: it does not wait. */
async function fromCommandLater([program = '', ...parameters]: readonly string[]): Promise<Cipher> {
  try {
    const { stdout } = await promisify(execFile)(program, parameters, { encoding: 'utf8', timeout: COMMAND_MS });
    return new Cipher(parseKeys(stdout, COMMAND));
  } catch (error) {
    throw commandError(error);
  }
}

function commandError(error: unknown): TokaidoError {
  if (error instanceof TokaidoError) return error;
  return new TokaidoError('CONFIG', `${COMMAND} failed: ${messageOf(error).split('\n')[0]}`);
}

/** The store's own map that holds values of all databases. */
const LOG = 'log';

export class Encryption {
  readonly #cipher: Live<Cipher>;
  readonly #looks: Timer | undefined;
  readonly #isWhole: boolean;
  readonly #databases: readonly string[];
  readonly #reload: () => void;

  /** Errors: `IDENTITY` when the file cannot be read, or can be by others; `CONFIG` when it or the command gives no keys. */
  constructor(
    { keyFile, keyCommand, databases }: Exclude<NodeConfig['encryption'], false>,
    { runtime, log }: { readonly runtime: Runtime; readonly log: Logger },
  ) {
    this.#isWhole = databases.includes('*');
    this.#databases = [...databases].sort();
    if (keyFile === undefined) {
      const value = new LiveValue(fromCommand(keyCommand ?? []));
      this.#cipher = value;
      let asked = 0;
      this.#reload = () => {
        const turn = ++asked;
        fromCommandLater(keyCommand ?? []).then(
          (cipher) => {
            // Who was asked later knows better, whoever answers first.
            if (turn === asked) value.set(cipher);
          },
          (error: unknown) => log.warn({ reason: messageOf(error) }, 'encryption keys: going on with those before'),
        );
      };
      return;
    }
    const load = (): Cipher => new Cipher(parseKeys(readKey(keyFile, 'file of encryption keys'), keyFile));
    const file = new LiveFiles({ files: [keyFile], load, what: 'encryption keys', log });
    this.#looks = runtime.every(LOOK_MS, () => file.look());
    this.#cipher = file;
    this.#reload = () => file.reload();
  }

  /** Id of the key that new values are sealed with. */
  get keyId(): string {
    return this.#cipher.current.currentId;
  }

  /** Ids of the keys that are here for what was sealed before. */
  get olderKeyIds(): readonly string[] {
    return this.#cipher.current.olderIds;
  }

  /** Names how all that is stored should be sealed: changes with the key, and with the databases. */
  get target(): string {
    return [this.keyId, ...this.#databases].join(' ');
  }

  onChange(listener: () => void): void {
    this.#cipher.onChange(listener);
  }

  /** Asks for the keys again at once. */
  reload(): void {
    this.#reload();
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
