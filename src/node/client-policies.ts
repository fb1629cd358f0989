/** The policies of this node's client listeners: rules from the configuration, tokens from a file, both of which may change. */
import type { Audit } from '../base/audit.js';
import { messageOf } from '../base/errors.js';
import type { Logger } from '../base/logger.js';
import type { Runtime, Timer } from '../base/runtime.js';
import { AccessPolicy } from '../commands/access/policy.js';
import { TokenTable } from '../pki/client-tokens.js';
import { readKey } from '../pki/files.js';
import { LiveFiles, LiveValue } from '../pki/live.js';
import type { ListenerPolicy } from '../transport/clients/access.js';
import type { ClientListenerConfig } from './config/listener-schema.js';
import { accessRules, rulesOf } from './config/policy-schema.js';
import type { NodeConfig } from './config/schema.js';

/** How often the files are looked at: a token that was removed is refused after two looks. */
const LOOK_MS = 250;

export interface ClientPoliciesOptions {
  readonly runtime: Runtime;
  readonly log: Logger;
  readonly audit: Audit;
}

/** What a listener's policy is made of. */
type Policed = Pick<ClientListenerConfig, 'policy' | 'tokens' | 'tls'>;

/** A listener that is open. */
interface Known {
  readonly at: string;
  readonly policy: LiveValue<AccessPolicy | undefined>;
  /** Whether it can ask clients for certificates: settled when it was opened. */
  readonly asksCertificates: boolean;
  tokens: LiveFiles<TokenTable> | undefined;
}

function policyOf({ policy }: Policed): AccessPolicy | undefined {
  const rules = rulesOf(policy);
  return rules === undefined ? undefined : new AccessPolicy(accessRules(rules));
}

export class ClientPolicies {
  readonly #options: ClientPoliciesOptions;
  readonly #known: Known[] = [];
  /** By path. */
  readonly #files = new Map<string, LiveFiles<TokenTable>>();
  readonly #looks: Timer;
  /** Requests that a policy refused; for metrics. */
  refusals = 0;

  constructor(options: ClientPoliciesOptions) {
    this.#options = options;
    this.#looks = options.runtime.every(LOOK_MS, () => {
      for (const file of this.#files.values()) file.look();
    });
  }

  /**
   * The policy of the listener at `at`, which may begin without one and be given one later. Errors: `IDENTITY` when the
   * file of tokens cannot be read, or can be by others; `CONFIG` when it makes no sense.
   */
  of(at: string, listener: Policed): ListenerPolicy {
    const { runtime, audit } = this.#options;
    const { tls, tokens } = listener;
    const known: Known = {
      at,
      policy: new LiveValue(policyOf(listener)),
      asksCertificates: tls !== false && tls.clientCa !== undefined,
      tokens: tokens === undefined ? undefined : this.#open(tokens),
    };
    this.#known.push(known);
    return {
      policy: known.policy,
      tokenName: (token) => known.tokens?.current.nameOf(token, runtime.nowMs()),
      refused: ({ certificates, token }, what) => {
        this.refusals++;
        audit.record('request.refused', { listener: at, names: certificates, token, what });
      },
    };
  }

  #open(path: string): LiveFiles<TokenTable> {
    const open = this.#files.get(path);
    if (open !== undefined) return open;
    const load = (): TokenTable => TokenTable.parse(readKey(path, 'file of tokens'), path);
    const file = new LiveFiles({ files: [path], load, what: 'tokens of clients', log: this.#options.log });
    file.onChange(() => this.#options.audit.record('tokens.changed', { file: path, tokens: file.current.names }));
    this.#files.set(path, file);
    return file;
  }

  /** Reads the files again at once. */
  reload(): void {
    for (const file of this.#files.values()) file.reload();
  }

  /** Takes the policies of another configuration, the first of a listener too. Open connections are judged again. */
  adopt({ listen }: NodeConfig): void {
    const listeners = new Map<string, Policed>([
      ...listen.clients.map((listener) => [listenerAt('clients', listener), listener] as const),
      ...listen.memcached.map((listener) => [listenerAt('memcached', listener), listener] as const),
    ]);
    for (const known of this.#known) {
      const listener = listeners.get(known.at);
      if (listener === undefined) {
        this.#options.log.warn(
          { listener: known.at },
          'a listener is gone from the configuration: that takes a restart',
        );
        continue;
      }
      this.#adopt(known, listener);
    }
  }

  #adopt(known: Known, listener: Policed): void {
    const { log } = this.#options;
    const { at } = known;
    // First, so that nobody is known by a token of a file that does not count any more.
    known.tokens = this.#reopened(at, listener.tokens);
    const rules = rulesOf(listener.policy);
    if (!known.asksCertificates && rules?.some(({ certificates }) => certificates.length > 0) === true)
      log.error({ listener: at }, 'a listener that began without clientCa asks for no certificates: RESTART');
    const before = known.policy.current;
    known.policy.set(policyOf(listener));
    if ((before === undefined) === (rules === undefined)) return;
    if (rules === undefined) log.warn({ listener: at }, 'everybody may do everything on a listener that had a policy');
    else log.info({ listener: at }, 'a listener that had no policy has one now');
  }

  /** What cannot be read lets nobody in. */
  #reopened(at: string, path: string | undefined): LiveFiles<TokenTable> | undefined {
    if (path === undefined) return undefined;
    try {
      return this.#open(path);
    } catch (error) {
      const facts = { listener: at, reason: messageOf(error) };
      this.#options.log.error(facts, 'the file of tokens cannot be read: no token is good until the next SIGHUP');
      return undefined;
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
