/**
 * Who may follow what: rules by role and name of a follower's certificate, and what that certificate names itself. Nobody
 * may follow anything that somebody did not allow.
 */
import type { Peer } from './link.js';
import { Scope, type ScopePart } from './scope.js';

export interface ScopeRule extends ScopePart {
  /** Names of followers; a `*` at the end stands for any rest. Every name when empty. */
  readonly names: readonly string[];
  /** Every role when empty. */
  readonly roles: readonly string[];
}

/**
 * A list: what the rules that fit a follower name. `certificates`: what its certificate names. `all`: everything, as
 * somebody has said in so many words.
 */
export type ScopeRules = readonly ScopeRule[] | 'certificates' | 'all';

type Follower = Pick<Peer, 'name' | 'role' | 'scope'>;

export class ScopePolicy {
  readonly #rules: ScopeRules;
  /** One value for all followers whom the same rules fit, by the rules' numbers. */
  readonly #scopes = new Map<string, Scope>();

  constructor(rules: ScopeRules) {
    this.#rules = rules;
  }

  /** `undefined` for nothing. A follower's certificate can only make it less. */
  for(follower: Follower): Scope | undefined {
    const { scope } = follower;
    if (this.#rules === 'certificates') return scope;
    const given = this.#rules === 'all' ? Scope.WHOLE : this.#byRules(this.#rules, follower);
    return scope === undefined ? given : given?.intersect(scope);
  }

  /** Rules only add. */
  #byRules(rules: readonly ScopeRule[], { name, role }: Follower): Scope | undefined {
    const fitting = [...rules.entries()].filter(([, { names, roles }]) => {
      const isNamed = names.length === 0 || names.some((pattern) => fits(pattern, name));
      return isNamed && (roles.length === 0 || roles.includes(role));
    });
    if (fitting.length === 0) return undefined;
    const key = fitting.map(([index]) => index).join();
    const scope = this.#scopes.get(key) ?? Scope.of(fitting.map(([, rule]) => rule));
    this.#scopes.set(key, scope);
    return scope;
  }
}

function fits(pattern: string, name: string): boolean {
  return pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}
