/** The part of the schema that says who may do what: the policy of a listener for clients. */
import { z } from 'zod';
import { type AccessRule, PERMISSIONS } from '../../commands/access/policy.js';

/** Rules are looked through once per client. */
const MAX_RULES = 1000;
const MAX_NAMES = 1000;

const names = (what: string) => z.array(z.string().min(1)).max(MAX_NAMES).default([]).describe(what);

const rule = z
  .strictObject({
    certificates: names(
      "Names, one of which a client's certificate must carry (common name, DNS or URI) for this rule to fit. Needs tls.clientCa.",
    ),
    tokens: names('Names of tokens, one of which a request must bring for this rule to fit. HTTP only.'),
    anonymous: z.boolean().default(false).describe('The rule fits everybody.'),
    databases: z.array(z.string().min(1)).min(1).describe('Databases by name; `*` for all.'),
    prefixes: z
      .array(z.string().min(1))
      .default([])
      .describe('Only keys that begin with one of these texts; all keys when empty.'),
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

export const policy = z
  .array(rule)
  .max(MAX_RULES)
  .describe('What which client may do: everything that a rule which fits it allows. Without a policy, everything.');

export type PolicyRule = z.output<typeof rule>;

export function accessRules(rules: readonly PolicyRule[]): readonly AccessRule[] {
  return rules.map(({ prefixes, ...rest }) => ({ ...rest, prefixes: prefixes.map((prefix) => Buffer.from(prefix)) }));
}
