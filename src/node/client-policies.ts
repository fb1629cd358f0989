/** The policies of this node's client listeners: rules from the configuration, tokens from a file, both of which may change. */
import type { Audit } from '../base/audit.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import { AccessPolicy } from '../commands/access/policy.js';
import { TokenTable } from '../pki/client-tokens.js';
import { readKey } from '../pki/files.js';
import { LiveFiles, LiveValue } from '../pki/live.js';
import type { ListenerPolicy } from '../transport/client-access.js';
import { accessRules, rulesOf } from './config/policy-schema.js';
import type { ClientListenerConfig, NodeConfig } from './config/schema.js';

/** How often the files are looked at: a token that was removed is refused after two looks. */
const LOOK_MS = 250;

export interface ClientPoliciesOptions {
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly audit: Audit;
}

/** What a listener's policy is made of. */
type Policed = Pick<ClientListenerConfig, 'policy' | 'tokens'>;

export class ClientPolicies {
  readonly #options: ClientPoliciesOptions;
  readonly #rules: { readonly live: LiveValue<AccessPolicy>; readonly at: string }[] = [];
  readonly #files: LiveFiles<TokenTable>[] = [];
  readonly #looks: Timer;
  /** Requests that a policy refused; for metrics. */
  refusals = 0;

  constructor(options: ClientPoliciesOptions) {
    this.#options = options;
    this.#looks = options.runtime.every(LOOK_MS, () => {
      for (const file of this.#files) file.look();
    });
  }

  /**
   * The policy of the listener at `at`, `undefined` when it has none. Errors: `IDENTITY` when the file of tokens cannot
   * be read, or can be by others; `CONFIG` when it makes no sense.
   */
  of(at: string, { policy, tokens }: Policed): ListenerPolicy | undefined {
    const rules = rulesOf(policy);
    if (rules === undefined) return undefined;
    const { runtime, audit } = this.#options;
    const live = new LiveValue(new AccessPolicy(accessRules(rules)));
    this.#rules.push({ live, at });
    const file = tokens === undefined ? undefined : this.#open(tokens);
    return {
      policy: live,
      tokenName: (token) => file?.current.nameOf(token, runtime.nowMs()),
      refused: ({ certificates, token }, what) => {
        this.refusals++;
        audit.record('request.refused', { listener: at, names: certificates, token, what });
      },
    };
  }

  #open(path: string): LiveFiles<TokenTable> {
    const load = (): TokenTable => TokenTable.parse(readKey(path, 'file of tokens'), path);
    const file = new LiveFiles({ files: [path], load, what: 'tokens of clients', log: this.#options.log });
    file.onChange(() => this.#options.audit.record('tokens.changed', { file: path, tokens: file.current.names }));
    this.#files.push(file);
    return file;
  }

  /** Reads the files again at once. */
  reload(): void {
    for (const file of this.#files) file.reload();
  }

  /** Takes the rules of another configuration, for listeners that have a policy in both. Open connections are judged again. */
  adopt({ listen }: NodeConfig): void {
    const listeners = [
      ...listen.clients.map((listener) => ({ at: listenerAt('clients', listener), ...listener })),
      ...listen.memcached.map((listener) => ({ at: listenerAt('memcached', listener), ...listener })),
    ];
    for (const { at, policy } of listeners) {
      const isNew = rulesOf(policy) !== undefined && !this.#rules.some((known) => known.at === at);
      if (isNew) this.#options.log.error({ listener: at }, 'a listener that began without a policy gets none: RESTART');
    }
    for (const { live, at } of this.#rules) {
      const rules = rulesOf(listeners.find((listener) => listener.at === at)?.policy);
      if (rules !== undefined) live.set(new AccessPolicy(accessRules(rules)));
      else this.#options.log.warn({ listener: at }, 'a listener or its policy is gone: that takes a restart');
    }
  }

  close(): void {
    this.#looks.cancel();
  }
}

/** How a listener is known from one configuration to the next. */
export function listenerAt(kind: 'clients' | 'memcached', { host, port }: { host: string; port: number }): string {
  return `${kind} ${host}:${port}`;
}
