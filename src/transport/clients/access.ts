/** What each client of a listener may do, by what it proves: the commands it gets are restricted, or none are. */
import { TokaidoError } from '../../base/errors.js';
import { Access, type AccessPolicy, type Client } from '../../commands/access/policy.js';
import { RestrictedCommands } from '../../commands/access/restricted-commands.js';
import type { Commands } from '../../commands/commands.js';
import type { Live } from '../../pki/live.js';
import type { Admission } from '../stream-server.js';

/** The policy of a listener, with what it takes to know its clients. */
export interface ListenerPolicy {
  /** `undefined` while everybody may do everything. */
  readonly policy: Live<AccessPolicy | undefined>;
  /** Whose token it is; `undefined` for one that is not valid (any more). Asked on each request that brings one. */
  tokenName(token: string): string | undefined;
  /** Called for each refused request, with who asked and what for. */
  refused(who: Client, what: string): void;
}

const NOTHING = new Access([]);
const BEARER = /^bearer +([\x21-\x7e]{1,512})$/i;

/** What a client of a listener may do, as its policy is now. */
interface Granted {
  readonly access: () => Access;
  readonly commands: Commands;
}

/** One connection. */
export class ClientAccess {
  readonly #listener: ListenerPolicy;
  readonly #whole: Commands;
  readonly #certificates: readonly string[];
  readonly #withoutToken: Granted;
  /** By name of the token. */
  readonly #byToken = new Map<string, Granted>();

  /**
   * The access of a client that connects now; `undefined` while everybody may do everything: who has it then does not pay
   * for rules. Such a connection ends when rules come (`admissionBy`).
   */
  static of(listener: ListenerPolicy, whole: Commands, certificates: readonly string[]): ClientAccess | undefined {
    return listener.policy.current === undefined ? undefined : new ClientAccess(listener, whole, certificates);
  }

  /** `certificates`: names in the verified certificate of the client; none without one. */
  private constructor(listener: ListenerPolicy, whole: Commands, certificates: readonly string[]) {
    this.#listener = listener;
    this.#whole = whole;
    this.#certificates = certificates;
    this.#withoutToken = this.#grant(undefined);
  }

  /** What the connection may do without a token. */
  get commands(): Commands {
    return this.#withoutToken.commands;
  }

  #grant(token: string | undefined): Granted {
    const { policy } = this.#listener;
    const client: Client = { certificates: this.#certificates, token };
    let asked: AccessPolicy | undefined;
    let answer: Access | undefined;
    const access = (): Access => {
      const { current } = policy;
      if (answer !== undefined && current === asked) return answer;
      asked = current;
      // Without rules any more this connection is over; what it began gets nothing by that.
      answer = current === undefined ? NOTHING : current.for(client);
      return answer;
    };
    return {
      access,
      commands: new RestrictedCommands(this.#whole, access, (what) => this.#listener.refused(client, what)),
    };
  }

  #refuse(token: string | undefined, what: string): void {
    this.#listener.refused({ certificates: this.#certificates, token }, what);
  }

  /** What a request with this `Authorization` may do. Errors: `UNAUTHENTICATED`, `FORBIDDEN`. */
  authorized(header: string | undefined): Commands {
    if (header === undefined) {
      if (!this.#withoutToken.access().isEmpty) return this.commands;
      this.#refuse(undefined, 'come without a token');
      throw new TokaidoError('UNAUTHENTICATED', 'this listener asks for a token', {
        hint: 'send the header Authorization: Bearer TOKEN; `tokaido client-token` makes one',
      });
    }
    const [, token] = BEARER.exec(header) ?? [];
    const name = token === undefined ? undefined : this.#listener.tokenName(token);
    if (name === undefined) {
      this.#refuse(undefined, 'come with a token that is not valid');
      // A wrong token is not passed over: who sends one believes to be somebody.
      throw new TokaidoError('UNAUTHENTICATED', 'the token is not valid here', {
        hint: 'it was mistyped, has ended, or was removed from the file of tokens',
      });
    }
    const granted = this.#byToken.get(name) ?? this.#grant(name);
    this.#byToken.set(name, granted);
    if (!granted.access().isEmpty) return granted.commands;
    this.#refuse(name, 'do anything');
    throw new TokaidoError('FORBIDDEN', `the policy of this listener allows nothing to the token ${name}`);
  }
}

/** Whom a policy turns away before it says a word: nothing it could say would be allowed. */
export function admissionBy({ policy }: ListenerPolicy): Admission {
  return {
    isPoliced: () => policy.current !== undefined,
    isCertificateOptional: () => policy.current?.admitsWithoutCertificate === true,
    refusal: (certificates) => {
      const { current } = policy;
      if (current === undefined || current.knowsTokens || !current.for({ certificates, token: undefined }).isEmpty)
        return undefined;
      return certificates.length === 0
        ? 'it presented no certificate, and the policy allows nothing without one'
        : `the policy allows nothing to ${certificates.join(', ')}`;
    },
    onChange: (listener) => policy.onChange(listener),
  };
}
