/** The part of the schema that says who may do what: policies of listeners for clients, and scopes of followers. */
import { z } from 'zod';
import { type AccessRule, PERMISSIONS } from '../../commands/access/policy.js';
import { Scope } from '../../replication/scope.js';
import type { ScopeRule, ScopeRules } from '../../replication/scope-policy.js';

/** Rules are looked through once per client. */
const MAX_RULES = 1000;
const MAX_NAMES = 1000;

const names = (what: string) => z.array(z.string().min(1)).max(MAX_NAMES).default([]).describe(what);

const databases = z.array(z.string().min(1)).min(1).describe('Databases by name; `*` for all.');
const prefixes = z
  .array(z.string().min(1))
  .default([])
  .describe('Only keys that begin with one of these texts; all keys when empty.');

const rule = z
  .strictObject({
    certificates: names(
      "Names, one of which a client's certificate must carry (common name, DNS or URI) for this rule to fit. Needs tls.clientCa.",
    ),
    tokens: names('Names of tokens, one of which a request must bring for this rule to fit. HTTP only.'),
    anonymous: z.boolean().default(false).describe('The rule fits everybody.'),
    databases,
    prefixes,
    allow: z
      .array(z.enum(PERMISSIONS))
      .min(1)
      .describe(
        '`read` records, `write` them (without seeing them), `admin`: clear and count databases, and with `*` what concerns the whole server.',
      ),
  })
  .refine(({ certificates, tokens, anonymous }) => anonymous || certificates.length + tokens.length > 0, {
    message: 'must say whom it is for: certificates, tokens, or anonymous: true',
  })
  .refine(({ allow, prefixes }) => !allow.includes('admin') || prefixes.length === 0, {
    message: 'admin is of whole databases: leave prefixes out',
  });

/** In place of a policy: no name is short enough to be taken by mistake. */
export const EVERYTHING_TO_EVERYBODY = 'insecure-allow-everything-to-everybody';

export const policy = z
  .union([z.array(rule).max(MAX_RULES), z.literal(EVERYTHING_TO_EVERYBODY)])
  .describe(
    `What which client may do: everything that a rule which fits it allows. Without a policy, everything; a listener that is not bound to loopback then needs tls.clientCa, or \`${EVERYTHING_TO_EVERYBODY}\` here.`,
  );

const scope = z
  .strictObject({
    names: names(
      'Names of followers, as their certificates say; a `*` at the end stands for any rest. Any name when empty.',
    ),
    roles: z
      .array(z.enum(['relay', 'edge']))
      .default([])
      .describe('Roles of followers; any when empty.'),
    databases,
    prefixes,
  })
  .refine((rule) => rule.names.length + rule.roles.length > 0, {
    message: 'must say whom it is for: names, or roles',
  });

/** Room for the scope of an upstream to be added when both meet. */
const MAX_SCOPES_BYTES = 16 * 1024;

export const scopes = z
  .union([
    z
      .array(scope)
      .max(MAX_RULES)
      .refine((rules) => Scope.of(partsOf(rules)).encoded.length <= MAX_SCOPES_BYTES, {
        message: `the databases and prefixes of all rules together are more than ${MAX_SCOPES_BYTES} bytes`,
      }),
    z.literal('certificates'),
    z.literal('all'),
  ])
  .default('certificates')
  .describe(
    'Which follower may see what. A list: everything that a rule which fits it names, and nothing else; whom no rule fits is refused. `certificates`: what its certificate names; who has one without a scope is refused. `all`: everything. In each case never more than its certificate names, if it names a scope.',
  );

const ktScope = z.strictObject({
  names: z
    .array(z.string().min(1))
    .min(1)
    .max(MAX_NAMES)
    .describe("Common names in the subjects of peers' certificates; a `*` at the end stands for any rest."),
  databases,
  prefixes,
});

export const ktScopes = z
  .array(ktScope)
  .max(MAX_RULES)
  .describe(
    'Which peer may see what, by the subject of its certificate (needs tls.clientCa); nobody else is served then. Without this list everybody who may connect sees everything.',
  );

type ScopeSection = z.output<typeof scope>;

function partsOf(rules: readonly ScopeSection[]): readonly ScopeRule[] {
  return rules.map((rule) => ({ ...rule, prefixes: rule.prefixes.map((prefix) => Buffer.from(prefix)) }));
}

/** The rules for followers of a configuration. */
export function scopeRules(config: {
  readonly replication: { readonly scopes: readonly ScopeSection[] | 'all' | 'certificates' };
}): ScopeRules {
  const { scopes: rules } = config.replication;
  return typeof rules === 'string' ? rules : partsOf(rules);
}

/** Likewise for followers that are Kyoto Tycoon servers: without rules, those whom the listener lets in see everything. */
export function ktScopeRules({
  listen,
}: {
  readonly listen: { readonly kyotoTycoon: false | { readonly scopes?: z.output<typeof ktScopes> | undefined } };
}): ScopeRules {
  const rules = listen.kyotoTycoon === false ? undefined : listen.kyotoTycoon.scopes;
  return rules === undefined ? 'all' : partsOf(rules.map((rule) => ({ ...rule, roles: [] })));
}

export type PolicyRule = z.output<typeof rule>;

/** The rules of a listener's policy; `undefined` where everybody may do everything. */
export function rulesOf(section: z.output<typeof policy> | undefined): readonly PolicyRule[] | undefined {
  return section === EVERYTHING_TO_EVERYBODY ? undefined : section;
}

export function accessRules(rules: readonly PolicyRule[]): readonly AccessRule[] {
  return rules.map(({ prefixes, ...rest }) => ({ ...rest, prefixes: prefixes.map((prefix) => Buffer.from(prefix)) }));
}
