/** What each client of a listener may do, by what it proves: the commands it gets are restricted, or none are. */
import { TokaidoError } from '../base/errors.js';
import type { AccessPolicy } from '../commands/access/policy.js';
import { RestrictedCommands } from '../commands/access/restricted-commands.js';
import type { Commands } from '../commands/commands.js';

/** The policy of a listener, with what it takes to know its clients. */
export interface ListenerPolicy {
  readonly policy: AccessPolicy;
  /** Whose token it is; `undefined` for one that is not valid (any more). Asked on each request that brings one. */
  tokenName(token: string): string | undefined;
  /** Called for each refused request. */
  refused(): void;
}

const BEARER = /^bearer +([\x21-\x7e]{1,512})$/i;

/** One connection. */
export class ClientAccess {
  readonly #listener: ListenerPolicy;
  readonly #whole: Commands;
  readonly #certificates: readonly string[];
  /** By name of the token: as many as the policy names. */
  readonly #byToken = new Map<string, Commands>();
  /** What the connection may do without a token. */
  readonly commands: Commands;
  readonly #isEmpty: boolean;

  /** `certificates`: names in the verified certificate of the client; none without one. */
  constructor(listener: ListenerPolicy, whole: Commands, certificates: readonly string[]) {
    this.#listener = listener;
    this.#whole = whole;
    this.#certificates = certificates;
    const access = listener.policy.for({ certificates, token: undefined });
    this.#isEmpty = access.isEmpty;
    this.commands = new RestrictedCommands(whole, access, listener.refused);
  }

  /** What a request with this `Authorization` may do. Errors: `UNAUTHENTICATED`, `FORBIDDEN`. */
  authorized(header: string | undefined): Commands {
    const { policy } = this.#listener;
    if (header === undefined) {
      if (!this.#isEmpty) return this.commands;
      this.#listener.refused();
      throw new TokaidoError('UNAUTHENTICATED', 'this listener asks for a token', {
        hint: 'send the header Authorization: Bearer TOKEN; `tokaido client-token` makes one',
      });
    }
    const [, token] = BEARER.exec(header) ?? [];
    const name = token === undefined ? undefined : this.#listener.tokenName(token);
    if (name === undefined) {
      this.#listener.refused();
      // A wrong token is not passed over: who sends one believes to be somebody.
      throw new TokaidoError('UNAUTHENTICATED', 'the token is not valid here', {
        hint: 'it was mistyped, has ended, or was removed from the file of tokens',
      });
    }
    const known = this.#byToken.get(name);
    if (known !== undefined) return known;
    const access = policy.for({ certificates: this.#certificates, token: name });
    if (access.isEmpty) {
      this.#listener.refused();
      throw new TokaidoError('FORBIDDEN', `the policy of this listener allows nothing to the token ${name}`);
    }
    const commands = new RestrictedCommands(this.#whole, access, this.#listener.refused);
    this.#byToken.set(name, commands);
    return commands;
  }
}

/** Why a client may not even speak: nothing it could say would be allowed. */
export function refusalBy({ policy }: ListenerPolicy, certificates: readonly string[]): string | undefined {
  if (policy.knowsTokens || !policy.for({ certificates, token: undefined }).isEmpty) return undefined;
  return certificates.length === 0
    ? 'it presented no certificate, and the policy allows nothing without one'
    : `the policy allows nothing to ${certificates.join(', ')}`;
}
