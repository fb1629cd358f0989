/**
 * Who may do what through a client listener: rules by certificate name, token, or for everybody. Pure: a policy is asked
 * once per client and gives an `Access`, which answers per database and key.
 *
 * Rules only add: a client may do what any rule that fits it allows, and nothing else. What holds for everybody holds for
 * who says more about itself, too.
 */
import { afterPrefix } from '../../base/bytes.js';
import { holds, isNone, type Keys, keysWith, NO_KEYS, union } from '../../base/keys.js';
import type { Range } from '../../store/types.js';

/**
 * `read` records; `write` records, without seeing them; `admin` what concerns a database as a whole (clear it, count it,
 * the server's reports). None holds another.
 */
export const PERMISSIONS = ['read', 'write', 'admin'] as const;
export type Permission = (typeof PERMISSIONS)[number];

/** Stands for every database. */
export const EVERY_DATABASE = '*';

export interface AccessRule {
  /** Names in a client's certificate (common name, DNS or URI), any of which makes the rule fit. */
  readonly certificates: readonly string[];
  /** Names of tokens, likewise. */
  readonly tokens: readonly string[];
  /** Fits everybody. */
  readonly anonymous: boolean;
  /** Names, or `EVERY_DATABASE`. */
  readonly databases: readonly string[];
  /** Keys that begin so; every key without any. `admin` is of whole databases only. */
  readonly prefixes: readonly Buffer[];
  readonly allow: readonly Permission[];
}

/** What a client proved. */
export interface Client {
  readonly certificates: readonly string[];
  readonly token: string | undefined;
}

export class AccessPolicy {
  readonly #rules: readonly AccessRule[];

  constructor(rules: readonly AccessRule[]) {
    this.#rules = rules;
  }

  /** Whether a token could let anybody do anything. */
  get knowsTokens(): boolean {
    return this.#rules.some(({ tokens }) => tokens.length > 0);
  }

  /** Whether who presents no certificate could do anything. */
  get admitsWithoutCertificate(): boolean {
    return this.#rules.some(({ anonymous, tokens }) => anonymous || tokens.length > 0);
  }

  for({ certificates, token }: Client): Access {
    const fitting = this.#rules.filter((rule) => {
      if (rule.anonymous) return true;
      if (token !== undefined && rule.tokens.includes(token)) return true;
      return rule.certificates.some((name) => certificates.includes(name));
    });
    return new Access(fitting);
  }
}

interface Grant {
  readonly read: Keys;
  readonly write: Keys;
  readonly admin: boolean;
}

export class Access {
  readonly #everywhere: Grant;
  readonly #databases = new Map<string, Grant>();
  readonly isEmpty: boolean;

  constructor(rules: readonly AccessRule[]) {
    const grantOf = (database: string): Grant => {
      const fitting = rules.filter(({ databases }) => {
        return databases.includes(EVERY_DATABASE) || databases.includes(database);
      });
      return {
        read: keysOf(fitting, 'read'),
        write: keysOf(fitting, 'write'),
        admin: fitting.some(({ allow, prefixes }) => allow.includes('admin') && prefixes.length === 0),
      };
    };
    this.#everywhere = grantOf(EVERY_DATABASE);
    for (const database of new Set(rules.flatMap(({ databases }) => databases))) {
      if (database !== EVERY_DATABASE) this.#databases.set(database, grantOf(database));
    }
    this.isEmpty = isNothing(this.#everywhere) && [...this.#databases.values()].every(isNothing);
  }

  #of(database: string): Grant {
    return this.#databases.get(database) ?? this.#everywhere;
  }

  /** Whether the name of this database may mean anything to the client. */
  knows(database: string): boolean {
    return !isNothing(this.#of(database));
  }

  /** Whether the client may know which names are of no database. */
  get knowsAll(): boolean {
    return !isNothing(this.#everywhere);
  }

  mayRead(database: string, key: Buffer): boolean {
    return holds(this.#of(database).read, key);
  }

  mayWrite(database: string, key: Buffer): boolean {
    return holds(this.#of(database).write, key);
  }

  /** Without a database: the server as a whole. */
  mayAdminister(database: string | undefined): boolean {
    return (database === undefined ? this.#everywhere : this.#of(database)).admin;
  }

  /**
   * The part of a range outside which nothing may be read: the range itself for who may read every key, else what lies
   * between the first and the last of the prefixes; `undefined` when that is nothing.
   */
  readable(database: string, range: Range): Range | 'whole' | undefined {
    const { read } = this.#of(database);
    if (read === 'all') return 'whole';
    const [first] = read;
    const last = read.at(-1);
    if (first === undefined || last === undefined) return undefined;
    const start = range.start === undefined || range.start.compare(first) < 0 ? first : range.start;
    const bound = afterPrefix(last);
    const end = bound !== undefined && (range.end === undefined || bound.compare(range.end) < 0) ? bound : range.end;
    if (end !== undefined && start.compare(end) >= 0) return undefined;
    return { ...range, start, ...(end === undefined ? {} : { end }) };
  }
}

function isNothing({ read, write, admin }: Grant): boolean {
  return isNone(read) && isNone(write) && !admin;
}

function keysOf(rules: readonly AccessRule[], permission: Permission): Keys {
  return rules
    .filter(({ allow }) => allow.includes(permission))
    .reduce<Keys>((keys, { prefixes }) => union(keys, prefixes.length === 0 ? 'all' : keysWith(prefixes)), NO_KEYS);
}
