/** Who may follow what: rules by role and name of a follower's certificate. Without rules everybody may follow everything. */
import type { Peer } from './link.js';
import { Scope, type ScopePart } from './scope.js';

export interface ScopeRule extends ScopePart {
  /** Names of followers; a `*` at the end stands for any rest. Every name when empty. */
  readonly names: readonly string[];
  /** Every role when empty. */
  readonly roles: readonly string[];
}

/** Rules only add; whom none fits may follow nothing. */
export class ScopePolicy {
  readonly #rules: readonly ScopeRule[] | undefined;
  /** One value for all followers whom the same rules fit, by the rules' numbers. */
  readonly #scopes = new Map<string, Scope>();

  constructor(rules: readonly ScopeRule[] | undefined) {
    this.#rules = rules;
  }

  /** `undefined` for nothing. */
  for({ name, role }: Pick<Peer, 'name' | 'role'>): Scope | undefined {
    if (this.#rules === undefined) return Scope.WHOLE;
    const fitting = [...this.#rules.entries()].filter(([, { names, roles }]) => {
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
