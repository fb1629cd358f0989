/** The policies of this node's client listeners: rules from the configuration, tokens from a file that is read again when it changes. */
import { statSync } from 'node:fs';
import { messageOf } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import { AccessPolicy } from '../commands/access/policy.js';
import { TokenTable } from '../pki/client-tokens.js';
import { readKey } from '../pki/files.js';
import type { ListenerPolicy } from '../transport/client-access.js';
import { accessRules, type PolicyRule } from './config/policy-schema.js';

/** How often the files are looked at: a token that was removed is refused after so long. */
const LOOK_MS = 1000;

export interface ClientPoliciesOptions {
  readonly runtime: Runtime;
  readonly log: Logger;
}

export class ClientPolicies {
  readonly #options: ClientPoliciesOptions;
  readonly #files: TokenFile[] = [];
  readonly #timer: Timer;
  /** Requests that a policy refused; for metrics. */
  refusals = 0;

  constructor(options: ClientPoliciesOptions) {
    this.#options = options;
    this.#timer = options.runtime.every(LOOK_MS, () => {
      for (const file of this.#files) file.look();
    });
  }

  /** Errors: `IDENTITY` when the file of tokens cannot be read, or can be by others; `CONFIG` when it makes no sense. */
  of(rules: readonly PolicyRule[] | undefined, tokens?: string): ListenerPolicy | undefined {
    if (rules === undefined) return undefined;
    const { runtime, log } = this.#options;
    const file = tokens === undefined ? undefined : new TokenFile(tokens, log);
    if (file !== undefined) this.#files.push(file);
    return {
      policy: new AccessPolicy(accessRules(rules)),
      tokenName: (token) => file?.table.nameOf(token, runtime.nowMs()),
      refused: () => {
        this.refusals++;
      },
    };
  }

  close(): void {
    this.#timer.cancel();
  }
}

class TokenFile {
  readonly #path: string;
  readonly #log: Logger;
  #stamp: string;
  table: TokenTable;

  constructor(path: string, log: Logger) {
    this.#path = path;
    this.#log = log;
    this.#stamp = this.#stampNow();
    this.table = this.#read();
  }

  #read(): TokenTable {
    return TokenTable.parse(readKey(this.#path, 'file of tokens'), this.#path);
  }

  #stampNow(): string {
    try {
      const { mtimeMs, ctimeMs, size, ino } = statSync(this.#path);
      return `${mtimeMs} ${ctimeMs} ${size} ${ino}`;
    } catch {
      return 'none';
    }
  }

  /** A file that went or makes no sense changes nothing: the tokens that were valid still are. */
  look(): void {
    const stamp = this.#stampNow();
    if (stamp === this.#stamp) return;
    this.#stamp = stamp;
    try {
      this.table = this.#read();
      this.#log.info({ file: this.#path, tokens: this.table.names.length }, 'read the tokens of clients again');
    } catch (error) {
      this.#log.error({ file: this.#path, reason: messageOf(error) }, 'the tokens of clients stay as they were');
    }
  }
}
